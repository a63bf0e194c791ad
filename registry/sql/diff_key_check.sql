-- Whether `$columns` can be a key of `$rows`: how many rows have a null in it, and the first of them; how many keys occur
-- in more than one row, and the first and last row of the first such key.
select *
from (select count(*), min(row) from $rows where $any_null),
    (
        select count(*), min(first), arg_min(last, first)
        from (select min(row) as first, max(row) as last from $rows group by $columns having count(*) > 1)
    );
