# Idle workers, and jobs that are queued, while the database or the user is
# changed, renamed, copied, dropped: nobody is held up by a worker that waits, no
# job runs with what does not hold any more, and none as somebody who may not.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', <<'END');
pg_background.idle_timeout = 1h
pg_background.launch_timeout = 1h
END
my $control = new_session($node);
my $location = PostgreSQL::Test::Utils::tempdir();
sql($node, "CREATE TABLESPACE place LOCATION '$location'");

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

sub pid
{
	my ($session) = @_;
	my $pid = $session->result($session->launch('SELECT pg_backend_pid()'), 'pid int');

	await($node, 'SELECT sum(running) = 0 FROM pg_background_pool');
	return $pid;
}

sub make_database
{
	sql($node, 'DROP DATABASE IF EXISTS mine');
	sql($node, 'CREATE DATABASE mine');
	$node->safe_psql('mine', 'CREATE EXTENSION pg_background');
	return;
}

#
# The database of an idle worker, whose session has gone
#

foreach my $command (
	'CREATE DATABASE another TEMPLATE mine; DROP DATABASE another',
	'ALTER DATABASE mine RENAME TO another; DROP DATABASE another',
	'ALTER DATABASE mine SET TABLESPACE place; DROP DATABASE mine',
	('DROP DATABASE mine') x 3)
{
	make_database();
	my $mine = new_session($node, dbname => 'mine');
	pid($mine);
	$mine->quit;
	wait_for_exit($node, $mine->{pid});
	wait_for_pool($node, 'idle = 1', "datname = 'mine'") if $command !~ /^DROP/;
	# These are not for transactions, which several statements at once would be.
	done_soon($_) foreach split /; /, $command;
}

# what waits until every process has taken note of something
my $pid = pid($control);
sql($node, 'CREATE DATABASE mine');
done_soon($_) foreach 'ALTER DATABASE mine SET TABLESPACE place', 'DROP DATABASE mine', 'DROP TABLESPACE place';
is(pid($control), $pid, 'the worker of another database was there all the time');

# A database of the same name is another one.
make_database();
my $mine = new_session($node, dbname => 'mine');
my $old_pid = pid($mine);
$mine->quit;
make_database();
$mine = new_session($node, dbname => 'mine');
isnt(pid($mine), $old_pid, 'a database of the same name has other workers');
is($mine->query(q{SELECT count(*) FROM pg_background_pool WHERE datname = 'mine'}), '1', 'and its own row');

# Queued jobs of a database that is dropped
my $holder = new_session($node, dbname => 'mine');
change_settings($node, 'pg_background.max_total_workers' => 1);
await($node, q{SELECT sum(idle + running) <= 1 FROM pg_background_pool});
occupy($node, $holder, $mine, 1);
$mine->submit('SELECT 1') foreach 1 .. 5;
wait_for_pool($node, 'running = 1 AND queued = 5', "datname = 'mine'");
done_soon('DROP DATABASE mine WITH (FORCE)');
$_->quit foreach $holder, $mine;
wait_for_pool($node, 'running = 0 AND waiting = 0 AND queued = 0');
is($control->query(q{SELECT count(*) FROM pg_background_pool WHERE queued > 0}), '0', 'a database is dropped by force: its queue goes with it');
pid($control);
change_settings($node, 'pg_background.max_total_workers' => -1);

# ALTER DATABASE ... SET: in the jobs of sessions that have begun since
make_database();
$mine = new_session($node, dbname => 'mine');
$pid = pid($mine);
$node->safe_psql('postgres', "ALTER DATABASE mine SET work_mem = '9MB'");
my $later = new_session($node, dbname => 'mine');
is($later->result($later->launch('SHOW work_mem'), 'a text'), '9MB', 'ALTER DATABASE SET: a session that has begun since');
is($mine->result($mine->launch('SHOW work_mem'), 'a text'), '4MB', 'ALTER DATABASE SET: one that was there');
isnt(pid($later), $pid, 'ALTER DATABASE SET: the worker of before is not used');
is( $later->result($later->launch('RESET work_mem; SHOW work_mem'), 'a text'), '9MB', 'ALTER DATABASE SET: and RESET');
$_->quit foreach $mine, $later;
done_soon('DROP DATABASE mine');

#
# The user
#

$control->query('CREATE ROLE walker LOGIN IN ROLE pgbackground_role');
$control->query('CREATE TABLE ran (what text); GRANT INSERT ON ran TO walker');
my $walker = new_session($node, user => 'walker');

