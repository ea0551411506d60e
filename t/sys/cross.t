#!/usr/bin/perl
# Cases over all protocols (protocols.md 7.4): X1, a host dies under many mixed sessions; X2, hosts flap; X8, the host in use
# dies at random octets of whole sessions, in both directions. BMR_SOAK=1: many more.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Digest::SHA qw(sha256_hex);
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Case qw(run_case);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(smtp => 1, imap => 1);
my $soak = $ENV{BMR_SOAK};
my $seed = $ENV{BMR_SEED} // $$;
srand $seed;
diag("seed $seed");

sub text { my ($id, $lines) = @_; return "Subject: $id\r\nMessage-ID: <$id\@cross.test>\r\n\r\n" . join('', map { "line $_ of $id\r\n" } 1 .. $lines) }

# --- one whole session of each protocol; dies where an answer is not what it should be ---------------------------------

sub smtp_session {
	my ($addr, $user, $id, %o) = @_;
	my $c = BMR::Client->new($addr);
	$c->reply =~ /^220/ or die 'greeting';
	for my $cmd ('EHLO client.test', "MAIL FROM:<x\@site.test>", "RCPT TO:<$user\@site.test>", 'DATA') {
		my $r = $c->smtp($cmd);
		$r =~ /^[23]/ or die "$cmd: $r";
	}
	$o{pause}->() if $o{pause};
	$c->send(text($id, 300) . ".\r\n");
	my $r = $c->reply;
	$r =~ /^250/ or die "dot: $r";
	$c->smtp('QUIT') =~ /^221/ or die 'QUIT';
	return;
}

sub pop3_session {
	my ($addr, $user, $want, %o) = @_;
	my $c = BMR::Client->new($addr);
	$c->line =~ /^\+OK/ or die 'greeting';
	for my $cmd ("USER $user", 'PASS secret', 'STAT') {
		my $r = $c->cmd($cmd);
		$r =~ /^\+OK/ or die "$cmd: $r";
	}
	$o{pause}->() if $o{pause};
	$c->cmd('RETR 1') =~ /^\+OK/ or die 'RETR';
	my $b = $c->body // die 'the message is cut';
	sha256_hex($b) eq $want or die 'another message';
	$c->cmd('QUIT') =~ /^\+OK/ or die 'QUIT';
	return;
}

sub imap_session {
	my ($addr, $user, $id, %o) = @_;
	my $c = BMR::Client->new($addr);
	$c->line =~ /^\* OK/ or die 'greeting';
	my $n = 0;
	my $do = sub {
		my ($cmd, $more) = @_;
		my $tag = 't' . ++$n;
		my ($all, $l) = ('', '');
		$c->send("$tag $cmd\r\n");
		do {
			$l = $c->line;
			die "$cmd: the end, after " . substr($all, -200) if $l eq '';
			$all .= $l;
			$c->send("$more\r\n") if $l =~ /^\+ / && defined $more;
		} while $l !~ /^$tag /;
		$l =~ /^$tag OK/ or die "$cmd: $l";
		return $all;
	};
	$do->("LOGIN $user secret");
	$do->('SELECT INBOX') =~ /^\* (\d+) EXISTS/m or die 'EXISTS';
	my $m = text($id, 100);
	$do->('APPEND INBOX (\Seen) {' . length($m) . '}', $m);
	$o{pause}->() if $o{pause};
	my $all = $do->('UID SEARCH HEADER Message-ID ' . "<$id\@cross.test>");
	my @uid = $all =~ /^\* SEARCH((?: \d+)+)\r$/m ? split(' ', $1) : ();
	@uid == 1 or die scalar(@uid) . " messages where one was put: $all";
	$all = $do->("UID FETCH $uid[0] BODY.PEEK[]");
	my ($size) = $all =~ /BODY\[\] \{(\d+)\}\r\n/ or die "no message: $all";
	substr($all, $+[0], $size) eq $m or die 'another message';
	$do->("UID STORE $uid[0] +FLAGS (\\Deleted)");
	$do->('EXPUNGE') =~ /EXPUNGE\r/ or die 'nothing was expunged';
	$do->('LOGOUT');
	return;
}

# --- X1, X2: many sessions, real hosts ---------------------------------------------------------------------------------

