# The library is replaced on disk while a session is open, so that the session
# starts workers that load another build: a worker that does not know the
# segment it is given ends its job with an error that says what to do, and
# nothing worse happens.
#
# First, the worker sees what it would see then: a segment whose first bytes are
# not those that it expects. They are changed while the postmaster is stopped,
# that is before the worker starts. Then the library that a session has loaded is
# replaced by one that expects others.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
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
# It may have gone before the launch has seen it start.
if ($job ne '')
{
	$session->send("SELECT * FROM pg_background_result_v2($job) AS (a int)");
	$session->receive;
}
like($session->{messages},
	qr/ERROR:  (08006: lost connection to worker process|53000: could not start background process)/, 'anything');
test_usable('anything');

#
# Another build. Of the session, only functions that it has loaded are called: the
# server would take the copy for a library that it does not have yet.
#

my $library = slurp_file(library_file($node));
my $dir = PostgreSQL::Test::Utils::tempdir_short();

# Puts a library into the place of the one that is there, as packages do.
sub replace_library
{
	append_to_file("$dir/new", $library);
	chmod 0755, "$dir/new";
	rename "$dir/new", "$dir/pg_background.so" or die "$dir: $!";
	return;
}

replace_library();
load_library_from($node, 'postgres', "$dir/pg_background");
$session->quit;
$session = new_session($node);
my $unread = $session->launch('SELECT 2');
$session->wait_for($unread);
my $running = $session->launch('SELECT pg_sleep(1000)');
wait_for_worker($node, $running, "wait_event = 'PgSleep'");
my $errors = 3;
my $magic = slurp_file((segments($node))[0]) =~ /^(.{8})/s ? $1 : die;

SKIP:
{
	# Where a number of 64 bits is no part of an instruction, it stands in several.
	my $other = $magic ^ pack('Q', 0xFFFF << 16);
	skip 'the magic number cannot be changed in the library', 7
	  unless $library =~ s/\Q$magic\E/$other/g;

	replace_library();
	$session->fails(q{SELECT * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (a int)},
		@replaced, 'another build');
	$errors++;
	is($session->result($unread, 'a int'), '2', 'what had ended can be read');
	my ($pid) = split /, /, $running;
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	$session->fails("SELECT * FROM pg_background_result_v2($running) AS (v text)",
		'57014', qr/user request/, 'a job of before is canceled');
	nothing_left($node, 'another build', $session);
}

my @fatal = log_since($node, 0) =~
  /^pg_background\[\d+\] FATAL:  pg_background was replaced while the session was open$/mg;
is(scalar @fatal, $errors, 'the log has an error of each');
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/,
	'no process has crashed');

$session->quit;
done_testing();
