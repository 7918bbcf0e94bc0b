-- prunable: how many claps prune would delete
SELECT status, count(*) AS claps
  FROM clap
 WHERE status = ANY ($1)
   AND status IN ('SUCCESS', 'DEAD', 'CANCELLED')
   AND finished_at < now() - make_interval(secs => $2)
 GROUP BY status
 ORDER BY status
