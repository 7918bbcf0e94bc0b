"""Kills the workers of real queue libraries at random, and holds what their presets say to what the libraries then do.

All libraries run side by side, for KILLS_SECONDS seconds (300). A round of one of them: jobs are enqueued, a few workers start, and
each is killed (SIGKILL) at a random moment. Then nobody works, the preset is read, and its word is tried:

- rows are claimable: one worker is started alone, and has to start a job, and as many as there were if it may end them all; half of
  the time the leases of the rows that are held are first made an hour longer, so that it can start none of these instead;
- rows are held: no worker gets one before `next_change`, and when that has come they are held no longer;
- nothing is claimable, held or due later: a worker gets nothing, and no open row is left but those that count as stalled.

Some jobs are for later, some fail the first time, some share a lock, a queue or a key where the library has that. Nothing is
expected to happen fast: a worker has MINUTES to find what is said to be there (River's and Oban's next leader alone takes half a
minute). What was seen so far is in table.md, beside the libraries' logs. Called by scripts/presets, with the server in PGHOST and
PGPORT, and with the programs of the libraries in PRESETS_*. KILLS_SEED repeats the choices of a run, not its timing.
KILLS_MUTANTS=1 puts wrong presets in place of the right ones: a run that finds nothing wrong with one of them fails.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import random
import subprocess
import sys
import threading
import time
import traceback

import psycopg
from psycopg.rows import namedtuple_row

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from counting import CLAPOMETER, MINUTES, counted, database
from mutants import MUTANTS

SECONDS = float(os.environ.get("KILLS_SECONDS") or "300")
# Presets that count wrongly take the places of the presets, and each has to be found out.
IS_MUTATED = bool(os.environ.get("KILLS_MUTANTS"))
SEED = int(os.environ.get("KILLS_SEED") or random.SystemRandom().randrange(1_000_000))
# The time for which a worker that has to find nothing is watched.
IDLE = 8
# The time after which it is written down what a worker that was started for claimable rows still waits for.
SLOW = 30

HERE = pathlib.Path(__file__).parent
PYTHON = [sys.executable, str(HERE / "worker.py")]
NODE = [os.environ.get("PRESETS_NODE", "node"), str(HERE / "worker.mjs")]


class Wrong(Exception):
    """The preset said one thing, and the library did another."""


@dataclasses.dataclass(frozen=True)
class Lease:
    """What the time of a row that is held counts from, in the library's own words."""

    table: str
    column: str
    # The rows that are held.
    held: str
    now: str = "now()"

    @property
    def prolonged(self):
        """The statement that makes the leases of all held rows an hour longer."""
        return f"UPDATE {self.table} SET {self.column} = {self.column} + interval '1 h' WHERE {self.held}"

    @property
    def restored(self):
        """The statement that undoes it."""
        is_prolonged = f"{self.column} > {self.now} + interval '30 min'"
        return f"UPDATE {self.table} SET {self.column} = {self.column} - interval '1 h' WHERE {is_prolonged}"


@dataclasses.dataclass(frozen=True)
class Library:
    """A library, its worker, and how long that one leaves a dead worker's rows alone."""

    preset: str
    worker: list
    # Counts the rows that are not finished, in the library's own words.
    open_rows: str
    # The presets' options, and what they replace in the SQL that `clapometer presets` prints: the defaults.
    options: dict = dataclasses.field(default_factory=dict)
    replaced: tuple = ()
    # The queues to ask for, where the preset has this option.
    queues: tuple = ()
    has_once: bool = True
    # Makes locks old, where the library cannot be told to take them for lost any earlier.
    age: str = ""
    # The leases that end within seconds, of libraries that then hand out the rows of dead workers.
    lease: Lease | None = None


