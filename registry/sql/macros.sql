-- Lineage as table functions; registry/query/table_functions.py implements them. A version is written 'NAME@V'; 'NAME'
-- is the latest.

-- Versions that `target` was made from, nearest first.
create macro upstream(target) as table select unnest(_upstream(target), recursive := true);

-- Versions that were made from `target`, nearest first.
create macro downstream(target) as table select unnest(_downstream(target), recursive := true);

-- The rows that row `target_row` of `target` came from, itself first, each with the model calls that made it. A line
-- without a row number: it is unknown which rows of that version are meant.
create macro trace(target, target_row) as table select unnest(_trace(target, target_row), recursive := true);
