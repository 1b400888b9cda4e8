# On a server with few worker slots: where none is free, a launch that is not to
# wait fails with an error that the caller can handle, says which setting to raise,
# and leaves nothing behind; what is submitted is queued where a worker will come to
# it. One job after another never fails, though the process of the last one is
# still ending.
#
# Known failure 13.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main', <<'END');
max_worker_processes = 4
max_logical_replication_workers = 0
END
my $session = new_session($node);
my $sleep = 'SELECT pg_sleep(1000)';
my @no_slot = ('53000', qr/HINT:.*max_worker_processes/);

sql($node, 'CREATE TABLE message (what text)');

my @jobs = map { $session->launch($sleep) } 1 .. 4;

$session->query('SET pg_background.launch_timeout = 0');
$session->fails("SELECT pg_background_launch('SELECT 1')", @no_slot, 'launch');
my $held = scalar segments($node);
cmp_ok($held, '<=', 5, 'a launch that failed leaves no segment, but one to be used again');
$session->fails("SELECT pg_background_launch_v2('SELECT 1')", @no_slot, 'launch_v2') foreach 1 .. 10;
$session->fails("SELECT pg_background_run_v2('SELECT 1')", @no_slot, 'run_v2');
is(scalar segments($node), $held, 'further ones leave none');
is($session->query("SELECT count(*) FROM $PgBackground::list"), '4', 'nor a job');
is(sql($node, 'SELECT running, idle, queued, waiting FROM pg_background_pool'),
	'4|0|0|0', 'nor anything in the queue');

# What is submitted is run when one of these workers is free; a user who has none is
# told at once.
my $queued = $session->submit(q{INSERT INTO message VALUES ('submitted')});
is($session->state($queued), 'starting', 'a submitted job is queued');
sql($node, 'CREATE ROLE other LOGIN IN ROLE pgbackground_role');
my $other = new_session($node, user => 'other', options => '-c pg_background.launch_timeout=0');
$other->fails("SELECT pg_background_submit_v2('SELECT 1')", @no_slot, 'submit_v2 of a user without workers');
is($other->query("SELECT count(*) FROM $PgBackground::list"), '0', 'submit_v2 that failed: no job');
$other->quit;

# A caller that logs by jobs, in the middle of a transaction
$session->query(<<'END');
DO $$
BEGIN
	INSERT INTO message VALUES ('work');
	PERFORM pg_background_run_v2('INSERT INTO message VALUES (''logged by a job'')');
EXCEPTION WHEN insufficient_resources THEN
	INSERT INTO message VALUES ('logged in place');
END $$
END
is($session->query('TABLE message'), 'logged in place', 'a handler takes over');

$session->query(q{TRUNCATE message; BEGIN; INSERT INTO message VALUES ('work'); SAVEPOINT s});
$session->fails("SELECT pg_background_launch_v2('SELECT 1')", @no_slot, 'in a transaction');
$session->query(q{ROLLBACK TO s; INSERT INTO message VALUES ('more work'); COMMIT});
is($session->query('TABLE message'), "work\nmore work", 'the transaction goes on');

# A launch that waits has the slots of jobs that have ended, however they did.
$session->query('RESET pg_background.launch_timeout');
$session->query("SELECT pg_background_cancel_v2($_)") foreach @jobs;
$session->wait_for($queued);
is($session->query('TABLE message'), "work\nmore work\nsubmitted", 'the queued job is run');
$session->wait_for($_) foreach @jobs;
@jobs = map { $session->launch($sleep) } 1 .. 4;
is($session->query("SELECT count(*) FROM $PgBackground::list WHERE state IN ('starting', 'running')"),
	'4', 'slots of canceled jobs are free');
$session->query("SELECT pg_background_cancel_v2_grace($jobs[0], 0)");
$session->wait_for($jobs[0]);

# All slots but one are taken: one job after another
my %jobs = (
	'launch, result' => q{
		PERFORM * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (a int)},
	'launch_v2, result_v2' => q{
		SELECT * INTO job FROM pg_background_launch_v2('SELECT 1');
		PERFORM * FROM pg_background_result_v2(job.pid, job.cookie) AS (a int)},
	'submit_v2, wait_v2, detach_v2' => q{
		SELECT * INTO job FROM pg_background_submit_v2('SELECT 1');
		PERFORM pg_background_wait_v2(job.pid, job.cookie);
		PERFORM pg_background_detach_v2(job.pid, job.cookie)},
	'failing jobs' => q{
		SELECT * INTO job FROM pg_background_launch_v2('SELECT 1/0');
		BEGIN
			PERFORM * FROM pg_background_result_v2(job.pid, job.cookie) AS (a int);
			RAISE 'no error';
		EXCEPTION WHEN division_by_zero THEN
		END},
	'jobs of changing queue sizes' => q{
		SELECT * INTO job FROM pg_background_launch_v2('SELECT 1', 4096 + 1024 * i);
		PERFORM * FROM pg_background_result_v2(job.pid, job.cookie) AS (a int)},
	'canceled jobs' => q{
		SELECT * INTO job FROM pg_background_launch_v2('SELECT pg_sleep(1000)');
		PERFORM pg_background_cancel_v2(job.pid, job.cookie);
		PERFORM pg_background_wait_v2(job.pid, job.cookie);
		PERFORM pg_background_detach_v2(job.pid, job.cookie)});

foreach my $idle_workers (0, 2)
{
	$session->query("SET pg_background.max_idle_workers = $idle_workers");
	foreach my $what (sort keys %jobs)
	{
		$session->send(
			"DO \$\$ DECLARE job record; BEGIN FOR i IN 1 .. 40 LOOP $jobs{$what}; END LOOP; END \$\$");
		$session->receive;
		is($session->{messages}, '', "$what, max_idle_workers = $idle_workers");
	}
}

$session->quit;
sql($node, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_background'});
nothing_left($node, 'few slots');

done_testing();
