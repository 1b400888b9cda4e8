# "make installcheck" says at once which settings of the server are too low for
# the tests, rather than fail in the middle of them.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tool = "$FindBin::RealBin/../packaging-tests/settings";
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 8\nmax_prepared_transactions = 0\n");
$node->start;

local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;

command_checks_all(
	[ $tool, 'psql' ],
	1, [],
	[
		qr/max_worker_processes is 8, the tests need \d+\n/, qr/max_prepared_transactions is 0, the tests need \d+\n/,
		qr/Add the lines of .*cluster\.conf to its postgresql\.conf/
	],
	'a stock server');

$node->append_conf('postgresql.conf', slurp_file("$FindBin::RealBin/../packaging-tests/cluster.conf"));
$node->restart;
command_checks_all([ $tool, 'psql' ], 0, [qr/^$/], [qr/^$/], 'a server with these settings');

$node->stop;
command_checks_all([ $tool, 'psql' ], 0, [qr/^$/], [qr/./], 'no server: what does the tests will say so');

done_testing();
