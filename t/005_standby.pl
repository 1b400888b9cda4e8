# On a hot standby a job that reads works, and one that writes fails as it
# would in any session there. Both work after the promotion, in the session
# that was open before.
#
# Known failure 16.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Cluster;
use Test::More;

my $primary = new_server('primary', '', allows_streaming => 1);
my $standby = PostgreSQL::Test::Cluster->new('standby');

$primary->backup('backup');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

$primary->safe_psql('postgres',
	"CREATE TABLE done (what text); INSERT INTO done VALUES ('on the primary')");
await($standby, q{SELECT count(*) = 1 FROM pg_class WHERE relname = 'done'})
  or die 'timed out waiting for the standby';

my $session = new_session($standby);

is( $session->query(
		q{SELECT * FROM pg_background_result(pg_background_launch('SELECT what, pg_is_in_recovery() FROM done')) AS (what text, standby bool)}
	),
	'on the primary|t',
	'v1: a job reads on the standby');

my $job = $session->launch('SELECT what FROM done');
$session->wait_for($job);
is($session->state($job), 'stopped', 'v2: a job ends on the standby');
is($session->result($job, 'what text'), 'on the primary', 'v2: its rows');

$job = $session->launch(q{INSERT INTO done VALUES ('on the standby')});
$session->wait_for($job);
is($session->state($job), 'error', 'a job that writes: state');
$session->fails(
	"SELECT * FROM pg_background_result_v2($job) AS (tag text)",
	'25006',
	qr/cannot execute INSERT in a read-only transaction/,
	'a job that writes');

$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
is( $session->result(
		$session->launch(q{INSERT INTO done VALUES ('after the promotion')}),
		'tag text'),
	'INSERT 0 1',
	'a job writes after the promotion');
is($session->query('SELECT what FROM done OFFSET 1'),
	'after the promotion', 'it was done');
$session->quit;
nothing_left($standby, 'former standby');

done_testing();
