# Behind pgbouncer, in each of its modes: what docs/operation.md says of poolers.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Utils;
use Test::More;

my ($pgbouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
plan skip_all => 'pgbouncer is missing' unless $pgbouncer;

my $node = new_server('main', "pg_background.idle_timeout = 1h\n");
my $user = sql($node, 'SELECT current_user');
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $server = sprintf q{host=%s port=%d dbname=postgres}, $node->host, $node->port;

append_to_file("$dir/users", qq{"$user" ""\n});
append_to_file("$dir/pgbouncer.ini", <<"END");
[databases]
session = $server pool_mode=session pool_size=1
transaction = $server pool_mode=transaction pool_size=2
statement = $server pool_mode=statement pool_size=2
[pgbouncer]
unix_socket_dir = $dir
listen_port = 6432
auth_type = trust
auth_file = $dir/users
ignore_startup_parameters = options
END
my $run = IPC::Run::start([ $pgbouncer, "$dir/pgbouncer.ini" ], '<', \undef, '>&', \my $said);
END
{
	local $?;
	$run->kill_kill if $run;
}

{
	package Pooler;
	sub connstr { return "host=$dir port=6432 dbname=$_[1]" }
}
wait_until('the pooler is there', sub { $run->pump_nb; -S "$dir/.s.PGSQL.6432" });

sub client { return new_session('Pooler', dbname => $_[0]) }
sub release { return $_[0]->query('SELECT pg_advisory_unlock_all()') }

my $launch = q{SELECT pg_background_launch('SELECT 42') AS h \gset};
my $result = q{SELECT * FROM pg_background_result(:h) AS (n int)};
my $holder = new_session($node);

#
# Session: as without a pooler; what a client leaves is forgotten, and goes on
#

sql($node, 'CREATE TABLE done (what text)');
my $client = client('session');
my $backend = $client->{pid};
$client->query($launch);
is($client->query($result), '42', 'session: a job of one transaction is read in another');
$holder->query('SELECT pg_advisory_lock(1)');
$client->query(q{SELECT pg_background_launch('SELECT pg_advisory_xact_lock(1); INSERT INTO done VALUES (1)')});
$client->quit;
$client = client('session');
is($client->{pid}, $backend, 'session: the next client has the same backend');
is($client->query('SELECT count(*) FROM pg_background_list'), '0', 'session: it has no job of the one before');
release($holder);
await($node, 'SELECT count(*) = 1 FROM done') or die 'the job was not done';
pass('session: whose job goes on');

# A cancel goes through to the job.
$client->send(q{SELECT pg_background_exec('SELECT pg_sleep(3600)')});
wait_for_pool($node, 'running = 1');
$client->{run}->signal('INT');
$client->fails(undef, '57014', qr/canceling statement due to user request/, 'session: a cancel');
wait_for_pool($node, 'running = 0');
$client->quit;

#
# Transaction: within one, as without a pooler; then whoever has the backend has the
# jobs, and who has another has not
#

my @clients = map { client('transaction') } 1 .. 2;
is($clients[0]->query(q{SELECT pg_background_exec('SELECT 1')}), '1', 'transaction: exec');
$clients[0]->query("BEGIN;\n$launch");
is($clients[0]->query($result), '42', 'transaction: a job is read in the transaction that launched it');
$clients[0]->query('COMMIT');
$clients[0]->query($launch);
$clients[1]->query('BEGIN');
is($clients[1]->query('SELECT count(*) FROM pg_background_list'), '1', 'transaction: another client has the job');
$clients[0]->fails($result, '42704', qr/is not attached to this session/, 'transaction: a client that has another backend');
is($clients[1]->query('SELECT r.* FROM pg_background_list, LATERAL pg_background_result(pid, cookie) AS r (n int)'),
	'42', 'transaction: and may read it');
$clients[1]->query('COMMIT');
$clients[0]->query(q{BEGIN; SELECT pg_background_submit_on_commit('INSERT INTO done VALUES (2)'); COMMIT});
await($node, 'SELECT count(*) = 2 FROM done') or die 'the job was not done';
pass('transaction: submit_on_commit');
$_->quit foreach @clients;

#
# Statement: what is a single one
#

$client = client('statement');
is($client->query(q{SELECT pg_background_exec('SELECT 1')}), '1', 'statement: exec');
is($client->query(q{SELECT * FROM pg_background_query('SELECT 42') AS (n int)}), '42', 'statement: query');
is($client->query(q{SELECT * FROM pg_background_result(pg_background_launch('SELECT 42')) AS (n int)}),
	'42', 'statement: launch and result in one');
$client->query(q{SELECT pg_background_submit_on_commit('INSERT INTO done VALUES (3)')});
await($node, 'SELECT count(*) = 3 FROM done') or die 'the job was not done';
pass('statement: submit_on_commit');
$client->send('BEGIN');
$client->receive;
like($client->{messages}, qr/transaction blocks not allowed/, 'statement: no transaction');
$client->quit;

$holder->quit;
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
