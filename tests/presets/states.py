"""Holds presets to their libraries on rows in random states: what each preset counts as claimable, against the library's own statements.

For each library a table with its own columns and indexes, and again and again a handful of rows in random states. The preset counts
them for long-lived workers; then the library's statements take back what dead workers hold and hand out jobs until nothing is left,
and all of that is rolled back. In every tenth table the program counts for workers that take one row and exit, too, and nothing is
taken back before. Called by scripts/presets, with the server in PGHOST and PGPORT. STATES_SEED repeats a run, STATES_TABLES is the
number of tables.
"""

import json
import os
import pathlib
import random
import re
import subprocess

import psycopg
from counting import CLAPOMETER, counted, database, end, expect

TABLES = int(os.environ.get("STATES_TABLES") or "100")
SEED = int(os.environ.get("STATES_SEED") or random.SystemRandom().randrange(1_000_000))

# Times on either side of every bound that a preset knows.
PAST = [f"now() - interval '{age}'" for age in ["0 s", "1 s", "40 s", "4 min", "6 min", "20 min", "70 min", "5 h"]]
TIMES = [*PAST[:3], "now() + interval '1 h'"]


class Library:
    """A library with its statements. The names of its queues are those of the rows."""

    preset: str
    queues = ("mail", "images")

    def install(self, connection):
        """Makes the library's tables."""
        raise NotImplementedError

    def clear(self, connection):
        """Deletes what `insert` made."""
        raise NotImplementedError

    def insert(self, connection, choose):
        """Inserts one row; a unique index may refuse it."""
        raise NotImplementedError

    def take_back(self, connection):
        """Does what a client does with the rows of dead workers."""

    def stage(self, connection):
        """Does what every client does with rows whose time has come."""

    def hand_out(self, connection, queue):
        """Hands out jobs of a queue, and returns how many; asked until it is none."""
        raise NotImplementedError

    def handed_out(self, connection, is_long_lived):
        """What each queue hands out at this moment, of which nothing stays."""
        found = {}
        for queue in self.queues:
            with connection.transaction(force_rollback=True):
                if is_long_lived:
                    self.take_back(connection)
                self.stage(connection)
                found[queue] = 0
                while jobs := self.hand_out(connection, queue):
                    found[queue] += jobs
        return found


def package(name):
    return pathlib.Path(__import__(name).__file__).parent


class Procrastinate(Library):
    preset = "procrastinate"

    def install(self, connection):
        connection.execute(package("procrastinate").joinpath("sql", "schema.sql").read_text())

    def clear(self, connection):
        connection.execute("DELETE FROM procrastinate_jobs; DELETE FROM procrastinate_workers")
        connection.execute(
            "INSERT INTO procrastinate_workers (id, last_heartbeat) OVERRIDING SYSTEM VALUE VALUES (1, now()), (2, now() - interval '40 s')"
        )

    def insert(self, connection, choose):
        status = choose(["todo", "todo", "todo", "doing", "succeeded", "failed", "cancelled", "aborting", "aborted"])
        worker = choose([1, 2, None]) if status == "doing" else None
        connection.execute(
            f"""INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, status, scheduled_at, worker_id)
                VALUES (%s, 't', %s, %s, %s, %s, {choose(["NULL", *TIMES])}, %s)""",
            [choose(self.queues), choose([0, 0, 5, -3]), choose([None, "a", "b"]), choose([None, None, "k"]), status, worker],
        )

    def hand_out(self, connection, queue):
        return connection.execute("SELECT count(id) FROM procrastinate_fetch_job_v2(ARRAY[%s]::varchar[], 1)", [queue]).fetchone()[0]


