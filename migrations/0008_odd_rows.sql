-- 0008_odd_rows: a row that an application, an operator or a restore has left in an odd state stops no other row, and
-- starts no Job for nothing.

-- `pending` means "no clap row yet", whatever is written into it: an ORM that reads a request, edits a column and saves
-- all of it would set it again while the request is worked on. The tables' own triggers know what they write. It runs as
-- its owner, since an application that writes requests need not be allowed to read `clap`.
CREATE FUNCTION clap_keep_pending() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    NEW.pending := NOT EXISTS (SELECT 1 FROM clap WHERE id = NEW.id);
    RETURN NEW;
END $$;

CREATE TRIGGER clap_keep_pending_inserted BEFORE INSERT ON make_it_clap
    FOR EACH ROW WHEN (NOT NEW.pending) EXECUTE FUNCTION clap_keep_pending();

CREATE TRIGGER clap_keep_pending_updated BEFORE UPDATE OF pending, id ON make_it_clap
    FOR EACH ROW WHEN (pg_trigger_depth() = 0 AND (NEW.pending <> OLD.pending OR NEW.id <> OLD.id))
    EXECUTE FUNCTION clap_keep_pending();

UPDATE make_it_clap SET pending = false WHERE pending AND EXISTS (SELECT 1 FROM clap WHERE clap.id = make_it_clap.id);

-- A lease or a back-off without an end keeps its row for ever. New rows cannot have one; old ones are due now.
UPDATE clap
   SET lease_expires_at = CASE WHEN isfinite(lease_expires_at) THEN lease_expires_at ELSE now() END,
       next_attempt_at = CASE WHEN isfinite(next_attempt_at) THEN next_attempt_at ELSE now() END
 WHERE status IN ('RUNNING', 'FAILED') AND NOT (isfinite(lease_expires_at) AND isfinite(next_attempt_at));

-- Not validated: that would keep claims waiting while all of a long history is read.
ALTER TABLE clap
    ADD CONSTRAINT clap_waits_end CHECK (isfinite(lease_expires_at) AND isfinite(next_attempt_at)) NOT VALID,
    ADD CONSTRAINT clap_iteration_has_room CHECK (iteration < 1000000000) NOT VALID;
