#!/usr/bin/perl
# The deaths of workers.t with two listeners for each protocol.
use strict;
use warnings;
use FindBin;

$ENV{BMR_LISTENERS} //= 2;
do "$FindBin::Bin/workers.t" or die $@ || $!;
