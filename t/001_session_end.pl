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

# Runs so many sessions, one after the other, that launch a job and end.
sub test_launches
{
	my ($how, $sessions, $when) = @_;
	my $sql = sprintf $launch{$how}, "INSERT INTO done VALUES ('$how')";
	my @psql =
	  ('psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $sql);
	my $failed = 0;

	for (1 .. $sessions)
	{
		IPC::Run::run(\@psql, '>', \my $out) or $failed++;
	}
	is($failed, 0, "$how$when: $sessions sessions launched a job");
	ok( $node->poll_query_until('postgres',
			"SELECT count(*) = $sessions FROM done WHERE what = '$how'"),
		"$how$when: $sessions jobs were done");
	return;
}

$node->safe_psql('postgres', 'CREATE TABLE done (what text)');
test_launches($_, 50, '') foreach sort keys %launch;
nothing_left($node, 'sessions that end at once');

# Now a worker starts one second late, long after its launcher has gone.
$node->safe_psql('postgres', 'TRUNCATE done');
$node->append_conf('postgresql.conf', 'post_auth_delay = 1');
$node->restart;
$ENV{PGOPTIONS} = '-c post_auth_delay=0';
test_launches($_, 3, ', late workers') foreach sort keys %launch;
nothing_left($node, 'late workers');

unlike(log_since($node, $size),
	qr/ERROR|PANIC|TRAP|could not|unable to/,
	'nothing went wrong by the log');

done_testing();
