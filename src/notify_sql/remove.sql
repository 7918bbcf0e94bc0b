-- Removes what `clapometer notify-sql` made for this table. One statement, all or nothing; it may be run again.
DO {outer}
DECLARE
    lock_timeout pg_catalog.text := pg_catalog.current_setting('lock_timeout');
    present pg_catalog.name;
BEGIN
    -- Better a trigger for a while longer than a queue of writers behind us.
    PERFORM pg_catalog.set_config('lock_timeout', '2s', true);
    FOR present IN
        SELECT tgname
          FROM pg_catalog.pg_trigger
         WHERE tgrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({table_text})
           AND NOT tgisinternal
           AND tgname OPERATOR(pg_catalog.=) ANY (ARRAY['clapometer_notify', 'clapometer_notify_truncate']::pg_catalog.name[])
    LOOP
        EXECUTE pg_catalog.format('DROP TRIGGER %I ON %s', present, {table_text});
    END LOOP;
    DROP FUNCTION IF EXISTS {function}();
    PERFORM pg_catalog.set_config('lock_timeout', lock_timeout, true);
END
{outer};
