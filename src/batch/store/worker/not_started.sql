-- not_started: gives the clap back whose program could not be started: that costs no attempt, and is not due at once
WITH earlier AS (
    SELECT count(*) AS releases FROM clap_attempt WHERE clap_id = $1 AND outcome = 'INTERRUPTED' AND exit_code = 126
), done AS (
    UPDATE clap
       SET status = 'FAILED', interruptions = interruptions + 1, finished_at = now(), exit_code = 126, last_error = $3,
           lease_expires_at = now(),
           next_attempt_at = now()
               + make_interval(secs => least($5, $4 * power(2, least(releases, 60))) * (0.9 + 0.2 * random()))
      FROM earlier
     WHERE id = $1 AND session_id = $2 AND (status = 'RUNNING') IS TRUE
    RETURNING session_id, status
), closed AS (
    UPDATE clap_attempt a
       SET outcome = 'INTERRUPTED', ended_at = now(), exit_code = 126, error = $3
      FROM done
     WHERE a.session_id = done.session_id
)
SELECT status FROM done
