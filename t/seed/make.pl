#!/usr/bin/perl
# Makes the seeds PROTOCOL-FORMAT.journal: journals of parked sessions as this build writes them. Run before a format changes,
# from the top of the tree: BMR_BUILD=$PWD/build perl -It/lib t/seed/make.pl
use strict;
use warnings;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

my $site = BMR::Site->new(smtp => 1);
my $gw = BMR::Gateway->new(net => $site->{net}, services => { map { my $p = $_; $p => { more => qq(timeout {\n park = "300ms"\n }),
	backends => { a => $site->addr('a', $p) } } } 'smtp', 'pop3', 'imap4' });
$gw->ready;
$site->deliver('seed', map { "Subject: seed $_\r\n\r\nbody\r\n" } 1 .. 3);
my %c = map { $_ => BMR::Client->new($gw->addr($_)) } 'smtp', 'pop3', 'imap4';
$c{smtp}->reply;
$c{smtp}->smtp($_) =~ /^2/ or die for 'EHLO seed.test', 'MAIL FROM:<x@site.test>', 'RSET';
$c{pop3}->line;
$c{pop3}->cmd($_) =~ /^\+OK/ or die for 'USER seed', 'PASS secret', 'DELE 2';
$c{imap4}->line;
for my $cmd ('LOGIN seed secret', 'SELECT INBOX') {
	$c{imap4}->send("t $cmd\r\n");
	my $l;
	do { $l = $c{imap4}->line } while $l =~ /^\*/;
	$l =~ /^t OK/ or die $l;
}
my $until = time() + 20;
sleep 0.1 while time() < $until && $gw->pids(qr/session [0-9a-f]+ /);
sleep 1;
my ($store) = $gw->pids(qr/^bmr: fdstore/);
for my $f (grep { (readlink($_) // '') =~ /bmr-journal/ } glob("/proc/$store/fd/*")) {
	open(my $in, '<', $f) or die;
	my $all = do { local $/; <$in> };
	my ($name, $format) = ($all =~ /\b(smtp|pop3|imap4)\0/);
	# behind the head of the pack lies the first run, which begins with the journal's head
	my $at = index($all, "\xff\x42\x4d\x52\x2d\x4a\x4e\x4c");
	$format = unpack('S', substr($all, $at + 10, 2));
	open(my $out, '>', "t/seed/$name-$format.journal") or die;
	print $out $all;
	close $out;
	print "$name-$format ", length $all, "\n";
}
$gw->stop;
