# What ora2pg makes of autonomous transactions runs as it comes out of it, and
# what docs/cookbook.md puts in its place does the same. The Oracle sources, the
# settings and the replacement are those of the cookbook.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'ora2pg is missing' unless grep { -x "$_/ora2pg" } split /:/, $ENV{PATH};

my $folder = $PostgreSQL::Test::Utils::tmp_check;
my ($oracle, $replacement, $settings) = slurp_file("$FindBin::RealBin/../docs/cookbook.md") =~
  /^```plsql\n(.*?)^```\n.*?^```sql\n(CREATE OR REPLACE .*?)^```\n.*?^```ora2pg\n(.*?)^```\n/ms;
my $node = new_server('main');

# Converts what is of a kind to SQL, and returns the file that it is in.
sub convert
{
	my ($database, $kind) = @_;
	my $base = "$folder/$database-\L$kind";
	my ($source) = $oracle =~ /(^CREATE OR REPLACE $kind .*?^\/\n)/ms;

	append_to_file("$base.source", $source);
	command_ok([ 'ora2pg', '-q', '-c', "$folder/$database.conf", '-t', $kind,
			'-i', "$base.source", '-b', $folder, '-o', "$database-\L$kind.sql" ],
		"ora2pg converts the \L$kind");
	like(slurp_file("$base.sql"), qr/pg_background_launch/, 'to something that launches a job');
	return "$base.sql";
}

# Makes a database, and loads what is converted with these settings into it.
sub load
{
	my ($database, $settings) = @_;

	append_to_file("$folder/$database.conf", $settings);
	sql($node, "CREATE DATABASE $database");
	$node->safe_psql($database, <<'END');
CREATE TABLE action_log (n serial, who text NOT NULL, what text, by_whom text DEFAULT current_user);
CREATE TABLE numbers (name text PRIMARY KEY, value int8);
INSERT INTO numbers VALUES ('invoice', 100), ('o''clock', 0);
END
	command_ok([ 'psql', '-X', '-q', '-d', $node->connstr($database), '-f', convert($database, $_) ],
		'it is loaded')
	  foreach qw(PROCEDURE FUNCTION);
	return;
}

# The same calls for all, by somebody who has no privilege on anything that they use.
sub test_calls
{
	my ($database, $call) = @_;
	my $session = new_session($node, dbname => $database, user => 'app');
	my @what = ('nothing special', '', q{it's "quoted" \ $1 %s}, q{'); DROP TABLE action_log; --},
		"two\nlines", "gr\xc3\xbc\xc3\x9f dich");
	my $sql = join '; ', map { "$call log_action('app', \$_\$$_\$_\$)" } @what;

	$session->query("BEGIN; $sql; $call log_action('app', NULL); ROLLBACK");
	is($node->safe_psql($database, q{SELECT string_agg(coalesce(what, 'is null'), '|' ORDER BY n) FROM action_log}),
		join('|', @what, 'is null'), "$database: what a procedure does stays, and its arguments arrive");
	is($node->safe_psql($database, 'SELECT DISTINCT who, by_whom FROM action_log'),
		'app|' . $node->safe_psql($database, 'SELECT current_user'), "$database: it is done by the procedure's owner");

	$session->query('BEGIN');
	is($session->query(q{SELECT next_number('invoice', 10)}), '110', "$database: what a function returns arrives");
	is($session->query(q{SELECT next_number('o''clock', -1)}), '-1', "$database: and its arguments");
	is($session->query(q{SELECT next_number('nothing', 1) IS NULL}), 't', "$database: and null");
	$session->query('ROLLBACK');
	is($session->query(q{SELECT next_number('invoice', 1)}), '111', "$database: what a function does stays");

	$session->fails("$call log_action(NULL, 'x')", '23502', qr/column "who" of relation "action_log"/, "$database: an error");
	$session->quit;
	return;
}

sql($node, 'CREATE ROLE app LOGIN');

load('converted', $settings);
test_calls('converted', 'SELECT');

# For a server that has procedures
load('replaced', $settings =~ s/^PG_VERSION .*/PG_VERSION 15/mr);
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('replaced'), '-c', $replacement ],
	'what the cookbook puts in its place is loaded');
unlike($node->safe_psql('replaced', q{SELECT string_agg(prosrc, '') FROM pg_proc WHERE prosecdef}),
	qr/pg_background_launch/, 'it is in place of all that launches jobs');
test_calls('replaced', 'CALL');

nothing_left($node, 'at the end');
$node->stop;
done_testing();
