# Whoever a job tries to become, it is never a user that a session of whose job it
# is could not have become.
#
# - Launched inside a SECURITY DEFINER function it is the function's owner, and
#   whatever it runs it does not become the function's caller.
# - In an operation that is restricted for that very reason nothing is launched.
# - Anywhere else it is who its launcher is, by SET ROLE and by SET SESSION
#   AUTHORIZATION.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main');
my $version = sql($node, 'SHOW server_version_num');

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE boss LOGIN SUPERUSER;
CREATE ROLE plain LOGIN;
CREATE ROLE owner_login LOGIN;
CREATE ROLE owner_nologin NOLOGIN;
CREATE ROLE owner_boss LOGIN SUPERUSER;
CREATE ROLE owner_boss_nologin NOLOGIN SUPERUSER;
GRANT pgbackground_role TO plain, owner_login, owner_nologin;

-- Who the jobs were, by what they had tried before
CREATE TABLE seen (attempt text, whoami name);
GRANT ALL ON seen TO PUBLIC;

CREATE FUNCTION see(attempt text) RETURNS void LANGUAGE sql
AS 'INSERT INTO public.seen VALUES ($1, current_user)';

CREATE FUNCTION run_and_see(command text, attempt text) RETURNS int LANGUAGE plpgsql
AS 'BEGIN EXECUTE command; PERFORM public.see(attempt); RETURN 1; END';

CREATE PROCEDURE commit_run_and_see(command text, attempt text) LANGUAGE plpgsql
AS 'BEGIN COMMIT; EXECUTE command; PERFORM public.see(attempt); END';

CREATE TABLE deferred (command text, attempt text);
GRANT ALL ON deferred TO PUBLIC;
CREATE FUNCTION run_deferred() RETURNS trigger LANGUAGE plpgsql
AS 'BEGIN PERFORM public.run_and_see(new.command, new.attempt); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER run AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION run_deferred();

-- Runs a job to its end; the error, or NULL
CREATE FUNCTION run_job(sql text) RETURNS text LANGUAGE plpgsql
AS $$
DECLARE
	job record;
	error text;
BEGIN
	SELECT * INTO job FROM pg_background_launch_v2(sql);
	PERFORM pg_background_wait_v2(job.pid, job.cookie);
	SELECT last_error INTO error
	FROM pg_background_list_v2() AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
		state text, sql_preview text, last_error text, consumed bool)
	WHERE cookie = job.cookie;
	PERFORM pg_background_detach_v2(job.pid, job.cookie);
	RETURN error;
END
$$;
SQL

foreach my $owner (qw(owner_login owner_nologin owner_boss owner_boss_nologin))
{
	$node->safe_psql('postgres', <<"SQL");
CREATE FUNCTION run_as_$owner(sql text) RETURNS text SECURITY DEFINER LANGUAGE sql
AS 'SELECT public.run_job(\$1)';
ALTER FUNCTION run_as_$owner(text) OWNER TO $owner;
SQL
}

# What a job may try so as to become another user than it is
my @commands = (
	'SELECT 1', 'RESET ROLE', 'SET ROLE NONE',
	'SET LOCAL ROLE NONE', 'RESET SESSION AUTHORIZATION',
	'SET SESSION AUTHORIZATION DEFAULT', 'SET LOCAL SESSION AUTHORIZATION DEFAULT',
	q{SELECT set_config('role', 'none', false)},
	q{SELECT set_config('session_authorization', 'default', false)});

