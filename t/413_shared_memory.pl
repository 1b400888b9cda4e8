# Anybody can use up what is left of the server's shared memory, by locks. Jobs run
# all the same; only their workers are not listed, if they were not before.
#
# Hardening 8.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main', <<'END');
max_worker_processes = 2
max_logical_replication_workers = 0
max_locks_per_transaction = 10
max_connections = 3000
pg_background.idle_timeout = 1h
END

sub use_up_memory
{
	my $session = new_session($node);

	$session->fails('SELECT count(pg_advisory_lock_shared(n)) FROM generate_series(1, 1000000) n',
		'53200', qr/out of shared memory/, 'shared memory is used up');
	$session->query('SELECT pg_advisory_unlock_all()');
	$session->quit;
	return;
}

use_up_memory();
my @sessions = map { new_session($node) } 1 .. 3;
is($_->result($_->launch('SELECT 1'), 'a int'), '1', 'Hardening 8: a job runs') foreach @sessions[0, 1];

# Their workers hold all slots, and there is no way to let them go.
$sessions[2]->send(q{SELECT pid FROM pg_background_launch_v2('SELECT 1')});
$sessions[2]->receive;
my $listed = $sessions[2]->{messages} eq '';
SKIP:
{
	# A server may keep memory for such things.
	skip 'there was shared memory left', 3 if $listed;

	like($sessions[2]->{messages}, qr/ERROR:  53000: could not register background process/,
		'Hardening 8: no idle worker is found');
	$sessions[2]->fails('SELECT count(*) FROM pg_background_workers', '53200',
		qr/cannot be listed.*\nDETAIL:.*\nHINT:.*shared_preload_libraries/, 'Hardening 8: the view says so');
}
$_->quit foreach @sessions;

# The way out. From 18 on, $libdir is no part of a name that is looked for.
my $library = $node->safe_psql('postgres', 'SHOW server_version_num') >= 180000 ?
  'pg_background' : '$libdir/pg_background';
$node->append_conf('postgresql.conf', "shared_preload_libraries = '$library'\n");
$node->restart;
use_up_memory();
@sessions = map { new_session($node) } 1 .. 3;
is($_->result($_->launch('SELECT 1'), 'a int'), '1', 'Hardening 8: preloaded: a job runs') foreach @sessions;
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_background_workers'), '2', 'Hardening 8: preloaded: workers are listed');
$_->quit foreach @sessions;

unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal|FATAL/, 'no process has failed');
done_testing();
