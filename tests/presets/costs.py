"""Measures what each preset's statement costs on a million finished rows and ten thousand that wait, with the library's own indexes.

The tables are made by the libraries themselves where a package has them, else with their documented columns and indexes. For
each it prints a row of a table: buffers and time of the statement, and the tables that the plan reads from end to end. With an
index that `clapometer presets NAME` prints, it measures once more, and fails if a large table is still read from end to end.
Called by scripts/presets, with the server in PGHOST and PGPORT.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import psycopg

CLAPOMETER = os.environ["CLAPOMETER"]
FINISHED = int(os.environ.get("PRESETS_FINISHED", "1000000"))
WAITING = 10_000
# A table of fewer pages is read from end to end by any plan.
SMALL = 1_000


def package(name):
    """The directory of an installed Python package."""
    module = __import__(name)
    return pathlib.Path(module.__file__).parent


def migrations(variable, pattern):
    """The texts of the migrations in a directory that the environment names."""
    directory = pathlib.Path(os.environ[variable])
    return [path.read_text() for path in sorted(directory.glob(pattern))]


def river(run):
    for text in migrations("PRESETS_RIVER", "*.up.sql"):
        run(text.replace("/* TEMPLATE: schema */", ""))
    run("""INSERT INTO river_job (state, queue, args, attempt, max_attempts, kind, priority, finalized_at)
           SELECT 'completed', 'mail', '{}', 1, 25, 'mail', 1, now() FROM generate_series(1, %s)""" % FINISHED)
    run("""INSERT INTO river_job (state, queue, args, attempt, max_attempts, kind, priority)
           SELECT 'available', 'mail', '{}', 0, 25, 'mail', 1 FROM generate_series(1, %s)""" % WAITING)


def oban(run):
    run(package("oban").joinpath("queries", "install.sql").read_text())
    run("""INSERT INTO oban_jobs (state, queue, worker, attempt, completed_at)
           SELECT 'completed', 'mail', 'w', 1, timezone('UTC', now()) FROM generate_series(1, %s)""" % FINISHED)
    run("INSERT INTO oban_jobs (queue, worker) SELECT 'mail', 'w' FROM generate_series(1, %s)" % WAITING)


def pg_boss(run):
    subprocess.run([os.environ["PRESETS_NODE"], "-e", """
        const { PgBoss } = require("pg-boss");
        (async () => {
            const boss = new PgBoss({ connectionString: process.argv[1], supervise: false, schedule: false });
            boss.on("error", () => {});
            await boss.start();
            await boss.createQueue("mail");
            await boss.stop({ graceful: false });
        })();""", os.environ["PRESETS_URL"]], check=True, cwd=os.environ["PRESETS_NODE_DIRECTORY"])
    run("""INSERT INTO pgboss.job (name, state, started_on, completed_on)
           SELECT 'mail', 'completed', now(), now() FROM generate_series(1, %s)""" % FINISHED)
    run("INSERT INTO pgboss.job (name) SELECT 'mail' FROM generate_series(1, %s)" % WAITING)


def graphile_worker(run):
    subprocess.run([os.environ["PRESETS_NODE"], "-e", """
        const { makeWorkerUtils } = require("graphile-worker");
        (async () => {
            const utils = await makeWorkerUtils({ connectionString: process.argv[1] });
            await utils.migrate();
            await utils.release();
        })();""", os.environ["PRESETS_URL"]], check=True, cwd=os.environ["PRESETS_NODE_DIRECTORY"], stdout=subprocess.DEVNULL)
    # A job that is done is deleted; those whose attempts are used up stay.
    run("INSERT INTO graphile_worker._private_tasks (identifier) VALUES ('mail')")
    run("""INSERT INTO graphile_worker._private_jobs (task_id, attempts, max_attempts)
           SELECT t.id, 25, 25 FROM graphile_worker._private_tasks AS t, generate_series(1, %s)""" % FINISHED)
    run("""INSERT INTO graphile_worker._private_jobs (task_id)
           SELECT t.id FROM graphile_worker._private_tasks AS t, generate_series(1, %s)""" % WAITING)


def good_job(run):
    run("""CREATE TABLE good_jobs (
               id uuid PRIMARY KEY DEFAULT gen_random_uuid(), queue_name text, priority integer, serialized_params jsonb,
               scheduled_at timestamp, performed_at timestamp, finished_at timestamp, error text,
               created_at timestamp NOT NULL DEFAULT now(), updated_at timestamp NOT NULL DEFAULT now(),
               active_job_id uuid, concurrency_key text, job_class text, labels text[], locked_by_id uuid, locked_at timestamp);
           CREATE INDEX ON good_jobs (queue_name, scheduled_at) WHERE finished_at IS NULL;
           CREATE INDEX ON good_jobs (scheduled_at) WHERE finished_at IS NULL;
           CREATE INDEX ON good_jobs (priority DESC NULLS LAST, created_at) WHERE finished_at IS NULL;
           CREATE INDEX ON good_jobs (priority, created_at) WHERE finished_at IS NULL;
           CREATE INDEX ON good_jobs (finished_at) WHERE finished_at IS NOT NULL;
           CREATE INDEX ON good_jobs (active_job_id, created_at);
           CREATE INDEX ON good_jobs (locked_by_id) WHERE locked_by_id IS NOT NULL;
           CREATE TABLE good_job_processes (id uuid PRIMARY KEY, updated_at timestamp NOT NULL, state jsonb);
           CREATE TABLE good_job_settings (id uuid PRIMARY KEY, key text UNIQUE, value jsonb)""")
    run("""INSERT INTO good_jobs (queue_name, finished_at) SELECT 'mail', now() FROM generate_series(1, %s)""" % FINISHED)
    run("INSERT INTO good_jobs (queue_name) SELECT 'mail' FROM generate_series(1, %s)" % WAITING)


def solid_queue(run):
    run("""CREATE TABLE solid_queue_jobs (
               id bigserial PRIMARY KEY, queue_name varchar NOT NULL, class_name varchar NOT NULL DEFAULT 'Mail', arguments text,
               priority integer NOT NULL DEFAULT 0, active_job_id varchar, scheduled_at timestamp, finished_at timestamp);
           CREATE INDEX ON solid_queue_jobs (finished_at);
           CREATE INDEX ON solid_queue_jobs (queue_name, finished_at);
           CREATE TABLE solid_queue_ready_executions (
               id bigserial PRIMARY KEY, job_id bigint NOT NULL UNIQUE, queue_name varchar NOT NULL, priority integer NOT NULL DEFAULT 0);
           CREATE INDEX ON solid_queue_ready_executions (priority, job_id);
           CREATE INDEX ON solid_queue_ready_executions (queue_name, priority, job_id);
           CREATE TABLE solid_queue_scheduled_executions (
               id bigserial PRIMARY KEY, job_id bigint NOT NULL UNIQUE, queue_name varchar NOT NULL,
               priority integer NOT NULL DEFAULT 0, scheduled_at timestamp NOT NULL);
           CREATE INDEX ON solid_queue_scheduled_executions (scheduled_at, priority, job_id);
           CREATE TABLE solid_queue_blocked_executions (
               id bigserial PRIMARY KEY, job_id bigint NOT NULL UNIQUE, queue_name varchar NOT NULL,
               priority integer NOT NULL DEFAULT 0, concurrency_key varchar NOT NULL, expires_at timestamp NOT NULL);
           CREATE INDEX ON solid_queue_blocked_executions (concurrency_key, priority, job_id);
           CREATE INDEX ON solid_queue_blocked_executions (expires_at, concurrency_key);
           CREATE TABLE solid_queue_claimed_executions (
               id bigserial PRIMARY KEY, job_id bigint NOT NULL UNIQUE, process_id bigint);
           CREATE TABLE solid_queue_semaphores (
               id bigserial PRIMARY KEY, key varchar NOT NULL UNIQUE, value integer NOT NULL DEFAULT 1, expires_at timestamp NOT NULL);
           CREATE TABLE solid_queue_processes (id bigserial PRIMARY KEY, last_heartbeat_at timestamp NOT NULL);
           CREATE TABLE solid_queue_pauses (id bigserial PRIMARY KEY, queue_name varchar NOT NULL UNIQUE)""")
    run("INSERT INTO solid_queue_jobs (queue_name, finished_at) SELECT 'mail', now() FROM generate_series(1, %s)" % FINISHED)
    run("""WITH job AS (INSERT INTO solid_queue_jobs (queue_name) SELECT 'mail' FROM generate_series(1, %s) RETURNING id)
           INSERT INTO solid_queue_ready_executions (job_id, queue_name) SELECT id, 'mail' FROM job""" % WAITING)


def que(run):
    run("""CREATE TABLE que_jobs (
               id bigserial PRIMARY KEY, priority smallint NOT NULL DEFAULT 100, run_at timestamptz NOT NULL DEFAULT now(),
               job_class text NOT NULL DEFAULT 'Mail', error_count integer NOT NULL DEFAULT 0, last_error_message text,
               queue text NOT NULL DEFAULT 'default', last_error_backtrace text, finished_at timestamptz, expired_at timestamptz,
               args jsonb NOT NULL DEFAULT '[]', data jsonb NOT NULL DEFAULT '{}', job_schema_version integer NOT NULL DEFAULT 2,
               kwargs jsonb NOT NULL DEFAULT '{}');
           CREATE INDEX ON que_jobs (job_schema_version, queue, priority, run_at, id)
               WHERE finished_at IS NULL AND expired_at IS NULL;
           CREATE INDEX ON que_jobs USING gin (args jsonb_path_ops);
           CREATE INDEX ON que_jobs USING gin (data jsonb_path_ops)""")
    run("INSERT INTO que_jobs (queue, finished_at) SELECT 'mail', now() FROM generate_series(1, %s)" % FINISHED)
    run("INSERT INTO que_jobs (queue) SELECT 'mail' FROM generate_series(1, %s)" % WAITING)


def procrastinate(run):
    run(package("procrastinate").joinpath("sql", "schema.sql").read_text())
    run("ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER")
    run("""INSERT INTO procrastinate_jobs (queue_name, task_name, status)
           SELECT 'mail', 'mail', 'succeeded' FROM generate_series(1, %s)""" % FINISHED)
    run("""INSERT INTO procrastinate_jobs (queue_name, task_name, lock)
           SELECT 'mail', 'mail', CASE WHEN i %% 2 = 0 THEN (i %% 1000)::text END FROM generate_series(1, %s) AS i""" % WAITING)


def pgmq(run):
    run("CREATE SCHEMA pgmq")
    run(package("pgmq").joinpath("sql", "pgmq.sql").read_text())
    run("SELECT pgmq.create('jobs')")
    # A message that is done is deleted, or is in another table.
    run("SELECT pgmq.send('jobs', '{}') FROM generate_series(1, %s)" % WAITING)
    run("INSERT INTO pgmq.a_jobs (msg_id, enqueued_at, vt) SELECT i, now(), now() FROM generate_series(1, %s) AS i" % FINISHED)


def apalis(run):
    for text in migrations("PRESETS_APALIS", "*.sql"):
        run(text)
    run("ALTER TABLE apalis.jobs DISABLE TRIGGER USER")
    run("""INSERT INTO apalis.jobs (job, id, job_type, status, attempts, done_at)
           SELECT '{}', 'f' || i, 'mail', 'Done', 1, now() FROM generate_series(1, %s) AS i""" % FINISHED)
    run("""INSERT INTO apalis.jobs (job, id, job_type, status, run_at)
           SELECT '{}', 'w' || i, 'mail', 'Pending', now() FROM generate_series(1, %s) AS i""" % WAITING)


LIBRARIES = {
    "river": river,
    "oban": oban,
    "pg-boss": pg_boss,
    "graphile-worker": graphile_worker,
    "good_job": good_job,
    "solid_queue": solid_queue,
    "que": que,
    "procrastinate": procrastinate,
    "pgmq": pgmq,
    "apalis": apalis,
}


def shown(preset):
    """The statement that `clapometer presets NAME` prints, and the index where it prints one."""
    page = subprocess.run([CLAPOMETER, "presets", preset], capture_output=True, text=True, check=True).stdout
    statement = page.split("SQL, with the defaults\n", 1)[1]
    index = re.search(r"CREATE INDEX [^;]*;", page)
    return statement, index and " ".join(index.group().split())


def nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def measured(connection, statement):
    """Buffers and milliseconds of the statement, the best of five, and the large tables that it reads from end to end."""
    best = None
    for _ in range(5):
        (plans,) = connection.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement).fetchone()
        best = min(best or plans[0], plans[0], key=lambda plan: plan["Execution Time"])
    plan = best["Plan"]
    buffers = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    scanned = [node for node in nodes(plan) if node["Node Type"].endswith("Seq Scan")]
    large = set()
    for node in scanned:
        # A join that finds nothing on its other side stops after the first pages.
        read = node["Shared Hit Blocks"] + node["Shared Read Blocks"]
        sizes = connection.execute("SELECT relpages FROM pg_class WHERE relname = %s", [node["Relation Name"]])
        (pages,) = sizes.fetchone()
        if pages > SMALL and read * 2 > pages:
            large.add(node["Relation Name"])
    large = sorted(large)
    return f"{buffers} | {best['Execution Time'] + best['Planning Time']:.1f} ms | {', '.join(large) or 'none'}", large


def main(names):
    print("| preset | index | buffers | time | read from end to end |\n| --- | --- | --- | --- | --- |", flush=True)
    useless = []
    for name in names:
        dbname = "costs_" + name.replace("-", "_")
        with psycopg.connect(dbname="postgres", autocommit=True) as administrator:
            administrator.execute(f"DROP DATABASE IF EXISTS {dbname} WITH (FORCE)")
            administrator.execute(f"CREATE DATABASE {dbname}")
        server = f"{os.environ['PGUSER']}@{os.environ['PGHOST']}:{os.environ['PGPORT']}"
        os.environ["PRESETS_URL"] = f"postgres://{server}/{dbname}"
        with psycopg.connect(dbname=dbname, autocommit=True) as connection:
            LIBRARIES[name](lambda text: connection.execute(text.replace("%%", "%")))
            connection.execute("VACUUM ANALYZE")
            statement, index = shown(name)
            figures, _ = measured(connection, statement)
            print(f"| {name} | its own | {figures} |", flush=True)
            if index:
                connection.execute(index)
                connection.execute("VACUUM ANALYZE")
                figures, large = measured(connection, statement)
                print(f"| {name} | with the printed one | {figures} |", flush=True)
                useless += [name] if large else []
        with psycopg.connect(dbname="postgres", autocommit=True) as administrator:
            administrator.execute(f"DROP DATABASE {dbname} WITH (FORCE)")
    if useless:
        sys.exit(f"the printed index does not serve: {', '.join(useless)}")


main(sys.argv[1:] or LIBRARIES)