# And how
my %ways = (
	'first' => '%1$s; SELECT see(%2$s)',
	'after COMMIT' => 'COMMIT; %1$s; SELECT see(%2$s)',
	'after ROLLBACK' => 'ROLLBACK; %1$s; SELECT see(%2$s)',
	'after COMMIT AND CHAIN' => 'BEGIN; COMMIT AND CHAIN; %1$s; SELECT see(%2$s); COMMIT',
	'in BEGIN and COMMIT' => 'BEGIN; %1$s; SELECT see(%2$s); COMMIT',
	'between two transactions' => 'BEGIN; COMMIT; %1$s; BEGIN; SELECT see(%2$s); COMMIT',
	'after a savepoint' =>
	  'BEGIN; SAVEPOINT s; SELECT 1; ROLLBACK TO s; %1$s; SELECT see(%2$s); COMMIT',
	'in a function' => 'SELECT run_and_see(%3$s, %2$s)',
	'in DO' => 'DO $do$ BEGIN %4$s; PERFORM see(%2$s); END $do$',
	'in DO, its error caught' =>
	  'DO $do$ BEGIN BEGIN %4$s; EXCEPTION WHEN insufficient_privilege THEN END; PERFORM see(%2$s); END $do$',
	'in DO, after COMMIT' => 'DO $do$ BEGIN COMMIT; %4$s; PERFORM see(%2$s); END $do$',
	'in DO, after ROLLBACK' => 'DO $do$ BEGIN ROLLBACK; %4$s; PERFORM see(%2$s); END $do$',
	'in DO, after an error' =>
	  q{DO $do$ BEGIN RAISE SQLSTATE '22000'; EXCEPTION WHEN SQLSTATE '22000' THEN %4$s; PERFORM see(%2$s); END $do$},
	'in CALL, after COMMIT' => 'CALL commit_run_and_see(%3$s, %2$s)',
	'in CALL, after COMMIT, after another statement' =>
	  'SELECT 1; CALL commit_run_and_see(%3$s, %2$s)',
	'at COMMIT, in a trigger' => 'INSERT INTO deferred VALUES (%3$s, %2$s)',
	'at COMMIT, in a cursor' =>
	  'DECLARE c CURSOR WITH HOLD FOR SELECT run_and_see(%3$s, %2$s)',
	'in a prepared statement' =>
	  'PREPARE p AS SELECT run_and_see(%3$s, %2$s); EXECUTE p',
	'in a job of the job' =>
	  'SELECT run_job($job$%1$s; SELECT see(%2$s)$job$)',
	'in a job of the job, after COMMIT' =>
	  'SELECT run_job($job$COMMIT; %1$s; SELECT see(%2$s)$job$)',
	'in a job of the job, in CALL' =>
	  'SELECT run_job($job$CALL commit_run_and_see(%3$s, %2$s)$job$)');

# Lets a function's owner have jobs that try everything, in a session of its
# caller, and tests who they were. They can name the caller, but for a superuser,
# who can become anybody.
sub test_attempts
{
	my ($owner, $caller) = @_;
	my $session = new_session($node, user => $caller);
	my @tried = @commands;
	my $attempts = 0;

	push @tried, "SET ROLE $caller", "SET SESSION AUTHORIZATION $caller",
	  "SELECT set_config('role', '$caller', false)"
	  if $owner !~ /boss/;

	sql($node, 'TRUNCATE seen, deferred');

	is($session->query(qq{SELECT run_as_$owner('SELECT see(''nothing'')')}),
		'', "$owner, $caller: a job works");
	foreach my $way (sort keys %ways)
	{
		foreach my $command (@tried)
		{
			my $perform = $command =~ s/^SELECT/PERFORM/r;
			my $sql = sprintf $ways{$way}, $command, "\$a\$$way: $command\$a\$",
			  "\$c\$$command\$c\$", $perform;

			$session->query("SELECT run_as_$owner(\$run\$$sql\$run\$)");
			$attempts++;
		}
	}
	# Another job of the session's own, by a worker that was the owner's
	$session->query(q{SELECT run_job('SELECT see(''caller'')')});

	is( sql($node, "SELECT * FROM seen WHERE whoami <> '$owner' ORDER BY 1"),
		"caller|$caller",
		"$owner, $caller: no job was the caller, in $attempts attempts");
	is( sql($node, "SELECT count(*) FROM seen WHERE attempt = 'nothing' AND whoami = '$owner'"),
		'1',
		"$owner, $caller: a job is the owner");

	# Where a worker cannot connect as the owner, transaction control is refused.
	my $held = $owner =~ /nologin/ && $version < 170000;
	my @allowed = grep {
		$held
		  ? !/COMMIT|ROLLBACK|transactions|savepoint|CALL/ || /at COMMIT/
		  : $_ ne 'in CALL, after COMMIT, after another statement'
	} sort keys %ways;

	is( sql($node, q{SELECT replace(attempt, ': SELECT 1', '') COLLATE "C" FROM seen
			  WHERE attempt LIKE '%: SELECT 1' ORDER BY 1}),
		join("\n", @allowed),
		"$owner, $caller: the ways to run a command");
	$session->quit;
	return;
}

test_attempts('owner_login', 'boss');
test_attempts('owner_login', 'plain');
test_attempts('owner_nologin', 'boss');
test_attempts('owner_nologin', 'plain');
test_attempts('owner_boss', 'plain');
test_attempts('owner_boss_nologin', 'plain');

