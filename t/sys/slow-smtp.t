#!/usr/bin/perl
# A large message costs a session no memory, and a backend that takes it slowly slows the client down: what waits in between is
# bounded. A backend that costs nothing (t/bench) behind a tap that stops reading.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Select;
use Socket qw(SOL_SOCKET SO_SNDBUF);
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Proc;
use BMR::Site;
use BMR::Tap;

my $null = "$BMR::Gateway::build/t/bench/null";
plan skip_all => "$null is not built" if !-x $null;
my $mega = 1 << 20;
my $size = 64 * $mega;
my %port = (smtp => 10025, pop3 => 10110, imap4 => 10143);
my $net = BMR::Site::network();
BMR::Proc::start('/dev/null', $null, '-p', $_, '-l', "$net.9:$port{$_}", '-s', $size) for sort keys %port;
BMR::Site::wait_port("$net.9", $_) or die "no null backend\n" for values %port;
# what is freed is to be free, for the sanitizers too
local $ENV{ASAN_OPTIONS} = 'quarantine_size_mb=0:thread_local_quarantine_size_kb=0' if $BMR::Gateway::build =~ /san/;

my $dir = tempdir('bmr-slow-XXXXXX', TMPDIR => 1, CLEANUP => 0);
mkdir "$dir/a";
my $tap = BMR::Tap->new(host => 'a', dir => "$dir/a", listen => "$net.5:10025", to => "$net.9:10025", rcvbuf => 65536);
my %backend = ((map { $_ => "$net.9:$port{$_}" } keys %port), smtp => $tap->{listen});
my $gw = BMR::Gateway->new(net => $net, services => { map { $_ => { backends => { a => $backend{$_} }, health => 'interval = "600s"',
	more => qq(timeout {\n bulk = "120s"\n park = "600s"\n }\n limit {\n message = "1G"\n }) } } keys %port });
$gw->ready(60);

