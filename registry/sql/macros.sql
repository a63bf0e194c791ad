-- Lineage as table functions. A version is written 'NAME@V'; 'NAME' alone is the latest.
create macro version_of(target) as
    coalesce(
        case
            when target not like '%@%' then (select latest_version from datasets d where d.name = target)
            else (
                select v.version from versions v
                where v.name = split_part(target, '@', 1) and v.version = try_cast(split_part(target, '@', 2) as integer)
            )
        end,
        error('the registry has no version ' || target || '; write it as NAME@3, or NAME for the latest')
    );

-- Versions that `target` was made from, nearest first.
create macro upstream(target) as table (
    with recursive walk(depth, name, version) as (
        select 0, split_part(target, '@', 1), version_of(target)
        union
        select depth + 1, parent, parent_version
        from walk join lineage on child = walk.name and child_version = walk.version
    )
    select min(depth) as depth, w.name, w.version, v.type, v.rows, v.step, v.run_id
    from walk w join versions v on v.name = w.name and v.version = w.version
    where depth > 0
    group by all order by depth, w.name, w.version
);

-- Versions that were made from `target`, nearest first.
create macro downstream(target) as table (
    with recursive walk(depth, name, version) as (
        select 0, split_part(target, '@', 1), version_of(target)
        union
        select depth + 1, child, child_version
        from walk join lineage on parent = walk.name and parent_version = walk.version
    )
    select min(depth) as depth, w.name, w.version, v.type, v.rows, v.step, v.run_id
    from walk w join versions v on v.name = w.name and v.version = w.version
    where depth > 0
    group by all order by depth, w.name, w.version
);

-- The rows that row `target_row` of `target` came from, itself first, each with the model calls that made it.
create macro trace(target, target_row) as table (
    with recursive walk(depth, name, version, row) as (
        select 0, split_part(target, '@', 1), version_of(target), cast(target_row as bigint)
        union
        select depth + 1, parent, parent_version, parent_row
        from walk join row_lineage e on e.child = walk.name and e.child_version = walk.version and e.child_row = walk.row
    ),
    calls as (
        select name, version, row, list(distinct call_id order by call_id) as call_ids
        from llm_calls group by all
    )
    select min(w.depth) as depth, w.name, w.version, w.row, v.step, coalesce(c.call_ids, []) as call_ids
    from walk w
    join versions v on v.name = w.name and v.version = w.version and w.row < v.rows
    left join calls c on c.name = w.name and c.version = w.version and c.row = w.row
    group by all order by depth, w.name, w.version, w.row
);
