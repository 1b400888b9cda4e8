# What a hostile user prepares, or the user himself who may create the extension:
# the server runs its scripts as a superuser. Either nothing comes of it, or the
# extension is not created, and the error says why.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main');
my $create = 'CREATE EXTENSION pg_background';
my $database = 'tenant';

sub as { return sql_as($node, $_[0], $database, $_[1]) }

sub said { return said_as($node, $_[0], $database, $_[1]) }

# By the superuser
sub sql_in { return as(undef, @_) }

sub is_not_created
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(sql_in(q{SELECT count(*) FROM pg_extension WHERE extname = 'pg_background'}),
		'0', "$name: nothing is created");
	return;
}

$node->safe_psql('postgres', <<'END');
DROP EXTENSION pg_background;
DROP ROLE pgbackground_role;
CREATE ROLE tenant LOGIN;
CREATE ROLE mallory LOGIN;
CREATE DATABASE tenant OWNER tenant;
CREATE DATABASE greedy OWNER tenant;
END
sql_in('GRANT CREATE ON SCHEMA public TO PUBLIC');

#
# A role that may do more than run jobs
#

foreach my $how ('SUPERUSER', 'IN ROLE pg_read_all_data')
{
	sql($node, "CREATE ROLE pgbackground_role $how");
	like(said('tenant', $create), qr/ERROR:  42501: role "pgbackground_role" may do more.*HINT: /s, "a role with $how: the error");
	is_not_created("a role with $how");

	# nor is he given it by an older version, or by its update
	as('tenant', "$create VERSION '1.11'");
	like(said('tenant', 'ALTER EXTENSION pg_background UPDATE'), qr/ERROR:  42501: role "pgbackground_role" may do more/,
		"a role with $how: the error of the update");
	is( sql_in(q{SELECT count(*) FROM pg_auth_members WHERE member = 'tenant'::regrole}),
		'0', "a role with $how: he is no member of it");
	as('tenant', 'DROP EXTENSION pg_background');
	sql($node, 'DROP ROLE pgbackground_role');
}

#
# What has the name of something that the extension makes
#

foreach my $object (
	'TYPE pg_background_handle AS (pid int, cookie bigint)',
	'TYPE pg_background_outcome AS ENUM ()',
	'TYPE pg_background_untyped AS RANGE (subtype = int)',
	'DOMAIN pg_background_untyped AS text',
	'TABLE pg_background_list ()',
	'VIEW pg_background_pool AS SELECT 1 AS n',
	q{FUNCTION pg_background_exec(text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'},
	q{FUNCTION grant_pg_background_privileges(text, boolean) RETURNS boolean LANGUAGE sql AS 'SELECT true'},
	q{PROCEDURE pg_background_run(text, int, int, text) LANGUAGE sql AS ''})
{
	my ($kind, $name) = $object =~ /^(\w+) (\w+(\([^)]*\))?)/;
	as('mallory', "CREATE $object");

	my ($plain) = $name =~ /^(\w+)/;
	like(said('tenant', $create), qr/ERROR:  \w+: \w+ "$plain" already exists/, "$object: the error");
	is_not_created($object);
	as('mallory', "DROP $kind $name");
}

# What would be called in place of a function of the extension's
foreach my $overload ('exec(sql varchar)', 'result_jsonb(pid int)', 'launch(sql text, VARIADIC more int[])')
{
	my $name = "pg_background_$overload";
	my $sql = "CREATE FUNCTION $name RETURNS int LANGUAGE sql AS 'SELECT 1'";
	as('mallory', $sql);
	like(said('tenant', $create), qr/ERROR:  42723: function .*pg_background_.* of role mallory could be called in place.*HINT: /s,
		"$name: the error");
	is_not_created($name);

	# It is no danger where it is his own, or another schema's.
	as('tenant', "CREATE SCHEMA tools; $create SCHEMA tools; DROP EXTENSION pg_background; DROP SCHEMA tools");
	as('mallory', "DROP FUNCTION $name");
	as('tenant', "$sql; $create; DROP EXTENSION pg_background; DROP FUNCTION $name");
}

#
# What stands for functions and operators of the server: of all names that the
# scripts have, with all types that these may be called with
#

my $traps = <<'SQL';
SET search_path = pg_catalog;
CREATE FUNCTION public.trap() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'trapped' USING DETAIL = current_user;
END
$$;
DO $$
DECLARE
	types CONSTANT text[] := ARRAY['text', 'name', 'varchar', '"char"', 'oid', 'int4', 'int8', 'bool', 'jsonb', 'regclass',
		'regtype', 'regrole', 'regnamespace', 'regprocedure', 'text[]', 'name[]', 'oid[]', 'aclitem[]', 'aclitem', 'oidvector',
		'anyelement', 'anyarray'];
	n int := 0;
	one record;
BEGIN
	FOR one IN SELECT a, b FROM unnest(types) a, unnest(types) b LOOP
		n := n + 1;
		EXECUTE format('CREATE FUNCTION public.trap%s(a %s, b %s) RETURNS bool LANGUAGE plpgsql AS ''BEGIN PERFORM public.trap(); END''',
			n, one.a, one.b);
		EXECUTE (SELECT string_agg(format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.trap%s)',
				o, one.a, one.b, n), '; ')
			FROM unnest(ARRAY['=', '<>', '||', '~', '!~', '~~', '!~~', '<@', '&&', '>', '<', '>=', '+', '->', '->>']) o);
	END LOOP;

	-- With the arguments of the server's, and with some that would be preferred
	FOR one IN
		SELECT DISTINCT p.proname AS name, string_agg(regexp_replace(regexp_replace(replace(
			t::regtype::text, '"any"', w), '\mtext\M', coalesce(string_type, 'text')), '\moid\M', coalesce(oid_type, 'oid')), ', ' ORDER BY o) AS arguments
		FROM pg_proc p
		CROSS JOIN unnest(p.proargtypes) WITH ORDINALITY u (t, o)
		CROSS JOIN unnest(types) w
		CROSS JOIN (VALUES (NULL, NULL), ('name', NULL), ('varchar', NULL), ('"char"', NULL), (NULL, 'regclass'), (NULL, 'regprocedure'),
			(NULL, 'regtype')) x (string_type, oid_type)
		WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f'
		  AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) t WHERE t IN ('internal'::regtype, 'cstring'::regtype))
		  AND p.proname IN ('acldefault', 'aclexplode', 'concat_ws', 'current_database', 'current_schema',
			'current_setting', 'format', 'format_type', 'has_schema_privilege', 'jsonb_build_object', 'jsonb_to_recordset',
			'pg_get_function_arguments', 'pg_get_function_identity_arguments', 'pg_get_function_result',
			'pg_get_userbyid', 'quote_ident', 'regexp_replace', 'replace', 'set_config', 'shobj_description',
			'string_to_array', 'to_regrole', 'unnest', 'text', 'name', 'oid', 'int4')
		GROUP BY p.oid, w, string_type, oid_type
		UNION
		SELECT 'format', concat_ws(', ', 'text', a, b) FROM unnest(types) a, unnest(types || NULL::text) b
	LOOP
		EXECUTE format('CREATE OR REPLACE FUNCTION public.%I(%s) RETURNS text LANGUAGE plpgsql AS ''BEGIN PERFORM public.trap(); END''',
			one.name, one.arguments);
	END LOOP;
