-- request: what a claim that did not read its request works on
SELECT duration_seconds, payload::text AS payload, request_key,
       coalesce(to_char(requested_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), requested_at::text) AS requested_at
  FROM make_it_clap
 WHERE id = $1
