-- mark_dead: marks claps as DEAD whose last attempt crashed, and those that nobody can work on; an attempt that was never
-- confirmed costs nothing
WITH due AS MATERIALIZED (   -- the first ten, so that a hundred thousand that are due cost no more; and this Job's own
    (SELECT id
       FROM clap
      WHERE status IN ('RUNNING', 'FAILED') AND next_attempt_at <= now() AND lease_expires_at <= now()
      ORDER BY next_attempt_at
      LIMIT 10)
    UNION
    SELECT id FROM clap WHERE status IN ('RUNNING', 'FAILED') AND job_uid = $1
), stray AS MATERIALIZED (
    SELECT id,
           CASE WHEN (SELECT true FROM make_it_clap m WHERE m.id = clap.id) IS NULL THEN 'its request is missing'
                WHEN greatest(iteration, (SELECT max(a.iteration) FROM clap_attempt a WHERE a.clap_id = clap.id)) >= 999999999
                THEN 'its attempts have no higher number left' END AS reason
      FROM clap
     WHERE id IN (SELECT id FROM due)
), pick AS MATERIALIZED (   -- locks no other row: a claim would pass it over
    SELECT id, coalesce(reason, 'lease expired on the last attempt') AS reason
      FROM clap
      JOIN stray USING (id)
     WHERE (status IN ('RUNNING', 'FAILED')) IS TRUE
       AND (next_attempt_at <= now() OR job_uid = $1)
       AND (lease_expires_at <= now() OR status = 'FAILED' AND job_uid = $1 AND reason IS NOT NULL)   -- reserved for this Job: it would wait in vain
       AND (reason IS NOT NULL
            OR status = 'RUNNING' AND iteration - interruptions >= max_attempts AND NOT (unconfirmed AND interruptions < 10))
       FOR NO KEY UPDATE OF clap SKIP LOCKED
), lost AS (
    UPDATE clap_attempt a
       SET outcome = 'LOST', ended_at = now(), error = 'lease expired'
      FROM pick
     WHERE a.clap_id = pick.id AND a.outcome = 'RUNNING'
)
UPDATE clap c
   SET status = 'DEAD', finished_at = now(), last_error = pick.reason
  FROM pick
 WHERE c.id = pick.id
RETURNING c.id, c.last_error AS reason
