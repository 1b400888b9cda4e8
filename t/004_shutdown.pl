# Jobs that run, jobs that wait for their launcher, and workers that wait for a
# job do not hold up the server: a shutdown in each mode, and a command that
# waits until every process has heard of it.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

$ENV{PGCTLTIMEOUT} = $PgBackground::limit;

my $node = new_server('main', <<'END');
pg_background.idle_timeout = 1h
END
my $sleep = 'SELECT pg_sleep(10000)';
my $rows = q{SELECT generate_series(1, 2000000000), repeat('x', 100)};

# Opens sessions with a worker of each kind. The workers outlive the sessions.
sub busy_sessions
{
	my $idle = new_session($node);
	my $waiting = new_session($node);

	wait_for_full_queue($node, $idle->launch($rows, 4096));

	my $job = $waiting->launch($sleep);
	$waiting->send("SELECT pg_background_wait_v2($job)");
	wait_for_worker($node, $job, "wait_event = 'PgSleep'");
	$idle->wait_for($idle->launch('SELECT 1'));
	return ($idle, $waiting);
}

# A command that waits until every process has done what it is told. That of
# another database is dropped by the same means.
my @sessions = busy_sessions();
is( sql($node, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_background'}),
	'3', 'there are workers of three kinds');
sql($node, 'CREATE DATABASE other');
is( $node->psql('postgres', 'DROP DATABASE other', timeout => $PgBackground::limit),
	0, 'DROP DATABASE of another database is not held up');

# The database itself can go once its sessions have.
sql($node, 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION pg_background');
my $session = new_session($node, dbname => 'other');
$session->wait_for($session->launch('SELECT 1'));
$session->quit;
is($node->psql('postgres', 'DROP DATABASE other', timeout => $PgBackground::limit),
	0, 'DROP DATABASE is not held up by a worker whose session has ended');

foreach my $mode ('fast', 'immediate')
{
	ok($node->stop($mode, fail_ok => 1), "$mode shutdown");
	$_->quit foreach @sessions;
	$node->start;
	@sessions = busy_sessions();
}

# A smart shutdown waits for sessions, not for the jobs that they have left, nor for who
# waits for one.
foreach my $left (@sessions)
{
	sql($node, "SELECT pg_terminate_backend($left->{pid})");
	wait_for_exit($node, $left->{pid});
	$left->quit;
}
ok( await($node, q{SELECT count(*) = 3 FROM pg_stat_activity WHERE backend_type = 'pg_background'}),
	'there are workers without a session');
ok($node->stop('smart', fail_ok => 1), 'smart shutdown');

unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal [^3]/,
	'no process has crashed');

done_testing();
