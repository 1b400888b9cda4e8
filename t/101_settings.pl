# A job has its launcher's settings and users, whatever either of them has done
# before: after random sequences of SET, RESET, SET LOCAL, SET ROLE and so on, in
# transactions and savepoints, on both sides, pg_settings in a job is the same as
# in its launcher. The jobs of several sessions, which do so at the same time, have
# the same worker.
#
# PG_BACKGROUND_SEED repeats the sequences, though not in whose turn a worker is;
# PG_BACKGROUND_SEQUENCES is how many there are of each session.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use IPC::Run;
use PgBackground;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{PG_BACKGROUND_SEED} // int(rand(1_000_000_000));
my $sequences = $ENV{PG_BACKGROUND_SEQUENCES} // 120;
srand($seed);
diag "PG_BACKGROUND_SEED=$seed";

# What is rightly different, and is not compared
my %different = (
	# A job is a transaction of its own; a new one has what these are by default.
	'transaction_isolation' => "current_setting('default_transaction_isolation')",
	'transaction_read_only' => "current_setting('default_transaction_read_only')",
	'transaction_deferrable' => "current_setting('default_transaction_deferrable')",
	# Its launcher, which is its client, takes text in the database's encoding.
	'client_encoding' => 'getdatabaseencoding()');

# Settings that anybody can make
my %user_settings = (
	'work_mem' => [ 64, "'5MB'", "'6MB'", "'1GB'" ],
	'search_path' => [ "''", 'public', 'nowhere, public', q{'"$user"', 'public'}, '"with, comma", pg_catalog' ],
	'datestyle' => [qw(German ISO DMY), q{'SQL, MDY'}],
	'timezone' => [ "'Asia/Kolkata'", "'UTC'", -7, "'<+03>-03'" ],
	'timezone_abbreviations' => [ "'India'", "'Default'" ],
	'intervalstyle' => [qw(iso_8601 sql_standard)],
	'statement_timeout' => [ "'1h'", 0 ],
	'lock_timeout' => ["'1h'"],
	'idle_in_transaction_session_timeout' => ["'1h'"],
	'extra_float_digits' => [ -15, 0, 3 ],
	'application_name' => [ "'name'", "'\xc3\xa4'", q{'it''s \\ "x"'}, "''" ],
	'client_encoding' => [qw(LATIN1 UTF8 SQL_ASCII WIN1252)],
	'client_min_messages' => [qw(error warning)],
	'enable_seqscan' => [qw(on off)],
	'default_transaction_isolation' => [ "'read uncommitted'", "'repeatable read'" ],
	'default_transaction_read_only' => [qw(on off)],
	'default_transaction_deferrable' => [qw(on off)],
	'bytea_output' => ['escape'],
	'constraint_exclusion' => [qw(on off)],
	'plan_cache_mode' => ['force_generic_plan'],
	'default_tablespace' => [ "''", 'pg_default' ],
	'default_text_search_config' => [ "'pg_catalog.simple'", "'german'" ],
	'lc_numeric' => ["'C'"],
	'geqo_seed' => [ map { rand() } 1 .. 3 ],
	'cpu_tuple_cost' => [ map { rand() } 1 .. 3 ],
	'random_page_cost' => [ 1.1, '1e10', 123456789.125 ],
	'vacuum_cost_delay' => [ 2.5, "'10us'" ],
	'synchronous_commit' => [qw(off local)],
	'row_security' => ['off'],
	'pg_background.idle_timeout' => [ "'10s'", "'20s'" ],
	'test.custom' => [ "'one'", "'two'", "''", q{'it''s \\ "x"'}, "E'a\\nb'", "repeat('x', 20000)" ],
	'test.other' => [ "'\xc3\xa4'", 1, 'on' ],
	'more.of_it' => ["'x'"]);

# Settings that take a superuser, or a privilege of their own
my %privileged_settings = (
	'log_min_duration_statement' => [ 1000000, 2000000 ],
	'log_statement' => [ 'none', 'ddl' ],
	'log_min_messages' => ['error'],
	'log_lock_waits' => [qw(on off)],
	'deadlock_timeout' => ["'2s'"],
	'session_replication_role' => [qw(replica local)],
	'track_activities' => ['off'],
	'track_functions' => ["'all'"],
	'temp_file_limit' => ["'1TB'"],
	'lc_messages' => ["'C'"],
	'zero_damaged_pages' => ['off']);

my @custom = grep { /^(test|more)\./ } sort keys %user_settings;

sub pick { return $_[ int(rand(@_)) ] }

sub chance { return rand() < $_[0] }

# Roles that every user of these tests may be, and users that its session may be
my @roles = qw(plain hat ordinary);
my @session_users;

