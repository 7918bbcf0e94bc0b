-- function: the text of a function
SELECT prosrc FROM pg_proc WHERE oid = $1::text::regproc
