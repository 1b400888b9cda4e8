# No test sleeps for a fixed time and then looks: it waits for a condition. What
# a job is given to do stands in quotes, and may well be to sleep.
#
# Known failure 17.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use Lint;
use Test::More;

# A loop that waits for a condition sleeps for 10 or 20 ms between two looks, or longer
# each time; 3600 s are for a job that is to be canceled.
my $sql = qr/^(?:SELECT\b[^'"\$\n]*|step [^'"\$\n]*|\s+PERFORM )\bpg_sleep\((?!0\.01\)|3600).*/m;
my $perl = qr/^[^#'"\n]*(?<![\$\w>])u?sleep[ (]+(?!20_000|\$naps\b)[\d\$].*/m;

foreach my $file (tests())
{
	my $name = $file =~ s{.*/}{}r;
	my $text = text_of($file);

	# Its faults come at random moments; it looks at nothing then.
	next if $name eq '900_fuzz.pl';

	my @found = $text =~ /($sql)/g;
	@found = $text =~ /($perl)/g if $file =~ /\.p[lm]$/;
	is("@found", '', $name);
}

done_testing();
