-- quick: as new, if no clap is due; then nobody has to be buried either, and most claims need no other statement
WITH pick AS MATERIALIZED (
    SELECT id, max_attempts, duration_seconds, payload
      FROM make_it_clap
     WHERE pending
       AND NOT EXISTS (SELECT 1 FROM clap_attempt WHERE job_uid = $2)
       AND NOT EXISTS (SELECT 1 FROM clap WHERE status IN ('RUNNING', 'FAILED') AND next_attempt_at <= now() AND lease_expires_at <= now())
     ORDER BY id
     LIMIT 1
       FOR NO KEY UPDATE SKIP LOCKED
)
