# The administrator's limits, and the user's own: how many processes there are, of
# all users and of one; how many of them may be idle, so that parallel query and
# others find slots; and the error for want of a worker, which names the limit that
# was hit and what to do about it.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main', <<'END');
max_worker_processes = 8
max_logical_replication_workers = 0
pg_background.idle_timeout = 1h
END
$node->safe_psql('postgres', <<'END');
CREATE ROLE few LOGIN IN ROLE pgbackground_role;
CREATE ROLE many LOGIN IN ROLE pgbackground_role;
ALTER ROLE few SET pg_background.max_role_workers = 2;
END

my $holder = new_session($node);
my ($few, $many) = map { new_session($node, user => $_) } qw(few many);
my $one = "SELECT pg_background_run_v2('SELECT 1')";
my $launch = q{SELECT pg_background_launch_v2('SELECT 1')};

sub release
{
	$holder->query('SELECT pg_advisory_unlock_all()');
	wait_for_pool($node, 'running = 0 AND waiting = 0 AND queued = 0');
	end_idle_workers($node);
	return;
}

sub processes
{
	my ($user) = @_;
	return sql($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_background' AND usename = '$user'");
}

#
# Defaults
#

$few->query('SELECT pg_background_stats_v2()');
is($few->query("SELECT string_agg(current_setting('pg_background.' || name), ' ') FROM unnest('{launch_timeout, idle_timeout, max_idle_workers, max_total_workers, max_role_workers, queue_memory, share_workers}'::text[]) name"),
	'10s 1h -1 -1 2 64MB on', 'settings');
is( $node->safe_psql('postgres', "LOAD 'pg_background'; SELECT boot_val, context FROM pg_settings WHERE name = 'pg_background.idle_timeout'"),
	'60000|user', 'idle_timeout');
is($node->safe_psql('postgres', "LOAD 'pg_background'; SELECT context FROM pg_settings WHERE name = 'pg_background.$_'"), $_ =~ /role/ ? 'superuser' : 'sighup', "$_: who may set it")
  foreach qw(max_total_workers max_role_workers queue_memory);

#
# A user's processes
#

$_->query('SET pg_background.launch_timeout = 0') foreach $few, $many;
occupy($node, $holder, $few, 1, 2);
my @role_limit = ('53000', qr/no background worker is free\nDETAIL:.*"pg_background.max_role_workers".* 2 .*\nHINT:  /);
$few->fails($_, @role_limit, "max_role_workers: $_") foreach $launch, $one, q{SELECT pg_background_launch('SELECT 1')};
$few->fails('SET pg_background.max_role_workers = 3', '42501', qr/permission denied/, 'the user cannot raise it');
$few->query("SELECT set_config('pg_background.max_workers', '100', false)");
$few->fails($launch, @role_limit, 'nor get around it');
my $another = new_session($node, user => 'few', options => '-c pg_background.launch_timeout=0');
$another->fails($launch, @role_limit, 'nor in another session');
$another->quit;
is(processes('few'), 2, 'two processes');
$many->query($one);
pass('another user has workers');
$few->query("SELECT pg_background_submit_v2('SELECT 1')") foreach 1 .. 10;
is(processes('few'), 2, 'two processes, and a queue');
release();

# It was raised: for sessions that begin then
$node->safe_psql('postgres', 'ALTER ROLE few SET pg_background.max_role_workers = 3');
$another = new_session($node, user => 'few', options => '-c pg_background.launch_timeout=0');
occupy($node, $holder, $another, 1 .. 3);
$another->fails($launch, '53000', qr/max_role_workers.* 3 /, 'the limit was raised');
release();
$another->quit;

#
# All processes
#

change_settings($node, 'pg_background.max_total_workers' => 3);
occupy($node, $holder, $many, 1 .. 3);
my @total_limit = ('53000', qr/no background worker is free\nDETAIL:.*"pg_background.max_total_workers".* 3 .*\nHINT:  /);
$many->fails($launch, @total_limit, 'max_total_workers: the same user');
$few->fails($launch, @total_limit, 'max_total_workers: another user');
$many->fails('SET pg_background.max_total_workers = 4', '55P02', qr/cannot be changed now/, 'no session can raise it');

# By a reload, for who waits
$few->query("SET pg_background.launch_timeout = '1h'");
$few->send($one);
wait_for_pool($node, 'waiting = 1', "usename = 'few'");
change_settings($node, 'pg_background.max_total_workers' => 4);
# A session learns of it between two commands: the next one that launches does.
new_session($node, user => 'few')->query($one);
$few->receive;
is($few->{messages}, '', 'who waits gets a worker when the limit is raised');
$few->query('SET pg_background.launch_timeout = 0');
release();
occupy($node, $holder, $many, 1 .. 4);
change_settings($node, 'pg_background.max_total_workers' => 2);
is(processes('many'), 4, 'the limit is lowered: jobs go on');
release();
await($node, q{SELECT count(*) <= 2 FROM pg_stat_activity WHERE backend_type = 'pg_background'})
  or die 'workers stay beyond the limit';
pass('the limit is lowered: workers leave');
occupy($node, $holder, $many, 1 .. 2);
$many->fails($launch, '53000', qr/max_total_workers.* 2 /, 'the limit is lowered');
release();

# Also while there is more to do: each worker reads the setting before its next job.
change_settings($node, 'pg_background.max_total_workers' => 4);
occupy($node, $holder, $many, 1 .. 4);
$holder->query('SELECT pg_advisory_lock(5), pg_advisory_lock(6)');
$many->submit('SELECT pg_advisory_xact_lock_shared(6)') foreach 1 .. 4;
$many->submit('SELECT pg_advisory_xact_lock_shared(5)') foreach 1 .. 8;
change_settings($node, 'pg_background.max_total_workers' => 2);
$holder->query('SELECT pg_advisory_unlock(n) FROM generate_series(1, 4) n');
await($node, q{SELECT count(*) = 4 FROM pg_locks WHERE locktype = 'advisory' AND objid = 6 AND NOT granted})
  or die 'not each worker has a next job';
$holder->query('SELECT pg_advisory_unlock(6)');
await($node, q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'pg_background'})
  or die 'workers stay beyond the limit while jobs are queued';
