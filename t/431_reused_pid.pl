# A process that has just started has the PID of one that has ended, of which the
# session still has a job. A cookie tells the jobs apart; where PIDs are the
# handles, the old one is dropped.
#
# The server runs in a PID namespace of its own, where we say what the next PID
# is.
#
# Hardening 18, Known failure 27.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use IPC::Run;
use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my @unshare = qw(unshare --user --map-current-user --keep-caps --pid --fork --kill-child);
plan skip_all => 'PIDs cannot be chosen here'
  if system("@unshare sh -c 'echo 100 >/proc/sys/kernel/ns_last_pid' >/dev/null 2>&1") != 0;

my $node = new_server('main', <<'END');
pg_background.max_idle_workers = 0
END
sql($node, 'CREATE ROLE other; GRANT pgbackground_role TO other; CREATE TABLE done (n int)');
$node->stop;

# Stays as the first process of the namespace, and does what it is told; all ends with it.
my ($in, $out) = ('', '');
my $postgres = $node->config_data('--bindir') . '/postgres';
my $server = IPC::Run::start(
	[ @unshare, 'sh', '-c', <<'END', 'sh', $postgres, $node->data_dir, $node->logfile ], '<', \$in, '>', \$out);
"$1" -D "$2" >>"$3" 2>&1 &
while read -r command; do eval "$command"; echo done; done
END
END
{
	local $?;
	$server->kill_kill if defined $server;
}

sub in_namespace
{
	my ($command) = @_;
	$in .= "$command\n";
	$out = '';
	$server->pump until $out =~ /done/;
	return;
}
sub next_pid { in_namespace('echo ' . ($_[0] - 1) . ' >/proc/sys/kernel/ns_last_pid'); return }

my $offset = log_size($node);
wait_until('the server is up', sub {
		system('psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'SELECT', '-o', '/dev/null') == 0;
	});
my $session = new_session($node);

# Waits until other processes can have these PIDs: the postmaster has seen the end of
# those that had them.
sub wait_for_free_pids
{
	my @pids = @_;
	await($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_background'}) or die 'a worker does not end';
	disconnect($node);
	wait_until("PIDs @pids are free",
		sub { in_namespace("for pid in @pids; do kill -0 \$pid 2>/dev/null && echo taken; done"); $out !~ /taken/ });
	return;
}

# Runs a job to its end and waits until its process is gone.
sub run_job
{
	my ($n, $how) = @_;
	my $job = $session->launch("SELECT $n", undef, $how // 'launch');
	$session->wait_for($job);
	wait_for_free_pids($job =~ /^(\d+)/);
	return $job;
}

my $first = run_job(1);
my ($pid) = $first =~ /^(\d+)/;
next_pid($pid);
my $second = run_job(2);
like($second, qr/^$pid, /, 'a process has the PID of an earlier one');
is($session->result($first, 'n int'), '1', 'the unread result of the earlier job is there');
is($session->result($second, 'n int'), '2', 'and that of the later one');

# of another user
$first = run_job(3);
($pid) = $first =~ /^(\d+)/;
$session->query('SET ROLE other');
next_pid($pid);
$second = run_job(4);
like($second, qr/^$pid, /, 'another user: the PID of an earlier process');
is($session->result($second, 'n int'), '4', 'another user: the session goes on');
$session->query('RESET ROLE');
is($session->result($first, 'n int'), '3', 'another user: and so does the earlier job');

# run_all holds on to the jobs that have ended
in_namespace('while :; do echo 400 >/proc/sys/kernel/ns_last_pid; done & loop=$!');
is( $session->query(q{SELECT count(*) || ' ' || count(DISTINCT cookie) || ' ' || (count(DISTINCT pid) < 40) || ' ' || string_agg(DISTINCT command_tag, ',')
		FROM pg_background_run_all_v2((SELECT array_agg('SELECT ' || g) FROM generate_series(1, 40) g), 2)}),
	'40 40 true SELECT', 'run_all: each job has its row, though PIDs came round again');
in_namespace('kill $loop');
wait_for_free_pids(401 .. 500);

# the first interface
# as versions 1.x have it
$session->query(q{CREATE FUNCTION launch_v1(sql text, queue_size int4 DEFAULT 0) RETURNS int4
AS '$libdir/pg_background', 'pg_background_launch' LANGUAGE C STRICT});
my $v1 = $session->query(q{SELECT launch_v1('SELECT 5')});
wait_for_free_pids($v1);
$session->query('SELECT count(*) FROM pg_background_list');
next_pid($v1);
is($session->query(q{SELECT launch_v1('SELECT 6')}), $v1, 'v1: the PID of an earlier process');
is($session->query("SELECT * FROM pg_background_result($v1) AS (n int)"), '6', 'v1: is the later job');
$v1 = $session->query(q{SELECT launch_v1('SELECT 7')});
wait_for_free_pids($v1);
$session->query('SELECT count(*) FROM pg_background_list');
next_pid($v1);
$second = run_job(8);
like($second, qr/^$v1, /, 'v1 and v2: the same PID');
is($session->query("SELECT * FROM pg_background_result($v1) AS (n int)"), '7', 'v1: the PID is the handle of its own job');
is($session->result($second, 'n int'), '8', 'v2: the cookie is');
$v1 = $session->query(q{SELECT launch_v1('SELECT 9')});
wait_for_free_pids($v1);
$session->query('SELECT count(*) FROM pg_background_list');
$session->query('SET ROLE other');
next_pid($v1);
$session->fails(q{SELECT launch_v1('SELECT 10')}, '42710', qr/FATAL.*background worker with PID $v1 already exists/,
	'v1: another user');
$session->quit;

unlike(log_since($node, $offset), qr/PANIC|signal \d|TRAP/, 'nothing has crashed');
in_namespace($node->config_data('--bindir') . '/pg_ctl -s -m fast -D ' . $node->data_dir . ' stop');

done_testing();
