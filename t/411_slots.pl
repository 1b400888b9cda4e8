# How worker slots are had: who waits for one, waits for what becomes free, and
# for no more than it was told; and leaves nothing behind where it has to go.
#
# Hardening 11, 32, 33, 35. Known failure 26.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;
use Time::HiRes qw(usleep);

# No idle worker goes by itself. The log tells which processes are started, and end.
my $node = new_server('main', <<'END');
max_worker_processes = 3
max_logical_replication_workers = 0
pg_background.idle_timeout = 1h
log_min_messages = debug1
END
my $sleep = 'SELECT pg_sleep(1000)';
my @no_slot = ('53000', qr/HINT:.*max_worker_processes/);
my ($postmaster) = log_since($node, 0) =~ /^postmaster\[(\d+)\]/m;

END { kill 'CONT', $postmaster if defined $postmaster }

sql($node, "CREATE ROLE user_$_ LOGIN IN ROLE pgbackground_role; GRANT ALL ON SCHEMA public TO user_$_") foreach 1 .. 3;

# Cancels a job from outside, and waits for its process, if it goes
sub cancel_process
{
	my ($job) = @_;
	my ($pid) = split /, /, $job;

	sql($node, "SELECT pg_cancel_backend($pid)");
	wait_for_exit($node, $pid);
	return;
}

# Lets the postmaster go on, which was stopped before it could start a process, and
# waits until this and all others have ended. Before it is in the pool as idle, it is
# nowhere.
sub end_late_worker
{
	my $offset = log_size($node);
	my $worker = 'background worker';

	kill 'CONT', $postmaster;
	wait_until('the process is started',
		sub { log_since($node, $offset) =~ /starting $worker process "pg_background"/ });
	wait_until(
		'all workers have ended',
		sub {
			end_idle_workers($node);
			my $log = log_since($node, 0);
			my $started = () = $log =~ /starting $worker process "pg_background"/g;
			my $ended = () = $log =~ /$worker "pg_background" \(PID \d+\) exited/g;
			$started == $ended;
		});
	return;
}

#
# Hardening 11: a worker that waits for room to say done does not leave. Others do.
#

my ($silent, $other, $session) = map { new_session($node, user => "user_$_") } 1 .. 3;

# The first row fills the queue; the second one fits into a message with the rest.
my $full = $silent->launch("SELECT repeat('x', 8000) FROM generate_series(1, 2)", 10000);
wait_for_worker($node, $full, "state = 'idle' AND wait_event_type = 'Extension'");
my ($full_pid) = split /, /, $full;

my $busy = $other->launch($sleep);
my $same = new_session($node, user => 'user_1');
my $idle_pid = $same->query("SELECT pid FROM pg_background_run_v2('SELECT 1')");
isnt($idle_pid, $full_pid, 'Hardening 11: such a worker gets no job');
await($node, "SELECT state = 'idle' FROM pg_background_workers WHERE pid = $idle_pid")
  or die 'the other worker does not wait';
is(sql($node, 'SELECT count(*) FROM pg_background_workers'), '3', 'all slots are taken');
my $mine = $session->launch('SELECT 1');
is($session->result($mine, 'a int'), '1', 'Hardening 11: a worker that can leave does');
is(sql($node, "SELECT state FROM pg_background_workers WHERE pid = $full_pid"),
	'running', 'Hardening 11: one that cannot has not been told to');

# It may stay only where no other waits for jobs.
my ($mine_pid) = split /, /, $mine;
sql($node, "SELECT pg_terminate_backend($mine_pid)");
wait_for_exit($node, $mine_pid);
is($silent->query("SELECT count(*), min(length(t)) FROM pg_background_result_v2($full) AS (t text)"),
	'2|8000', 'Hardening 11: its job is read');
await($node, "SELECT state = 'idle' FROM pg_background_workers WHERE pid = $full_pid")
  or die 'it does not become idle';
is($silent->query("SELECT pid FROM pg_background_launch_v2('SELECT 1', 10000)"),
	$full_pid, 'Hardening 11: it takes another');
$silent->query('SELECT pg_background_detach_all_v2()');
$_->quit foreach $silent, $same, $other, $session;
cancel_process($busy);
end_idle_workers($node);
await($node, 'SELECT count(*) = 0 FROM pg_background_workers')
  or die 'the slots do not become free';

#
# Hardening 33: a detached job that runs on without its queue is not about to end.
#

$session = new_session($node);
my @jobs = map { $session->launch($sleep) } 1 .. 2;
my $deaf = $session->launch(q{DO $$ BEGIN RAISE NOTICE '%', repeat('x', 100000); RAISE NOTICE '%', repeat('x', 100000); PERFORM pg_sleep(1000); END $$}, 4096);
wait_for_full_queue($node, $deaf);
$session->query("SELECT pg_background_detach_v2($deaf)");
wait_for_worker($node, $deaf, "wait_event = 'PgSleep'");
is($session->query("SELECT count(*) FROM $PgBackground::list"), '2', 'two jobs are left');
$session->query('SET pg_background.launch_timeout = 0');
$session->fails("SELECT pg_background_launch('SELECT 1')", @no_slot,
	'Hardening 33: a launch does not wait for a detached job');
my $held = scalar segments($node);

