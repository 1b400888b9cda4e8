# What docs/operation.md says of the server's settings and of its library, where no
# other test does.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', "pg_background.idle_timeout = 1h\n");
my $holder = new_session($node);
my $session = new_session($node);

#
# Reload
#

sub pid_and_memory { return split /\|/, $_[0]->result($_[0]->launch(q{SELECT pg_backend_pid(), current_setting('work_mem')}), 'pid int, work_mem text') }

my ($pid, $memory) = pid_and_memory($session);
is($memory, '4MB', 'before the reload');
change_settings($node, work_mem => '5MB');
wait_until('the session has read the configuration', sub { $session->query('SHOW work_mem') eq '5MB' });
my ($again, $now) = pid_and_memory($session);
is($now, '5MB', 'a job has what its session has read again');
is($again, $pid, 'in the same worker');

#
# max_total_workers = 0: what there is, is done; nothing new begins
#

sql($node, 'CREATE TABLE done (what text)');
change_settings($node, 'pg_background.max_total_workers' => 1);
wait_for_pool($node, 'running = 0');
occupy($node, $holder, $session, 1);
$session->submit(q{INSERT INTO done VALUES ('queued')}) foreach 1 .. 20;
change_settings($node, 'pg_background.max_total_workers' => 0);
$holder->query('SELECT pg_advisory_unlock(1)');
wait_for_pool($node, 'running = 0 AND idle = 0 AND queued = 0');
is(sql($node, 'SELECT count(*) FROM done'), '20', 'no worker is allowed: what is queued is done');
$session->query('SET pg_background.launch_timeout = 0');
$session->fails(q{SELECT pg_background_launch('SELECT 1')}, '53000', qr/"pg_background.max_total_workers" allows 0/, 'a launch');
change_settings($node, 'pg_background.max_total_workers' => -1);
is($session->query(q{SELECT pg_background_exec('SELECT 1')}), '1', 'and a launch when there may be workers again');

#
# Jobs are no connections.
#

sql($node, 'CREATE ROLE single LOGIN CONNECTION LIMIT 1 IN ROLE pgbackground_role');
my $single = new_session($node, user => 'single');
occupy($node, $holder, $single, 1 .. 4);
pass('CONNECTION LIMIT does not count jobs');
$node->command_fails([ 'psql', '-X', '-U', 'single', '-d', 'postgres', '-c', 'SELECT 1' ], 'as it does connections');
$holder->query('SELECT pg_advisory_unlock_all()');
$_->quit foreach $holder, $session, $single;

#
# A job is in the way of who drops its database, as a session is.
#

sql($node, 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION pg_background');
my $other = new_session($node, dbname => 'other');
wait_for_worker($node, $other->launch('SELECT pg_sleep(3600)'), "wait_event = 'PgSleep'");
$other->quit;
wait_for_exit($node, $other->{pid});
my (undef, undef, $err) = $node->psql('postgres', 'DROP DATABASE other');
like($err, qr/database "other" is being accessed by other users\nDETAIL:  There is 1 other session/, 'a job is in the way of DROP DATABASE');
is($node->psql('postgres', 'DROP DATABASE other WITH (FORCE)'), 0, 'but for WITH (FORCE)');

#
# A library that is preloaded is there until the server restarts; and it has to be
# there then.
#

my $dir = PostgreSQL::Test::Utils::tempdir_short();
append_to_file("$dir/pg_background.so", slurp_file(library_file($node)));
chmod 0755, "$dir/pg_background.so";
load_library_from($node, 'postgres', "$dir/pg_background");
$node->append_conf('postgresql.conf', "shared_preload_libraries = '$dir/pg_background'");
$node->restart;
append_to_file("$dir/new", 'no library');
rename "$dir/new", "$dir/pg_background.so" or die "$dir: $!";
$session = new_session($node);
is($session->query(q{SELECT pg_background_exec('SELECT 1')}), '1', 'preloaded: sessions and their jobs have the library of before');
$session->quit;
$node->stop;
unlink "$dir/pg_background.so";
my $size = log_size($node);
is($node->start(fail_ok => 1), 0, 'preloaded, and not there: the server does not start');
like(log_since($node, $size), qr/FATAL:  could not access file "\Q$dir\E\/pg_background"/, 'and says so');

unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