# Operations in which code of a table's owner runs for another user
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE mallory LOGIN;
GRANT pgbackground_role TO mallory;
CREATE SCHEMA mallory AUTHORIZATION mallory;
SQL
$node->safe_psql('postgres', <<'SQL', extra_params => [ '-U', 'mallory' ]);
CREATE FUNCTION mallory.trap(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i';
CREATE TABLE mallory.bait (i int);
INSERT INTO mallory.bait SELECT generate_series(1, 10);
CREATE INDEX bait_index ON mallory.bait (mallory.trap(i));
CREATE MATERIALIZED VIEW mallory.view AS SELECT mallory.trap(i) FROM mallory.bait;
SQL

my @restricted = (
	'REINDEX TABLE mallory.bait',
	'ANALYZE mallory.bait',
	'VACUUM ANALYZE mallory.bait',
	'CREATE INDEX other_index ON mallory.bait (mallory.trap(i))',
	'REFRESH MATERIALIZED VIEW mallory.view');
my $boss = new_session($node, user => 'boss');

sql($node, 'TRUNCATE seen');
foreach my $launch (
	q{public.pg_background_launch('SELECT see(''trap'')')},
	q{public.pg_background_launch_v2('SELECT see(''trap'')')},
	q{public.pg_background_submit_v2('SELECT see(''trap'')')})
{
	$node->safe_psql('postgres', <<"SQL", extra_params => [ '-U', 'mallory' ]);
CREATE OR REPLACE FUNCTION mallory.trap(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql
AS \$\$BEGIN PERFORM $launch; RETURN i; END\$\$;
SQL
	foreach my $sql (@restricted)
	{
		$boss->fails($sql, '42501',
			qr/cannot launch a background job within security-restricted operation/,
			"$sql, $launch");
	}
}

# An error that is caught is no way around.
$node->safe_psql('postgres', <<'SQL', extra_params => [ '-U', 'mallory' ]);
CREATE OR REPLACE FUNCTION mallory.trap(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM public.pg_background_launch('SELECT see(''trap'')');
	RETURN i;
EXCEPTION WHEN insufficient_privilege THEN
	RETURN i;
END
$$;
SQL
$boss->query($_) foreach @restricted;
nothing_left($node, 'restricted operations', $boss);
is(sql($node, 'SELECT count(*) FROM seen'),
	'0', 'nothing was launched in a restricted operation');

# The users of a job are those of its launcher.
my $who = 'SELECT current_user::text, session_user::text';
sql($node, 'CREATE ROLE group_role; GRANT group_role TO plain; GRANT pgbackground_role TO group_role');

sub test_same_user
{
	my ($session, $set, $expected) = @_;

	$session->query($set);
	is($session->query($who), $expected, "$set: the launcher");
	is( $session->result($session->launch($who), 'a text, b text'),
		$expected, "$set: a job");
	is( $session->query(
			"SELECT * FROM pg_background_result(pg_background_launch('$who')) AS (a text, b text)"
		),
		$expected,
		"$set: a job by v1");
	return;
}

test_same_user($boss, 'SET ROLE NONE', 'boss|boss');
test_same_user($boss, 'SET ROLE plain', 'plain|boss');
test_same_user($boss, 'SET ROLE group_role', 'group_role|boss');
test_same_user($boss, 'RESET ROLE', 'boss|boss');
test_same_user($boss, 'SET SESSION AUTHORIZATION plain', 'plain|plain');
test_same_user($boss, 'SET ROLE group_role', 'group_role|plain');
test_same_user($boss, 'RESET ROLE', 'plain|plain');
test_same_user($boss, 'RESET SESSION AUTHORIZATION', 'boss|boss');
$boss->query('BEGIN');
test_same_user($boss, 'SET LOCAL ROLE plain', 'plain|boss');
test_same_user($boss, 'ROLLBACK', 'boss|boss');

# A job has no more rights by SET than its launcher has.
$boss->query('SET SESSION AUTHORIZATION plain');
$boss->fails(
	q{SELECT * FROM pg_background_result(pg_background_launch('SET ROLE owner_boss')) AS (a text)},
	'42501', qr/permission denied to set role "owner_boss"/, 'SET ROLE of a job');
$boss->query('RESET SESSION AUTHORIZATION');

# Users that are gone
sql($node, 'CREATE ROLE gone LOGIN; GRANT pgbackground_role TO gone');
my $gone = new_session($node, user => 'gone');
$boss->query('SET ROLE gone');
is($gone->result($gone->launch('SELECT 1'), 'a int'), '1', 'a user that is there');
nothing_left($node, 'a user that is there', $gone, $boss);
sql($node, 'DROP OWNED BY gone; DROP ROLE gone');
foreach my $session ($gone, $boss)
{
	$session->send(
		q{SELECT * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (a int)});
	is($session->receive, '', 'a user that is gone has no job done');
	like($session->{messages}, qr/ERROR:  (42704|42501|28000): /, 'he gets an error');
}
$boss->query('RESET ROLE');
is($boss->result($boss->launch('SELECT 1'), 'a int'), '1', 'the session is usable');
$_->quit foreach $gone, $boss;
nothing_left($node, 'a user that is gone');

unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/,
	'no process has crashed');

done_testing();
