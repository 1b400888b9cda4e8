# pg_cron: the cookbook's nightly job, as pg_cron runs it, over a connection and by
# background workers of its own. Where one of the commands has failed, it says that
# the job has.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('cron');
plan skip_all => 'pg_cron is not installed'
  unless sql($node, q{SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_cron'});

# It runs when the server has started, which is as good as at night.
my ($recipe) = slurp_file("$FindBin::RealBin/../docs/cookbook.md") =~ /^```\n(SELECT cron\.schedule\('nightly'.*?)^```$/ms;
$recipe =~ s/'0 3 \* \* \*'/'\@reboot'/ or die 'the recipe is for another time';

my $host = $node->host;
$node->append_conf('postgresql.conf', <<"END");
shared_preload_libraries = 'pg_cron'
cron.host = '$host'
END
$node->restart;
$node->safe_psql('postgres', <<"END");
CREATE EXTENSION pg_cron;
CREATE TABLE measurement_1 (n int);
CREATE TABLE measurement_2 (n int);
CREATE TABLE measurement_3 (n int);
CREATE TABLE done (what text PRIMARY KEY);
$recipe
SELECT cron.schedule('maintain', '\@reboot', \$\$
    CALL pg_background_maintain(ARRAY['REINDEX TABLE CONCURRENTLY done', 'TABLE measurement_2',
        'INSERT INTO done VALUES (''maintain'')'], 1, raise_error => true)
\$\$);
END

# Restarts the server, and returns what pg_cron then has said of a job.
sub restart
{
	sql($node, 'TRUNCATE cron.job_run_details, done');
	$node->restart;
	await($node, 'SELECT count(end_time) = 2 FROM cron.job_run_details')
	  or die "timed out waiting for pg_cron, of which there is\n"
	  . sql($node, 'SELECT jobid, status, return_message FROM cron.job_run_details');
	return;
}

sub said
{
	my ($job) = @_;

	return $node->safe_psql('postgres', qq{
		SELECT status, return_message FROM cron.job_run_details JOIN cron.job USING (jobid) WHERE jobname = '$job'});
}

foreach my $how ('connection', 'background worker')
{
	$node->append_conf('postgresql.conf', 'cron.use_background_workers = ' . ($how eq 'connection' ? 'off' : 'on'));

	restart();
	like(said($_), qr/^succeeded\|/, "$how: $_") foreach 'nightly', 'maintain';

	sql($node, 'DROP TABLE measurement_2');
	restart();
	like( said('nightly'),
		qr/^failed\|ERROR: +1 of 3 commands failed\s+DETAIL: +The first was command 2, "VACUUM ANALYZE measurement_2", with SQLSTATE 42P01: relation/,
		"$how: nightly, one has failed");
	like( said('maintain'),
		qr/^failed\|ERROR: +1 of 3 commands failed\s+DETAIL: +The first was command 2, "TABLE measurement_2", with SQLSTATE 42P01: relation/,
		"$how: maintain, one has failed");
	is(sql($node, 'TABLE done'), 'maintain', "$how: what the others did is committed");
	sql($node, 'CREATE TABLE measurement_2 (n int)');
}

$node->stop;
done_testing();
