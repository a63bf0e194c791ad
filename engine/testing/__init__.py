"""For tests of operators: an operator called on records, with models that answer from a script.

    from engine.testing import ScriptedModel, run_operator

    def test_a_judge_rates_a_problem():
        judge = ScriptedModel(lambda prompt: {"rating": 4, "why": "clear"})
        done = run_operator(rate, [MathProblem(question="What is 3 + 4?", answer="7")], models={"judge": judge})
        assert [row.rating for row in done.rows] == [4]
        assert "3 + 4" in judge.prompts[0]

The operator runs as in a pipeline: its declaration, its parameters and what it yields are checked, rejects are collected,
answers are journalled, `finish` is called. Only Ray and the pipeline file are missing, and nothing is left on the disk.
"""

from engine.testing.operators import OperatorResult, Rejected, run_operator
from engine.testing.scripted import Answer, ScriptedEncoder, ScriptedModel
from engine.worker.row_results import OperatorError

__all__ = ["Answer", "OperatorError", "OperatorResult", "Rejected", "ScriptedEncoder", "ScriptedModel", "run_operator"]
