# What the tests of this folder share: servers with pg_background on them,
# sessions that stay open, and a look at what must not be left behind.

package PgBackground;

use strict;
use warnings;

use Exporter 'import';
use Fcntl ':flock';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(new_server new_session wait_until sql sql_as said_as disconnect await
  wait_for_worker wait_for_full_queue wait_for_line end_idle_workers wait_for_exit
  wait_for_pool occupy change_settings segments nothing_left log_size log_since
  library_file load_library_from);

our $limit = $PostgreSQL::Test::Utils::timeout_default;

# What a test dies of is said where its tests are, not in its log alone.
$SIG{__DIE__} = sub { diag $_[0] if defined $^S && !$^S };

# The columns of pg_background_list_v2()
our $list = 'pg_background_list_v2() AS (pid int4, cookie int8,'
  . ' launched_at timestamptz, user_id oid, queue_size int4, state text,'
  . ' sql_preview text, last_error text, consumed bool)';

# Has what initdb makes be copied: the first test to come makes it, while others wait.
# PostgreSQL::Test::Cluster does so itself from 17 on; before, its call of initdb is
# answered.
sub share_initdb
{
	my ($version) = @_;
	my $template = "$PostgreSQL::Test::Utils::tmp_check/initdb-$version";

	return if $ENV{INITDB_TEMPLATE};
	open my $lock, '>', "$template.lock" or die "$template.lock: $!";
	flock $lock, LOCK_EX or die "$template.lock: $!";
	if (!-d $template)
	{
		system_or_bail('initdb', '-N', '-A', 'trust', '-D', "$template.new");
		rename "$template.new", $template or die "$template: $!";
	}
	$ENV{INITDB_TEMPLATE} = $template;
	return if $version >= 17;

	my $run = \&PostgreSQL::Test::Utils::system_or_bail;
	no warnings 'redefine';
	*PostgreSQL::Test::Utils::system_or_bail = sub {
		my ($command, @arguments) = @_;

		# "initdb -D FOLDER -A trust -N", and nothing that a test has asked for
		return $run->('cp', '-RPp', $template, $arguments[1]) if $command eq 'initdb' && @arguments == 5;
		return $run->($command, @arguments);
	};
	return;
}

