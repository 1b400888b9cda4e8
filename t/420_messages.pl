# What a job says reaches its launcher, and the server log, whenever it is said
# and in whatever encoding.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

# Hardening 7: a message that is raised in a critical section, here since a new
# WAL file is made there, finds what was not sent yet to fill the memory that it
# has; nobody listens.
my $node = new_server(
	'critical', <<'END',
pg_background.idle_timeout = 1h
wal_writer_delay = 10s
max_wal_size = 1GB
END
	extra => ['--wal-segsize=1']);
my $session = new_session($node);

sql($node, 'CREATE TABLE written (a text)');
my $job = $session->launch(
	q{DO $do$ BEGIN
		RAISE NOTICE '%', repeat('x', 4000);
		RAISE NOTICE '%', repeat('x', 3500);
		SET client_min_messages = debug2;
		FOR i IN 1 .. 40 LOOP
			INSERT INTO written SELECT repeat('x', 1000) FROM generate_series(1, 1000);
			COMMIT;
		END LOOP;
		SET client_min_messages = notice;
	END $do$}, 4096);
wait_for_worker($node, $job, "(state = 'idle' OR wait_event_type = 'Extension')");
$session->wait_for($job);
is($session->state($job), 'stopped', 'Hardening 7: the job ends well');
$session->query('SET client_min_messages = debug2');
$session->result($job, 'a text');
like(
	$session->{messages},
	qr/NOTICE: .*NOTICE: .*DEBUG:  00000: [^\n]*creating and filling new WAL file/s,
	'Hardening 7: its messages come');
$session->quit;
$node->stop;

# Hardening 15, 42: a job's errors are not lost for the sake of its
# client_encoding, which is the role's, the database's or its own.
my $euro = "\xE2\x82\xAC";
my $euro_raises = "DO \$do\$ BEGIN RAISE 'error $euro' USING DETAIL = 'detail $euro'; END \$do\$";

$node = new_server('encodings', "pg_background.idle_timeout = 1h\n");
foreach my $encoding (qw(UTF8 LATIN1 SQL_ASCII))
{
	$node->safe_psql('postgres',
		"CREATE DATABASE \L$encoding\E ENCODING '$encoding' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
	);
	$node->safe_psql(lc $encoding, 'CREATE EXTENSION pg_background');
}
$node->safe_psql('postgres', <<'END');
CREATE ROLE latin LOGIN IN ROLE pgbackground_role;
ALTER ROLE latin SET client_encoding = 'LATIN1';
CREATE ROLE korean LOGIN IN ROLE pgbackground_role;
ALTER ROLE korean SET client_encoding = 'EUC_KR';
END
$node->safe_psql('utf8', <<"END");
CREATE FUNCTION "sleep for $euro"() RETURNS void LANGUAGE plpgsql
AS 'BEGIN PERFORM pg_sleep(1000); END';
END

