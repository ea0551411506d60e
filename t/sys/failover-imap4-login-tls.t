#!/usr/bin/perl
# The cases of failover-imap4-login.t with TLS on both sides: clients by STARTTLS, or by implicit TLS with BMR_TLS=implicit.
use strict;
use warnings;
use FindBin;

$ENV{BMR_TLS} //= 'starttls';
do "$FindBin::Bin/failover-imap4-login.t" or die $@ || $!;
