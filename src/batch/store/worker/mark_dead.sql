-- mark_dead: marks claps as DEAD whose last attempt crashed; an attempt that was never confirmed costs nothing
WITH due AS MATERIALIZED (   -- the first that are due, so that this reads no further when a hundred thousand are
    SELECT id
      FROM clap
     WHERE status IN ('RUNNING', 'FAILED')
       AND next_attempt_at <= now()
       AND next_attempt_at >= (SELECT due_from FROM clap_search)
       AND lease_expires_at <= now()
     ORDER BY next_attempt_at
     LIMIT 100
), pick AS MATERIALIZED (
    SELECT c.id
      FROM due
      JOIN clap c USING (id)
     WHERE (c.status = 'RUNNING') IS TRUE
       AND c.lease_expires_at <= now()
       AND iteration - interruptions >= max_attempts
       AND NOT (unconfirmed AND interruptions < 10)
       FOR NO KEY UPDATE OF c SKIP LOCKED
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
