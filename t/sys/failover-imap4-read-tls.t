#!/usr/bin/perl
# The cases of failover-imap4-read.t over maildir, with TLS on both sides: implicit or STARTTLS with the client, by the case
# (BMR::Case).
use strict;
use warnings;
use FindBin;

$ENV{BMR_TLS} //= 'both';
$ENV{BMR_STORE} //= 'maildir';
do "$FindBin::Bin/failover-imap4-read.t" or die $@ || $!;
