-- statuses: the states of some claps
SELECT m.id, coalesce(c.status, 'PENDING') AS status FROM make_it_clap m LEFT JOIN clap c USING (id) WHERE m.id = ANY ($1)
