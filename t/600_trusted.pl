# The extension of a user who is no superuser, but may create one: he can use it,
# let others use it, and do with it all that an owner does; from each version on
# its catalog comes to what he would have made afresh; and another database's
# owner has the same.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main');
my $version = sql($node, 'SHOW server_version_num');
my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $fixtures = "$FindBin::RealBin/../sql/fixtures";
my $create = 'CREATE EXTENSION pg_background';
my $whoami = 'SELECT * FROM pg_background_query($$SELECT current_user::text, session_user::text$$) AS (a text, b text)';

# Runs SQL, which must not fail, as some user; returns what it returns.
sub as { return sql_as($node, @_) }

# The same by the superuser
sub sql_in { return as(undef, @_) }

# Runs SQL as some user; returns all that it says.
sub said { return said_as($node, @_) }

sub fails
{
	my ($user, $database, $sql, $like, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	like(said($user, $database, $sql), $like, $name);
	return;
}

# Who owns the extension, and what is in it
my $owners = <<'END';
SELECT string_agg(DISTINCT owner::regrole::text, ', ')
FROM (
	SELECT extowner FROM pg_extension WHERE extname = 'pg_background'
	UNION ALL
	SELECT coalesce(p.proowner, t.typowner, c.relowner)
	FROM pg_extension e
	JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
	LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
	LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
	LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
	WHERE e.extname = 'pg_background' AND d.classid <> 'pg_cast'::regclass) o (owner)
END

my $is_admin = q{SELECT count(*) FROM pg_auth_members
	WHERE roleid = 'pgbackground_role'::regrole AND member = '%s'::regrole AND admin_option};

# The server is one where nobody has used the extension.
$node->safe_psql('postgres', <<'END');
DROP EXTENSION pg_background;
DROP ROLE pgbackground_role;
CREATE ROLE tenant LOGIN;
CREATE ROLE other_tenant LOGIN;
CREATE ROLE builder LOGIN CREATEROLE;
CREATE ROLE "o'dd ""one"" $1" LOGIN NOINHERIT;
CREATE ROLE app LOGIN;
CREATE ROLE direct LOGIN;
CREATE ROLE nobody LOGIN;
CREATE ROLE limited LOGIN CONNECTION LIMIT 1;
CREATE DATABASE tenant OWNER tenant;
CREATE DATABASE restored OWNER tenant;
CREATE DATABASE other_tenant OWNER other_tenant;
CREATE DATABASE builder OWNER builder;
CREATE DATABASE odd OWNER "o'dd ""one"" $1";
REVOKE CONNECT ON DATABASE tenant FROM PUBLIC;
GRANT CONNECT ON DATABASE tenant TO app, direct, nobody, limited;
END

#
# Who may create it
#

SKIP:
{
	my $available = q{pg_available_extensions WHERE name = 'pg_background'};

	skip 'what extension_destdir finds is in no view', 1 if sql($node, "SELECT count(*) FROM $available") eq '0';
	is(sql($node, qq{SELECT trusted FROM pg_available_extension_versions
		WHERE (name, version) IN (SELECT name, default_version FROM $available)}), 't', 'it is trusted');
}
fails('nobody', 'tenant', $create, qr/ERROR:  42501: permission denied to create extension/, 'one who may create nothing');
is(said('tenant', 'tenant', $create), '', 'the owner of a database creates it');
is(sql_in('tenant', $owners), 'tenant', 'all of it is his');
is(sql_in('tenant', sprintf $is_admin, 'tenant'), '1', 'he is a member of the role, and may make others so');
is( sql_in('tenant', q{SELECT rolsuper, rolcreaterole, rolcanlogin FROM pg_roles WHERE rolname = 'pgbackground_role'}),
	'f|f|f', 'the role');

#
# Using it, and letting others
#

is(as('tenant', 'tenant', $whoami), 'tenant|tenant', 'he runs jobs as himself');
fails('app', 'tenant', $whoami, qr/ERROR:  42501: permission denied for function/, 'nobody else does');
as('tenant', 'tenant', 'GRANT pgbackground_role TO app');
is(as('app', 'tenant', $whoami), 'app|app', 'a member of the role does, as himself');
as('tenant', 'tenant', q{SELECT pg_background_grant_privileges('direct')});
is(as('direct', 'tenant', $whoami), 'direct|direct', 'one to whom he has granted all privileges does, as himself');
is(as('direct', 'tenant', 'SELECT count(*) FROM pg_background_list'), '0', 'and reads views');
as('tenant', 'tenant', 'GRANT pgbackground_role TO limited');
is( as('limited', 'tenant', q{SELECT count(*) FROM pg_background_run_all(ARRAY['SELECT 1', 'SELECT 2'], 2) WHERE completed}),
	'2', 'jobs do not count for CONNECTION LIMIT');
fails('app', 'tenant', q{SELECT * FROM pg_background_query('CREATE ROLE evil SUPERUSER') AS (a text)},
	qr/ERROR:  42501: /, 'a job may do what its user may do');
fails('app', 'tenant', 'GRANT pgbackground_role TO nobody', qr/ERROR:  42501: /, 'a member lets nobody in');

#
# What an owner does
#

as('tenant', 'tenant', 'CREATE SCHEMA tools; GRANT USAGE ON SCHEMA tools TO app, direct; ALTER EXTENSION pg_background SET SCHEMA tools');
is(as('app', 'tenant', "SET search_path = tools; $whoami"), 'app|app', 'SET SCHEMA');
as('tenant', 'tenant', q{COMMENT ON EXTENSION pg_background IS 'ours'});

# Neither he nor anybody needs the rights of a superuser for a dump.
$node->command_ok([ 'pg_dump', '-U', 'tenant', '--file', "$tmp/tenant.sql", 'tenant' ], 'dump');
$node->command_ok(
	[ 'psql', '-X', '-q', '-U', 'tenant', '-v', 'ON_ERROR_STOP=1', '--file', "$tmp/tenant.sql", 'restored' ], 'restore');
is(sql_in('restored', $owners), 'tenant', 'restored: all of it is his');
is(as('direct', 'restored', "SET search_path = tools; $whoami"), 'direct|direct', 'restored: what he has granted');
$node->command_ok([ 'pg_dump', '-U', 'tenant', '--file', "$tmp/restored.sql", 'restored' ], 'restored: dump');
# From 18 on there is a key in each, which is another every time.
is( slurp_file("$tmp/restored.sql") =~ s/^\\(un)?restrict .*\n//gmr,
	slurp_file("$tmp/tenant.sql") =~ s/^\\(un)?restrict .*\n//gmr,
	'restored: the dump is the same');

as('tenant', 'tenant', q{SELECT tools.pg_background_revoke_privileges('direct')});
fails('direct', 'tenant', "SET search_path = tools; $whoami", qr/ERROR:  (42501|42883): /, 'what is revoked');
as('tenant', 'tenant', "DROP EXTENSION pg_background; $create; DROP EXTENSION pg_background");
is(sql_in('tenant', q{SELECT count(*) FROM pg_proc WHERE proname ~ 'pg_background'}), '0', 'DROP EXTENSION');
is(said('tenant', 'tenant', $create), '', 'again');

#
# Another database's owner
#

is(said('other_tenant', 'other_tenant', $create), '', 'another owner creates it, where there is the role');
is(sql_in('other_tenant', sprintf $is_admin, 'other_tenant'), '1', 'another owner: he may let others in');
is(as('other_tenant', 'other_tenant', $whoami), 'other_tenant|other_tenant', 'another owner: he runs jobs');
as('other_tenant', 'other_tenant', 'GRANT pgbackground_role TO nobody');
is(as('nobody', 'other_tenant', $whoami), 'nobody|nobody', 'another owner: those that he lets in');
# By -c, since a psql that cannot connect may be gone before it can be told anything
$node->command_checks_all([ 'psql', '-X', '-U', 'other_tenant', '-d', 'tenant', '-c', $whoami ],
	2, [qr/^$/], [qr/permission denied for database/], 'another owner: where he may not connect');
if ($version >= 160000)
{
	said('other_tenant', 'other_tenant', 'REVOKE pgbackground_role FROM app; REVOKE pgbackground_role FROM tenant CASCADE');
	is(as('app', 'tenant', $whoami), 'app|app', 'another owner: he takes it from nobody else');
	is(sql_in('tenant', sprintf $is_admin, 'tenant'), '1', 'another owner: nor the right to let others in');
}
else
{
	# The server lets him revoke what others have granted, but the first owner needs no membership.
	as('other_tenant', 'other_tenant', 'REVOKE pgbackground_role FROM tenant, app');
	is(as('tenant', 'tenant', $whoami), 'tenant|tenant', 'another owner: he takes nothing from the first one');
	as('tenant', 'tenant', q{SELECT pg_background_grant_privileges('app')});
	is(as('app', 'tenant', $whoami), 'app|app', 'another owner: nor from those who have privileges there');
	as('tenant', 'tenant', q{SELECT pg_background_revoke_privileges('app')});
}
fails('tenant', 'tenant', 'SELECT pg_background_drop_executor_role()', qr/ERROR:  42501: /, 'the role is not his to drop');

my $odd = q{o'dd "one" $1};
is(said($odd, 'odd', $create), '', 'an odd name');
is(as($odd, 'odd', $whoami), "$odd|$odd", 'an odd name: he runs jobs');
as($odd, 'odd', 'GRANT pgbackground_role TO app');

# What is his goes where he wants.
sql_in('odd', q{REASSIGN OWNED BY "o'dd ""one"" $1" TO tenant});
is(sql_in('odd', $owners), 'tenant', 'REASSIGN OWNED');
as('tenant', 'odd', 'DROP OWNED BY tenant CASCADE');
is(sql_in('odd', q{SELECT count(*) FROM pg_proc WHERE proname ~ 'pg_background'}), '0', 'DROP OWNED');

#
# From older versions
#

my @made_by_hand = (
	[ '1.0', 1, '1.0' ], [ '1.4', 1, '1.0', '1.4' ], [ '1.8', 0, '1.8' ], [ '1.9', 0, '1.8', '1.9' ],
	[ '1.10', 0, '1.8', '1.9', '1.10' ], [ '2.0', 1, '2.0' ]);
my $difference =
  'SELECT identity FROM ((TABLE extension_catalog EXCEPT TABLE fresh) UNION ALL (TABLE fresh EXCEPT TABLE extension_catalog)) d';

sql_in('tenant', slurp_file("$fixtures/catalog.sql"));
as('tenant', 'tenant', "DROP EXTENSION pg_background; $create");
sql_in('tenant', 'CREATE TABLE fresh AS TABLE extension_catalog');
as('tenant', 'tenant', 'DROP EXTENSION pg_background');
is( sql_in('tenant', q{SELECT count(*) > 100, bool_and(owner = 'tenant' AND initial_privileges[1] IS NOT NULL
	AND initial_privileges::text !~ '/postgres') FROM fresh WHERE type <> 'cast'}),
	't|t', 'a fresh catalog');

foreach my $from ([ '1.6', 0 ], [ '1.7', 0 ], [ '1.11', 0 ], @made_by_hand)
{
	my ($old, $is_empty, @scripts) = @$from;

	as('tenant', 'tenant', "$create VERSION '" . (@scripts ? '1.6' : $old) . "'");
	sql_in('tenant', 'CALL regress_empty()') if $is_empty;
	sql_in('tenant', slurp_file("$fixtures/pg_background--$_.sql")) foreach @scripts;
	sql_in('tenant', "CALL regress_adopt('$old')") if @scripts;
	my $granted = join ', ', split /\n/, sql_in('tenant',
		q{SELECT oid::regprocedure FROM pg_proc WHERE proname IN ('pg_background_launch', 'pg_background_detach')});
	sql_in('tenant', "GRANT EXECUTE ON FUNCTION $granted TO direct WITH GRANT OPTION");

	is(said('tenant', 'tenant', 'ALTER EXTENSION pg_background UPDATE'), '', "from $old: the update");
	is(sql_in('tenant', $owners), 'tenant', "from $old: all of it is his");
	is( sql_in('tenant', q{SELECT count(*) > 1, bool_and(has_function_privilege('direct', oid, 'EXECUTE WITH GRANT OPTION'))
		FROM pg_proc WHERE proname IN ('pg_background_launch', 'pg_background_detach') AND pronargs <> 3 AND proargtypes[0] <> 'pg_background_handle'::regtype}),
		't|t', "from $old: what others were granted");
	is(sql_in('tenant', q{SELECT count(*) FROM extension_catalog WHERE initial_privileges::text ~ 'direct'}),
		'0', "from $old: it is not the extension's doing");
	as('tenant', 'tenant', q{SELECT pg_background_revoke_privileges('direct')});
	is(sql_in('tenant', $difference), '', "from $old: it is as a fresh one");
	is(as('tenant', 'tenant', $whoami), 'tenant|tenant', "from $old: it works");
	as('tenant', 'tenant', 'DROP EXTENSION pg_background');
}

# A superuser's update of it, and his own extension
as('tenant', 'tenant', "$create VERSION '1.11'");
sql_in('tenant', 'ALTER EXTENSION pg_background UPDATE');
is(sql_in('tenant', $difference), '', 'updated by a superuser, it is as a fresh one');
as('tenant', 'tenant', 'DROP EXTENSION pg_background');
sql_in('tenant', 'CREATE ROLE boss SUPERUSER LOGIN');
as('boss', 'tenant', $create);
is(sql_in('tenant', $owners), 'boss', "a superuser's is his");
is(sql_in('tenant', sprintf $is_admin, 'boss'), '0', 'he needs no membership');
sql_in('tenant', 'DROP EXTENSION pg_background');

#
# A user with CREATEROLE: with the role that the extension makes, and with his own
#

foreach my $made_by ('the extension', 'himself')
{
	sql_in($_, 'DROP EXTENSION IF EXISTS pg_background') foreach 'other_tenant', 'restored', 'builder';
	sql($node, 'DROP ROLE IF EXISTS pgbackground_role');
	as('builder', 'builder', 'CREATE ROLE pgbackground_role') if $made_by eq 'himself';

	my $messages = said('builder', 'builder', $create);
	if ($made_by eq 'himself')
	{
		like($messages, qr/^.*WARNING:  01000: role "pgbackground_role" is there already/, 'a role by himself: he is told');
	}
	else
	{
		is($messages, '', 'a role by the extension: nothing is said');
	}
	is(as('builder', 'builder', $whoami), 'builder|builder', "a role by $made_by: he runs jobs");
	is(sql_in('builder', q{SELECT pg_has_role('builder', 'pgbackground_role', 'USAGE')}), 't',
		"a role by $made_by: he has what its members have");
	as('builder', 'builder', 'CREATE ROLE made LOGIN; GRANT pgbackground_role TO made');
	# In a session of its own, since this user is another one each time
	is($node->safe_psql('builder', $whoami, extra_params => [ '-U', 'made' ]), 'made|made', "a role by $made_by: those that he lets in");
	as('builder', 'builder', 'SELECT pg_background_drop_executor_role()');
	is(sql_in('builder', q{SELECT to_regrole('pgbackground_role') IS NULL}), 't', "a role by $made_by: he can drop it");
	is(as('builder', 'builder', $whoami), 'builder|builder', "a role by $made_by: and still runs jobs");
	as('builder', 'builder', 'DROP ROLE made');
}

done_testing();
