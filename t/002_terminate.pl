# A job that is canceled or terminated from outside, or that runs into a
# time-out, ends with its real SQLSTATE, also where its worker cannot say so
# because the queue is full and nobody reads it. The launcher learns of it at
# once and goes on with other jobs.
#
# Known failures 4, 10.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main');
my $session = new_session($node);
my $sleep = 'SELECT pg_sleep(1000)';

# What fills a queue of 4096 bytes, and never ends
my %endless = (
	'rows' => q{SELECT generate_series(1, 2000000000), repeat('x', 100)},
	'a large row' => q{SELECT 1, repeat('x', 100000000)},
	'notices' =>
	  q{DO $$ BEGIN LOOP RAISE NOTICE '%', repeat('x', 10000); END LOOP; END $$},
	'command tags' => 'SET work_mem = 64;' x 1000);

# Does something to the worker of a job, from another session.
sub signal
{
	my ($function, $job) = @_;
	my ($pid) = split /, /, $job;

	is(sql($node, "SELECT $function($pid)"), 't', $function);
	return;
}

# Tests how a job has ended. Its result is read by a column list that fits.
sub test_end
{
	my ($job, $sqlstate, $like, $state, $name) = @_;

	$session->wait_for($job);
	is($session->state($job), $state, "$name: state");
	$session->fails(
		"SELECT count(*) FROM pg_background_result_v2($job) AS (a int, b text)",
		$sqlstate, $like, $name);
	is( $session->result($session->launch('SELECT 1'), 'a int'),
		'1', "$name: the session is usable");
	return;
}

my @terminated = ('57P01', qr/terminating background worker .* due to administrator command/);
my @canceled = ('57014', qr/canceling statement due to user request/);
my @timed_out = ('57014', qr/canceling statement due to statement timeout/);

# While the job runs: who waits for it is told.
my $job = $session->launch($sleep);
$session->send("SELECT pg_background_wait_v2($job)");
wait_for_worker($node, $job, "wait_event = 'PgSleep'");
is(scalar segments($node), 1, 'a running job has a segment');
signal('pg_terminate_backend', $job);
$session->receive;
test_end($job, @terminated, 'error', 'terminated');

$job = $session->launch($sleep);
$session->send("SELECT * FROM pg_background_result_v2($job) AS (a text)");
wait_for_worker($node, $job, "wait_event = 'PgSleep'");
signal('pg_terminate_backend', $job);
$session->fails(undef, @terminated, 'terminated while read');

$job = $session->launch($sleep);
wait_for_worker($node, $job, "wait_event = 'PgSleep'");
signal('pg_cancel_backend', $job);
test_end($job, @canceled, 'canceled', 'canceled');

$job = $session->launch("SET statement_timeout = 10; $sleep");
test_end($job, @timed_out, 'error', 'timed out');

# While the queue is full and nobody reads it
foreach my $what (sort keys %endless)
{
	foreach my $end (
		[ 'pg_terminate_backend', @terminated, 'error' ],
		[ 'pg_cancel_backend', @canceled, 'canceled' ])
	{
		my ($function, @expected) = @$end;

		$job = $session->launch($endless{$what}, 4096);
		wait_for_full_queue($node, $job);
		signal($function, $job);
		test_end($job, @expected, "$what, $function");
	}

	# It is the time of a statement, and none runs while tags are sent.
	next if $what eq 'command tags';

	my $size = log_size($node);
	$job = $session->launch("SET statement_timeout = '1s'; $endless{$what}", 4096);
	wait_until(
		'the job has timed out',
		sub { log_since($node, $size) =~ /canceling statement due to statement timeout/ });
	test_end($job, @timed_out, 'error', "$what, statement_timeout");
}

# A submitted job says nothing, so its queue is never full.
$job = $session->submit($sleep);
wait_for_worker($node, $job, "wait_event = 'PgSleep'");
signal('pg_terminate_backend', $job);
$session->wait_for($job);
is($session->state($job), 'error', 'submitted and terminated: state');
$session->query("SELECT pg_background_detach_v2($job)");

nothing_left($node, 'jobs that were ended', $session);
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/,
	'no process has crashed');

done_testing();
