# The statements of docs/cookbook.md, run as they stand there: each block of SQL
# prints what the block of text after it says, and no error.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use FindBin;
use lib $FindBin::RealBin;
use PgBackground;
use Test::More;

my $node = new_server('cookbook', 'max_worker_processes = 16');

# Blocks are told apart by what psql echoes between them.
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

my $script = join('', map { "$_->{text}\n\\echo <<next>>\n" } @sql);
my ($stdout, $stderr);
IPC::Run::run(
	[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ],
	'<' => \$script, '>' => \$stdout, '2>' => \$stderr);
is($stderr, '', 'no recipe prints an error');

my @printed = split(/^<<next>>\n/m, $stdout);
foreach my $i (0 .. $#sql)
{
	# What void functions and the like print is of no interest.
	my $got = $printed[$i] // '';
	$got =~ s/^ *(audit|pg_background_\w+) *\n-+\n *\n\(1 row\)\n\n//mg;
	is($got, $sql[$i]{expected}, $sql[$i]{title});
}

$node->stop;
done_testing();