class Oban(Library):
    preset = "oban"

    def __init__(self):
        self.queries = {path.stem: path.read_text() for path in package("oban").joinpath("queries").glob("*.sql")}

    def install(self, connection):
        connection.execute(self.queries["install"])

    def clear(self, connection):
        connection.execute("DELETE FROM oban_jobs")

    def insert(self, connection, choose):
        state = choose(
            ["available", "available", "executing", "executing", "scheduled", "retryable", "suspended", "completed", "discarded", "cancelled"]
        )
        attempts = choose([1, 3])
        connection.execute(
            f"""INSERT INTO oban_jobs (state, queue, worker, attempt, max_attempts, priority, scheduled_at, attempted_at)
                VALUES (%s, %s, 'w', %s, %s, %s, timezone('UTC', {choose(TIMES)}), timezone('UTC', {choose(PAST)}))""",
            [state, choose(self.queues), choose(range(attempts + 1)), attempts, choose([0, 9])],
        )

    def take_back(self, connection):
        connection.execute(self.queries["rescue_jobs"], {"rescue_after": 3600})

    def stage(self, connection):
        connection.execute(self.queries["stage_jobs"], {"queues": list(self.queues), "before": None, "limit": 1000})

    def hand_out(self, connection, queue):
        parameters = {"queue": queue, "demand": 1000, "attempted_by": ["w"]}
        return connection.execute(self.queries["fetch_jobs"], parameters).rowcount


class Pgmq(Library):
    preset = "pgmq"
    queues = ("jobs",)

    def install(self, connection):
        connection.execute("CREATE SCHEMA IF NOT EXISTS pgmq")
        connection.execute(package("pgmq").joinpath("sql", "pgmq.sql").read_text())
        connection.execute("SELECT pgmq.create('jobs')")

    def clear(self, connection):
        connection.execute("DELETE FROM pgmq.q_jobs")

    def insert(self, connection, choose):
        connection.execute(
            f"INSERT INTO pgmq.q_jobs (vt, read_ct, message) VALUES ({choose(TIMES)}, %s, '{{}}')", [choose([0, 0, 1, 7])]
        )

    def hand_out(self, connection, queue):
        return connection.execute("SELECT * FROM pgmq.read(%s, 60, 1000)", [queue]).rowcount


class Apalis(Library):
    preset = "apalis"

    def install(self, connection):
        for path in sorted(pathlib.Path(os.environ["PRESETS_APALIS"]).glob("*.sql")):
            connection.execute(path.read_text())

    def clear(self, connection):
        connection.execute("DELETE FROM apalis.jobs; DELETE FROM apalis.workers")
        for queue in self.queues:
            for number, age in enumerate(["0 s", "4 min", "6 min"]):
                connection.execute(
                    f"""INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at)
                        VALUES (%s, %s, 's', '', now() - interval '{age}', now())""",
                    [f"{queue}-{number}", queue],
                )

    def insert(self, connection, choose):
        queue = choose(self.queues)
        status = choose(["Pending", "Pending", "Queued", "Running", "Done", "Failed", "Failed", "Killed"])
        is_locked = status in ("Queued", "Running")
        worker = choose([f"{queue}-0", f"{queue}-1", f"{queue}-2", None]) if is_locked else None
        attempts = choose([1, 3])
        # A job is due strictly after its time.
        run_at = choose(PAST[1:3] if is_locked else TIMES[1:])
        connection.execute(
            f"""INSERT INTO apalis.jobs (job, id, job_type, status, attempts, max_attempts, run_at, lock_by, priority)
                VALUES ('x', gen_random_uuid()::text, %s, %s, %s, %s, {run_at}, %s, %s)""",
            [queue, status, choose(range(attempts + 2)), attempts, worker, choose([0, 9])],
        )

    def take_back(self, connection):
        path = pathlib.Path(os.environ["PRESETS_APALIS"]).parent / "queries" / "backend" / "reenqueue_orphaned.sql"
        statement = path.read_text().replace("$1", "interval '300 s'").replace("$2", "%s")
        for queue in self.queues:
            connection.execute(statement, [queue])

    def hand_out(self, connection, queue):
        return connection.execute("SELECT * FROM apalis.get_jobs(%s, %s, 1000)", [f"{queue}-0", queue]).rowcount


