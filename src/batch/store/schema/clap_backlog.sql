CREATE VIEW clap_backlog AS
WITH p AS (
    SELECT count(*) AS n
      FROM (SELECT 1 FROM make_it_clap WHERE pending ORDER BY id LIMIT 100000) s
), a AS MATERIALIZED (
    SELECT status, lease_expires_at, next_attempt_at
      FROM clap
     WHERE status IN ('RUNNING', 'FAILED') AND next_attempt_at <= now()
     ORDER BY next_attempt_at
     LIMIT 200000
), w AS MATERIALIZED (
    SELECT status, lease_expires_at, next_attempt_at
      FROM clap
     WHERE status IN ('RUNNING', 'FAILED') AND next_attempt_at > now()
     ORDER BY next_attempt_at
     LIMIT 100000
), c AS (
    SELECT count(*) FILTER (WHERE lease_expires_at <= now()) AS due,
           count(*) FILTER (WHERE lease_expires_at > now()) AS held,
           count(*) FILTER (WHERE lease_expires_at > now() AND status = 'FAILED') AS reserved,
           min(lease_expires_at) FILTER (WHERE lease_expires_at > now()) AS next_lease
      FROM a
), d AS (
    SELECT count(*) FILTER (WHERE lease_expires_at > now()) AS held,
           count(*) FILTER (WHERE lease_expires_at > now() AND status = 'FAILED') AS reserved,
           count(*) FILTER (WHERE lease_expires_at <= now()) AS waiting,
           min(greatest(next_attempt_at, lease_expires_at)) AS next_due
      FROM w
)
SELECT p.n AS pending,
       c.due,
       p.n + c.due AS claimable,
       c.held + d.held AS held,
       c.reserved + d.reserved AS reserved,
       d.waiting,
       least(c.next_lease, d.next_due) AS next_change
  FROM p, c, d;
