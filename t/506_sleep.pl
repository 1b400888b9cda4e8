# Nobody polls: a session that waits in line, a worker that waits for a job, and
# sessions that are not first in line are not woken. An idle worker looks every
# two seconds whether somebody wants its database for himself, and no more often.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'there is no /proc/PID/status with context switches'
  unless -r "/proc/$$/status" && slurp_file("/proc/$$/status") =~ /^voluntary_ctxt_switches:/m;

my $seconds = 5;

# How often a process has gone to sleep
sub sleeps
{
	my ($pid) = @_;
	my ($sleeps) = slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
	return $sleeps;
}

# Tests that these processes come to a time in which they are woken so many times
# at most: PID => [ name, how many times ]
sub test_sleepers
{
	my (%process) = @_;
	my (%from, %since, %done);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	eval {
		wait_until(
			'all have slept',
			sub {
				foreach my $pid (keys %process)
				{
					my $now = sleeps($pid);

					($from{$pid}, $since{$pid}) = ($now, time)
					  if !defined $from{$pid} || $now - $from{$pid} > $process{$pid}[1];
					$done{$pid} = 1 if time - $since{$pid} > $seconds;
				}
				return keys %done == keys %process;
			});
	};
	ok($done{$_}, "$process{$_}[0] is not woken") foreach sort { $process{$a}[0] cmp $process{$b}[0] } keys %process;
	return;
}

# A wait looks for a deadlock after every deadlock_timeout.
my $node = new_server('main', <<'END');
deadlock_timeout = 1h
pg_background.idle_timeout = 1h
pg_background.launch_timeout = 1h
pg_background.max_role_workers = 1
END
sql($node, 'CREATE ROLE idle LOGIN IN ROLE pgbackground_role');

my $holder = new_session($node);
my $idle = new_session($node, user => 'idle');
my ($idle_pid) = split /, /, $idle->query("SELECT pid FROM pg_background_run_v2('SELECT 1')");
wait_for_pool($node, 'idle = 1', "usename = 'idle'");

my @sessions = map { new_session($node) } 1 .. 5;
my ($busy) = occupy($node, $holder, $sessions[0], 1);
my %process = (
	$idle_pid => [ 'an idle worker', $seconds / 2 + 1 ],
	(split /, /, $busy)[0] => [ 'a worker whose job waits for a lock', 0 ],
	$idle->{pid} => [ 'a session whose worker is idle', 0 ]);

my $queued = $sessions[0]->submit('SELECT 1');
$sessions[0]->send("SELECT pg_background_wait_v2($queued)");
$process{ $sessions[0]{pid} } = [ 'a session that waits for a queued job', 0 ];
my @how = ("run_v2('SELECT 1')", "launch_v2('SELECT 1')", "run_all_v2('{SELECT 1, SELECT 2}', 2)", "launch('SELECT 1')");
foreach my $n (1 .. 4)
{
	$sessions[$n]->send("SELECT pg_background_$how[$n - 1]");
	$process{ $sessions[$n]{pid} } = [ "a session in line by $how[$n - 1]", 0 ];
}
wait_for_pool($node, 'waiting >= 3 AND queued >= 1');
test_sleepers(%process);
$holder->query('SELECT pg_advisory_unlock(1)');
$_->receive foreach @sessions;
is(join('', map { $_->{messages} } @sessions), '', 'all have had their turn');
$_->query('SELECT pg_background_detach_all_v2()') foreach @sessions;

# Who is last in line sleeps while a hundred others have their turns.
my $turns = 100;
occupy($node, $holder, $sessions[0], 1);
$holder->query('SELECT pg_advisory_lock(2)');
$sessions[1]->submit("SELECT $_") foreach 1 .. $turns;
$sessions[1]->submit('SELECT pg_advisory_xact_lock(2)');
$sessions[2]->send("SELECT pg_background_run_v2('SELECT 1')");
wait_for_pool($node, "waiting = 1 AND queued = $turns + 2");
test_sleepers($sessions[2]{pid} => [ 'the last in line', 0 ]);
my $before = sleeps($sessions[2]{pid});
$holder->query('SELECT pg_advisory_unlock(1)');
wait_for_pool($node, "running = 1 AND waiting = 1 AND queued = 1");
cmp_ok(sleeps($sessions[2]{pid}) - $before, '<', $turns / 10, 'the last in line is not woken by the turns of others');
$holder->query('SELECT pg_advisory_unlock(2)');
$sessions[2]->receive;
is($sessions[2]{messages}, '', 'and has its turn');

$_->quit foreach $holder, $idle, @sessions;
done_testing();
