# A job that was launched in a SECURITY DEFINER function is a session of the
# function's owner: what he may do in one it may do, though the function may not.
# Where the owner is held, neither may.
#
# Hardening 44: README said that it could become nobody whom the function could
# not have become.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main');
my $version = sql($node, 'SHOW server_version_num');

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE caller LOGIN;
CREATE ROLE hat;
CREATE ROLE stranger;
CREATE ROLE owner_login LOGIN;
CREATE ROLE owner_nologin NOLOGIN;
GRANT hat, pgbackground_role TO owner_login, owner_nologin;
SQL

foreach my $owner (qw(owner_login owner_nologin))
{
	$node->safe_psql('postgres', <<"SQL");
CREATE FUNCTION here_$owner(command text) RETURNS text SECURITY DEFINER LANGUAGE plpgsql
AS \$\$ BEGIN EXECUTE command; RETURN current_user; END \$\$;
CREATE FUNCTION job_$owner(command text) RETURNS text SECURITY DEFINER LANGUAGE plpgsql
AS \$\$
DECLARE
	who text;
BEGIN
	SELECT name INTO who FROM public.pg_background_run_query_v2(command || '; SELECT current_user::text') AS (name text);
	RETURN who;
END
\$\$;
ALTER FUNCTION here_$owner(text) OWNER TO $owner;
ALTER FUNCTION job_$owner(text) OWNER TO $owner;
SQL

	my $session = new_session($node, user => 'caller');
	my $held = $owner eq 'owner_nologin' && $version < 170000;

	is($session->query("SELECT job_$owner('SELECT 1')"), $owner, "$owner: whose the job is");
	$session->fails("SELECT here_$owner('SET ROLE hat')", '42501', qr/within security-definer function/,
		"$owner: SET ROLE in the function");
	if ($held)
	{
		$session->fails("SELECT job_$owner('SET ROLE hat')", '42501', qr/within security-definer function/,
			"$owner: SET ROLE in its job");
		$session->fails("SELECT job_$owner('COMMIT')", '2D000', qr/./, "$owner: COMMIT in its job");
	}
	else
	{
		is($session->query("SELECT job_$owner('SET ROLE hat')"), 'hat', "$owner: SET ROLE in its job");
		is($session->query("SELECT job_$owner('BEGIN; SET ROLE hat; COMMIT; RESET ROLE')"), $owner, "$owner: RESET ROLE in its job");
	}

	# The caller, and whoever else the owner is no member of, it does not become.
	$session->fails("SELECT job_$owner('SET ROLE $_')", '42501', qr/permission denied to set role|within security-definer function/,
		"$owner: SET ROLE $_ in its job")
	  foreach qw(stranger caller);
	$session->fails("SELECT job_$owner('SET SESSION AUTHORIZATION caller')", '42501', qr/permission denied|within security-definer function/,
		"$owner: SET SESSION AUTHORIZATION in its job");
	$session->quit;
}

# What is tested here is what the reference says.
my ($security) = slurp_file("$FindBin::RealBin/../docs/reference.md") =~ /^## Security\n(.*?)^## /ms;
like($security =~ s/\s+/ /gr, qr/`SET ROLE` to a role that the owner is a member of/, 'the reference says so');
unlike($security =~ s/\s+/ /gr, qr/could not have become/, 'and not what is wrong');

done_testing();