# The process of the only session.
sub session {
	my $until = time() + 30;
	while (time() < $until) {
		my @s = @{ $gw->bmr('who')->{sessions} // [] };
		return $s[0]{pid} if @s == 1 && $s[0]{pid};
		sleep 0.05;
	}
	die "no session\n";
}

sub kib {
	my ($pid) = @_;
	open(my $f, '<', "/proc/$pid/smaps_rollup") or die "smaps: $!";
	return (map { /^Pss:\s+(\d+) kB/ ? $1 : () } <$f>)[0];
}

# It is more by no more than a small part of the message.
sub as_before {
	my ($pid, $before, $when) = @_;
	return cmp_ok(kib($pid), '<', $before + 1024, "$when: its memory is as before ($before KiB)");
}

# Sends so many octets of blocks, or what is taken of them until nothing is for some seconds; how many that is.
my $block = ('y' x 62 . "\r\n") x 1024;
my $poured = 0;		# by this client: where in a block it is
sub pour {
	my ($c, $octets, $seconds) = @_;
	my $sent = 0;
	my $sel = IO::Select->new($c->{sock});
	while ($sent < $octets && $sel->can_write($seconds)) {
		my $at = $poured % length $block;
		my $n = syswrite($c->{sock}, $block, $octets - $sent, $at) // 0;	# no further than to the block's end
		die "send: $!\n" if !$n && !$!{EAGAIN};
		$sent += $n;
		$poured += $n;
	}
	return $sent;
}

# What lies in the two sockets between a client and the gateway. It may be tens of MiB: the kernel decides (tcp(7), tcp_rmem).
sub waiting {
	my ($c) = @_;
	my ($here, $there) = map { my ($ip, $port) = @$_; join('', map { sprintf '%02X', $_ } reverse split /\./, $ip) . sprintf(':%04X', $port) }
	    [$c->{sock}->sockhost, $c->{sock}->sockport], [$c->{sock}->peerhost, $c->{sock}->peerport];
	my $sum = 0;
	open(my $f, '<', '/proc/net/tcp') or die "tcp: $!";
	while (<$f>) {
		$sum += hex $1 if /: $here $there \S+ (\w+):/;
		$sum += hex $1 if /: $there $here \S+ \w+:(\w+)/;
	}
	return $sum;
}

sub in_data {
	my $c = BMR::Client->new($gw->addr('smtp'));
	setsockopt($c->{sock}, SOL_SOCKET, SO_SNDBUF, 65536);
	$c->{sock}->blocking(0);
	like($c->reply, qr/^220/, 'greeting');
	like($c->smtp($_), qr/^[23]/, $_) for 'EHLO slow.test', 'MAIL FROM:<x@site.test>', 'RCPT TO:<r@site.test>', 'DATA';
	$c->send("Subject: slow\r\n\r\n" . ('x' x 62 . "\r\n") x 100);
	return $c;
}

{
	my $c = in_data();
	my $pid = session();
	my $before = kib($pid);
	my $first = pour($c, $mega, 60);
	is($first, $mega, 'a MiB is taken');
	$tap->stall;
	my $taken = pour($c, $size, 4);
	cmp_ok($taken, '<', $size, sprintf('the backend does not read: the client is held, after %.1f MiB of 64', $taken / $mega));
	my $read = $taken - waiting($c);
	cmp_ok($read, '<', 8 * $mega, sprintf('of which the gateway has read %.1f; most are in its socket to the backend', $read / $mega));
	as_before($pid, $before, 'meanwhile');
	is($c->silent(0), 1, 'and hears nothing');
	$tap->go;
	is($taken + pour($c, $size - $taken, 60), $size, 'it reads again: all the rest is taken');
	as_before($pid, $before, 'all is sent');
	$c->send(".\r\n");
	like($c->reply, qr/^250/, 'and accepted');
	as_before($pid, $before, 'afterwards');
	is(session(), $pid, 'the process is the same all the time');
	like($c->smtp('QUIT'), qr/^221/, 'QUIT');
	my $said = $tap->seen('c2s');
	is(($said =~ tr/y//), ($size + $mega) / 64 * 62, 'the backend has every octet');
}

# towards the client: one that stops in the middle, and then reads on
for my $proto ('pop3', 'imap4') {
	my $c = BMR::Client->new($gw->addr($proto), rcvbuf => 65536);
	$c->line;
	if ($proto eq 'pop3') {
		$c->cmd($_) for 'USER u', 'PASS p', 'STAT';
	} else {
		$c->cmd('a LOGIN u p');
		$c->send("b SELECT INBOX\r\n");
		1 while $c->line !~ /^b /;
	}
	my $pid = session();
	my $before = kib($pid);
	$c->send($proto eq 'pop3' ? "RETR 1\r\n" : "c FETCH 1 BODY.PEEK[]\r\n");
	like($c->line, qr/^(?:\+OK|\* 1 FETCH)/, "$proto: a message of 64 MiB begins");
	my ($got, $tail, $looked) = (0, '', 0);
	while ($tail !~ ($proto eq 'pop3' ? qr/\r\n\.\r\n\z/ : qr/^c OK[^\n]*\n\z/m)) {
		$c->fill or last;
		$got += length $c->{buf};
		$tail = substr($tail . $c->{buf}, -100);
		$c->{buf} = $c->{seen} = '';
		if ($got > $size / 4 * ($looked + 1) && $looked < 3) {
			sleep 0.3;		# its sockets are full
			as_before($pid, $before, sprintf('%s, %d MiB', $proto, $got / $mega));
			$looked++;
		}
	}
	cmp_ok($got, '>=', $size, "$proto: all of it comes");
	as_before($pid, $before, "$proto, afterwards");
	like($c->cmd($proto eq 'pop3' ? 'QUIT' : 'd LOGOUT'), qr/^(?:\+OK|\* BYE)/, 'QUIT');
	$c->rest;
	sleep 0.05 while @{ $gw->bmr('who')->{sessions} // [] };
}
unlike($gw->log, qr/signal \d+|exited with [1-9]/, 'no process of the gateway died');
$gw->stop;
$tap->stop;
is_deeply($gw->{left}, [], 'no process of the gateway is left');
remove_tree($dir) if !$ENV{BMR_KEEP};
done_testing();
