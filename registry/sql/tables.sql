-- The catalog's tables. All of them can be made again from manifests/, runs/, pins/ and numbers/. A file that was made
-- with another text of this is made again.
create table if not exists versions (
    version_id varchar, name varchar, version integer, kind varchar, type varchar, fields varchar, content_id varchar,
    rows bigint, bytes bigint, run_id varchar, pipeline varchar, step varchar, op varchar, output varchar,
    step_key varchar, created_at timestamp, files varchar, variant varchar
);
create table if not exists inputs (
    child varchar, child_version integer, position integer, role varchar, parent varchar, parent_version integer,
    opaque boolean
);
create table if not exists side_objects (
    name varchar, version integer, kind varchar, sha256 varchar, base bigint, rows bigint
);
create table if not exists metrics (
    name varchar, version integer, metric varchar, value double, slice varchar, variant varchar
);
create table if not exists refs (name varchar, version integer, run_id varchar, updated_at timestamp);
create table if not exists runs (
    run_id varchar, pipeline varchar, state varchar, started_at timestamp, ended_at timestamp, error varchar,
    params varchar, file varchar
);
create table if not exists step_runs (
    run_id varchar, step varchar, op varchar, outcome varchar, rows_in bigint, rows_out bigint, filtered bigint,
    rejected bigint, calls bigint, calls_reused bigint, tokens_in bigint, tokens_out bigint, cost_usd double,
    seconds double, position bigint, unused bigint, started_at timestamp, ended_at timestamp, waited_for varchar,
    variant varchar, why varchar, notes varchar, by_model varchar
);
-- Versions that are to be kept, and the highest number of each name among versions that are gone.
create table if not exists pins (name varchar, version integer, pinned_at timestamp);
create table if not exists numbers (name varchar, version integer);
create table if not exists layout (digest varchar);