LIBRARIES = [
    Library(
        preset="river",
        worker=[os.environ.get("PRESETS_RIVER_WORKER", "presets-river"), "kills"],
        open_rows="river_job WHERE finalized_at IS NULL",
        options={"rescue_after": "5s"},
        replaced=("interval '3600 s'", "interval '5 s'"),
        queues=("mail",),
        lease=Lease("river_job", "attempted_at", "state = 'running' AND attempted_at >= now() - interval '5 s'"),
    ),
    Library(
        preset="oban",
        worker=[*PYTHON, "oban"],
        open_rows="oban_jobs WHERE state NOT IN ('completed', 'discarded', 'cancelled')",
        options={"rescue_after": "5s"},
        replaced=("interval '3600 s'", "interval '5 s'"),
        queues=("mail",),
        has_once=False,
        lease=Lease(
            "oban_jobs",
            "attempted_at",
            "state = 'executing' AND attempted_at >= timezone('UTC', now()) - interval '5 s'",
            now="timezone('UTC', now())",
        ),
    ),
    Library(
        preset="pg-boss",
        worker=[*NODE, "pg-boss"],
        open_rows="pgboss.job WHERE state <= 'active'",
        queues=("mail", "singleton", "fifo"),
        lease=Lease("pgboss.job", "started_on", "state = 'active' AND started_on >= now() - expire_seconds * interval '1 s'"),
    ),
    Library(
        preset="graphile-worker",
        worker=[*NODE, "graphile-worker"],
        open_rows="graphile_worker._private_jobs",
        age="""UPDATE graphile_worker._private_jobs SET locked_at = locked_at - interval '4 h';
               UPDATE graphile_worker._private_job_queues SET locked_at = locked_at - interval '4 h'""",
    ),
    Library(
        preset="procrastinate",
        worker=[*PYTHON, "procrastinate"],
        open_rows="procrastinate_jobs WHERE status IN ('todo', 'doing')",
        options={"heartbeat_timeout": "5s"},
        replaced=("interval '30 s'", "interval '5 s'"),
        queues=("mail",),
    ),
    Library(
        preset="apalis",
        worker=[os.environ.get("PRESETS_APALIS_WORKER", "presets-apalis")],
        open_rows="apalis.jobs WHERE status IN ('Pending', 'Queued', 'Running') OR (status = 'Failed' AND attempts < max_attempts)",
        options={"heartbeat_timeout": "5s"},
        replaced=("interval '300 s'", "interval '5 s'"),
        queues=("mail",),
        has_once=False,
        lease=Lease("apalis.workers", "last_seen", "last_seen > now() - interval '5 s'"),
    ),
    Library(
        preset="pgmq",
        worker=[*PYTHON, "pgmq"],
        open_rows="pgmq.q_jobs",
        queues=("jobs",),
        lease=Lease("pgmq.q_jobs", "vt", "read_ct > 0 AND vt > now()"),
    ),
]


