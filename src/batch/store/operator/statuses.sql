-- statuses: the states of some claps
SELECT m.id, coalesce(c.status, 'PENDING') AS status FROM make_it_clap m LEFT JOIN clap c USING (id) WHERE m.id = ANY ($1)
UNION ALL
SELECT c.id, c.status FROM clap c WHERE c.id = ANY ($1) AND NOT EXISTS (SELECT 1 FROM make_it_clap m WHERE m.id = c.id)
