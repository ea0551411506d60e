#!/usr/bin/perl
# What is built for one prefix is not installed under another: the programs are looked for below the one that is compiled in.
use strict;
use warnings;
use FindBin;
use Test::More;

my $root = "$FindBin::Bin/../..";
my $steps = qx(make -n -C $root install PREFIX=/elsewhere DESTDIR=/nowhere 2>&1);
is($?, 0, 'the steps of make install');
like($steps, qr{^\S+ .*BMR_LIBEXEC='"/elsewhere/libexec/bmr"'.* workers/conf\.c$}m, 'bmrd looks below the prefix of the installation');
like($steps, qr{^install .* /nowhere/elsewhere/libexec/bmr$}m, 'which is where its programs are put');
done_testing();
