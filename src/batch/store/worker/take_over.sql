-- take_over: takes over a clap whose lease has expired or whose back-off is over, whichever Job had it
WITH pick AS MATERIALIZED (
    SELECT id, status = 'RUNNING' AND unconfirmed AND interruptions < 10 AS is_free,
           greatest(iteration, (SELECT max(a.iteration) FROM clap_attempt a WHERE a.clap_id = clap.id)) AS last
      FROM clap
     WHERE status IN ('RUNNING', 'FAILED')
       AND next_attempt_at <= now()
       AND lease_expires_at <= now()
       AND (iteration - interruptions < max_attempts OR (status = 'RUNNING' AND unconfirmed AND interruptions < 10))
       AND NOT EXISTS (SELECT 1 FROM clap_attempt WHERE job_uid = $2)
       AND NOT EXISTS (SELECT 1 FROM clap_voided_session WHERE session_id = $1)
       -- Those that nobody can work on are left to mark_dead, and many of them hide no other.
       AND (SELECT true FROM make_it_clap m WHERE m.id = clap.id)
       AND greatest(iteration, (SELECT max(a.iteration) FROM clap_attempt a WHERE a.clap_id = clap.id)) < 999999999
     ORDER BY next_attempt_at   -- as in the index: a hundred thousand may be due since the same moment
     LIMIT 1
       FOR NO KEY UPDATE SKIP LOCKED
)
