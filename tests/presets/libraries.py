"""Holds the presets of procrastinate, Oban and pgmq to the libraries themselves, as PyPI has them.

For each library a database with the library's own tables, rows that the library itself made, and two questions: what the
library's own fetch hands out, and what `clapometer check` counts as claimable. They must be equal, before and after a
worker is killed. Called by scripts/presets, with the server in PGHOST and PGPORT.
"""

import asyncio
import pathlib
import signal
import subprocess
import sys
import tempfile

from counting import counted, database, end, expect, until

PROCRASTINATE_APP = """
import asyncio, os, procrastinate
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo="dbname=preset_procrastinate"))

@app.task(name="sleep", queue="mail", pass_context=False)
async def sleep():
    await asyncio.sleep(600)

@app.task(name="nothing", queue="mail")
async def nothing():
    pass
"""


def procrastinate():
    """Locks, schedules, and a worker that is killed."""
    import procrastinate as library

    connection = database("preset_procrastinate")
    connection.execute(pathlib.Path(library.__file__).with_name("sql").joinpath("schema.sql").read_text())
    mail = {"preset": "procrastinate", "queue": "mail", "heartbeat_timeout": "3s"}
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "application.py").write_text(PROCRASTINATE_APP)
        sys.path.insert(0, directory)
        import application

        async def defer():
            async with application.app.open_async():
                for lock in [None, None, "a", "a", "a", "b"]:
                    await application.nothing.configure(lock=lock).defer_async()
                await application.nothing.configure(schedule_in={"hours": 1}).defer_async()
                await application.nothing.configure(queue="other").defer_async()

        asyncio.run(defer())
        expect("procrastinate, 6 jobs, 2 locks, 1 for later", counted(connection, mail)["claimable"], 4)
        worker_id = connection.execute("INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id").fetchone()[0]
        fetched = 0
        while connection.execute(
            "SELECT (procrastinate_fetch_job_v2(ARRAY['mail']::varchar[], %s)).id", [worker_id]
        ).fetchone()[0]:
            fetched += 1
        expect("procrastinate, its own fetch", fetched, 4)
        expect("procrastinate, after it", counted(connection, mail), {"claimable": 0, "held": 4, "stalled": 0})
        connection.execute("TRUNCATE procrastinate_jobs, procrastinate_workers CASCADE")

        async def defer_long():
            async with application.app.open_async():
                await application.sleep.defer_async()

        asyncio.run(defer_long())
        worker = subprocess.Popen(
            [sys.executable, "-m", "procrastinate", "--app=application.app", "worker", "--queues=mail"],
            cwd=directory,
            stderr=subprocess.DEVNULL,
        )
        running = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing'"
        until("a worker takes the job", lambda: connection.execute(running).fetchone()[0] == 1, 30)
        expect("procrastinate, a worker runs", counted(connection, mail), {"claimable": 0, "held": 1, "stalled": 0})
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        until("its heartbeat gets old", lambda: counted(connection, mail)["held"] == 0, 60)
        expect("procrastinate, it was killed", counted(connection, mail), {"claimable": 0, "held": 0, "stalled": 1})
        fetched = connection.execute("SELECT (procrastinate_fetch_job_v2(NULL, %s)).id", [None]).fetchone()[0]
        expect("procrastinate, its own fetch gives nothing", fetched, None)


def oban():
    """The Python edition's own statements, on rows of its own tables."""
    import oban as library

    connection = database("preset_oban")
    queries = pathlib.Path(library.__file__).with_name("queries")
    connection.execute(queries.joinpath("install.sql").read_text())
    connection.execute("""
        INSERT INTO oban_jobs (queue, worker, state, scheduled_at, attempt, attempted_at)
        SELECT 'mail', 'w', state::oban_job_state, timezone('UTC', now()) + due::interval, attempt,
               timezone('UTC', now()) - age::interval
        FROM (VALUES ('available', '0', 0, NULL), ('available', '1 h', 0, NULL), ('available', '0', 20, NULL),
                     ('scheduled', '-1 s', 0, NULL), ('scheduled', '1 h', 0, NULL), ('retryable', '-1 s', 1, NULL),
                     ('executing', '0', 1, '1 min'), ('executing', '0', 1, '6 min'), ('executing', '0', 20, '6 min'),
                     ('completed', '0', 1, NULL), ('cancelled', '0', 1, NULL), ('discarded', '0', 1, NULL),
                     ('suspended', '0', 1, NULL)) AS j (state, due, attempt, age)""")
    mail = {"preset": "oban", "queue": "mail", "rescue_after": "5m"}
    expect("oban, every state", counted(connection, mail), {"claimable": 4, "held": 1, "stalled": 3})
    stage = {"queues": ["mail"], "before": None, "limit": 100}
    fetch = {"queue": "mail", "demand": 100, "attempted_by": ["node"]}
    connection.execute(queries.joinpath("stage_jobs.sql").read_text(), stage)
    fetched = len(connection.execute(queries.joinpath("fetch_jobs.sql").read_text(), fetch).fetchall())
    expect("oban, its own stage and fetch", fetched, 4)
    connection.execute(queries.joinpath("rescue_jobs.sql").read_text(), {"rescue_after": 300})
    rescued = len(connection.execute(queries.joinpath("fetch_jobs.sql").read_text(), fetch).fetchall())
    expect("oban, its own rescue gives one more", rescued, 1)


def pgmq():
    """pgmq's own functions."""
    import pgmq as library

    connection = database("preset_pgmq")
    connection.execute("CREATE SCHEMA IF NOT EXISTS pgmq")
    connection.execute(pathlib.Path(library.__file__).with_name("sql").joinpath("pgmq.sql").read_text())
    connection.execute("SELECT pgmq.create('Mail')")
    connection.execute("SELECT pgmq.send('Mail', '{}', 0) FROM generate_series(1, 7)")
    connection.execute("SELECT pgmq.send('Mail', '{}', 3600)")
    connection.execute("SELECT pgmq.read('Mail', 3600, 2)")
    mail = {"preset": "pgmq", "queue": "Mail"}
    expect("pgmq, 8 messages, 1 for later, 2 read", counted(connection, mail), {"claimable": 5, "held": 2, "stalled": 0})
    expect("pgmq, its own read", len(connection.execute("SELECT pgmq.read('Mail', 0, 100)").fetchall()), 5)
    expect("pgmq, they are visible again", counted(connection, mail)["claimable"], 5)


for library in [procrastinate, oban, pgmq]:
    library()
end()
