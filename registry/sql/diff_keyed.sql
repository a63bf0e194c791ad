-- Rows of old_rows and new_rows, paired by equal keys (`$same_key`); rows without a counterpart stay single.
-- `$flags` says for each other column whether it changed.
create temp table pairs as
select o.row as old_row, n.row as new_row, [$flags]::boolean[] as flags
from old_rows o full join new_rows n on $same_key;

create temp view added as select new_row as row, 1 as copies from pairs where old_row is null;
create temp view removed as select old_row as row, 1 as copies from pairs where new_row is null;
create temp view changed as
select * from pairs where old_row is not null and new_row is not null and list_contains(flags, true);

-- In how many rows the column number `place` changed.
create temp view changed_columns as
select place, count(*) as rows
from (select unnest(flags) as flag, generate_subscripts(flags, 1) - 1 as place from changed)
where flag
group by place;
