-- mark_dead: marks claps as DEAD whose last attempt crashed; an attempt that was never confirmed costs nothing
WITH due AS MATERIALIZED (   -- the first ten, so that a hundred thousand that are due cost no more
    SELECT id
      FROM clap
     WHERE status IN ('RUNNING', 'FAILED') AND next_attempt_at <= now() AND lease_expires_at <= now()
     ORDER BY next_attempt_at
     LIMIT 10
), pick AS MATERIALIZED (
    SELECT id
      FROM clap
     WHERE id IN (SELECT id FROM due)
       AND (status = 'RUNNING') IS TRUE
       AND next_attempt_at <= now()
       AND lease_expires_at <= now()
       AND iteration - interruptions >= max_attempts
       AND NOT (unconfirmed AND interruptions < 10)
       FOR NO KEY UPDATE SKIP LOCKED
), lost AS (
    UPDATE clap_attempt a
       SET outcome = 'LOST', ended_at = now(), error = 'lease expired'
      FROM pick
     WHERE a.clap_id = pick.id AND a.outcome = 'RUNNING'
)
UPDATE clap c
   SET status = 'DEAD', finished_at = now(), last_error = 'lease expired on the last attempt'
  FROM pick
 WHERE c.id = pick.id
RETURNING c.id
