, lost AS (
    UPDATE clap_attempt a
       SET outcome = 'LOST', ended_at = coalesce(ended_at, now()),
           error = CASE WHEN a.outcome = 'SUCCESS' THEN 'succeeded, and somebody made its clap due again'
                        WHEN pick.is_free THEN 'lease expired before the program was started'
                        ELSE 'lease expired' END
      FROM pick
     WHERE a.clap_id = pick.id AND a.outcome IN ('RUNNING', 'SUCCESS')   -- one attempt is open, and one at most succeeds
    RETURNING a.clap_id
), taken AS (
    UPDATE clap c
       SET status = 'RUNNING', iteration = pick.last + 1,
           interruptions = c.interruptions + (pick.last - c.iteration) + pick.is_free::integer,
           session_id = $1, job_uid = $2, job_name = $3, pod_name = $4,
           started_at = clock_timestamp(),   -- this transaction may have begun, and waited, before the last attempt's end was recorded
           lease_expires_at = now() + make_interval(secs => $6), next_attempt_at = now(),
           exit_code = NULL, last_error = NULL, unconfirmed = true
      FROM pick, (SELECT count(*) FROM lost) AS closed_first   -- siblings have no order: this closes the old attempt first
     WHERE c.id = pick.id
    RETURNING c.id, c.iteration, c.max_attempts, c.started_at
), opened AS (
    INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, job_name, pod_name, node_name, started_at)
    SELECT id, iteration, $1, $2, $3, $4, $5, started_at FROM taken
)
SELECT id, iteration, max_attempts, (SELECT count(*) FROM clap_attempt WHERE job_uid = $2) + 1 AS job_attempts
  FROM taken
