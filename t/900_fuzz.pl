# Sessions call every function in random order with random arguments, while
# sessions and jobs are canceled and terminated, run into limits and find no
# space; and each job's effect is accounted for.
#
# A job inserts rows with its number into the table effect: one row for each
# part that it commits. What is reported done is there exactly once, what is
# reported failed is not there, a job that starts on commit is there only where
# the transaction has committed, nothing is there twice, rows are read all or
# not at all, nothing hangs, crashes or stays behind.
#
# A report of failure leaves open whether the job has committed only where
#	- its process was ended from outside, which may be just after the commit,
#	  before it could say so (08006, 57P01);
#	- the session could not store what the job had to say, which says nothing
#	  about what the job did (53100, 53200, 53400, and 58030 or XX000 for files
#	  that are too large; 22000 for a result that is incomplete).
#
# A round is some hundred jobs of six new sessions of two users, which share
# workers, planned from a seed in full before it begins; every fourth is calm: nothing is canceled or limited, and
# each job that was launched must be there in the end. PG_BACKGROUND_FUZZ_JOBS
# says how many jobs there are; PG_BACKGROUND_FUZZ_SEED is the seed of the first
# round, and that of the next is greater by one, so that the seed of a round that
# failed repeats it. PG_BACKGROUND_FUZZ_BURST says how many small jobs a burst is,
# which do not count for the length of a round: some thousands make many jobs of a
# short time. PG_BACKGROUND_FUZZ_SMALL_DISK names an empty folder on a
# small disk (a tmpfs of 2 MB, say) for rows that are kept, so that it gets full.
#
# Hardening, Checks: the fuzz program.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use List::Util qw(max sum0);
use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = $ENV{PG_BACKGROUND_FUZZ_SEED} // time % 1_000_000_000;
my $jobs_wanted = $ENV{PG_BACKGROUND_FUZZ_JOBS} // 800;
my $jobs_a_round = 150;
my $jobs_a_burst = $ENV{PG_BACKGROUND_FUZZ_BURST} // 20;
my $small_disk = $ENV{PG_BACKGROUND_FUZZ_SMALL_DISK};
my $has_prlimit = !$windows_os && system('prlimit --version >/dev/null 2>&1') == 0;

note "seed $seed, $jobs_wanted jobs";
note 'skipped: files that are too large, forks that fail; there is no prlimit'
  unless $has_prlimit;

# A limit on a file's size must leave room for a segment of the log.
my $node = new_server('main', <<'END', extra => ['--wal-segsize=1']);
log_line_prefix = '%b[%p] %e '
restart_after_crash = on
max_worker_processes = 12
deadlock_timeout = 50ms
lock_timeout = 1s
work_mem = 64kB
pg_background.launch_timeout = 300
pg_background.idle_timeout = 200
END

my $database = 'postgres';
if ($small_disk)
{
	$database = 'fuzz';
	$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$small_disk'");
	$node->safe_psql('postgres', "CREATE DATABASE $database TABLESPACE small");
	$node->safe_psql($database, 'CREATE EXTENSION pg_background');
}
my $control = new_session($node, quiet => 1, dbname => $database);
$control->query($_) foreach split /^--$/m, <<'END';
CREATE TABLE effect (n int8, part int);
CREATE TABLE pledge (n int8);
CREATE TABLE handle (pid int4, cookie int8);
CREATE TABLE spot AS SELECT id, 0 AS n FROM generate_series(1, 4) id;
CREATE ROLE fuzz_member LOGIN IN ROLE pgbackground_role;
CREATE ROLE fuzz_owner IN ROLE pgbackground_role;
GRANT ALL ON effect, pledge, handle, spot TO fuzz_member, fuzz_owner;
GRANT SELECT ON pg_backend_memory_contexts TO PUBLIC;
GRANT EXECUTE ON FUNCTION pg_get_backend_memory_contexts() TO PUBLIC;
GRANT ALL ON SCHEMA public TO PUBLIC;
--
-- In a subtransaction, which may be undone
CREATE FUNCTION in_block(sql text, undo bool) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE sql INTO answer;
	IF undo THEN
		RAISE 'undone';
	END IF;
	RETURN answer;
EXCEPTION WHEN OTHERS OR query_canceled THEN
	RETURN SQLSTATE;
