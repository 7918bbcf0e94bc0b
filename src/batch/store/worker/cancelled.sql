-- cancelled: records that the work was stopped because an operator asked for it
WITH done AS (
    UPDATE clap
       SET status = 'CANCELLED', finished_at = now(), lease_expires_at = now(), last_error = 'cancelled'
     WHERE id = $1 AND session_id = $2 AND (status = 'RUNNING') IS TRUE
    RETURNING session_id, status
), closed AS (
    UPDATE clap_attempt a
       SET outcome = 'CANCELLED', ended_at = now(), error = 'cancelled'
      FROM done
     WHERE a.session_id = done.session_id
)
SELECT status FROM done
