# The role that may run jobs, where there is one of its name already.
#
# Hardening 43: it was taken in silence, whatever it may do.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main');

# What a statement says, of all that it raises.
sub said
{
	my ($sql) = @_;
	my ($status, $stdout, $stderr) =
	  $node->psql('postgres', $sql, extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	return $stderr;
}

sub says_nothing
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(said($sql), '', $name);
	return;
}

my $create = 'CREATE EXTENSION pg_background';
my $drop = 'DROP EXTENSION pg_background';
my $adopted = qr/WARNING: .*role "pgbackground_role" is there already and is used as it is/;
my $can_login = qr/WARNING: .*role "pgbackground_role" can log in/;

#
# Made by the extension
#

$node->safe_psql('postgres', "$drop; CREATE DATABASE other");
says_nothing($create, 'the role of this database');
sql($node, 'CREATE ROLE app; GRANT pgbackground_role TO app');
is( ($node->psql('other', $create))[2], '', 'the role that another database has made');
says_nothing("$drop; $create", 'again');
says_nothing("$drop; $create VERSION '$_'; ALTER EXTENSION pg_background UPDATE", "after $_")
  foreach '1.6', '1.7', '1.11';

# What was given to it since
sql($node, 'ALTER ROLE pgbackground_role LOGIN');
like(said("$drop; $create"), $can_login, 'it can log in');
unlike(said("$drop; $create"), $adopted, 'but is known');
like(said("$drop; $create VERSION '1.11'; ALTER EXTENSION pg_background UPDATE"), $can_login, 'it can log in, update');
sql($node, 'ALTER ROLE pgbackground_role NOLOGIN');

#
# Made by somebody else
#

$node->safe_psql('other', $drop);
$node->safe_psql('postgres', "$drop; DROP ROLE pgbackground_role");
foreach my $how ('', 'IN ROLE pg_monitor', qw(SUPERUSER CREATEROLE CREATEDB REPLICATION BYPASSRLS LOGIN))
{
	sql($node, "CREATE ROLE pgbackground_role $how");
	sql($node, 'GRANT pgbackground_role TO app') if $how eq '';

	my $messages = said($create);
	my $installed = sql($node, "SELECT count(*) FROM pg_extension WHERE extname = 'pg_background'");
	if ($how =~ /^(LOGIN)?$/)
	{
		is($installed, '1', "a role with '$how': is used");
		like($messages, $adopted, "a role with '$how': a warning");
		like($messages, $how ? qr/It has no members\./ : qr/may run jobs: app\./, "a role with '$how': its members");
		if ($how) { like($messages, $can_login, 'it can log in: a warning') }
		else { unlike($messages, $can_login, 'it cannot log in') }
		$node->safe_psql('postgres', $drop);
	}
	else
	{
		my $what = $how =~ s/IN ROLE/membership in/r;
		is($installed, '0', "a role with $how: nothing is installed");
		like($messages, qr/ERROR:  42501: role "pgbackground_role" may do more.*DETAIL:  It has \Q$what\E,.*HINT: /s,
			"a role with $how: an error");

		# nor does an update bring what that role may do to whoever runs jobs
		$node->safe_psql('postgres', "$create VERSION '1.11'");
		like(said('ALTER EXTENSION pg_background UPDATE'), qr/ERROR:  42501: .*\Q$what\E/s, "a role with $how: no update");
		is( sql($node, "SELECT extversion FROM pg_extension WHERE extname = 'pg_background'"),
			'1.11', "a role with $how: all is as before");
		$node->safe_psql('postgres', $drop);
	}
	sql($node, 'DROP ROLE pgbackground_role');
}
says_nothing($create, 'without the role, it is made');

done_testing();