# Starts a server with the extension, and with these further settings.
#
# Segments are files of the server's own, so that they can be counted, and so
# that no other server's are.  Idle workers leave soon: tests wait for that. What
# is compiled at run time is the server's, and dear where each process does it anew.
sub new_server
{
	my ($name, $conf, %init) = @_;
	my $node = bless PostgreSQL::Test::Cluster->new($name), 'PgBackground::Server';

	share_initdb($node->pg_version) if $node->pg_version >= 15;
	$node->init(%init);
	$node->append_conf('postgresql.conf', <<"END" . ($conf // ''));
pg_background.idle_timeout = 1s
max_worker_processes = 32
max_connections = 40
autovacuum = off
jit = off
dynamic_shared_memory_type = mmap
log_statement = none
log_line_prefix = '%b[%p] '
END
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_background');
	return $node;
}

# Sleeps before the next look, longer each time, since looking is work for a machine
# that may be what is waited for.
sub nap
{
	my ($naps) = @_;

	usleep($naps < 4 ? 5_000 * 2**$naps : 50_000);
	return;
}

# Waits until a condition is true; dies when it does not come true.
sub wait_until
{
	my ($what, $condition) = @_;
	my $end = time + $limit;
	my $naps = 0;

	until ($condition->())
	{
		die "timed out waiting until $what" if time > $end;
		nap($naps++);
	}
	return;
}

# Sessions of each server that sql(), await() and others keep, since processes that are
# started for each query are what keeps a busy machine busy: one for each user and
# database
my %own_sessions;

# One of a server, whose process is there. Options: as of new_session().
sub own_session
{
	my ($node, %opt) = @_;
	my $sessions = $own_sessions{ $node->name } //= {};
	my $name = join "\n", map { $_ // '' } @opt{qw(user dbname)};
	my $session = $sessions->{$name};

	return $session if $session && kill 0, $session->{pid};
	eval { $session->quit } if $session;
	return $sessions->{$name} = new_session($node, quiet => 1, %opt);
}

# Ends them, where there are some: a server that stops may wait for them, or say so.
# Returns them.
sub disconnect
{
	my ($node) = @_;
	my @sessions = values %{ delete $own_sessions{ $node->name } // {} };

	foreach my $session (@sessions)
	{
		eval { $session->quit };
	}
	return @sessions;
}

# Runs SQL that leaves nothing behind in its session, as safe_psql() does in a session
# of its own.
sub sql
{
	my ($node, $sql) = @_;
	return own_session($node)->query($sql);
}

# Runs SQL as a user in a database; the session is as a new one afterwards.
sub sql_as
{
	my ($node, $user, $dbname, $sql) = @_;
	my $session = own_session($node, user => $user, dbname => $dbname);
	my $out = $session->query($sql);

	$session->query('DISCARD ALL');
	return $out;
}

# The same of SQL that may fail: returns all messages of it.
sub said_as
{
	my ($node, $user, $dbname, $sql) = @_;
	my $session = own_session($node, user => $user, dbname => $dbname);

	$session->send($sql);
	$session->receive;
	my $messages = $session->{messages};
	$session->query('DISCARD ALL');
	return $messages;
}

# Waits until a query answers this, "t" unless it is told, and returns whether it
# did.
sub await
{
	my ($node, $sql, $expected) = @_;
	my $end = time + $limit;
	my ($answer, $naps) = (undef, 0);

	$expected //= 't';
	do
	{
		# There may be no connection yet, or no longer.
		$answer = eval { sql($node, $sql) };
		return 1 if defined $answer && $answer eq $expected;
		disconnect($node) unless defined $answer;
		nap($naps++);
	} until time > $end;
	diag "timed out waiting until this answers $expected:\n$sql\nIt answers:\n", $answer // $@;
	return 0;
}

# Waits until a condition holds for what pg_stat_activity shows of the worker
# of a job, or of any process by its PID.
sub wait_for_worker
{
	my ($node, $job, $condition) = @_;
	my ($pid) = split /, /, $job;

	return
	  if await($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $pid AND $condition");
	die "timed out waiting for process $pid: $condition, where there are\n"
	  . $node->safe_psql('postgres',
		'SELECT pid, backend_type, state, wait_event_type, wait_event, query FROM pg_stat_activity WHERE datid IS NOT NULL');
}

# Waits until the worker of a job cannot go on, since its queue is full.
sub wait_for_full_queue
{
	my ($node, $job) = @_;
	wait_for_worker($node, $job,
		"state = 'active' AND wait_event_type = 'Extension'");
	return;
}

# Waits until so many sessions wait in line for a worker.
sub wait_for_line
{
	my ($node, $count) = @_;
	await($node, 'SELECT coalesce(sum(waiting), 0) FROM pg_background_pool', $count)
	  or die "timed out waiting until $count sessions wait for a worker";
	return;
}

# Ends workers that wait for jobs, which else stay for as long as they may. One whose
# process is still to come is in no view: it is not among them.
sub end_idle_workers
{
	my ($node) = @_;
	await($node, q{
		SELECT count(pg_terminate_backend(pid)) = 0 AND (SELECT coalesce(sum(idle), 0) = 0 FROM pg_background_pool)
		FROM pg_stat_activity WHERE backend_type = 'pg_background' AND state = 'idle'})
	  or die 'timed out waiting for idle workers to end';
	return;
}

# Waits until a process has gone, by what the server shows.
sub wait_for_exit
{
	my ($node, $pid) = @_;
	await($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid")
	  or die "timed out waiting for process $pid to end";
	return;
}

# Waits until a condition holds for the sums of what pg_background_pool shows:
# of all users, or of those for whom another condition holds.
sub wait_for_pool
{
	my ($node, $condition, $who) = @_;
	my $rows = 'FROM pg_background_pool' . ($who ? " WHERE $who" : '');

	return if await($node, <<"END");
SELECT $condition FROM (
	SELECT coalesce(sum(running), 0) AS running, coalesce(sum(idle), 0) AS idle,
		coalesce(sum(queued), 0) AS queued, coalesce(sum(waiting), 0) AS waiting $rows) pool
END
	die "timed out waiting for the pool: $condition, where there are\n"
	  . $node->safe_psql('postgres', 'SELECT datname, usename, running, idle, queued, waiting FROM pg_background_pool');
}

# Occupies workers: for each number, the holder takes the advisory lock, and a job
# of the session waits for it. Waits for workers that are about to end, even where the
# session does not. Returns the handles of the jobs.
sub occupy
{
	my ($node, $holder, $session, @numbers) = @_;
	my $setting = 'pg_background.launch_timeout';
	my $timeout = $session->query("SELECT current_setting('$setting', true)");
	my @jobs;

	$session->query("SET $setting = '1h'");
	foreach my $number (@numbers)
	{
		$holder->query("SELECT pg_advisory_lock($number)");
		push @jobs, $session->launch("SELECT pg_advisory_xact_lock($number)");
		wait_for_worker($node, $jobs[-1], "wait_event = 'advisory'");
	}
	$session->query($timeout eq '' ? "RESET $setting" : "SET $setting = '$timeout'");
	return @jobs;
}

# Changes settings of the server, until every process has been told.
sub change_settings
{
	my ($node, %value) = @_;

	$node->safe_psql('postgres', "LOAD 'pg_background'; ALTER SYSTEM SET $_ = '$value{$_}'") foreach sort keys %value;
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	foreach my $name (sort keys %value)
	{
		# A new session gets what every process was told before.
		$node->poll_query_until('postgres', "SHOW $name", $value{$name})
		  or die "timed out waiting for $name";
	}
	return;
}

# The files of the segments that jobs' rows go through.  Those that are there for
# good are told by what they begin with: the server's list of segments, the pool,
# and areas of memory that are shared piece by piece, which know their size.
sub segments
{
	my ($node) = @_;
	my @found;

	foreach my $file (glob $node->data_dir . '/pg_dynshmem/mmap.*')
	{
		# It may be gone by now.
		open my $in, '<:raw', $file or next;
		my $start = '';
		sysread $in, $start, 24;
		next if length $start < 24;
		my ($magic) = unpack 'Q', $start;
		# The server's structs have words of 64 or 32 bits.
		my @sizes = map { (unpack "${_}3", $start)[2] } 'Q', 'L';
		push @found, $file
		  unless $magic >> 32 == 0x70676267
		  || ($magic & 0xffffffff) == 0x9a503d32
		  || grep { $_ == -s $in } @sizes;
	}
	return @found;
}

# A session keeps so many segments for its jobs to come.
our $kept_segments = 4;

# Tests that no process, job, segment or temporary file is left, or is so in a
# moment: a process ends some time after its job. An open session learns of what
# its jobs have said when it is asked for them, and lets all segments go but those
# that it keeps.
sub nothing_left
{
	my ($node, $name, @sessions) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok( await($node, q{
			SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_background')
			   AND NOT EXISTS (SELECT FROM pg_ls_tmpdir())}),
		"$name: no process or temporary file is left");
	ok( await($node, 'SELECT coalesce(sum(running + idle + queued + waiting), 0) = 0 FROM pg_background_pool'),
		"$name: the pool has no job and no worker");
	$_->query("SELECT count(*) FROM $list") foreach @sessions;
	my $most = $kept_segments * @sessions;
	eval { wait_until('segments are gone', sub { segments($node) <= $most }) };
	cmp_ok(scalar segments($node), '<=', $most, "$name: no segment is left");
	return;
}

# The file that the server loads the library from
sub library_file
{
	my ($node) = @_;
	my ($file) = grep { -f } map { "$_/pg_background.so" } split /:/, $node->safe_psql('postgres',
		q{SELECT replace(current_setting('dynamic_library_path'), '$libdir', setting) FROM pg_config WHERE name = 'PKGLIBDIR'});

	return $file // die 'cannot find the library';
}

# Makes the extension's functions in a database those of another library, by what
# stands behind AS in CREATE FUNCTION.
sub load_library_from
{
	my ($node, $dbname, $name) = @_;

	$node->safe_psql($dbname, qq{UPDATE pg_proc SET probin = '$name' WHERE probin LIKE '%pg_background'});
	return;
}

sub log_size { return -s $_[0]->logfile }

sub log_since
{
	my ($node, $offset) = @_;
	open my $in, '<:raw', $node->logfile or die "could not read the log: $!";
	seek $in, $offset, 0;
	local $/;
	return <$in> // '';
}

# Opens a session. Options: dbname, user, options (as of PGOPTIONS), encoding;
# quiet, not to note what it is sent.
sub new_session
{
	my ($node, %opt) = @_;
	my $self = bless {
		in => '', out => '', err => '', count => 0, quiet => $opt{quiet}
	  },
	  'PgBackground::Session';
	my $connstr = $node->connstr($opt{dbname} // 'postgres');

	$connstr .= " user='" . $opt{user} =~ s/([\\'])/\\$1/gr . "'" if defined $opt{user};
	local $ENV{PGOPTIONS} = $opt{options} // '';
	local $ENV{PGCLIENTENCODING} = $opt{encoding} // 'UTF8';
	$self->{timer} = IPC::Run::timer($limit);
	$self->{run} = IPC::Run::start(
		[
			'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $connstr, '-f', '-'
		],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err},
		$self->{timer});
	$self->{pid} = $self->query('SELECT pg_backend_pid()') || die "cannot connect: $self->{messages}";
	return $self;
}

# A server, which such sessions are ended for before it stops
package PgBackground::Server;

our @ISA = ('PostgreSQL::Test::Cluster');

# Those of 14 have no such methods.
sub pg_version { return $_[0]->{_pg_version} }

sub config_data
{
	my ($self, $option) = @_;

	chomp(my $value = qx(pg_config $option));
	return $value;
}

# Their processes have gone then, too: one that is still there writes to the log that
# the shutdown has ended it.
sub end_own_sessions
{
	my ($self) = @_;
	my @pids = map { $_->{pid} } PgBackground::disconnect($self);

	PgBackground::wait_until('sessions have ended', sub { !kill 0, @pids }) if @pids;
	return;
}

sub stop
{
	my ($self, @how) = @_;

	end_own_sessions($self);
	return $self->SUPER::stop(@how);
}

sub restart
{
	my ($self, @how) = @_;

	end_own_sessions($self);
	return $self->SUPER::restart(@how);
}

package PgBackground::Session;

use strict;
use warnings;

use Test::More;

# Sends SQL and does not wait for what comes of it.
sub send
{
	my ($self, $sql) = @_;
	my $n = ++$self->{count};

	note 'session: ', substr($sql, 0, 1000) unless $self->{quiet};
	$self->{in} .= "$sql\n;\n\\echo <end $n>\n\\warn <end $n>\n";
	$self->{run}->pump_nb;
	return;
}

# Has all that was sent been done, or the session ended? Does not wait.
sub is_done
{
	my ($self) = @_;
	my $end = qr/<end $self->{count}>\n/;

	return 1 unless $self->{run}->pumpable;
	$self->{run}->pump_nb;
	return $self->{out} =~ $end && $self->{err} =~ $end;
}

# Waits until all that was sent has been done, and returns what it wrote;
# messages are in $self->{messages}.
sub receive
{
	my ($self) = @_;
	my $end = qr/<end $self->{count}>\n/;

	$self->{timer}->start($PgBackground::limit);
	until ($self->{out} =~ $end && $self->{err} =~ $end)
	{
		last unless $self->{run}->pumpable;
		$self->{run}->pump;
		die "timed out waiting for a session: $self->{err}"
		  if $self->{timer}->is_expired;
	}
	my ($out, $err) = @$self{qw(out err)};
	$self->{out} = $self->{err} = '';
	s/<end \d+>\n//g foreach $out, $err;
	chomp $out;
	$self->{messages} = $err;
	return $out;
}

# Runs SQL, which may fail; dies with what went wrong.
sub query
{
	my ($self, $sql) = @_;

	$self->send($sql);
	my $out = $self->receive;
	die "$sql\n$self->{messages}"
	  if $self->{messages} =~ /^(psql:.*?)?(ERROR|FATAL|PANIC):/m;
	return $out;
}

# Tests that SQL fails, or what was sent before: the SQLSTATE, and what the
# messages are like.
sub fails
{
	my ($self, $sql, $sqlstate, $like, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$self->send($sql) if defined $sql;
	$self->receive;
	my ($got) = $self->{messages} =~ /(?:ERROR|FATAL|PANIC):  (\w{5}): /;
	is($got, $sqlstate, "$name: SQLSTATE") or diag $self->{messages};
	like($self->{messages}, $like, "$name: message");
	return;
}

# Launches a job, or submits it, and returns its handle, "PID, cookie".
sub launch
{
	my ($self, $sql, $queue_size, $how) = @_;
	$queue_size //= 65536;
	$how //= 'launch';
	my $handle = $self->query(
		"SELECT pid || ', ' || cookie FROM pg_background_${how}_v2(\$job\$$sql\$job\$, $queue_size)"
	);
	return $handle;
}

sub submit { return $_[0]->launch($_[1], undef, 'submit') }

sub wait_for
{
	my ($self, $handle) = @_;
	return $self->query("SELECT pg_background_wait_v2($handle)");
}

sub result
{
	my ($self, $handle, $columns) = @_;
	return $self->query(
		"SELECT * FROM pg_background_result_v2($handle) AS ($columns)");
}

sub state
{
	my ($self, $handle) = @_;
	my ($pid, $cookie) = split /, /, $handle;
	return $self->query(
		"SELECT state FROM $PgBackground::list WHERE pid = $pid AND cookie = $cookie"
	);
}

# Ends the session, which may be gone already. It is told so, since it may see no end
# of its input: a server that was started after it has that open, too.
sub quit
{
	my ($self) = @_;

	$self->{in} .= "\\q\n" if $self->{run}->pumpable;
	eval { $self->{run}->finish; 1 } or $@ =~ /Broken pipe/ or die $@;
	return;
}

1;
