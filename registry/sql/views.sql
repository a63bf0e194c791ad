-- The public views (documented in docs/reference/sql.md; stable). `internal` contains a snapshot of the catalog; the tables
-- lineage_edges, call_edges, reject_edges and exposure_edges are Arrow datasets over the versions' side objects;
-- review_decisions is a table of what reviewers decided.
create view datasets as
select name, kind, type, latest_version, rows, updated_at
from (
    select v.name, v.kind, v.type, r.version as latest_version, v.rows, coalesce(r.updated_at, v.created_at) as updated_at,
        row_number() over (partition by v.name order by r.version is null, v.version desc) as place
    from internal.versions v left join internal.refs r on r.name = v.name and r.version = v.version
)
where place = 1
order by name;

create view versions as
select name, version, version_id, content_id, type, rows, bytes, run_id, step, created_at, from_json(files, '["varchar"]') as files,
    variant
from internal.versions order by name, version;

create view runs as
select run_id, pipeline, state, started_at, ended_at, error, params::json as params, file from internal.runs order by started_at, run_id;

create view step_runs as
select run_id, step, op, outcome, rows_in, rows_out, rejected, calls, calls_reused, tokens_in, tokens_out, cost_usd, seconds,
    started_at, ended_at, waited_for, variant, filtered, unused, from_json(why, '["varchar"]') as why,
    from_json(notes, '["varchar"]') as notes
from internal.step_runs order by run_id, position;

create view model_usage as
select s.run_id, s.step, s.variant, u.key as model, (u.value->>'calls')::bigint as calls,
    (u.value->>'calls_reused')::bigint as calls_reused, (u.value->>'tokens_in')::bigint as tokens_in,
    (u.value->>'tokens_out')::bigint as tokens_out, (u.value->>'cost_usd')::double as cost_usd
from internal.step_runs s, json_each(s.by_model::json) u
order by s.run_id, s.position, model;

create view lineage as
select i.child, i.child_version, i.parent, i.parent_version, v.step, v.run_id, bool_or(i.opaque) as opaque
from internal.inputs i join internal.versions v on v.name = i.child and v.version = i.child_version
group by all order by all;

create view metrics as
select name, version, metric, value, slice, variant from internal.metrics;

create view row_lineage as
select e.child, e.child_version, e.child_row, i.parent, i.parent_version, e.parent_row
from lineage_edges e join internal.inputs i
    on i.child = e.child and i.child_version = e.child_version and i.position = e.input and i.role = 'data';

create view llm_calls as
select call_id, name, version, local_row + base as row, role, model, prompt, response, tokens_in, tokens_out, latency_ms, cost_usd,
    reasoning, finish_reason, tokens_cached, tokens_reasoning, tool_calls, served_by
from call_edges;

create view rejects as
select name, version, parent_row, reason from reject_edges;

create view training_exposure as
select e.name as model, e.version as model_version, i.parent as dataset, i.parent_version as dataset_version,
    e.parent_row as row, e.times_seen
from exposure_edges e join internal.inputs i
    on i.child = e.name and i.child_version = e.version and i.position = e.input and i.role = 'data';

create view reviews as
select queue, row_id, reviewer, decided_at, verdict, fields::json as fields, labels, reason, counts, name, version, row
from review_decisions;
