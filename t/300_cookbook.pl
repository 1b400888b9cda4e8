# The statements of docs/cookbook.md, run as they stand there: each block of SQL
# prints what the block of text after it says, and no error.  Those of README.md
# and docs/upgrading.md print no error.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use FindBin;
use lib $FindBin::RealBin;
use PgBackground;
use Test::More;

my $node = new_server('cookbook', 'max_worker_processes = 16');

# Runs blocks in one session.  What psql echoes between them tells them apart.
sub run_blocks
{
	my ($database, @blocks) = @_;
	my $script = join('', map { "$_->{text}\n\\echo <<next>>\n" } @blocks);
	my ($stdout, $stderr);

	IPC::Run::run(
		[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($database) ],
		'<' => \$script, '>' => \$stdout, '2>' => \$stderr);
	return ($stdout, $stderr);
}

my $page = slurp_file("$FindBin::RealBin/../docs/cookbook.md");
my (@sql, @expected, @title);
while ($page =~ /^## ([^\n]+)$|^```(sql|text)\n(.*?)^```$/msg)
{
	if (defined $1)
	{
		push @title, $1;
		next;
	}
	if ($2 eq 'sql')
	{
		push @sql, { title => $title[-1], text => $3, expected => '' };
	}
	else
	{
		$sql[-1]{expected} = $3;
	}
}
cmp_ok(scalar(@sql), '>', 5, 'the cookbook has recipes');

my ($stdout, $stderr) = run_blocks('postgres', @sql);
is($stderr, '', 'no recipe prints an error');

my @printed = split(/^<<next>>\n/m, $stdout);
foreach my $i (0 .. $#sql)
{
	# What void functions and the like print is of no interest.
	my $got = $printed[$i] // '';
	$got =~ s/^ *(audit|pg_background_\w+) *\n-+\n *\n\(1 row\)\n\n//mg;
	is($got, $sql[$i]{expected}, $sql[$i]{title});
}

# README creates the extension after its first page, which needs it.
sql($node, 'CREATE DATABASE readme; CREATE ROLE app_user');
$node->safe_psql('readme', 'CREATE EXTENSION pg_background');
my @readme = map { { text => s/^CREATE EXTENSION .*\n//mr } }
  slurp_file("$FindBin::RealBin/../README.md") =~ /^```sql\n(.*?)^```$/msg;
cmp_ok(scalar(@readme), '>', 3, 'README has examples');
($stdout, $stderr) = run_blocks('readme', { text => 'SET client_min_messages = warning;' }, @readme);
is($stderr, '', 'none of them prints an error');
like($stdout, qr/^ \S+ +\| tried it$/m, 'the audit row is there');

my @upgrading = map { { text => $_ } }
  slurp_file("$FindBin::RealBin/../docs/upgrading.md") =~ /^ *```sql\n(.*?)^ *```$/msg;
cmp_ok(scalar(@upgrading), '>', 1, 'the page on updates has examples');
($stdout, $stderr) = run_blocks('readme', { text => 'SET client_min_messages = warning;' }, @upgrading);
is($stderr, '', 'nor does one of the page on updates');

$node->stop;
done_testing();
