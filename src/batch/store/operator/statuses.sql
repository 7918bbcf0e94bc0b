-- statuses: the states of some claps, and why nobody could work on them once more
SELECT m.id, coalesce(c.status, 'PENDING') AS status,
       CASE WHEN c.iteration >= 999999999 THEN 'its attempts have no higher number left'
            WHEN c.iteration - c.interruptions >= 32767 THEN 'it has had as many attempts as there can be' END AS reason
  FROM make_it_clap m
  LEFT JOIN clap c USING (id)
 WHERE m.id = ANY ($1)
UNION ALL
SELECT c.id, c.status, 'its request is missing'
  FROM clap c
 WHERE c.id = ANY ($1) AND NOT EXISTS (SELECT 1 FROM make_it_clap m WHERE m.id = c.id)
