"""Holds the preset of apalis to apalis itself: what its worker runs, and what `clapometer check` counts as claimable.

The worker is the crate in apalis/. Called by scripts/presets, with the server in PGHOST and PGPORT, and the program in
PRESETS_APALIS_WORKER.
"""

import atexit
import json
import os
import subprocess

from counting import counted, database, end, expect, until

DBNAME = "preset_apalis"
MAIL = {"preset": "apalis", "queue": "mail", "heartbeat_timeout": "5s"}

connection = database(DBNAME)
connection.execute("CREATE TABLE kills_started (job text, worker text, at timestamptz DEFAULT clock_timestamp())")


def start(command, *arguments, name=""):
    environment = {**os.environ, "PGDATABASE": DBNAME, "KILLS_WORKER": name}
    process = subprocess.Popen([os.environ["PRESETS_APALIS_WORKER"], command, *arguments], env=environment)
    # A failed expectation ends this program, and no worker may stay behind.
    atexit.register(process.kill)
    return process


def run(command, *arguments):
    process = start(command, *arguments)
    if process.wait(60) != 0:
        raise SystemExit(f"apalis: {command} ended with {process.returncode}")


def add(count, seconds=0.1, delay=0, fails=False, name="job"):
    job = {"seconds": seconds, "delay": delay, "fails": fails}
    run("add", json.dumps([{**job, "id": f"{name}-{number}"} for number in range(count)]))


def started(name):
    """How many jobs a worker has started."""
    return connection.execute("SELECT count(DISTINCT job) FROM kills_started WHERE worker = %s", [name]).fetchone()[0]


def status(text):
    return connection.execute("SELECT count(*) FROM apalis.jobs WHERE status = %s", [text]).fetchone()[0]


def kill(process):
    process.kill()
    process.wait()


run("install")
add(4)
add(1, fails=True, name="failing")
add(1, delay=3600, name="later")
# A job can be had from the second after the one in which it was enqueued.
until("what was enqueued is due", lambda: counted(connection, MAIL)["claimable"] == 5, 60)
worker = start("work", name="first")
until("a worker ends them", lambda: status("Done") == 5, 120)
expect("apalis, its worker ran what was claimable", started("first"), 5)
kill(worker)
expect("apalis, one is left for later", counted(connection, MAIL), {"claimable": 0, "held": 0, "stalled": 0})

# A worker of apalis-core 1.0.0 is not woken when its heartbeat, of one second here, falls due during a fetch that finds nothing: it
# stands still for ever unless it is one task with a timer, as in apalis/.
connection.execute("""
    ALTER FUNCTION apalis.get_jobs RENAME TO get_jobs_at_once;
    CREATE TABLE found_nothing (at timestamptz DEFAULT clock_timestamp());
    CREATE FUNCTION apalis.get_jobs(text, text, integer) RETURNS SETOF apalis.jobs LANGUAGE plpgsql AS $$
    BEGIN
        RETURN QUERY SELECT * FROM apalis.get_jobs_at_once($1, $2, $3);
        IF NOT FOUND THEN
            PERFORM pg_sleep(2);
            INSERT INTO found_nothing DEFAULT VALUES;
        END IF;
    END $$""")
worker = start("work", name="slow")
until("its fetch finds nothing", lambda: connection.execute("SELECT EXISTS (SELECT FROM found_nothing)").fetchone()[0], 120)
add(1, name="after a slow fetch")
until("a worker whose heartbeat fell due during a fetch still works", lambda: status("Done") == 6, 120)
kill(worker)
connection.execute("DROP FUNCTION apalis.get_jobs; ALTER FUNCTION apalis.get_jobs_at_once RENAME TO get_jobs")

add(2, seconds=600, name="long")
until("what was enqueued is due", lambda: counted(connection, MAIL)["claimable"] == 2, 60)
worker = start("work", name="second")
until("a worker has both", lambda: started("second") == 2, 120)
expect("apalis, a worker runs two", counted(connection, MAIL), {"claimable": 0, "held": 2, "stalled": 0})
kill(worker)
until("its heartbeat gets old", lambda: counted(connection, MAIL)["held"] == 0, 60)
expect("apalis, it was killed", counted(connection, MAIL), {"claimable": 0, "held": 0, "stalled": 2})
# Long-lived workers are active while anything is outstanding.
long_lived = counted(connection, {**MAIL, "workers": "long-lived"})
expect("apalis, for a worker that stays", long_lived["claimable"] + long_lived["held"], 2)
worker = start("work", name="third")
until("a worker that stays takes them over", lambda: started("third") == 2, 120)
expect("apalis, it has both", counted(connection, MAIL), {"claimable": 0, "held": 2, "stalled": 0})
# It has room for one more, and fetches both of these: while one of them waits, it sends no heartbeat.
add(2, seconds=600, delay=3600, name="more")
connection.execute("UPDATE apalis.jobs SET run_at = now() - interval '1 s' WHERE convert_from(job, 'UTF8') LIKE '%more%'")
until("it starts one of two more", lambda: started("third") == 3, 120)
until("its heartbeat gets old", lambda: counted(connection, MAIL)["held"] == 0, 60)
expect("apalis, one waits in a worker without room", counted(connection, MAIL), {"claimable": 0, "held": 0, "stalled": 4})
kill(worker)

# Two workers of one name: the heartbeats of the second keep what the first had when it was killed.
worker = start("work", name="twin")
until("a worker takes over what it has room for", lambda: started("twin") == 3, 120)
twin = start("work", name="twin")
until("the second one's heartbeat is seen", lambda: counted(connection, MAIL)["held"] == 4, 60)
kill(worker)
later = connection.execute("SELECT now() + interval '7 s'").fetchone()[0]
seen = "SELECT last_seen FROM apalis.workers WHERE id = 'twin'"
until("it is past the first one's time", lambda: connection.execute(seen).fetchone()[0] > later, 60)
expect("apalis, a dead worker's namesake lives", counted(connection, MAIL), {"claimable": 0, "held": 4, "stalled": 0})
kill(twin)
end()
