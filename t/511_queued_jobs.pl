# All that can be done with a job can be done with one that is queued: cancel,
# detach, wait, outcome, list, wait_any, drain, labels, progress, time-outs, and
# the check for deadlocks. A cancel never hits another session's job.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

# One worker for all
my $node = new_server('main', <<'END');
pg_background.idle_timeout = 1h
pg_background.launch_timeout = 1h
pg_background.max_total_workers = 1
END
my $holder = new_session($node);
my $session = new_session($node);
my $other = new_session($node);

$node->safe_psql('postgres', <<'END');
CREATE TABLE ran (what text, n serial);
CREATE TABLE locked (a int);
CREATE ROLE stranger LOGIN IN ROLE pgbackground_role;
END

sub insert { return "INSERT INTO ran (what) VALUES (''$_[0]'')" }

# Submits a job that is queued, with a label
sub queue
{
	my ($what) = @_;
	return $session->query(
		"SELECT pid || ', ' || cookie FROM pg_background_submit_v2('" . insert($what) . "', 0, 'label $what')");
}

sub ran
{
	wait_for_pool($node, 'running = 0 AND waiting = 0 AND queued = 0');
	my $ran = sql($node, q{SELECT string_agg(what, ' ' ORDER BY n) FROM ran});
	sql($node, 'TRUNCATE ran');
	return $ran;
}

sub release
{
	$holder->query('SELECT pg_advisory_unlock_all()');
	return;
}

sub outcome
{
	my ($job) = @_;
	return $session->query("SELECT state, completed, has_error, sqlstate FROM pg_background_outcome_v2($job)");
}

my $canceled = 'canceled|t|t|57014';
my $starting = 'starting|f|f|';

#
# What it looks like
#

my ($busy) = occupy($node, $holder, $session, 1);
my $job = queue('seen');
my ($number, $cookie) = split /, /, $job;
my $sql = insert('seen') =~ s/''/'/gr;

cmp_ok($number, '>=', 1 << 30, 'a number above any PID');
is(outcome($job), $starting, 'outcome');
is($session->query("SELECT pid, state, label, sql_preview, last_error, consumed FROM pg_background_list WHERE cookie = $cookie"),
	"$number|starting|label seen|$sql||f", 'list');
is($session->query("SELECT pg_background_full_sql_v2($job)"), $sql, 'full_sql');
is($session->query("SELECT pg_background_get_progress_v2($job)"), '', 'progress');
is($session->query("SELECT label, (pg_background_result_info_v2($job)).completed FROM pg_background_outcome_v2($job)"), 'label seen|f', 'result_info');
is($session->query("SELECT pg_background_error_info_v2($job)"), '', 'error_info');
is($session->query("SELECT pg_background_wait_v2_timeout($job, 0)"), 'f', 'wait: look');
is($session->query("SELECT pg_background_wait_v2_timeout($job, 100)"), 'f', 'wait with a time-out');
is($session->query("SELECT pg_background_wait_any_v2(ARRAY[($job)]::pg_background_handle[], 100)"), '', 'wait_any with a time-out');
is($session->query("SELECT state FROM pg_background_drain_v2(ARRAY[($job)]::pg_background_handle[], 100)"), 'starting', 'drain with a time-out');
is($session->query('SELECT pg_background_purge_v2()'), '0', 'purge leaves it');
$session->fails("SELECT * FROM pg_background_result_v2($job) AS (a text)", '0A000', qr/results are disabled/, 'result');
$session->fails("SELECT pg_background_wait_v2($number, $cookie + 1)", '55000', qr/cookie mismatch/, 'a wrong cookie');
$other->fails("SELECT pg_background_wait_v2($job)", '42704', qr/not attached to this session/, 'another session');
$session->query('SET ROLE stranger');
$session->fails("SELECT pg_background_cancel_v2($job)", '42501', qr/permission denied/, 'another role');
$session->query('RESET ROLE');

