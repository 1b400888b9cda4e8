# Who waits, sleeps: a session that waits for a job, a worker that waits for
# another job, and one that waits for room in its queue use no processor and make
# fewer than 10 system calls in 2 seconds.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use IPC::Run;
use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

plan skip_all => 'there is no /proc/PID/status with context switches'
  unless -r "/proc/$$/status" && slurp_file("/proc/$$/status") =~ /^voluntary_ctxt_switches:/m;

my $seconds = 2;
my $calls = 10;

# Who looks at the queue before sleeping, for so many microseconds at most
my %look = ('as usual' => 400, 'looking long' => 10000, 'not looking' => 0);

# How often a process has gone to sleep, which takes a system call, and how many
# ticks of the clock it has used.
sub usage
{
	my ($pid) = @_;
	my ($sleeps) = slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
	my (undef, $rest) = split /\) /, slurp_file("/proc/$pid/stat"), 2;
	my @fields = split / /, $rest;

	return ($sleeps, $fields[11] + $fields[12]);
}

# Follows processes for that time with strace, where that may be done. Returns
# for each PID how many system calls it made, undef where that is not known.
sub count_calls
{
	my @pids = @_;
	my (%output, %trace, %calls);

	foreach my $pid (@pids)
	{
		$output{$pid} = "${PostgreSQL::Test::Utils::tmp_check}/strace.$pid";
		$trace{$pid} = eval {
			IPC::Run::start([ 'strace', '-o', $output{$pid}, '-p', $pid ], '>&', \my $messages);
		};
	}
	foreach my $pid (@pids)
	{
		wait_until(
			'strace has attached, or given up',
			sub {
				slurp_file("/proc/$pid/status") =~ /^TracerPid:\s+[1-9]/m
				  || !$trace{$pid}
				  || !$trace{$pid}->pumpable;
			});
		$calls{$pid} = slurp_file("/proc/$pid/status") =~ /^TracerPid:\s+[1-9]/m;
	}
	sleep $seconds;
	foreach my $pid (@pids)
	{
		$trace{$pid}->signal('INT') if $calls{$pid};
		eval { $trace{$pid}->finish } if $trace{$pid};
		$calls{$pid} = $calls{$pid} ? scalar(() = slurp_file($output{$pid}) =~ /^\w+\(/mg) : undef;
	}
	return %calls;
}

# Tests that these processes sleep: PID => name.
sub test_sleepers
{
	my (%name) = @_;
	my @pids = sort keys %name;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	# What is measured here is this very time.
	my %before = map { $_ => [ usage($_) ] } @pids;
	sleep $seconds;
	my %after = map { $_ => [ usage($_) ] } @pids;

	foreach my $pid (@pids)
	{
		cmp_ok($after{$pid}[0] - $before{$pid}[0], '<', $calls, "$name{$pid}: hardly ever wakes");
		cmp_ok($after{$pid}[1] - $before{$pid}[1], '<=', 1, "$name{$pid}: uses no processor");
	}

	my %made = count_calls(@pids);
	foreach my $pid (@pids)
	{
	  SKIP:
		{
			skip 'system calls cannot be counted, strace is missing or not permitted', 1
			  unless defined $made{$pid};
			cmp_ok($made{$pid}, '<', $calls, "$name{$pid}: makes few system calls");
		}
	}
	return;
}

my $node = new_server('main', <<'END');
pg_background.idle_timeout = 1h
pg_background.max_idle_workers = 2
END

foreach my $look (sort keys %look)
{
	my @options = (options => "-c pg_background.look_time=$look{$look}");
	my %name;

	# A job of each has been there, so that whoever looks has looked.
	my ($waits, $waits_long, $reads, $holder) = map { new_session($node, @options) } 1 .. 4;
	$_->result($_->launch('SELECT 1'), 'a int') foreach $waits, $waits_long, $reads, $holder;

	my $idle = $holder->launch('SELECT 1');
	$holder->wait_for($idle);
	$name{ (split /, /, $idle)[0] } = 'an idle worker';

	my $full = $holder->launch('SELECT repeat($$x$$, 100) FROM generate_series(1, 10000)', 4096);
	wait_for_full_queue($node, $full);
	$name{ (split /, /, $full)[0] } = 'a worker whose queue is full';

	my $job = $waits->launch('SELECT pg_sleep(1000)');
	$waits->send("SELECT pg_background_wait_v2($job)");
	$name{ $waits->{pid} } = 'a session in wait';
	$job = $waits_long->launch('SELECT pg_sleep(1000)');
	$waits_long->send("SELECT pg_background_wait_v2_timeout($job, 3600000)");
	$name{ $waits_long->{pid} } = 'a session in wait_timeout';
	$job = $reads->launch('SELECT pg_sleep(1000)');
	$reads->send("SELECT * FROM pg_background_result_v2($job) AS (a text)");
	$name{ $reads->{pid} } = 'a session in result';
	$node->poll_query_until('postgres',
		'SELECT count(*) = ' . keys(%name) . ' FROM pg_stat_activity WHERE pid IN (' . join(', ', keys %name)
		  . ") AND wait_event_type = 'Extension'")
	  or die 'timed out waiting for all to wait';

	test_sleepers(map { $_ => "$look: $name{$_}" } keys %name);

	$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1000)%' AND backend_type = 'pg_background'");
	$_->receive foreach $waits, $waits_long, $reads;
	is( $holder->query("SELECT count(*) FROM pg_background_result_v2($full) AS (a text)"),
		10000, "$look: all rows come");
	is($holder->result($idle, 'a int'), 1, "$look: jobs go on");
	$_->quit foreach $waits, $waits_long, $reads, $holder;
}

nothing_left($node, 'all');

done_testing();
