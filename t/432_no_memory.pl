# A session that has no memory for what a job says: that is an error of the job,
# which does not read as completed, and the session goes on.
#
# Hardening 31.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'prlimit is missing' if system('prlimit --version >/dev/null 2>&1') != 0;

my $node = new_server('main');
my $session = new_session($node);
my $offset = log_size($node);

$session->result($session->launch('SELECT 1'), 'n int');

# Sets a limit of a process, which can be raised again.
sub prlimit
{
	my ($pid, $limit) = @_;

	system('prlimit', '--pid', $pid, "--$limit:unlimited") == 0 or die 'prlimit';
	return;
}

# Leaves the session, or another process, so many MB for what is to come.
sub limit
{
	my ($megabytes, $pid) = @_;
	$pid //= $session->{pid};
	my ($pages) = slurp_file("/proc/$pid/statm") =~ /^(\d+)/;

	return prlimit($pid, 'as=' . int($pages * 4096 + $megabytes * 1024 * 1024));
}
sub unlimit { return prlimit($session->{pid}, 'as=unlimited') }

# An error, and a notice, of 100 MB
foreach my $how ('EXCEPTION', 'NOTICE', 'WARNING')
{
	my $job = $session->launch("DO \$do\$ BEGIN RAISE $how '%', repeat('x', 100000000); END \$do\$");

	limit(30);
	$session->wait_for($job);
	is( $session->query("SELECT state || ' ' || completed || ' ' || has_error || ' ' || sqlstate FROM pg_background_outcome_v2($job)"),
		'error true true 53200', "$how: what cannot be taken over is an error of the job");
	is( $session->query('SELECT workers_failed || $$ $$ || workers_active FROM pg_background_stats_v2()') =~ s/^\d+ //r,
		'0', "$how: it counts as ended");
	is($session->result($session->launch('SELECT 2'), 'n int'), '2', "$how: other jobs go on");
	unlimit();
	$session->fails("SELECT * FROM pg_background_result_v2($job) AS (t text)", '53200', qr/out of memory/, "$how: the result");
}

# A worker that has none for its last words, which may not fit behind what it has
# gathered: the length of that decides.
foreach my $signal ('terminate', 'cancel')
{
	foreach my $length (map { 7200 + 75 * $_ } 0 .. 10)
	{
		my $job = $session->launch("SELECT repeat('x', $length); SELECT pg_sleep(1000)");
		my ($pid) = split /, /, $job;
		wait_for_worker($node, $job, "wait_event = 'PgSleep'");
		limit(0, $pid);
		$session->query("SELECT pg_${signal}_backend($pid)");
		$session->wait_for($job);
		like($session->query("SELECT state || ' ' || sqlstate FROM pg_background_outcome_v2($job)"),
			qr/^(error (57P01|53200|08006)|canceled 57014)$/, "pg_${signal}_backend() without memory, $length bytes gathered");
		$session->query("SELECT pg_background_detach_v2($job)");
		$session->query("SELECT pg_terminate_backend($pid)");
		wait_for_exit($node, $pid);
	}
}

# One that ends and has more to say than fits where its job was, while the pool cannot
# grow: that is not said, and its place in the pool is free all the same.
my $loud = $session->submit(q{DO $$ BEGIN EXECUTE 'SELECT pg_sleep(1000) --' || repeat('x', 30000000); END $$});
my ($ending) = split /, /, $loud;
wait_for_worker($node, $loud, "wait_event = 'PgSleep'");
prlimit($ending, 'fsize=0');
$session->query("SELECT pg_terminate_backend($ending)");
$session->wait_for($loud);
is($session->query("SELECT state || ' ' || sqlstate FROM pg_background_outcome_v2($loud)"), 'error 53200',
	'last words that find no room');
wait_for_exit($node, $ending);
is($session->query('SELECT sum(running + idle) FROM pg_background_pool'), '0', 'last words that find no room: the place is free');

