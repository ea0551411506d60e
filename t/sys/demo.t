#!/usr/bin/perl
# The demonstration works as README promises it.
use strict;
use warnings;
use FindBin;
use Test::More;
use BMR::Site;

if (my $why = BMR::Site::possible()) {
	plan(skip_all => $why);
}
local $ENV{DEMO_ONCE} = 1;
my @said = qx{perl -I$FindBin::Bin/../lib $FindBin::Bin/../demo/demo.pl 2>&1};
is($? >> 8, 0, 'it ends well');
my @ok = grep { /  ok: / } @said;
is(scalar(grep { /FAILED/ } @said), 0, 'nothing fails in it');
is(scalar(@ok), 7, 'it shows what it is to show') or diag(@said);
is(scalar(grep { /pulling the plug/ } @said), 3, 'over three dead hosts');
done_testing();
