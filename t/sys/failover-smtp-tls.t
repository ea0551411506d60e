#!/usr/bin/perl
# The cases of failover-smtp.t with TLS on both sides: clients by STARTTLS, or by implicit TLS with BMR_TLS=implicit.
use strict;
use warnings;
use FindBin;

$ENV{BMR_TLS} //= 'starttls';
do "$FindBin::Bin/failover-smtp.t" or die $@ || $!;