#
# Hardening 32: a session that is ended while it waits in line leaves no segment and
# no job in the queue.
#

my $waiter = new_session($node);
$waiter->send(q{SET pg_background.launch_timeout = '1h'; SELECT pg_background_launch_v2('SELECT 1')});
wait_for_line($node, 1);

# Hardening 35: its segment is made once, and kept; and it sleeps.
my %seen;
foreach (1 .. 50)
{
	$seen{ join ' ', segments($node) }++;
	usleep(20_000);
}
is(scalar keys %seen, 1, 'Hardening 35: who waits for a slot keeps one segment');
is(scalar segments($node), $held + 1, 'Hardening 35: and no more');

sql($node, "SELECT pg_terminate_backend($waiter->{pid})");
$waiter->receive;
wait_for_exit($node, $waiter->{pid});
is(sql($node, 'SELECT sum(queued + waiting) FROM pg_background_pool'), '0',
	'Hardening 32: a session that waited in line leaves no job there');
is(scalar segments($node), $held, 'Hardening 32: nor a segment');

# One that is canceled goes on.
$waiter = new_session($node);
$waiter->send(q{SET pg_background.launch_timeout = '1h'; SELECT pg_background_launch_v2('SELECT 1')});
wait_for_line($node, 1);
sql($node, "SELECT pg_cancel_backend($waiter->{pid})");
$waiter->fails(undef, '57014', qr/user request/, 'a session that waited in line is canceled');
is(sql($node, 'SELECT sum(queued + waiting) FROM pg_background_pool'), '0',
	'and leaves no job there');
cancel_process($_) foreach @jobs, $deaf;
is($waiter->result($waiter->launch('SELECT 1'), 'n int'), '1', 'and goes on');
$_->quit foreach $session, $waiter;
end_idle_workers($node);
nothing_left($node, 'sessions that waited in line');

# One that waits for its process to be started
$session = new_session($node);
$session->query("SELECT count(*) FROM $PgBackground::list");
kill 'STOP', $postmaster or die "cannot stop the postmaster: $!";
$session->send(q{SELECT pg_background_launch_v2('SELECT 1')});
wait_until(
	'a segment is made',
	sub {
		$session->{run}->pump_nb;
		scalar segments($node) == 1;
	});
kill 'TERM', $session->{pid};
$session->receive;
wait_until('the session has ended', sub { scalar segments($node) == 0 });
end_late_worker();
nothing_left($node, 'Hardening 32: a session that waited for its process');

# One that waits for its process to be started has a worker that is free before.
my $free = new_session($node);
my $holder = new_session($node);
$session = new_session($node);
foreach my $call (q{SELECT has_error::text FROM pg_background_run_v2('SELECT 1')}, q{SELECT pid FROM pg_background_launch_v2('SELECT 1')})
{
	my ($job) = occupy($node, $holder, $free, 7);
	kill 'STOP', $postmaster or die "cannot stop the postmaster: $!";
	$session->send($call);
	wait_until('a process is asked for', sub { $holder->query('SELECT sum(running) FROM pg_background_pool') == 2 });
	$holder->query('SELECT pg_advisory_unlock(7)');
	my $answer = eval { $session->receive };
	end_late_worker();
	is($answer, $call =~ /launch/ ? (split /, /, $job)[0] : 'false', "a worker that is free takes the job of a process that is not there: $call");
	$session->query('SELECT pg_background_detach_all_v2()');
	$free->query('SELECT pg_background_detach_all_v2()');
}
$_->quit foreach $free, $session, $holder;
nothing_left($node, 'a process that found no job');

#
# Hardening 35: run_all notices slots that others free
#

$session = new_session($node, user => 'user_1');
$other = new_session($node, user => 'user_2');
$session->query('CREATE TABLE ran (what text)');
my $locker = new_session($node);
$locker->query('SELECT pg_advisory_lock(1)');
@jobs = map { $other->launch($sleep) } 1 .. 2;
$session->send(q{SELECT string_agg(state, ' ') FROM pg_background_run_all_v2(ARRAY['SELECT pg_advisory_lock(1)', $$INSERT INTO ran VALUES ('second')$$], 2)});
await($node, q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted})
  or die 'the first command does not run';
is(sql($node, 'SELECT count(*) FROM ran'), '0', 'the second command has no slot');
cancel_process($jobs[0]);
ok(await($node, 'SELECT count(*) = 1 FROM ran'), 'Hardening 35: run_all uses a slot that has become free');
$locker->query('SELECT pg_advisory_unlock(1)');
is($session->receive, 'stopped stopped', 'Hardening 35: both commands have ended');

# While it wants a slot, it notices that its commands wait for it.
end_idle_workers($node);
my $third = $other->launch($sleep);
$session->query('BEGIN; LOCK TABLE ran');
is( $session->query(q{SELECT string_agg(state || coalesce(' ' || sqlstate, ''), ', ' ORDER BY ordinality)
		FROM pg_background_run_all_v2(ARRAY['SELECT count(*) FROM ran', 'SELECT 1'], 2)}),
	'canceled 40P01, stopped', 'a deadlock of run_all');
$session->query('ROLLBACK');

$other->query('SELECT pg_background_cancel_all_v2()');
$_->quit foreach $session, $other, $locker;
end_idle_workers($node);
nothing_left($node, 'at the end');
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
