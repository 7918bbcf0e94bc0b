// Holds the presets of pg-boss and graphile-worker to the libraries themselves, as npm has them: what the library's own
// fetch hands out, and what `clapometer check` counts as claimable. Called by scripts/presets, with the server in PGHOST
// and PGPORT, in a directory that has both packages.

import { execFileSync } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const { PgBoss } = require("pg-boss");
const { makeWorkerUtils, run, runOnce } = require("graphile-worker");
const { Client } = require("pg");

const directory = mkdtempSync(join(tmpdir(), "presets-"));
let wrong = 0;

const url = (dbname) =>
  `postgres://${process.env.PGUSER}@${process.env.PGHOST}:${process.env.PGPORT}/${dbname}`;

async function database(name) {
  const administrator = new Client(url("postgres"));
  await administrator.connect();
  await administrator.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
  await administrator.query(`CREATE DATABASE ${name}`);
  await administrator.end();
  const client = new Client(url(name));
  await client.connect();
  return client;
}

/** What clapometer counts: claimable, held and stalled, as for programs that take one row. */
function counted(dbname, keys) {
  const file = join(directory, "clapometer.yaml");
  const server = { host: process.env.PGHOST, port: Number(process.env.PGPORT), user: process.env.PGUSER, dbname };
  writeFileSync(file, JSON.stringify({ databases: { d: server }, queries: { q: { workers: "one-row", ...keys } } }));
  const report = JSON.parse(execFileSync(process.env.CLAPOMETER, ["check", "--json", "--config", file], { encoding: "utf8" }));
  const query = report.databases[0].queries.find((each) => each.name === "q");
  const stalled = query.warnings.filter((each) => each.text.includes("stalled")).map((each) => parseInt(each.text, 10));
  return { claimable: query.activity, held: query.value - query.activity, stalled: stalled[0] ?? 0 };
}

function expect(what, found, expected) {
  const isRight = JSON.stringify(found) === JSON.stringify(expected);
  wrong += isRight ? 0 : 1;
  console.log(`${isRight ? "ok    " : "WRONG "}${what}: ${JSON.stringify(found)}${isRight ? "" : `, expected ${JSON.stringify(expected)}`}`);
}

/** Jobs that a pg-boss client releases, and its fetch does not: one behind another's key, and one that depends on another. */
async function released(boss, client, dbname) {
  await boss.createQueue("last", { policy: "singleton", retryLimit: 0 });
  await boss.send("last", {});
  await boss.send("last", {});
  await boss.fetch("last");
  await client.query("UPDATE pgboss.job SET started_on = now() - interval '1 h' WHERE name = 'last' AND state = 'active'");
  expect("pg-boss, behind an expired one without retries", counted(dbname, { preset: "pg-boss", queue: "last" }), { claimable: 0, held: 0, stalled: 2 });
  expect("pg-boss, its own fetch gives nothing", (await boss.fetch("last")).length, 0);
  await boss.supervise("last");
  expect("pg-boss, a client has failed that one", counted(dbname, { preset: "pg-boss", queue: "last" }), { claimable: 1, held: 0, stalled: 0 });
  expect("pg-boss, its own fetch gives the next", (await boss.fetch("last")).length, 1);

  await boss.createQueue("parents");
  await boss.createQueue("children");
  await boss.flow([
    { ref: "parent", name: "parents" },
    { ref: "child", name: "children", dependsOn: ["parent"] },
  ]);
  const children = { preset: "pg-boss", queue: "children" };
  expect("pg-boss, blocked", counted(dbname, children), { claimable: 0, held: 0, stalled: 0 });
  const [parent] = await boss.fetch("parents");
  await boss.complete("parents", parent.id);
  await client.query("UPDATE pgboss.job SET completed_on = now() - interval '1 min' WHERE name = 'parents'");
  expect("pg-boss, its parent is done, and no client runs", counted(dbname, children), { claimable: 0, held: 0, stalled: 1 });
  expect("pg-boss, its own fetch gives nothing", (await boss.fetch("children")).length, 0);
  await boss.resolveFlow();
  expect("pg-boss, a client has released it", counted(dbname, children), { claimable: 1, held: 0, stalled: 0 });
  expect("pg-boss, its own fetch gives it", (await boss.fetch("children")).length, 1);
}

