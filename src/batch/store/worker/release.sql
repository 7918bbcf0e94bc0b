-- release: gives the clap back, due at once; costs an attempt only when the free interruptions have run out
WITH earlier AS (   -- releases of a program that could not be started, with exit code 126, are no interruptions
    SELECT (count(*) < $3)::integer AS free FROM clap_attempt WHERE clap_id = $1 AND outcome = 'INTERRUPTED' AND exit_code IS NULL
), done AS (
    UPDATE clap
       SET interruptions = interruptions + free, finished_at = now(), lease_expires_at = now(),
           next_attempt_at = now(), last_error = 'interrupted',
           status = CASE WHEN iteration - interruptions - free >= max_attempts THEN 'DEAD' ELSE 'FAILED' END
      FROM earlier
     WHERE id = $1 AND session_id = $2 AND (status = 'RUNNING') IS TRUE
    RETURNING session_id, status
), closed AS (
    UPDATE clap_attempt a
       SET outcome = 'INTERRUPTED', ended_at = now(), error = 'SIGTERM'
      FROM done
     WHERE a.session_id = done.session_id
)
SELECT status FROM done
