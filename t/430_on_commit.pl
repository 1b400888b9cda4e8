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
$node->safe_psql('postgres', q{
	CREATE TABLE done (what text);
	CREATE ROLE worker LOGIN;
	GRANT pgbackground_role TO worker;
	GRANT INSERT, SELECT ON done TO worker;
	REVOKE CONNECT ON DATABASE postgres FROM PUBLIC;
	GRANT CONNECT ON DATABASE postgres TO worker;
});
my $offset = log_size($node);

# The first job's worker dies while the second waits for the slot: the transaction
# fails with the reason.
my $session = new_session($node, user => 'worker');
$session->query(q{SET pg_background.max_idle_workers = 0});
$session->query(q{SET pg_background.launch_timeout = '10min'});
$node->safe_psql('postgres', 'REVOKE CONNECT ON DATABASE postgres FROM worker');
$session->query(q{BEGIN});
$session->query(q{SELECT pg_background_submit_on_commit_v2($$INSERT INTO done VALUES ('one')$$)});
$session->query(q{SELECT pg_background_submit_on_commit_v2($$INSERT INTO done VALUES ('two')$$)});
$session->query(q{INSERT INTO done VALUES ('launcher')});
$session->fails('COMMIT', '42501', qr/permission denied for database/, 'a worker that dies before the commit');
is($session->query('SELECT count(*) FROM done'), '0', 'the transaction is rolled back');
$node->safe_psql('postgres', 'GRANT CONNECT ON DATABASE postgres TO worker');

$session->query(q{BEGIN});
$session->query(q{SELECT pg_background_submit_on_commit_v2($$INSERT INTO done VALUES ('three')$$)});
$session->query(q{COMMIT});
$session->query('SELECT count(pg_background_wait_v2(pid, cookie)) FROM pg_background_list');
is($session->query('SELECT string_agg(what, $$ $$) FROM done'), 'three', 'the session goes on');
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
	my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
	$pg_config = $node->config_data('--bindir') . '/pg_config';
	skip 'a module cannot be built here', 4
	  unless system("make -s -C $module PG_CONFIG=$pg_config with_llvm=no >$module/log 2>&1") == 0;

	$session = new_session($node);
	$session->query("LOAD '$module/pre_commit.so'");
	$session->query('SELECT pid FROM pg_background_run_v2($$SELECT 1$$)');
	$session->query(q{BEGIN; SELECT pg_background_submit_on_commit_v2('SELECT 1'); ROLLBACK});
	$session->query(q{SET test.pre_commit = 'SELECT pg_background_submit_on_commit_v2($$INSERT INTO done VALUES (''four'')$$)'});
	$session->query('SELECT count(pg_background_wait_v2(pid, cookie)) FROM pg_background_list');
	ok( $node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM done WHERE what = 'four'}),
		'what is submitted while the transaction is being committed is run');
	$session->quit;

	# The library is loaded only then: nobody has asked us before the commit.
	$session = new_session($node);
	$session->query("LOAD '$module/pre_commit.so'");
	$session->query(q{SET test.pre_commit = 'SELECT pg_background_submit_on_commit_v2($$INSERT INTO done VALUES (''five'')$$)'});
	like($session->{messages}, qr/WARNING:.*submitted while its transaction was being committed/, 'too late, which is said');
	is($session->query('SELECT state || $$ $$ || last_error FROM pg_background_list'),
		'error background job was submitted while its transaction was being committed', 'and is the error of the job');
	is($session->query(q{SELECT count(*) FROM done WHERE what = 'five'}), '0', 'which was not run');
	$session->quit;
}

unlike(log_since($node, $offset), qr/PANIC|signal \d|TRAP/, 'nothing has crashed');
nothing_left($node, 'at the end');

done_testing();
