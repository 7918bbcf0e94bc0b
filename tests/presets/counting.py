"""Databases for the libraries, and what clapometer counts in them. The server is in PGHOST and PGPORT."""

import json
import os
import subprocess
import sys
import tempfile

import psycopg

CLAPOMETER = os.environ["CLAPOMETER"]


def database(name):
    """Makes a database, and connects to it."""
    with psycopg.connect(dbname="postgres", autocommit=True) as administrator:
        administrator.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        administrator.execute(f"CREATE DATABASE {name}")
    return psycopg.connect(dbname=name, autocommit=True)


def counted(connection, keys):
    """What clapometer counts: claimable, held and stalled, as for programs that take one row."""
    configuration = {
        "databases": {
            "d": {
                "host": os.environ["PGHOST"],
                "port": int(os.environ["PGPORT"]),
                "user": os.environ["PGUSER"],
                "dbname": connection.info.dbname,
            }
        },
        "queries": {"q": {"workers": "one-row", **keys}},
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(configuration, file)
        file.flush()
        command = [CLAPOMETER, "check", "--json", "--config", file.name]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    queries = json.loads(run.stdout)["databases"][0]["queries"]
    query = next(query for query in queries if query["name"] == "q")
    if query["outcome"] != "answered":
        sys.exit(f"{keys}: {json.dumps(query, indent=2)}")
    stalled = [int(w["text"].split()[0]) for w in query["warnings"] if "stalled" in w["text"]]
    return {
        "claimable": query["activity"],
        "held": query["value"] - query["activity"],
        "stalled": sum(stalled),
    }