wait_for_pool($node, 'running = 2 AND queued = 6');
pass('the limit is lowered: workers leave, though jobs are queued');
release();

change_settings($node, 'pg_background.max_total_workers' => 0);
$many->fails($launch, '53000', qr/max_total_workers.* 0 /, 'no job at all');
change_settings($node, 'pg_background.max_total_workers' => -1);

#
# Slots, and the session's own limit
#

my $deep = new_session($node, options => '-c pg_background.launch_timeout=0 -c pg_background.max_workers=5');
occupy($node, $holder, $deep, 1 .. 5);
$deep->fails($launch, '53400', qr/too many background jobs of this session are running\n.*HINT:.*pg_background.max_workers/s, 'max_workers');
occupy($node, $holder, $many, 6 .. 8);
$many->fails($launch, '53000', qr/could not register background process\nDETAIL:  .*\nHINT:.*max_worker_processes/, 'slots: a user with workers');
$few->fails($launch, '53000', qr/could not register background process\nDETAIL:.*slot is free.*\nHINT:.*max_worker_processes/, 'slots: a user without');
$few->fails(q{SELECT pg_background_submit_v2('SELECT 1')}, '53000', qr/could not register background process\nDETAIL:.*slot is free/, 'slots: a submit of a user without');
is(sql($node, q{SELECT sum(waiting + queued) FROM pg_background_pool}), '0', 'who has failed is not in line');
release();
$_->quit foreach $deep;

#
# Idle workers: a quarter of the slots
#

sub run_at_once
{
	my ($session, @numbers) = @_;
	occupy($node, $holder, $session, @numbers);
	$holder->query('SELECT pg_advisory_unlock_all()');
	$session->query('SELECT pg_background_detach_all_v2()');
	return;
}

sub idle_is
{
	my ($expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok( await($node, "SELECT sum(idle) = $expected AND sum(running) = 0 FROM pg_background_pool"), $name)
	  or diag sql($node, 'SELECT usename, running, idle FROM pg_background_pool');
	return;
}
run_at_once($many, 1 .. 8);
idle_is(2, 'of eight, two stay');
run_at_once($few, 1 .. 2);
idle_is(2, 'of all users together');
$many->query('SET pg_background.max_idle_workers = 1000');
run_at_once($many, 1 .. 8);
idle_is(2, 'a session cannot have more');
$many->query('SET pg_background.max_idle_workers = 1');
run_at_once($many, 1 .. 8);
idle_is(1, 'it can have fewer');
$many->query('SET pg_background.max_idle_workers = 0');
run_at_once($many, 1 .. 8);
idle_is(0, 'or none');
$many->query('RESET pg_background.max_idle_workers');

# They stay for idle_timeout.
$many->query("SET pg_background.idle_timeout = '10ms'");
run_at_once($many, 1 .. 2);
idle_is(0, 'idle_timeout');
$many->query('RESET pg_background.idle_timeout');

# Others find slots: six of eight, whatever the pool does
run_at_once($many, 1 .. 8);
idle_is(2, 'workers are idle');
my $plan = $node->safe_psql('postgres', <<'END');
CREATE TABLE large AS SELECT g AS a FROM generate_series(1, 10000) g;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers = 8;
SET max_parallel_workers_per_gather = 6;
ALTER TABLE large SET (parallel_workers = 6);
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT count(*) FROM large;
END
like($plan, qr/Workers Launched: 6/, 'parallel query has its workers');

# A slot that others have freed is found, also where the jobs before go on.
end_idle_workers($node);
$node->safe_psql('postgres', <<'END');
CREATE TABLE gate ();
CREATE FUNCTION passes(int) RETURNS bool PARALLEL SAFE LANGUAGE plpgsql AS 'BEGIN RETURN EXISTS (SELECT FROM gate) IS NOT NULL; END';
END
my $parallel = new_session($node);
$holder->query("BEGIN;\nLOCK gate");
$parallel->send(<<'END');
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 6;
SET parallel_leader_participation = off;
SELECT count(*) FROM large WHERE passes(a);
END
await($node, "SELECT count(*) = 6 FROM pg_stat_activity WHERE backend_type = 'parallel worker' AND wait_event_type = 'Lock'")
  or die 'timed out waiting for parallel workers';
my @long = map { $many->launch('SELECT pg_sleep(3600)') } 1 .. 2;
$many->send(q{SELECT pg_background_wait(pg_background_submit('SELECT 1'), 3600000)});
wait_for_pool($node, 'queued = 1');
$holder->query('ROLLBACK');
is($parallel->receive, '10000', 'parallel query has ended');
is($many->receive, 't', 'and what was queued has found a slot');
$many->query("SELECT pg_background_cancel_v2($_)") foreach @long;

$_->quit foreach $few, $many, $holder, $parallel;
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