END
$$;
SQL
as('mallory', $traps);
# They are such: one who looks there first runs into them.
like(said('tenant', q{SET search_path = public, pg_catalog; SELECT current_schema(), format('a %s', 'b'::name)}), qr/trapped/, 'traps');
like(said('tenant', q{SET search_path = public; SELECT 'a'::name = 'b'::varchar}), qr/trapped/, 'traps for operators');

is(said('tenant', "$create; DROP EXTENSION pg_background"), '', 'traps: a new extension runs into none');
foreach my $old ('1.6', '1.7', '1.11')
{
	is(said('tenant', "$create VERSION '$old'; ALTER EXTENSION pg_background UPDATE; DROP EXTENSION pg_background"), '',
		"traps: nor does an update from $old");
}
as('tenant', "$create VERSION '1.7'");
is(said('tenant', q{ALTER EXTENSION pg_background UPDATE TO '1.11'; ALTER EXTENSION pg_background UPDATE}), '',
	'traps: nor does one in two steps');

# nor do the functions in SQL, whoever calls them with whatever settings
foreach my $function ('pg_background_grant_privileges', 'pg_background_revoke_privileges',
	'grant_pg_background_privileges', 'revoke_pg_background_privileges')
{
	is(said('tenant', "SET search_path = public, pg_catalog; SELECT $function('mallory')"), '', "traps: nor does $function");
}
like(said('tenant', 'SET search_path = public, pg_catalog; SELECT pg_background_drop_executor_role()'),
	qr/(?m)^psql:.*ERROR:  42501: (permission denied to drop role|must be superuser|permission denied)/, 'traps: nor does the one for the role');
as('tenant', 'DROP EXTENSION pg_background');

#
# The user who creates it, on his way to be a superuser
#

$database = 'greedy';
sql_in('ALTER SCHEMA public OWNER TO tenant');

# A temporary function of the name of the one that an update uses
like(said('tenant', <<"END"), qr/ERROR:  42723: function "grant_again" already exists/, 'a temporary function of his: the error');
$create VERSION '1.11';
CREATE FUNCTION pg_temp.grant_again(command text) RETURNS void LANGUAGE sql AS 'ALTER ROLE tenant SUPERUSER';
ALTER EXTENSION pg_background UPDATE;
END
as('tenant', 'DROP EXTENSION pg_background');