class River(Library):
    preset = "river"

    def install(self, connection):
        migrations = pathlib.Path(os.environ["PRESETS_RIVER"])
        for path in sorted(migrations.glob("*.up.sql")):
            connection.execute(path.read_text().replace("/* TEMPLATE: schema */", ""))
        queries = migrations.parents[1].joinpath("internal", "dbsqlc", "river_job.sql").read_text()
        self.available = self.statement(queries, "JobGetAvailable")
        self.schedule = self.statement(queries, "JobSchedule")

    @staticmethod
    def statement(queries, name):
        """One of River's statements, with values in place of sqlc's parameters."""
        text = queries.split(f"-- name: {name} :", 1)[1].split("\n", 1)[1].split("\n-- name:", 1)[0]
        text = text.replace("/* TEMPLATE: schema */", "")
        text = re.sub(r"sqlc\.narg\('\w+'\)", "NULL", text).replace("sqlc.embed(river_job)", "river_job.*")
        values = {"@queue": "%(queue)s", "@attempted_by": "'w'", "@max_attempted_by": "10", "@max_to_lock": "1000", "@max": "1000"}
        return re.sub(r"@\w+", lambda match: values[match[0]], text)

    def clear(self, connection):
        connection.execute("DELETE FROM river_job; DELETE FROM river_queue")

    def insert(self, connection, choose):
        connection.execute(
            f"""INSERT INTO river_queue (name, paused_at, updated_at) VALUES (%s, {choose(["NULL", "NULL", "now()"])}, now())
                ON CONFLICT DO NOTHING""",
            [choose(self.queues)],
        )
        state = choose(["available", "available", "scheduled", "retryable", "pending", "running", "running", "completed", "cancelled", "discarded"])
        attempts = choose([1, 3])
        finalized = "now()" if state in ("completed", "cancelled", "discarded") else "NULL"
        attempted = choose(PAST) if state == "running" else "NULL"
        scheduled = "now()" if state == "running" else choose(TIMES)
        connection.execute(
            f"""INSERT INTO river_job (state, queue, kind, args, attempt, max_attempts, priority, scheduled_at, attempted_at, finalized_at)
                VALUES (%s, %s, 'mail', '{{}}', %s, %s, %s, {scheduled}, {attempted}, {finalized})""",
            [state, choose(self.queues), choose(range(attempts + 1)), attempts, choose([1, 4])],
        )

    def take_back(self, connection):
        # River's rescuer decides in Go, by the attempts; the retry that its policy sets is some time away.
        connection.execute(
            """UPDATE river_job SET state = 'retryable', scheduled_at = now()
               WHERE state = 'running' AND attempted_at < now() - interval '1 h' AND attempt < max_attempts"""
        )

    def stage(self, connection):
        connection.execute(self.schedule)

    def hand_out(self, connection, queue):
        # A client does not ask for a queue that is paused.
        if connection.execute("SELECT FROM river_queue WHERE name = %s AND paused_at IS NOT NULL", [queue]).rowcount:
            return 0
        return connection.execute(self.available, {"queue": queue}).rowcount


class NodeLibrary(Library):
    """A library whose statements states.mjs prints, and whose tables the worker of the run of kills makes."""

    def install(self, connection):
        node, directory = os.environ["PRESETS_NODE"], os.environ["PRESETS_NODE_DIRECTORY"]
        here = pathlib.Path(__file__).parent
        environment = {**os.environ, "PGDATABASE": connection.info.dbname}
        worker = [node, here / "kills" / "worker.mjs", self.preset, "install"]
        subprocess.run(worker, cwd=directory, env=environment, check=True)
        printed = subprocess.run([node, here / "states.mjs"], cwd=directory, capture_output=True, text=True, check=True)
        self.statements = json.loads(printed.stdout)


class PgBoss(NodeLibrary):
    preset = "pg-boss"

    def install(self, connection):
        super().install(connection)
        self.queues = self.statements["policies"]
        for policy in self.queues:
            connection.execute("SELECT pgboss.create_queue(%s, %s)", [policy, json.dumps({"policy": policy})])

    def clear(self, connection):
        connection.execute("DELETE FROM pgboss.job")

    def insert(self, connection, choose):
        policy = choose([*self.queues, "singleton", "stately", "key_strict_fifo"])
        state = choose(["created", "created", "retry", "active", "active", "completed", "cancelled", "failed"])
        key = choose(["a", "b"] if policy == "key_strict_fifo" else [None, "", "a", "b"])
        retries = choose([0, 2])
        is_open = state in ("created", "retry")
        started = choose(PAST) if state == "active" else "NULL"
        heartbeat = choose(["NULL, NULL", f"30, {choose(PAST)}"]) if state == "active" else "NULL, NULL"
        connection.execute(
            f"""INSERT INTO pgboss.job (name, policy, state, singleton_key, retry_limit, retry_count, priority, blocked,
                                        start_after, created_on, started_on, heartbeat_seconds, heartbeat_on)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s, {choose(TIMES)}, {choose(PAST)}, {started}, {heartbeat})""",
            [policy, policy, state, key, retries, choose(range(retries + 1)), choose([0, 9]), is_open and choose([False] * 9 + [True])],
        )

    def take_back(self, connection):
        for statement in self.statements["fail"]:
            # Without the transaction of its own.
            connection.execute(re.sub(r"\b(BEGIN|COMMIT);", "", statement))

    def hand_out(self, connection, queue):
        return connection.execute(self.statements["fetch"][queue]).rowcount


