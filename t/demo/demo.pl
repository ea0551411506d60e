#!/usr/bin/perl
# The demonstration: two real mail hosts on loopback with one shared store, the gateway before them, and the plug of
# the host in use pulled in the middle of a message going in and of a message going out.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Digest::SHA qw(sha256_hex);
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

$| = 1;
$BMR::Gateway::build = $ENV{BMR_BUILD} // "$FindBin::Bin/../../build";
my $began = time();
my $failed = 0;

sub say_ { printf "%7.2f  %s\n", time() - $began, "@_"; return }
sub check { my ($ok, $what) = @_; say_(($ok ? 'ok: ' : 'FAILED: ') . $what); $failed ||= !$ok; return $ok }

if (my $why = BMR::Site::possible()) {
	print STDERR "demo: $why\n";
	exit 69;
}

my ($site, $gw);
$SIG{INT} = $SIG{TERM} = sub { $gw->stop if $gw; $site->stop if $site; exit 0 };

say_('starting two mail hosts, a and b: Postfix and Dovecot each, one shared store');
$site = BMR::Site->new(smtp => 1);
say_("host $_: SMTP " . $site->addr($_, 'smtp') . ', POP3 ' . $site->addr($_, 'pop3') . ', IMAP4 ' . $site->addr($_, 'imap')) for 'a', 'b';
$gw = BMR::Gateway->new(net => $site->{net}, services => {
	map { my $p = $_; $p => { backends => { map { $_ => $site->addr($_, $p eq 'imap4' ? 'imap' : $p) } 'a', 'b' } } } 'smtp', 'pop3', 'imap4' });
$gw->ready;
say_('the gateway is up: SMTP ' . $gw->addr('smtp') . ', POP3 ' . $gw->addr('pop3') . ', IMAP4 ' . $gw->addr('imap4'));
my @bmr = ("$BMR::Gateway::build/bin/bmr", '-s', "$gw->{dir}/run/bmr.sock");
print "\n";
system(@bmr, 'status');
print "\n";

