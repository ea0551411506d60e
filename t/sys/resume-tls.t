#!/usr/bin/perl
# The cases of resume.t with TLS on both sides: clients by STARTTLS, or by implicit TLS with BMR_TLS=implicit.
use strict;
use warnings;
use FindBin;

$ENV{BMR_TLS} //= 'starttls';
do "$FindBin::Bin/resume.t" or die $@ || $!;
