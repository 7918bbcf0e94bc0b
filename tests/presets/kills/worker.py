"""A worker of procrastinate, Oban or pgmq that may be killed at any moment. Called by run.py.

    worker.py LIBRARY install      makes the library's tables
    worker.py LIBRARY add JOBS     enqueues the jobs of a JSON array by the library's own call
    worker.py LIBRARY work         works until it is killed
    worker.py LIBRARY once         works as one process that exits
    worker.py LIBRARY release      gives back what dead workers hold, where that is left to the library's user

libpq's environment names the database. Each start of a job is a row of kills_started.
"""

import asyncio
import json
import os
import pathlib
import sys

import oban as oban_library
import pgmq as pgmq_library
import procrastinate as procrastinate_library
import psycopg

CONNINFO = f"host={os.environ['PGHOST']} port={os.environ['PGPORT']} user={os.environ['PGUSER']} dbname={os.environ['PGDATABASE']}"
# The times after which dead workers are noticed: run.py tells the presets the same.
RESCUE_AFTER = 5
HEARTBEAT_TIMEOUT = 5
VISIBLE_AFTER = 4


async def run_job(job):
    """Notes that a job has started, takes its time, and fails if that is what it does the first time."""
    connection = await psycopg.AsyncConnection.connect(CONNINFO, autocommit=True)
    async with connection:
        await connection.execute(
            "INSERT INTO kills_started (job, worker) VALUES (%s, %s)", [job["id"], os.environ["KILLS_WORKER"]]
        )
        starts = await connection.execute("SELECT count(*) FROM kills_started WHERE job = %s", [job["id"]])
        is_first = (await starts.fetchone())[0] == 1
    await asyncio.sleep(job["seconds"])
    if job["fails"] and is_first:
        raise RuntimeError("the first attempt of this job fails")


def install(schema_file, before=""):
    with psycopg.connect(CONNINFO, autocommit=True) as connection:
        connection.execute(before + schema_file.read_text())


def directory(library):
    return pathlib.Path(library.__file__).parent


app = procrastinate_library.App(connector=procrastinate_library.PsycopgConnector(conninfo=CONNINFO))


@app.task(name="mail", queue="mail", retry=procrastinate_library.RetryStrategy(max_attempts=100, wait=1))
async def procrastinate_mail(job):
    await run_job(job)


async def procrastinate(command, jobs):
    if command == "install":
        install(directory(procrastinate_library) / "sql" / "schema.sql")
        return
    async with app.open_async():
        if command == "add":
            for job in jobs:
                task = procrastinate_mail.configure(lock=job["key"], schedule_in={"seconds": job["delay"]})
                await task.defer_async(job=job)
        elif command == "release":
            for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=HEARTBEAT_TIMEOUT):
                await app.job_manager.retry_job(job)
        else:
            await app.run_worker_async(
                queues=["mail"],
                concurrency=3,
                wait=command == "work",
                fetch_job_polling_interval=1,
                update_heartbeat_interval=1,
                stalled_worker_timeout=HEARTBEAT_TIMEOUT,
                delete_jobs="never",
            )


@oban_library.worker(queue="mail", max_attempts=100)
class ObanMail:
    async def process(self, job):
        await run_job(job.args)

    def backoff(self, _job):
        return 1


async def oban(command, jobs):
    if command == "install":
        install(directory(oban_library) / "queries" / "install.sql")
        return
    pool = await oban_library.Oban.create_pool(CONNINFO)
    if command == "add":
        instance = oban_library.Oban(pool=pool)
        await instance.enqueue_many([ObanMail.new(job, scheduled_in=job["delay"]) for job in jobs])
    else:
        lifeline = {"interval": 1.0, "rescue_after": float(RESCUE_AFTER)}
        async with oban_library.Oban(pool=pool, queues={"mail": 3}, lifeline=lifeline):
            await asyncio.Event().wait()
    await pool.close()


async def pgmq(command, jobs):
    if command == "install":
        install(directory(pgmq_library) / "sql" / "pgmq.sql", "CREATE SCHEMA pgmq;")
    connection = await psycopg.AsyncConnection.connect(CONNINFO, autocommit=True)
    async with connection:
        if command == "install":
            await connection.execute("SELECT pgmq.create('jobs')")
        for job in jobs:
            await connection.execute("SELECT pgmq.send('jobs', %s::jsonb, %s)", [json.dumps(job), job["delay"]])
        while command in ("work", "once"):
            read = await connection.execute("SELECT msg_id, message FROM pgmq.read('jobs', %s, 1)", [VISIBLE_AFTER])
            for identifier, job in await read.fetchall():
                try:
                    await run_job(job)
                except RuntimeError:
                    continue
                await connection.execute("SELECT pgmq.delete('jobs', %s)", [identifier])
            if command == "once":
                break
            await asyncio.sleep(0.2)


asyncio.run({"procrastinate": procrastinate, "oban": oban, "pgmq": pgmq}[sys.argv[1]](sys.argv[2], json.loads((sys.argv[3:] or ["[]"])[0])))
