# docs/operation.md and docs/postgres_exporter.yaml: each statement runs as it stands
# there, those that watch as a member of pg_monitor, and shows what there is to see;
# and postgres_exporter would understand what it is given.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use CPAN::Meta::YAML;
use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $docs = "$FindBin::RealBin/../docs";
my $node = new_server('main', <<'END');
max_worker_processes = 8
pg_background.max_total_workers = 2
pg_background.idle_timeout = 1h
END
my $user = sql($node, 'SELECT current_user');

# Returns what psql prints, or fails with what went wrong.
sub run
{
	my ($sql, $database, @options) = @_;
	my ($out, $err);

	IPC::Run::run(
		[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', @options, '-d', $node->connstr($database // 'postgres') ],
		'<' => \$sql, '>' => \$out, '2>' => \$err);
	is($err, '', 'no error: ' . ($sql =~ /^\s*(.*)/)[0]);
	return $out;
}

sub watch { return run($_[0], 'postgres', '-At', '-U', 'exporter') }

my @block;
my $page = slurp_file("$docs/operation.md");
while ($page =~ /^ *```(sql|sql monitor|sql other|text)\n(.*?)^ *```$/msg)
{
	if ($1 eq 'text')
	{
		$block[-1]{prints} = $2;
	}
	else
	{
		push @block, { kind => $1, sql => $2 };
	}
}

foreach my $test ($page =~ m{`((?:t|sql)/\w+)`}g)
{
	ok((map { glob "$FindBin::RealBin/../$test$_" } '[.]sql', '_*.pl'), "$test is there");
}

# What there is to see: two jobs that run, one of them for a while; one is queued, a
# session waits, one has failed, one was canceled.
my ($holder, $session, $waiting) = map { new_session($node) } 1 .. 3;
my $running;

sub occupy_pool
{
	my ($failed, $canceled) = map { $session->submit($_) } 'SELECT 1 / 0', 'SELECT pg_sleep(3600)';
	$session->wait_for($failed);
	wait_for_worker($node, $canceled, "wait_event = 'PgSleep'");
	$session->query("SELECT pg_background_cancel($canceled, 60000)");
	wait_for_pool($node, 'running = 0');

	$holder->query('SELECT pg_advisory_lock(1), pg_advisory_lock(2)');
	($running) = $session->query(q{SELECT pid FROM pg_background_launch('SELECT pg_advisory_xact_lock(1)', label => 'longest')});
	wait_for_worker($node, $running, "wait_event = 'advisory'");
	wait_for_worker($node, $session->launch('SELECT pg_advisory_xact_lock(2)'), "wait_event = 'advisory'");
	$session->submit('SELECT 1');
	$waiting->send(q{SELECT pg_background_exec('SELECT 1')});
	wait_for_pool($node, 'running = 2 AND queued = 2 AND waiting = 1');
	return;
}

sub free_pool
{
	$holder->query('SELECT pg_advisory_unlock_all()');
	$waiting->receive;
	wait_for_pool($node, 'running = 0 AND queued = 0');
	return;
}

# What each query prints, in the order of the page
my $number = qr/\d+(?:\.\d+)?(?:e[+-]\d+)?/;
my @shown = (
	qr/^postgres\|$user\|2\|0\|2\|1$/,
	qr/^postgres\|$user\|$number\|$number$/,
	$node->pg_version >= 17 ? qr/^PgBackgroundLaunch\|1$/m : qr/^$/,
	qr/^postgres\|$user\|6\|0\|1\|1$/,
	qr/^\d\d:\d\d:[\d.]+\|PID\|$user\|postgres\|longest\|Lock\|advisory\|SELECT pg_advisory_xact_lock\(1\)$/,
	qr/^pg_background\|2\|8$/m);
my @watches = grep { $_->{kind} eq 'sql monitor' } @block;
is(scalar @watches, scalar @shown, 'each query that watches is known here');

#
# The page, up to the last database
#

my $uninstall = pop @block;
my ($other) = grep { $_->{kind} eq 'sql other' } @block;
my $occupied = 0;
foreach my $block (grep { $_ != $other } @block)
{
	if ($block->{kind} eq 'sql monitor')
	{
		occupy_pool() unless $occupied++;
		my $shown = shift(@shown) =~ s/PID/$running/r;
		like(watch($block->{sql}) =~ s/\n\z//r, qr/$shown/, 'shows what there is');
		next;
	}
	if ($occupied)
	{
		watch_metrics();
		free_pool();
		$occupied = 0;
	}
	my $out = run($block->{sql});
	is($out, $block->{prints}, 'prints what the page says') if $block->{prints};
	wait_for_pool($node, 'running = 0 AND queued = 0');
}

# The recipe's row is written by the job's own worker; also of one that is canceled, by
# another process then.
change_settings($node, 'pg_background.max_total_workers' => 1);
my $logged = $session->submit(q{CALL run_logged('SELECT pg_sleep(3600)')});
wait_for_worker($node, $logged, "wait_event = 'PgSleep'");
$session->query("SELECT pg_background_cancel($logged)");
await($node, q{SELECT count(*) = 1 FROM job_log WHERE sqlstate = '57014'})
  or die 'the canceled job was not logged';
pass('a job that is canceled is logged');
$session->wait_for($logged);
is($session->query("SELECT state, sqlstate FROM pg_background_outcome($logged)"), 'canceled|57014', 'and is canceled all the same');
$_->quit foreach $holder, $session, $waiting;

#
# postgres_exporter.yaml: of each query, the columns are the metrics, of a type that
# fits, and no two rows have the same labels.
#

sub watch_metrics
{
	my $queries = CPAN::Meta::YAML->read("$docs/postgres_exporter.yaml")->[0];
	my %value;

	foreach my $name (sort keys %$queries)
	{
		my ($query, $metrics) = @{ $queries->{$name} }{qw(query metrics)};
		my @columns = map { keys %$_ } @$metrics;
		my %usage = map { my ($column) = keys %$_; $column => $_->{$column}{usage} } @$metrics;

		is(join(' ', sort keys %{ $queries->{$name} }), 'master metrics query', "$name: its keys");
		like($_->{ (keys %$_)[0] }{description}, qr/\w/, "$name: what it means") foreach @$metrics;
		my ($names, @rows) = split /\n/, run($query, 'postgres', '-A', '-P', 'footer=off', '-U', 'exporter');
		is($names, join('|', @columns), "$name: its columns are the metrics");
		cmp_ok(scalar @rows, '>', 0, "$name: there is something to see");
		my %seen;
		foreach my $row (@rows)
		{
			my %column;
			@column{@columns} = split /\|/, $row;
			my @labels = map { $column{$_} } grep { $usage{$_} eq 'LABEL' } @columns;
			ok(!$seen{"@labels"}++, "$name: the labels tell rows apart");
			foreach my $column (@columns)
			{
				next if $usage{$column} eq 'LABEL';
				like($usage{$column}, qr/^(GAUGE|COUNTER)$/, "$name: usage of $column");
				like($column{$column}, qr/^$number$/, "$name: $column is a number");
				$value{"${name}_$column"} = $column{$column};
			}
		}
		unlike($page, qr/${name}_(?!(?:@{[join '|', @columns]})\b)\w/, "$name: the page names only what there is");
	}
	is(join(' ', @value{ map { "pg_background_pool_$_" } qw(running idle queued waiting launched_total failed_total canceled_total) }),
		'2 0 2 1 6 1 1', 'what the pool does');
	cmp_ok($value{pg_background_jobs_longest_seconds}, '>', 0, 'the longest job');
	is(join(' ', @value{ map { "pg_background_slots_$_" } qw(jobs parallel max) }), '2 0 8', 'slots');
	return;
}

#
# Another schema
#

sql($node, 'CREATE DATABASE other');
run(q{CREATE SCHEMA tools; CREATE EXTENSION pg_background SCHEMA tools;}, 'other');
my ($grant, $path) = $page =~ /^Where the extension is in a schema of its own, `(.*?)` and `(.*?)`/ms;
run("$grant; $path;", 'other');
is(run('SELECT count(*) > 0 FROM pg_background_pool', 'other', '-At', '-U', 'exporter'), "t\n", 'in a schema of its own');
sql($node, 'ALTER ROLE exporter RESET search_path');

#
# Uninstalling
#

my $last = $uninstall->{sql};
my (undef, undef, $err) = $node->psql('postgres', 'SELECT pg_background_drop_executor_role()');
like($err, qr/role "pgbackground_role" cannot be dropped because some objects depend on it\n.*privileges for table public\.job_log\n\d+ objects? in database other/s,
	'the error says what is in the way, and where');
run($other->{sql}, 'other');
run($last);
is(sql($node, q{SELECT count(*) FROM pg_roles WHERE rolname = 'pgbackground_role'}), '0', 'the role is gone');
is($node->safe_psql($_, q{SELECT count(*) FROM pg_extension WHERE extname = 'pg_background'}), '0', "$_: the extension is gone")
  foreach qw(postgres other);
$node->restart;
is($node->safe_psql('postgres', 'SHOW pg_background.idle_timeout'), '1h', 'settings that are left mean nothing');

$node->stop;
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
