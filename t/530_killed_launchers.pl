# 64 sessions, 8 slots, 100 audit rows each, by jobs that are waited for, that are
# submitted and forgotten, or that run on commit; sessions are ended at random
# moments. No row is lost that its session was told of, and none is there twice.
#
# PG_BACKGROUND_SEED repeats the choice of moments.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $seed = $ENV{PG_BACKGROUND_SEED} // int(rand(1_000_000_000));
srand($seed);
diag "PG_BACKGROUND_SEED=$seed";

my $node = new_server('main', <<'END');
max_connections = 100
max_worker_processes = 8
max_logical_replication_workers = 0
pg_background.launch_timeout = 10min
log_min_messages = panic
END
sql($node, 'CREATE TABLE audit (who int, what int)');
my $control = new_session($node);
my ($sessions, $rows) = (64, 100);

# Each row is its own statement, which tells when its work is done.
my %how = (
	'waited for' => sub { "SELECT 'done $_[1]' FROM pg_background_run_params_v2('INSERT INTO audit VALUES (\$1, \$2)', $_[0], $_[1]) WHERE NOT has_error;" },
	'submitted' => sub { "SELECT 'done $_[1]' FROM pg_background_submit_params_v2('INSERT INTO audit VALUES (\$1, \$2)', $_[0], $_[1]) h, LATERAL pg_background_detach_v2(h.pid, h.cookie);" },
	'on commit' => sub { "BEGIN; SELECT pg_background_submit_on_commit_v2('INSERT INTO audit VALUES ($_[0], $_[1])') \\g /dev/null\nCOMMIT;\n\\echo done $_[1]" });

foreach my $name (sort keys %how)
{
	my @running = map { new_session($node, quiet => 1) } 1 .. $sessions;
	my @pids = map { $_->{pid} } @running;
	my %killed;

	# None comes to its end before half of those have been ended that will be.
	$control->query('SELECT pg_advisory_lock(1), pg_advisory_lock(2)');
	foreach my $who (1 .. $sessions)
	{
		my @commands = map { $how{$name}->($who, $_) } 1 .. $rows;

		splice @commands, $rows / 2, 0, 'SELECT pg_advisory_lock_shared(2);';
		$running[ $who - 1 ]->send("\\set ON_ERROR_STOP on\nSELECT pg_advisory_lock_shared(1);" . join "\n", @commands);
	}

	# They begin together, and half of them are ended while others go on.
	$control->query('SELECT pg_advisory_unlock(1)');
	while (keys %killed < $sessions / 2)
	{
		my $who = 1 + int(rand($sessions));
		my $wanted = int(rand(64 * $rows / 3));

		# at some moment: when so many rows are there
		wait_until('there are more rows',
			sub {
				$_->is_done foreach @running;
				$control->query("SELECT count(*) >= least($wanted, " . keys(%killed) * 2 * $rows . ') FROM audit') eq 't';
			}) if rand() < 0.3;
		next if $killed{$who}++;
		$control->query("SELECT pg_terminate_backend($pids[$who - 1])");
		$control->query('SELECT pg_advisory_unlock(2)') if keys %killed == $sessions / 4;
	}

	my %told;
	foreach my $who (1 .. $sessions)
	{
		my $out = $running[ $who - 1 ]->receive;
		$told{"$who $_"} = 1 foreach $out =~ /^done (\d+)$/mg;
	}
	$_->quit foreach @running;
	wait_for_pool($node, 'running = 0 AND queued = 0 AND waiting = 0');

	my %there = map { /(.*)\|(.*)/ ? ($1 => $2) : () } split /\n/,
	  sql($node, q{SELECT who || ' ' || what, count(*) FROM audit GROUP BY 1});
	my @lost = grep { !$there{$_} } sort keys %told;
	my @twice = grep { $there{$_} > 1 } sort keys %there;
	my @untold = grep { !$told{$_} } keys %there;
	my $cut = grep { !$told{"$_ $rows"} } keys %killed;

	is("@lost", '', "$name: no row is lost that was reported");
	is("@twice", '', "$name: none is there twice");
	cmp_ok(scalar @untold, '<=', $sessions, "$name: at most one a session was not reported");
	is(scalar(grep { !$told{"$_ $rows"} } grep { !$killed{$_} } 1 .. $sessions), 0, "$name: sessions that were let alone have come to their end");
	cmp_ok($cut, '>', 0, "$name: sessions were ended before");
	note "$name: ", scalar keys %told, ' rows reported, ', scalar keys %there, " there, $cut sessions ended before";
	sql($node, 'TRUNCATE audit');
}

is($control->query('SELECT sum(waiting + queued + running) FROM pg_background_pool'), '0', 'nothing is left in the pool');
is($control->query(q{SELECT r FROM pg_background_run_query_v2('SELECT 1') AS (r int)}), '1', 'jobs run');
$control->quit;
done_testing();