async function pgBoss() {
  const dbname = "preset_pg_boss";
  const client = await database(dbname);
  const boss = new PgBoss({ connectionString: url(dbname), supervise: false, schedule: false });
  boss.on("error", () => {});
  await boss.start();
  const queues = { plain: "standard", one: "singleton", keys: "singleton", state: "stately", fifo: "key_strict_fifo", short: "short" };
  for (const [name, policy] of Object.entries(queues)) {
    await boss.createQueue(name, { policy });
  }
  for (let i = 0; i < 5; i++) {
    await boss.send("plain", {}, {});
    await boss.send("one", {}, {});
    await boss.send("keys", {}, { singletonKey: `k${i % 3}` });
    await boss.send("state", {}, {});
    await boss.send("fifo", {}, { singletonKey: `k${i % 2}` });
    await boss.send("short", {}, {});
  }
  await boss.send("plain", {}, { startAfter: 3600 });
  for (const queue of Object.keys(queues)) {
    const before = counted(dbname, { preset: "pg-boss", queue });
    let fetched = 0;
    for (;;) {
      const jobs = await boss.fetch(queue);
      if (!jobs || jobs.length === 0) break;
      fetched += jobs.length;
    }
    expect(`pg-boss, ${queue}, its own fetch is what was claimable`, before.claimable, fetched);
    expect(`pg-boss, ${queue}, after it`, counted(dbname, { preset: "pg-boss", queue }), { claimable: 0, held: fetched, stalled: 0 });
  }
  await client.query("UPDATE pgboss.job SET started_on = now() - interval '1 h' WHERE name = 'plain' AND state = 'active'");
  expect("pg-boss, expired", counted(dbname, { preset: "pg-boss", queue: "plain" }), { claimable: 0, held: 0, stalled: 5 });
  expect("pg-boss, its own fetch gives nothing", (await boss.fetch("plain")).length, 0);
  await released(boss, client, dbname);
  await boss.stop({ graceful: false });
  await client.end();
}

async function graphileWorker() {
  const dbname = "preset_graphile_worker";
  const client = await database(dbname);
  const utils = await makeWorkerUtils({ connectionString: url(dbname) });
  await utils.migrate();
  const keys = { preset: "graphile-worker", tasks: ["mail"] };
  for (const queueName of [undefined, undefined, "a", "a", "b"]) {
    await utils.addJob("mail", {}, { queueName });
  }
  await utils.addJob("mail", {}, { runAt: new Date(Date.now() + 3_600_000) });
  await utils.addJob("other", {});
  expect("graphile-worker, 5 jobs, 2 named queues", counted(dbname, keys), { claimable: 4, held: 0, stalled: 0 });
  // All at once, each held until no other starts: what one moment hands out.
  let running = 0;
  let during;
  const mail = async () => {
    running += 1;
    const mine = running;
    for (let i = 0; i < 40 && !during; i++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      if (mine === 1 && i === 30) during = { running, counted: counted(dbname, keys) };
    }
  };
  await runOnce({ connectionString: url(dbname), concurrency: 10, taskList: { mail } });
  expect("graphile-worker, running at once", during, { running: 4, counted: { claimable: 0, held: 4, stalled: 0 } });
  // A job of a named queue that was busy when the others ended is still there.
  await runOnce({ connectionString: url(dbname), taskList: { mail } });
  expect("graphile-worker, all ran", counted(dbname, keys), { claimable: 0, held: 0, stalled: 0 });
  await client.query("UPDATE graphile_worker._private_jobs SET run_at = now(), attempts = 1, locked_at = now() - interval '5 h'");
  expect("graphile-worker, its lock is old", counted(dbname, keys), { claimable: 0, held: 0, stalled: 1 });
  let ran = 0;
  const count = async () => { ran += 1; };
  await runOnce({ connectionString: url(dbname), taskList: { mail: count } });
  expect("graphile-worker, one that exits does not take it over", ran, 0);
  const runner = await run({ connectionString: url(dbname), taskList: { mail: count }, pollInterval: 500 });
  for (let i = 0; i < 700 && ran === 0; i++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await runner.stop();
  expect("graphile-worker, one that stays does", ran, 1);
  await utils.release();
  await client.end();
}

await pgBoss();
await graphileWorker();
console.log(wrong ? `${wrong} wrong` : "all right");
process.exit(wrong ? 1 : 0);