# Tests that a job fails with the error of euro_raises.
sub test_error
{
	my ($session, $sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $job = $session->launch($sql);

	$session->wait_for($job);
	is($session->state($job), 'error', "$name: it fails");
	$session->fails("SELECT * FROM pg_background_result_v2($job) AS (a text)",
		'P0001', qr/ERROR:  P0001: error $euro\nDETAIL:  detail $euro\n/, $name);
	return;
}

sub test_encoding
{
	my ($session, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is( $session->result($session->launch('SHOW client_encoding'), 'a text'),
		$expected, "$name: client_encoding");
	is( $session->result(
			$session->launch('RESET client_encoding; SHOW client_encoding'), 'a text'),
		$expected, "$name: client_encoding after a RESET");
	return;
}

$session = new_session($node, dbname => 'utf8', user => 'latin');
test_error($session, $euro_raises, 'Hardening 15: of the role');
test_encoding($session, 'UTF8', 'Hardening 15: of the role');
test_error($session, "SET client_encoding = 'LATIN1'; COMMIT; $euro_raises",
	'Hardening 42: of the job');
test_encoding($session, 'UTF8', 'Hardening 42: of the job before');

# Hardening 47: what is added to a notice for the log does not get in its way.
is( $session->query(
		"SELECT has_error FROM pg_background_run_v2(\$job\$SET client_encoding = 'LATIN1';"
		  . " DO \$do\$ BEGIN RAISE NOTICE 'plain'; END \$do\$\$job\$, label => '$euro')"),
	'f', 'Hardening 47: a label that the job cannot express');

# It ends the process, and its context has what the job cannot express.
$job = $session->launch(
	qq{SET client_encoding = 'LATIN1'; COMMIT; SELECT "sleep for $euro"()});
wait_for_worker($node, $job, "wait_event = 'PgSleep'");
sql($node, "SELECT pg_terminate_backend((SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'))");
$session->fails("SELECT * FROM pg_background_result_v2($job) AS (a text)",
	'57P01', qr/CONTEXT:  .*sleep for $euro/s, 'Hardening 42: FATAL');
$session->quit;

$node->safe_psql('postgres', q{ALTER DATABASE utf8 SET client_encoding = 'LATIN1'});
$session = new_session($node, dbname => 'utf8');
test_error($session, $euro_raises, 'Hardening 15: of the database');
test_encoding($session, 'UTF8', 'Hardening 15: of the database');
$session->quit;

# one that there is no conversion to
$session = new_session($node, dbname => 'latin1', user => 'korean');
test_encoding($session, 'LATIN1', 'Hardening 15: no conversion');
$session->quit;

$session = new_session($node, dbname => 'sql_ascii', encoding => 'SQL_ASCII');
test_error($session, "SET client_encoding = 'SJIS'; COMMIT; $euro_raises", 'Hardening 42: SJIS');
test_encoding($session, 'SQL_ASCII', 'Hardening 42: SJIS before');

# Two bytes that are a character in it
$job = $session->launch(
	"SET client_encoding = 'SJIS'; DO \$do\$ BEGIN RAISE NOTICE '\x82\xA0'; END \$do\$");
is($session->result($job, 'a text'), "SET\nDO", 'Hardening 42: SJIS, notice');
like($session->{messages}, qr/NOTICE:  00000: \x82\xA0\n/, 'Hardening 42: the notice');
$session->quit;
end_idle_workers($node);
nothing_left($node, 'encodings');
$node->stop;

# Hardening 47: whose lines these are, though Debian's prefix has no user and no
# database of a background process.
$node = new_server('log', <<'END');
pg_background.idle_timeout = 1h
log_line_prefix = '%m [%p] %q%u@%d '
END
sql($node, 'CREATE ROLE "A. Liddell" LOGIN IN ROLE pgbackground_role');
sql($node, 'CREATE DATABASE wonderland');
$node->safe_psql('wonderland', 'CREATE EXTENSION pg_background');
$session = new_session($node, dbname => 'wonderland', user => 'A. Liddell');
my $who = 'background job of user "A. Liddell" in database "wonderland"';

# Runs a job with a label to its end, or until it sleeps, in which case the process
# is ended. Returns what its lines in the log are, without the prefix.
sub lines_of_job
{
	my ($sql, $label) = @_;
	my $size = log_size($node);
	my $job = $session->query(
		"SELECT pid || ', ' || cookie FROM pg_background_launch_v2(\$job\$$sql\$job\$, 0, $label)");
	my ($pid) = split /, /, $job;

	if ($sql =~ /pg_sleep/)
	{
		wait_for_worker($node, $job, "wait_event = 'PgSleep'");
		sql($node, "SELECT pg_terminate_backend($pid)");
	}
	$session->wait_for($job);
	my @lines = map { s/^[-\d]+ [\d:.]+ \w+ \[\d+\] //r }
	  grep { /^[-\d]+ [\d:.]+ \w+ \[$pid\] |^\t/ } split /\n/, log_since($node, $size);

	$session->send("\\set SHOW_CONTEXT always\nSELECT * FROM pg_background_result_v2($job) AS (a text)");
	$session->receive;
	unlike($session->{messages}, qr/background job of user/, 'the launcher is not told');
	like($session->{messages}, qr/CONTEXT:  .*background worker, pid $pid$/ms,
		'it knows which job it is') if $session->{messages};

	return @lines;
}

sub test_lines
{
	my ($sql, $label, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @lines = lines_of_job($sql, $label);

	# From 19 on, the server tells who has ended a process.
	is(join("\n", grep { !/STATEMENT|^DETAIL:  Signal sent by PID/ } @lines), $expected, "Hardening 47: $name");
	return;
}

test_lines(q{SELECT 'nothing'}, 'NULL', '', 'nothing');
test_lines('SELECT 1 / 0', q{'nightly'},
	"ERROR:  division by zero\nCONTEXT:  $who, label \"nightly\"", 'an error');
test_lines('SELECT 1 / 0', 'NULL', "ERROR:  division by zero\nCONTEXT:  $who", 'without a label');
test_lines(q{DO $$ BEGIN RAISE WARNING 'careful'; END $$}, q{E'two\nlines'},
	"WARNING:  careful\nCONTEXT:  PL/pgSQL function inline_code_block line 1 at RAISE\n\t$who, label \"two lines\"",
	'a warning');
test_lines(q{DO $$ BEGIN RAISE LOG 'for the log'; END $$}, 'NULL',
	"LOG:  for the log\nCONTEXT:  PL/pgSQL function inline_code_block line 1 at RAISE\n\t$who",
	'for the log');
test_lines('SELECT pg_sleep(1000)', q{'sleepy'},
	"FATAL:  terminating background worker \"pg_background\" due to administrator command\nCONTEXT:  $who, label \"sleepy\"",
	'the end of the process');

sql($node, 'ALTER ROLE "A. Liddell" RENAME TO "Alice"');
$who =~ s/A. Liddell/Alice/;
ok(await($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_background'}),
	'the worker that has logged in before leaves');
test_lines('SELECT 1 / 0', 'NULL', "ERROR:  division by zero\nCONTEXT:  $who", 'a role that was renamed');
$session->quit;
end_idle_workers($node);
nothing_left($node, 'log');
$node->stop;

done_testing();
