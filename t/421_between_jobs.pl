# What a job leaves in its process is not there for the next: what cannot be
# undone ends the process.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main', <<'END');
pg_background.idle_timeout = 1h
wal_level = replica
max_wal_senders = 1
END
my ($session, $second) = map { new_session($node) } 1 .. 2;
my $version = sql($node, 'SHOW server_version_num');

# Runs some commands in a job, and returns what an expression gives to it, and to
# the next, of another session, which must run in the same process or must not.
sub compare
{
	my ($commands, $expression, $stays, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $look = "SELECT concat_ws('|', pg_backend_pid(), $expression)";
	my ($pid, $during) = split /\|/, $session->result($session->launch("$commands; $look"), 'a text');
	my ($next_pid, $afterwards) = split /\|/, $second->result($second->launch($look), 'a text');

	is($next_pid == $pid, $stays, "$name: " . ($stays ? 'the process stays' : 'the process ends'));
	return ($during, $afterwards);
}

# Hardening 39: random numbers
my $numbers = q{SELECT setseed(0.25); SELECT string_agg(random()::text, ' ') FROM generate_series(1, 10)};
my ($during, $next) = compare('SELECT setseed(0.25)', 'random()', 1, 'Hardening 39: setseed()');
like($session->query($numbers), qr/\Q$during\E /, 'setseed() gives the same numbers everywhere');
unlike($session->query($numbers), qr/\Q$next\E/, 'Hardening 39: not in the next job');

# Hardening 39: a base backup
my ($start, $stop) =
  $version >= 150000
  ? (q{pg_backup_start('job', true)}, 'pg_backup_stop()')
  : (q{pg_start_backup('job', true, false)}, 'pg_stop_backup(false)');
compare("SELECT $start", '1', '', 'Hardening 39: a base backup');
is($session->query("SELECT sqlstate FROM pg_background_run_v2('SELECT $stop')"),
	'55000', 'Hardening 39: no base backup is in progress in the next job');

# Hardening 39: connections
foreach my $library (qw(dblink postgres_fdw))
{
  SKIP:
	{
		skip "$library is not installed", 1
		  if sql($node, "SELECT count(*) FROM pg_available_extensions WHERE name = '$library'") eq '0';
		$node->safe_psql('postgres', "CREATE EXTENSION $library");
		my $connstr = $node->connstr('postgres');
		if ($library eq 'dblink')
		{
			($during, $next) = compare("SELECT dblink_connect('kept', \$\$$connstr\$\$)",
				'dblink_get_connections()', '', 'Hardening 39: dblink');
			is($during, '{kept}', 'dblink: there is a connection');
			is($next, undef, 'dblink: it is gone');
		}
		else
		{
			my ($host, $port) = ($node->host, $node->port);
			$node->safe_psql('postgres', <<"END");
CREATE SERVER self FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR CURRENT_USER SERVER self;
CREATE FOREIGN TABLE remote (datname name) SERVER self OPTIONS (schema_name 'pg_catalog', table_name 'pg_database');
END
			compare('SELECT count(*) FROM remote', '1', '', 'Hardening 39: postgres_fdw');
		}
	}
}

# another library does not end it
compare('DO $$BEGIN END$$', '1', 1, 'PL/pgSQL');

# VACUUM, which autovacuum runs at any time, changes pg_database as no ALTER DATABASE does
my $database = q{SELECT datfrozenxid FROM pg_database WHERE datname = 'postgres'};
my $pid_before = $session->result($session->launch('SELECT pg_backend_pid()'), 'a int');
my $frozen = $node->safe_psql('postgres', "$database; VACUUM (FREEZE); $database");
unlike($frozen, qr/^(.*)\n\1$/, 'VACUUM has changed pg_database');
is($session->result($session->launch('SELECT pg_backend_pid()'), 'a int'), $pid_before, 'VACUUM: the process stays');
sql($node, 'ALTER DATABASE postgres CONNECTION LIMIT 50');
isnt($session->result($session->launch('SELECT pg_backend_pid()'), 'a int'), $pid_before, 'ALTER DATABASE: the process ends');

# A process that is terminated while it is brought back to what a new one is says
# why it ends, and gets no other job. To set this again it opens a catalog.
my $other = new_session($node);
$other->query('SELECT pg_advisory_lock(1)');
$session->query('SET default_tablespace = pg_default');
my $job = $session->launch(q{SET default_tablespace = ''; SELECT pg_advisory_lock_shared(1)});
wait_for_worker($node, $job, "wait_event_type = 'Lock'");
$other->query('BEGIN; LOCK TABLE pg_tablespace; SELECT pg_advisory_unlock(1)');
$session->wait_for($job);
my ($pid) = split /, /, $job;
await($node, "SELECT count(*) = 1 FROM pg_locks WHERE pid = $pid AND NOT granted")
  or die 'the process does not wait for the catalog';
sql($node, "SELECT pg_terminate_backend($pid)");
$other->query('ROLLBACK');
wait_for_exit($node, $pid);
is($session->result($session->launch('SELECT 1'), 'a int'), '1', 'a process that has said why it ends gets no other job');
$other->quit;

$_->quit foreach $session, $second;
end_idle_workers($node);
nothing_left($node, 'all');

done_testing();
