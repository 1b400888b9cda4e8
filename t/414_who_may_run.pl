# Who a role may be, and whether it may log in, is asked for each job, also where
# a worker waits that logged in before; and a worker that must hold the owner of a
# SECURITY DEFINER function is nobody else's, before and after.
#
# Hardening 37, 38, 40.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

# No idle worker goes by itself.
my $node = new_server('main', "pg_background.idle_timeout = 1h\n");
my $version = sql($node, 'SHOW server_version_num');

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE plain LOGIN;
CREATE ROLE boss LOGIN SUPERUSER;
CREATE ROLE owner NOLOGIN;
CREATE ROLE other NOLOGIN;
GRANT pgbackground_role TO plain, owner;
CREATE TABLE outcome (what text, sqlstate text);
GRANT ALL ON outcome TO plain;
CREATE TABLE changed (session_user_then name);
GRANT ALL ON changed TO PUBLIC;

CREATE FUNCTION run_as_owner(sql text, OUT pid int, OUT sqlstate text) SECURITY DEFINER LANGUAGE sql
AS 'SELECT pid, sqlstate FROM public.pg_background_run_v2($1)';
ALTER FUNCTION run_as_owner(text) OWNER TO owner;
CREATE FUNCTION run_as_plain(sql text, OUT pid int, OUT sqlstate text) SECURITY DEFINER LANGUAGE sql
AS 'SELECT pid, sqlstate FROM public.pg_background_run_v2($1)';
ALTER FUNCTION run_as_plain(text) OWNER TO plain;
SQL

# The process that a session's next job has
sub pid_of_next_job
{
	my ($session) = @_;
	return $session->query("SELECT pid FROM pg_background_run_v2('SELECT 1')");
}

#
# Hardening 40: a worker that waits, and a change of what its user may
#

my $session = new_session($node, user => 'plain');
my $pid = pid_of_next_job($session);
is(pid_of_next_job($session), $pid, 'without a change, the worker is used again');
foreach my $change (
	'GRANT other TO plain', 'REVOKE other FROM plain',
	'ALTER ROLE plain CREATEDB', 'ALTER DATABASE postgres CONNECTION LIMIT 30')
{
	$node->safe_psql('postgres', $change);
	my $next = pid_of_next_job($session);
	isnt($next, $pid, "Hardening 40: $change: a new worker");
	is(pid_of_next_job($session), $next, "Hardening 40: $change: which is used again");
	$pid = $next;
}

sql($node, 'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC');
is($session->query("SELECT sqlstate FROM pg_background_run_v2('SELECT 1')"), '42501',
	'Hardening 40: REVOKE CONNECT');
sql($node, 'GRANT CONNECT ON DATABASE postgres TO PUBLIC');

my $boss = new_session($node, user => 'boss');
my $become = q{SELECT sqlstate FROM pg_background_run_v2('SET SESSION AUTHORIZATION plain; INSERT INTO changed VALUES (session_user)')};
is($boss->query($become), '', 'a superuser becomes another');
sql($node, 'TRUNCATE changed; ALTER ROLE boss NOSUPERUSER; GRANT pgbackground_role TO boss');
is($boss->query($become), '42501', 'Hardening 40: ALTER ROLE NOSUPERUSER');
is(sql($node, 'TABLE changed'), '', 'Hardening 40: nothing was done');
$boss->quit;

#
# Hardening 37: ALTER ROLE NOLOGIN stops jobs that launch jobs
#

my $admin = new_session($node);
$admin->query('SELECT pg_advisory_lock(1)');
my $job = $session->launch(<<'END');
SELECT pg_advisory_lock(1);
INSERT INTO outcome SELECT 'job', sqlstate FROM pg_background_run_v2('SELECT 1');
INSERT INTO outcome SELECT 'definer', sqlstate FROM run_as_plain('SELECT 1')
END
wait_for_worker($node, $job, "wait_event_type = 'Lock'");
$admin->query('ALTER ROLE plain NOLOGIN; SELECT pg_advisory_unlock(1)');
$session->wait_for($job);
is(sql($node, 'SELECT * FROM outcome ORDER BY what'), "definer|28000\njob|28000",
	'Hardening 37: a job of a role that lost LOGIN launches no other');
is($session->query("SELECT sqlstate FROM pg_background_run_v2('SELECT 1')"), '28000',
	'Hardening 37: nor does its session');
sql($node, 'ALTER ROLE plain LOGIN');
is($session->query("SELECT sqlstate FROM run_as_owner('SELECT 1')"), '',
	'an owner who never had it has his jobs');
is($session->query("SELECT sqlstate FROM run_as_owner(\$job\$DO \$\$ BEGIN ASSERT NOT (SELECT has_error FROM pg_background_run_v2('SELECT 1')); END \$\$\$job\$)"), '',
	'which can have jobs');
$admin->quit;
$session->quit;

#
# Hardening 38: a job of an owner whom no worker can connect as
#

SKIP:
{
	skip 'a worker connects as the owner', 11 if $version >= 170000;

	# The caller tries to have it in a parallel worker, too.
	my $force = $version >= 160000 ? 'debug_parallel_query' : 'force_parallel_mode';
	my $caller = new_session($node, user => 'plain', options => "-c $force=on");
	my $watcher = new_session($node, user => 'plain');

	my $own = pid_of_next_job($caller);
	my $owners = $caller->query(q{SELECT pid FROM run_as_owner('SELECT 1')});
	isnt($owners, $own, 'Hardening 38: a worker of its own');
	wait_for_exit($node, $owners);
	pass('Hardening 38: which ends with it');
	is(pid_of_next_job($caller), $own, 'Hardening 38: the caller goes on with his');

	$caller->send(q{SET client_min_messages = debug2; SELECT sqlstate FROM run_as_owner($$SELECT 'secret', pg_sleep(1000)$$)});
	await($node, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
	  or die 'the job does not run';
	is($watcher->query("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%secret%' AND backend_type <> 'client backend' AND pid <> pg_backend_pid()"),
		'0', 'Hardening 38: pg_stat_activity does not show its text');
	is($watcher->query("SELECT query FROM pg_stat_activity WHERE backend_type = 'pg_background' AND state = 'active'"),
		'<job of a security-definer function>', 'Hardening 38: but what it is');
	is($watcher->query("SELECT state, sql_preview FROM pg_background_workers WHERE launcher_pid = $caller->{pid} AND pid <> $own"),
		'|', 'Hardening 38: nor does pg_background_workers');
	like(sql($node, "SELECT state, sql_preview FROM pg_background_workers WHERE launcher_pid = $caller->{pid} AND pid <> $own"),
		qr/^running\|.*secret/, 'Hardening 38: which shows it to a superuser');
	is($node->safe_psql('postgres', "SET ROLE owner; SELECT state FROM pg_background_workers WHERE launcher_pid = $caller->{pid} AND pid <> $own"),
		'running', 'Hardening 38: and to the owner');
	sql($node, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_background' AND state = 'active'");
	is($caller->receive, '57014', 'Hardening 38: it is canceled');
	unlike($caller->{messages}, qr/preview='[^']*secret/, 'Hardening 38: its text is in no message');
	$_->quit foreach $caller, $watcher;
}

end_idle_workers($node);
nothing_left($node, 'at the end');
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
