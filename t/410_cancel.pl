# What a cancel reaches, and what it cannot undo: programs that a job has started
# end with it, as they do where a session is canceled; and a job that has
# committed has ended well, though its worker still waits for room to say so.
#
# Hardening 10, 12. Known failure 25.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main');
my $session = new_session($node);
my $dir = $node->basedir;

sql($node, 'CREATE TABLE lines (line text)');
sql($node, 'CREATE TABLE done (n int)');

#
# Hardening 12: COPY FROM PROGRAM. As in any session, the error may be that the
# program has failed: the worker may notice that first.
#

# Launches a job that reads from a program that says nothing, and returns its
# handle and the program's PID. before is what the shell does first.
sub launch_program
{
	my ($before) = @_;
	my $file = "$dir/program";

	unlink $file;
	my $job = $session->launch(
		"COPY lines FROM PROGRAM '$before echo \$\$ > $file; exec sleep 1000'");
	wait_until('the program runs', sub { -s $file });
	return ($job, slurp_file($file) =~ /^(\d+)$/);
}

sub test_ended
{
	my ($job, $program, $name) = @_;

	is($session->query("SELECT pg_background_wait_v2_timeout($job, $PgBackground::limit * 1000)"),
		't', "$name: the job ends");
	wait_until("$name: the program ends", sub { !kill 0, $program });
	like($session->query("SELECT sqlstate FROM pg_background_outcome_v2($job)"),
		qr/^(57014|57P01|38000)$/, "$name: SQLSTATE");
	$session->query("SELECT pg_background_detach_v2($job)");
	return;
}

my ($job, $program) = launch_program('');
$session->query("SELECT pg_background_cancel_v2($job)");
test_ended($job, $program, 'Hardening 12: canceled');

# It does not heed the cancel.
($job, $program) = launch_program(q{trap '''' INT;});
$session->query("SELECT pg_background_cancel_v2_grace($job, 100)");
test_ended($job, $program, 'Hardening 12: terminated');

is($session->query(q{SELECT completed, timed_out, has_error FROM pg_background_run_v2($$COPY lines FROM PROGRAM 'exec sleep 1000'$$, timeout_ms => 100)}),
	'f|t|t', 'Hardening 12: timed out');

#
# Hardening 10: a job that has committed, and waits for room to say so. The first
# row fills the queue.
#

sub launch_and_commit
{
	sql($node, 'TRUNCATE done');
	my $handle = $session->launch(
		"INSERT INTO done SELECT generate_series(1, 2) RETURNING n, repeat('x', 8100)", 10000);

	await($node, 'SELECT count(*) = 2 FROM done')
	  or die 'the job does not commit';
	wait_for_worker($node, $handle, "wait_event_type = 'Extension'");
	return $handle;
}

sub signal
{
	my ($function, $handle) = @_;
	my ($pid) = split /, /, $handle;

	is(sql($node, "SELECT $function($pid)"), 't', $function);
	return;
}

my %cancel = (
	'pg_background_cancel_v2' => sub { $session->query("SELECT pg_background_cancel_v2($_[0])") },
	'pg_cancel_backend' => sub { signal('pg_cancel_backend', $_[0]) });
foreach my $how (sort keys %cancel)
{
	my $name = "Hardening 10: $how after the commit";

	$job = launch_and_commit();
	$cancel{$how}->($job);
	is($session->query("SELECT count(*), min(length(t)) FROM pg_background_result_v2($job) AS (n int, t text)"),
		'2|8100', "$name: the result is there");
}

# The process ends, and leaves what it had to say where its session finds it.
$job = launch_and_commit();
signal('pg_terminate_backend', $job);
my ($pid) = split /, /, $job;
wait_for_exit($node, $pid);
is($session->query("SELECT state, has_error FROM pg_background_outcome_v2($job)"),
	'stopped|f', 'Hardening 10: terminated after the commit: it has ended well');
is($session->query("SELECT count(*), min(length(t)) FROM pg_background_result_v2($job) AS (n int, t text)"),
	'2|8100', 'Hardening 10: terminated after the commit: the result is there');

# One that has failed has failed.
# There is no room for its error, behind its row.
$job = $session->launch("SELECT n, repeat('x', 9850), 1 / (2 - n) FROM generate_series(1, 2) n", 10000);
($pid) = split /, /, $job;
await($node, <<"END") or die 'the job has room for its error';
SELECT count(*) = 1 FROM pg_background_workers w JOIN pg_stat_activity a USING (pid)
WHERE pid = $pid AND w.state <> 'idle' AND a.state = 'idle' AND a.wait_event_type = 'Extension'
END
signal('pg_terminate_backend', $job);
wait_for_exit($node, $pid);
$session->fails("SELECT * FROM pg_background_result_v2($job) AS (n int, t text, i int)",
	'22012', qr/division by zero/, 'terminated after an error');

nothing_left($node, 'at the end', $session);
unlike(log_since($node, 0), qr/TRAP|PANIC|\(PID \d+\) was terminated by signal/, 'no process has crashed');
$session->quit;
done_testing();
