-- new: a request that nobody has taken yet
WITH pick AS MATERIALIZED (
    SELECT id, max_attempts, duration_seconds, payload
      FROM make_it_clap
     WHERE pending
       AND NOT EXISTS (SELECT 1 FROM clap_attempt WHERE job_uid = $2)
     ORDER BY id
     LIMIT 1
       FOR NO KEY UPDATE SKIP LOCKED
)
