-- prune: deletes one batch of claps that ended long ago
WITH old AS (
    SELECT id
      FROM clap
     WHERE status = ANY ($1)
       AND status IN ('SUCCESS', 'DEAD', 'CANCELLED')   -- the index's own words: a plan that does not know $1 can use it
       AND finished_at < now() - make_interval(secs => $2)
     ORDER BY finished_at
     LIMIT $3
       FOR NO KEY UPDATE SKIP LOCKED
)
DELETE FROM make_it_clap m
 USING old
 WHERE m.id = old.id
RETURNING m.id
