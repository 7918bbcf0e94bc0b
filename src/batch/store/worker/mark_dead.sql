-- mark_dead: marks claps as DEAD whose last attempt crashed; an attempt that was never confirmed costs nothing
WITH pick AS MATERIALIZED (
    SELECT id
      FROM clap
     WHERE status = 'RUNNING'
       AND next_attempt_at <= now()
       AND lease_expires_at <= now()
       AND iteration - interruptions >= max_attempts
       AND NOT (unconfirmed AND interruptions < 10)
     ORDER BY next_attempt_at
     LIMIT 100
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
