# A worker serves any session of its database and login user, one after the
# other, and nothing of one session's job is there for another's. What cannot be
# undone ends the process. Nobody else's session gets it, nor one that wants
# workers of its own, pg_background.share_workers.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

# No worker goes by itself, and there is one only: who needs it waits for it.
my $node = new_server('main', <<'END');
pg_background.idle_timeout = 1h
pg_background.launch_timeout = 1h
pg_background.max_total_workers = 1
wal_level = replica
max_wal_senders = 2
END
my $version = sql($node, 'SHOW server_version_num');
my $user = sql($node, 'SELECT current_user');

$node->safe_psql('postgres', <<'END');
CREATE ROLE plain LOGIN IN ROLE pgbackground_role;
CREATE ROLE hat IN ROLE pgbackground_role;
CREATE ROLE owner LOGIN IN ROLE pgbackground_role;
CREATE TABLE seen (a int);
CREATE SEQUENCE plain;
CREATE SEQUENCE cached CACHE 10;

-- What an expression gives, or what error
CREATE FUNCTION try(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE 'SELECT ' || expression INTO result;
	RETURN result;
EXCEPTION WHEN others THEN
	RETURN sqlstate;
END $$;

-- a plan with a function call that was replaced by its result
CREATE FUNCTION frozen() RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT current_setting('test.thaw', true) $$;
CREATE FUNCTION plan() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN frozen(); END $$;

CREATE FUNCTION definer() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$
	SELECT a FROM public.pg_background_launch_v2('SELECT session_user || $a$ $a$ || current_user') h,
		public.pg_background_result_v2(h.pid, h.cookie) AS (a text)
$$;
ALTER FUNCTION definer() OWNER TO owner;

SELECT pg_replication_origin_create('origin');
END

sub run
{
	my ($session, $sql) = @_;
	return $session->result($session->launch($sql), 'a text');
}

sub pid { return run($_[0], 'SELECT pg_backend_pid()::text') }

#
# Whose it is
#

my ($first, $second) = map { new_session($node) } 1 .. 2;
my $pid = pid($first);

is(pid($second), $pid, 'another session gets the same worker');
is(pid($first), $pid, 'and the first one again');

my $third = new_session($node);
is(pid($third), $pid, 'a worker outlives sessions: while there is one');
$third->quit;
wait_for_exit($node, $third->{pid});
is(pid($second), $pid, 'a worker outlives sessions: when it is gone');

my $plain = new_session($node, user => 'plain');
isnt(pid($plain), $pid, 'another user does not');
sql($node, 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION pg_background');
$pid = pid($first);
my $other = new_session($node, dbname => 'other');
isnt(pid($other), $pid, 'nor a session of another database');
$other->quit;
$plain->quit;

# The user is the one that has logged in, whatever he has become since.
$first->query('SET ROLE hat');
$pid = pid($first);
is(pid($second), $pid, 'a session that has set a role');
$first->query('RESET ROLE');

#
# What a job leaves: the next is another session's
#

# Commands, an expression, what it gives in the job, and in that of the other
# session; whether the process stays, where that is known.
sub gone
{
	my ($name, $commands, $expression, $during, $afterwards, $stays) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $look = "SELECT concat_ws('|', pg_backend_pid(), ($expression)::text)";

	foreach my $pair ([ $first, $second ], [ $second, $first ])
	{
		# Plans stay for more jobs of the same session.
		pid($pair->[1]);
		my ($pid, $was) = split /\|/, run($pair->[0], "$commands; $look");
		my ($next_pid, $is) = split /\|/, run($pair->[1], $look);

		is($was, $during, "$name: in the job") if defined $during;
		is($is // '', $afterwards, "$name: in the job of another session");
		is($next_pid == $pid ? 'stays' : 'ends', $stays, "$name: the process") if defined $stays;
	}
	return;
}

my $locks = q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()};

gone('prepared statements', 'PREPARE p AS SELECT 1', 'SELECT count(*) FROM pg_prepared_statements', 1, 0, 'stays');
gone('cursors', 'BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT', 'SELECT count(*) FROM pg_cursors', 1, 0, 'stays');
gone('advisory locks', 'DO $d$ BEGIN PERFORM pg_advisory_lock(1), pg_advisory_lock_shared(2); END $d$', $locks, 2, 0, 'stays');
gone('settings', "SET work_mem = '5MB'", "current_setting('work_mem')", '5MB', '4MB', 'stays');
gone('settings: all', 'SET enable_seqscan = off; SET search_path = nowhere; SET test.custom = 1; RESET ALL; SET test.custom = 2',
	q{concat_ws(' ', current_setting('enable_seqscan'), current_setting('search_path'), coalesce(current_setting('test.custom', true), ''))},
	'on "$user", public 2', 'on "$user", public ', 'stays');
gone('application_name', "SET application_name = 'job'", "current_setting('application_name') = 'job'", 'true', 'false', 'stays');
gone('client_encoding', 'SET client_encoding = LATIN1', "current_setting('client_encoding') = getdatabaseencoding()", 'false', 'true', 'stays');
gone('role', 'SET ROLE hat', q{session_user || ' ' || current_user}, "$user hat", "$user $user", 'stays');
gone('session authorization', 'SET SESSION AUTHORIZATION plain',
	q{session_user || ' ' || current_user}, 'plain plain', "$user $user", 'stays');
gone('currval', q{DO $d$ BEGIN PERFORM nextval('plain'); END $d$}, q{try($t$ currval('plain') > 0 $t$)}, 'true', '55000', 'stays');
gone('lastval', q{DO $d$ BEGIN PERFORM nextval('plain'); END $d$}, q{try('lastval() > 0')}, 'true', '55000', 'stays');
gone('a cached sequence', q{DO $d$ BEGIN PERFORM setval('cached', 1), nextval('cached'); END $d$}, q{nextval('cached')}, 3, 12, 'stays');
gone('a cached plan', q{SET test.thaw = 'job'}, 'plan()', 'job', '', 'stays');
gone('a replication origin', q{DO $d$ BEGIN PERFORM pg_replication_origin_session_setup('origin'); END $d$},
	'pg_replication_origin_session_is_setup()', 'true', 'false');
gone('a replication slot', q{DO $d$ BEGIN PERFORM pg_create_physical_replication_slot('slot', true, true); END $d$},
	q{SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'slot'}, 1, 0);
gone('temporary tables', 'CREATE TEMP TABLE temporary AS SELECT 1', q{to_regclass('pg_temp.temporary') IS NULL}, 'false', 'true');
gone('an open transaction', 'BEGIN; LOCK TABLE seen IN ACCESS SHARE MODE',
	q{SELECT count(*) FROM pg_locks WHERE relation = 'seen'::regclass AND pid = pg_backend_pid()}, 1, 0, 'stays');
gone('an open transaction of another kind', 'BEGIN ISOLATION LEVEL SERIALIZABLE', q{current_setting('transaction_isolation')},
	'serializable', 'read committed', 'stays');
gone('jobs of a job', q{SELECT 1}, 'SELECT count(*) FROM pg_background_list', 0, 0, 'stays');

# random numbers
my $numbers = q{SELECT setseed(0.25); SELECT string_agg(random()::text, ' ') FROM generate_series(1, 10)};
my $seeded = $second->query($numbers);
my $during = run($first, 'DO $d$ BEGIN PERFORM setseed(0.25); END $d$; SELECT random()::text');
my $next = run($second, 'SELECT random()::text');
like($seeded, qr/\Q$during\E /, 'random numbers: setseed() gives the same everywhere');
unlike($seeded, qr/\Q$next\E/, 'random numbers: not in the job of another session');

# a job that has failed
$pid = pid($first);
my $failed = $first->submit(q{SET work_mem = '5MB'; PREPARE p AS SELECT 1; SELECT 1 / 0});
$first->wait_for($failed);
is( run($second, q{SELECT concat_ws(' ', pg_backend_pid(), current_setting('work_mem'), (SELECT count(*) FROM pg_prepared_statements))}),
	"$pid 4MB 0", 'a job that has failed');

# what a session has asked for is for its own jobs
$first->query(q{SET work_mem = '7MB'; SET ROLE hat; SET default_transaction_read_only = on; SET statement_timeout = '1h'; SET pg_background.worker_timeout = '1h'});
my $look = q{SELECT concat_ws(' ', pg_backend_pid(), current_setting('work_mem'), current_user, current_setting('transaction_read_only'), current_setting('statement_timeout'), current_setting('pg_background.worker_timeout'))};
foreach (1 .. 3)
{
	is(run($first, $look), "$pid 7MB hat on 1h 1h", "settings of a session: turn $_");
	is(run($second, $look), "$pid 4MB $user off 0 0", "settings of another: turn $_");
}
$first->query('RESET ALL; RESET ROLE');

# a time-out
$first->query(q{SET pg_background.worker_timeout = '100ms'});
$first->fails(q{SELECT * FROM pg_background_run_query_v2('SELECT pg_sleep(1000)') AS (a text)}, '57014', qr/pg_background.worker_timeout|canceling/, 'a time-out');
$first->query('RESET pg_background.worker_timeout');
$second->query(q{SET pg_background.worker_timeout = '100ms'});
pid($second);
is(run($first, q{SELECT 'done' FROM pg_sleep(0.3)}), 'done', "another session's time-out");
$second->query('RESET pg_background.worker_timeout');

# progress and label
$first->query('SELECT pg_background_detach_all_v2()');
$first->query(q{SELECT pg_background_submit_v2('DO $d$ BEGIN PERFORM pg_background_progress(50, $m$half$m$); END $d$', 0, 'label')});
await($node, q{SELECT sum(running + queued) = 0 FROM pg_background_pool}) or die 'the job does not end';
is($first->query('SELECT label, (pg_background_get_progress_v2(pid, cookie)).progress_pct FROM pg_background_list'), 'label|50', 'progress and label');
my $next_job = $second->launch('SELECT pg_advisory_lock_shared(1)');
$second->wait_for($next_job);
is( $second->query("SELECT (pg_background_get_progress_v2($next_job)).progress_pct IS NULL, (pg_background_outcome_v2($next_job)).label IS NULL"),
	't|t', 'progress and label: not of the job of another session');
$_->query('SELECT pg_background_detach_all_v2()') foreach $first, $second;

# a function of another owner, whose worker is another
is($first->query('SELECT definer()'), 'owner owner', 'a job of a SECURITY DEFINER function');
is(run($second, q{SELECT session_user || ' ' || current_user}), "$user $user", 'a job of another session after it');

#
# What cannot be undone
#

my ($start) = $version >= 150000 ? q{pg_backup_start('job', true)} : q{pg_start_backup('job', true, false)};
gone('a base backup', "DO \$d\$ BEGIN PERFORM $start; END \$d\$", '1', 1, 1, 'ends');
foreach my $library (qw(dblink postgres_fdw))
{
  SKIP:
	{
		skip "$library is not installed", 1
		  if sql($node, "SELECT count(*) FROM pg_available_extensions WHERE name = '$library'") eq '0';
		my ($host, $port) = ($node->host, $node->port);

		$node->safe_psql('postgres', "CREATE EXTENSION $library");
		if ($library eq 'dblink')
		{
			my $connstr = $node->connstr('postgres');
			gone('dblink', "DO \$d\$ BEGIN PERFORM dblink_connect('kept', \$c\$$connstr\$c\$); END \$d\$",
				'dblink_get_connections()', '{kept}', '', 'ends');
		}
		else
		{
			$node->safe_psql('postgres', <<"END");
CREATE SERVER self FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR CURRENT_USER SERVER self;
CREATE FOREIGN TABLE remote (datname name) SERVER self OPTIONS (schema_name 'pg_catalog', table_name 'pg_database');
END
			gone('postgres_fdw', 'DO $d$ BEGIN PERFORM FROM remote; END $d$', '1', 1, 1, 'ends');
		}
	}
}

# a job that was canceled, or terminated
foreach my $how (qw(cancel terminate))
{
	my $job = $first->launch('SELECT pg_sleep(1000)');
	my ($pid) = split /, /, $job;
	wait_for_worker($node, $job, "wait_event = 'PgSleep'");
	sql($node, "SELECT pg_${how}_backend($pid)");
	$first->wait_for($job);
	isnt(pid($second), $pid, "$how: the process ends");
}

#
# The first interface: the PID is the handle, so it is not another's meanwhile
#

change_settings($node, 'pg_background.max_total_workers' => -1);
wait_for_pool($node, 'running = 0 AND idle = 1');
$pid = pid($first);
wait_for_pool($node, 'running = 0 AND idle = 1');
my $v1 = $first->query(q{SELECT pg_background_launch('SELECT pg_backend_pid()')::int});
is($v1, $pid, 'v1: a job gets a worker of the pool');
wait_for_pool($node, 'running = 0 AND idle = 1');
my $next_v1 = $first->query(q{SELECT pg_background_launch('SELECT pg_backend_pid()')::int});
isnt($next_v1, $v1, 'v1: not the one whose PID is a handle');
wait_for_pool($node, 'running = 0 AND idle = 2');
my %seen = map { pid($second) => 1 } 1 .. 3;
ok($seen{$v1} || $seen{$next_v1}, 'v1: another session gets it');
is($first->query("SELECT * FROM pg_background_result($_) AS (a int)"), $_, 'v1: its result') foreach $next_v1, $v1;
wait_for_pool($node, 'running = 0 AND idle = 2');
$v1 = $first->query(q{SELECT pg_background_launch('SELECT pg_backend_pid()')::int});
ok((grep { $_ eq $v1 } $pid, $next_v1) == 1, 'v1: when the result was read, it is used again');
is($first->query("SELECT * FROM pg_background_result($v1) AS (a int)"), $v1, 'v1: its result');
is($first->query(q{SELECT count(DISTINCT r) < 10 FROM generate_series(1, 100) g, LATERAL pg_background_result(pg_background_launch('SELECT pg_backend_pid() + 0 * ' || g)::int) AS (r int)}),
	't', 'v1: a hundred jobs, few processes');

#
# Workers of its own
#

$_->quit foreach $first, $second;
sql($node, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_background'});
nothing_left_of_pool();

($first, $second) = map { new_session($node) } 1 .. 2;
my $shared = pid($second);
wait_for_pool($node, 'running = 0 AND idle = 1');
$first->query('SET pg_background.share_workers = off');
my $own = pid($first);
isnt($own, $shared, 'share_workers = off: a worker that others have used is not taken');
foreach my $turn (1 .. 3)
{
	wait_for_pool($node, 'running = 0');
	is(pid($second), $shared, "share_workers = off: others do not get the session's, turn $turn");
	wait_for_pool($node, 'running = 0');
	is(pid($first), $own, "share_workers = off: the session does, turn $turn");
}
my $third_of_its_own = new_session($node, options => '-c pg_background.share_workers=off');
isnt(pid($third_of_its_own), $own, 'share_workers = off: nor does another of that kind');
$third_of_its_own->quit;
$first->quit;
wait_for_exit($node, $own);
is(pid($second), $shared, 'share_workers = off: they leave with the session, the others stay');
$first = new_session($node, options => '-c pg_background.share_workers=off');
$own = pid($first);
$first->query('SET pg_background.share_workers = on');
wait_for_pool($node, 'running = 0');
my %used = map { my $p = pid($first); wait_for_pool($node, 'running = 0'); $p => 1 } 1 .. 3;
pass('share_workers: a session changes its mind');

$_->quit foreach $first, $second;
sub nothing_left_of_pool
{
	await($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_background'})
	  or die 'timed out waiting for the workers to go';
	return;
}
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
