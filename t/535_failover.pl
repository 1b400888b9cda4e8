# A failover: the primary is gone, and its standby goes on. What jobs had committed
# and the standby had received is there; what ran or was queued on the primary is
# not, and nothing of it begins by itself. Jobs of the standby's own sessions go on.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use PostgreSQL::Test::Cluster;
use Test::More;

my $primary = new_server('primary', "pg_background.max_total_workers = 1\n", allows_streaming => 1);
my $standby = PostgreSQL::Test::Cluster->new('standby');

$primary->safe_psql('postgres', 'CREATE TABLE done (what text)');
$primary->backup('backup');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

sub done { return $standby->safe_psql('postgres', q{SELECT string_agg(what, ' ' ORDER BY what) FROM done}) }

my ($holder, $session) = map { new_session($primary) } 1 .. 2;
$session->wait_for($session->launch(q{INSERT INTO done VALUES ('committed')}));
$holder->query('SELECT pg_advisory_lock(1)');
my $job = $session->launch(q{INSERT INTO done VALUES ('running'); SELECT pg_advisory_xact_lock(1)});
wait_for_worker($primary, $job, "wait_event = 'advisory'");
$session->submit(q{INSERT INTO done VALUES ('queued')});
$session->query(q{BEGIN; INSERT INTO done VALUES ('commit'); SELECT pg_background_submit_on_commit($$INSERT INTO done VALUES ('on commit')$$); COMMIT});
wait_for_pool($primary, 'running = 1 AND queued = 2');
$primary->wait_for_catchup($standby);

my $reader = new_session($standby);
my $standbys_holder = new_session($standby);
my ($standbys_job) = occupy($standby, $standbys_holder, $reader, 2);
$primary->stop('immediate');
$_->quit foreach $holder, $session;
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()')
  or die 'timed out waiting for the promotion';

is($reader->state($standbys_job), 'running', q{a job of the standby's own goes on});
is($standby->safe_psql('postgres', 'SELECT sum(running), sum(queued) FROM pg_background_pool'),
	'1|0', 'none of the primary is queued');
$standbys_holder->query('SELECT pg_advisory_unlock(2)');
$reader->wait_for($standbys_job);
is($reader->state($standbys_job), 'stopped', 'to its end');
is($reader->result($reader->launch(q{INSERT INTO done VALUES ('promoted')}), 'tag text'),
	'INSERT 0 1', 'jobs write');
is(done(), 'commit committed promoted', 'what was committed is there, and no more');

$_->quit foreach $reader, $standbys_holder;
$standby->stop;
unlike(log_since($standby, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
