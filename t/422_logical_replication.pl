# Hardening 26: a job that a trigger launches in a logical replication worker
# checks what it writes as a job of any session does. The worker itself does not:
# it applies what was checked elsewhere.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $conf = <<'END';
wal_level = logical
max_wal_senders = 4
max_replication_slots = 4
wal_retrieve_retry_interval = 100ms
END
my $publisher = new_server('publisher', $conf);
my $subscriber = new_server('subscriber', $conf);

$publisher->safe_psql('postgres', <<'END');
CREATE TABLE entries (id int PRIMARY KEY, kind text);
CREATE PUBLICATION entries FOR TABLE entries;
END

# What the trigger launches, and what became of it
$subscriber->safe_psql('postgres', <<'END');
CREATE TABLE entries (id int PRIMARY KEY, kind text);
CREATE TABLE kinds (kind text PRIMARY KEY);
INSERT INTO kinds VALUES ('known');
CREATE TABLE log (id int, kind text REFERENCES kinds, settings text);
CREATE TABLE outcomes (id int, sqlstate text);
CREATE FUNCTION log_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.outcomes SELECT new.id, sqlstate
	FROM public.pg_background_run_v2(format(
		'INSERT INTO log SELECT %L, %L, concat_ws('' '', current_setting(''session_replication_role''), current_setting(''synchronous_commit''), current_setting(''search_path''))',
		new.id, new.kind));
	RETURN NULL;
END $$;
CREATE FUNCTION log_path() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
	INSERT INTO paths SELECT path
	FROM pg_background_run_query_v2('SHOW search_path') AS (path text);
	RETURN NULL;
END $$;
CREATE TABLE paths (path text);
CREATE TRIGGER log_path AFTER INSERT ON entries FOR EACH ROW EXECUTE FUNCTION log_path();
ALTER TABLE entries ENABLE ALWAYS TRIGGER log_path;
CREATE TRIGGER log_entry AFTER INSERT ON entries FOR EACH ROW EXECUTE FUNCTION log_entry();
ALTER TABLE entries ENABLE ALWAYS TRIGGER log_entry;
END

my $connstr = $publisher->connstr . ' dbname=postgres';
$subscriber->safe_psql('postgres',
	"CREATE SUBSCRIPTION entries CONNECTION '$connstr' PUBLICATION entries WITH (copy_data = false)");
$publisher->safe_psql('postgres', q{INSERT INTO entries VALUES (1, 'known'), (2, 'unknown'), (3, 'known')});
$publisher->wait_for_catchup('entries');

is( $subscriber->safe_psql('postgres', 'SELECT * FROM outcomes ORDER BY id'),
	"1|\n2|23503\n3|",
	'Hardening 26: a job of a trigger of a subscription is checked');
is( $subscriber->safe_psql('postgres', 'SELECT * FROM log ORDER BY id'),
	"1|known|origin on \"\$user\", public\n3|known|origin on \"\$user\", public",
	'Hardening 26: what it may do is done, with its user\'s own settings');

is( $subscriber->safe_psql('postgres', 'SELECT DISTINCT path FROM paths'),
	'public, pg_temp', 'what the function has set is shared');

# An ordinary session that has set these has them in its jobs.
is( $subscriber->safe_psql('postgres', <<'END'),
SET session_replication_role = 'replica';
SET search_path = pg_catalog, public;
INSERT INTO entries VALUES (4, 'unknown');
SELECT * FROM outcomes WHERE id = 4;
SELECT * FROM log WHERE id = 4;
END
	"4|\n4|unknown|replica on pg_catalog, public",
	'a session that has set session_replication_role');

# A transaction that cannot be applied is tried again: what the trigger has run at once
# is run again, what it has submitted on commit is not.
$subscriber->safe_psql('postgres', <<'END');
CREATE TABLE gate ();
CREATE TABLE tried (id int);
CREATE TABLE applied (id int);
CREATE FUNCTION try() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.pg_background_exec('INSERT INTO tried VALUES ($1)', new.id);
	PERFORM public.pg_background_submit_on_commit(format('INSERT INTO applied VALUES (%s)', new.id));
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = 'open') THEN
		RAISE 'not now';
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER try AFTER INSERT ON entries FOR EACH ROW EXECUTE FUNCTION try();
ALTER TABLE entries ENABLE ALWAYS TRIGGER try;
END
$publisher->safe_psql('postgres', q{INSERT INTO entries VALUES (5, 'known')});
await($subscriber, 'SELECT count(*) > 1 FROM tried')
  or die 'the transaction was not tried again';
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM applied'), '0', 'nothing is submitted by what fails');
$subscriber->safe_psql('postgres', 'ALTER TABLE gate RENAME TO open');
$publisher->wait_for_catchup('entries');
await($subscriber, 'SELECT count(*) > 0 FROM applied')
  or die 'the job that was submitted on commit was not run';
wait_for_pool($subscriber, 'running = 0 AND queued = 0');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM applied'), '1', 'what was submitted on commit is run once');
$subscriber->safe_psql('postgres', 'DROP TRIGGER try ON entries');

# From 16 on, the trigger of a table of somebody else is run in a security-restricted
# operation.
if ($subscriber->pg_version >= 16)
{
	my $size = log_size($subscriber);

	$subscriber->safe_psql('postgres', <<'END');
CREATE ROLE app LOGIN IN ROLE pgbackground_role;
ALTER TABLE entries OWNER TO app;
GRANT ALL ON outcomes, log, paths, kinds TO app;
END
	$publisher->safe_psql('postgres', q{INSERT INTO entries VALUES (6, 'known')});
	wait_until('the apply worker has failed',
		sub { log_since($subscriber, $size) =~ /cannot launch a background job within security-restricted operation/ });
	is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM outcomes WHERE id = 6'), '0', q{a table that is not the subscription owner's});
	$subscriber->safe_psql('postgres', 'ALTER SUBSCRIPTION entries SET (run_as_owner = true)');
	$publisher->wait_for_catchup('entries');
	is($subscriber->safe_psql('postgres', 'SELECT * FROM outcomes WHERE id = 6'), '6|', 'run_as_owner');
}

$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION entries');
nothing_left($subscriber, 'subscriber');

done_testing();
