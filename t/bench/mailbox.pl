#!/usr/bin/perl
# A mailbox of BMR_N messages (500000) over two real Dovecots: what SELECT takes straight and through the gateway, what a session
# holds beside one with an empty mailbox, with BMR_HOLES holes too (5000), and both again after its host was killed. Needs root.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { die "$why\n" }
my ($n, $holes) = ($ENV{BMR_N} // 500_000, $ENV{BMR_HOLES} // 5000);
$BMR::Client::patience = 600;
my $site = BMR::Site->new(store => 'mdbox');
my $gw = BMR::Gateway->new(net => $site->{net}, services => { imap4 => { backends => { map { $_ => $site->addr($_, 'imap4') } 'a', 'b' },
	health => qq(interval = "10s") } });
$gw->ready;
my $tags = 0;

sub cmd {
	my ($c, $cmd) = @_;
	my $tag = 't' . ++$tags;
	my ($l, $all) = ('', '');
	my $t = time();
	$c->send("$tag $cmd\r\n");
	do {
		$l = $c->line;
		$c->{seen} = '';
		die "$cmd: the end: $all\n" if $l eq '';
		$all .= $l;
	} while $l !~ /^$tag /;
	$l =~ /^$tag OK/ or die "$cmd: $l";
	return wantarray ? ($all, time() - $t) : $all;
}
sub session { my ($addr, $user) = @_; my $c = BMR::Client->new($addr); $c->line; cmd($c, "LOGIN $user secret"); return $c }
sub straight { my ($user) = @_; my ($h) = grep { $site->master_pid($_, 'dovecot') } 'b', 'a'; return session($site->addr($h, 'imap4'), $user) }
sub of { my ($c) = @_; my ($s) = grep { $_->{client_port} == $c->{sock}->sockport } @{ $gw->bmr('who')->{sessions} }; return $s }

# KiB that are this process's alone now, and the most it ever had resident.
sub holds {
	my ($pid) = @_;
	my ($now, $most) = (0, 0);
	open(my $f, '<', "/proc/$pid/smaps_rollup") or die;
	/^Private_(?:Clean|Dirty): +(\d+)/ and $now += $1 while <$f>;
	open($f, '<', "/proc/$pid/status") or die;
	/^VmHWM:\s+(\d+)/ and $most = $1 while <$f>;
	return ($now, $most);
}

sub show {
	my ($what, $c, $t, $more) = @_;
	printf "%-44s %7.1f ms   private %4d KiB, most resident %4d KiB%s\n", $what, $t * 1000, holds(of($c)->{pid}), $more // '';
	return;
}

sub median { my @t = sort { $a <=> $b } @_; return $t[ @t / 2 ] }

# SELECT through the gateway and straight, by turns.
sub compare {
	my ($what, $user) = @_;
	my (@straight, @gateway, @next, $keep);
	for (1 .. 9) {
		my ($d, $g) = (straight($user), session($gw->addr('imap4'), $user));
		push @straight, (cmd($d, 'SELECT INBOX'))[1];
		push @gateway, (cmd($g, 'SELECT INBOX'))[1];
		push @next, (cmd($g, 'NOOP'))[1];
		$keep = $g;
		cmd($_, 'UNSELECT') for $d;
	}
	printf "%-44s %7.1f ms straight\n", "$what: SELECT", 1000 * median(@straight);
	show("$what: SELECT through the gateway", $keep, median(@gateway), sprintf(', the next NOOP %.1f ms', 1000 * median(@next)));
	return $keep;
}

sub fail_over {
	my ($what, $c, $last) = @_;
	my $h = of($c)->{backend};
	$site->kill_host($h);
	my ($r, $t) = cmd($c, 'UID FETCH ' . $last . ' (UID FLAGS)');
	$r =~ /^\* (\d+) FETCH \((?=.*\bUID $last\b)/m or die "not there: $r";
	show("$what: the first command after a death", $c, $t, ", message $1");
	cmd($c, 'NOOP');
	(undef, $t) = cmd($c, 'UID SEARCH ALL');
	show("$what: UID SEARCH ALL", $c, $t);
	$site->start_host($h);
	$gw->wait_up("imap4/$h");
	return;
}

my $f = straight('full');
my $t = time();
my $i = 0;
while ($i < $n) {
	my $batch = $n - $i < 5000 ? $n - $i : 5000;
	my $text = join '', map { my $m = "Subject: $_\r\n\r\nx\r\n"; ' {' . length($m) . "+}\r\n$m" } $i + 1 .. $i + $batch;
	cmd($f, "APPEND INBOX$text");
	$i += $batch;
}
cmd($f, 'LOGOUT');
printf "%d messages in %.0f s\n", $n, time() - $t;

my $c = compare('empty', 'empty');
$c->close;
$c = compare($n, 'full');
fail_over($n, $c, $n - 1);
$c->close;
my $step = int($n / $holes);
my $d = straight('full');
cmd($d, 'SELECT INBOX');
for (my $at = 1; $at <= $n;) {
	my @set;
	for (; $at <= $n && @set < 1000; $at += $step) { push @set, $at }
	cmd($d, 'UID STORE ' . join(',', @set) . ' +FLAGS.SILENT (\Deleted)');
}
cmd($d, 'EXPUNGE');
cmd($d, 'LOGOUT');
$c = compare("$n, $holes holes", 'full');
fail_over("$n, $holes holes", $c, $n - 1);
# holes that come while the host is dead are ghosts until they can be told
my $gone = int($n / 3);
my $h = of($c)->{backend};
$site->kill_host($h);
$d = straight('full');
cmd($d, 'SELECT INBOX');
cmd($d, "UID STORE $gone:" . ($gone + int($n / 100)) . ' +FLAGS.SILENT (\Deleted)');
cmd($d, 'EXPUNGE');
cmd($d, 'LOGOUT');
(undef, $t) = cmd($c, 'FETCH ' . int($n / 2) . ' (UID)');
show('one in a hundred went meanwhile: FETCH', $c, $t);
(my $r, $t) = cmd($c, 'NOOP');
show('and NOOP, which tells it', $c, $t, ', ' . (() = $r =~ /EXPUNGE/g) . ' EXPUNGE');
$gw->stop;
$site->stop;
