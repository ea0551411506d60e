#!/usr/bin/perl
# layers - who includes whom, sizes of files, calls that are banned, protocols' names where none belong
use strict;
use warnings;
use Test::More;

my %may = (
	'supervisor' => qr{^supervisor/}, 'workers' => qr{^(supervisor|workers)/},
	'smtp' => qr{^(smtp/|workers/(behaviour|gateway|sasl)\.h|supervisor/buf\.h)},
	'pop3' => qr{^(pop3/|workers/(behaviour|gateway|sasl)\.h|supervisor/buf\.h)},
);
my (@layer, @long, @banned, @names);
for my $f (glob('{supervisor,workers,smtp,pop3,imap4,agent,release}/{*,*/*}.[ch]')) {
	my ($dir) = split m{/}, $f;
	open my $h, '<', $f or die "$f: $!";
	my @line = <$h>;
	close $h;
	push @long, $f . ' ' . @line if @line > 700;
	for my $i (0 .. $#line) {
		local $_ = $line[$i];
		my $at = "$f:" . ($i + 1);
		if (/^#include "([^"]+)"/) {
			my $ok = $1 =~ ($may{$dir} // qr/./) || ($f eq 'supervisor/bmrd.c' && $1 =~ m{^workers/(conf|tree)\.h$});
			push @layer, "$at includes $1" unless $ok;
		}
		push @banned, $at if /\b(strcpy|strcat|sprintf|atoi|alloca|system|gets)\s*\(/;
		push @names, $at if /\b(smtp|pop3|imap4?)\b/i && $f =~ m{^(supervisor|release)/.*\.c$};
	}
}
is_deeply(\@layer, [], 'each file includes only what its layer may');
is_deeply(\@long, [], 'no file has more than 700 lines');
is_deeply(\@banned, [], 'no banned call');
is_deeply(\@names, [], 'no protocol is named where none belongs');
done_testing();
