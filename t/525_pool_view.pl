# The view pg_background_pool: a row for each database and login user, what there
# is now and what there was since the server's start; and pg_background_workers,
# which shows a worker from the moment that a launch returns its PID, and its
# progress. Members of pg_monitor read both.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main', <<'END');
pg_background.idle_timeout = 1h
pg_background.launch_timeout = 1h
pg_background.max_total_workers = 2
END
my $superuser = sql($node, 'SELECT current_user');

$node->safe_psql('postgres', <<'END');
CREATE ROLE app LOGIN IN ROLE pgbackground_role;
CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
CREATE ROLE nobody LOGIN;
END
is($node->safe_psql('postgres', <<'END'), <<'END' =~ s/\n$//r, 'columns');
SELECT attname, atttypid::regtype FROM pg_attribute
WHERE attrelid = 'pg_background_pool'::regclass AND attnum > 0 ORDER BY attnum
END
datid|oid
datname|name
userid|oid
usename|name
running|integer
idle|integer
queued|integer
waiting|integer
launched|bigint
completed|bigint
failed|bigint
canceled|bigint
wait_ms|double precision
run_ms|double precision
started|bigint
END
is( $node->safe_psql('postgres', <<'END'), 'progress_pct integer, progress_msg text', 'the last columns of pg_background_workers');
SELECT string_agg(attname || ' ' || atttypid::regtype, ', ' ORDER BY attnum) FROM (
	SELECT * FROM pg_attribute WHERE attrelid = 'pg_background_workers'::regclass AND attnum > 0
	ORDER BY attnum DESC LIMIT 2) a
END
is(sql($node, 'SELECT count(*) FROM pg_background_pool'), '0', 'no job has been launched');

# Of one user, or of all
sub pool
{
	my ($columns, $user, $reader) = @_;
	return $node->safe_psql('postgres',
		"SELECT $columns FROM pg_background_pool" . ($user ? " WHERE usename = '$user' AND datname = 'postgres'" : ' ORDER BY usename, datname'),
		extra_params => [ '-U', $reader // $superuser ]);
}

my $holder = new_session($node);
my $session = new_session($node, user => 'app');
my $other = new_session($node, user => 'app');

#
# What there is
#

my ($first, $second) = occupy($node, $holder, $session, 1, 2);
is(pool('running, idle, queued, waiting', 'app'), '2|0|0|0', 'jobs that run');
my @queued = map { $session->submit('SELECT 1') } 1 .. 3;
$other->send(q{SELECT pg_background_run_v2('SELECT 1')});
wait_for_pool($node, 'waiting = 1');
is(pool('running, idle, queued, waiting', 'app'), '2|0|4|1', 'jobs that are queued, one of them of a session in line');
is(pool('datid = (SELECT oid FROM pg_database WHERE datname = current_database()), datname, userid::regrole, usename', 'app'),
	't|postgres|app|app', 'whose they are');
is(pool('launched, completed, failed, canceled', 'app') =~ /^\d+\|0\|0\|0$/, 1, 'none has ended');
$holder->query('SELECT pg_advisory_unlock(1)');
$other->receive;
$session->wait_for($_) foreach @queued;
wait_for_pool($node, 'idle = 1 AND running = 1');
is(pool('running, idle, queued, waiting', 'app'), '1|1|0|0', 'a worker is idle');
$holder->query('SELECT pg_advisory_unlock(2)');
wait_for_pool($node, 'running = 0');

#
# What there was
#

is(pool('launched, completed, failed, canceled, started', 'app'), '6|6|0|0|2', 'counters: six jobs, two processes');
is(pool('wait_ms > 0, run_ms > 0', 'app'), 't|t', 'times');
$session->query('SELECT pg_background_detach_all_v2()');

my $failed = $session->submit('SELECT 1 / 0');
$session->wait_for($failed);
wait_for_pool($node, 'running = 0');
is(pool('launched, completed, failed, canceled', 'app'), '7|6|1|0', 'counters: a job that fails');
my $canceled = $session->launch('SELECT pg_sleep(1000)');
wait_for_worker($node, $canceled, "wait_event = 'PgSleep'");
$session->query("SELECT pg_background_cancel_v2($canceled)");
$session->wait_for($canceled);
wait_for_pool($node, 'running = 0');
is(pool('launched, completed, failed, canceled', 'app'), '8|6|1|1', 'counters: a job that is canceled');

# One that is canceled in the queue
occupy($node, $holder, $session, 1, 2);
$canceled = $session->submit('SELECT 1');
$session->query("SELECT pg_background_cancel_v2($canceled)");
$holder->query('SELECT pg_advisory_unlock_all()');
wait_for_pool($node, 'running = 0 AND queued = 0');
is(pool('launched, completed, failed, canceled', 'app'), '11|8|1|2', 'counters: one that is canceled in the queue');

# One whose launcher gives up in line was not launched.
occupy($node, $holder, $session, 1, 2);
$other->query("SET pg_background.launch_timeout = '10ms'");
$other->fails(q{SELECT pg_background_launch_v2('SELECT 1')}, '53000', qr/no background worker is free/, 'in line for too long');
is(pool('waiting', 'app'), '0', 'no longer in line');
$holder->query('SELECT pg_advisory_unlock_all()');
wait_for_pool($node, 'running = 0');
is(pool('completed, failed, launched - completed - failed - canceled', 'app'), '10|1|0', 'counters: one whose launcher has given up');

# v1, run_all and on commit count, too.
$session->query(q{SELECT * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (a int)});
$session->query(q{SELECT count(*) FROM pg_background_run_all_v2('{SELECT 1, SELECT 2}', 1)});
$session->query(q{SELECT pg_background_submit_on_commit_v2('SELECT 1')});
await($node, q{SELECT completed = 14 FROM pg_background_pool WHERE usename = 'app'})
  or die 'not all jobs count: ' . pool('completed', 'app');
pass('counters: v1, run_all, on commit');

# A row each
sql($node, 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION pg_background');
my $elsewhere = new_session($node, dbname => 'other', user => 'app');
$elsewhere->query(q{SELECT pg_background_run_v2('SELECT 1')});
$holder->query(q{SELECT pg_background_run_v2('SELECT 1')});
is(pool('datname, usename, launched > 0'), join("\n", sort { (split /\|/, $a)[1] cmp (split /\|/, $b)[1] || $a cmp $b } 'other|app|t', 'postgres|app|t', "postgres|$superuser|t"),
	'a row for each database and login user');
$holder->query('SET ROLE app');
$holder->query(q{SELECT pg_background_run_v2('SELECT 1')});
$holder->query('RESET ROLE');
is(pool('launched', $superuser), '2', 'a role that is set is not the login user');
$elsewhere->quit;

#
# Who reads it
#

is(pool('launched > 0', 'app', $_), 't', "$_ reads it") foreach qw(monitor app);
my ($status, undef, $err) = $node->psql('postgres', 'TABLE pg_background_pool', extra_params => [ '-U', 'nobody' ]);
like($err, qr/permission denied/, 'nobody else does');
($status, undef, $err) = $node->psql('postgres', 'SELECT * FROM pg_background_pool()', extra_params => [ '-U', 'nobody' ]);
like($err, qr/permission denied/, 'nor calls the function');

#
# pg_background_workers
#

# In the same statement that launches, while others start processes
is( $session->query(q{SELECT count(*) FROM generate_series(1, 200) g, LATERAL pg_background_launch_v2('SELECT ' || g) h, LATERAL (SELECT count(*) AS n FROM pg_background_workers_v2() w WHERE w.pid = h.pid) w,
	LATERAL pg_background_result_v2(h.pid, h.cookie) AS r (a int) WHERE w.n = 1}),
	'200', 'a worker is there from the moment that a launch returns its PID');
end_idle_workers($node);
$holder->query('SELECT pg_advisory_lock(1)');
# (in one statement, the server would call the second function once)
is( $session->query(q{SELECT count(*) FROM pg_background_launch_v2('SELECT pg_advisory_xact_lock_shared(1)') h, LATERAL (SELECT count(*) AS n FROM pg_background_workers_v2() w WHERE w.pid = h.pid) w WHERE w.n = 1}),
	'1', 'also that of a new process') foreach 1 .. 2;
$holder->query('SELECT pg_advisory_unlock(1)');
wait_for_pool($node, 'running = 0');

$holder->query('SELECT pg_advisory_lock(1)');
my $job = $session->query(q{SELECT pid || ', ' || cookie FROM pg_background_launch_v2('DO $$ BEGIN PERFORM pg_background_progress(42, ''part''), pg_advisory_xact_lock(1); END $$', 0, 'label')});
wait_for_worker($node, $job, "wait_event = 'advisory'");
my ($pid) = split /, /, $job;
foreach my $reader ($superuser, 'app', 'monitor')
{
	is( $node->safe_psql('postgres', "SELECT state, label, progress_pct, progress_msg FROM pg_background_workers WHERE pid = $pid", extra_params => [ '-U', $reader ]),
		'running|label|42|part', "progress, seen by $reader");
}
sql($node, 'CREATE ROLE stranger LOGIN IN ROLE pgbackground_role');
is( $node->safe_psql('postgres', "SELECT label, progress_pct, progress_msg FROM pg_background_workers WHERE pid = $pid", extra_params => [ '-U', 'stranger' ]),
	'||', 'progress, seen by a stranger');
$holder->query('SELECT pg_advisory_unlock(1)');
$session->wait_for($job);
my $next = $other->launch('SELECT pg_advisory_lock_shared(2)');
$other->wait_for($next);
is(sql($node, q{SELECT count(*) FROM pg_background_workers WHERE state <> 'running' AND progress_pct IS NOT NULL AND label IS NULL}),
	'0', "the progress of one job is not another's");

#
# Many at once: the numbers add up
#

my $before = pool('launched', 'app');
my @sessions = map { new_session($node, user => 'app') } 1 .. 8;
$_->send(q{SELECT count(*) FROM generate_series(1, 300) g, LATERAL pg_background_run_v2(CASE WHEN g % 3 = 0 THEN 'SELECT 1 / 0' ELSE 'SELECT 1' END)}) foreach @sessions;
my $negative = 0;
until ((grep { $_->is_done } @sessions) == @sessions)
{
	$negative++ if pool('bool_or(running < 0 OR idle < 0 OR queued < 0 OR waiting < 0 OR running + idle > 2 OR completed + failed + canceled > launched)', 'app') ne 'f';
}
is($negative, 0, 'no number is ever out of its bounds');
$_->receive foreach @sessions;
wait_for_pool($node, 'running = 0 AND queued = 0 AND waiting = 0');
is(pool('launched', 'app') - $before, 2400, 'all are counted');
is(pool('launched - completed - failed - canceled', 'app'), '0', 'and each has ended in one way');

$_->quit foreach @sessions, $session, $other, $holder;
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
