# Workers that wait for jobs hold slots. Where none is free, a launch of another
# user, or in another database, makes the one that has waited longest leave, and does
# not fail; those whose worker it was do not notice. Users who want more slots than
# there are have them in turn.
#
# Known failure 13.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

# No worker goes by itself; two may wait.
my $node = new_server('main', <<'END');
max_worker_processes = 8
max_logical_replication_workers = 0
pg_background.idle_timeout = 1h
END
my @users = map { "user_$_" } 1 .. 3;
sql($node, "CREATE ROLE $_ LOGIN IN ROLE pgbackground_role") foreach @users;

sub pid_of_next_job
{
	return $_[0]->query("SELECT pid FROM pg_background_run_v2('SELECT 1')");
}

# Two users with an idle worker each, in this order
my @sessions = map { new_session($node, user => $_) } @users[0, 1];
my @pids = map { pid_of_next_job($_) } @sessions;
sub idle
{
	return sql($node, "SELECT string_agg(pid::text, ' ' ORDER BY array_position('{@{[join ',', @pids]}}', pid)) FROM pg_background_workers WHERE state = 'idle'");
}
ok(await($node, "SELECT count(*) = 2 FROM pg_background_workers WHERE state = 'idle'"),
	'both workers wait');
is(idle(), "@pids", 'and these they are');

my $third = new_session($node, user => $users[2]);
my $sleep = 'SELECT pg_sleep(1000)';
my @jobs = map { $third->launch($sleep) } 1 .. 6;
is(idle(), "@pids", 'while slots are free, they stay');
push @jobs, $third->launch($sleep);
is(idle(), $pids[1], 'the one that has waited longest has left');
is(pid_of_next_job($sessions[1]), $pids[1], 'a user whose worker has stayed goes on with it');
push @jobs, $third->launch($sleep);
is(idle(), '', 'then the other one has left');

# Workers that run a job are nobody else's.
$_->query('SET pg_background.launch_timeout = 0') foreach @sessions;
$sessions[0]->fails("SELECT pg_background_launch_v2('SELECT 1')",
	'53000', qr/HINT:.*max_worker_processes/, 'then a launch fails');
wait_for_worker($node, $_, "wait_event = 'PgSleep'") foreach @jobs;
is($third->query("SELECT count(*) FROM $PgBackground::list WHERE state = 'running'"), '8', 'and the jobs go on');
$_->query('RESET pg_background.launch_timeout') foreach @sessions;

# Who waits has the first slot that becomes free.
$sessions[0]->send("SELECT pid FROM pg_background_run_v2('SELECT 1')");
wait_for_line($node, 1);
$third->query("SELECT pg_background_cancel_v2($jobs[0])");
isnt($sessions[0]->receive, $pids[0], 'one whose worker has left gets a new one');

$third->query('SELECT pg_background_cancel_all_v2()');
$third->wait_for($_) foreach @jobs;
$third->query('SELECT pg_background_detach_all_v2()');

# More sessions than slots, of more users than slots
sql($node, "CREATE ROLE $_ LOGIN IN ROLE pgbackground_role") foreach map { "more_$_" } 1 .. 9;
push @sessions, $third, map { new_session($node, user => "more_$_") } 1 .. 9;
my $count = 50;
$_->send("SET pg_background.launch_timeout = '10min'; SELECT count(pid) FROM generate_series(1, $count), LATERAL pg_background_run_v2('SELECT 1')") foreach @sessions;
is($_->receive, $count, 'all jobs are run') foreach @sessions;

$_->quit foreach @sessions;
end_idle_workers($node);
nothing_left($node, 'at the end');

done_testing();
