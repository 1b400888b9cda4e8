# Jobs that start when a transaction commits, where something goes wrong between
# the moment that all that can fail is done and the commit.
#
# Hardening 5, Known failure 23.

use strict;
use warnings;

use File::Copy;
use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

# There is a single slot.
my $node = new_server('main', <<'END');
max_worker_processes = 1
max_logical_replication_workers = 0
max_parallel_workers = 0
END
sql($node, q{
	CREATE TABLE done (what text);
	CREATE ROLE worker LOGIN;
	GRANT pgbackground_role TO worker;
	GRANT INSERT, SELECT ON done TO worker;
	REVOKE CONNECT ON DATABASE postgres FROM PUBLIC;
	GRANT CONNECT ON DATABASE postgres TO worker;
});
my $offset = log_size($node);

# Their user cannot connect any more: the jobs fail with the reason, for the session
# to see; in the log, if it is gone.
my $session = new_session($node, user => 'worker');
sql($node, 'REVOKE CONNECT ON DATABASE postgres FROM worker');
$session->query(q{BEGIN});
$session->query(q{SELECT pg_background_submit_on_commit_v2($$INSERT INTO done VALUES ('one')$$)});
$session->query(q{SELECT pg_background_submit_on_commit_v2($$INSERT INTO done VALUES ('two')$$)});
$session->query(q{INSERT INTO done VALUES ('launcher')});
$session->query('COMMIT');
is($session->query(q{SELECT string_agg(state || ' ' || sqlstate || ' ' || error_message, ', ')
	FROM pg_background_drain_v2(array(SELECT (pid, cookie)::pg_background_handle FROM pg_background_list))}),
	join(', ', ('error 42501 permission denied for database "postgres"') x 2), 'a worker that cannot connect');
is($session->query('SELECT string_agg(what, $$ $$) FROM done'), 'launcher', 'the transaction is committed');
$session->query('SELECT pg_background_detach_all_v2()');
like(log_since($node, $offset), qr/FATAL:  permission denied for database "postgres"/, 'the log says why');
sql($node, 'GRANT CONNECT ON DATABASE postgres TO worker; TRUNCATE done');

$session->query(q{BEGIN});
$session->query(q{SELECT pg_background_submit_on_commit_v2($$INSERT INTO done VALUES ('three')$$)});
$session->query(q{COMMIT});
$session->query('SELECT count(pg_background_wait_v2(pid, cookie)) FROM pg_background_list');
is($session->query('SELECT string_agg(what, $$ $$) FROM done'), 'three', 'the session goes on');

# What cannot be sent at commit is refused before.
$session->query('SELECT pg_background_detach_all_v2()');
$session->query('BEGIN');
$session->query('SAVEPOINT s');
$session->send(q{SELECT pg_background_submit_on_commit_v2(repeat(command, 107374)) FROM (SELECT repeat('SELECT 1; ', 1000) AS command OFFSET 0) c});
$session->receive;
like($session->{messages}, qr/ERROR:  (?:54000|53200): /, 'a GB of commands is refused');
$session->query('ROLLBACK TO s');
$session->query('COMMIT');
is($session->query('SELECT count(*) FROM pg_background_list'), '0', 'its transaction commits without it');
$session->quit;

# What another extension submits when ours has been asked already
SKIP:
{
	my $module = "${PostgreSQL::Test::Utils::tmp_check}/module";

	mkdir $module;
	copy("$FindBin::RealBin/pre_commit.c", $module) or die $!;
	append_to_file("$module/Makefile", <<'END');
MODULES = pre_commit
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
END
	my $pg_config = $node->config_data('--bindir') . '/pg_config';
	skip 'a module cannot be built here', 3
	  unless system("make -s -C $module PG_CONFIG=$pg_config with_llvm=no >$module/log 2>&1") == 0;

	$session = new_session($node);
	$session->query("LOAD '$module/pre_commit.so'");
	$session->query('SELECT pid FROM pg_background_run_v2($$SELECT 1$$)');
	$session->query(q{BEGIN; SELECT pg_background_submit_on_commit_v2('SELECT 1'); ROLLBACK});
	$session->query(q{SET test.pre_commit = 'SELECT pg_background_submit_on_commit_v2($$INSERT INTO done VALUES (''four'')$$)'});
	$session->query('SELECT count(pg_background_wait_v2(pid, cookie)) FROM pg_background_list');
	ok( await($node, q{SELECT count(*) = 1 FROM done WHERE what = 'four'}),
		'what is submitted while the transaction is being committed is run');
	$session->quit;

	# The library is loaded only then: nobody has asked us before the commit.
	$session = new_session($node);
	$session->query("LOAD '$module/pre_commit.so'");
	$session->query(q{SET test.pre_commit = 'SELECT pg_background_submit_on_commit_v2($$INSERT INTO done VALUES (''five'')$$)'});
	$session->query('SELECT count(pg_background_wait_v2(pid, cookie)) FROM pg_background_list');
	is($session->query('SELECT state FROM pg_background_list'), 'stopped', 'and so it is where the library is loaded only then');
	is($session->query(q{SELECT count(*) FROM done WHERE what = 'five'}), '1', 'once');
	$session->quit;
}

unlike(log_since($node, $offset), qr/PANIC|signal \d|TRAP/, 'nothing has crashed');
nothing_left($node, 'at the end');

done_testing();
