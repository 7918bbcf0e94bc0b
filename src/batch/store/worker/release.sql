-- release: gives the clap back, due at once; costs an attempt only when the free interruptions have run out
WITH done AS (
    UPDATE clap
       SET interruptions = greatest(interruptions, least(interruptions + 1, $3)), finished_at = now(), lease_expires_at = now(),
           next_attempt_at = now(), last_error = 'interrupted',
           status = CASE WHEN iteration - greatest(interruptions, least(interruptions + 1, $3)) >= max_attempts THEN 'DEAD' ELSE 'FAILED' END
     WHERE id = $1 AND session_id = $2 AND status = 'RUNNING'
    RETURNING session_id, status
), closed AS (
    UPDATE clap_attempt a
       SET outcome = 'INTERRUPTED', ended_at = now(), error = 'SIGTERM'
      FROM done
     WHERE a.session_id = done.session_id
)
SELECT status FROM done
