# 10,000 jobs in one session, a thousand in each of ten DO blocks, of all kinds
# and in all ways to end, leave nothing in the session: no segment, no file
# descriptor, no mapping, no memory; and nothing in the memory of the pool.
#
# Known failure 8.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main');
my $session = new_session($node);

# Seven jobs a turn, and one more in every eighth
$session->query(<<'END');
CREATE FUNCTION run_jobs(turns int) RETURNS void LANGUAGE plpgsql
SET client_min_messages = error
AS $$
DECLARE
	job record;
BEGIN
	FOR i IN 1 .. turns LOOP
		PERFORM * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (a int);

		SELECT * INTO job FROM pg_background_launch_v2('SELECT repeat(''x'', 100) FROM generate_series(1, 100)');
		PERFORM * FROM pg_background_result_v2(job.pid, job.cookie) AS (a text);

		SELECT * INTO job FROM pg_background_launch_v2('SELECT repeat(''x'', 100) FROM generate_series(1, 100)');
		PERFORM pg_background_wait_v2(job.pid, job.cookie);
		PERFORM * FROM pg_background_result_v2(job.pid, job.cookie) AS (a text);

		SELECT * INTO job FROM pg_background_launch_v2('DO $job$ BEGIN RAISE NOTICE ''a notice''; PERFORM 1 / 0; END $job$', 4096 + i % 2);
		BEGIN
			PERFORM * FROM pg_background_result_v2(job.pid, job.cookie) AS (a text);
			RAISE 'no error';
		EXCEPTION WHEN division_by_zero THEN
		END;

		SELECT * INTO job FROM pg_background_launch_v2('SELECT 1');
		BEGIN
			PERFORM * FROM pg_background_result_v2(job.pid, job.cookie) AS (a text);
			RAISE 'no error';
		EXCEPTION WHEN datatype_mismatch THEN
			PERFORM * FROM pg_background_result_v2(job.pid, job.cookie) AS (a int);
		END;

		SELECT * INTO job FROM pg_background_submit_v2('SELECT 1');
		PERFORM pg_background_wait_v2(job.pid, job.cookie);
		PERFORM pg_background_detach_v2(job.pid, job.cookie);

		-- a worker that was canceled has no other job
		IF i % 8 = 0 THEN
			SELECT * INTO job FROM pg_background_launch_v2('SELECT pg_sleep(1000)');
			PERFORM pg_background_cancel_v2(job.pid, job.cookie);
			PERFORM pg_background_wait_v2(job.pid, job.cookie);
			PERFORM pg_background_detach_v2(job.pid, job.cookie);
		END IF;

		SELECT * INTO job FROM pg_background_launch_v2('SELECT 1');
		PERFORM pg_background_detach_v2(job.pid, job.cookie);
	END LOOP;
END $$
END

sub run_a_thousand_jobs
{
	$session->query('DO $$ BEGIN PERFORM run_jobs(140); END $$');
	return;
}

# What the session and the pool hold while there is no worker
sub holdings
{
	my %held;
	my $proc = "/proc/$session->{pid}";

	nothing_left($node, 'after these jobs', $session);
	if (-r "$proc/maps")
	{
		# Files of tables are opened and closed as the server sees fit.
		$held{'file descriptors'} =
		  grep { (readlink // '') !~ m{/(base/\d+|global)/} } glob "$proc/fd/*";
		$held{'mappings of segments'} =
		  grep { m{/pg_dynshmem/} } split /\n/, slurp("$proc/maps");
	}
	# All that sessions share, and what this one keeps for its next jobs
	$held{'shared memory'} = 0;
	$held{'shared memory'} += -s $_ foreach glob $node->data_dir . '/pg_dynshmem/mmap.*';
	$held{memory} = $session->query(
		'SELECT sum(used_bytes) FROM pg_backend_memory_contexts');
	return %held;
}

sub slurp
{
	open my $in, '<', $_[0] or die "$_[0]: $!";
	local $/;
	return scalar <$in>;
}

run_a_thousand_jobs();
my %before = holdings();

# What is kept for the next jobs is as large as the last ones had it, which may differ:
# but it comes back to what it was, which what leaks does not.
my %after;
foreach my $round (1 .. 30)
{
	run_a_thousand_jobs();
	next if $round < 9;
	%after = holdings();
	last unless grep { $_ ne 'memory' && $after{$_} ne $before{$_} } keys %before;
}

is($session->query("SELECT count(*) FROM $PgBackground::list"),
	'0', 'the session has no job left');
cmp_ok($after{memory} - $before{memory},
	'<', 1e5, 'memory has not grown with the jobs');
is($after{$_}, $before{$_}, "$_: as much as before")
  foreach grep { $_ ne 'memory' } sort keys %before;

# A large result that nobody has read is in a file, which goes with its job.
$session->query("SET work_mem = '64kB'");
my $job = $session->launch("SELECT repeat('x', 100) FROM generate_series(1, 10000)");
$session->wait_for($job);
isnt(sql($node, 'SELECT count(*) FROM pg_ls_tmpdir()'),
	'0', 'a large result is in a temporary file');
$session->query("SELECT pg_background_detach_v2($job)");
nothing_left($node, 'large result', $session);

$session->quit;
done_testing();
