-- 0005_truncation: what TRUNCATE removes is pending again, as what DELETE removes is; row triggers do not see it.

-- search_path is pinned, as that of clap_sync_pending is.
CREATE FUNCTION clap_sync_truncated() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE make_it_clap SET pending = true WHERE NOT pending;
    RETURN NULL;
END $$;

CREATE TRIGGER clap_sync_truncated AFTER TRUNCATE ON clap FOR EACH STATEMENT EXECUTE FUNCTION clap_sync_truncated();