# ALTER ROLE ... SET
$pid = pid($walker);
$control->query("ALTER ROLE walker SET work_mem = '10MB'");
$later = new_session($node, user => 'walker');
is($later->result($later->launch('SHOW work_mem'), 'a text'), '10MB', 'ALTER ROLE SET: a session that has begun since');
is($walker->result($walker->launch('SHOW work_mem'), 'a text'), '4MB', 'ALTER ROLE SET: one that was there');
isnt(pid($later), $pid, 'ALTER ROLE SET: the worker of before is not used');
$control->query('ALTER ROLE walker RESET work_mem');
$later->quit;

# Who may not log in any more: neither a launch, nor a job that is queued
my %forbid = (
	'NOLOGIN' => [ 'ALTER ROLE walker NOLOGIN', 'ALTER ROLE walker LOGIN', '28000', qr/not permitted to log in/ ],
	'REVOKE CONNECT' => [
		'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC', 'GRANT CONNECT ON DATABASE postgres TO PUBLIC',
		'42501', qr/permission denied for database/
	]);
$control->query('SELECT pg_advisory_lock(2)');
foreach my $name (sort keys %forbid)
{
	my ($forbid, $allow, $sqlstate, $message) = @{ $forbid{$name} };

	$pid = pid($walker);
	$control->query($forbid);
	$walker->fails(q{SELECT * FROM pg_background_run_query_v2('SELECT 1') AS (a int)}, $sqlstate, $message, "$name: a launch");
	wait_for_exit($node, $pid);
	pass("$name: the worker has left");
	$control->query($allow);
	isnt(pid($walker), $pid, "$name: taken back");

	# queued ones
	$control->query('ALTER ROLE walker SET pg_background.max_role_workers = 1');
	my $limited = new_session($node, user => 'walker');
	my $busy = $limited->launch('SELECT pg_advisory_lock_shared(2)');
	wait_for_worker($node, $busy, "wait_event = 'advisory'");
	my $queued = $limited->submit("INSERT INTO ran VALUES ('$name')");
	$control->query($forbid);
	$control->query('SELECT pg_advisory_unlock(2)');
	$limited->wait_for($queued);
	is($limited->query("SELECT state, sqlstate FROM pg_background_outcome_v2($queued)"), "error|$sqlstate", "$name: a queued job");
	$control->query($allow);
	$control->query('SELECT pg_advisory_lock(2)');
	$control->query('ALTER ROLE walker RESET pg_background.max_role_workers');
	$limited->quit;
}
is($control->query('SELECT count(*) FROM ran'), '0', 'none of them was run');

# a superuser who is none any more
$control->query('ALTER ROLE walker SUPERUSER');
is($walker->result($walker->launch(q{SELECT rolsuper || current_setting('is_superuser') FROM pg_roles WHERE rolname = session_user}), 'a text'),
	'trueon', 'SUPERUSER');
$control->query('ALTER ROLE walker NOSUPERUSER');
is($walker->result($walker->launch(q{SELECT rolsuper || current_setting('is_superuser') FROM pg_roles WHERE rolname = session_user}), 'a text'),
	'falseoff', 'NOSUPERUSER');
$walker->fails(q{SELECT * FROM pg_background_run_query_v2('SELECT rolpassword FROM pg_authid') AS (a text)}, '42501', qr/permission denied/, 'NOSUPERUSER');

# dropped, with an idle worker, and with jobs that are queued
$control->query('REVOKE ALL ON ran FROM walker');
$pid = pid($walker);
done_soon('DROP ROLE walker');
$walker->send(q{SELECT pg_background_launch_v2('SELECT 1')});
$walker->receive;
like($walker->{messages}, qr/ERROR/, 'DROP ROLE: a launch');
wait_for_exit($node, $pid);
pass('DROP ROLE: the worker has left');
$walker->quit;

$control->query('CREATE ROLE walker LOGIN IN ROLE pgbackground_role; ALTER ROLE walker SET pg_background.max_role_workers = 1');
$walker = new_session($node, user => 'walker');
my $busy = $walker->launch('SELECT pg_advisory_lock_shared(2)');
wait_for_worker($node, $busy, "wait_event = 'advisory'");
$walker->submit('SELECT 1') foreach 1 .. 3;
wait_for_pool($node, 'running = 1 AND queued = 3', "usename = 'walker'");
my $walker_oid = $control->query(q{SELECT 'walker'::regrole::oid});
done_soon('DROP ROLE walker');
$control->query('SELECT pg_advisory_unlock(2)');
wait_for_pool($node, 'running = 0 AND waiting = 0 AND queued = 0', "userid = $walker_oid");
pass('DROP ROLE: the queue is gone');
$walker->quit;
$control->query('CREATE ROLE walker LOGIN IN ROLE pgbackground_role');
$walker = new_session($node, user => 'walker');
isnt(pid($walker), $pid, 'a role of the same name has other workers');

$_->quit foreach $walker, $control;
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
