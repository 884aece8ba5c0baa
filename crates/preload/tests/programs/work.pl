# Hashes, strings, expressions, sorting, closures, a child process.
use strict;
use warnings;
use List::Util qw(sum first);

my $count = shift;
my $state = 12345;
sub number { $state = ($state * 1103515245 + 12345) % 2147483648; return $state >> 8 }

my (%words, %deep);
for my $n (1 .. $count) {
    my $word = join '-', map { chr(97 + number() % 26) x (1 + number() % 9) } 1 .. 3;
    $words{$word}++;
    push @{ $deep{ number() % 500 }{ substr $word, 0, 1 } }, $word;
    delete $words{ (keys %words)[0] } if $n % 1000 == 0;
}
my $text = join ' ', sort keys %words;
print scalar(keys %words), ' ', length $text, ' ', unpack('%32C*', $text), "\n";

my %seen;
$seen{$1}++ while $text =~ /\b(\w{3,6})-/g;
my @most = sort { $seen{$b} <=> $seen{$a} || $a cmp $b } keys %seen;
print join(',', map { "$_=$seen{$_}" } @most[ 0 .. 9 ]), "\n";

(my $changed = $text) =~ s/(\w+)-(\w+)/$2 . '+' . $1/ge;
print length $changed, ' ', unpack('%32C*', $changed), "\n";
$changed .= $changed for 1 .. 3;
print length $changed, "\n";

my $leaves = 0;
for my $key (sort { $a <=> $b } keys %deep) {
    $leaves += scalar @{ $deep{$key}{$_} } for sort keys %{ $deep{$key} };
}
print "leaves $leaves\n";

my @closures = map { my $n = $_; sub { $n += shift; $n } } 1 .. 1000;
print sum(map { $_->(2) } @closures), ' ', (first { $_->(0) > 500 } @closures)->(0), "\n";
print sprintf('%s', join '', map { sprintf '%03d', $_ % 1000 } reverse 1 .. 5000) =~ tr/7//, "\n";

defined(my $child = open my $pipe, '-|') or die "fork: $!";
if (!$child) {
    print scalar(keys %words), ' in the child, ', length join('', values %words), "\n";
    exit 0;
}
print while <$pipe>;
close $pipe or die "the child failed: $?";
