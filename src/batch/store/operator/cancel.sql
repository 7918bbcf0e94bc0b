-- cancel: cancels at once what nobody works on, and sets a flag for the rest, which the next heartbeat sees
WITH req AS (
    SELECT id, max_attempts FROM make_it_clap WHERE id = ANY ($1) AND pending FOR NO KEY UPDATE
), never AS (
    INSERT INTO clap (id, status, session_id, max_attempts, finished_at, last_error)
    SELECT id, 'CANCELLED', 0, max_attempts, now(), 'cancelled before the first attempt' FROM req
        ON CONFLICT (id) DO NOTHING
    RETURNING id
), idle AS (
    UPDATE clap
       SET status = 'CANCELLED', finished_at = now(), cancel_requested_at = now(), last_error = 'cancelled'
     WHERE id = ANY ($1) AND (status = 'FAILED' OR (status = 'RUNNING' AND lease_expires_at <= now()))
    RETURNING id
), lost AS (
    UPDATE clap_attempt a
       SET outcome = 'LOST', ended_at = now(), error = 'lease expired'
      FROM idle
     WHERE a.clap_id = idle.id AND a.outcome = 'RUNNING'
), live AS (
    UPDATE clap
       SET cancel_requested_at = now()
     WHERE id = ANY ($1) AND status = 'RUNNING' AND lease_expires_at > now()
    RETURNING id
)
SELECT id, 'CANCELLED' AS effect FROM never
UNION ALL
SELECT id, 'CANCELLED' FROM idle
UNION ALL
SELECT id, 'REQUESTED' FROM live
