#!/usr/bin/perl
# The cases of failover-pop3.t with TLS on both sides: implicit TLS or STARTTLS with the client, by the case (BMR::Case).
use strict;
use warnings;
use FindBin;

$ENV{BMR_TLS} //= 'both';
do "$FindBin::Bin/failover-pop3.t" or die $@ || $!;
