-- previous_clap: the clap that this Job had before; at most one of its rows is live
SELECT c.id, c.status, c.job_uid IS NOT DISTINCT FROM $1 AS mine, c.iteration - c.interruptions >= c.max_attempts AS spent,
       extract(epoch FROM c.lease_expires_at - now())::float8 AS lease_seconds
  FROM clap_attempt a
  JOIN clap c ON c.id = a.clap_id
 WHERE a.job_uid = $1
 ORDER BY a.started_at DESC
 LIMIT 1
