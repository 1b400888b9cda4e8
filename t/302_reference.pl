# docs/reference.md: what it says there is, is what the extension has.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Of new_server()'s, not all settings are the defaults.
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_background');
my @rows = map { [ map { tr/`//dr } split / \| / ] }
  slurp_file("$FindBin::RealBin/../docs/reference.md") =~ /^\| (.*) \|$/mg;

# Types by the names that people write
sub lines
{
	my $text = join "\n", sort @_;
	my %name = (boolean => 'bool', integer => 'int4', bigint => 'int8', 'double precision' => 'float8',
		'timestamp with time zone' => 'timestamptz');

	$text =~ s/\b(boolean|integer|bigint|double precision|timestamp with time zone)\b/$name{$1}/g;
	$text =~ s/::\w+(\[\])?//g;
	return $text;
}

sub is_in_catalog
{
	my ($name, $query, @documented) = @_;

	is(lines(@documented), lines(split /\n/, $node->safe_psql('postgres', $query)), $name);
}

# "…" stands for columns that are documented elsewhere.
is_in_catalog('functions', <<'END', map { "$_->[0] $_->[1]" } grep { $_->[0] =~ /^\w+\(.*\)$/ } @rows);
SELECT format('%s(%s) %s', proname, pg_get_function_arguments(p.oid),
    coalesce(regexp_replace(regexp_replace(pg_get_function_result(p.oid), '^TABLE\(', 'TABLE ('),
        '(ordinality bigint,(?: command text,)?).*(, elapsed_ms bigint)', '\1 …\2'), 'procedure'))
FROM pg_proc AS p JOIN pg_depend AS d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND deptype = 'e'
JOIN pg_extension AS e ON e.oid = refobjid AND extname = 'pg_background'
END

is_in_catalog('types', <<'END', map { "$_->[0]: $_->[1]" } grep { $_->[0] =~ /^pg_background_\w+$/ && @$_ == 2 } @rows);
SELECT format('%s: %s', relname, string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum))
FROM pg_class AS c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0
WHERE relname ~ '^pg_background_' AND relkind = 'c'
GROUP BY relname
END

is_in_catalog('settings', <<'END', map { "$_->[0]: $_->[1]" } grep { $_->[0] =~ /^pg_background\.\w+$/ } @rows);
LOAD 'pg_background';
SELECT format('%s: %s', name, current_setting(name)) FROM pg_settings WHERE name ~ '^pg_background\.'
END

done_testing();
