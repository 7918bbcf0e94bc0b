-- backlog: what there is to do
SELECT pending, due, claimable, held, reserved, waiting, extract(epoch FROM next_change - now())::float8 AS next_change
  FROM clap_backlog
