-- retry: grants one more attempt, due now, for any Job; and makes a request pending whose clap is missing
WITH again AS (
    UPDATE clap
       SET status = 'FAILED', job_uid = NULL, job_name = NULL, cancel_requested_at = NULL,
           next_attempt_at = clock_timestamp(), lease_expires_at = now(),   -- times that differ keep the search of many short
           max_attempts = greatest(max_attempts, iteration - interruptions + 1)
     WHERE id = ANY ($1)
       AND status IN ('DEAD', 'FAILED', 'CANCELLED')
       AND iteration - interruptions < 32767   -- the largest max_attempts
       AND iteration < 999999999 AND (SELECT true FROM make_it_clap m WHERE m.id = clap.id)   -- nobody can work on others
    RETURNING id, status AS effect
), unseen AS (   -- as a restore may leave it: no worker would ever find it
    UPDATE make_it_clap m
       SET pending = true
     WHERE id = ANY ($1) AND NOT pending AND NOT EXISTS (SELECT 1 FROM clap WHERE clap.id = m.id)
    RETURNING id
)
SELECT id, effect FROM again
UNION ALL
SELECT id, 'PENDING' FROM unseen
