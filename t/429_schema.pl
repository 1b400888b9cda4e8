# A catalog of 1.6 that was given another schema, whose objects it made in public
# all the same: where they are after the update, and whether a dump of it can be
# restored.
#
# Hardening 29: they stayed in public, where no restore makes them.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main');
my $from = 'from';
my $dump = "${PostgreSQL::Test::Utils::tmp_check}/dump.sql";

# In which schemas things are, apart from what is the server's own
my $where = <<'END';
SELECT string_agg(DISTINCT i.type || ' ' || i.schema, ', ')
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass,
	pg_identify_object(d.classid, d.objid, 0) i
WHERE d.deptype = 'e' AND e.extname = 'pg_background' AND i.type IN ('function', 'type', 'view')
END

sub is_there
{
	my ($database, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($node->safe_psql($database, $where), 'function "Home", type "Home", view "Home"', "$name: where all is");
	is( $node->safe_psql($database, <<'END'), 't|t|0', "$name: what others have made of it");
SELECT has_function_privilege('app', '"Home".pg_background_launch_v2(text, int4)', 'EXECUTE'),
	has_function_privilege('app', '"Home".pg_background_drop_executor_role()', 'EXECUTE'),
	(SELECT count(*) FROM jobs)
END
	is( $node->safe_psql($database, 'SELECT n FROM "Home".pg_background_run_query_v2($$SELECT 29$$) AS (n int)'),
		'29', "$name: it works");
	return;
}

sql($node, "CREATE ROLE app; CREATE DATABASE \"$from\"");
foreach my $step ('1.6', '1.7', '1.11')
{
	$node->safe_psql($from, <<"END");
CREATE SCHEMA "Home";
CREATE EXTENSION pg_background SCHEMA "Home" VERSION '1.6';
ALTER EXTENSION pg_background UPDATE TO '$step';
CREATE VIEW jobs AS SELECT x.pid
FROM pg_background_list_v2() AS x (pid int4, cookie int8, launched_at timestamptz, user_id oid,
	queue_size int4, state text, sql_preview text, last_error text, consumed bool);
GRANT EXECUTE ON FUNCTION pg_background_launch_v2(text, int4), pg_background_drop_executor_role() TO app;
CREATE FUNCTION public.pg_background_of_mine() RETURNS int LANGUAGE sql AS 'SELECT 1';
ALTER EXTENSION pg_background UPDATE;
END
	is_there($from, "from 1.6 by $step");
	is( $node->safe_psql($from, 'SELECT public.pg_background_of_mine()'), '1', "from 1.6 by $step: what is not ours stays");

	command_ok([ 'pg_dump', '--file', $dump, $node->connstr($from) ], "from 1.6 by $step: dump");
	sql($node, 'CREATE DATABASE restored');
	command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '--file', $dump, $node->connstr('restored') ],
		"from 1.6 by $step: restore");
	is_there('restored', "from 1.6 by $step, restored");
	sql($node, 'DROP DATABASE restored');
	$node->safe_psql($from, 'DROP EXTENSION pg_background CASCADE; DROP SCHEMA "Home"; DROP FUNCTION pg_background_of_mine()');
}

# Where what it needs there is somebody else's, nothing is done.
$node->safe_psql($from, <<'END');
CREATE SCHEMA "Home";
CREATE EXTENSION pg_background SCHEMA "Home" VERSION '1.6';
CREATE FUNCTION "Home".pg_background_launch(text, int4) RETURNS int LANGUAGE sql AS 'SELECT 1';
END
my (undef, undef, $stderr) = $node->psql($from, 'ALTER EXTENSION pg_background UPDATE');
like($stderr, qr/already exists in schema "Home"/, 'a name that is taken there');
is( $node->safe_psql($from, "SELECT extversion FROM pg_extension WHERE extname = 'pg_background'"), '1.6', 'all is as before');

done_testing();
