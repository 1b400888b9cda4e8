-- Views call functions as whoever reads them, so they show what that role may see.

CREATE OR REPLACE VIEW pg_background_list AS
SELECT l.pid, l.cookie, l.launched_at, l.user_id, l.queue_size, l.state,
       l.sql_preview, l.last_error, l.consumed, l.label
FROM pg_background_list_v2() AS l (pid int4, cookie int8, launched_at timestamptz, user_id oid,
    queue_size int4, state text, sql_preview text, last_error text, consumed bool, label text);

CREATE OR REPLACE VIEW pg_background_activity AS
SELECT l.pid, l.cookie, l.launched_at, l.user_id, l.queue_size, l.state AS pgbg_state,
       l.sql_preview, l.last_error, l.consumed, l.label,
       a.state AS backend_state, a.wait_event_type, a.wait_event,
       a.xact_start, a.query_start, a.backend_start, a.query
FROM pg_background_list l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid AND l.state IN ('starting', 'running');

COMMENT ON VIEW pg_background_list
IS 'the jobs of this session';
COMMENT ON VIEW pg_background_activity
IS 'the jobs of this session, and what the server shows of those that run';
