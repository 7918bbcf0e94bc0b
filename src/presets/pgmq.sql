SELECT CASE
         WHEN m.vt > now() AND m.read_ct > 0 THEN 'held'
         WHEN m.vt > now() THEN 'waiting'
         WHEN {is_below_max_reads} THEN 'claimable'
         ELSE 'stalled'
       END AS state,
       CASE WHEN m.vt > now() THEN m.vt END AS next_change
FROM {schema}{queue_table} AS m
