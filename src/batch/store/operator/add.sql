-- add: adds requests, all alike; adds nothing if a request has the key already
INSERT INTO make_it_clap (duration_seconds, payload, max_attempts, request_key)
SELECT $2, $3::text::jsonb, $4, $5
  FROM generate_series(1, $1)
    ON CONFLICT (request_key) DO NOTHING
RETURNING id
