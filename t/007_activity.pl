# A job is seen as any session is: in pg_stat_activity, in the statistics of
# tables, by pg_stat_statements and by auto_explain.
#
# Known failures 7, 19.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main', "auto_explain.log_min_duration = 0\n");
my $version = sql($node, 'SHOW server_version_num');

sub activity
{
	my ($pid, $columns) = @_;
	return sql($node, "SELECT $columns FROM pg_stat_activity WHERE pid = $pid");
}

# Waits until a process sleeps, and returns in what.
sub wait_event
{
	my ($job) = @_;
	my ($pid) = split /, /, $job;

	wait_for_worker($node, $job, "wait_event_type = 'Extension'");
	return activity($pid, 'wait_event');
}

sub wait_event_is
{
	my ($job, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	# The names of an extension's own came with 17.
	is(wait_event($job), $version >= 170000 ? $expected : 'Extension', $name);
	return;
}

sql($node, 'CREATE ROLE worker LOGIN; GRANT pgbackground_role TO worker');

# pg_stat_activity
my $session = new_session($node, user => 'worker');
$session->query(q{SET application_name = 'tester'; SET pg_background.max_idle_workers = 2; SET pg_background.idle_timeout = '1h'});

my $sql = 'SELECT pg_sleep(1000)';
my @jobs = map { $session->launch($sql) } 1 .. 10;
foreach my $job (@jobs)
{
	my ($pid) = split /, /, $job;

	wait_for_worker($node, $job, "wait_event = 'PgSleep'");
	is( activity(
			$pid,
			q{backend_type, datname, usename, application_name, state, query, query_start >= xact_start AND xact_start >= backend_start}
		),
		"pg_background|postgres|worker|tester|active|$sql|t",
		'a running job');
}
is( sql($node, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_background'}),
	scalar @jobs,
	'there are no others');

$session->send("SELECT pg_background_wait_v2($jobs[0])");
wait_event_is($session->{pid}, 'PgBackgroundJob', 'a launcher that waits');
sql($node, q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_background'});
$session->receive;
$session->wait_for($_) foreach @jobs;

my $job = $session->launch(q{SELECT generate_series(1, 2000000000), repeat('x', 100)}, 4096);
wait_event_is($job, 'PgBackgroundSend', 'a job whose queue is full');
$session->query("SELECT pg_background_cancel_v2($job)");
$session->wait_for($job);

$job = $session->launch('SELECT 1');
my ($pid) = split /, /, $job;
$session->wait_for($job);
wait_event_is($job, 'PgBackgroundIdle', 'a worker that waits for a job');
is(activity($pid, 'backend_type, state, xact_start IS NULL, backend_xmin IS NULL'),
	'pg_background|idle|t|t', 'it has no transaction');
$session->quit;

# Statistics of tables are there when the result is.
$session = new_session($node);
$session->query('CREATE TABLE counted (a int)');
$session->result(
	$session->launch('INSERT INTO counted SELECT generate_series(1, 1000)'),
	'tag text');
my $inserted = q{SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'counted'};
if ($version >= 150000)
{
	is($session->query($inserted), '1000', 'statistics of a table');
}
else
{
	# Before 15 they go through a process that collects them.
	ok(await($node, $inserted, '1000'), 'statistics of a table');
}
$session->quit;

SKIP:
{
	skip 'auto_explain is not installed', 3
	  if $node->psql('postgres', q{LOAD 'auto_explain'}, stderr => \my $error);

	# Runs a job in a new session, and tests that its plan is logged.
	my $test_plan = sub {
		my ($name) = @_;
		my $size = log_size($node);
		my $session = new_session($node);
		my $job = $session->launch('SELECT count(*) FROM counted');

		$session->wait_for($job);
		my ($pid) = split /, /, $job;
		my $log = log_since($node, $size);
		my $plan = qr/^pg_background\[$pid\] LOG:  duration: .* plan:\n\s+Query Text: SELECT count\(\*\) FROM counted\n/m;
		$name =~ /not/ ? unlike($log, $plan, $name) : like($log, $plan, $name);
		$session->quit;
	};

	$test_plan->('auto_explain not loaded');
	$node->safe_psql('postgres',
		q{ALTER ROLE CURRENT_USER SET session_preload_libraries = 'auto_explain'});
	$test_plan->('auto_explain loaded with the session');
	sql($node, 'ALTER ROLE CURRENT_USER RESET ALL');

	$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'auto_explain'});
	$node->restart;
	$test_plan->('auto_explain loaded with the server');
}

SKIP:
{
	skip 'pg_stat_statements is not installed', 1
	  if $node->safe_psql('postgres',
		q{SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'}
	  ) eq '0';

	$node->append_conf('postgresql.conf',
		q{shared_preload_libraries = 'pg_background, pg_stat_statements'});
	$node->restart;
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements');
	$session = new_session($node, user => 'worker');
	$session->wait_for($session->launch($_))
	  foreach 'SELECT 1 AS seen', 'SELECT 2 AS seen', 'SELECT 1, 2 AS seen';
	$session->quit;
	is( sql($node, q{
			SELECT query, calls, rows, toplevel, userid::regrole
			FROM pg_stat_statements WHERE query ~ ' AS seen$' ORDER BY calls DESC}),
		join("\n",
			'SELECT $1 AS seen|2|2|t|worker',
			'SELECT $1, $2 AS seen|1|1|t|worker'),
		'pg_stat_statements');
}

done_testing();
