// Prints the statements by which pg-boss and graphile-worker hand out jobs and take them back, as JSON for states.py. Called in a
// directory that has both packages.

import { join } from "node:path";
import { pathToFileURL } from "node:url";

const inPackage = (path) => pathToFileURL(join(process.cwd(), "node_modules", path));
const plans = await import(inPackage("pg-boss/dist/plans.js"));
const { batchGetJobs } = (await import(inPackage("graphile-worker/dist/sql/getJobs.js"))).default;
const { resetLockedAt } = (await import(inPackage("graphile-worker/dist/sql/resetLockedAt.js"))).default;

const policies = ["standard", "short", "singleton", "stately", "exclusive", "key_strict_fifo"];
const fetch = (policy) => [
  policy,
  plans.fetchNextJob({ schema: "pgboss", table: "job", name: policy, policy, limit: 1, includeMetadata: false }).text,
];

// What graphile-worker asks is written down and answered with the tasks that states.py makes.
const asked = [];
const withRetries = (callback) =>
  callback({
    query: async ({ text }) => {
      asked.push(text);
      return { rows: [{ id: 1, identifier: "mail" }, { id: 2, identifier: "images" }] };
    },
  });
const options = {
  escapedWorkerSchema: "graphile_worker",
  workerSchema: "graphile_worker",
  resolvedPreset: { worker: { preparedStatements: false, useNodeTime: false } },
};
await batchGetJobs(options, { withRetries }, { mail: null, images: null }, "worker", null, 1);
const getJob = asked.at(-1);
await resetLockedAt(options, { withRetries });

console.log(
  JSON.stringify({
    policies,
    fetch: Object.fromEntries(policies.map(fetch)),
    fail: [
      plans.failJobsByTimeout("pgboss", "job", policies, true),
      plans.failJobsByHeartbeat("pgboss", "job", policies, true),
    ],
    getJob,
    resetLockedAt: asked.at(-1),
  }),
);
