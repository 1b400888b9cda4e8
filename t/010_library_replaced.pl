# The library is replaced on disk while a session is open, so that the session
# starts workers that load another build: a worker that does not know the pool that
# it is started for ends its job with an error that says what to do, and nothing
# worse happens. Workers that are there go on; so do new sessions, whose pool is
# another.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

# No worker goes by itself.
my $node = new_server('main', "pg_background.idle_timeout = 1h\n");
my @replaced = (
	'55000',
	qr/pg_background was replaced while the session was open\nHINT:  Reconnect to use the new version\./);

# Of the sessions, only functions that they have loaded are called: the server would
# take the copy for a library that it does not have yet.
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

# What the pool begins with
sub pool_magic
{
	foreach my $file (glob $node->data_dir . '/pg_dynshmem/mmap.*')
	{
		my $magic = substr slurp_file($file), 0, 8;
		return $magic if unpack('Q', $magic) >> 32 == 0x70676267;
	}
	die 'there is no pool';
}

my $one = q{SELECT * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (a int)};

replace_library();
load_library_from($node, 'postgres', "$dir/pg_background");
my $session = new_session($node, options => '-c pg_background.idle_timeout=1h');
is($session->query($one), '1', 'the copy of the library works');
my $unread = $session->launch('SELECT 2');
$session->wait_for($unread);
my $running = $session->launch('SELECT pg_sleep(1000)');
wait_for_worker($node, $running, "wait_event = 'PgSleep'");
$session->submit('SELECT 3');
wait_for_pool($node, 'running = 1 AND queued = 0 AND idle > 0');
my $errors = 0;
my $magic = pool_magic();

# The layout is another, or the server that it was built for.
foreach my $build ([ 'another layout', 0xABCD << 16, 'A' ], [ 'another server', 0x5A, 'B' ])
{
	my ($name, $change, $letter) = @$build;

	SKIP:
	{
		# Where a number of 64 bits is no part of an instruction, it stands in several.
		my $other = $magic ^ pack('Q', $change);
		my $original = $library;
		skip 'the magic number cannot be changed in the library', 15
		  unless $library =~ s/\Q$magic\E/$other/g;
		$library =~ s/pg_background\.%d\.%d/pg_background$letter%d.%d/
		  or die 'the library has another name for its pool';

		# A worker is there, and does not mind.
		replace_library();
		is($session->query($one), '1', "$name: a worker of before") if $letter eq 'A';

		end_idle_workers($node);
		$session->fails($one, @replaced, "$name: v1");
		my $job = $session->launch('SELECT 1');
		$session->wait_for($job);
		is($session->state($job), 'error', "$name: state");
		$session->fails("SELECT * FROM pg_background_result_v2($job) AS (a int)", @replaced, "$name: v2");
		$job = $session->submit('SELECT 1');
		$session->wait_for($job);
		is($session->state($job), 'error', "$name: state of what was submitted");
		$errors += 3;

		# A session that has the new library has a pool of its own.
		my $new = new_session($node);
		is($new->query($one), '1', "$name: a new session");
		isnt(pool_magic(), '', "$name: there is a pool");
		$new->quit;
		end_idle_workers($node);
		$library = $original;
	}
	is($session->state($running), 'running', "$name: the job of before goes on");
}
is($session->result($unread, 'a int'), '2', 'what had ended can be read');

# The session's own library is back.
replace_library();
is($session->query($one), '1', 'the session is usable');
my ($pid) = split /, /, $running;
sql($node, "SELECT pg_cancel_backend($pid)");
$session->fails("SELECT * FROM pg_background_result_v2($running) AS (v text)",
	'57014', qr/user request/, 'a job of before is canceled');
end_idle_workers($node);
is(sql($node, q{SELECT running + idle + queued + waiting FROM pg_background_pool}),
	'0', 'the pool counts none of these workers any more');
nothing_left($node, 'another build', $session);

my @said = log_since($node, 0) =~
  /^pg_background\[\d+\] LOG:  pg_background was replaced while the session was open$/mg;
is(scalar @said, $errors, 'the log has a line of each');
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/,
	'no process has crashed');

$session->quit;
done_testing();
