# Workers that wait for the next jobs of their sessions hold slots. Where none is
# free, a launch of another session makes the one that has waited longest leave,
# and does not fail; the session that it has left does not notice.
#
# Known failure 13.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

# No worker goes by itself.
my $node = new_server('main', <<'END');
max_worker_processes = 4
max_logical_replication_workers = 0
pg_background.max_idle_workers = 2
pg_background.idle_timeout = 1h
END

sub pid_of_next_job
{
	return $_[0]->query("SELECT pid FROM pg_background_run_v2('SELECT 1')");
}

# Two sessions with two idle workers each, in this order
my @sessions = map { new_session($node) } 1 .. 2;
my $third = new_session($node);
my @pids;
foreach my $session (@sessions)
{
	$third->query('SELECT pg_advisory_lock(1), pg_advisory_lock(2)');
	my @jobs = map { $session->launch("SELECT pg_advisory_xact_lock($_)") } 1 .. 2;
	foreach my $n (1 .. 2)
	{
		my $job = $jobs[ $n - 1 ];

		$third->query("SELECT pg_advisory_unlock($n)");
		$session->wait_for($job);
		$session->query("SELECT pg_background_detach_v2($job)");
		push @pids, $job =~ /^(\d+)/;
	}
}
sub idle
{
	return $node->safe_psql('postgres',
		"SELECT string_agg(pid::text, ' ' ORDER BY array_position('{@{[join ',', @pids]}}', pid)) FROM pg_background_workers WHERE state = 'idle'");
}
is(idle(), "@pids", 'all slots are held by workers that wait');

my $sleep = 'SELECT pg_sleep(1000)';
my @jobs = ($third->launch($sleep));
is(idle(), "@pids[1 .. 3]", 'the one that has waited longest has left');
push @jobs, $third->launch($sleep);
is(idle(), "@pids[2 .. 3]", 'then the next');

is(pid_of_next_job($sessions[1]), $pids[3], 'a session whose worker has stayed goes on with it');
isnt(pid_of_next_job($sessions[0]), $pids[0], 'one whose workers have left gets a new one');
is(idle() =~ tr/ //, 1, 'for which another has left');

# Workers that run a job are nobody else's.
push @jobs, map { $third->launch($sleep) } 1 .. 2;
is(idle(), '', 'none is left');
$sessions[0]->fails("SELECT pg_background_launch_v2('SELECT 1')",
	'53000', qr/HINT:.*max_worker_processes/, 'then a launch fails');
is($third->query("SELECT count(*) FROM $PgBackground::list WHERE state = 'running'"), '4', 'and the jobs go on');

$third->query('SELECT pg_background_cancel_all_v2()');
$third->wait_for($_) foreach @jobs;
isnt(pid_of_next_job($sessions[0]), '', 'slots are free again');

# More sessions than slots
push @sessions, $third, map { new_session($node) } 1 .. 3;
my $count = 300;
$_->send("SET pg_background.launch_timeout = '10min'; SELECT count(pid) FROM generate_series(1, $count), LATERAL pg_background_run_v2('SELECT 1')") foreach @sessions;
is($_->receive, $count, 'all jobs are run') foreach @sessions;

$_->quit foreach @sessions;
nothing_left($node, 'at the end');

done_testing();
