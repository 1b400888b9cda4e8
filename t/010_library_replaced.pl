# The library is replaced on disk while a session is open, so that the session
# starts workers that load another build: a worker that does not know the
# segment it is given ends its job with an error that says what to do, and
# nothing worse happens.
#
# The worker sees what it would see then: a segment whose first bytes are not
# those that it expects. They are changed while the postmaster is stopped, that
# is before the worker starts.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main');
my $session = new_session($node);
my ($postmaster) = log_since($node, 0) =~ /^postmaster\[(\d+)\]/m;

END { kill 'CONT', $postmaster if defined $postmaster }

# Launches a job with a segment whose magic number is what change makes of it,
# and returns its handle.
sub launch_with
{
	my ($change) = @_;
	my $file;

	kill 'STOP', $postmaster or die "cannot stop the postmaster: $!";
	$session->send(
		q{SELECT pid || ', ' || cookie FROM pg_background_launch_v2('SELECT 1')});
	wait_until(
		'there is a segment',
		sub {
			$session->{run}->pump_nb;
			($file) = segments($node);
			defined $file;
		});

	open my $segment, '+<:raw', $file or die "$file: $!";
	sysread($segment, my $magic, 8) == 8 or die "$file: $!";
	sysseek $segment, 0, 0;
	syswrite($segment, pack('Q', $change->(unpack 'Q', $magic))) == 8
	  or die "$file: $!";
	close $segment;

	kill 'CONT', $postmaster;
	return $session->receive;
}

sub test_usable
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is( $session->query(
			q{SELECT * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (a int)}
		),
		'1',
		"$name: the session is usable");
	nothing_left($node, $name, $session);
	return;
}

test_usable('before');

my @replaced = (
	'55000',
	qr/pg_background was replaced while the session was open\nHINT:  Reconnect to use the new version\./);

# Its layout is another.
my $job = launch_with(sub { $_[0] ^ (0xFFFF << 16) });
$session->wait_for($job);
is($session->state($job), 'error', 'another layout: state');
$session->fails("SELECT * FROM pg_background_result_v2($job) AS (a int)",
	@replaced, 'another layout');
test_usable('another layout');

# It was made for another server.
$job = launch_with(sub { $_[0] + 1 });
$session->fails("SELECT * FROM pg_background_result_v2($job) AS (a int)",
	@replaced, 'another server');
test_usable('another server');

# It is none that any build of the library makes, and could be anything.
$job = launch_with(sub { 0 });
$session->fails("SELECT * FROM pg_background_result_v2($job) AS (a int)",
	'08006', qr/lost connection to worker process/, 'anything');
test_usable('anything');

my @fatal = log_since($node, 0) =~
  /^pg_background\[\d+\] FATAL:  pg_background was replaced while the session was open$/mg;
is(scalar @fatal, 3, 'the log has an error of each');
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/,
	'no process has crashed');

$session->quit;
done_testing();
