#!/usr/bin/perl
# The cases of resume.t with TLS on both sides: implicit TLS or STARTTLS with the client, by the case (BMR::Case).
use strict;
use warnings;
use FindBin;

$ENV{BMR_TLS} //= 'both';
do "$FindBin::Bin/resume.t" or die $@ || $!;
