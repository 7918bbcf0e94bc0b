-- prune: deletes one batch of claps that ended long ago
WITH old AS MATERIALIZED (
    SELECT id
      FROM clap
     WHERE status = ANY ($1)
       AND status IN ('SUCCESS', 'DEAD', 'CANCELLED')   -- the index's own words: a plan that does not know $1 can use it
       AND finished_at < now() - make_interval(secs => $2)
     ORDER BY finished_at
     LIMIT $3
       FOR NO KEY UPDATE SKIP LOCKED
), requests AS (   -- and with them their claps
    DELETE FROM make_it_clap m
     USING old
     WHERE m.id = old.id
    RETURNING m.id
), strays AS (   -- claps without a request, as a restore may leave them
    DELETE FROM clap c
     USING old
     WHERE c.id = old.id AND NOT EXISTS (SELECT 1 FROM make_it_clap m WHERE m.id = old.id)
    RETURNING c.id
)
SELECT id FROM requests
UNION ALL
SELECT id FROM strays
