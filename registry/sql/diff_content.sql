-- Rows (`$columns`) with different numbers of copies in old_rows and new_rows, each with its last row number in both.
-- Whole rows are grouped, not hashes of them: no collision can hide a difference.
create temp table uneven as
select max(old_row) as old_row, max(new_row) as new_row, count(new_row) - count(old_row) as surplus
from (
    select row as old_row, null::bigint as new_row, $columns from old_rows
    union all
    select null, row, $columns from new_rows
)
group by $columns
having count(new_row) <> count(old_row);

create temp view added as select new_row as row, surplus as copies from uneven where surplus > 0;
create temp view removed as select old_row as row, -surplus as copies from uneven where surplus < 0;