sub many {
	my ($name, $sessions, $meanwhile) = @_;
	my $gw = BMR::Gateway->new(net => $site->{net}, services => { map { my $p = $_;
		$p => { backends => { map { $_ => $site->addr($_, $p eq 'imap4' ? 'imap' : $p) } 'a', 'b' } } } 'smtp', 'pop3', 'imap4' });
	$gw->ready;
	$site->deliver("pop$_", text("pop$_", 2000)) for 1 .. 3;
	my %want = map { $_ => sha256_hex(($site->messages("pop$_"))[0]) } 1 .. 3;
	my %pid;
	for my $i (1 .. $sessions) {
		my $pid = fork() // die;
		if ($pid == 0) {
			my $proto = (qw(smtp pop3 imap4))[$i % 3];
			my $u = 1 + $i % 9 / 3 | 0;
			my %o = (pause => sub { sleep rand 1.5 });
			sleep rand 0.5;
			eval {
				smtp_session($gw->addr('smtp'), 'many', "many-$$-$i", %o) if $proto eq 'smtp';
				pop3_session($gw->addr('pop3'), "pop$u", $want{$u}, %o) if $proto eq 'pop3';
				imap_session($gw->addr('imap4'), "imap$i", "imap-$$-$i", %o) if $proto eq 'imap4';
				1;
			} or print "# $name, $proto: $@\n";
			POSIX::_exit($@ ? 1 : 0);
		}
		$pid{$pid} = $i;
	}
	$meanwhile->($gw);
	my ($good, $bad, $until) = (0, 0, time() + 180);
	while (%pid && time() < $until) {
		my $p = waitpid(-1, 1);
		if ($p > 0 && delete $pid{$p}) { $? == 0 ? $good++ : $bad++ } else { sleep 0.05 }
	}
	kill 'KILL', keys %pid;
	is(scalar(keys %pid), 0, "$name: no session hangs");
	is($bad, 0, "$name: none of $sessions sessions sees anything");
	$gw->stop;
	is_deeply($gw->{left}, [], "$name: no process is left");
	return;
}
many('X1 a host dies under mixed sessions', $soak ? 300 : 45, sub {
	sleep 0.9;
	$site->kill_host('a');
	sleep 1;
	$site->start_host('a');
});
many('X2 a host flaps', $soak ? 200 : 30, sub {
	my ($gw) = @_;
	for (1 .. 3) {
		sleep 0.5;
		$site->kill_host('b');
		sleep 0.3;
		$site->start_host('b');
	}
});

# --- X8: random octets -----------------------------------------------------------------------------------------------------

# The connection in use dies when so many octets have gone that way.
sub at {
	my ($n) = @_;
	return sub {
		my ($conn, $d) = @_;
		return $d if -e "$conn->{tap}{dir}/../fired";
		$conn->{went} += length $d;
		return $d if $conn->{went} < $n;
		my $keep = length($d) - ($conn->{went} - $n);
		return $conn->{tap}->fire($conn, 'fin') ? substr($d, 0, $keep) : $d;
	};
}
my $rounds = $soak ? 300 : 12;
for my $r (1 .. $rounds) {
	for my $p (['smtp', 300, 7000], ['pop3', 300, 50_000], ['imap4', 1500, 8000]) {
		my ($proto, $c2s, $s2c) = @$p;
		$c2s = 7000 if $proto eq 'smtp';
		my $dir = rand() < 0.5 ? 'c2s' : 's2c';
		my $n = 1 + int rand($dir eq 'c2s' ? $c2s : $proto eq 'smtp' ? 400 : $s2c);
		run_case($site, "X8 $proto, $dir, octet $n", proto => $proto, $dir => at($n), client => sub {
			my ($x) = @_;
			my $addr = $x->gw->addr($proto);
			if ($proto eq 'smtp') {
				ok(eval { smtp_session($addr, $x->user, "x8-$$-$r"); 1 }, 'the session') or diag($@);
				$site->flush;
				my $copies = () = $site->messages($x->user);
				ok($copies == 1 || ($copies == 2 && $x->gw->log =~ /possible-duplicate/), "$copies in the store");
			} elsif ($proto eq 'pop3') {
				$site->deliver($x->user, text("x8-$$-$r", 2000));
				my ($m) = $site->messages($x->user);
				ok(eval { pop3_session($addr, $x->user, sha256_hex($m)); 1 }, 'the session') or diag($@);
			} else {
				ok(eval { imap_session($addr, $x->user, "x8-$$-$r"); 1 }, 'the session') or diag($@);
			}
		});
	}
}
done_testing();
