#!/usr/bin/perl
# How long the death of a session's process is felt: from SIGKILL to the next octet at the client, for what the gateway
# answers itself and for what needs a backend again (connect, login, listing). BMR_N deaths of each.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { print "skipped: $why\n"; exit }
my $n = $ENV{BMR_N} // 200;
my $site = BMR::Site->new;
my $gw = BMR::Gateway->new(net => $site->{net}, services => { pop3 => { backends => { map { $_ => $site->addr($_, 'pop3') } 'a', 'b' } } });
$gw->ready;
$site->deliver('bench', "Subject: x\r\n\r\nbody\r\n");

sub measure {
	my ($what, $cmd, $body) = @_;
	my $c = BMR::Client->new($gw->addr('pop3'));
	my @ms;
	$c->line;
	$c->cmd($_) for 'USER bench', 'PASS secret';
	while (@ms < $n) {
		my @p = $gw->pids(qr/session [0-9a-f]+ /);
		if (@p != 1) { sleep 0.01; next }
		my $t = time();
		kill 'KILL', $p[0];
		$c->send("$cmd\r\n");
		my $l = $c->line;
		push @ms, (time() - $t) * 1000;
		die "$what: $l" if $l !~ /^\+OK/;
		$c->body if $body;
	}
	$c->cmd('QUIT');
	@ms = sort { $a <=> $b } @ms;
	printf "%s: p50 %.1f ms, p99 %.1f ms, most %.1f ms (%d deaths)\n", $what, $ms[$n / 2], $ms[int($n * 0.99)], $ms[-1], $n;
	return;
}

measure('answered by the gateway', 'STAT', 0);
measure('answered by a backend', 'TOP 1 0', 1);
$gw->stop;
