# Queries on several servers at once: a job for each of two foreign servers,
# and both servers are at work at the same time.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main');
if ($node->safe_psql('postgres',
		"SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'") eq '0')
{
	plan skip_all => 'postgres_fdw is not installed';
}
$node->safe_psql('postgres', 'CREATE EXTENSION postgres_fdw');

my @remotes;
foreach my $name (qw(remote_1 remote_2))
{
	my $remote = new_server($name);

	push @remotes, $remote;
	$remote->safe_psql('postgres', <<'END');
CREATE FUNCTION work(OUT started timestamptz, OUT ended timestamptz) LANGUAGE plpgsql AS
$$ BEGIN started := clock_timestamp(); PERFORM pg_sleep(2); ended := clock_timestamp(); END $$;
CREATE VIEW work AS SELECT * FROM work();
END
	my ($host, $port) = ($remote->host, $remote->port);
	$node->safe_psql('postgres', <<"END");
CREATE SERVER $name FOREIGN DATA WRAPPER postgres_fdw
	OPTIONS (host '$host', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR CURRENT_USER SERVER $name;
CREATE FOREIGN TABLE $name (started timestamptz, ended timestamptz)
	SERVER $name OPTIONS (table_name 'work');
CREATE TABLE ${name}_result (started timestamptz, ended timestamptz);
END
}

is( $node->safe_psql('postgres', <<'END'),
SELECT count(*) FROM pg_background_run_all_v2(ARRAY[
	'INSERT INTO remote_1_result TABLE remote_1',
	'INSERT INTO remote_2_result TABLE remote_2'])
WHERE state = 'stopped' AND row_count = 1;
END
	'2', 'each server has answered');
is( $node->safe_psql('postgres', <<'END'),
SELECT a.started < b.ended AND b.started < a.ended
FROM remote_1_result a, remote_2_result b;
END
	't', 'both were at work at the same time');

$_->stop foreach ($node, @remotes);
done_testing();
