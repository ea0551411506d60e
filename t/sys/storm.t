#!/usr/bin/perl
# Hosts killed and started again, one after the other, under many sessions of both protocols (X1): no client sees an
# error, no message is lost, and one that was queued twice was announced as a possible duplicate.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my ($workers, $each, $kills) = $ENV{BMR_SOAK} ? (50, 200, 24) : (20, 15, 3);
my $site = BMR::Site->new(smtp => 1);
my $gw = BMR::Gateway->new(net => $site->{net}, services => {
	map { my $p = $_; $p => { backends => { map { $_ => $site->addr($_, $p) } 'a', 'b' } } } 'smtp', 'pop3' });
$gw->ready;
$site->mailbox('storm');
$site->deliver('reader', map { "Subject: $_\r\nMessage-ID: <r$_\@storm>\r\n\r\n" . ("$_ xyz\r\n" x 5000) } 1 .. 3);

sub sends {
	my ($w, $i) = @_;
	my $c = BMR::Client->new($gw->addr('smtp'));
	my @r = ($c->reply);
	push @r, $c->smtp($_) for 'EHLO x', 'MAIL FROM:<x@site.test>', 'RCPT TO:<storm@site.test>', 'DATA';
	$c->send("Subject: s\r\nMessage-ID: <$w.$i\@storm>\r\nDate: Tue, 24 Nov 2026 00:00:00 +0000\r\n\r\n" . ('z' x 70 . "\r\n") x 300 . ".\r\n");
	push @r, $c->reply;
	$c->smtp('QUIT');
	return $r[-1] =~ /^250/ ? '' : "$w.$i: @r";
}

sub reads {
	my ($w, $i) = @_;
	my $c = BMR::Client->new($gw->addr('pop3'));
	$c->line;
	my $in = $c->cmd('USER reader') . $c->cmd('PASS secret');
	return "$w.$i: $in" if $in =~ /-ERR/;
	for my $n (1 .. 3) {
		my $l = $c->cmd("RETR $n");
		my $b = $l =~ /^\+OK/ ? $c->body : undef;
		return "$w.$i: RETR $n: $l" if !defined $b || $b !~ /\r\n\r\n(?:$n xyz\r\n){5000}\z/;
		sleep 0.01;
	}
	$c->cmd('QUIT');
	return '';
}

my @pids;
for my $w (1 .. $workers) {
	my $pid = fork() // die;
	if ($pid == 0) {
		$site->{owner} = $gw->{owner} = -1;
		for my $i (1 .. $each) {
			my $bad = eval { $w % 4 == 0 ? reads($w, $i) : sends($w, $i) } // "$w.$i: $@";
			next if $bad eq '';
			open(my $f, '>>', "$site->{dir}/bad") or last;
			syswrite($f, $bad =~ s/\r?\n/ | /gr . "\n");
		}
		POSIX::_exit(0);
	}
	push @pids, $pid;
}
for my $k (1 .. $kills) {
	my $h = $k % 2 ? 'a' : 'b';
	sleep 0.5;
	$site->kill_host($h);
	sleep 0.3;
	$site->start_host($h);
	$gw->wait_up("$_/$h") for 'smtp', 'pop3';
}
waitpid($_, 0) for @pids;
my $bad = -e "$site->{dir}/bad" ? do { open(my $f, '<', "$site->{dir}/bad") or die; local $/; <$f> } : '';
is($bad // '', '', 'no client saw an error');
$site->flush;
sleep 1;
$site->flush;
my (%queued, $missing, $twice);
for my $m ($site->messages('storm')) {
	my ($id) = $m =~ /^Message-ID: <(\S+)>/m;
	my ($q) = $m =~ /\(Postfix\) with ESMTP id (\S+)/;
	$queued{$id}{$q}++;		# Postfix itself delivers again what it had delivered when it was killed
}
for my $w (grep { $_ % 4 } 1 .. $workers) {
	for my $i (1 .. $each) {
		my $n = keys %{ $queued{"$w.$i\@storm"} // {} };
		$missing++ if $n == 0;
		$twice++ if $n > 1;
	}
}
is($missing // 0, 0, 'no message is lost');
my $announced = () = $gw->log =~ /possible-duplicate/g;
cmp_ok($twice // 0, '<=', $announced, "queued twice: only what was announced ($announced)");
unlike($gw->log, qr/signal \d+|exited with [1-9]/, 'no process of the gateway died');
is(scalar @{ $gw->bmr('who')->{sessions} }, 0, 'no session is left');
is($_->{sessions}, 0, "none is counted at $_->{service}/$_->{name}") for @{ $gw->bmr('backend', 'list')->{backends} };
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$site->stop;
done_testing();
