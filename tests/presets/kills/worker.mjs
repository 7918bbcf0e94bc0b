// A worker of pg-boss or graphile-worker that may be killed at any moment. Called by run.py, in a directory that has both
// packages, with the same commands as worker.py.

import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const { PgBoss } = require("pg-boss");
const { makeWorkerUtils, run, runOnce } = require("graphile-worker");
const { Pool } = require("pg");

const { PGUSER, PGHOST, PGPORT, PGDATABASE, KILLS_WORKER } = process.env;
const connectionString = `postgres://${PGUSER}@${PGHOST}:${PGPORT}/${PGDATABASE}`;
const pool = new Pool({ connectionString });
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Notes that a job has started, takes its time, and fails if that is what it does the first time. */
async function runJob(job) {
  await pool.query("INSERT INTO kills_started (job, worker) VALUES ($1, $2)", [job.id, KILLS_WORKER]);
  const starts = await pool.query("SELECT count(*)::integer AS starts FROM kills_started WHERE job = $1", [job.id]);
  await sleep(job.seconds);
  if (job.fails && starts.rows[0].starts === 1) throw new Error("the first attempt of this job fails");
}

// A job with a key goes to a queue that has a rule about keys.
const queues = { mail: "standard", singleton: "singleton", fifo: "key_strict_fifo" };
const queueOf = (job) => (job.key === null ? "mail" : job.key === "a" ? "singleton" : "fifo");

async function pgBoss(command, jobs) {
  const supervises = command === "work";
  const boss = new PgBoss({
    connectionString,
    schedule: false,
    supervise: supervises,
    ...(supervises && { superviseIntervalSeconds: 1, monitorIntervalSeconds: 1, maintenanceIntervalSeconds: 5 }),
  });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  if (command === "install") {
    for (const [name, policy] of Object.entries(queues)) {
      await boss.createQueue(name, { policy, expireInSeconds: 4, retryLimit: 50, retryDelay: 1 });
    }
  }
  for (const job of jobs) {
    const options = { startAfter: job.delay, ...(job.key !== null && { singletonKey: job.key }) };
    await boss.send(queueOf(job), job, options);
  }
  if (command === "work") {
    for (const name of Object.keys(queues)) {
      await boss.work(name, { pollingIntervalSeconds: 0.5 }, async ([job]) => runJob(job.data));
    }
    return;
  }
  for (const name of command === "once" ? Object.keys(queues) : []) {
    const [job] = await boss.fetch(name);
    if (job) {
      await runJob(job.data).then(() => boss.complete(name, job.id), () => boss.fail(name, job.id));
      break;
    }
  }
  await boss.stop({ graceful: false });
  process.exit(0);
}

async function graphileWorker(command, jobs) {
  const taskList = { mail: runJob };
  if (command === "work") {
    await run({
      connectionString,
      concurrency: 3,
      pollInterval: 500,
      noHandleSignals: true,
      minResetLockedInterval: 1000,
      maxResetLockedInterval: 2000,
      taskList,
    });
    return;
  }
  if (command === "once") {
    await runOnce({ connectionString, taskList });
  } else {
    const utils = await makeWorkerUtils({ connectionString });
    if (command === "install") await utils.migrate();
    for (const job of jobs) {
      const runAt = new Date(Date.now() + job.delay * 1000);
      await utils.addJob("mail", job, { runAt, maxAttempts: 100, ...(job.key !== null && { queueName: job.key }) });
    }
    await utils.release();
  }
  process.exit(0);
}

const [library, command, jobs] = process.argv.slice(2);
await { "pg-boss": pgBoss, "graphile-worker": graphileWorker }[library](command, JSON.parse(jobs ?? "[]"));
