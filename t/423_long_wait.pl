# Hardening 17: a session that waits for a job for a long time looks again and
# again whether that is a deadlock, and needs no more memory for that.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $looks = 200;

my $node = new_server('main');
my ($holder, $session) = map { new_session($node) } 1 .. 2;

# Returns how many bytes the session has allocated. Asking it wakes it up, and who
# is awake looks.
sub memory
{
	my $size = log_size($node);
	my $total;

	$holder->query("SELECT pg_log_backend_memory_contexts($session->{pid})");
	wait_until('the session has told what it uses',
		sub { ($total) = log_since($node, $size) =~ /Grand total: (\d+) bytes in/ });
	return $total;
}

$holder->query('SELECT pg_advisory_lock(1)');
$session->query(q{SET deadlock_timeout = '1ms'});
my $job = $session->launch('SELECT pg_advisory_lock(1)');
wait_for_worker($node, $job, "wait_event_type = 'Lock'");
$session->send("SELECT pg_background_wait_v2($job)");
wait_for_worker($node, $session->{pid}, "state = 'active' AND wait_event_type = 'Extension'");

# What is allocated once is there by then.
memory() foreach 1 .. 10;
my $before = memory();
memory() foreach 1 .. $looks;
my $grown = memory() - $before;
note "grown by $grown bytes";
cmp_ok($grown, '<', $looks * 1024, 'Hardening 17: a session that waits does not grow');

$holder->query('SELECT pg_advisory_unlock(1)');
$session->receive;
is($session->state($job), 'stopped', 'the job ends');
$_->quit foreach $holder, $session;
nothing_left($node, 'all');

done_testing();
