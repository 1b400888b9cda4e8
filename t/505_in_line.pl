# Who finds no worker waits in line: first come, first served, whether he waits for
# it or has submitted and gone on. Who leaves the line is in nobody's way. Nobody
# starves: neither where another session takes one worker after the other, nor
# where another user has more jobs than there are slots.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main', <<'END');
max_worker_processes = 4
max_logical_replication_workers = 0
pg_background.idle_timeout = 1h
pg_background.launch_timeout = 1h
pg_background.max_total_workers = 1
END
my $holder = new_session($node);

$node->safe_psql('postgres', <<'END');
CREATE ROLE a LOGIN IN ROLE pgbackground_role;
CREATE ROLE b LOGIN IN ROLE pgbackground_role;
CREATE TABLE ran (what text, n serial);
GRANT ALL ON ran, ran_n_seq TO a, b;
END

sub insert { return "INSERT INTO ran (what) VALUES (\$\$$_[0]\$\$)" }

sub ran
{
	my $ran = sql($node, q{SELECT string_agg(what, ' ' ORDER BY n) FROM ran});
	sql($node, 'TRUNCATE ran');
	return $ran;
}

#
# One user
#

my @sessions = map { new_session($node) } 1 .. 8;
my ($busy) = occupy($node, $holder, $sessions[0], 1);

# One after the other, by all means
my @how = ('run_v2(JOB)', 'launch_v2(JOB)', 'submit_v2(JOB)', "launch(JOB)", 'submit_v2(JOB)', q{run_params_v2(JOB || ' RETURNING $1::int', 1)}, 'run_all_v2(ARRAY[JOB])');
my $waiting = 0;
foreach my $n (1 .. 7)
{
	my $job = "\$job\$" . insert($n) . "\$job\$";

	$sessions[$n]->send('SELECT pg_background_' . $how[ $n - 1 ] =~ s/JOB/$job/r);
	$waiting++ unless $how[ $n - 1 ] =~ /^submit|^run_all/;
	wait_for_pool($node, "waiting >= $waiting AND queued = $n");
}
foreach my $n (3, 5)
{
	$sessions[$n]->receive;
	is($sessions[$n]{messages}, '', "a submit does not wait: $how[$n - 1]");
}
is(sql($node, 'SELECT running, idle FROM pg_background_pool'), '1|0', 'one worker');
$holder->query('SELECT pg_advisory_unlock(1)');
foreach my $n (1, 2, 4, 6, 7)
{
	$sessions[$n]->receive;
	is($sessions[$n]{messages}, '', "a launch does: $how[$n - 1]");
}
wait_for_pool($node, 'running = 0 AND waiting = 0 AND queued = 0');
is(ran(), '1 2 3 4 5 6 7', 'first come, first served');

