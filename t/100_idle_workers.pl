# A worker that waits for its next job, of whatever session, holds nothing and holds
# nobody up: it is idle, without a transaction, a snapshot or a lock; it goes when its
# time is over, when there are enough others, when the configuration wants fewer,
# and when it is told to; databases and roles can be dropped, the server can be
# stopped.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# No worker goes by itself, but where a test is about that; two may wait.
my $node = new_server('main', <<'END');
max_worker_processes = 8
max_logical_replication_workers = 0
pg_background.idle_timeout = 1h
log_min_messages = warning
END
my $version = sql($node, 'SHOW server_version_num');

# Runs a job, and returns the PID of its worker when that waits for another.
sub idle_worker
{
	my ($session, $sql) = @_;
	my $job = $session->launch($sql // 'SELECT 1');
	my ($pid) = split /, /, $job;

	$session->wait_for($job);
	$session->query("SELECT pg_background_detach_v2($job)");
	wait_for_worker($node, $job,
		$version >= 170000
		? "wait_event = 'PgBackgroundIdle'"
		: "state = 'idle' AND wait_event_type = 'Extension'");
	return $pid;
}

# Asks for something of the whole server, which must not take long.
sub done_soon
{
	my ($sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	local $ENV{PGOPTIONS} = "-c statement_timeout=${PgBackground::limit}s";

	my ($status, undef, $err) = $node->psql('postgres', $sql);
	is($status, 0, $sql) or diag $err;
	return;
}

# Tests that the log has nothing of a worker since then.
sub log_is_quiet
{
	my ($offset, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	unlike(log_since($node, $offset),
		qr/^pg_background|background worker "pg_background"/m, "$name: nothing in the log");
	return;
}

#
# What it holds
#

my $session = new_session($node);
my $job = <<'END';
CREATE TABLE seen AS SELECT 1 AS a; CREATE INDEX ON seen (a);
SELECT pg_advisory_lock(1); LOCK TABLE pg_class IN SHARE MODE;
PREPARE p AS SELECT * FROM seen; EXECUTE p;
DECLARE c CURSOR WITH HOLD FOR SELECT * FROM seen;
SET default_transaction_isolation = 'serializable'
END
my $pid = idle_worker($session, $job);
is( $node->safe_psql(
		'postgres', qq{
		SELECT state, datname, usename, backend_type, wait_event_type,
			backend_xid, backend_xmin, xact_start FROM pg_stat_activity WHERE pid = $pid}),
	'idle|postgres|' . sql($node, 'SELECT user')
	  . '|pg_background|Extension|||',
	'idle, without a transaction or a snapshot');
is( sql($node, "SELECT wait_event FROM pg_stat_activity WHERE pid = $pid"),
	$version >= 170000 ? 'PgBackgroundIdle' : 'Extension', 'wait event');
is( sql($node, "SELECT locktype, mode FROM pg_locks WHERE pid = $pid"),
	'', 'no lock');
is( sql($node, "SELECT count(*) FROM pg_ls_tmpdir()"),
	0, 'no temporary file');

# A failed job leaves nothing, too.
my $failed = $session->submit('BEGIN; LOCK TABLE seen; SELECT 1 / 0');
$session->wait_for($failed);
$session->query("SELECT pg_background_detach_v2($failed)");
is(idle_worker($session), $pid, 'the process after a failed job');
is( sql($node, "SELECT locktype, mode FROM pg_locks WHERE pid = $pid"),
	'', 'no lock after a failed job');

#
# When it goes
#

# The time-out is that of the session whose job it had last.
my $short = new_session($node, options => '-c pg_background.idle_timeout=10ms');
my $size = log_size($node);
is((split /, /, $short->launch('SELECT 1'))[0], $pid, 'a worker serves another session');
wait_for_exit($node, $pid);
log_is_quiet($size, 'time-out');
$pid = idle_worker($session);
$short->query("SET pg_background.idle_timeout = '1h'");
is(idle_worker($short), $pid, 'another session does not shorten its time');

# A job that is launched just as its worker goes is done.
foreach my $timeout ('1ms', '0')
{
	$short->query("SET pg_background.idle_timeout = '$timeout'");
	is( $short->query(<<'END'), 100, "jobs launched as their worker goes, idle_timeout = $timeout");
DO $$
DECLARE
	h pg_background_handle;
BEGIN
	PERFORM set_config('test.done', '0', false);
	FOR i IN 1 .. 100 LOOP
		h := pg_background_launch_v2('SELECT 1');
		PERFORM set_config('test.done', (current_setting('test.done')::int + n)::text, false)
		FROM pg_background_result_v2(h.pid, h.cookie) AS (n int);
		-- times around that at which it goes
		PERFORM pg_sleep(0.0008 + random() * 0.0006);
	END LOOP;
END $$;
SHOW test.done;
END
}
$short->quit;

# Its session ends, by itself or not: it stays, for others.
$short = new_session($node);
$pid = idle_worker($short);
$short->quit;
wait_for_exit($node, $short->{pid});
is(idle_worker($session), $pid, 'the worker of a session that has ended');
$short = new_session($node);
is(idle_worker($short), $pid, 'it is the worker of all sessions');
sql($node, "SELECT pg_terminate_backend($short->{pid})");
wait_for_exit($node, $short->{pid});
is(idle_worker($session), $pid, 'the worker of a session that was terminated');
$short->quit;

# More than a quarter of all slots do not wait for long; fewer, where the session
# whose job has ended says so.
sub end_at_once
{
	my ($count) = @_;
	my $locker = new_session($node);
	$locker->query('SELECT pg_advisory_lock(3)');
	my @jobs = map { $session->launch('SELECT pg_advisory_xact_lock_shared(3)') } 1 .. $count;
	$locker->query('SELECT pg_advisory_unlock(3)');
	$session->wait_for($_) foreach @jobs;
	$session->query("SELECT pg_background_detach_v2($_)") foreach @jobs;
	$locker->quit;
	return;
}
sub worker_count_becomes
{
	my ($count, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( await($node, "SELECT count(*) = $count FROM pg_stat_activity WHERE backend_type = 'pg_background'"),
		$name);
	is(sql($node, 'SELECT idle FROM pg_background_pool'), $count, "$name: the pool");
	return;
}
$size = log_size($node);
end_at_once(6);
worker_count_becomes(2, 'a quarter of the slots');
$session->query('SET pg_background.max_idle_workers = 1000');
end_at_once(6);
worker_count_becomes(2, 'a session cannot have more');
$session->query('SET pg_background.max_idle_workers = 1');
end_at_once(6);
worker_count_becomes(1, 'but fewer');
$session->query('SET pg_background.max_idle_workers = 0');
end_at_once(6);
worker_count_becomes(0, 'or none');
$session->query('RESET pg_background.max_idle_workers');
log_is_quiet($size, 'too many');

# One that is not shared goes with its session.
$pid = idle_worker($session);
my $own = new_session($node, options => '-c pg_background.share_workers=off');
my $own_pid = idle_worker($own);
isnt($own_pid, $pid, 'share_workers = off: a worker of its own');
is(idle_worker($own), $own_pid, 'share_workers = off: it is used again');
is(idle_worker($session), $pid, 'share_workers = off: by no other session');
my $second = new_session($node, options => '-c pg_background.share_workers=off');
isnt((split /, /, $second->launch('SELECT 1'))[0], $own_pid, 'share_workers = off: nor by another that does not share');
$size = log_size($node);
$_->quit foreach $own, $second;
wait_for_exit($node, $own_pid);
worker_count_becomes(1, 'share_workers = off: workers go with their sessions');
log_is_quiet($size, 'session ends');
is(idle_worker($session), $pid, 'share_workers = off: the others stay');

# it is terminated
$size = log_size($node);
sql($node, "SELECT pg_terminate_backend($pid)");
wait_for_exit($node, $pid);
log_is_quiet($size, 'terminated');
isnt(idle_worker($session), $pid, 'the next job has another process');

# the configuration allows fewer, or more
sub set_limit
{
	my ($limit) = @_;
	$node->safe_psql('postgres', "LOAD 'pg_background';\nALTER SYSTEM SET pg_background.max_idle_workers = $limit");
	sql($node, 'SELECT pg_reload_conf()');
	# A new session gets what every process was told before.
	$node->poll_query_until('postgres', 'SHOW pg_background.max_idle_workers', $limit)
	  or die 'timed out waiting for the new configuration';
	return;
}
$session->query('SELECT 1');
$pid = idle_worker($session);
$size = log_size($node);
set_limit(3);
is(idle_worker($session), $pid, 'more are allowed: the process stays');
set_limit(0);
wait_for_exit($node, $pid);
log_is_quiet($size, 'none are allowed');
my $last = $session->launch('SELECT 1');
wait_for_exit($node, split /, /, $last);
set_limit(2);
$session->query('SELECT 1');
$pid = idle_worker($session);
is(idle_worker($session), $pid, 'they are allowed again');

# A setting that was read again is not ahead of the launcher, which takes it up
# when its statement has ended.
my $locker = new_session($node);
$locker->query('SELECT pg_advisory_lock(2)');
$session->send(<<'END');
DO $$
DECLARE
	h pg_background_handle;
	seen text;
BEGIN
	h := pg_background_launch_v2('SELECT 1');
	PERFORM pg_background_wait_v2(h.pid, h.cookie), pg_advisory_lock(2), pg_advisory_unlock(2);
	h := pg_background_launch_v2('SHOW work_mem');
	SELECT s INTO seen FROM pg_background_result_v2(h.pid, h.cookie) AS (s text);
	RAISE NOTICE 'launcher %, job %', current_setting('work_mem'), seen;
END $$
END
await($node, "SELECT wait_event = 'advisory' FROM pg_stat_activity WHERE pid = $session->{pid}");
$node->safe_psql('postgres', "ALTER SYSTEM SET work_mem = '5MB'");
sql($node, 'SELECT pg_reload_conf()');
$node->poll_query_until('postgres', 'SHOW work_mem', '5MB');
$locker->query('SELECT pg_advisory_unlock(2)');
$session->receive;
like($session->{messages}, qr/launcher 4MB, job 4MB/, 'a setting that the launcher has not taken up');
is( $session->query("SELECT s FROM pg_background_launch_v2('SHOW work_mem') h, pg_background_result_v2(h.pid, h.cookie) AS (s text)"),
	'5MB', 'and that it has taken up');

#
# Whom it does not hold up
#

# what waits until every process has taken note of something
sql($node, 'CREATE DATABASE other');
my $location = PostgreSQL::Test::Utils::tempdir();
sql($node, "CREATE TABLESPACE place LOCATION '$location'");
$pid = idle_worker($session);
done_soon('ALTER DATABASE other SET TABLESPACE place');
done_soon('DROP DATABASE other');
done_soon('DROP TABLESPACE place');
done_soon('VACUUM FREEZE pg_class');
done_soon('CREATE INDEX CONCURRENTLY ON seen (a)');
done_soon('DROP TABLE seen');
is(idle_worker($session), $pid, 'the worker was there all the time');

# its own database, of which the last session has just let go
sql($node, "CREATE TABLESPACE place LOCATION '$location'");
foreach my $command (
	'CREATE DATABASE another TEMPLATE mine; DROP DATABASE another',
	'ALTER DATABASE mine RENAME TO another; DROP DATABASE another',
	'ALTER DATABASE mine SET TABLESPACE place; DROP DATABASE mine',
	('DROP DATABASE mine') x 2)
{
	sql($node, 'DROP DATABASE IF EXISTS mine');
	sql($node, 'CREATE DATABASE mine');
	$node->safe_psql('mine', 'CREATE EXTENSION pg_background');
	my $mine = new_session($node, dbname => 'mine');
	idle_worker($mine);
	$mine->quit;
	# These are not for transactions, which several statements at once would be.
	done_soon($_) foreach split /; /, $command;
}
sql($node, 'DROP DATABASE IF EXISTS mine');

# its own user, who may even be there
sql($node, 'CREATE ROLE walker LOGIN IN ROLE pgbackground_role');
my $walker = new_session($node, user => 'walker');
$pid = idle_worker($walker);
done_soon('DROP ROLE walker');
wait_for_exit($node, $pid);
pass('the worker of the dropped role leaves');
$walker->quit;

# a role of which its session was a member
sql($node, 'CREATE ROLE hat IN ROLE pgbackground_role');
$session->query('SET ROLE hat');
idle_worker($session);
$session->query('RESET ROLE; DROP ROLE hat');
is($session->result($session->launch('SELECT 1'), 'a int'), 1, 'a job after the role was dropped');

# jobs that have more queue sizes than there are slots
$session->query('SET pg_background.max_workers = 100');
my @jobs = map { $session->launch('SELECT 1', 4096 + 64 * $_) } 1 .. 50;
$session->wait_for($_) foreach @jobs;
pass('more queue sizes than worker slots');
$session->query("SELECT pg_background_detach_v2($_)") foreach @jobs;
wait_for_pool($node, 'running = 0');
end_idle_workers($node);

#
# Shutdown
#

$pid = idle_worker($session);
$size = log_size($node);
$node->stop('fast');
log_is_quiet($size, 'fast shutdown');
$session->quit;
$node->start;

# A smart one waits for the sessions, and for no worker.
$session = new_session($node);
$pid = idle_worker($session);
$size = log_size($node);
disconnect($node);
system_or_bail('pg_ctl', '--no-wait', '-D', $node->data_dir, '-m', 'smart', 'stop');
wait_until('the shutdown has begun',
	sub { log_since($node, $size) =~ /received smart shutdown request/ });
is($session->query("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid"),
	1, 'the worker is there while its session is');
is($session->result($session->launch('SELECT pg_backend_pid()'), 'pid int'),
	$pid, 'and does its jobs');
$session->quit;
wait_until('the server has stopped', sub { !-e $node->data_dir . '/postmaster.pid' });
log_is_quiet($size, 'smart shutdown');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal/,
	'no process has crashed');

# It is not running any more.
$node->_update_pid(0);

done_testing();