class GraphileWorker(NodeLibrary):
    preset = "graphile-worker"
    # All tasks and named queues together.
    queues = ("all",)

    def clear(self, connection):
        connection.execute(
            """DELETE FROM graphile_worker._private_jobs; DELETE FROM graphile_worker._private_job_queues;
               DELETE FROM graphile_worker._private_tasks"""
        )
        connection.execute(
            "INSERT INTO graphile_worker._private_tasks (id, identifier) OVERRIDING SYSTEM VALUE VALUES (1, 'mail'), (2, 'images')"
        )

    def insert(self, connection, choose):
        name = choose([None, None, "a", "b"])
        if name is not None:
            connection.execute(
                f"""INSERT INTO graphile_worker._private_job_queues (queue_name, locked_at) VALUES (%s, {choose(["NULL", "NULL", *PAST])})
                    ON CONFLICT DO NOTHING""",
                [name],
            )
        attempts = choose([1, 25])
        connection.execute(
            f"""INSERT INTO graphile_worker._private_jobs (task_id, job_queue_id, run_at, attempts, max_attempts, locked_at, priority)
                VALUES (%s, (SELECT id FROM graphile_worker._private_job_queues WHERE queue_name = %s), {choose(TIMES)},
                        %s, %s, {choose(["NULL"] * 6 + PAST)}, %s)""",
            [choose([1, 2]), name, choose(range(attempts + 1)), attempts, choose([0, 5])],
        )

    def take_back(self, connection):
        connection.execute(self.statements["resetLockedAt"])

    def hand_out(self, connection, queue):
        statement = self.statements["getJob"].replace("$1", "'w'").replace("$2", "ARRAY[1, 2]")
        return connection.execute(statement).rowcount


def claimable(connection, statement, library):
    """What the preset's statement counts for each queue."""
    rows = connection.execute(statement)
    columns = [column.name for column in rows.description]
    found = dict.fromkeys(library.queues, 0)
    for row in rows:
        row = dict(zip(columns, row))
        found[row.get("queue", library.queues[0])] = row["claimable"]
    return found


def one_row(connection, library):
    """What the program counts for each queue, for workers that take one row and exit."""
    keys = {"preset": library.preset, "workers": "one-row"}
    if library.preset == "graphile-worker":
        return {"all": counted(connection, keys)["claimable"]}
    return {queue: counted(connection, {**keys, "queue": queue})["claimable"] for queue in library.queues}


def run(library):
    connection = database("states_" + library.preset.replace("-", "_"))
    library.install(connection)
    page = subprocess.run([CLAPOMETER, "presets", library.preset], capture_output=True, text=True, check=True).stdout
    statement = page.split("SQL, with the defaults\n", 1)[1]
    choose = random.Random(f"{SEED} {library.preset}").choice
    differences = []
    for table in range(TABLES):
        library.clear(connection)
        for _ in range(choose(range(1, 10))):
            try:
                library.insert(connection, choose)
            except psycopg.errors.UniqueViolation:
                pass
        asked = [(claimable(connection, statement, library), library.handed_out(connection, is_long_lived=True))]
        if table % 10 == 0:
            asked.append((one_row(connection, library), library.handed_out(connection, is_long_lived=False)))
        differences += [f"table {table}: {counts}, handed out {given}" for counts, given in asked if counts != given]
    expect(f"{library.preset}, {TABLES} tables in random states, differences", differences[:5], [])
    connection.close()


print(f"STATES_SEED={SEED}")
for each in [River(), Oban(), PgBoss(), GraphileWorker(), Procrastinate(), Pgmq(), Apalis()]:
    run(each)
end()
