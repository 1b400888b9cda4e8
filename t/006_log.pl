# What jobs leave in the server log: their statements, where statements are
# logged, whoever asked for that; an error and its statement, where they fail;
# and otherwise nothing, unless debugging messages are asked for.
#
# Known failure 19.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main');
my $session = new_session($node);

$node->safe_psql('postgres', <<'END');
CREATE ROLE plain LOGIN;
GRANT pgbackground_role TO plain;
CREATE ROLE watched LOGIN;
GRANT pgbackground_role TO watched;
ALTER ROLE watched SET log_statement = 'all';
END

# Runs a job to its end, and returns its PID and what was logged meanwhile.
sub log_of_job
{
	my ($by, $sql, $how) = @_;
	my $size = log_size($node);
	my $job = $by->launch($sql, undef, $how);

	$by->wait_for($job);
	$by->query("SELECT pg_background_detach_v2($job)");
	my ($pid) = split /, /, $job;
	return ($pid, log_since($node, $size));
}

sub test_logged
{
	my ($by, $sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($pid, $log) = log_of_job($by, $sql);
	like($log, qr/^pg_background\[$pid\] LOG:  statement: \Q$sql\E$/m, $name);
	return;
}

# A job that does not fail says nothing, nor does its worker.
my $size = log_size($node);
$session->query('SELECT * FROM pg_background_result(pg_background_launch($$SELECT 1$$)) AS (a int)');
$session->query('SELECT pg_background_detach(pg_background_launch($$SELECT 1$$))');
log_of_job($session, 'SELECT 1');
log_of_job($session, 'CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1)');
log_of_job($session, 'SELECT 1', 'submit');
nothing_left($node, 'silent jobs', $session);
is(log_since($node, $size), '', 'ordinary jobs add nothing to the log');

my ($pid, $log) = log_of_job($session, 'SELECT 1 / 0 AS boom');
is( $log,
	"pg_background[$pid] ERROR:  division by zero\n"
	  . "pg_background[$pid] CONTEXT:  background job of user \"postgres\" in database \"postgres\"\n"
	  . "pg_background[$pid] STATEMENT:  SELECT 1 / 0 AS boom\n",
	'a job that fails adds its error, whose it is, and its statement');

# log_statement
$session->query(q{SET log_statement = 'all'});
test_logged($session, 'SELECT 42; SELECT 43', 'log_statement = all');
($pid, $log) = log_of_job($session, 'SELECT 44', 'submit');
like(
	$log,
	qr/^pg_background\[$pid\] LOG:  statement: SELECT 44$/m,
	'log_statement = all, submitted');
$size = log_size($node);
$session->query('SELECT * FROM pg_background_result(pg_background_launch($$SELECT 45$$)) AS (a int)');
like(
	log_since($node, $size),
	qr/^pg_background\[\d+\] LOG:  statement: SELECT 45$/m,
	'log_statement = all, v1');

$session->query(q{SET log_statement = 'ddl'});
test_logged($session, 'CREATE TABLE t (a int)', 'log_statement = ddl');
(undef, $log) = log_of_job($session, 'INSERT INTO t VALUES (1)');
is($log, '', 'log_statement = ddl logs nothing else');

$session->query(q{SET log_statement = 'mod'});
test_logged($session, 'INSERT INTO t VALUES (1)', 'log_statement = mod');
$session->query('RESET log_statement');
(undef, $log) = log_of_job($session, 'INSERT INTO t VALUES (1)');
is($log, '', 'log_statement = none again');

# log_min_duration_statement, alone and together with the other
$session->query('SET log_min_duration_statement = 0');
($pid, $log) = log_of_job($session, 'SELECT 46');
like(
	$log,
	qr/^pg_background\[$pid\] LOG:  duration: \d+\.\d+ ms  statement: SELECT 46$/m,
	'log_min_duration_statement = 0');
$session->query(q{SET log_statement = 'all'});
($pid, $log) = log_of_job($session, 'SELECT 47');
like(
	$log,
	qr/^pg_background\[$pid\] LOG:  statement: SELECT 47\n(?s:.*)^pg_background\[$pid\] LOG:  duration: \d+\.\d+ ms$/m,
	'both: the statement is logged once');
$session->query('RESET log_min_duration_statement; RESET log_statement');

# Users who cannot set this cannot get around it.
my $watched = new_session($node, user => 'watched');
test_logged($watched, 'SELECT 48', 'log_statement = all of a role');
$watched->quit;

my $plain = new_session($node, user => 'plain');
(undef, $log) = log_of_job($plain, 'SELECT 49');
is($log, '', 'a role without it');
$node->append_conf('postgresql.conf', q{log_statement = 'all'});
$node->reload;
wait_until('the configuration was read',
	sub { $plain->query('SHOW log_statement') eq 'all' });
test_logged($plain, 'SELECT 50', 'log_statement = all of the server');
test_logged($plain, q{SET log_statement = 'none'}, 'a job cannot set it');
my $job = $plain->launch(q{SET log_statement = 'none'});
$plain->wait_for($job);
is($plain->state($job), 'error', 'it fails');
$plain->quit;

# Debugging messages
$node->append_conf('postgresql.conf', q{log_statement = 'none'});
$node->reload;
wait_until('the configuration was read',
	sub { $session->query('SHOW log_statement') eq 'none' });

# Returns what the launcher writes of a job that it launches and cancels.
sub debug_messages
{
	my $sql = 'SELECT ' . '/* */' x 50 . 'pg_sleep(1000)';
	my $job = $session->launch($sql, 4096);
	my $messages = $session->{messages};

	$session->query("SELECT pg_background_cancel_v2($job)");
	$messages .= $session->{messages};
	$session->wait_for($job);
	$messages .= $session->{messages};
	my ($pid, $cookie) = split /, /, $job;
	my $preview = substr($sql, 0, 117) . '...';
	return ($messages, "launched worker pid=$pid cookie=$cookie queue_size=4096 preview='$preview'",
		"cancel requested for pid=$pid cookie=$cookie",
		"cleaning up worker pid=$pid");
}

my ($messages) = debug_messages();
unlike($messages, qr/pg_background: /, 'no debugging messages');

$session->query('SET client_min_messages = debug2');
($messages, my @expected) = debug_messages();
like($messages, qr/DEBUG:  00000: pg_background: \Q$_\E$/m, "client: $_")
  foreach @expected;

$session->query('RESET client_min_messages; SET log_min_messages = debug2');
$size = log_size($node);
($messages, @expected) = debug_messages();
unlike($messages, qr/DEBUG/, 'debugging messages for the log only');
$log = log_since($node, $size);
like($log,
	qr/^client backend\[$session->{pid}\] DEBUG:  pg_background: \Q$_\E$/m,
	"log: $_")
  foreach @expected;

done_testing();