# Who leaves the line
$sessions[0]->wait_for($busy);
$_->query('SELECT pg_background_detach_all_v2()') foreach @sessions;
($busy) = occupy($node, $holder, $sessions[0], 1);
foreach my $n (1 .. 6)
{
	$sessions[$n]->query("SET pg_background.launch_timeout = '100ms'") if $n == 4;
	$sessions[$n]->send("SELECT pg_background_run_v2(\$\$" . insert($n) =~ s/\$\$/'/gr . "\$\$)");
	$n == 4 ? $sessions[$n]->fails(undef, '53000', qr/no background worker is free/, 'in line for too long')
	  : wait_for_pool($node, 'waiting = ' . ($n < 4 ? $n : $n - 1));
}
sql($node, "SELECT pg_cancel_backend($sessions[2]{pid})");
$sessions[2]->fails(undef, '57014', qr/user request/, 'canceled in line');
sql($node, "SELECT pg_terminate_backend($sessions[3]{pid})");
$sessions[3]->receive;
wait_for_exit($node, $sessions[3]{pid});
$sessions[3]->quit;
wait_for_pool($node, 'waiting = 3');
$holder->query('SELECT pg_advisory_unlock(1)');
$sessions[$_]->receive foreach 1, 5, 6;
wait_for_pool($node, 'running = 0 AND waiting = 0 AND queued = 0');
is(ran(), '1 5 6', 'those who have left are in nobody\'s way, and their jobs do not run');
is($sessions[$_]->query('SELECT count(*) FROM pg_background_list'), '0', "session $_ has no job") foreach 2, 4;
$sessions[3] = new_session($node);
$sessions[4]->query('RESET pg_background.launch_timeout');

# Tight loops
my $loop = q{DO $$ BEGIN LOOP PERFORM pg_background_run_v2('SELECT 1'); END LOOP; END $$};
$_->send($loop) foreach @sessions[ 1 .. 3 ];
foreach my $session (@sessions[ 4 .. 5 ])
{
	is( $session->query(q{SELECT count(*) FROM generate_series(1, 30) g, LATERAL pg_background_run_v2('SELECT ' || g) r WHERE r.completed AND NOT r.has_error}),
		30, 'a session gets its turns beside tight loops');
}
$loop =~ s/run_v2/submit_v2/;
$sessions[6]->send($loop);
is( $sessions[4]->query(q{SELECT count(*) FROM generate_series(1, 3) g, LATERAL pg_background_run_v2('SELECT ' || g) r WHERE r.completed AND NOT r.has_error}),
	3, 'and beside one that submits');
foreach my $session (@sessions[ 1, 2, 3, 6 ])
{
	sql($node, "SELECT pg_cancel_backend($session->{pid})");
	$session->fails(undef, '57014', qr/user request/, 'a loop');
}
wait_for_pool($node, 'running = 0 AND waiting = 0 AND queued = 0');
$_->quit foreach @sessions;

#
# Two users, four slots
#

change_settings($node, 'pg_background.max_total_workers' => -1);
my ($many, $one) = map { new_session($node, user => $_) } qw(a b);
my $end = 60;

# The queue of one is never empty.
$holder->query("SELECT count(pg_advisory_lock(g)) FROM generate_series(1, 200) g");
sub submit
{
	my ($n) = @_;
	$many->query("SELECT pg_background_submit_v2('SELECT pg_advisory_xact_lock($n); INSERT INTO ran (what) VALUES (''a$n'')')");
	return;
}
submit($_) foreach 1 .. 12;
wait_for_pool($node, 'running = 4 AND queued = 8', "usename = 'a'");
$one->send("SELECT pg_background_run_v2('INSERT INTO ran (what) VALUES (''b'')')");
wait_for_pool($node, "waiting = 1", "usename = 'b'");
foreach my $n (1 .. $end)
{
	submit($n + 12);
	$holder->query("SELECT pg_advisory_unlock($n)");
	await($node, "SELECT count(*) = 1 FROM ran WHERE what = 'a$n'")
	  or die "the job $n is not done";
	last if $one->is_done;
}
$one->receive;
is($one->{messages}, '', 'a user is served, though the queue of another is never empty');
is(sql($node, q{SELECT bool_and(queued > 0) FROM pg_background_pool WHERE usename = 'a'}), 't', 'nor is it then');
$holder->query('SELECT pg_advisory_unlock_all()');
wait_for_pool($node, 'running = 0 AND waiting = 0 AND queued = 0');
like(ran(), qr/^(a\d+ )+b( a\d+)+$/, 'nor was it before');

# An idle worker of another user makes way.
end_idle_workers($node);
@sessions = map { new_session($node, user => 'a') } 1 .. 4;
$sessions[0]->query("SELECT pid FROM pg_background_run_v2('SELECT 1')");
wait_for_pool($node, 'idle = 1', "usename = 'a'");
occupy($node, $holder, $one, 1 .. 4);
wait_for_pool($node, 'running = 4', "usename = 'b'");
is(sql($node, q{SELECT running, idle FROM pg_background_pool WHERE usename = 'a'}), '0|0', 'an idle worker of another user has made way');
$_->send("SELECT pg_background_run_v2('SELECT 1')") foreach @sessions;
wait_for_pool($node, 'waiting = 4', "usename = 'a'");
$holder->query('SELECT pg_advisory_unlock(1)');
foreach my $session (@sessions)
{
	$session->receive;
	is($session->{messages}, '', 'one slot does for all who wait');
}
$holder->query('SELECT pg_advisory_unlock_all()');

$_->quit foreach @sessions, $many, $one, $holder;
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
