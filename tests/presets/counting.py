"""Databases for the libraries, what clapometer counts in them, and what it should. The server is in PGHOST and PGPORT."""

import json
import os
import subprocess
import sys
import tempfile
import time

import psycopg

CLAPOMETER = os.environ["CLAPOMETER"]
# The bound of everything that has to happen at some time.
MINUTES = 600
# The faults by which clapometer says that no answer came in its time. On a busy machine they say nothing about a preset.
NOT_IN_TIME = {"unreachable", "connection_lost", "server_unavailable", "deadline_exceeded", "statement_timeout", "lock_timeout"}
failures = []


def database(name):
    """Makes a database, and connects to it."""
    with psycopg.connect(dbname="postgres", autocommit=True) as administrator:
        administrator.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        administrator.execute(f"CREATE DATABASE {name}")
    return psycopg.connect(dbname=name, autocommit=True)


def counted(connection, keys):
    """What clapometer counts: claimable, held and stalled, as for programs that take one row. It is asked until it answers in its time."""
    configuration = {
        "databases": {
            "d": {
                "host": os.environ["PGHOST"],
                "port": int(os.environ["PGPORT"]),
                "user": os.environ["PGUSER"],
                "dbname": connection.info.dbname,
                "connect_timeout": "1m",
            }
        },
        "queries": {"q": {"workers": "one-row", **keys}},
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(configuration, file)
        file.flush()
        command = [CLAPOMETER, "check", "--json", "--config", file.name]
        deadline = time.monotonic() + MINUTES
        while True:
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            asked = json.loads(run.stdout)["databases"][0]
            query = next(query for query in asked["queries"] if query["name"] == "q")
            if query["outcome"] == "answered":
                break
            reason = query.get("reason", asked.get("reason"))
            if reason not in NOT_IN_TIME or time.monotonic() > deadline:
                sys.exit(f"{keys}: {reason}: {json.dumps(query, indent=2)}")
    stalled = [int(w["text"].split()[0]) for w in query["warnings"] if "stalled" in w["text"]]
    return {
        "claimable": query["activity"],
        "held": query["value"] - query["activity"],
        "stalled": sum(stalled),
    }


def expect(what, found, expected):
    """Notes whether two things are equal."""
    mark = "ok    " if found == expected else "WRONG "
    print(f"{mark}{what}: {found}" + ("" if found == expected else f", expected {expected}"), flush=True)
    if found != expected:
        failures.append(what)


def until(what, condition, seconds):
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {seconds} s")
        time.sleep(0.1)


def end():
    """Ends the program, with a code that says whether all was as expected."""
    print(f"{len(failures)} wrong" if failures else "all right")
    sys.exit(1 if failures else 0)
