# pg_background.launch_timeout: a launch waits in line for a worker, and fails with
# 53000 where none is free in time. First come, first served. 64 sessions that log
# by jobs on a server with 8 slots lose no message.
#
# Known failure 13.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main', <<'END');
max_worker_processes = 8
max_logical_replication_workers = 0
max_connections = 100
END

sql($node, 'CREATE TABLE message (who int, what int, PRIMARY KEY (who, what))');

#
# 64 sessions, 100 messages each; fewer, where each takes a new process
#

sub log_messages
{
	my ($name, $messages, $conf) = @_;
	my @sessions = map { new_session($node) } 1 .. 64;

	foreach my $n (1 .. 64)
	{
		$sessions[ $n - 1 ]->send(<<"END");
$conf
DO \$\$
BEGIN
	FOR i IN 1 .. $messages LOOP
		PERFORM pg_background_submit_params_v2('INSERT INTO message VALUES (\$1, \$2)', $n, i);
	END LOOP;
END \$\$
END
	}
	my $errors = join '', map { $_->receive; $_->{messages} } @sessions;
	is($errors, '', "$name: no launch fails");
	$_->quit foreach @sessions;
	await($node, 'SELECT sum(queued + running) = 0 FROM pg_background_pool')
	  or die 'timed out waiting for what is queued';
	nothing_left($node, $name);
	is( sql($node, 'SELECT count(*), count(DISTINCT who), min(what), max(what) FROM message'),
		64 * $messages . "|64|1|$messages", "$name: no message is lost");
	sql($node, 'TRUNCATE message');
	return;
}

log_messages('64 sessions', 100, '');
log_messages('64 sessions that keep no workers', 20, 'SET pg_background.max_idle_workers = 0;');

#
# Slots that others have
#

sql($node, 'CREATE ROLE other LOGIN IN ROLE pgbackground_role');
my $sleep = 'SELECT pg_sleep(1000)';
my $session = new_session($node);
my $other = new_session($node, user => 'other');
is($session->query('SELECT count(*) FROM pg_background_list; SHOW pg_background.launch_timeout'), "0\n10s", 'a launch waits for ten seconds');
my @jobs = map { $other->launch($sleep) } 1 .. 8;
my @no_slot = ('53000', qr/DETAIL:  No background worker slot is free\.\nHINT:.*launch_timeout.*max_worker_processes/);

$session->query('SET pg_background.launch_timeout = 0');
$session->fails("SELECT pg_background_launch_v2('SELECT 1')", @no_slot, 'no time to wait');
$session->query('SET pg_background.launch_timeout = 700');
foreach my $launch ("pg_background_launch('SELECT 1')", "pg_background_launch_v2('SELECT 1')",
	"pg_background_submit_v2('SELECT 1', 0, 'label')", "pg_background_run_v2('SELECT 1')",
	"pg_background_submit_params_v2('SELECT \$1', 1)", "pg_background_run_all_v2('{SELECT 1}')")
{
	$session->fails("SELECT $launch", @no_slot, "$launch at the end of its time");
}
is($session->query('SELECT count(*) FROM pg_background_list'), '0', 'a launch that failed leaves no job');
is(sql($node, 'SELECT sum(queued + waiting) FROM pg_background_pool'), '0', 'nor one in line');
cmp_ok(scalar segments($node), '<=', 8 + $PgBackground::kept_segments, 'nor a segment');

$session->query("SET pg_background.launch_timeout = '1h'");
$session->send("SELECT n FROM pg_background_run_query_v2('SELECT 42') AS (n int)");
wait_for_line($node, 1);
$other->query("SELECT pg_background_cancel_v2($jobs[0])");
is($session->receive, '42', 'a launch waits for a slot of another user');

# and sleeps meanwhile, even where its latch is set all the time, and can be canceled
push @jobs, $other->launch($sleep);
$session->send("SELECT pg_background_launch_v2('SELECT 1')");
wait_for_line($node, 1);
wait_for_worker($node, $session->{pid}, "state = 'active' AND wait_event_type = 'Extension'");
sql($node, "SELECT pg_cancel_backend($session->{pid})");
$session->fails(undef, '57014', qr/user request/, 'a launch that waits is canceled');

# First come, first served
sql($node, 'CREATE TABLE turn (n serial, who int)');
my @line = map { new_session($node, options => "-c pg_background.launch_timeout=1h") } 1 .. 5;
foreach my $n (1 .. 5)
{
	$line[ $n - 1 ]->send("SELECT pid FROM pg_background_run_v2('INSERT INTO turn (who) VALUES ($n)')");
	wait_for_line($node, $n);
}
is(sql($node, q{SELECT waiting, queued, running FROM pg_background_pool WHERE usename = current_user}),
	'5|5|0', 'the pool shows who waits in line');
$other->query("SELECT pg_background_cancel_v2($jobs[1])");
$_->receive foreach @line;
is(sql($node, q{SELECT string_agg(who::text, ' ' ORDER BY n) FROM turn}),
	'1 2 3 4 5', 'first come, first served');
$_->quit foreach @line;

#
# Slots of this session: its own jobs end meanwhile, however they do
#

$other->query('SELECT pg_background_cancel_all_v2()');
$other->quit;
nothing_left($node, 'other session', $session);
my $count = 50;
is( $session->query(
		"SELECT count(pid) FROM generate_series(1, $count) g, LATERAL pg_background_launch_v2(format('SELECT %s, 1/(%1\$s %% 7) FROM pg_sleep(0.01)', g))"),
	$count, 'a launch waits for its own jobs');
is( $session->query('SELECT string_agg(state || $$ $$ || n, $$, $$ ORDER BY state) FROM (SELECT state, count(*) AS n FROM pg_background_drain_v2(array(SELECT (pid, cookie)::pg_background_handle FROM pg_background_list)) GROUP BY 1) s'),
	'error 7, stopped 43', 'and all of them are run');
$session->query('SELECT pg_background_detach_all_v2()');

# One whose result is larger than its queue, and which nobody else reads
@jobs = map { $session->launch("SELECT generate_series($_, 100000)", 4096) } 1 .. 20;
is($session->query("SELECT count(*) FROM pg_background_result_v2($jobs[$_]) AS (n int)"), 100000 - $_, "result $_")
  foreach 0, 7, 19;

# A worker that is terminated while we wait for its slot
@jobs = map { $session->launch($sleep) } 1 .. 8;
wait_for_worker($node, $_, "wait_event = 'PgSleep'") foreach @jobs;
$session->send("SELECT n FROM pg_background_run_query_v2('SELECT 43') AS (n int)");
wait_for_worker($node, $session->{pid}, "state = 'active' AND wait_event_type = 'Extension'");
my ($pid) = split /, /, $jobs[3];
sql($node, "SELECT pg_terminate_backend($pid)");
is($session->receive, '43', 'a launch takes the slot of a worker that was terminated');
is($session->state($jobs[3]), 'error', 'whose job has failed');

$session->query('SELECT pg_background_cancel_all_v2()');
$session->quit;
nothing_left($node, 'launch_timeout');

done_testing();
