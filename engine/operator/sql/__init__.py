"""SQL over rows: expressions and queries that a pipeline contains, typed before anything runs.

DuckDB binds them over empty tables at check time, and runs them over Arrow tables in workers. It is confined as for `engine
sql`: one SELECT, nothing but the given rows, no files, settings or extensions. What could give other rows in another run is
refused.
"""

from engine.operator.sql.binding import BoundQuery, bind_expressions, bind_query, lineage_gap
from engine.operator.sql.database import SqlError
from engine.operator.sql.evaluation import Evaluated, evaluate, run_query

__all__ = [
    "BoundQuery",
    "Evaluated",
    "SqlError",
    "bind_expressions",
    "bind_query",
    "evaluate",
    "lineage_gap",
    "run_query",
]
