# Queries on several servers at once: the recipe of docs/cookbook.md, as it
# stands there; and both servers are at work at the same time.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main');
if (sql($node, "SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'") eq '0')
{
	plan skip_all => 'postgres_fdw is not installed';
}

#
# The recipe
#

my %remote = map { $_ => new_server($_) } qw(north south);
$remote{north}->safe_psql('postgres', 'CREATE TABLE orders AS SELECT id, 100 AS amount FROM generate_series(1, 200) id');
$remote{south}->safe_psql('postgres', 'CREATE TABLE orders AS SELECT id, id AS amount FROM generate_series(1, 100) id');

my ($sql, $expected) = slurp_file("$FindBin::RealBin/../docs/cookbook.md") =~
  /^```sql remote\n(.*?)^```\n\n^```text remote\n(.*?)^```$/ms;
my ($stdout, $stderr);
IPC::Run::run(
	[
		'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'),
		map { ('-v', "${_}_host=" . $remote{$_}->host, '-v', "${_}_port=" . $remote{$_}->port) } keys %remote
	],
	'<' => \$sql, '>' => \$stdout, '2>' => \$stderr);
is($stderr, '', 'the recipe prints no error');
is($stdout, $expected, 'the recipe');

#
# At the same time
#

my %holder;
foreach my $name (sort keys %remote)
{
	$remote{$name}->safe_psql('postgres', <<'END');
CREATE FUNCTION work() RETURNS bool LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_lock_shared(1); RETURN true; END $$;
CREATE VIEW work AS SELECT work() AS done;
END
	$node->safe_psql('postgres', <<"END");
CREATE FOREIGN TABLE $name (done bool) SERVER $name OPTIONS (table_name 'work');
CREATE TABLE ${name}_result (done bool);
END
	$holder{$name} = new_session($remote{$name});
	$holder{$name}->query('SELECT pg_advisory_lock(1)');
}

# None ends before all are seen at work.
my $session = new_session($node);
$session->send(<<'END');
SELECT count(*) FROM pg_background_run_all_v2(ARRAY[
	'INSERT INTO north_result TABLE north',
	'INSERT INTO south_result TABLE south'])
WHERE state = 'stopped' AND row_count = 1
END
foreach my $name (sort keys %remote)
{
	ok( await($remote{$name}, "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"),
		"$name is at work");
}
$_->quit foreach values %holder;
is($session->receive, '2', 'each server has answered');
$session->quit;

$_->stop foreach ($node, values %remote);
done_testing();
