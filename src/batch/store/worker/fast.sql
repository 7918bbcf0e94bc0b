-- fast: takes over the first clap that is due; if none is, takes a request that nobody has tried
SELECT id, iteration, max_attempts, cancel_requested, duration_seconds, payload, job_attempts, request_key, requested_at
  FROM clap_take($1, $2, $3, $4, $5, $6, unless_due => true, unconfirmed => true, lock => $7)
