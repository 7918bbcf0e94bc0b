SELECT claimable, claimable + held AS outstanding, 0 AS stalled, 0 AS unknown, next_change
FROM {schema}clap_backlog
