"""Presets that count wrongly: with KILLS_MUTANTS=1 the run of kills takes these, and has to find every one out."""

# What stands in the SQL that `clapometer presets` prints, once the run has set its own times, and what replaces it.
MUTANTS = {
    # Rows of dead workers count as free while the library still leaves them alone.
    "river": ("interval '5 s'", "interval '1 s'"),
    "oban": ("interval '5 s'", "interval '1 s'"),
    "apalis": ("interval '5 s'", "interval '1 s'"),
    "pgmq": ("m.vt > now() AND m.read_ct > 0 THEN 'held'", "m.vt > now() AND m.read_ct > 0 THEN 'claimable'"),
    # A key, a named queue or a lock counts as free while a row of it is held.
    "pg-boss": ("(is_expired AND retry_count >= retry_limit AND policy <> 'key_strict_fifo') IS NOT TRUE", "false"),
    "graphile-worker": ("AND NOT is_queue_held", ""),
    "procrastinate": ("(head.id <> j.id OR busy.id IS NOT NULL)", "head.id <> j.id"),
}
