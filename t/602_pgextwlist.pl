# pgextwlist, which creates the extension as a superuser for others: with the
# script of docs/pgextwlist they can use it. Where it is not on the list, the
# server's own rule holds.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

chomp(my ($libdir, $sharedir) = map { scalar `pg_config --$_` } 'pkglibdir', 'sharedir');
plan skip_all => 'pgextwlist is not installed' unless -f "$libdir/plugins/pgextwlist.so";

my $node = new_server('main');
my $scripts = "$FindBin::RealBin/../docs/pgextwlist";
my $whoami = 'SELECT * FROM pg_background_query($$SELECT current_user::text$$) AS (a text)';
my $create = q{CREATE EXTENSION pg_background VERSION '2.1' SCHEMA public};

sub as
{
	my ($user, $sql) = @_;

	return $node->safe_psql('tenant', $sql, extra_params => [ '-U', $user ]);
}

sub fails
{
	my ($user, $sql, $like, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	like(($node->psql('tenant', $sql, extra_params => [ '-U', $user, '-v', 'VERBOSITY=verbose' ]))[2], $like, $name);
	return;
}

sub owner_is
{
	my ($owner, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($node->safe_psql('tenant', q{SELECT pg_get_userbyid(extowner) FROM pg_extension WHERE extname = 'pg_background'}),
		$owner, $name);
	return;
}

$node->safe_psql('postgres', <<'END');
DROP EXTENSION pg_background;
DROP ROLE pgbackground_role;
CREATE ROLE "o'dd ""one"" $1" LOGIN;
CREATE ROLE tenant LOGIN;
CREATE ROLE app LOGIN;
CREATE ROLE owners NOLOGIN;
CREATE ROLE owner LOGIN IN ROLE owners;
CREATE DATABASE tenant OWNER tenant;
ALTER SYSTEM SET local_preload_libraries = 'pgextwlist';
END
$node->restart;

# It is not on the list, and he may create what is trusted.
as('tenant', $create);
owner_is('tenant', "not on the list: it is the user's");
is(as('tenant', $whoami), 'tenant', 'not on the list: he runs jobs');
as('tenant', 'DROP EXTENSION pg_background');
fails('app', $create, qr/ERROR:  42501: permission denied to create extension/, 'not on the list: one who may create nothing');

# It is, without a script.
sql($node, 'DROP ROLE pgbackground_role');
change_settings($node, 'extwlist.extensions' => 'pg_background');
as('tenant', $create);
fails('tenant', $whoami, qr/ERROR:  42501: permission denied for function/, 'on the list, no script: he runs no jobs');
as('tenant', 'DROP EXTENSION pg_background');

# With the script
sql($node, 'DROP ROLE pgbackground_role');
change_settings($node, 'extwlist.custom_path' => $scripts);
my $odd = q{o'dd "one" $1};
foreach my $user ('tenant', $odd)
{
	as($user, $create);
	owner_is(sql($node, 'SELECT current_user'), "$user: it is the superuser's");
	is(as($user, $whoami), $user, "$user: he runs jobs, as himself");
	fails('app', $whoami, qr/ERROR:  42501: permission denied for function/, "$user: nobody else does");
	as($user, 'GRANT pgbackground_role TO app');
	is(as('app', $whoami), 'app', "$user: those do that he lets in");
	as($user, 'REVOKE pgbackground_role FROM app; DROP EXTENSION pg_background');
}
as('owner', "SET ROLE owners; $create");
is(as('owner', "SET ROLE owners; $whoami"), 'owners', 'SET ROLE: the role that has created it runs jobs');
is( $node->safe_psql('tenant', q{SELECT string_agg(member::regrole::text, ', ') FROM pg_auth_members
		WHERE roleid = 'pgbackground_role'::regrole AND member::regrole::text ~ '^owner'}),
	'owners', 'SET ROLE: it is the member');
as('owner', 'DROP EXTENSION pg_background');

# Temporary things of the names of the server's
as('app', "CREATE TEMPORARY TABLE pg_roles (rolname text, rolsuper bool);"
	  . " INSERT INTO pg_roles VALUES ('pgbackground_role', false), ('app', false); $create");
is(as('app', $whoami), 'app', 'temporary tables of his');

SKIP:
{
	# It looks there for the version, and for the schema, where none is named.
	skip 'the extension is not in the folder that pgextwlist looks at', 2 unless -f "$sharedir/extension/pg_background.control";

	as('app', q{DROP EXTENSION pg_background; CREATE EXTENSION pg_background VERSION '1.11'; ALTER EXTENSION pg_background UPDATE});
	is(as('app', $whoami), 'app', 'an update');
	owner_is(sql($node, 'SELECT current_user'), "an update: it is the superuser's");
}

done_testing();
