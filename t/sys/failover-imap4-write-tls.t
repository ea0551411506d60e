#!/usr/bin/perl
# The cases of failover-imap4-write.t with TLS on both sides: clients by STARTTLS, or by implicit TLS with BMR_TLS=implicit.
use strict;
use warnings;
use FindBin;
use Test::More;

# what is new in it is how the octets go, which the cases of login and reading show with sanitizers too
plan skip_all => 'takes minutes with sanitizers' if ($ENV{BMR_BUILD} // '') =~ m{/san$};
$ENV{BMR_TLS} //= 'starttls';
do "$FindBin::Bin/failover-imap4-write.t" or die $@ || $!;
