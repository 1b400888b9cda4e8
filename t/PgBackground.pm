# What the tests of this folder share: servers with pg_background on them,
# sessions that stay open, and a look at what must not be left behind.

package PgBackground;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(new_server new_session wait_until wait_for_worker
  wait_for_full_queue wait_for_exit segments nothing_left log_size log_since
  library_file load_library_from);

our $limit = $PostgreSQL::Test::Utils::timeout_default;

# The columns of pg_background_list_v2()
our $list = 'pg_background_list_v2() AS (pid int4, cookie int8,'
  . ' launched_at timestamptz, user_id oid, queue_size int4, state text,'
  . ' sql_preview text, last_error text, consumed bool)';

# Starts a server with the extension, and with these further settings.
#
# Segments are files of the server's own, so that they can be counted, and so
# that no other server's are.
sub new_server
{
	my ($name, $conf, %init) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%init);
	$node->append_conf('postgresql.conf', <<"END" . ($conf // ''));
max_worker_processes = 32
max_connections = 40
autovacuum = off
dynamic_shared_memory_type = mmap
log_statement = none
log_line_prefix = '%b[%p] '
END
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_background');
	return $node;
}

# Waits until a condition is true; dies when it does not come true.
sub wait_until
{
	my ($what, $condition) = @_;
	my $end = time + $limit;

	until ($condition->())
	{
		die "timed out waiting until $what" if time > $end;
		usleep(20_000);
	}
	return;
}

# Waits until a condition holds for what pg_stat_activity shows of the worker
# of a job, or of any process by its PID.
sub wait_for_worker
{
	my ($node, $job, $condition) = @_;
	my ($pid) = split /, /, $job;

	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $pid AND $condition"
	) or die "timed out waiting for the worker: $condition";
	return;
}

# Waits until the worker of a job cannot go on, since its queue is full.
sub wait_for_full_queue
{
	my ($node, $job) = @_;
	wait_for_worker($node, $job,
		"state = 'active' AND wait_event_type = 'Extension'");
	return;
}

# Waits until a process has gone, by what the server shows.
sub wait_for_exit
{
	my ($node, $pid) = @_;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid")
	  or die "timed out waiting for process $pid to end";
	return;
}

# The files of the extension's segments, told from other segments by what they
# begin with.
sub segments
{
	my ($node) = @_;
	my @found;

	foreach my $file (glob $node->data_dir . '/pg_dynshmem/mmap.*')
	{
		# It may be gone by now.
		open my $in, '<:raw', $file or next;
		my $magic = '';
		sysread $in, $magic, 8;
		push @found, $file
		  if length $magic == 8 && unpack('Q', $magic) >> 32 == 0x70676267;
	}
	return @found;
}

# Tests that no process, segment or temporary file is left, or is so in a
# moment: a process ends some time after its job. An open session learns of that
# when it is asked for its jobs: first what the last job of a process has said,
# then that the process is gone, and it lets the segment go.
sub nothing_left
{
	my ($node, $name, @sessions) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok( $node->poll_query_until('postgres', q{
			SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_background')
			   AND NOT EXISTS (SELECT FROM pg_ls_tmpdir())}),
		"$name: no process or temporary file is left");
	$_->query("SELECT count(*) FROM $list") foreach @sessions, @sessions;
	is(scalar segments($node), 0, "$name: no segment is left");
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

	$connstr .= " user=$opt{user}" if $opt{user};
	local $ENV{PGOPTIONS} = $opt{options} // '';
	local $ENV{PGCLIENTENCODING} = $opt{encoding} // 'UTF8';
	$self->{timer} = IPC::Run::timer($limit);
	$self->{run} = IPC::Run::start(
		[
			'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $connstr, '-f', '-'
		],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err},
		$self->{timer});
	$self->{pid} = $self->query('SELECT pg_backend_pid()');
	return $self;
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

# Ends the session, by the end of its input: it may be gone already.
sub quit
{
	my ($self) = @_;
	$self->{run}->finish;
	return;
}

1;
