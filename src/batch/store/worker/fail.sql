-- fail: records a failure; another attempt follows unless its attempts are spent or the failure is permanent
WITH done AS (
    UPDATE clap
       SET finished_at = now(), exit_code = $3, last_error = $4,
           status = CASE WHEN $5 OR iteration - interruptions >= max_attempts THEN 'DEAD' ELSE 'FAILED' END,
           lease_expires_at = now() + make_interval(secs => $6),
           next_attempt_at = now()
               + make_interval(secs => least($8, $7 * power(2, least(iteration - interruptions - 1, 60))) * (0.9 + 0.2 * random()))
     WHERE id = $1 AND session_id = $2 AND (status = 'RUNNING') IS TRUE
    RETURNING session_id, status
), closed AS (
    UPDATE clap_attempt a
       SET outcome = 'FAILED', ended_at = now(), exit_code = $3, error = $4
      FROM done
     WHERE a.session_id = done.session_id
)
SELECT status FROM done
