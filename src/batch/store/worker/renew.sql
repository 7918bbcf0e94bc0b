-- renew: renews the lease and confirms the attempt; no row means that the clap belongs to somebody else now
UPDATE clap
   SET lease_expires_at = now() + make_interval(secs => $3), unconfirmed = false
 WHERE id = $1 AND session_id = $2 AND (status = 'RUNNING') IS TRUE
RETURNING cancel_requested_at IS NOT NULL AS cancel_requested
