# The view pg_background_workers, read by sessions other than the launcher's:
# of all databases, also when the launcher is gone, under the rules of
# pg_stat_activity; and what pg_cancel_backend() does, under its own.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main');

$node->safe_psql('postgres', <<'END');
CREATE DATABASE other;
CREATE ROLE launcher LOGIN;
CREATE ROLE member LOGIN;
CREATE ROLE stranger LOGIN;
CREATE ROLE stats LOGIN;
CREATE ROLE shared;
GRANT launcher, shared TO member;
GRANT shared TO launcher;
GRANT pg_read_all_stats TO stats;
GRANT pgbackground_role TO launcher, member, stranger, stats, shared;
CREATE TABLE done (what text);
END
$node->safe_psql('other', 'CREATE EXTENSION pg_background');

my $sleep = 'SELECT pg_sleep(1000)';

sub start_job
{
	my ($session, $label, $sql) = @_;
	my $job = $session->query(
		"SELECT pid || ', ' || cookie FROM pg_background_submit_v2(\$\$" . ($sql // $sleep) . "\$\$, 0, '$label')");
	wait_for_worker($node, $job, "wait_event = 'PgSleep'") unless defined $sql;
	return $job;
}

# What a user sees of the worker of a job, and whether that agrees with what he
# sees in pg_stat_activity
sub seen
{
	my ($job, $user) = @_;
	my ($pid) = split /, /, $job;
	return $node->safe_psql('postgres', <<"END", extra_params => [ '-U', $user ]);
SELECT w.label, w.state, w.sql_preview, w.launched_at IS NOT NULL,
       (w.sql_preview IS NULL) = (a.query = '<insufficient privilege>') AND
       (w.query, w.backend_state, w.query_start) IS NOT DISTINCT FROM (a.query, a.state, a.query_start)
FROM pg_background_workers w, pg_stat_activity a
WHERE w.pid = $pid AND a.pid = $pid
END
}

# Everybody sees that there is a worker, and whose it is.
sub seen_by_all
{
	my ($job, $user) = @_;
	my ($pid) = split /, /, $job;
	return $node->safe_psql('postgres',
		"SELECT launcher_pid, launcher_user, user_name, database FROM pg_background_workers WHERE pid = $pid",
		extra_params => [ '-U', $user ]);
}

sub test_visibility
{
	my ($name, $job, $owner, %visible) = @_;
	foreach my $user (qw(launcher member stranger stats postgres))
	{
		is(seen($job, $user),
			$visible{$user} ? "$name|running|$sleep|t|t" : '|||f|t',
			"$name: seen by $user");
		is(seen_by_all($job, $user), $owner, "$name: whose it is, seen by $user");
	}
	return;
}

my $superuser = sql($node, 'SELECT current_user');
sql($node, 'CREATE ROLE postgres LOGIN SUPERUSER') if $superuser ne 'postgres';

#
# Who sees what
#

my $launcher = new_session($node, user => 'launcher');
my $plain = start_job($launcher, 'plain');
test_visibility('plain', $plain, "$launcher->{pid}|launcher|launcher|postgres",
	launcher => 1, member => 1, stats => 1, postgres => 1);

# As a role that the session has set: the server shows a backend to those who are
# members of the one that has logged in.
$launcher->query('SET ROLE shared');
my $role = start_job($launcher, 'role');
$launcher->query('RESET ROLE');
test_visibility('role', $role, "$launcher->{pid}|launcher|shared|postgres",
	launcher => 1, member => 1, stats => 1, postgres => 1);

# A superuser's job is hidden from the members of a role that he has set.
my $super = new_session($node);
$super->query('SET ROLE shared');
my $hidden = start_job($super, 'hidden');
$super->query('RESET ROLE');
test_visibility('hidden', $hidden, "$super->{pid}|$superuser|shared|postgres",
	stats => 1, postgres => 1);

# Another database
my $elsewhere = new_session($node, dbname => 'other', user => 'launcher');
my $other = start_job($elsewhere, 'other');
test_visibility('other', $other, "$elsewhere->{pid}|launcher|launcher|other",
	launcher => 1, member => 1, stats => 1, postgres => 1);

# A worker that waits for its next job: whose was the last one
$elsewhere->query("SET pg_background.max_idle_workers = 2; SET pg_background.idle_timeout = '1h'");
my $idle = start_job($elsewhere, 'idle', 'SELECT 1');
$elsewhere->wait_for($idle);
wait_for_worker($node, $idle, "state = 'idle'");
is(seen($idle, 'member'), 'idle|idle|SELECT 1|t|t', 'an idle worker, seen by a member');
is(seen($idle, 'stranger'), '|||f|t', 'an idle worker, seen by a stranger');

#
# The launcher is gone
#

$elsewhere->quit;
wait_for_exit($node, $elsewhere->{pid});
is(seen($other, 'launcher'), "other|running|$sleep|t|t", 'the job of a session that is gone');

#
# Who may cancel
#

sub cancel
{
	my ($job, $user) = @_;
	my ($pid) = split /, /, $job;
	my ($ret, $out, $err) = $node->psql('postgres',
		"SELECT pg_cancel_backend(pid) FROM pg_background_workers WHERE pid = $pid",
		extra_params => [ '-U', $user ]);
	return $err =~ /ERROR:\s+(must|permission denied)/ ? 'denied' : $out;
}

is(cancel($plain, 'stranger'), 'denied', 'a stranger cannot cancel a job');
is(cancel($plain, 'stats'), 'denied', 'nor who only may see it');
is(cancel($hidden, 'member'), 'denied', "nor a superuser's job those of a role of his");
is($launcher->state($plain), 'running', 'all that has done nothing to it');

is(cancel($plain, 'member'), 't', 'a member can cancel a job');
$launcher->wait_for($plain);
is($launcher->state($plain), 'canceled', 'and canceled it is');
is(cancel($role, 'launcher'), 't', 'the launcher can, by another session');
is($launcher->query("SELECT state || ' ' || sqlstate FROM pg_background_drain_v2(array[($role)]::pg_background_handle[])"),
	'canceled 57014', 'and canceled it is');
is(cancel($other, 'launcher'), 't', 'a job whose launcher is gone can be canceled');
wait_for_exit($node, (split /, /, $other)[0]);
is(cancel($hidden, 'postgres'), 't', 'a superuser can');
$super->wait_for($hidden);

# The worker is not used again.
isnt((split /, /, start_job($launcher, 'next'))[0], (split /, /, $plain)[0], 'the next job has another process');
$launcher->query('SELECT pg_background_cancel_all_v2()');

#
# Which process has a job, where one that was to have it gives it to another
#

# Does a process sleep, with no signal on its way?
sub sleeps
{
	my $status = slurp_file("/proc/$_[0]/status");
	return $status =~ /^State:\s+S/m && $status =~ /^ShdPnd:\s+0+$/m;
}

# Have an idle worker stand still, and say which. Not before it sleeps until there
# is a job: it would stand still with whatever lock it has.
sub stop_idle_worker
{
	my ($session) = @_;
	my $job = $session->launch('SELECT 1');
	$session->result($job, 'n int');
	my ($pid) = split /, /, $job;
	wait_for_worker($node, $pid, "state = 'idle' AND wait_event_type = 'Extension'");
	wait_until('it sleeps', sub { return sleeps($pid) });
	kill 'STOP', $pid;
	return $pid;
}

my $other_session = new_session($node);
$other_session->query("SET pg_background.idle_timeout = '1h'");
my $warm_pid = stop_idle_worker($other_session);
$other_session->query('BEGIN');
$other_session->query(q{SELECT pg_background_submit_on_commit_v2('SELECT 1')});
$other_session->query('GRANT stats TO stranger');
$other_session->query('COMMIT');
my $seen = 'SELECT pid FROM pg_background_list';
my $cookie = $other_session->query('SELECT cookie FROM pg_background_list');
$other_session->query("SELECT pg_background_wait_v2_timeout(pid, cookie, 1) FROM pg_background_list");
is($other_session->query($seen), $warm_pid, 'the list shows the process that is to have the job');
kill 'CONT', $warm_pid;
is($other_session->query("SELECT pg_background_wait_v2($warm_pid, $cookie)"), 't', 'what it has shown is a handle of the job');
isnt($other_session->query($seen), $warm_pid, 'though another process has it');
is($other_session->query("SELECT state FROM pg_background_outcome_v2($warm_pid, $cookie)"), 'stopped', 'the job is run');
$other_session->query('SELECT pg_background_detach_all_v2()');

#
# A cancel is for the job that runs when it comes
#

# Seen as soon as that can be, it was not for some ten microseconds.
$other_session->query(<<"END");
DO \$\$
DECLARE
    h pg_background_handle;
BEGIN
    FOR i IN 1 .. 50 LOOP
        h := pg_background_launch('$sleep', label => 'canceled at once');
        WHILE EXISTS (SELECT FROM pg_background_list WHERE pid = h.pid AND state <> 'running') LOOP
            PERFORM pg_sleep(0.0001);
        END LOOP;
        PERFORM pg_cancel_backend(h.pid);
        IF NOT pg_background_wait(h, 60000) THEN
            RAISE 'job % goes on', i;
        END IF;
    END LOOP;
END \$\$
END
is($other_session->query(q{SELECT DISTINCT state FROM pg_background_list WHERE label = 'canceled at once'}),
	'canceled', 'one that is seen to run can be canceled');

$warm_pid = stop_idle_worker($other_session);
is(sql($node, "SELECT pg_cancel_backend($warm_pid)"), 't', 'an idle worker is canceled');
kill 'CONT', $warm_pid;
wait_until('it sleeps again', sub { return sleeps($warm_pid) });
my $next = $other_session->launch('SELECT 1');
is((split /, /, $next)[0], $warm_pid, 'which is not for the next job');
is($other_session->result($next, 'n int'), '1', 'that runs');
$other_session->quit;

$_->quit foreach $launcher, $super;
end_idle_workers($node);
nothing_left($node, 'workers');
is(sql($node, 'SELECT count(*) FROM pg_background_workers'), '0', 'no worker is shown');

done_testing();
