# The pool on a hot standby, which is promoted; after a restart; after a crash, and
# a crash in the middle of what the pool does.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Cluster;
use Test::More;

my $primary = new_server('primary', <<'END', allows_streaming => 1);
restart_after_crash = on
pg_background.idle_timeout = 1h
END
my $standby = PostgreSQL::Test::Cluster->new('standby');

$primary->safe_psql('postgres', 'CREATE TABLE ran (what int)');
$primary->backup('backup');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'pg_background.max_total_workers = 1');
$standby->start;

#
# Hot standby
#

my ($holder, $session, $other) = map { new_session($standby) } 1 .. 3;

sub pid { return $_[0]->result($_[0]->launch('SELECT pg_backend_pid()'), 'pid int') }

my $pid = pid($session);
is(pid($other), $pid, 'standby: sessions share a worker');
occupy($standby, $holder, $session, 1);
my @jobs = map { $session->submit("SELECT $_") } 1 .. 3;
my $write = $session->submit('INSERT INTO ran VALUES (1)');
is($standby->safe_psql('postgres', 'SELECT running, idle, queued, waiting FROM pg_background_pool'), '1|0|4|0', 'standby: the view');
$other->send(q{SELECT n FROM pg_background_run_query_v2('SELECT 42') AS (n int)});
wait_for_pool($standby, 'waiting = 1');
$holder->query('SELECT pg_advisory_unlock(1)');
is($other->receive, '42', 'standby: a session in line has its turn');
is($session->query('SELECT string_agg(state || coalesce(sqlstate, $$$$), $$ $$) FROM pg_background_drain_v2(ARRAY[' . join(', ', map { "($_)" } @jobs, $write) . ']::pg_background_handle[])'),
	'stopped stopped stopped error25006', 'standby: queued jobs');
$pid = pid($session);
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
is($session->result($session->launch('INSERT INTO ran VALUES (2)'), 'tag text'), 'INSERT 0 1', 'a job writes after the promotion');
is(pid($other) > 0, 1, 'and one of another session');
$_->quit foreach $holder, $session, $other;
$standby->stop;

#
# A process is killed
#

my $node = $primary;

# Has the server restarted?
sub wait_for_restart
{
	my ($size) = @_;
	wait_until(
		'the server has restarted',
		sub { log_since($node, $size) =~ /all server processes terminated.*ready to accept connections/s });
	return;
}

my %kill = (
	'a worker that runs a job' => sub { (split /, /, $_[0])[0] },
	'a session in line' => sub { $_[1]{pid} },
	'an idle worker' => sub { $_[2] });
change_settings($node, 'pg_background.max_total_workers' => 2);
foreach my $name (sort keys %kill)
{
	my $idle = '';
	($holder, $session, $other) = map { new_session($node) } 1 .. 3;
	if ($name eq 'an idle worker')
	{
		$idle = pid($session);
		wait_for_pool($node, 'idle = 1 AND running = 0');
	}
	else
	{
		occupy($node, $holder, $session, 1);
	}
	my ($busy) = $name eq 'an idle worker' ? () : occupy($node, $holder, $session, 2);
	if ($busy)
	{
		$session->submit('INSERT INTO ran VALUES (3)') foreach 1 .. 10;
		$other->send(q{SELECT pg_background_run_v2('INSERT INTO ran VALUES (3)')});
		wait_for_pool($node, 'waiting = 1 AND queued = 11');
	}
	my $size = log_size($node);
	kill 'KILL', $kill{$name}->($busy, $other, $idle);
	wait_for_restart($size);
	$_->quit foreach $holder, $session, $other;

	$session = new_session($node);
	is($session->result($session->launch('SELECT count(*) FROM ran'), 'a int8'), '0', "$name is killed: jobs run afterwards, and what was queued is not there");
	is($session->query('SELECT launched, queued, waiting FROM pg_background_pool'), '1|0|0', "$name is killed: the counters begin anew");
	$session->quit;
}

#
# A restart, in the middle of much work
#

foreach my $mode (qw(fast immediate))
{
	change_settings($node, 'pg_background.max_total_workers' => -1);
	my @sessions = map { new_session($node) } 1 .. 16;
	$_->send(q{DO $$ BEGIN LOOP PERFORM pg_background_submit_v2('SELECT 1'), pg_background_run_v2('SELECT 1'); END LOOP; END $$}) foreach @sessions;
	wait_until('there is much work', sub { sql($node, 'SELECT coalesce(sum(launched), 0) > 1000 FROM pg_background_pool') eq 't' });
	ok($node->stop($mode, fail_ok => 1), "$mode shutdown in the middle of much work");
	$_->quit foreach @sessions;
	$node->start;
	$session = new_session($node);
	is(pid($session) > 0, 1, "$mode shutdown: jobs run afterwards");
	$session->quit;
}

$node->stop;
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal [^39]/, 'no process has crashed');
done_testing();
