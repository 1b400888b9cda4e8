# A client reads the rows and messages of a job in its own encoding, whatever
# the encoding of the database is, and whatever the job makes of its
# client_encoding.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main');

# A letter beyond ASCII, as it is in each encoding
my %letter = (UTF8 => "\xC3\xA9", LATIN1 => "\xE9");

my $sql = q{
DO $do$
BEGIN
	RAISE NOTICE 'notice %', chr(233);
	RAISE 'error %', chr(233) USING DETAIL = 'detail ' || chr(233), HINT = 'hint ' || chr(233);
END
$do$};

foreach my $server (sort keys %letter)
{
	$node->safe_psql('postgres',
		"CREATE DATABASE \L$server\E ENCODING '$server' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
	);
	$node->safe_psql(lc $server, 'CREATE EXTENSION pg_background');

	foreach my $client (sort keys %letter)
	{
		my $session =
		  new_session($node, dbname => lc $server, encoding => $client);
		my $expected = $letter{$client};

		is($session->query('SHOW client_encoding'), $client, 'client_encoding');
		foreach my $prologue (
			'',
			"SET client_encoding = 'UTF8';",
			"SET client_encoding = 'LATIN1';",
			"SET client_encoding = 'SQL_ASCII';")
		{
			my $name = "$client client, $server database, $prologue";

			is($session->result($session->launch("$prologue SELECT chr(233)"), 'a text'),
				$expected, "$name: row");

			my $job = $session->launch($prologue . $sql);
			$session->wait_for($job);
			is( $session->query("SELECT last_error FROM $PgBackground::list"),
				"error $expected", "$name: last_error");
			$session->fails(
				"SELECT * FROM pg_background_result_v2($job) AS (a text)", 'P0001',
				qr/NOTICE:  00000: notice $expected\n(?s:.*)ERROR:  P0001: error $expected\nDETAIL:  detail $expected\nHINT:  hint $expected\n/,
				$name);
		}
		is($session->query(q{SELECT command FROM pg_background_run_all(ARRAY['SELECT $$' || chr(233) || '$$'])}),
			"SELECT \$\$$expected\$\$", "$client client, $server database: the command of a row");
		$session->fails(q{SELECT pg_background_run_all(ARRAY['SELECT 1/0 -- ' || repeat(chr(233), 1000)], raise_error => true)},
			'38000', qr/"SELECT 1\/0 -- (?:$expected){40,}[.]{3}", with/,
			"$client client, $server database: of a long command, whole letters");
		$session->quit;
	}
}

nothing_left($node, 'encodings');

done_testing();
