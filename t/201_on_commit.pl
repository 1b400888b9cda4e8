# Jobs that start on commit: nothing runs before the commit is durable, and what
# is committed runs though its session ends at once. Between the two there is a
# moment in which a crash loses the job, as it would lose a NOTIFY.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main', <<'END', allows_streaming => 1);
max_worker_processes = 4
max_logical_replication_workers = 0
max_prepared_transactions = 0
END
my $control = new_session($node);

sql($node, 'CREATE TABLE work (what text); CREATE TABLE done (what text); CREATE TABLE tried (n int)');

sub on_commit
{
	my ($what) = @_;
	return "INSERT INTO work VALUES ('$what');"
	  . "SELECT pg_background_submit_on_commit_v2('INSERT INTO done VALUES (''$what'')')";
}

sub work { return sql($node, 'SELECT what FROM work ORDER BY 1') }
sub done { return sql($node, 'SELECT what FROM done ORDER BY 1') }

sub test_done
{
	my ($name, @expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $expected = join "\n", @expected;
	ok(await($node, 'SELECT coalesce(string_agg(what, chr(10) ORDER BY what), $$$$) FROM done', $expected),
		"$name: done");
	nothing_left($node, $name);
	is(done(), $expected, "$name: nothing else");
	is(work(), $expected, "$name: work");
	sql($node, 'TRUNCATE work, done');
	return;
}

#
# Sessions that end
#

# One that ends with its commit: known failure 1
$node->safe_psql('postgres', on_commit("session $_")) foreach 1 .. 5;
test_done('session ends at once', map { "session $_" } 1 .. 5);
$node->safe_psql('postgres', 'BEGIN;' . on_commit('a') . ';' . on_commit('b') . '; COMMIT');
test_done('two jobs, session ends at once', qw(a b));

# One that ends before it has committed: by itself, and when it is terminated
$node->safe_psql('postgres', 'BEGIN;' . on_commit('never'));
test_done('session ends in its transaction');
my $session = new_session($node);
$session->query('BEGIN;' . on_commit('never'));
sql($node, "SELECT pg_terminate_backend($session->{pid})");
wait_for_exit($node, $session->{pid});
$session->quit;
test_done('session is terminated in its transaction');

#
# The commit waits to be durable, while no standby says that it is
#

$session = new_session($node);
$session->query('BEGIN;' . on_commit('durable'));
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'\n");
$node->reload;
wait_until('the setting is there',
	sub { $control->query('SHOW synchronous_standby_names') eq 'nobody' });
# No commit waits before another process, the checkpointer, has read it, too.
my $trying = new_session($node);
$trying->send(q{DO 'BEGIN LOOP INSERT INTO tried VALUES (1); COMMIT; END LOOP; END'});
wait_for_worker($node, $trying->{pid}, "wait_event = 'SyncRep'");
sql($node, "SELECT pg_terminate_backend($trying->{pid})");
wait_for_exit($node, $trying->{pid});
$trying->quit;
$session->send('COMMIT');
wait_for_worker($node, $session->{pid}, "wait_event = 'SyncRep'");
wait_for_pool($node, 'running = 0 AND idle = 1 AND queued = 0', 'usename = current_user');
is(sql($node, 'SELECT count(*) FROM pg_background_workers'),
	'0', 'a worker is there, and has nothing to do');
is(done(), '', 'nothing runs before the commit is durable');
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
$node->reload;
$session->receive;
is($session->{messages}, '', 'the commit succeeds');
$session->quit;
test_done('durable', 'durable');

#
# No slot in the cluster: the commit waits, then it fails
#

sql($node, 'CREATE ROLE other LOGIN IN ROLE pgbackground_role');
my $other = new_session($node, user => 'other');
my @jobs = map { $other->launch('SELECT pg_sleep(1000)') } 1 .. 4;
wait_for_worker($node, $_, "wait_event = 'PgSleep'") foreach @jobs;
$session = new_session($node, options => '-c pg_background.launch_timeout=0');
$session->query('BEGIN;' . on_commit('never 1') . ';' . on_commit('never 2'));
$session->fails('COMMIT', '53000', qr/HINT:.*max_worker_processes/, 'a commit without a slot');
is($session->query('SELECT count(*) FROM pg_background_list'), '0', 'a commit without a slot: no job');
is(work() . done(), '', 'a commit without a slot: nothing is committed, nothing runs');

# The commit waits for the slot of another user
$session->query("SET pg_background.launch_timeout = '1h'");
$session->query('BEGIN;' . on_commit('waits 1') . ';' . on_commit('waits 2'));
$session->send('COMMIT');
wait_for_worker($node, $session->{pid}, "state = 'active' AND wait_event_type = 'Extension'");
$other->query("SELECT pg_background_cancel_v2($jobs[0])");
$session->receive;
is($session->{messages}, '', 'a commit that waits for a slot succeeds');
my $drain = 'SELECT count(*) FROM pg_background_drain_v2(array(SELECT (pid, cookie)::pg_background_handle FROM pg_background_list))';
is($session->query($drain), '2', 'and its jobs are run');

# and while it waits, it can be canceled
end_idle_workers($node);
push @jobs, $other->launch('SELECT pg_sleep(1000)');
$session->query('BEGIN;' . on_commit('never 3') . ';' . on_commit('never 4'));
$session->send('COMMIT');
wait_for_worker($node, $session->{pid}, "state = 'active' AND wait_event_type = 'Extension'");
sql($node, "SELECT pg_cancel_backend($session->{pid})");
$session->fails(undef, '57014', qr/user request/, 'a commit that waits for a slot is canceled');

# One slot is enough for any number of jobs, of several sessions
$other->query("SELECT pg_background_cancel_v2($jobs[1])");
wait_for_exit($node, split /, /, $jobs[1]);
my @several = map { new_session($node) } 1 .. 3;
$_->query("BEGIN; SELECT count(pg_background_submit_on_commit_v2('INSERT INTO done VALUES (''many'')')) FROM generate_series(1, 100)")
  foreach @several;
$_->query('COMMIT') foreach @several;
$_->quit foreach @several;
wait_for_pool($node, 'running = 0 AND queued = 0', 'usename = current_user');
is($node->safe_psql('postgres', "WITH d AS (DELETE FROM done WHERE what = 'many' RETURNING 1) SELECT count(*) FROM d"),
	'300', 'one slot is enough for 300 jobs whose sessions have ended');

# In order of submission, also where the first one takes its time
sql($node, 'CREATE TABLE turn (n serial, what int)');
$control->query('SELECT pg_advisory_lock(1)');
$session->query('BEGIN; ' . join '; ', map { "SELECT pg_background_submit_on_commit_v2('SELECT pg_advisory_lock_shared(1); INSERT INTO turn (what) VALUES ($_)')" } 1 .. 20);
$session->query('COMMIT');
await($node, q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) or die 'the first one does not begin';
wait_for_pool($node, 'running = 1 AND queued = 19 AND waiting = 0', 'usename = current_user');
is($session->query('SELECT count(DISTINCT pid), min(pid) < 1 << 30, max(pid) >= 1 << 30, string_agg(DISTINCT state, $$ $$) FROM pg_background_list'),
	'20|t|t|running starting', 'those that are queued have numbers of their own');
my $handle = $session->query(q{SELECT pid || ', ' || cookie FROM pg_background_list WHERE pid >= 1 << 30 LIMIT 1});
$control->query('SELECT pg_advisory_unlock(1)');
is($session->query("SELECT pg_background_wait_v2($handle)"), 't', 'such a number goes on to be a handle');
is($session->query("SELECT pid < 1 << 30 FROM pg_background_list WHERE cookie = (ARRAY[$handle])[2]"),
	't', 'though the list shows whose job it was');
is($session->query($drain), '20', 'all of them are run');
is(sql($node, q{SELECT string_agg(what::text, ' ' ORDER BY n) FROM turn}),
	join(' ', 1 .. 20), 'in order of submission');

$other->query('SELECT pg_background_cancel_all_v2()');
$other->quit;
$session->quit;
test_done('slots', 'waits 1', 'waits 2');

# Where there are no prepared transactions at all, PREPARE says why it fails.
$session = new_session($node);
$session->query('BEGIN;' . on_commit('never'));
$session->fails("PREPARE TRANSACTION 'x'", '0A000', qr/cannot PREPARE a transaction that has submitted background jobs/, 'PREPARE');
$session->quit;
test_done('PREPARE');

#
# A crash between commit and start
#

# The worker cannot finish connecting, so the request stays in its queue.
$session = new_session($node);
$control->query('BEGIN; LOCK TABLE pg_db_role_setting');
$session->query('BEGIN;' . on_commit('committed') . '; COMMIT');
$session->query('BEGIN;' . on_commit('never') . '; ROLLBACK');
is($session->query('SELECT state FROM pg_background_list'), 'starting', 'the job has not begun');
$node->stop('immediate');
$_->quit foreach $control, $session;
$node->start;
is(work(), 'committed', 'after the crash, what was committed is there');
nothing_left($node, 'crash');
is(done(), '', 'after the crash, the job is lost, as documented');
$node->safe_psql('postgres', 'TRUNCATE work; ' . on_commit('after the crash'));
test_done('after the crash', 'after the crash');

done_testing();
