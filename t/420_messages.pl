# What a job says reaches its launcher, and the server log, whenever it is said
# and in whatever encoding.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

# Hardening 7: a message that is raised in a critical section, here since a new
# WAL file is made there, finds what was not sent yet to fill the memory that it
# has; nobody listens.
my $node = new_server(
	'critical', <<'END',
pg_background.idle_timeout = 1h
wal_writer_delay = 10s
max_wal_size = 1GB
END
	extra => ['--wal-segsize=1']);
my $session = new_session($node);

$node->safe_psql('postgres', 'CREATE TABLE written (a text)');
my $job = $session->launch(
	q{DO $do$ BEGIN
		RAISE NOTICE '%', repeat('x', 4000);
		RAISE NOTICE '%', repeat('x', 3500);
		SET client_min_messages = debug2;
		FOR i IN 1 .. 40 LOOP
			INSERT INTO written SELECT repeat('x', 1000) FROM generate_series(1, 1000);
			COMMIT;
		END LOOP;
		SET client_min_messages = notice;
	END $do$}, 4096);
wait_for_worker($node, $job, "(state = 'idle' OR wait_event_type = 'Extension')");
$session->wait_for($job);
is($session->state($job), 'stopped', 'Hardening 7: the job ends well');
$session->query('SET client_min_messages = debug2');
$session->result($job, 'a text');
like(
	$session->{messages},
	qr/NOTICE: .*NOTICE: .*DEBUG:  00000: [^\n]*creating and filling new WAL file/s,
	'Hardening 7: its messages come');
$session->quit;
$node->stop;

done_testing();
