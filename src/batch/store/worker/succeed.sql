-- succeed: records the work as done; no row means that the clap belongs to somebody else now
SELECT status FROM clap_succeed($1, $2)