# Temporary things of the names of the server's
is( said('tenant', <<"END"), '', 'temporary tables of his');
CREATE TEMPORARY TABLE pg_roles (oid oid, rolname name, rolsuper bool, rolcanlogin bool);
CREATE TEMPORARY TABLE pg_extension (oid oid, extname name, extowner oid, extnamespace oid);
CREATE TEMPORARY TABLE pg_depend ();
CREATE TEMPORARY TABLE pg_proc ();
$create VERSION '1.6';
ALTER EXTENSION pg_background UPDATE;
DROP EXTENSION pg_background;
END

# Where the privileges that an update keeps are, which are made into commands. The
# extension is his, and nobody has any privilege on what is in it.
my $commands = q{[{"id": 1, "name": "pg_background_exec", "kind": "ROUTINE", "owner": 10, "grantee": 6171, "is_grantable": false,
	"privilege": "EXECUTE ON ROUTINE public.mine() TO tenant; ALTER ROLE tenant SUPERUSER; GRANT EXECUTE"}]};
sql_in(<<"END");
CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE ROLE holder SUPERUSER;
SET SESSION AUTHORIZATION holder;
$create VERSION '1.11';
RESET SESSION AUTHORIZATION;
REASSIGN OWNED BY holder TO tenant;
END
as('tenant', <<'SQL');
DO $$
DECLARE
	what text;
BEGIN
	FOR what IN
		SELECT 'ROUTINE ' || oid::regprocedure FROM pg_proc WHERE proname ~ 'pg_background'
		UNION ALL
		SELECT 'TABLE ' || oid::regclass FROM pg_class WHERE relname ~ '^pg_background' AND relkind = 'v'
		UNION ALL
		SELECT 'TYPE ' || reltype::regtype FROM pg_class WHERE relname ~ '^pg_background' AND relkind = 'c'
	LOOP
		EXECUTE format('REVOKE ALL ON %s FROM tenant, pgbackground_role, PUBLIC', what);
	END LOOP;
END
$$;
SQL
my $tenant = new_session($node, user => 'tenant', dbname => $database,
	options => "-c pg_background_update.privileges=" . ($commands =~ s/([\\\s])/\\$1/gr));
$tenant->query('ALTER EXTENSION pg_background UPDATE');
is($tenant->{messages}, '', 'commands among the privileges: the update');
$tenant->quit;
is(sql_in(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'tenant'}), 'f', 'they are not run');
is(as('tenant', q{SELECT pg_background_exec('SELECT 1')}), '1', 'it works');

# What its functions are, where he says of them what is not so
foreach my $change ('CALLED ON NULL INPUT', 'IMMUTABLE', 'PARALLEL SAFE', 'SECURITY DEFINER', 'COST 1e10')
{
	as('tenant', <<"SQL");
DO \$\$
DECLARE
	f regprocedure;
BEGIN
	FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname ~ '^pg_background_' AND prokind = 'f' LOOP
		EXECUTE format('ALTER FUNCTION %s $change', f);
	END LOOP;
END
\$\$;
SQL
}
as('tenant', 'CREATE TABLE many AS SELECT g, g::text AS t FROM generate_series(1, 100000) g; ANALYZE many');
my $parallel = join '; ', 'SET parallel_setup_cost = 0', 'SET parallel_tuple_cost = 0', 'SET min_parallel_table_scan_size = 0',
  'SET max_parallel_workers_per_gather = 2';
foreach my $sql (
	q{SELECT pg_background_untyped_in(NULL), pg_background_untyped_out(NULL), pg_background_untyped_send(NULL)},
	q{SELECT NULL::pg_background_untyped},
	q{COPY (SELECT NULL::pg_background_untyped) TO STDOUT (FORMAT binary)},
	q{CREATE TABLE untyped (v pg_background_untyped); INSERT INTO untyped VALUES (NULL)},
	q{SELECT count(pg_background_launch(NULL::text))},
	"$parallel; SELECT count(*) FROM many WHERE pg_background_exec(CASE WHEN g > 0 THEN t END) > 0",
	"$parallel; SELECT count(*) FROM many WHERE g < 3 AND pg_background_exec('SELECT ' || t) > 0",
	"$parallel; SELECT count(pg_background_submit('SELECT ' || t)) FROM many WHERE g < 3",
	"$parallel; SELECT count(pg_background_launch('SELECT ' || t)) FROM many WHERE g < 3",
	"$parallel; SELECT count(*) FROM many WHERE (pg_background_stats()).workers_active > g")
{
	note said('tenant', $sql);
}
is(sql_in('SELECT 1'), '1', 'the server has not crashed');
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'nor has a process');

done_testing();
