# A job goes on to its end when its launcher is killed, and nothing is left of
# either. Canceling a job that does not react ends its process, and never the
# server: no SIGKILL, which would restart the whole cluster. Where a worker is
# killed in that way by somebody else, the server restarts and all works.
#
# Known failure 5.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main', "restart_after_crash = on\n");
my $control = new_session($node);

sql($node, 'CREATE TABLE done (what text)');

# Tests that a job ends well, although its launcher is killed in the middle.
# The job is what comes before and after it waits for a lock; the launcher does
# what it does meanwhile.
sub test_killed_launcher
{
	my ($name, $job, $launcher) = @_;
	my $session = new_session($node);

	$control->query('SELECT pg_advisory_lock(1)');
	$session->query("SET work_mem = '64kB'");
	my $handle = $session->launch(
		"INSERT INTO done VALUES ('$name'); $job", 4096);
	$launcher->($session, $handle);

	sql($node, "SELECT pg_terminate_backend($session->{pid})");
	wait_for_exit($node, $session->{pid});
	$session->quit;
	is(sql($node, 'SELECT count(*) FROM pg_ls_tmpdir()'),
		'0', "$name: the launcher's temporary files have gone with it");
	is(sql($node, "SELECT count(*) FROM done WHERE what = '$name'"),
		'0', "$name: the job has not ended before its launcher");

	$control->query('SELECT pg_advisory_unlock(1)');
	ok( await($node, "SELECT count(*) = 1 FROM done WHERE what = '$name'"),
		"$name: the job was done");
	nothing_left($node, $name);
	return;
}

my $wait_for_lock = q{SELECT '' FROM pg_advisory_xact_lock(1)};
my $rows = q{SELECT repeat('x', 1000 + 0 * generate_series(1, 10000))};

test_killed_launcher(
	'idle launcher',
	$wait_for_lock,
	sub {
		my ($session, $job) = @_;
		wait_for_worker($node, $job, "wait_event_type = 'Lock'");
	});

test_killed_launcher(
	'waiting launcher',
	$wait_for_lock,
	sub {
		my ($session, $job) = @_;
		$session->send("SELECT pg_background_wait_v2($job)");
		wait_for_worker($node, $job, "wait_event_type = 'Lock'");
		wait_for_worker($node, $session->{pid}, "wait_event_type = 'Extension'");
	});

test_killed_launcher(
	'launcher that keeps rows',
	"$rows UNION ALL $wait_for_lock",
	sub {
		my ($session, $job) = @_;
		wait_until(
			'rows are kept in a file',
			sub {
				$session->query("SELECT pg_background_wait_v2_timeout($job, 0)");
				$session->query('SELECT count(*) FROM pg_ls_tmpdir()') > 0;
			});
	});

test_killed_launcher(
	'launcher that keeps its worker waiting',
	"$rows UNION ALL $wait_for_lock",
	sub {
		my ($session, $job) = @_;
		wait_for_full_queue($node, $job);
	});

# Jobs that do not react to being canceled
my $session = new_session($node);
my $job = $session->launch(
	q{DO $$
		BEGIN
			LOOP
				BEGIN
					PERFORM pg_sleep(1000);
				EXCEPTION WHEN query_canceled THEN
					INSERT INTO done VALUES ('caught');
					COMMIT;
				END;
			END LOOP;
		END $$});
wait_for_worker($node, $job, "wait_event = 'PgSleep'");
my $size = log_size($node);
$session->query("SELECT pg_background_cancel_v2($job)");
await($node, "SELECT count(*) = 1 FROM done WHERE what = 'caught'");
is($session->state($job), 'running', 'a stubborn job goes on when canceled');
$session->query("SELECT pg_background_cancel_v2_grace($job, 100)");
$session->wait_for($job);
is($session->state($job), 'canceled', 'and ends when its grace is over');

$job = $session->launch('SELECT pg_sleep(1000)');
my ($pid) = split /, /, $job;
wait_for_worker($node, $job, "wait_event = 'PgSleep'");
kill 'STOP', $pid;
$session->query("SELECT pg_background_cancel_v2_grace($job, 100)");
is($session->query("SELECT pg_background_wait_v2_timeout($job, 100)"),
	'f', 'a process that has stopped is not ended');
kill 'CONT', $pid;
$session->wait_for($job);
is($session->state($job), 'canceled', 'it is ended when it goes on');
unlike(
	log_since($node, $size),
	qr/terminated by signal|all server processes terminated/,
	'the cluster was not restarted');
is($session->query('SELECT pg_backend_pid()'),
	$session->{pid}, 'nor was the session');

# A process that somebody has killed
$job = $session->launch('SELECT pg_sleep(1000)');
($pid) = split /, /, $job;
wait_for_worker($node, $job, "wait_event = 'PgSleep'");
$size = log_size($node);
kill 'KILL', $pid;
wait_until(
	'the server has restarted',
	sub {
		log_since($node, $size) =~
		  /all server processes terminated.*ready to accept connections/s;
	});
$_->quit foreach $session, $control;

$session = new_session($node);
is( $session->result($session->launch('SELECT 1'), 'a int'),
	'1', 'a job runs after the restart');
$session->quit;
nothing_left($node, 'after the restart');

done_testing();