# The same of an error that the worker survives: nothing is in the way of what comes
# next, in that process or in others.
$session->query('SELECT pg_advisory_lock(9)');
$loud = $session->submit(q{SELECT pg_advisory_lock_shared(9); DO $$ BEGIN RAISE '%', repeat('x', 30000000); END $$});
my ($survivor) = split /, /, $loud;
wait_for_worker($node, $loud, "wait_event = 'advisory'");
prlimit($survivor, 'fsize=0');
$session->query('SELECT pg_advisory_unlock(9)');
$session->wait_for($loud);
is($session->query("SELECT state || ' ' || sqlstate FROM pg_background_outcome_v2($loud)"), 'error 53200', 'an error that finds no room');
is($session->query(q{SELECT pid || ' ' || has_error FROM pg_background_run_v2('SELECT 1; -- ' || repeat('x', 30000000))}),
	"$survivor false", 'an error that finds no room: the next job takes room for itself');
$session->query("SELECT pg_terminate_backend($survivor)");
wait_for_exit($node, $survivor);

# A session that finds no room for a command of a list, of which another waits that took
# some: it is withdrawn, and its room given back.
end_idle_workers($node);
change_settings($node, 'pg_background.max_total_workers' => 1);
my $lister = new_session($node);
prlimit($lister->{pid}, 'fsize=20000000');
$lister->fails(q{SELECT pg_background_run_all(ARRAY['SELECT pg_sleep(1000)', 'SELECT 1; -- ' || repeat('x', 10000000),
		'SELECT 1; -- ' || repeat('x', 30000000)], 3)}, '53100', qr/shared memory/, 'a list of commands');
is($session->query(q{SELECT has_error FROM pg_background_run_v2('SELECT 1; -- ' || repeat('x', 30000000))}), 'f', 'a list of commands: others find room');
$lister->quit;
change_settings($node, 'pg_background.max_total_workers' => -1);

# One that cannot map what it is to do: another one does it.
end_idle_workers($node);
$session->query("SET pg_background.idle_timeout = '1h'");
my $small = $session->launch('SELECT 1');
$session->result($small, 'n int');
my ($idle) = split /, /, $small;
wait_for_worker($node, $idle, "state = 'idle' AND wait_event_type = 'Extension'");
limit(0, $idle);
is($session->query(q{SELECT has_error::text FROM pg_background_run_v2('SELECT 1; -- ' || repeat('x', 30000000))}),
	'false', 'a job that its worker cannot map');
wait_for_exit($node, $idle);
$session->query('SELECT pg_background_detach_all_v2(); RESET pg_background.idle_timeout');
end_idle_workers($node);

# Rows: where the session has no memory, nor is there for the reader
my $job = $session->launch('SELECT repeat($$x$$, 100000000)');
limit(30);
$session->query("SET work_mem = '64kB'");
$session->wait_for($job);
$session->fails("SELECT length(t) FROM pg_background_result_v2($job) AS (t text)", '53200', qr/out of memory/, 'a row: the reader fails');
unlimit();
is($session->query("SELECT length(t) FROM pg_background_result_v2($job) AS (t text)"), '100000000', 'a row: it is read later');

$session->quit;
unlike(log_since($node, $offset), qr/PANIC|signal \d|TRAP/, 'nothing has crashed');
nothing_left($node, 'at the end');

# Who is the first to need the pool, and has no memory for all of it, leaves the next
# one a pool that can be used.
my $empty = new_server('empty');
my $failures = 0;
foreach my $half (0 .. 40)
{
	my $first = new_session($empty);

	$first->query('SELECT pg_background_stats_v2()');
	limit($half / 2, $first->{pid});
	$first->send(q{SELECT pg_background_exec('SELECT 1')});
	$first->receive;
	$first->quit;
	last if $first->{messages} !~ /ERROR/;
	$failures++;
}
cmp_ok($failures, '>', 2, 'the pool: there is no memory for it');
is(sql($empty, q{SELECT pg_background_exec('SELECT 1')}), '1', 'the pool: it is made later');
unlike(log_since($empty, 0), qr/PANIC|signal \d|TRAP/, 'the pool: nothing has crashed');

done_testing();
