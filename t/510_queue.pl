# Submitted jobs that find no worker are queued in shared memory: the caller goes
# on, they run in order, also when the session has gone, also a thousand of one
# commit; and what they take of memory is bounded.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main', <<'END');
max_worker_processes = 8
max_logical_replication_workers = 0
pg_background.idle_timeout = 1h
END
my $holder = new_session($node);
my $session = new_session($node);

sql($node, 'CREATE TABLE ran (what int, n serial, pid int DEFAULT pg_backend_pid())');

sub ran
{
	my ($expression) = @_;
	wait_for_pool($node, 'running = 0 AND waiting = 0 AND queued = 0');
	my $ran = $node->safe_psql('postgres', "SELECT $expression FROM ran");
	sql($node, 'TRUNCATE ran');
	return $ran;
}
my $in_order = 'count(*), count(DISTINCT what), min(what), max(what), count(DISTINCT pid), (SELECT bool_and(what > before) FROM (SELECT what, lag(what) OVER (ORDER BY n) AS before FROM ran) r)';

#
# All workers are busy
#

my @busy = occupy($node, $holder, $session, 1 .. 8);

# These go on at once, though a launch would fail.
$session->query('SET pg_background.launch_timeout = 0');
$session->fails("SELECT pg_background_launch_v2('SELECT 1')", '53000', qr/DETAIL:.*worker.*HINT:.*max_worker_processes/s, 'a launch');
my @jobs = map { $session->submit("INSERT INTO ran VALUES ($_)") } 1 .. 50;
wait_for_pool($node, 'running = 8 AND queued = 50 AND waiting = 0');
is( $session->query('SELECT count(*), count(DISTINCT pid), min(pid) >= 1 << 30, string_agg(DISTINCT state, $$ $$) FROM pg_background_list WHERE state <> $$running$$'),
	'50|50|t|starting', 'queued jobs have numbers above any PID');
is(sql($node, 'SELECT count(*) FROM ran'), '0', 'none has begun');

# By one worker, one after the other
$holder->query('SELECT pg_advisory_unlock(1)');
$session->wait_for($jobs[-1]);
is($session->query('SELECT count(*), string_agg(DISTINCT state, $$ $$) FROM pg_background_drain_v2(ARRAY['
		  . join(', ', map { "($_)" } @jobs) . ']::pg_background_handle[])'),
	'50|stopped', 'their handles stay');
$session->query('SELECT pg_background_purge_v2()');
wait_for_pool($node, 'running = 7 AND queued = 0');
occupy($node, $holder, $session, 1);

# of a session that has gone, and of several; by more than one worker, since the first
# one is held up by its job until all others have run
my @sessions = map { new_session($node) } 1 .. 4;
$holder->query('SELECT pg_advisory_lock(99)');
$sessions[ $_ % 4 ]->submit("INSERT INTO ran VALUES ($_)" . ($_ == 51 ? '; SELECT pg_advisory_xact_lock(99)' : '')) foreach 51 .. 200;
wait_for_pool($node, 'running = 8 AND queued = 150');
$_->quit foreach @sessions[ 0 .. 2 ];
sql($node, "SELECT pg_terminate_backend($sessions[3]{pid})");
wait_for_exit($node, $_->{pid}) foreach @sessions;
$sessions[3]->quit;
$holder->query("SELECT pg_advisory_unlock($_)") foreach 1 .. 8;
await($node, 'SELECT count(*) = 199 FROM ran');
$holder->query('SELECT pg_advisory_unlock(99)');
is(ran('count(*), count(DISTINCT what), min(what), max(what), count(DISTINCT pid) > 1'), '200|200|1|200|t',
	'all jobs are run, each once, also of sessions that have gone');

# One worker runs them in order, whichever session they are of.
$session->query('SELECT pg_background_detach_all_v2()');
change_settings($node, 'pg_background.max_total_workers' => 1);
wait_for_pool($node, 'running = 0 AND idle <= 1');
@busy = occupy($node, $holder, $session, 1);
@sessions = map { new_session($node) } 1 .. 4;
$sessions[ $_ % 4 ]->submit("INSERT INTO ran VALUES ($_)") foreach 1 .. 100;
$_->quit foreach @sessions;
$holder->query('SELECT pg_advisory_unlock(1)');
is(ran($in_order), '100|100|1|100|1|t', 'one worker runs them in order');

#
# On commit
#

sub on_commit
{
	my ($from, $to) = @_;
	return "SELECT count(*) FROM generate_series($from, $to) g, LATERAL pg_background_submit_on_commit_v2('INSERT INTO ran VALUES (' || g || ')')";
}

# One worker
$node->safe_psql('postgres', 'BEGIN; ' . on_commit(1, 1000) . '; COMMIT');
is(ran($in_order), '1000|1000|1|1000|1|t', 'a thousand jobs of one commit, by one worker, in order');

# As many as there are slots; then while all of them are busy
change_settings($node, 'pg_background.max_total_workers' => -1);
$node->safe_psql('postgres', 'BEGIN; ' . on_commit(1, 1000) . '; COMMIT');
is(ran('count(*), count(DISTINCT what), min(what), max(what)'), '1000|1000|1|1000', 'a thousand jobs of one commit');
@busy = occupy($node, $holder, $session, 1 .. 8);
$session->query('SELECT pg_background_detach_all_v2()');
$session->query('BEGIN; SAVEPOINT s; ' . on_commit(2001, 2100) . '; ROLLBACK TO s; ' . on_commit(1, 1000));
wait_for_pool($node, 'queued = 0');
$session->query('COMMIT');
wait_for_pool($node, 'running = 8 AND queued = 1000');
is(sql($node, 'SELECT count(*) FROM ran'), '0', 'a commit whose jobs find no worker');
$session->query('BEGIN; ' . on_commit(3001, 3100) . '; ROLLBACK');
$holder->query('SELECT pg_advisory_unlock_all()');
is(ran('count(*), count(DISTINCT what), min(what), max(what)'), '1000|1000|1|1000', 'a thousand jobs of one commit, with an idle session');