# The backend of the session of this protocol now, as an operator sees it.
sub in_use {
	my ($service) = @_;
	for (1 .. 100) {
		my ($h) = map { $_->{backend} } grep { $_->{service} eq $service && $_->{backend} ne '' } @{ $gw->bmr('who')->{sessions} // [] };
		return $h if $h;
		sleep 0.05;
	}
	die "no backend is in use\n";
}

sub pull {
	my ($service) = @_;
	my $h = in_use($service);
	say_("*** pulling the plug of host $h: SIGKILL to all its processes");
	$site->kill_host($h);
	return $h;
}

sub plug_in {
	my ($h) = @_;
	$site->start_host($h);
	$gw->wait_up("$_/$h") for 'smtp', 'pop3', 'imap4';
	say_("host $h is back, and the gateway has seen it");
	return;
}

my $line = 0;
my $message = "Subject: a large message\r\nMessage-ID: <demo.$$\@test>\r\nFrom: demo\@site.test\r\nDate: Tue, 24 Nov 2026 00:00:00 +0000\r\n\r\n";
$message .= sprintf("%07d The gateway holds what the backend must hear again.\r\n", $line++) while length $message < 8_000_000;

say_('--- a message of ' . length($message) . ' octets by SMTP; its backend dies in mid-DATA');
my $c = BMR::Client->new($gw->addr('smtp'));
say_('S: ' . $c->reply =~ s/\r\n//r);
for my $cmd ('EHLO client.test', 'MAIL FROM:<demo@site.test>', 'RCPT TO:<alice@site.test>', 'DATA') {
	my $r = $c->smtp($cmd);
	say_("C: $cmd");
	say_('S: ' . ($r =~ s/\r\n.*//sr));
}
my $half = int(length($message) / 2);
$c->send(substr($message, 0, $half));
say_("C: $half octets of content");
sleep 0.3;
my $dead = pull('smtp');
$c->send(substr($message, $half) . ".\r\n");
say_('C: the rest, and the dot');
my $r = $c->reply;
say_("S: $r" =~ s/\r\n//r);
check($r =~ /^250 /, 'the client got its 250');
$c->smtp('QUIT');
plug_in($dead);
$site->flush;
my @got = $site->messages('alice');
check(@got == 1, 'the store holds the message ' . @got . ' time(s)');
check(@got && sha256_hex(substr($got[0], -length $message)) eq sha256_hex($message), 'and every octet of it is right');

say_('--- the same message by POP3; its backend dies in mid-RETR');
my $original = $got[0];
$c = BMR::Client->new($gw->addr('pop3'), rcvbuf => 16384);
say_('S: ' . $c->line =~ s/\r\n//r);
for my $cmd ('USER alice', 'PASS secret', 'STAT', 'RETR 1') {
	my $l = $c->cmd($cmd);
	say_('C: ' . $cmd);
	say_('S: ' . ($l =~ s/\r\n//r));
}
my $body = '';
while (length $body < 2_000_000) {
	my $l = $c->line;
	$body .= $l =~ s/^\.//r;
}
say_('C: has ' . length($body) . ' octets');
$dead = pull('pop3');
while ((my $l = $c->line) ne ".\r\n") {
	die "the stream ends\n" if $l eq '';
	$body .= $l =~ s/^\.//r;
}
check(sha256_hex($body) eq sha256_hex($original), 'the download has the same ' . length($body) . ' octets as the original');
say_('S: ' . $c->cmd('QUIT') =~ s/\r\n//r);
plug_in($dead);
@got = $site->messages('alice');
check(@got == 1, 'the store still holds it once');

say_('--- a client waits in IDLE by IMAP4; its backend dies, and a message comes in by the other');
$c = BMR::Client->new($gw->addr('imap4'));
say_('S: ' . substr($c->line =~ s/\r\n//r, 0, 60) . ' ...');
for my $cmd ('a LOGIN alice secret', 'b SELECT INBOX', 'c IDLE') {
	$c->send("$cmd\r\n");
	say_("C: $cmd");
	while (1) {
		my $l = $c->line;
		say_('S: ' . substr($l =~ s/\r\n//r, 0, 60) . (length $l > 60 ? ' ...' : '')) if $l !~ /^\* (?:FLAGS|OK)/;
		last if $l =~ /^(?:\w|\+) / || $l eq '';
	}
}
$dead = pull('imap4');
$site->deliver('alice', "Subject: news\r\n\r\nthat came in by the other host\r\n");
say_('a message is delivered by host ' . ($dead eq 'a' ? 'b' : 'a'));
my $heard = '';
while ($heard !~ /^\* 2 EXISTS/m) {
	my $l = $c->line;
	last if $l eq '';
	$heard .= $l;
	say_('S: ' . $l =~ s/\r\n//r);
}
check($heard =~ /^\* 2 EXISTS/m && $heard !~ /BYE/, 'the client, still in the same IDLE, hears of it');
$c->send("DONE\r\n");
say_('C: DONE');
my $done = '';
while ((my $l = $c->line) ne '') {
	say_('S: ' . $l =~ s/\r\n//r);
	$done = $l if $l =~ /^c /;
	last if $done;
}
check($done =~ /^c OK/, 'and ends it in good order');
$c->send("d LOGOUT\r\n");
plug_in($dead);
print "\n";
system(@bmr, 'backend', 'list');
print "\n";
say_($failed ? 'SOMETHING FAILED, see above' : 'the clients saw nothing of three dead hosts');

if (!$ENV{DEMO_ONCE}) {
	say_('the gateway goes on until Ctrl-C; try it, users are any name with password "secret":');
	print "    swaks --server " . $gw->addr('smtp') . " --from you\@site.test --to bob\@site.test\n";
	print "    curl -u bob:secret pop3://" . $gw->addr('pop3') . "/\n";
	print "    curl -u bob:secret imap://" . $gw->addr('imap4') . "/INBOX\n";
	print "    @bmr tree\n";
	sleep 3600 while 1;
}
$gw->stop;
$site->stop;
exit $failed;
