#!/usr/bin/perl
# The cases of failover-imap4-view.t over maildir, with TLS on both sides: implicit or STARTTLS with the client, by the case
# (BMR::Case).
use strict;
use warnings;
use FindBin;
use Test::More;

# what is new in it is how the octets go, which the cases of login and reading show with sanitizers too
plan skip_all => 'takes minutes with sanitizers' if ($ENV{BMR_BUILD} // '') =~ m{/san$};
$ENV{BMR_TLS} //= 'both';
$ENV{BMR_STORE} //= 'maildir';
do "$FindBin::Bin/failover-imap4-view.t" or die $@ || $!;
