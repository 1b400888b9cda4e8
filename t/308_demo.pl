# docs/demo.sql, the tour of "make demo": its ten scenes come to their end, and what
# goes wrong in them is what they show. Nothing of it is too wide for a page.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PgBackground;
use Test::More;

my $node = new_server('main');
my ($out, $err) = ('', '');

# It creates the extension.
sql($node, 'CREATE DATABASE shop');
IPC::Run::run(
	[ 'psql', '-X', '-d', $node->connstr('shop') ],
	'<' => "$FindBin::RealBin/../docs/demo.sql", '>' => \$out, '2>' => \$err,
	IPC::Run::timeout($PgBackground::limit));
my $status = $? >> 8;

is($status, 0, 'the tour comes to its end') or diag $err;
is(join(' ', $out =~ /^== (\d+)\. /mg), '1 2 3 4 5 6 7 8 9 10', 'ten scenes');
like($out, qr/^== The end, after [\d.]+ seconds ==\n\z/m, 'and their end');
is(join("\n", grep { length > 100 } split /\n/, "$out$err"), '', 'no line is longer than 100 characters');

# A bar at the least shows that the job is done.
my $bar = qr/INFO:  \[(?=[#.]{50}\])#*\.*\] \d+ %, .*\n/;
like($err, qr/^INFO:  \[#{50}\] 100 %, orders_8 is done$/m, 'the bar is full in the end');
like($err =~ s/^$bar//mgr,
	qr/\AERROR:  new row for relation "stock" violates check constraint "stock_pieces_check"\nDETAIL:  .*\nCONTEXT:  .*\n\z/,
	'one error is shown, and no other message');

# What the scenes are about
my %shown = (
	'the audit row'      => qr/^ Mallory \| wants a lot$/m,
	'the number'         => qr/^ invoice \|  4711$/m,
	'the cost'           => qr/^ 1000 \| +[\d.]+$/m,
	'a handle'           => qr/random number: \(\d+,-?\d+\)$/m,
	'its use'            => qr/^SELECT \* FROM pg_background_result\(\(\d+,-?\d+\)\)$/m,
	'two wall times'     => qr/^Time: .*^Time: /ms,
	'the canceled job'   => qr/^ canceled \| canceling statement due to user request$/m,
	'one letter'         => qr/^-+\+-+\n Bob      \| order 400003\n\n/m,
	'the pool, complete' => qr/^datid +\|.*^started +\| \d+$/ms);
like($out, $shown{$_}, $_) foreach sort keys %shown;

my @reports = $out =~ /^ (?=\d \|)(\d) (?:\| \(\d+,-?\d+\) +)?(\|.*)$/mg;
is(scalar @reports, 32, 'two reports on eight partitions');
is("@reports[0 .. 15]", "@reports[16 .. 31]", 'say the same');

# Of the jobs whose result nobody reads, too, none has failed.
wait_for_pool($node, 'running = 0 AND queued = 0');
is(sql($node, 'SELECT failed, canceled FROM pg_background_pool'),
	'1|1', 'one job has failed, and one was canceled');

$node->stop;
unlike(log_since($node, 0), qr/TRAP|PANIC|terminated by signal/, 'no process has crashed');
done_testing();
