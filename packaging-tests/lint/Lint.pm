# What the checks of this folder share.

package Lint;

use strict;
use warnings;

use Exporter 'import';
use FindBin;

our @EXPORT = qw($top tests text_of);

our $top = "$FindBin::RealBin/../..";

# The files of all tests
sub tests
{
	return glob "$top/{sql/*.sql,specs/*.spec,t/*.p[lm]}";
}

sub text_of
{
	my ($file) = @_;
	local $/;
	open my $handle, '<', $file or die "$file: $!";
	return <$handle>;
}

1;
