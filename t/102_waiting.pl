# Who waits, sleeps: a session that waits for a job, a worker that waits for
# another job, and one that waits for room in its queue. Each comes to a time in
# which it is not woken once and uses no processor; who looks every so often never
# would, on a machine however busy. Only a worker without a job looks every two
# seconds whether its database is to go.
#
# Known failure 12: what goes on as soon as a job has ended need not look for that.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'there is no /proc/PID/status with context switches'
  unless -r "/proc/$$/status" && slurp_file("/proc/$$/status") =~ /^voluntary_ctxt_switches:/m;

my $seconds = 3;
my $idle_seconds = 1.5;

# Who looks at the queue before sleeping, for so many microseconds at most
my %look = ('as usual' => 400, 'looking long' => 10000, 'not looking' => 0);

# How often a process has gone to sleep, and how many ticks of the clock it has
# used.
sub usage
{
	my ($pid) = @_;
	my ($sleeps) = slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
	my (undef, $rest) = split /\) /, slurp_file("/proc/$pid/stat"), 2;
	my @fields = split / /, $rest;

	return join ' ', $sleeps, $fields[11] + $fields[12];
}

# Tests that these processes sleep: PID => name.
sub test_sleepers
{
	my (%name) = @_;
	my (%usage, %since, %sleeps);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	eval {
		wait_until(
			'all have slept',
			sub {
				foreach my $pid (keys %name)
				{
					my $now = usage($pid);

					($usage{$pid}, $since{$pid}) = ($now, time) if $now ne ($usage{$pid} // '');
					$sleeps{$pid} = 1 if time - $since{$pid} > ($name{$pid} =~ /idle/ ? $idle_seconds : $seconds);
				}
				return keys %sleeps == keys %name;
			});
	};
	ok($sleeps{$_}, "$name{$_}: is not woken") foreach sort { $name{$a} cmp $name{$b} } keys %name;
	return;
}

# A wait looks for a deadlock after every deadlock_timeout.
my $node = new_server('main', <<'END');
deadlock_timeout = 1h
pg_background.idle_timeout = 1h
END

my $sleep = 'SELECT pg_sleep(1000)';

# What waits, of a job where it says so
my %wait = (
	'wait' => 'SELECT pg_background_wait_v2(JOB)',
	'wait with a time-out' => 'SELECT pg_background_wait_v2_timeout(JOB, 3600000)',
	'wait_any' => 'SELECT pg_background_wait_any_v2(ARRAY[(JOB)]::pg_background_handle[])',
	'drain' => 'SELECT pg_background_drain_v2(ARRAY[(JOB)]::pg_background_handle[], 3600000)',
	'result' => 'SELECT * FROM pg_background_result_v2(JOB) AS (a text)',
	'run' => "SELECT pg_background_run_v2('$sleep')",
	'run_all' => "SELECT pg_background_run_all_v2('{$sleep, $sleep}', 1)");

foreach my $look (sort keys %look)
{
	my @options = (options => "-c pg_background.look_time=$look{$look}");
	my (%name, %session);

	# A job of each has been there, so that whoever looks has looked.
	my ($holder, $other) = map { new_session($node, @options) } 1 .. 2;
	$session{$_} = new_session($node, @options) foreach keys %wait;
	$_->result($_->launch('SELECT 1'), 'a int') foreach $holder, $other, values %session;

	my $full = $holder->launch('SELECT repeat($$x$$, 100) FROM generate_series(1, 10000)', 4096);
	wait_for_full_queue($node, $full);
	$name{ (split /, /, $full)[0] } = 'a worker whose queue is full';

	foreach my $wait (sort keys %wait)
	{
		my $job = $wait{$wait} =~ /JOB/ ? $session{$wait}->launch($sleep) : '';

		$session{$wait}->send($wait{$wait} =~ s/JOB/$job/r);
		$name{ $session{$wait}{pid} } = "a session in $wait";
	}

	# When all of them have workers, the one of this job is nobody's. Its session is not
	# that of the full queue, which would read that while it waits.
	await($node, q{SELECT count(*) = } . keys(%wait)
		  . q{ FROM pg_background_workers WHERE query LIKE '%pg_sleep(1000)%' AND backend_state = 'active'})
	  or die 'timed out waiting for all jobs to run';
	my $idle = $other->launch('SELECT 1');
	$other->wait_for($idle);
	$name{ (split /, /, $idle)[0] } = 'an idle worker';
	await($node, 'SELECT count(*) = ' . keys(%name) . ' FROM pg_stat_activity WHERE pid IN (' . join(', ', keys %name)
		  . ") AND wait_event_type = 'Extension'")
	  or die 'timed out waiting for all to wait';

	test_sleepers(map { $_ => "$look: $name{$_}" } keys %name);

	# The second command of run_all is not to begin.
	sql($node, "SELECT pg_cancel_backend($session{run_all}{pid})");
	$session{run_all}->receive;
	await($node, <<"END") or die 'timed out waiting for all to go on';
SELECT count(*) = 0 FROM (
	SELECT pg_cancel_backend(pid) FROM pg_stat_activity
	WHERE query LIKE '%pg_sleep(1000)%' AND backend_type = 'pg_background' AND state = 'active') c
END
	$_->receive foreach map { $session{$_} } grep { $_ ne 'run_all' } sort keys %session;
	is( $holder->query("SELECT count(*) FROM pg_background_result_v2($full) AS (a text)"),
		10000, "$look: all rows come");
	is($other->result($idle, 'a int'), 1, "$look: jobs go on");
	$_->quit foreach $holder, $other, values %session;
}

end_idle_workers($node);
nothing_left($node, 'all');

done_testing();
