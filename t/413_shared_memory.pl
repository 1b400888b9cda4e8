# Anybody can use up what is left of the server's shared memory, by locks. Jobs run
# all the same, and the pool is listed: it needs nothing of that, be it made before
# or after.
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

sub test_jobs
{
	my ($name) = @_;
	my @sessions = map { new_session($node) } 1 .. 3;

	is($_->result($_->launch('SELECT 1'), 'a int'), '1', "$name: a job runs") foreach @sessions;
	my @jobs = map { $_->launch('SELECT pg_sleep(1000)') } @sessions[0, 1];
	is(sql($node, 'SELECT count(*) FROM pg_background_workers'), '2', "$name: workers are listed");
	is(sql($node, 'SELECT running FROM pg_background_pool'), '2', "$name: and counted");
	$sessions[2]->query('SET pg_background.launch_timeout = 0');
	$sessions[2]->fails('SELECT pg_background_launch_v2($$SELECT 1$$)', '53000', qr/No background worker slot is free/,
		"$name: what fails says why");
	$_->query('SELECT pg_background_cancel_all_v2()') foreach @sessions;
	$_->quit foreach @sessions;
	nothing_left($node, $name);
	return;
}

use_up_memory();
test_jobs('Hardening 8: used up before');
use_up_memory();
test_jobs('Hardening 8: used up afterwards');

# From 18 on, $libdir is no part of a name that is looked for.
my $library = sql($node, 'SHOW server_version_num') >= 180000 ?
  'pg_background' : '$libdir/pg_background';
$node->append_conf('postgresql.conf', "shared_preload_libraries = '$library'\n");
$node->restart;
use_up_memory();
test_jobs('Hardening 8: preloaded');

unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal|FATAL/, 'no process has failed');
done_testing();
