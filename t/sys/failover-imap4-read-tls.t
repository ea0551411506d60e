#!/usr/bin/perl
# The cases of failover-imap4-read.t with TLS on both sides: implicit TLS or STARTTLS with the client, by the case (BMR::Case).
use strict;
use warnings;
use FindBin;

$ENV{BMR_TLS} //= 'both';
do "$FindBin::Bin/failover-imap4-read.t" or die $@ || $!;