# Who waits for it goes on when it has been run.
$session->send("SELECT pg_background_wait_any_v2(ARRAY[($busy), ($job)]::pg_background_handle[]); SELECT pg_background_wait_v2($job)");
wait_for_worker($node, $session->{pid}, "state = 'active' AND wait_event_type = 'Extension'");
release();
is($session->receive, '(' . ($busy =~ s/ //r) . ")\nt", 'wait_any tells which was first, wait waits');
is(outcome($job), 'stopped|t|f|', 'outcome, when it has been run');
is(ran(), 'seen', 'it was run');
$session->query('SELECT pg_background_detach_all_v2()');

# An error in it
occupy($node, $holder, $session, 1);
my $error = $session->submit('SELECT 1 / 0');
my $progress = $session->submit(q{DO $$ BEGIN PERFORM pg_background_progress(42, 'part'), pg_advisory_xact_lock(2); END $$});
$holder->query('SELECT pg_advisory_lock(2), pg_advisory_unlock(1)');
$session->wait_for($error);
is(outcome($error), 'error|t|t|22012', 'an error');
wait_until('there is progress', sub { $session->query("SELECT pg_background_get_progress_v2($progress)") eq '(42,part)' });
pass('progress, when it runs');
is(outcome($progress), 'running|f|f|', 'outcome, when it runs');
release();
is($session->query("SELECT string_agg(state, ' ') FROM pg_background_drain_v2(ARRAY[($error), ($progress)]::pg_background_handle[])"),
	'error stopped', 'drain');
$session->query('SELECT pg_background_detach_all_v2()');

#
# Cancel and detach
#

($busy) = occupy($node, $holder, $session, 1);
my %job = map { $_ => queue($_) } qw(a b c d e f);
$session->query("SELECT pg_background_cancel_v2($job{b})");
is(outcome($job{b}), $canceled, 'cancel');
$session->wait_for($job{b});
$session->query("SELECT pg_background_cancel_v2_grace($job{c}, 1000)");
is(outcome($job{c}), $canceled, 'cancel with a grace');
is($session->query("SELECT pg_background_cancel_by_label_v2('label d')"), '1', 'cancel by label: one');
is(outcome($job{d}), $canceled, 'cancel by label');
$session->query("SELECT pg_background_detach_v2($job{e})");
$session->fails("SELECT pg_background_wait_v2($job{e})", '42704', qr/not attached/, 'detach forgets it');
is($session->query("SELECT pg_background_wait_any_v2(ARRAY[($job{a}), ($job{b})]::pg_background_handle[])"),
	'(' . ($job{b} =~ s/ //r) . ')', 'wait_any: a canceled one');
wait_for_pool($node, 'running = 1 AND queued = 3');
is($session->state($busy), 'running', 'the job that runs is not concerned');
release();
$session->wait_for($job{f});
is(ran(), 'a e f', 'canceled ones are not run, one that was detached is');
$session->query('SELECT pg_background_detach_all_v2()');

occupy($node, $holder, $session, 1);
queue($_) foreach qw(g h i);
is($session->query('SELECT pg_background_cancel_all_v2()'), '4', 'cancel_all');
is($session->query('SELECT string_agg(DISTINCT state, $$ $$) FROM pg_background_drain_v2(array(SELECT (pid, cookie)::pg_background_handle FROM pg_background_list))'),
	'canceled', 'cancel_all: all are canceled');
release();
is(ran(), '', 'cancel_all: none is run');
$session->query('SELECT pg_background_detach_all_v2()');

occupy($node, $holder, $other, 1);
queue($_) foreach qw(j k);
is($session->query('SELECT pg_background_detach_all_v2()'), '2', 'detach_all');
release();
is(ran(), 'j k', 'detach_all: all are run');

# DISCARD ALL forgets them, too
occupy($node, $holder, $other, 1);
queue('l');
$session->query('DISCARD ALL');
is($session->query('SELECT count(*) FROM pg_background_list'), '0', 'DISCARD ALL');
release();
is(ran(), 'l', 'DISCARD ALL: it is run');

# run_all, of which one has a worker
occupy($node, $holder, $other, 1);
$session->send(q{SELECT string_agg(state, ' ') FROM pg_background_run_all_v2(ARRAY[} . join(', ', map { "'" . insert($_) . "'" } 1 .. 5) . '], 3)');
wait_for_pool($node, 'queued + waiting > 0');
release();
is($session->receive, join(' ', ('stopped') x 5), 'run_all');
is(join(' ', sort split / /, ran()), '1 2 3 4 5', 'run_all: all are run');

# The process of the job before is terminated: the queue goes on.
($busy) = occupy($node, $holder, $other, 1);
my $next = queue('after one that was terminated');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(" . ($busy =~ s/,.*//r) . ")");
$session->wait_for($next);
is(outcome($next), 'stopped|t|f|', 'the job before is terminated: the next is run');
is(ran(), 'after one that was terminated', 'and once');
release();
($busy) = occupy($node, $holder, $other, 1);
$next = queue('after one that was canceled');
$other->query("SELECT pg_background_cancel_v2($busy)");
$session->wait_for($next);
is(outcome($next), 'stopped|t|f|', 'the job before is canceled: the next is run');
is(ran(), 'after one that was canceled', 'and once');
release();

# A job that ends its own process
my @last = map { $session->submit($_) } 'SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(1000)', 'SELECT 1';
$session->wait_for($last[1]);
is(outcome($last[1]), 'stopped|t|f|', 'a job terminates its process: the next is run');
$session->query('SELECT pg_background_detach_all_v2()');

#
# worker_timeout is the time that it runs.
#

occupy($node, $holder, $other, 1);
$session->query("SET pg_background.worker_timeout = '300ms'");
my $short = queue('short');
my $long = $session->submit('SELECT pg_sleep(1000)');
$session->query("SET pg_background.worker_timeout = 0");
is($session->query("SELECT pg_background_wait_v2_timeout($short, 600)"), 'f', 'worker_timeout: longer than that in the queue');
release();
$session->wait_for($_) foreach $short, $long;
is(outcome($short), 'stopped|t|f|', 'worker_timeout: time in the queue does not count');
is($session->query("SELECT has_error, sqlstate FROM pg_background_outcome_v2($long)"), 't|57014', 'worker_timeout: time that it runs does');
is(ran(), 'short', 'worker_timeout');
$session->query('SELECT pg_background_detach_all_v2()');

#
# Deadlocks
#

# Its turn comes after that of a job that waits for the session.
$session->query('BEGIN; LOCK TABLE locked');
my $waits = $session->launch('SELECT count(*) FROM locked');
wait_for_worker($node, $waits, "wait_event_type = 'Lock'");
my $behind = queue('behind');
foreach my $wait ("wait_v2($behind)", "wait_any_v2(ARRAY[($behind)]::pg_background_handle[])",
	"drain_v2(ARRAY[($behind)]::pg_background_handle[])", q{launch_v2('SELECT 1')}, q{run_v2('SELECT 1')})
{
	$session->query('SAVEPOINT s');
	$session->send("SELECT pg_background_$wait");
	$session->receive;
	if ($wait =~ /^drain|^run/ && $session->{messages} eq '')
	{
		pass("deadlock: $wait tells by its outcome");
	}
	else
	{
		like($session->{messages}, qr/ERROR:  40P01: /, "deadlock: $wait");
	}
	$session->query('ROLLBACK TO s');
	last if $session->query("SELECT state FROM pg_background_outcome_v2($waits)") ne 'running'
	  || $session->query("SELECT state FROM pg_background_outcome_v2($behind)") ne 'starting';
}
$session->query('ROLLBACK');
wait_for_pool($node, 'running = 0 AND waiting = 0 AND queued = 0');
ran();
$session->query('SELECT pg_background_detach_all_v2()');

# A job that waits for another session is none.
$holder->query('BEGIN; LOCK TABLE locked');
$session->query("SET deadlock_timeout = '10ms'");
$waits = $session->launch('SELECT count(*) FROM locked');
wait_for_worker($node, $waits, "wait_event_type = 'Lock'");
$behind = queue('behind');
is($session->query("SELECT pg_background_wait_v2_timeout($behind, 500)"), 'f', 'no deadlock');
$session->send("SELECT pg_background_wait_v2($behind)");
wait_for_worker($node, $session->{pid}, "state = 'active' AND wait_event_type = 'Extension'");
$holder->query('ROLLBACK');
$session->receive;
is($session->{messages}, '', 'no deadlock: goes on');
is(ran(), 'behind', 'no deadlock: is run');
$session->query('SELECT pg_background_detach_all_v2()');

#
# A cancel is for its own job
#

# One session cancels its jobs, at whatever moment; the jobs of two others, which
# have the same worker, are done.
change_settings($node, 'pg_background.max_total_workers' => 2);
my $third = new_session($node);
$session->send(<<'END');
DO $$
DECLARE
	h pg_background_handle;
BEGIN
	FOR i IN 1 .. 1000 LOOP
		h := pg_background_submit_v2('SELECT 1');
		FOR j IN 1 .. (random() * 300)::int LOOP END LOOP;
		PERFORM pg_background_cancel_v2(h.pid, h.cookie);
		PERFORM pg_background_detach_v2(h.pid, h.cookie);
	END LOOP;
END $$
END
my $done = q{SELECT count(*) FROM generate_series(1, 1000) g, LATERAL pg_background_run_v2('SELECT ' || g) r WHERE r.completed AND NOT r.has_error};
$_->send($done) foreach $other, $third;
is($_->receive, '1000', "a cancel does not hit another session's job") foreach $other, $third;
$session->receive;
is($session->{messages}, '', 'jobs are canceled');
wait_for_pool($node, 'running = 0 AND waiting = 0 AND queued = 0');

$_->quit foreach $session, $other, $third, $holder;
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
