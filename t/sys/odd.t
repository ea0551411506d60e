#!/usr/bin/perl
# Odd but legal clients before real servers: half-closed sockets, whole sessions in one segment, an octet in each, clients
# that read late, slowly or in another order than they write.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Digest::SHA qw(sha256_hex);
use Test::More;
use Time::HiRes qw(sleep);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(smtp => 1);
my $gw = BMR::Gateway->new(net => $site->{net}, services => { map { my $p = $_;
	$p => { backends => { map { $_ => $site->addr($_, $p) } 'a', 'b' } } } 'smtp', 'pop3' });
$gw->ready;

sub smtp {
	my (%o) = @_;
	my $c = BMR::Client->new($gw->addr('smtp'), %o);
	$c->reply;
	$c->smtp('EHLO odd.test');
	return $c;
}

sub codes { my ($text) = @_; return join(' ', $text =~ /^(\d\d\d) /mg) }
my $envelope = "MAIL FROM:<x\@site.test>\r\nRCPT TO:<%s\@site.test>\r\n";
my @big = map { "Subject: big$_\r\n\r\n" . join('', map { "$_ line of a large message\r\n.dots\r\n" } 1 .. 100_000) } 1 .. 2;

# half closed: what was sent before is answered
my $c = smtp();
$c->send(sprintf($envelope, 'half') . "DATA\r\n");
is(codes($c->reply . $c->reply . $c->reply), '250 250 354', 'a group that ends in DATA');
$c->send("Subject: half\r\n\r\nx\r\n.\r\n" . sprintf($envelope, 'half') . "RSET\r\nQUIT\r\n");
shutdown($c->{sock}, 1);
is(codes($c->rest), '250 250 250 250 221', 'content, a group and QUIT in one segment, then half closed: all is answered');
ok(!$c->{reset}, 'and closed in good order');
$c = smtp();
$c->send(sprintf($envelope, 'half') . "DATA\r\n");
$c->reply for 1 .. 3;
$c->send("Subject: cut\r\n\r\nno end");
shutdown($c->{sock}, 1);
is($c->rest, '', 'half closed inside content: nothing is left to say');

$site->deliver('popper', @big);
$c = BMR::Client->new($gw->addr('pop3'));
$c->send("CAPA\r\nUSER popper\r\nPASS secret\r\nSTAT\r\nLIST\r\nUIDL\r\nRETR 1\r\nTOP 2 1\r\nDELE 1\r\nRSET\r\nNOOP\r\nLAST\r\nQUIT\r\n");
shutdown($c->{sock}, 1);
my $all = $c->rest;
my $ref = BMR::Client->new($gw->addr('pop3'));
$ref->line;
for my $cmd ('CAPA', 'USER popper', 'PASS secret', 'STAT', 'LIST', 'UIDL', 'RETR 1', 'TOP 2 1', 'DELE 1', 'RSET', 'NOOP', 'LAST', 'QUIT') {
	$ref->cmd($cmd);
	$ref->body if $cmd =~ /CAPA|LIST|UIDL|RETR|TOP/;
}
is(sha256_hex($all), sha256_hex($ref->{seen}), 'POP3: a whole session in one segment, half closed: the same as one by one');
cmp_ok(length $all, '>', 3_000_000, 'and all of it');

# an octet a segment
$c = smtp();
setsockopt($c->{sock}, 6, 1, 1);	# TCP_NODELAY
$c->send($_) for split //, sprintf($envelope, 'octets') . "BDAT 3\r\nSubBDAT 10 LAST\r\nject: x\r\n\r\nQUIT\r\n" =~ s/BDAT 10/BDAT 11/r;
is(codes($c->rest), '250 250 250 250 221', 'BDAT, an octet in each segment');

# a client that reads nothing for a while
$c = BMR::Client->new($gw->addr('pop3'), rcvbuf => 65536);
$c->send("USER popper\r\nPASS secret\r\n" . "RETR 1\r\nRETR 2\r\n" x 2 . "QUIT\r\n");
sleep 2;
my ($s) = grep { $_->{client_port} == $c->{sock}->sockport } @{ $gw->bmr('who')->{sessions} };
open(my $f, '<', "/proc/$s->{pid}/smaps_rollup") or die;
my ($pss) = do { local $/; <$f> } =~ /^Pss:\s+(\d+)/m;
cmp_ok($pss, '<', 2500, "a client that does not read: $pss KiB in its session, not the message");
$c->line for 1 .. 3;
for my $n (1, 2, 1, 2) {
	like($c->line, qr/^\+OK/, "RETR $n");
	is(sha256_hex(substr($c->body, -length $big[ $n - 1 ])), sha256_hex($big[ $n - 1 ]), 'whole');
}
is($c->rest, "+OK bye\r\n", 'QUIT');

# replies that are larger than what waits for them at once: nothing else will come to wake the session
$c = BMR::Client->new($gw->addr('pop3'));
$c->line;
$c->send("CAPA\r\n" x 3000 . "QUIT\r\n");
my $n = 0;
while ((my $l = $c->line) =~ /capability/) { $n++; $c->body }
is($n, 3000, '3,000 CAPAs in one segment');

# a thousand recipients in one group, replies read only afterwards
$c = smtp(rcvbuf => 65536);
$c->send("MAIL FROM:<x\@site.test>\r\n" . join('', map { "RCPT TO:<r$_\@site.test>\r\n" } 1 .. 1000) . "RSET\r\nQUIT\r\n");
sleep 1;
is(codes($c->rest), join(' ', (250) x 1002, 221), '1,000 recipients in one group, read late');

# commands in any case, with spaces
$c = smtp();
is(codes(join('', map { $c->smtp($_) } 'mAiL fRoM:<x@site.test>', 'rcpt to: <case@site.test>  ', 'rset ', 'NOOP what ever', 'vrfy x',
	'helo odd', 'MAIL FROM:x@site.test', 'RCPT TO:<@relay.test:case@site.test>', 'QUIT')), '250 250 250 250 252 250 250 250 221', 'in any case');
unlike($gw->log, qr/signal \d|exited with [1-9]/, 'no process died');
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$site->flush;
is(scalar(() = $site->messages($_)), 1, "one message for $_") for 'half', 'octets';
$site->stop;
done_testing();