# many at a time
@sessions = map { new_session($node) } 1 .. 8;
$sessions[$_]->send('BEGIN; ' . on_commit($_ * 100 + 1, $_ * 100 + 100) . '; COMMIT') foreach 0 .. 7;
is(join('', map { $_->receive; $_->{messages} } @sessions), '', 'commits at a time');
$_->quit foreach @sessions;
is(ran('count(*), count(DISTINCT what), min(what), max(what)'), '800|800|1|800', 'jobs of commits at a time');

#
# Memory
#

# Bytes of all segments of the server
sub segment_bytes
{
	my $sum = 0;
	$sum += -s $_ // 0 foreach glob $node->data_dir . '/pg_dynshmem/mmap.*';
	return $sum;
}

my $bound = 2 * 1024 * 1024;
change_settings($node, 'pg_background.queue_memory' => '2MB');
@busy = occupy($node, $holder, $session, 1 .. 8);
my $empty = segment_bytes();
my $fill = <<'END';
DO $$
BEGIN
	LOOP
		PERFORM pg_background_submit_v2('INSERT INTO ran VALUES (1); /*' || repeat('x', 10000) || '*/');
	END LOOP;
END $$
END
$session->fails($fill, '53000', qr/queue_memory/, 'no room in the queue: the error names the setting');
my $filled = $session->query(q{SELECT queued FROM pg_background_pool WHERE usename = current_user AND datname = 'postgres'});
cmp_ok($filled, '>', 0.5 * $bound / 10000, 'as many jobs as there is room for');
cmp_ok($filled, '<=', $bound / 10000, 'and no more');
cmp_ok(segment_bytes() - $empty, '<', 2 * $bound + 1024 * 1024, 'memory is bounded');
$session->fails(q{SELECT pg_background_submit_v2('/*' || repeat('x', 100000) || '*/')}, '53000', qr/queue_memory/, 'no room for a large one');

# a commit that does not fit
$session->fails(q{BEGIN; INSERT INTO ran VALUES (2); SELECT count(*) FROM generate_series(1, 100) g, LATERAL pg_background_submit_on_commit_v2('INSERT INTO ran VALUES (3); /*' || repeat('x', 10000 + g) || '*/'); COMMIT},
	'53000', qr/queue_memory/, 'a commit whose jobs do not fit');

# one that waits, and fits in time; and a submit
$session->query("SET pg_background.launch_timeout = '1h'");
$session->send(q{BEGIN; INSERT INTO ran VALUES (4); SELECT count(*) FROM generate_series(1, 3) g, LATERAL pg_background_submit_on_commit_v2('INSERT INTO ran VALUES (5); /*' || repeat('x', 10000 + g) || '*/'); COMMIT});
wait_for_worker($node, $session->{pid}, "state = 'active' AND wait_event_type = 'Extension'");
my $other = new_session($node, options => '-c pg_background.launch_timeout=1h');
$other->send(q{SELECT pg_background_submit_v2('INSERT INTO ran VALUES (6); /*' || repeat('x', 10000) || '*/')});
wait_for_worker($node, $other->{pid}, "state = 'active' AND wait_event_type = 'Extension'");
$holder->query('SELECT pg_advisory_unlock_all()');
$session->receive;
is($session->{messages}, '', 'a commit waits until its jobs fit');
$other->receive;
is($other->{messages}, '', 'a submit waits until its job fits');
is(ran(q{string_agg(DISTINCT what::text, ' '), count(*) FILTER (WHERE what = 1), count(*)}),
	"1 4 5 6|$filled|" . ($filled + 5), 'what was queued was run, nothing else');

# Where memory is not what is missing, the error does not say so.
change_settings($node, 'pg_background.queue_memory' => '64MB');
occupy($node, $holder, $session, 1 .. 8);
$session->query('SET pg_background.launch_timeout = 0');
$session->fails(q{DO 'BEGIN LOOP PERFORM pg_background_submit(''SELECT 1''); END LOOP; END'},
	'53000', qr/too many background jobs are queued\nDETAIL:  There can be 12288\.\nHINT:  Wait for some to end\.\n/, 'too many jobs');
is($session->query(q{SELECT queued > 12000 FROM pg_background_pool WHERE usename = current_user AND datname = 'postgres'}), 't', 'as many are queued');
$session->query('SELECT pg_background_cancel_all(), pg_background_detach_all()');
$holder->query('SELECT pg_advisory_unlock_all()');
wait_for_pool($node, 'running = 0 AND queued = 0');
$session->query("SET pg_background.launch_timeout = '1h'");

# It is used again and again.
my $bytes = segment_bytes();
foreach my $turn (1 .. 5)
{
	$session->query("SELECT count(*) FROM generate_series(1, 1000) g, LATERAL pg_background_submit_v2('INSERT INTO ran VALUES (1); /*' || repeat('x', (g * 37) % 20000) || '*/')");
	is(ran('count(*)'), '1000', "a thousand jobs of all sizes, turn $turn");
	$session->query('SELECT pg_background_detach_all_v2()');
}
cmp_ok(segment_bytes() - $bytes, '<', $bound + 1024 * 1024, 'memory does not grow with the jobs');

$_->quit foreach $session, $other, $holder;
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
