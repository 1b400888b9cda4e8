# A queue that outlives the server: the recipe of docs/cookbook.md, of which
# t/300_cookbook.pl runs the plain case. Here, tasks fail, and are ended in the
# middle in every way.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main');
my ($recipe) = slurp_file("$FindBin::RealBin/../docs/cookbook.md") =~
  /^## A queue that outlives the server\n.*?^```sql\n(.*?)^```$/ms;

$node->safe_psql('postgres', <<'END');
CREATE ROLE queue LOGIN IN ROLE pgbackground_role;
CREATE ROLE app LOGIN;
GRANT CREATE ON SCHEMA public TO queue;
GRANT CREATE ON DATABASE postgres TO queue;
END
my $control = new_session($node);
my $queue = new_session($node, user => 'queue');
$queue->query($recipe);

# What is called "wait" waits while the control session holds its lock, and what is
# called "fail" fails, both after they have done something.
$queue->query(<<'END');
CREATE TABLE done (n serial, what text, by_whom text DEFAULT current_user);
CREATE FUNCTION perform(what jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO done (what) VALUES (what #>> '{}');
	IF what #>> '{}' ~ 'wait' THEN
		PERFORM pg_advisory_xact_lock_shared(1);
	ELSIF what #>> '{}' ~ 'fail' THEN
		RAISE EXCEPTION USING ERRCODE = 'QQ001', MESSAGE = what #>> '{}' || ' has failed';
	END IF;
END $$;
INSERT INTO topic (name, command, at_once, attempts, backoff) VALUES
	('one', 'SELECT perform($1)', 1, 2, '1 h'),
	('two', 'SELECT perform($1)', 2, 3, '1 h'),
	('now', 'SELECT perform($1)', 1, 3, '0'),
	('more', $$INSERT INTO task (topic, payload) VALUES ('one', $1)$$, 1, 1, '0');
GRANT INSERT (topic, payload, priority, run_at) ON task TO app;
END

sub add
{
	my ($topic, @what) = @_;
	my $n = 0;
	return "INSERT INTO task (topic, payload, priority) VALUES "
	  . join ', ', map { my ($what, $priority) = split /:/; "('$topic', '\"$what\"', " . ($priority // 0) . ')' } @what;
}

sub until_at_work
{
	my ($count) = @_;
	await($node, "SELECT count(*) >= $count FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
	  or die "timed out waiting until $count tasks are at work";
	return;
}

sub until_idle { return wait_for_pool($node, 'running = 0 AND queued = 0') }

sub done { return $control->query(q{WITH d AS (DELETE FROM done RETURNING *) SELECT string_agg(what, ' ' ORDER BY n) FROM d}) }

# What is left, with the number of attempts made, and whether there will be another
sub left
{
	return $control->query(q{SELECT string_agg(format('%s %s %s', payload #>> '{}', attempts,
		CASE WHEN run_at > now() THEN 'later' WHEN run_at <= now() THEN 'due' ELSE 'given up' END), ', ' ORDER BY id) FROM task});
}

sub errors
{
	return $control->query(q{WITH e AS (DELETE FROM task_error RETURNING *)
		SELECT string_agg(format('%s %s %s', attempt, sqlstate, message), ', ' ORDER BY task, attempt) FROM e});
}

sub retry { return $control->query('UPDATE task SET run_at = now() WHERE run_at IS NOT NULL') }
sub sweep { return $queue->query('SELECT run_due_tasks()') }

#
# On commit
#

my $app = new_session($node, user => 'app');
$app->query('BEGIN');
$app->query(add('one', 'never'));
$app->query('ROLLBACK');
$app->query('BEGIN; SAVEPOINT s; ' . add('one', 'never') . '; ROLLBACK TO s; COMMIT');
is(sql($node, 'SELECT coalesce(sum(launched), 0) FROM pg_background_pool'), '0',
	'what is rolled back launches nothing');
is(left(), '', 'and leaves no task');

$app->query(add('one', 'low:1', 'high:3', 'middle:2', 'low_too:1'));
until_idle();
is($control->query('SELECT string_agg(DISTINCT by_whom, $$ $$) FROM done'), 'queue', "who adds a task runs it as the queue's owner");
is(done(), 'high middle low low_too', 'by priority, then in the order in which they were added');
is(left() . errors(), '', 'nothing is left of them');

$node->safe_psql('postgres', add('more', 'by a task'));
until_idle();
is(done(), 'by a task', 'a task adds a task, whose session is gone');

#
# How many run at once
#

$control->query('SELECT pg_advisory_lock(1)');
$app->query(add('two', map { "wait$_" } 1 .. 5));
until_at_work(2);
is(sweep(), 2, 'others are launched');
$app->query(add('two', 'wait6'));
$app->query(add('one', 'wait7'));
until_at_work(3);
wait_for_pool($node, 'running = 3 AND queued = 0');
is($control->query(q{SELECT string_agg(n::text, ' ' ORDER BY n) FROM (
		SELECT count(*) AS n FROM task WHERE attempts = 1 GROUP BY topic) by_topic}),
	'1 2', 'as many as the topics say are at work');
$control->query('SELECT pg_advisory_unlock(1)');
until_idle();
is($control->query('SELECT count(DISTINCT what) || $$ of $$ || count(*) FROM done'), '7 of 7', 'each is run once');
done();
is(left() . errors(), '', 'without an error');

# One that finds no slot leaves its task to who has the slot, though that has seen
# that there is none, and is about to go: it is made to wait in pg_advisory_unlock.
$queue->query(<<'END');
CREATE SCHEMA hook;
CREATE FUNCTION hook.pg_advisory_unlock(key int8) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_lock_shared(1), pg_catalog.pg_advisory_unlock_shared(1);
	RETURN pg_catalog.pg_advisory_unlock(key);
END $$;
END
$control->query('SELECT pg_advisory_lock(1)');
$queue->query('SET search_path = hook, pg_catalog, public');
$queue->query(q{SELECT pg_background_submit($$CALL run_tasks('one')$$)});
$queue->query('RESET search_path');
until_at_work(1);
$app->query(add('one', 'late'));
wait_for_pool($node, 'running = 1 AND queued = 0');
is(left(), 'late 0 due', 'a task finds no slot');
$control->query('SELECT pg_advisory_unlock(1)');
until_idle();
is(done(), 'late', 'and is run by who had it');
is(left() . errors(), '', 'without an error');

# No two of them run together, and none is left.
$queue->query(<<'END');
CREATE FUNCTION alone() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF NOT pg_try_advisory_xact_lock(2) THEN
		RAISE EXCEPTION 'not alone';
	END IF;
	INSERT INTO done (what) VALUES ('alone');
END $$;
INSERT INTO topic VALUES ('alone', 'SELECT alone()', 1, 2, '1 h');
END
my @crowd = map { new_session($node, user => 'app', quiet => 1) } 1 .. 4;
$_->send(add('alone', 'x') . (';' . add('alone', 'x')) x 99) foreach @crowd;
$_->receive foreach @crowd;
is(join('', map { $_->{messages} } @crowd), '', 'a crowd adds tasks');
$_->quit foreach @crowd;
until_idle();
is(errors(), '', 'each of them is run alone');
is($control->query('SELECT count(*) FROM task'), '0', 'and none is left');
is($control->query(q{WITH d AS (DELETE FROM done RETURNING *) SELECT count(*) FROM d}), '400', 'of that many');

#
# Errors
#

$app->query(add('two', 'fail1:1', 'well'));
until_idle();
is(done(), 'well', 'what fails leaves nothing of what it did, and others go on');
is(left(), 'fail1 1 later', 'it is tried again later');
is(sweep(), 0, 'not now');
retry();
is(sweep(), 1, 'but when the time has come');
until_idle();
is($control->query(q{SELECT string_agg(round(extract(epoch FROM run_at - at) / 3600)::text, ' ' ORDER BY attempt)
	FROM task JOIN task_error ON task = id WHERE attempt = attempts}), '2', 'it is tried again after twice the time');
retry();
sweep();
until_idle();
is(left(), 'fail1 3 given up', 'it is given up after so many attempts');
is(errors(), join(', ', map { "$_ QQ001 fail1 has failed" } 1 .. 3), 'and each of its errors is there');
is(sweep(), 0, 'nobody tries it again');
$control->query(q{UPDATE task SET attempts = 0, run_at = now(), payload = '"mended"'});
sweep();
until_idle();
is(done(), 'mended', 'unless told to');
is(left() . errors(), '', 'and then nothing is left of it');

$app->query(add('now', 'fail2'));
until_idle();
is(left(), 'fail2 3 given up', 'without a back-off, all attempts are made at once');
is(errors(), join(', ', map { "$_ QQ001 fail2 has failed" } 1 .. 3), 'and no more');
$control->query('TRUNCATE task');

# Errors that come last, and what no handler of "others" catches
$queue->query(<<'END');
CREATE TABLE one_row (what text UNIQUE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO topic VALUES ('deferred', 'INSERT INTO one_row VALUES ($1), ($1)', 1, 2, '1 h'),
	('assert', 'DO $$ BEGIN ASSERT false; END $$', 1, 2, '1 h');
END
$app->query(add('deferred', 'twice'));
until_idle();
$app->query(add('assert', 'wrong'));
until_idle();
is(left(), 'twice 1 later, wrong 1 later', 'errors at the end of the transaction and assertions are tried again');
is(errors(), '1 23505 duplicate key value violates unique constraint "one_row_what_key", 1 P0004 assertion failed',
	'and are noted');
$control->query('TRUNCATE task');

#
# Tasks that are ended in the middle
#

sub pid_at_work
{
	until_at_work(1);
	return sql($node, "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
}

$control->query('SELECT pg_advisory_lock(1)');
$app->query(add('one', 'wait1:1', 'next'));
$control->query('SELECT pg_cancel_backend(' . pid_at_work() . ')');
until_idle();
is(done(), 'next', 'where a task is canceled, the next one is run');
is(left(), 'wait1 1 later', 'it is tried again');
is(errors(), '1 57014 canceling statement due to user request', 'and that is noted');

retry();
sweep();
$app->query(add('one', 'next'));
wait_for_pool($node, 'running = 1 AND queued = 0');
$control->query('SELECT pg_terminate_backend(' . pid_at_work() . ')');
until_idle();
is(left(), 'wait1 2 given up, next 0 due', 'where its process is terminated, it was tried');
is(errors(), '', 'without an error');
is(sweep(), 1, 'the sweep finds the next one');
until_idle();
is(done(), 'next', 'and it is run');
$control->query('TRUNCATE task');

# The server itself
$app->query(add('two', 'wait1:1', 'wait2', 'wait3'));
until_at_work(2);
$node->stop('immediate');
$_->quit foreach $control, $queue, $app;
$node->start;
$control = new_session($node);
$queue = new_session($node, user => 'queue');
is(done(), '', 'a crash leaves nothing of what was not done');
is(left(), 'wait1 1 later, wait2 1 later, wait3 0 due', 'but the tasks, some of which were tried');
is(sweep(), 1, 'the sweep finds what is due');
until_idle();
is(done(), 'wait3', 'and it is run');
retry();
is(sweep(), 2, 'and those that were tried, when their time has come');
until_idle();
is($control->query('SELECT string_agg(what, $$ $$ ORDER BY what) FROM done'), 'wait1 wait2', 'each is run once');
is(left() . errors(), '', 'and nothing is left of them');

$_->quit foreach $control, $queue;
nothing_left($node, 'at the end');
$node->stop;
done_testing();
