-- Settings that cannot be had in a job as easily as in its launcher.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

-- The context of an error or notice names a PID.
\set SHOW_CONTEXT never

-- No process ends but by what is tested.
SELECT current_database() AS db \gset
ALTER DATABASE :db SET pg_background.idle_timeout = '1h';

--
-- Hardening 16: settings that exclude one another, one of which a new session has
--

ALTER DATABASE :db SET log_statement_stats = on;
\c -
\set SHOW_CONTEXT never
SELECT run('SHOW log_statement_stats');
SET log_statement_stats = off;
SET log_parser_stats = on;
SET log_planner_stats = on;
SELECT run('SELECT current_setting(''log_statement_stats'') || current_setting(''log_parser_stats'') || current_setting(''log_planner_stats'')');
RESET log_planner_stats;
RESET log_parser_stats;
RESET log_statement_stats;
SELECT run('SELECT current_setting(''log_statement_stats'') || current_setting(''log_parser_stats'') || current_setting(''log_planner_stats'')');

ALTER DATABASE :db RESET log_statement_stats;
\c -
ALTER DATABASE :db SET log_parser_stats = on;
\c -
\set SHOW_CONTEXT never
SET log_parser_stats = off;
SET log_statement_stats = on;
SELECT run('SELECT current_setting(''log_statement_stats'') || current_setting(''log_parser_stats'')');
RESET log_statement_stats;
RESET log_parser_stats;
SELECT run('SELECT current_setting(''log_statement_stats'') || current_setting(''log_parser_stats'')');
ALTER DATABASE :db RESET log_parser_stats;

-- One that cannot be made at all is still an error, of every job.
\c -
\set SHOW_CONTEXT never
CREATE TEXT SEARCH CONFIGURATION regress_config (COPY = simple);
SET default_text_search_config = 'public.regress_config';
DROP TEXT SEARCH CONFIGURATION regress_config;
SELECT run('SELECT ''not reached''');
RESET default_text_search_config;

--
-- Hardening 41: settings of a library that is loaded in the worker, but not here
--

CREATE ROLE regress_plain IN ROLE pgbackground_role;
\c -
\set SHOW_CONTEXT never
-- Whatever the server's settings are
SET pg_background.max_idle_workers = 10;
SET ROLE regress_plain;
SELECT run('DO ''BEGIN END''; SELECT pg_backend_pid()::text') AS pid \gset

-- a value that it does not know
SET plpgsql.extra_warnings = 'nonsense';
SELECT run('SELECT concat_ws('' '', ''in the same process'', pg_backend_pid() = ' || :pid || ', current_setting(''plpgsql.extra_warnings''))');
-- the warning has been given, and is not repeated
SELECT run('SELECT current_setting(''plpgsql.extra_warnings'')');
SELECT run('SET work_mem = 77777; SELECT ''changed''');
SELECT run('SELECT concat_ws('' '', ''in the same process'', pg_backend_pid() = ' || :pid || ', current_setting(''work_mem'') = ''77777kB'')');
RESET plpgsql.extra_warnings;

-- one that takes a privilege
SET plpgsql.variable_conflict = 'use_column';
SELECT run('SELECT current_setting(''plpgsql.variable_conflict'')');
RESET plpgsql.variable_conflict;

-- and one that all is well with
SET plpgsql.extra_errors = 'too_many_rows';
SELECT run('SELECT current_setting(''plpgsql.extra_errors'')');
RESET plpgsql.extra_errors;

-- a name that it does not know, of which 14 does not complain
SET client_min_messages = error;
SET plpgsql.no_such = 1;
SELECT run('SELECT ''in the same process '' || (pg_backend_pid() = ' || :pid || ')');
SELECT run('SELECT ''in the same process '' || (pg_backend_pid() = ' || :pid || ')');
RESET client_min_messages;
RESET ROLE;

-- of a user who has the privilege
\c -
\set SHOW_CONTEXT never
SET pg_background.max_idle_workers = 10;
SELECT run('DO ''BEGIN END''; SELECT ''loaded''');
SET plpgsql.variable_conflict = 'use_column';
SELECT run('SELECT current_setting(''plpgsql.variable_conflict'')');

\c -
DROP OWNED BY regress_plain;
DROP ROLE regress_plain;
ALTER DATABASE :db RESET pg_background.idle_timeout;
DROP EXTENSION pg_background CASCADE;
