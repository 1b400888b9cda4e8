# A session that ends as soon as it has launched a job loses nothing: the job
# runs and commits. The same when it detaches from the job at once, and when
# the session is a job itself, as those of a scheduler in the server are.
#
# Known failure 1.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my %launch = (
	'launch' => q{SELECT pg_background_launch($$%s$$)},
	'submit_v2' => q{SELECT pg_background_submit_v2($$%s$$)},
	'launch and detach' =>
	  q{SELECT pg_background_detach(pg_background_launch($$%s$$))},
	'launch_v2 and detach_v2' =>
	  q{SELECT pg_background_detach_v2(pid, cookie) FROM pg_background_launch_v2($$%s$$)},
	'launch in a job' =>
	  q{SELECT pg_background_launch($job$SELECT pg_background_launch($$%s$$)$job$)});

my $node = new_server('main');
my $size = log_size($node);

# For each way to launch a job, runs so many sessions, one after the other, that
# do so and end; and tests that every job was done.
sub test_launches
{
	my ($sessions, $when) = @_;

	sql($node, 'TRUNCATE done');
	foreach my $how (sort keys %launch)
	{
		my $sql = sprintf $launch{$how}, "INSERT INTO done VALUES ('$how')";
		my @psql =
		  ('psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $sql);
		my $failed = 0;

		for (1 .. $sessions)
		{
			IPC::Run::run(\@psql, '>', \my $out) or $failed++;
		}
		is($failed, 0, "$when, $how: $sessions sessions launched a job");
	}
	foreach my $how (sort keys %launch)
	{
		ok( await($node, "SELECT count(*) = $sessions FROM done WHERE what = '$how'"),
			"$when, $how: $sessions jobs were done");
	}
	nothing_left($node, $when);
	return;
}

sql($node, 'CREATE TABLE done (what text)');
test_launches(20, 'sessions that end at once');

# Now a worker starts a second late, long after its launcher has gone.
$node->append_conf('postgresql.conf', 'post_auth_delay = 1');
$node->restart;
$ENV{PGOPTIONS} = '-c post_auth_delay=0';
test_launches(3, 'late workers');

unlike(
	log_since($node, $size),
	qr/^pg_background\[|TRAP|PANIC|terminated by signal/m,
	'no worker had anything to complain of');

done_testing();
