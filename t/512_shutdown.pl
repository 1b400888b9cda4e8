# A server that is shut down says in its log how many queued jobs it has dropped.
# A smart shutdown, which waits for the sessions, runs those that it can.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', <<'END');
pg_background.idle_timeout = 1h
pg_background.max_total_workers = 2
END
sql($node, 'CREATE TABLE ran (what int)');
my $dropped = qr/LOG:  dropped (\d+) queued background jobs?\n.*DETAIL:  /;
my ($holder, $session, $size);

# Two jobs that run, and as many as that that wait
sub fill_queue
{
	my ($count) = @_;

	($holder, $session) = map { new_session($node) } 1 .. 2;
	occupy($node, $holder, $session, 1, 2);
	$session->submit("INSERT INTO ran VALUES ($_)") foreach 1 .. $count;
	wait_for_pool($node, "running = 2 AND queued = $count");
	$size = log_size($node);
	return;
}

sub dropped
{
	my @found = log_since($node, $size) =~ /$dropped/g;
	return "@found";
}

fill_queue(12);
$node->stop('fast');
is(dropped(), '12', 'fast shutdown');
$_->quit foreach $holder, $session;
$node->start;
is(sql($node, 'SELECT count(*) FROM ran'), '0', 'fast shutdown: none was run, nor is now');
is(sql($node, 'SELECT count(*) FROM pg_background_pool'), '0', 'after a restart the counters begin anew');

fill_queue(1);
$node->stop('fast');
is(dropped(), '1', 'fast shutdown, one job');
$_->quit foreach $holder, $session;
$node->start;

# Nothing to drop, nothing to say
$session = new_session($node);
$session->query("SELECT pg_background_run_v2('SELECT 1')");
wait_for_pool($node, 'idle = 1');
$size = log_size($node);
$node->stop('fast');
is(dropped(), '', 'an empty queue');
$session->quit;
$node->start;

# immediate: there is no time to say anything
fill_queue(5);
$node->stop('immediate');
$_->quit foreach $holder, $session;
$node->start;
$session = new_session($node);
is($session->result($session->launch('SELECT count(*) FROM ran'), 'a int8'), '0', 'immediate shutdown: none is run');
$session->quit;

# smart: while there are sessions, jobs are run
sub smart_shutdown
{
	disconnect($node);
	system_or_bail('pg_ctl', '--no-wait', '-D', $node->data_dir, '-m', 'smart', 'stop');
	wait_until('the shutdown has begun',
		sub { log_since($node, $size) =~ /received smart shutdown request/ });
	return;
}

sub stopped
{
	wait_until('the server has stopped', sub { !-e $node->data_dir . '/postmaster.pid' });
	# It is not running any more.
	$node->_update_pid(0);
	return;
}

fill_queue(12);
smart_shutdown();
$holder->query('SELECT pg_advisory_unlock_all()');
wait_until('all jobs are run', sub { $session->query('SELECT count(*) FROM ran') eq '12' });
is($session->query("SELECT queued FROM pg_background_pool"), '0', 'smart shutdown: the queue is empty');
$_->quit foreach $holder, $session;
stopped();
is(dropped(), '', 'smart shutdown: all jobs were run');
$node->start;
is(sql($node, 'SELECT count(*) FROM ran'), '12', 'smart shutdown: they were');

# and those that it cannot run, it drops; those that run are ended
sql($node, 'TRUNCATE ran');
fill_queue(7);
my $locker = new_session($node);
$locker->query('BEGIN; LOCK TABLE ran');
smart_shutdown();
$_->quit foreach $session, $holder;
$locker->quit;
stopped();
$node->start;
my $left = 7 - sql($node, 'SELECT count(*) FROM ran');
my $ended = () = log_since($node, $size) =~ /FATAL:  terminating background worker .*\n(?:.*DETAIL:  .*\n)?.*CONTEXT:  (?:.*\n\t)?.*\n.*STATEMENT:  INSERT INTO ran/g;
is((dropped() || 0) + $ended, $left, "smart shutdown: $left jobs were not run, and the log says so");

# A process that is asked for when it is too late: one job is given to it, and another
# is behind that.
($holder, $session) = map { new_session($node) } 1 .. 2;
my @busy = occupy($node, $holder, $session, 1, 2);
$holder->query('SELECT pg_advisory_lock(3)');
$session->submit('SELECT pg_advisory_xact_lock(3)') foreach 1 .. 3;
wait_for_pool($node, 'running = 2 AND queued = 3');
$size = log_size($node);
my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
kill 'STOP', $postmaster or die "cannot stop the postmaster: $!";
END { kill 'CONT', $postmaster if defined $postmaster }
my $ended_worker = $busy[0] =~ s/,.*//r;
sql($node, "SELECT pg_terminate_backend($ended_worker)");
wait_for_exit($node, $ended_worker);
wait_for_pool($node, 'running = 1 AND queued = 3');
$holder->query('SELECT pg_advisory_unlock(2)');
wait_for_pool($node, 'running = 2 AND queued = 1');
disconnect($node);
kill 'INT', $postmaster;
kill 'CONT', $postmaster;
stopped();
is(dropped(), '2', 'a process that is asked for too late');
$_->quit foreach $session, $holder;

unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal [^3]/, 'no process has crashed');
done_testing();
