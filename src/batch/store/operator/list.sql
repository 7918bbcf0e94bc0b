-- list: claps and requests, the newest first
SELECT m.id, coalesce(c.status, 'PENDING') AS status,
       coalesce(c.iteration, 0) AS iteration, coalesce(c.interruptions, 0) AS interruptions,
       coalesce(c.max_attempts, m.max_attempts) AS max_attempts,
       m.duration_seconds, m.payload, m.request_key, m.requested_at,
       c.created_at, c.started_at, c.finished_at, c.lease_expires_at, c.next_attempt_at, c.cancel_requested_at,
       c.session_id, c.job_uid, c.job_name, c.pod_name, c.exit_code, c.last_error
  FROM make_it_clap m
  LEFT JOIN clap c USING (id)
 WHERE ($1::text[] IS NULL OR coalesce(c.status, 'PENDING') = ANY ($1))
   AND ($2::text IS NULL OR $2 IN (c.job_uid, c.job_name))
   AND ($3::float8 IS NULL
        OR coalesce(c.finished_at, c.started_at, m.requested_at) >= now() - make_interval(secs => $3))
   AND ($4::bigint IS NULL OR m.id = $4)
 ORDER BY m.id DESC
 LIMIT $5