# One random setting made, or taken back. Where it must succeed, it is something
# that anybody may do.
sub change
{
	my ($scope, $must_succeed) = @_;
	my $privileged = !$must_succeed && chance(0.3);
	my $settings = $privileged ? \%privileged_settings : \%user_settings;
	my $name = pick(sort keys %$settings);
	my $value = pick(@{ $settings->{$name} });
	my $what = rand();

	$scope ||= pick('', '', '', 'SESSION');
	return "SET $scope ROLE " . pick(@roles, 'NONE', $must_succeed ? () : 'crown')
	  if $what < 0.08;
	return 'RESET ROLE' if $what < 0.1;
	return "SET $scope SESSION AUTHORIZATION " . pick(@session_users, 'DEFAULT')
	  if $what < 0.14 && @session_users;
	return 'RESET SESSION AUTHORIZATION' if $what < 0.16 && @session_users;
	return 'RESET ALL' if $what < 0.18;
	return "RESET $name" if $what < 0.28;
	return "SET $scope $name TO DEFAULT" if $what < 0.32;

	# An expression, or the one constant that is both
	return sprintf "SELECT length(set_config('$name', $value, %s))", $scope eq 'LOCAL' ? 'true' : 'false'
	  if $value =~ /^(E'|repeat)/ || $what < 0.5 && $value =~ /^'([^']|'')*'$/;
	return "SET $scope $name TO $value";
}

# What a job does: changes of its own, which only it must see.
sub job
{
	my @commands = map { change('') } 1 .. 1 + rand(3);

	unshift @commands, 'BEGIN' if chance(0.3);
	push @commands, pick('COMMIT', 'ROLLBACK', 'SAVEPOINT s; ' . change('LOCAL', 1))
	  if $commands[0] eq 'BEGIN' && chance(0.8);
	push @commands, 'SELECT 1 / 0' if chance(0.1);
	push @commands, 'DISCARD ALL' if @commands == 1 && chance(0.1);
	my $submit = chance(0.5) ? 'wait' : 'detach';
	return "SELECT public.pg_background_${submit}_v2(pid, cookie) FROM public.pg_background_submit_v2(\$job\$"
	  . join('; ', @commands) . '$job$)';
}

# One sequence. Looks at what a job sees wherever that may have changed.
sub sequence
{
	my @steps;
	my $look = 'SELECT * FROM public.differences()';

	push @steps, 'SET pg_background.max_idle_workers = ' . pick(0, 2, 2, 2)
	  if chance(0.2);
	foreach (1 .. 1 + rand(3))
	{
		push @steps, change('');
		push @steps, job() if chance(0.3);
	}
	push @steps, $look;
	if (chance(0.5))
	{
		my $depth = 0;
		push @steps,
		  'BEGIN ' . pick('', 'ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE');
		foreach (1 .. 2 + rand(5))
		{
			my $what = rand();
			if ($what < 0.3)
			{
				$depth++;
				push @steps, "SAVEPOINT s$depth";
			}
			elsif ($what < 0.5 && $depth > 0)
			{
				push @steps, pick("ROLLBACK TO s$depth", "RELEASE s$depth");
				$depth-- if $steps[-1] =~ /RELEASE/;
			}
			push @steps, change(pick('LOCAL', 'LOCAL', ''), 1);
			push @steps, job() if chance(0.1);
			push @steps, $look if chance(0.2);
		}
		push @steps, $look, pick('COMMIT', 'ROLLBACK'), $look;
	}
	return @steps;
}

my $node = new_server('main', <<'END');
log_min_messages = fatal
log_min_error_statement = panic
pg_background.launch_timeout = 10min
END

# What a session starts with is not the same for every user.
my $names = join ', ', map { "'$_'" } @custom;
my $differences = join ', ', map { "'$_'" } sort keys %different;
my $expected = join ' UNION ALL ', map { "SELECT '$_', $different{$_}" } sort keys %different;
$node->safe_psql('postgres', <<"END");
CREATE ROLE plain LOGIN IN ROLE pgbackground_role;
CREATE ROLE hat IN ROLE pgbackground_role;
CREATE ROLE crown SUPERUSER LOGIN;
CREATE ROLE ordinary LOGIN IN ROLE pgbackground_role;
GRANT hat, ordinary TO plain;
ALTER ROLE plain SET work_mem = '9MB';
ALTER ROLE plain SET log_min_duration_statement = 3000000;
ALTER ROLE crown SET test.custom = 'of the role';
ALTER ROLE plain SET pg_background.max_role_workers = 1;
ALTER ROLE crown SET pg_background.max_role_workers = 1;
ALTER DATABASE postgres SET test.other = 'of the database';
ALTER DATABASE postgres SET cpu_tuple_cost = 0.0123456789;

-- Custom settings are not in pg_settings, nor are users.
CREATE VIEW public.everything AS
	SELECT name, setting FROM pg_settings WHERE name NOT IN ($differences)
	UNION ALL SELECT name, current_setting(name, true) FROM unnest(ARRAY[$names]) name
	UNION ALL SELECT 'role', current_setting('role')
	UNION ALL SELECT 'current_user', current_user
	UNION ALL SELECT 'session_user', session_user;
GRANT SELECT ON public.everything TO PUBLIC;

-- What differs between here and a job, and its process where processes are kept.
-- A custom setting that was taken away is '' or NULL, and so it is in any session.
-- In SQL, since a session that has loaded plpgsql has the settings of that.
CREATE FUNCTION public.differences(OUT name text, OUT setting text, OUT job text)
RETURNS SETOF record LANGUAGE sql AS \$\$
	WITH job AS MATERIALIZED (
		SELECT job.* FROM public.pg_background_launch_v2(
			\$job\$SELECT name::text, setting::text FROM public.everything
			UNION ALL SELECT 'own: ' || name, setting FROM pg_settings WHERE name IN ($differences)
			UNION ALL SELECT 'PID', pg_backend_pid()::text\$job\$) handle,
			public.pg_background_result_v2(handle.pid, handle.cookie) AS job (name text, setting text)
	), here AS MATERIALIZED (
		SELECT e.name::text, e.setting::text FROM public.everything e
		UNION ALL SELECT 'own: ' || x.name, x.setting FROM ($expected) x (name, setting)
	)
	SELECT coalesce(here.name, job.name), here.setting, job.setting
	FROM here FULL JOIN job USING (name)
	WHERE job.name = 'PID' AND current_setting('pg_background.max_idle_workers') <> '0'
		OR job.name IS DISTINCT FROM 'PID'
		AND coalesce(here.setting, '') <> coalesce(job.setting, '')
\$\$;
END
$node->safe_psql('postgres',
	'GRANT SET ON PARAMETER log_lock_waits, deadlock_timeout TO plain, hat')
  if sql($node, 'SHOW server_version_num') >= 150000;

# CVE-2024-10978: where SET SESSION AUTHORIZATION was rolled back, such a server
# does not know itself who the user is.
my $misled = $node->safe_psql('postgres',
	'SET ROLE hat; BEGIN; SET LOCAL SESSION AUTHORIZATION DEFAULT; ROLLBACK; SHOW role') ne 'hat';

# Plans so many sequences for a session of a user.
sub plan_sequences
{
	my ($user, $name) = @_;
	@session_users = ('plain', $user) unless $misled;
	my @sequences = map { [ sequence() ] } 1 .. $sequences;
	my $script = join '', map {
		my $i = $_;
		join '', "\\echo sequence $i\n", "\\warn sequence $i\n",
		  map { "$_;\n" } @{ $sequences[$i] }
	} 0 .. $#sequences;
	# Its input ends only when it is told to finish, which none is before all are done.
	$script .= "\\q\n";
	my %self = (name => $name, sequences => \@sequences, out => '', err => '', script => $script);

	$self{command} = [
		[
			'psql', '-XAtq', '-d', $node->connstr('postgres') . " user=$user", '-f', '-'
		],
		'<', \$self{script}, '>', \$self{out}, '2>', \$self{err} ];
	return \%self;
}

# Tests what came of them. Returns the PIDs of the processes that had its jobs.
sub test_sequences
{
	my ($self) = @_;
	my ($name, $sequences) = @$self{qw(name sequences)};

	# The only errors are those of what a role may not set, or be.
	my @errors = grep { /ERROR|FATAL|PANIC|connection/ && !/permission denied to set/ } split /\n/, $self->{err};
	is(join("\n", @errors), '', "$name: no other errors");

	my ($sequence, %processes, @different);
	my $looks = 0;
	foreach my $line (split /\n/, $self->{out})
	{
		next if $line =~ /^(|t|\d+)$/;
		if ($line =~ /^sequence (\d+)$/) { $sequence = $1 }
		elsif ($line =~ /^PID\|\|(\d+)$/) { $looks++; $processes{$1}++ }
		else { push @different, [ $sequence, $line ] }
	}
	is($sequence, $#$sequences, "$name: all sequences were run");
	is(scalar @different, 0, "$name: settings are equal");
	if (@different)
	{
		my $first = $different[0][0];
		diag join "\n", "sequence $first:", map { "\t$_;" } @{ $sequences->[$first] };
		diag "name|launcher|job: $_->[1]" foreach grep { $_->[0] == $first } @different;
	}
	cmp_ok(keys(%processes) * 2, '<', $looks,
		"$name: $looks looks, by " . keys(%processes) . ' processes');
	return keys %processes;
}

# Two sessions of each user, all at the same time
my @planned = map { my $user = $_; map { plan_sequences($user, "$user, session $_") } 1, 2 } qw(crown plain);
{
	local $ENV{PGCLIENTENCODING} = 'UTF8';
	IPC::Run::run(@{ $planned[0]{command} }, map({ ('&', @{ $_->{command} }) } @planned[ 1 .. $#planned ]),
		IPC::Run::timeout(8 * $PgBackground::limit));
}

my @pids = map { [ test_sequences($_) ] } @planned;
foreach my $n (0, 2)
{
	my %first = map { $_ => 1 } @{ $pids[$n] };
	my @both = grep { $first{$_} } @{ $pids[ $n + 1 ] };
	cmp_ok(scalar @both, '>', 0, "$planned[$n]{name} and its other have had workers in common: " . @both);
}
nothing_left($node, 'sequences');

done_testing();