class Play:
    """The run of one library."""

    def __init__(self, library):
        self.library = library
        self.random = random.Random(f"{SEED} {library.preset}")
        self.dbname = "kills_" + library.preset.replace("-", "_")
        self.connection = database(self.dbname)
        self.connection.row_factory = namedtuple_row
        self.connection.execute(
            "CREATE TABLE kills_started (job text, worker text, at timestamptz DEFAULT clock_timestamp())"
        )
        self.running = {}
        self.seen = dict.fromkeys(
            ["rounds", "jobs", "starts", "killed", "alone", "once", "held", "idle", "stalled", "slowest", "empty-handed", "left"], 0
        )
        page = subprocess.run([CLAPOMETER, "presets", library.preset], capture_output=True, text=True, check=True).stdout
        statement = page.split("SQL, with the defaults\n", 1)[1]
        if library.replaced:
            assert library.replaced[0] in statement, statement
            statement = statement.replace(*library.replaced)
        if IS_MUTATED:
            right, mutated = MUTANTS[library.preset]
            assert right in statement, statement
            statement = statement.replace(right, mutated)
        self.statement = f"""
            SELECT coalesce(sum(claimable), 0)::integer AS claimable,
                   coalesce(sum(outstanding - claimable), 0)::integer AS held,
                   coalesce(sum(stalled), 0)::integer AS stalled,
                   min(next_change) AS next_change
            FROM ({statement}) AS q"""
        self.command("install")

    # Processes.

    def started_process(self, command, *arguments, worker=""):
        environment = {**os.environ, "PGDATABASE": self.dbname, "KILLS_WORKER": worker}
        return subprocess.Popen(
            [*self.library.worker, command, *arguments],
            env=environment,
            cwd=os.environ.get("PRESETS_NODE_DIRECTORY") if self.library.worker[:-1] == NODE else None,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )

    @property
    def log(self):
        return open(pathlib.Path(os.environ["KILLS_LOGS"], self.library.preset + ".log"), "a")

    def command(self, command, *arguments):
        process = self.started_process(command, *arguments)
        if process.wait(MINUTES) != 0:
            raise RuntimeError(f"{command} ended with {process.returncode}; see {self.log.name}")

    def start(self, command="work"):
        name = f"{command}-{self.seen['alone'] + self.seen['once'] + self.seen['idle']}-{len(self.running)}-{time.monotonic_ns()}"
        self.running[name] = self.started_process(command, worker=name)
        return name

    def kill(self, *names):
        for name in names:
            process = self.running.pop(name)
            process.kill()
            process.wait()
            self.seen["killed"] += 1
        if not self.running:
            # The server still ends what a dead client has sent.
            self.until("the dead workers' sessions end", lambda: not self.has_sessions())

    # What is seen.

    def until(self, what, condition, seconds=MINUTES):
        deadline = time.monotonic() + seconds
        while not condition():
            ended = [(name, process.poll()) for name, process in self.running.items() if process.poll() is not None]
            if ended:
                raise RuntimeError(f"{what}: meanwhile workers ended by themselves: {ended}; see {self.log.name}")
            if time.monotonic() > deadline:
                raise Wrong(f"{what}: not within {seconds} s")
            time.sleep(0.1)

    def read(self):
        return self.connection.execute(self.statement).fetchone()

    def now(self):
        return self.connection.execute("SELECT clock_timestamp()").fetchone()[0]

    def has_sessions(self):
        others = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return self.connection.execute(f"SELECT EXISTS ({others})").fetchone()[0]

    def open_rows(self):
        return self.connection.execute("SELECT count(*) FROM " + self.library.open_rows).fetchone()[0]

    def starts(self, worker):
        """How many jobs this worker has started, and when the first."""
        statement = "SELECT count(DISTINCT job) AS jobs, min(at) AS first FROM kills_started WHERE worker = %s"
        return self.connection.execute(statement, [worker]).fetchone()

    def counted(self, workers):
        """What the program counts."""
        keys = {"preset": self.library.preset, "workers": workers, **self.library.options}
        each = [{**keys, "queue": queue} for queue in self.library.queues] or [keys]
        counts = [counted(self.connection, keys) for keys in each]
        return {key: sum(count[key] for count in counts) for key in counts[0]}

    def wait_for_nothing(self, seconds):
        """Lets up to this time pass: the moment at which a worker dies is what this run leaves to chance."""
        time.sleep(self.random.uniform(0, seconds))

    # The rounds.

    def play(self, deadline):
        while time.monotonic() < deadline:
            self.seen["rounds"] += 1
            self.round()
            self.seen["starts"] = self.connection.execute("SELECT count(*) FROM kills_started").fetchone()[0]
            yield

    def jobs(self):
        return [
            {
                "id": f"{self.seen['rounds']}-{number}",
                "seconds": self.random.uniform(0, 1.5),
                "delay": self.random.choice([0, 0, 0, 2]),
                "key": self.random.choice([None, None, "a", "b"]),
                "fails": self.random.random() < 0.15,
            }
            for number in range(self.random.randint(1, 9))
        ]

    def round(self):
        jobs = self.jobs()
        self.seen["jobs"] += len(jobs)
        self.command("add", json.dumps(jobs))
        for _ in range(self.random.randint(0, 3)):
            self.start()
        for name in list(self.running):
            if self.random.random() < 0.7:
                self.until("a worker starts a job", lambda name=name: self.starts(name).jobs > 0 or self.read().claimable == 0)
            self.wait_for_nothing(1)
            self.kill(name)
        while not self.is_settled():
            pass

    def is_settled(self):
        """With no worker alive, tries what the preset says. Returns whether nothing is left to do."""
        reading = self.read()
        if not IS_MUTATED:
            self.program_says(reading)
        if reading.claimable > 0:
            # Rows that others have are what a wrong count of free ones is made of.
            if self.library.has_once and self.random.random() < (0.6 if reading.held > 0 else 0.3):
                self.once()
            else:
                self.alone(reading)
        elif reading.held > 0:
            self.held(reading)
        elif reading.next_change is not None:
            self.until("what is for later becomes claimable", lambda: self.read().claimable > 0)
        else:
            return self.nothing(reading)
        return False

    def program_says(self, reading):
        program = self.counted("long-lived")
        if self.read() == reading:
            expected = {"claimable": reading.claimable, "held": reading.held, "stalled": reading.stalled}
            # For long-lived workers the activity is what is outstanding.
            program = {**program, "claimable": program["claimable"] + program["held"], "held": 0}
            expected = {**expected, "claimable": expected["claimable"] + expected["held"], "held": 0}
            if program != expected:
                raise Wrong(f"the program counts {program}, its statement {expected}")

    def alone(self, reading):
        """One worker, started alone, has to find something. Often it is killed again, else it works until all is done."""
        lease = self.library.lease if self.random.random() < 0.5 else None
        if lease is not None:
            # One transaction, so that both statements have the same time.
            with self.connection.transaction():
                reading = self.read()
                self.connection.execute(lease.prolonged)
        if reading.claimable > 0:
            self.finds_something(reading, is_killed_early=lease is None and self.random.random() < 0.5)
        if lease is not None:
            self.connection.execute(lease.restored)

    def finds_something(self, reading, is_killed_early):
        worker, begun = self.start(), time.monotonic()
        self.seen["alone"] += 1
        try:
            self.until("a worker starts a job", lambda: self.starts(worker).jobs > 0, SLOW)
        except Wrong:
            self.describe(worker, reading)
        try:
            self.until("a worker that was started for claimable rows starts a job", lambda: self.starts(worker).jobs > 0)
        except Wrong:
            self.seen["empty-handed"] += 1
            raise Wrong(f"found nothing: {reading}") from None
        self.seen["slowest"] = max(self.seen["slowest"], round(time.monotonic() - begun))
        if is_killed_early:
            self.wait_for_nothing(2)
        else:
            self.until("a worker alone ends all that is claimable", self.is_quiet)
            self.until(
                f"a worker alone starts as many jobs as were claimable: {reading}",
                lambda: self.starts(worker).jobs >= reading.claimable,
            )
        self.kill(worker)

    def describe(self, worker, reading):
        """Writes down what a worker that has found nothing so far may wait for."""
        sessions = """pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        with self.log as log:
            print(f"{worker} has started nothing for {SLOW} s; the preset said {reading}, now {self.read()}", file=log)
            for rows in (self.library.open_rows, sessions):
                for row in self.connection.execute(f"SELECT * FROM {rows}"):
                    print(row, file=log)

    def is_quiet(self):
        """Nothing is claimable, or will be within a minute: some locks of dead workers stay for hours."""
        reading = self.read()
        is_far = reading.next_change is None or reading.next_change > self.now() + datetime.timedelta(minutes=1)
        return reading.claimable == 0 and is_far

    def once(self):
        """A process that works once and exits has to find something, if that is what the preset says of such workers."""
        if self.counted("one-row")["claimable"] == 0:
            # Only a worker that stays releases these rows.
            self.alone(self.read())
            return
        worker = self.start("once")
        self.seen["once"] += 1
        process = self.running.pop(worker)
        if process.wait(MINUTES) != 0:
            raise RuntimeError(f"once ended with {process.returncode}; see {self.log.name}")
        if self.starts(worker).jobs == 0:
            self.seen["empty-handed"] += 1
            raise Wrong("a process that was started for a claimable row found nothing")

    def held(self, reading):
        """Rows of dead workers: nobody gets one before `next_change`."""
        self.seen["held"] += 1
        if self.random.random() < 0.5:
            worker = self.start()
            deadline = time.monotonic() + IDLE
            while time.monotonic() < deadline and self.starts(worker).jobs == 0:
                time.sleep(0.1)
            first = self.starts(worker).first
            self.kill(worker)
            if first is not None and first < reading.next_change:
                raise Wrong(f"handed out at {first}: {reading}")
            return
        if self.library.age:
            for statement in self.library.age.split(";"):
                self.connection.execute(statement)
            is_over = self.read().held == 0
        else:
            self.until("next_change comes", lambda: self.now() > reading.next_change)
            is_over = self.read().next_change != reading.next_change
        if not is_over:
            raise Wrong(f"nothing has changed at next_change: {reading}, then {self.read()}")

    def nothing(self, reading):
        """Nothing is claimable or will be: a worker finds nothing, and nothing is open but what is stalled."""
        self.seen["stalled"] += reading.stalled
        if self.random.random() < 0.5:
            self.seen["idle"] += 1
            worker = self.start()
            self.until("the worker connects", self.has_sessions)
            time.sleep(IDLE)
            found = self.starts(worker).jobs
            self.kill(worker)
            if found:
                raise Wrong(f"a worker found {found} jobs: {reading}")
        if reading.stalled > 0:
            self.command("release")
            if self.read().stalled > 0:
                raise Wrong("still stalled after the library's user has released all")
            return False
        if self.open_rows() > 0:
            self.seen["left"] += self.open_rows()
            raise Wrong(f"{self.open_rows()} rows are left, and nothing is claimable, held or stalled: {reading}")
        return True


def table(plays):
    """What was seen, a row for each library."""
    if not plays:
        return ""
    lines = ["| preset | " + " | ".join(plays[0].seen) + " |", "|" + " --- |" * (len(plays[0].seen) + 1)]
    lines += [f"| {play.library.preset} | " + " | ".join(str(count) for count in play.seen.values()) + " |" for play in plays]
    return "\n".join(lines)


def main(names):
    wrong = []
    broken = []
    plays = []
    lock = threading.Lock()

    def run(library):
        play = None
        try:
            play = Play(library)
            plays.append(play)
            for _ in play.play(time.monotonic() + SECONDS):
                with lock:
                    pathlib.Path(os.environ["KILLS_LOGS"], "table.md").write_text(table(plays) + "\n")
        except Wrong as found:
            with lock:
                wrong.append(library.preset)
                print(f"WRONG {library.preset}: {found}", flush=True)
        # A thread that ends by SystemExit, as of `counted`, says nothing by itself.
        except (Exception, SystemExit):
            with lock:
                broken.append(library.preset)
                print(f"BROKEN {library.preset}: {traceback.format_exc()}", flush=True)
        finally:
            for process in (play.running if play else {}).values():
                process.kill()

    print(f"seed {SEED}, {SECONDS:.0f} s", flush=True)
    libraries = [library for library in LIBRARIES if not names or library.preset in names]
    threads = [threading.Thread(target=run, args=[library]) for library in libraries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(table(plays))
    if IS_MUTATED:
        missed = [library.preset for library in libraries if library.preset not in wrong]
        print(f"mutants that were not found out: {', '.join(missed)}" if missed else "every mutant was found out")
        sys.exit(1 if missed else 0)
    bad = wrong + broken
    print(f"wrong: {', '.join(bad)}" if bad else "all right")
    sys.exit(1 if bad else 0)


main(sys.argv[1:])
