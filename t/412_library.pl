# A worker loads the library that its session has loaded, wherever that was found:
# it looks for it before it is connected, so that it cannot find it as the session
# did.
#
# Hardening 28.

use strict;
use warnings;

use File::Copy;
use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main');
my $version = sql($node, 'SHOW server_version_num');

# Before 17, the name of a worker's library is shorter than that of a folder of
# tests may be.
my $dir = PostgreSQL::Test::Utils::tempdir_short();
copy(library_file($node), "$dir/pg_background.so") or die "$dir: $!";
chmod 0755, "$dir/pg_background.so";

# Tests that jobs run, and can themselves call the extension, in a database.
sub test_jobs
{
	my ($dbname, $name) = @_;
	my $session = new_session($node, dbname => $dbname);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($session->query(q{SELECT * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (a int)}),
		'1', "Hardening 28: $name");
	is($session->query(q{SELECT command_tag FROM pg_background_run_v2('SELECT pg_background_progress(1)')}),
		'SELECT', "Hardening 28: $name, in a job");
	$session->quit;
	return;
}

test_jobs('postgres', 'as installed');

SKIP:
{
	skip 'servers before 18 do not tell', 1 if $version < 180000;
	my $default = sql($node, q{SELECT default_version FROM pg_available_extensions WHERE name = 'pg_background'});
	like($node->safe_psql('postgres', <<'END'), qr/^\Q$default\E\.\d+$/, 'the server tells the version of the library');
LOAD 'pg_background';
SELECT version FROM pg_get_loaded_modules() WHERE module_name = 'pg_background'
END
}

foreach my $dbname (qw(by_path by_database))
{
	sql($node, "CREATE DATABASE $dbname");
	$node->safe_psql($dbname, 'CREATE EXTENSION pg_background');
}
load_library_from($node, 'by_path', "$dir/pg_background");
load_library_from($node, 'by_database', 'pg_background');
$node->safe_psql('postgres', "ALTER DATABASE by_database SET dynamic_library_path = '$dir'");

$node->append_conf('postgresql.conf', "dynamic_library_path = '/nonexistent'\n");
$node->restart;
test_jobs('by_path', 'dynamic_library_path lacks $libdir');
test_jobs('by_database', 'dynamic_library_path is set for the database');

SKIP:
{
	skip 'the server has no extension_control_path', 2 if $version < 180000;

	mkdir "$dir/share" or die "$dir: $!";
	mkdir "$dir/share/extension" or die "$dir: $!";
	# where scripts are made, or else where a package has them
	my ($scripts) = grep { -e "$_/pg_background--2.1.sql" } "$FindBin::RealBin/..", $node->config_data('--sharedir') . '/extension';
	foreach my $file (glob "$scripts/pg_background.control $scripts/pg_background--*.sql")
	{
		copy($file, "$dir/share/extension") or die "$file: $!";
	}
	$node->append_conf('postgresql.conf', <<"END");
extension_control_path = '$dir/share:\$system'
dynamic_library_path = '$dir:\$libdir'
END
	$node->restart;
	sql($node, 'CREATE DATABASE by_control_path');
	$node->safe_psql('by_control_path', 'CREATE EXTENSION pg_background');
	test_jobs('by_control_path', 'extension_control_path');
}

done_testing();
