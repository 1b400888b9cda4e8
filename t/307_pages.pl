# README.md can be read in five minutes, and what pages lead to is there.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::RealBin/..";
my $readme = slurp_file("$top/README.md");

cmp_ok(length $readme, '<=', 9000, 'README has at most 9 kB');
unlike($readme, qr/^\| `?(pg_background|\d\d[\dA-Z]{3}\b)/m, 'tables of functions, settings and errors are in the reference alone');

# What a page's headings are called in links, as GitHub does it
sub anchors
{
	my ($page) = @_;
	return map { lc(s/[^\w\- ]//gr) =~ tr/ /-/r } slurp_file($page) =~ /^#+ (.*)$/mg;
}

foreach my $page (glob "$top/{*,docs/*,bench/*,packaging-tests/*}.md")
{
	my $name = $page =~ s{\Q$top\E/}{}r;
	my $folder = $page =~ s{[^/]+$}{}r;
	my $text = slurp_file($page) =~ s/^```.*?^```$|`[^`]*`//msgr;
	my @missing;

	while ($text =~ /\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)/g)
	{
		my $target = $1 eq '' ? $page : "$folder$1";
		push @missing, "$1#" . ($2 // '')
		  if !-e $target || (defined $2 && !grep { $_ eq $2 } anchors($target));
	}
	is("@missing", '', "$name: links lead somewhere");
}

done_testing();