END $$;
--
CREATE FUNCTION as_owner(sql text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE sql INTO answer;
	RETURN answer;
END $$;
ALTER FUNCTION as_owner OWNER TO fuzz_owner;
--
CREATE PROCEDURE in_parts(job int8) LANGUAGE plpgsql AS $$
BEGIN
	FOR part IN 1 .. 3 LOOP
		COMMIT;
		INSERT INTO effect VALUES (job, part);
	END LOOP;
END $$;
--
-- A type whose conversion meddles with the jobs of who reads it
CREATE TYPE evil AS ENUM ('x');
CREATE FUNCTION evil_to_json(evil) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
	CASE floor(random() * 8)
		WHEN 0 THEN PERFORM pg_background_purge_v2();
		WHEN 1 THEN PERFORM pg_background_detach_all_v2();
		WHEN 2 THEN PERFORM pg_background_run_v2('SELECT 1');
		WHEN 3 THEN PERFORM pg_background_result_jsonb_v2(pid, cookie) FROM pg_background_list;
		WHEN 4 THEN PERFORM pg_background_detach_v2(pid, cookie) FROM pg_background_list LIMIT 2;
		WHEN 5 THEN PERFORM pg_background_submit_v2('SELECT 1');
		WHEN 6 THEN RAISE 'an evil error';
		ELSE
	END CASE;
	RETURN '1';
END $$;
CREATE CAST (evil AS json) WITH FUNCTION evil_to_json(evil);
END
# Before 17, what a SECURITY DEFINER function launches must not commit.
my $may_commit = $control->query('SHOW server_version_num') >= 170000;


# ----------------------------------------------------------------
#		The plan of a round
# ----------------------------------------------------------------

my ($number, $calm, $superuser, $in_transaction, $last_slot) = (0);
my %job;	# of this round, by number

# One of some entries, [weight, what]
sub pick
{
	my $at = rand sum0 map { $_->[0] } @_;
	foreach (@_) { return $_->[1] if ($at -= $_->[0]) < 0 }
	return $_[-1][1];
}
sub one_of { return $_[ rand @_ ] }
sub chance { return rand() < $_[0] }
sub odd { return chance(0.05) ? one_of('NULL', -1, 0, 2147483647, -2147483648) : one_of(@_) }
sub limit_ms { return $calm ? 0 : odd(0, 0, 1, 10, 100, 1000) }
sub queue_size { return odd((0) x 8, (4096, 10000, 65536) x 3, 1_000_000, chance(0.2) ? 40_000_000 : 0) }
sub label { return one_of('NULL', q{'a'}, q{'ab'}, q{'ä b'}) }

# What a job does, mostly beside inserting its one row into effect. "sure" says that
# nothing in it fails; rows and bytes are those of its result: (a int, b text), or
# a command tag for each command.
sub rows_job
{
	my ($n, $rows, $width, $more) = @_;
	return (
		sql => "INSERT INTO effect VALUES ($n, 1); SELECT g AS a, repeat('x', $width) AS b FROM generate_series(1, $rows) g"
		  . ($more // ''),
		cols => 'a int, b text', rows => $rows, bytes => $rows * $width, sure => !$more);
}
sub then_job { my ($n, @more) = @_; return (sql => join '; ', "INSERT INTO effect VALUES ($n, 1)", @more) }
my @oddities = (
	'SET statement_timeout = 5; SELECT pg_sleep(0.2)', 'SET client_encoding = SJIS', 'SET ROLE pgbackground_role',
	'COPY effect TO STDOUT', 'SELECT nothing', 'SELECT pg_terminate_backend(pg_backend_pid())',
	'SELECT pg_cancel_backend(pg_backend_pid())', 'LISTEN x; DISCARD TEMP; SELECT pg_advisory_lock_shared(1)',
	'PREPARE p AS SELECT 1; DECLARE c CURSOR WITH HOLD FOR SELECT 1', 'SET LOCAL search_path = pg_catalog; SELECT 1 FROM effect');
my @kinds = (
	[ 20, sub { then_job($_[0]), sure => 1, rows => 1 } ],
	[ 4, sub { rows_job($_[0], one_of(0, 1, 10, 1000), one_of(0, 1, 10, 100)) } ],
	[ 3, sub { rows_job($_[0], one_of(2000, 20000), one_of(1, 100)) } ],
	[ 3, sub { rows_job($_[0], one_of(1, 10), one_of(8000, 8060, 8072, 300_000, 1_000_000)) } ],
	[ 1, sub { rows_job($_[0], 500, 500, ' WHERE 1 / (490 - g) IS NOT NULL') } ],
	[ 2, sub { then_job($_[0], 'SELECT 1 / 0') } ],
	[ 1, sub { then_job($_[0], "DO \$\$ BEGIN RAISE '%', repeat('x', @{[one_of(10, 100_000)]}) USING HINT = 'no', DETAIL = repeat('y', 1000); END \$\$") } ],
	[ 2, sub { then_job($_[0], "DO \$\$ BEGIN FOR i IN 1 .. @{[one_of(3, 300)]} LOOP RAISE NOTICE '%', repeat('x', @{[one_of(1, 3000)]}); END LOOP; END \$\$"), sure => 1 } ],
	[ 2, sub { my $n = one_of(3, 1000); then_job($_[0], ('SET work_mem = 64') x $n), sure => 1, rows => $n + 1 } ],
	[ 3, sub { sql => "CALL in_parts($_[0])", parts => 3, sure => $may_commit } ],
	[ 2, sub { sql => "DO \$\$ BEGIN INSERT INTO effect VALUES ($_[0], 1); COMMIT; INSERT INTO effect VALUES ($_[0], 2); @{[one_of('', 'PERFORM 1 / 0;')]} END \$\$", parts => 2 } ],
	[ 1, sub { sql => "DO \$\$ BEGIN INSERT INTO effect VALUES ($_[0], 1); COMMIT; INSERT INTO effect VALUES ($_[0], 2); ROLLBACK; END \$\$", sure => $may_commit, early => 1 } ],
	[ 2, sub { sql => "CREATE TEMP TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 100); INSERT INTO effect SELECT $_[0], 1 FROM t LIMIT 1", sure => 1 } ],
	[ 2, sub { then_job($_[0], "SELECT pg_sleep(@{[one_of(0.001, 0.01, 0.1)]})"), sure => 1 } ],
	[ 2, sub { sql => "SELECT pg_sleep(0.03); INSERT INTO effect VALUES ($_[0], 1)", sure => 1 } ],
	[ 2, sub { then_job($_[0], "UPDATE spot SET n = n + 1 WHERE id = @{[one_of(1 .. 4)]}") } ],
	[ 2, sub { sql => "BEGIN; INSERT INTO effect VALUES ($_[0], 1)", } ],
	[ 2, sub { sql => "BEGIN; INSERT INTO effect VALUES ($_[0], 1); COMMIT; SELECT 1", cols => 'a int', sure => $may_commit, early => 1 } ],
	[ 1, sub { then_job($_[0], "DO \$\$ BEGIN FOR i IN 1 .. 3 LOOP BEGIN PERFORM pg_sleep(0.05); EXCEPTION WHEN query_canceled THEN END; END LOOP; END \$\$") } ],
	[ 1, sub { then_job($_[0], one_of(@oddities)) } ],
	[ 0.3, sub { then_job($_[0], "SELECT length('@{['x' x one_of(20_000, 300_000)]}')") } ],
	[ 1, sub { then_job($_[0], "SELECT pg_background_progress(@{[odd(0, 50, 101)]}, repeat('ö', @{[one_of(1, 300)]}))") } ],
	[ 1, sub { then_job($_[0], "COPY (SELECT 1) TO PROGRAM 'sleep 0.2'") } ],
	[ 1, sub { sql => "CREATE TEMP TABLE t (x int); INSERT INTO effect VALUES ($_[0], 1); SELECT t AS a FROM t", cols => 'a record' } ],
	[ 2, sub { my $inner = job(); then_job($_[0], "SELECT pg_background_@{[one_of('run', 'launch', 'submit')]}_v2(\$i$_[0]\$$inner->{sql}\$i$_[0]\$)") } ],
	[ 4, sub { then_job($_[0], "SELECT g AS a, 'x'::evil AS b FROM generate_series(1, @{[one_of(1, 50)]}) g"), cols => 'a int, b evil' } ],
);

# What many jobs are that come in one go
my @small_kinds = (
	[ 20, sub { then_job($_[0]), sure => 1, rows => 1 } ],
	[ 3, sub { rows_job($_[0], 3, 10) } ],
	[ 2, sub { then_job($_[0], 'SELECT 1 / 0') } ],
	[ 1, sub { then_job($_[0], "DO \$\$ BEGIN RAISE NOTICE 'small'; END \$\$"), sure => 1 } ],
	[ 1, sub { then_job($_[0], 'SELECT pg_sleep(0.001)'), sure => 1 } ],
	[ 1, sub { sql => "CALL in_parts($_[0])", parts => 3, sure => $may_commit } ],
	[ 1, sub { sql => "BEGIN; INSERT INTO effect VALUES ($_[0], 1); COMMIT; SELECT 1", cols => 'a int', sure => $may_commit, early => 1 } ],
);

# More than is kept in memory, or may be kept in a file where that is limited
sub big_job { return rows_job($_[0], @{ one_of([ 100, 30_000 ], [ 4, 1_000_000 ], [ 40_000, 100 ]) }) }

# Plans a job. Its number comes first in its SQL, so that lists tell it.
sub job
{
	my ($kind) = @_;
	my $n = ++$number;
	my %new = (cols => 'a text', parts => 1, sure => 0, n => $n, ($kind // pick(@kinds))->($n));
	$new{sql} = "/*$n*/ $new{sql}";
	return $job{$n} = \%new;
}

# A handle: mostly one of this session's, then its number is told for the report.
sub handle
{
	my $s = one_of($last_slot, $last_slot, 0 .. 3);
	return pick(
		[ 85, [ ":h${s}_pid, :h${s}_cookie", ":h${s}_n", ":h${s}_cols" ] ],
		[ 3, [ ":h${s}_pid, :h${s}_cookie + 1", 0, 'a text' ] ],
		[ 3, [ odd(1) . '::int4, ' . odd(1) . '::int8', 0, 'a text' ] ],
		[ 4, [ '(SELECT pid FROM handle ORDER BY random() LIMIT 1), (SELECT cookie FROM handle ORDER BY random() LIMIT 1)', 0, 'a text' ] ]);
}

sub handles
{
	return 'ARRAY[' . join(', ', map { chance(0.05) ? 'NULL' : "($_->[0])" } map { handle() } 1 .. int rand 6)
	  . ']::pg_background_handle[]';
}

# Launches a job into one of the session's four slots for handles.
sub launch
{
	my ($call, $job) = @_;
	my $s = $last_slot = int rand 4;
	return "SELECT pid, cookie, $job->{n} AS n, '$job->{cols}' AS cols FROM $call WHERE pid IS NOT NULL \\gset h${s}_\n"
	  . "\\echo @ $job->{n} launch :ERROR :SQLSTATE :h${s}_n";
}

sub quoted { return "\$job\$$_[0]{sql}\$job\$" }

# A statement of one text, or how another may run it
sub wrapped
{
	my ($sql) = @_;
	return pick([ 70, "$sql" ], [ 15, "SELECT as_owner(\$w\$$sql\$w\$)" ],
		[ 15, "SELECT in_block(\$w\$$sql\$w\$, @{[one_of('false', 'true')]})" ]);
}

# A statement that takes a handle, perhaps in a subtransaction
sub with_handle
{
	my ($format, $handle) = @_;
	my @values = split /, (?![^()]*\))/, ($handle // handle())->[0];
	return sprintf $format, join ', ', @values if chance(0.8);
	return "SELECT in_block(format('" . sprintf($format, '%L, %L') . "', " . join(', ', @values) . '), false)';
}

# Tells the outcome of jobs; the columns state and sqlstate are expressions.
sub outcomes
{
	my ($n, $source, $state, $sqlstate, $from, $with) = @_;
	return ($with // '') . "SELECT string_agg(concat_ws(' ', '\@', $n, '$source', $state, coalesce($sqlstate, '-')), chr(10)) FROM $from";
}

# A job's number where only its SQL is at hand
my $n_of_sql = q{substring(sql_preview from '/\*(\d+)\*/')};

# A job with parameters, which may be of any type, or of none
my @parameters = (q{'text'}, 'NULL', '1.5', q{repeat('x', 100000)}, 'ARRAY[1, 2]', q{'{"a": 1}'::jsonb}, 'ROW(1, 2)');
sub params_job
{
	my $n = ++$number;
	my $args = one_of("'$n'::pg_background_untyped, 'untyped'", map { "$n\::int8, $_" } @parameters);
	return $job{$n} = { n => $n, cols => 'a text', parts => 1, sure => 0,
		sql => "\$job\$/*$n*/ INSERT INTO effect SELECT \$1::int8, 1 WHERE \$2 IS NULL OR true\$job\$, $args" };
}

# Many small jobs by one statement: a source of rows (n, sql), and what is done with
# each of them.
my $in_bursts = 0;
sub burst
{
	my @jobs = map { job(pick(@small_kinds)) } 1 .. $jobs_a_burst;
	my $rows = sprintf 'unnest(ARRAY[%s], ARRAY[%s]) j(n, sql)', join(', ', map { $_->{n} } @jobs), join(', ', map { quoted($_) } @jobs);

	$in_bursts += @jobs;
	return pick(
		[ 3, sub { outcomes('(SELECT min(n) FROM j) + ordinality - 1', 'run_all', "coalesce(state, 'error')", "coalesce(sqlstate, 'never')",
			'pg_background_run_all_v2(ARRAY(SELECT sql FROM j ORDER BY n), ' . one_of(1, 3, 8) . ", false)", "WITH j AS (SELECT * FROM $rows) ") } ],
		[ 2, sub { outcomes('n', 'run', 'has_error', 'sqlstate', "$rows, pg_background_run_v2(sql)") } ],
		[ 2, sub { outcomes('n', 'outcome', 'state', 'sqlstate', "$rows, pg_background_launch_v2(sql) h, LATERAL (SELECT pg_background_wait_v2(h.pid, h.cookie)) w, pg_background_outcome_v2(h.pid, h.cookie)") } ],
		[ 2, sub { "SELECT count(*) FROM $rows, pg_background_submit_v2(sql)" } ],
		[ 2, sub { $_->{pledged} = 1 foreach @jobs; "INSERT INTO pledge SELECT n FROM $rows, pg_background_submit_on_commit_v2(sql)" } ]
	)->();
}

my @actions = (
	[ 4, \&burst ],
	[ 12, sub { my $j = job(); launch("pg_background_launch_v2(@{[quoted($j)]}, @{[queue_size()]})", $j) } ],
	[ 6, sub { my $j = job(); launch("pg_background_launch_v2(@{[quoted($j)]}, @{[queue_size()]}, @{[label()]})", $j) } ],
	[ 5, sub { my $j = job(); delete @$j{qw(rows bytes)}; launch("pg_background_submit_v2(@{[quoted($j)]})", $j) } ],
	[ 3, sub { my $j = job(); delete @$j{qw(rows bytes)}; launch("pg_background_submit_v2(@{[quoted($j)]}, @{[queue_size()]}, @{[label()]})", $j) } ],
	[ 4, sub { my $j = job(\&big_job);
			launch("pg_background_launch_v2(@{[quoted($j)]})", $j) . "\nSELECT pg_background_wait_v2(:h${last_slot}_pid, :h${last_slot}_cookie)" } ],
	[ 3, sub { my $j = params_job(); launch("pg_background_@{[one_of('launch', 'submit')]}_params_v2($j->{sql})", $j) } ],
	[ 1, sub { launch('pg_background_launch_v2(NULL, 0, NULL)', { n => 0, cols => 'a text' }) } ],
	[ 5, sub { join ";\n", map { my $j = job(); $j->{pledged} = 1;
			wrapped("INSERT INTO pledge SELECT $j->{n} FROM pg_background_submit_on_commit_v2(@{[quoted($j)]}, @{[queue_size()]}, @{[label()]}) RETURNING ''") } 1 .. one_of(1, 1, 1, $in_transaction ? 3 : 20) } ],
	[ 8, sub { my $j = job();
			wrapped(outcomes($j->{n}, 'run', 'has_error', 'sqlstate', "pg_background_run_v2(@{[quoted($j)]}, @{[queue_size()]}, @{[limit_ms()]}, @{[label()]})")) } ],
	[ 2, sub { my $j = params_job(); wrapped(outcomes($j->{n}, 'run', 'has_error', 'sqlstate', "pg_background_run_params_v2($j->{sql})")) } ],
	[ 4, sub { my $j = job();
			wrapped("SELECT concat_ws(' ', '\@', $j->{n}, 'result', 'f', '-', count(*), @{[$j->{bytes} ? 'sum(length(b))' : 0]}) FROM pg_background_run_query_v2(@{[quoted($j)]}, @{[queue_size()]}, @{[limit_ms()]}) AS ($j->{cols})") } ],
	[ 3, sub { my @j = map { job() } 1 .. one_of(0, 1, 3, 10);
			my $numbers = join ', ', 0, map { $_->{n} } @j;
			wrapped(outcomes("(ARRAY[$numbers])[ordinality + 1]", 'run_all', "coalesce(state, 'error')", "coalesce(sqlstate, 'never')",
				'pg_background_run_all_v2(ARRAY[' . join(', ', map { quoted($_) } @j) . "]::text[], @{[odd(0, 1, 3)]}, @{[$calm ? 'false' : one_of('true', 'false')]})")) } ],
	[ 2, sub { my @j = map { job() } 1 .. one_of(1, 4);
			my $numbers = join ', ', map { $_->{n} } @j;
			"\\set outcomes {}\nCALL pg_background_maintain(ARRAY[" . join(', ', map { quoted($_) } @j) . "]::text[], @{[odd(0, 1, 3)]}) \\gset\n"
			  . outcomes("(ARRAY[$numbers])[i]", 'maintain', "coalesce(state, 'error')", "coalesce(sqlstate, 'never')",
				"(SELECT row_number() OVER () AS i, state, sqlstate FROM unnest(:'outcomes'::pg_background_outcome[])) o") } ],
	[ 2, sub { my $j = job(); 'DO $do$ DECLARE h record; BEGIN SELECT * INTO h FROM pg_background_' . one_of('launch', 'submit')
			  . "_v2(@{[quoted($j)]}); @{[one_of('COMMIT', 'ROLLBACK')]}; PERFORM pg_background_wait_v2(h.pid, h.cookie); END \$do\$" } ],
	[ 6, sub { with_handle('SELECT pg_background_wait_v2(%s)') } ],
	[ 3, sub { with_handle("SELECT pg_background_wait_v2_timeout(%s, @{[odd(0, 1, 10, 100)]})") } ],
	[ 3, sub { "SELECT pg_background_wait_any_v2(@{[handles()]}, @{[odd(0, 1, 100)]})" } ],
	[ 4, sub { "SELECT count(*) FROM pg_background_drain_v2(@{[handles()]}, @{[odd(0, 1, 100)]})" } ],
	[ 10, sub { my $h = handle();
			"SELECT concat_ws(' ', '\@', $h->[1], 'result', 'f', '-', count(*), sum(length(to_jsonb(r) ->> 'b'))) FROM (SELECT * FROM pg_background_result_v2($h->[0]) AS ($h->[2])) r" } ],
	[ 6, sub { my $h = handle();
			"SELECT concat_ws(' ', '\@', $h->[1], 'result', 'f', '-', count(*), sum(length(r ->> 'b'))) FROM pg_background_result_jsonb_v2($h->[0]) r" } ],
	[ 1, sub { my $h = handle(); "SELECT pg_background_result_jsonb_v2($h->[0]) LIMIT 1" } ],
	[ 1, sub { my $h = handle();
			"SELECT * FROM pg_background_result_v2($h->[0]) AS (@{[$calm ? $h->[2] : one_of('a text', 'a int', 'a int, b text')]}) LIMIT 0" } ],
	[ 1, sub { my $h = handle(); "DECLARE c CURSOR FOR SELECT * FROM pg_background_result_v2($h->[0]) AS ($h->[2]); MOVE 2 c; CLOSE c" } ],
	[ 1, sub { my $h = handle();
			my $forget = one_of("pg_background_detach_v2($h->[0])", 'pg_background_purge_v2()', 'count(*) FROM pg_background_result_jsonb_v2(' . $h->[0] . ')');
			"DECLARE d CURSOR FOR SELECT pg_background_result_jsonb_v2($h->[0]); MOVE d; SELECT $forget; MOVE ALL d; CLOSE d" } ],
	[ 1, sub { 'SELECT count(*) FROM pg_background_list l, pg_background_result_jsonb_v2(l.pid, l.cookie)' } ],
	[ 12, sub { my $h = handle(); outcomes($h->[1], 'outcome', 'state', 'sqlstate', "pg_background_outcome_v2($h->[0])") } ],
	[ 4, sub { my $h = handle(); outcomes($h->[1], 'status', "s ->> 'state'", "s ->> 'sqlstate'", "pg_background_status_v2($h->[0]) s") } ],
	[ 6, sub { outcomes($n_of_sql, 'list', 'o.state', 'o.sqlstate', 'pg_background_list l, pg_background_outcome_v2(l.pid, l.cookie) o') } ],
	[ 2, sub { "SELECT count(*) FROM $PgBackground::list" } ],
	[ 2, sub { 'SELECT count(*) FROM ' . one_of('pg_background_activity', 'pg_background_workers', 'pg_background_workers_v2()') } ],
	[ 4, sub { with_handle("SELECT count(*) FROM pg_background_@{[one_of('result_info', 'error_info', 'get_progress', 'full_sql')]}_v2(%s)") } ],
	[ 2, sub { one_of('SELECT pg_background_stats_v2()', "SELECT pg_background_progress(@{[odd(1)]}, 'x')") } ],
	[ 5, sub { my $h = handle(); $calm ? '' : with_handle('SELECT pg_background_cancel_v2(%s)') } ],
	[ 3, sub { my $h = handle(); $calm ? '' : with_handle("SELECT pg_background_cancel_v2_grace(%s, @{[odd(0, 1, 10, 100)]})") } ],
	[ 1, sub { $calm ? '' : 'SELECT pg_background_cancel_all_v2()' } ],
	[ 2, sub { $calm ? '' : "SELECT pg_background_cancel_by_label_v2(@{[one_of(q{'a%'}, q{'%'}, 'NULL')]}, @{[odd(0, 1, 50)]})" } ],
	[ 4, sub { with_handle('SELECT pg_background_detach_v2(%s)') } ],
	[ 1, sub { 'SELECT pg_background_detach_all_v2()' } ],
	[ 2, sub { 'SELECT pg_background_purge_v2()' } ],
	[ 3, sub { my $j = job();
			"SELECT h::int4 AS pid, $j->{n} AS n, '$j->{cols}' AS cols FROM pg_background_launch(@{[quoted($j)]}, @{[queue_size()]}) h WHERE h.pid IS NOT NULL \\gset v1_\n\\echo @ $j->{n} launch :ERROR :SQLSTATE :v1_n" } ],
	[ 3, sub { 'SELECT count(*) FROM pg_background_result(:v1_pid) AS (:v1_cols)' } ],
	[ 1, sub { "SELECT pg_background_detach(@{[odd(':v1_pid', ':h1_pid')]})" } ],
	[ 1, sub { my $h = handle(); "INSERT INTO handle VALUES ($h->[0])" } ],
	[ 2, sub { one_of('SAVEPOINT s', 'ROLLBACK TO s', 'RELEASE s') } ],
	[ 1, sub { "UPDATE spot SET n = n + 1 WHERE id = @{[one_of(1 .. 4)]}" } ],
	[ 1, sub { one_of('SET ROLE fuzz_owner', 'SET ROLE fuzz_member', 'RESET ROLE') } ],
	[ 0.5, sub { '\q' } ],
	[ 0.3, sub { $superuser == 1 ? "SELECT @{[one_of('grant', 'revoke')]}_pg_background_privileges('fuzz_owner', true)" : '' } ],
	[ 1, sub { one_of('DISCARD ALL', 'DISCARD PLANS', "SELECT pg_sleep(@{[one_of(0.02, 0.15)]})", 'SELECT pg_background_wait_v2(pid, cookie) FROM pg_background_list') } ],
);

# Settings that make things fail, or that are seldom what they are
sub limits
{
	return one_of(
		map({ "SET statement_timeout = $_" } 1, 5, 20, 100),
		map({ "SET lock_timeout = $_" } 1, 20),
		map({ "SET pg_background.worker_timeout = $_" } 1, 20, 100),
		map({ "SET pg_background.launch_timeout = $_" } 0, 2000),
		map({ "SET pg_background.max_workers = $_" } 1, 2),
		map({ "SET session_replication_role = $_" } $superuser ? 'replica' : ()),
		map({ "SET pg_background.max_idle_workers = $_" } 0, 1, 8),
		map({ "SET pg_background.max_role_workers = $_" } $superuser ? (1, 3) : ()),
		('SET pg_background.share_workers = off') x 2,
		'SET pg_background.look_time = 0', 'SET pg_background.default_queue_size = 4096',
		'SET pg_background.idle_timeout = 0', 'SET client_encoding = LATIN1', 'SET client_min_messages = debug2',
		($superuser ? map({ "SET temp_file_limit = $_" } 0, 200, 1000) : ()), ($superuser ? 'SET log_parser_stats = on' : ()));
}

# What a session does before it is asked for more: some actions, as one
# transaction or not, under settings that hold until the next turn.
sub plan_turn
{
	my @turn = ("\\set ON_ERROR_ROLLBACK @{[one_of('on', 'off')]}", 'RESET ALL', "SELECT setseed(@{[rand]})");
	my $limits = $calm ? 0 : chance(0.4) ? one_of(1, 1, 2) : 0;
	$in_transaction = chance(0.4);

	$last_slot = int rand 4;
	push @turn, limits() for 1 .. $limits;
	push @turn, 'BEGIN' if $in_transaction;
	push @turn, pick(@actions)->() for 1 .. one_of(1 .. 8);
	push @turn, one_of('COMMIT', 'COMMIT', 'ROLLBACK') if $in_transaction;
	return join '', map { /^\\.*\z/m ? "$_\n" : "$_;\n" } grep { $_ ne '' } @turn;
}

# ----------------------------------------------------------------
#		Faults from outside
# ----------------------------------------------------------------

my @sessions;

my $two_workers = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_background' ORDER BY random() LIMIT 2};

sub signal_workers
{
	my ($function) = @_;
	return sub {
		$control->query("SELECT $function(pid) FROM ($two_workers) w");
	};
}

sub signal_session
{
	my ($function) = @_;
	return sub { $control->query("SELECT $function($_[0]{session}{pid})") };
}

# Limits a resource of a process.
sub prlimit { return system("prlimit --$_[1]=$_[2]: --pid $_[0] 2>/dev/null") == 0 }

# Lets a process have just so many bytes more of memory.
sub starve
{
	my ($pid, $bytes) = @_;
	my ($pages) = (eval { slurp_file("/proc/$pid/statm") } // '') =~ /^(\d+)/ or return;
	return prlimit($pid, 'as', $pages * 4096 + $bytes);
}

sub fail_forks
{
	my ($pid) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	my ($limit) = `prlimit --nproc --pid $pid -o SOFT --noheadings` =~ /(\w+)/ or return;
	prlimit($pid, 'nproc', 1) or return;
	usleep(50_000);
	prlimit($pid, 'nproc', $limit) or die 'could not let the postmaster fork again';
	return;
}

# Changes what a session's role may do while it has jobs, or what it begins with:
# workers that have logged in before give back the jobs that they are given.
sub alter_role
{
	$control->query('ALTER ROLE fuzz_member NOLOGIN');
	usleep(20_000);
	$control->query('ALTER ROLE fuzz_member LOGIN');
	return;
}
sub alter_settings
{
	my $role = one_of('fuzz_member', 'CURRENT_USER');
	$control->query("ALTER ROLE $role SET test.setting = '@{[int rand 1000]}'");
	return;
}

# Allows fewer workers, or less in the queue, for a while.
sub limit_pool
{
	my $limit = one_of('max_total_workers = 2', 'max_total_workers = 0', 'queue_memory = 8');
	# It takes the library to know the setting.
	$control->query("LOAD 'pg_background';\nALTER SYSTEM SET pg_background.$limit;\nSELECT pg_reload_conf()");
	usleep(50_000);
	$control->query("ALTER SYSTEM RESET @{[$limit =~ s/ .*//r =~ s/^/pg_background./r]};\nSELECT pg_reload_conf()");
	return;
}

my @faults = (
	[ 1, \&alter_role ],
	[ 2, \&alter_settings ],
	[ 1, \&limit_pool ],
	[ 4, signal_workers('pg_cancel_backend') ],
	[ 4, signal_workers('pg_terminate_backend') ],
	[ 4, signal_session('pg_cancel_backend') ],
	[ 2, signal_session('pg_terminate_backend') ],
	[ 1, sub { kill 'KILL', $_[0]{session}{run}->{KIDS}[0]{PID} } ],
	[ 2 * $has_prlimit, sub { prlimit($_[0]{session}{pid}, 'fsize', 1_200_000) } ],
	[ 1 * $has_prlimit, sub { prlimit($_[0]{session}{pid}, 'nofile', 25) } ],
	[ 2 * $has_prlimit, sub { starve($_[0]{session}{pid}, $_[1]) } ],
	[ 2 * $has_prlimit, sub { starve($_, $_[1]) foreach split /\n/, $control->query($two_workers) } ],
	[ 1 * $has_prlimit, \&fail_forks ],
);

# ----------------------------------------------------------------
#		The accounts
# ----------------------------------------------------------------

my @wrong;		# of this round
my %total;		# of all rounds

sub wrong { push @wrong, $_[0] if @wrong < 30; return }

# Takes what sessions have told of their jobs: lines of "@", a job's number,
# who says so, its state or whether it failed, its SQLSTATE, and what else.
sub take_reports
{
	my ($out) = @_;

	foreach (split /\n/, $out)
	{
		my ($n, $source, $state, $sqlstate, @more) = /^@ (\d+) (.*)/ ? ($1, split / /, $2) : ();
		my $job = $n ? $job{$n} : undef;
		next unless $job;

		if ($source eq 'launch')
		{
			$job->{launched} = 1 if $more[0] eq $n;
			# It may have begun where it was interrupted, or where there was no
			# memory left for the handle.
			next if $more[0] eq $n || $state ne 'true' || $sqlstate =~ /^(57014|57P01|40P01|53200)$/;
		}
		my $end = $state =~ /^(f|stopped)$/ ? 'done' : $state =~ /^(t|true|error|canceled)$/ ? 'failed' : next;
		wrong("job $n is $end, by $source ($sqlstate), and was $job->{end} ($job->{told})")
		  if $job->{end} && $job->{end} ne $end;
		@$job{qw(end told sqlstate)} = ($end, "$source $sqlstate", $sqlstate);
		wrong("job $n: @more rows and bytes, not $job->{rows} $job->{bytes}")
		  if $source eq 'result' && defined $job->{rows}
		  && ($more[0] != $job->{rows} || defined $job->{bytes} && ($more[1] || 0) != $job->{bytes});
	}
	return;
}

# Compares what has been told with what is there.
sub account
{
	my %there;
	my %pledged = map { $_ => 1 } split /\n/, $control->query('SELECT n FROM pledge');

	foreach (split /\n/, $control->query('SELECT n, part, count(*) FROM effect GROUP BY 1, 2'))
	{
		my ($n, $part, $count) = split /\|/;
		wrong("job $n: part $part is there $count times") if $count != 1;
		wrong("job $n of an earlier round is there") unless $job{$n};
		$there{$n}{$part} = 1;
	}
	foreach my $n (sort { $a <=> $b } keys %job)
	{
		my $job = $job{$n};
		my $parts = keys %{ $there{$n} // {} };
		my $is_done = $parts == $job->{parts};
		my $end = $job->{end} // ($job->{pledged} && !$pledged{$n} ? 'failed' : 'open');
		my $told = join ' ', $job->{told} // ($job->{pledged} ? 'on commit' : 'nothing'), ': ', substr $job->{sql}, 0, 200;
		my $in_doubt = $end eq 'failed' && ($job->{sqlstate} // '') =~ /^(08006|57P01|53[124]00|58030|XX000|22000)$/;

		$total{$end}++;
		$total{ "$job->{sqlstate}, " . ($is_done ? 'there' : 'not there') }++ if $in_doubt;
		wrong("job $n was reported done, and is not there ($told)") if $end eq 'done' && !$is_done;
		wrong("job $n was reported failed, and is there ($told)") if $end eq 'failed' && $is_done && !$in_doubt && !$job->{early};
		wrong("job $n is there in part: $parts of $job->{parts}, reported $end ($told)")
		  if $parts && !$there{$n}{$parts};
		wrong("job $n was launched, and is not there ($told)")
		  if $calm && !$small_disk && $job->{sure} && !$is_done && ($job->{launched} || $job->{pledged} && $pledged{$n});
	}
	%job = ();
	$control->query('TRUNCATE effect, pledge, handle');
	return;
}

# ----------------------------------------------------------------
#		A round
# ----------------------------------------------------------------

my $crashed = qr/TRAP:|PANIC:|PID \d+\) was terminated by signal|terminating any other active server processes|Failed process was running/;
my $ill = qr/WARNING:.*(leak|problem in alloc|still referenced|in use)|hash table corrupted|invalid memory alloc/i;

sub open_session
{
	my ($s) = @_;
	my $user = $s->{superuser} ? undef : 'fuzz_member';
	my $session = eval { new_session($node, user => $user, quiet => 1, dbname => $database) };

	return 0 unless $session && $session->{pid} =~ /^\d+$/;
	$session->query(join "\n", map({ "\\set $_\_pid 1\n\\set $_\_cookie 1\n\\set $_\_n 0\n\\set $_\_cols 'a text'" } 'v1', map { "h$_" } 0 .. 3));
	$s->{session} = $session;
	return 1;
}

sub close_session
{
	my ($s, $how) = @_;
	my $session = delete $s->{session} or return;
	eval { $session->{run}->$how; 1 } or eval { $session->{run}->kill_kill };
	return;
}

sub take_output
{
	my ($s) = @_;
	my $session = $s->{session};

	delete $s->{since};
	take_reports(eval { $session->receive } // '');
	close_session($s, 'finish') unless $session->{run}->pumpable;
	return;
}

# Lets the sessions have their turns. Returns false where the server crashed.
sub run_turns
{
	my ($plan, $size) = @_;
	my $dispatched = 0;

	while (my @open = grep { @{ $_->{turns} } || $_->{since} } @sessions)
	{
		my $did = 0;
		foreach my $s (@open)
		{
			die "a session hangs for $PgBackground::limit s:\n$s->{sql}\n"
			  . $control->query('SELECT * FROM pg_stat_activity WHERE backend_type ~ $$client|pg_background$$')
			  if $s->{since} && time > $s->{since} + $PgBackground::limit;
			next if $s->{since} && !$s->{session}->is_done;
			take_output($s) if $s->{since};
			$did = 1;
			next unless @{ $s->{turns} };
			$s->{sql} = shift @{ $s->{turns} };
			$s->{session} || open_session($s) or return 0;
			unless (eval { $s->{session}->send($s->{sql}); 1 })
			{
				# It was ended while it had nothing to do, or by a \q of a long turn.
				close_session($s, 'finish');
				next;
			}
			$s->{since} = time;

			my $fault = $plan->{ $dispatched++ } or next;
			my $target = $sessions[ $fault->[0] ];
			usleep($fault->[1]);
			$fault->[2]->($target, 200 * $fault->[1]) if $target->{session};
		}
		usleep(1000) unless $did;
		return 0 if chance(0.002) && log_since($node, $size) =~ $crashed;
	}
	return 1;
}

# Waits for a session's jobs, takes its last reports, and lets it forget them.
# Returns false where it has been ended meanwhile.
sub end_session
{
	my ($session) = @_;
	my $wait = q{SELECT count(pg_background_wait_v2(pid, cookie)::text) FROM pg_background_list};
	my $last = outcomes($n_of_sql, 'list', 'o.state', 'o.sqlstate', 'pg_background_list l, pg_background_outcome_v2(l.pid, l.cookie) o');

	return 1 if eval {
		$session->query("ROLLBACK;\nRESET ALL;\nRESET ROLE");
		foreach my $sql ($wait, $last, 'SELECT pg_background_detach_all_v2()')
		{
			take_reports($session->query("$sql;\nSELECT as_owner(\$\$$sql\$\$)"));
		}
		1;
	};
	wrong("at a session's end: $@") unless $@ =~ /FATAL:  57P01|Broken pipe|process ended prematurely/;
	return 0;
}

sub end_round
{
	my ($name) = @_;
	my @open = map { $_->{session} // () } @sessions;

	my %enough = (as => 'unlimited', fsize => 'unlimited', nofile => 1000);
	foreach my $session ($has_prlimit ? @open : ())
	{
		prlimit($session->{pid}, $_, $enough{$_}) foreach sort keys %enough;
	}
	@open = grep { end_session($_) } @open;
	nothing_left($node, $name, @open);
	foreach (@open)
	{
		my ($ours, $all, $names) = split /\|/, $_->query("SELECT coalesce(sum(used_bytes) FILTER (WHERE name ~ '^pg_background'), 0), sum(used_bytes), string_agg(name, ', ') FILTER (WHERE name ~ '^pg_background') FROM pg_backend_memory_contexts");
		wrong("a session without jobs holds $ours of $all bytes: $names") if $ours > 300_000 * max(1, $jobs_a_burst / 1000) || $all > 10_000_000;
	}
	wrong('temporary files are left on the small disk')
	  if $control->query(q{SELECT count(*) FROM pg_tablespace, pg_ls_tmpdir(oid) WHERE spcname = 'small'});
	account();
	return 1;
}

sub run_round
{
	my ($round_seed) = @_;
	my $first = $number;
	my $size = log_size($node);
	my %plan;

	srand $round_seed;
	$calm = $round_seed % 4 == 0;
	@wrong = ();
	@sessions = map { { superuser => $_ % 2 && $_, turns => [] } } 0 .. 5;
	$in_bursts = 0;
	for (my $i = 0; $number < $first + $in_bursts + $jobs_a_round; $i++)
	{
		$superuser = $sessions[ $i % 6 ]{superuser};
		push @{ $sessions[ $i % 6 ]{turns} }, plan_turn();
		$plan{$i} = [ int rand 6, int rand 20_000, pick(@faults) ] if !$calm && chance(0.3);
	}
	$total{jobs} += $number - $first;

	my $survived = eval { run_turns(\%plan, $size) && end_round("seed $round_seed") };
	wrong($@) if $@;
	close_session($_, $survived ? 'finish' : 'kill_kill') foreach @sessions;

	# A process that had no memory to map a segment cannot map it later, either: from 17
	# on the server keeps a mapping that came to nothing.
	my $log = log_since($node, $size);
	my $unmapped = join '|', 'none', $log =~ /\[(\d+)\] 53200 \w+:  could not map shared memory segment/g;
	foreach (grep { /$crashed|$ill/ || / XX\d{3} (ERROR|FATAL):(?!.*(File too large|No space left|could not resize shared memory))/ } split /\n/, $log)
	{
		wrong("log: $_") unless /\[($unmapped)\] XX000 \w+:  can't attach the same segment more than once$/;
	}
	if ($log =~ $crashed || !$survived)
	{
		%job = ();
		eval { $control->quit };
		wait_until('the server is back',
			sub { log_since($node, $size) =~ /reinitializing.*ready to accept connections/s })
		  if $log =~ $crashed;
		$control = new_session($node, quiet => 1, dbname => $database);
		$control->query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type ~ 'client|pg_background'");
		await($node, q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type ~ 'client|pg_background'})
		  or BAIL_OUT('a process cannot be ended');
		$control->query('TRUNCATE effect, pledge, handle');
	}
	# A long run's would get long, but what has failed is to be seen.
	$total{'failed rounds'}++ if @wrong;
	truncate $node->logfile, 0 unless $total{'failed rounds'};
	ok(!@wrong, "seed $round_seed: all jobs are accounted for") or diag join "\n", @wrong;
	return;
}

my $start = time;
for (my $round = 0; ($total{jobs} // 0) < $jobs_wanted; $round++)
{
	run_round($seed + $round);
	note sprintf '%d s, %s', time - $start, join ', ', map { "$_: $total{$_}" } sort keys %total;
}
$control->quit;
done_testing();
