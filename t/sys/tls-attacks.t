#!/usr/bin/perl
# Injections and downgrades of TLS, on both sides; what a backend's certificate must be.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;
use BMR::Tap;
use BMR::Tls;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my ($ca, $evil) = (BMR::Tls->new, BMR::Tls->new);
$ca->cert('gw');
$ca->cert('good', cn => 'mail.test');
$ca->cert('expired', cn => 'mail.test', days => 0);
$ca->cert('client', cn => 'gateway');
$evil->cert('evil', cn => 'mail.test');
my ($d, $e) = ($ca->{dir}, $evil->{dir});
my $site = BMR::Site->new;
my $net = $site->{net};
my $port = 12000;
my $dir = File::Temp::tempdir('bmr-attack-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my (@taps, %services, %expect, %tap, %at);

# A backend of its own service, or of one for all that are PROTOCOL-: what it is, how it is configured, what is said of it when it may not be used.
sub backend {
	my ($name, $expect, $conf, %o) = @_;
	my $listen = "$net.5:" . ++$port;
	mkdir "$dir/$name";
	$tap{$name} = BMR::Tap->new(host => $name, dir => "$dir/$name", listen => $listen, %o);
	push @taps, $tap{$name};
	my ($proto, $x) = $name =~ /^(smtp|pop3|imap4)-(.*)/ ? ($1, $2) : ('pop3', 'x');
	my $service = $x eq 'x' ? $name : "evil-$proto";
	$services{$service} //= { protocol => $proto, port => ++$port, backend_more => "tls {\n $conf\n }" };
	$services{$service}{backends}{$x} = $listen;
	$expect{$name} = $expect;
	$at{$name} = "$service/$x";
	return;
}

my $dovecot = $site->addr('a', 'pop3');
my $pin = `openssl x509 -in $d/good.pem -noout -pubkey | openssl pkey -pubin -outform der | sha256sum`;
$pin =~ s/\s.*//s;
my $implicit = qq(mode = "implicit"\n ca = "$d/ca.pem"\n);
backend('good', undef, qq($implicit name = "mail.test"), to => $dovecot, tls => "$d/good");
backend('name', qr/hostname mismatch/i, qq($implicit name = "other.test"), to => $dovecot, tls => "$d/good");
backend('chain', undef, qq($implicit name = "other.test"\n verify = "ca"), to => $dovecot, tls => "$d/good");
backend('expired', qr/expired/, qq($implicit name = "mail.test"), to => $dovecot, tls => "$d/expired");
backend('evil', qr/self.signed|issuer/, qq($implicit name = "mail.test"), to => $dovecot, tls => "$e/evil");
backend('system', qr/certificate/, qq(mode = "implicit"\n name = "mail.test"), to => $dovecot, tls => "$d/good");
backend('pin', undef, qq(mode = "implicit"\n pin = "$pin"), to => $dovecot, tls => "$d/good");
backend('wrongpin', qr/pinned/, qq(mode = "implicit"\n pin = "$pin"), to => $dovecot, tls => "$e/evil");
backend('clear', qr/TLS: /, qq($implicit name = "mail.test"), to => $dovecot);

# Servers that speak as an attacker in the middle would have them speak.
sub smtp_server {
	my (%o) = @_;
	return sub {
		my ($conn, $data) = @_;
		return "220 evil ESMTP\r\n" if !defined $data;
		return $o{ehlo} // "250-evil\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n" if $data =~ /^EHLO/;
		return $o{starttls} if $data =~ /^STARTTLS/;
		return "250 ok\r\n";
	};
}
my $starttls = qq(mode = "starttls"\n ca = "$d/ca.pem"\n name = "mail.test");
backend('smtp-stripped', qr/does not begin TLS/, $starttls, serve => smtp_server(ehlo => "250-evil\r\n250 AUTH PLAIN\r\n"));
backend('smtp-injected', qr/speaks between|unexpected reply/, $starttls, serve => smtp_server(starttls => "220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n"));
backend('pop3-refused', qr/does not begin TLS/, $starttls, serve => sub { defined $_[1] ? "-ERR no\r\n" : "+OK evil\r\n" });
backend('pop3-injected', qr/speaks between|unexpected reply/, $starttls, serve => sub {
	!defined $_[1] ? "+OK evil\r\n" : $_[1] =~ /^STLS/ ? "+OK go\r\n+OK\r\n+OK\r\n" : "+OK\r\n" });
sub imap_server {
	my (%o) = @_;
	return sub {
		my ($conn, $data) = @_;
		return $o{greeting} // "* OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN] evil\r\n" if !defined $data;
		return join '', map { my ($tag, $cmd) = split / /; (my $r = /STARTTLS/ ? $o{starttls} : "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\nTAG OK\r\n") =~ s/TAG/$tag/g; $r }
		    split /\r\n/, $data;
	};
}
backend('imap4-stripped', qr/does not begin TLS/, $starttls, serve => imap_server(greeting => "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] evil\r\n", starttls => "TAG BAD what\r\n"));
backend('imap4-refused', qr/does not begin TLS/, $starttls, serve => imap_server(starttls => "TAG NO not now\r\n"));
backend('imap4-preauth', qr/unexpected reply/, $starttls, serve => imap_server(greeting => "* PREAUTH evil\r\n"));
my %injected = (line => "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n", part => '* CAPABILITY IMAP4rev1', alert => "* OK [ALERT] evil\r\n",
	tagged => "TAG OK\r\n", literal => "* LIST () \"/\" {100000}\r\n");
backend("imap4-injected-$_", qr/speaks between|unexpected reply/, $starttls, serve => imap_server(starttls => "TAG OK go\r\n$injected{$_}")) for sort keys %injected;
$services{pop3} = { backends => { a => $dovecot }, more => qq(tls {\n    certificates = {"gw"}\n  }\n  listen-tls = {"$net.1:10995"}) };
$services{imap4} = { backends => { a => $site->addr('a', 'imap') }, more => qq(tls {\n    certificates = {"gw"}\n  }) };
$services{smtp} = { backends => { a => "$net.5:11999" }, more => qq(tls {\n    certificates = {"gw"}\n  }) };
mkdir "$dir/plain";
push @taps, BMR::Tap->new(host => 'plain', dir => "$dir/plain", listen => "$net.5:11999", serve => smtp_server(ehlo => "250-x\r\n250 AUTH PLAIN\r\n"));

my $gw = BMR::Gateway->new(net => $net, top => $ca->block('gw'), services => \%services);
ok($gw->wait_up("$_/" . ($_ =~ /^(?:pop3|smtp|imap4)$/ ? 'a' : 'x')), "$_: up") for 'pop3', 'smtp', 'imap4', grep { !$expect{$_} } sort keys %expect;
my %why;
for (1 .. 600) {
	%why = map { ("$_->{service}/$_->{name}" => $_) } @{ $gw->bmr('backend', 'list')->{backends} };
	last if !grep { $expect{$_} && ($why{ $at{$_} }{last_error} // '') !~ $expect{$_} } keys %expect;	# a busy host may refuse at first
	sleep 0.1;
}
for my $n (sort grep { $expect{$_} } keys %expect) {
	isnt($why{ $at{$n} }{state}, 'up', "$n: not up");
	like($why{ $at{$n} }{last_error}, $expect{$n}, "$n: says why");
}
unlike($tap{$_}->seen('c2s'), qr/AUTH|USER|PASS|MAIL|CAPA|LOGIN|ID /, "$_: nothing but STARTTLS was said in clear") for grep { /-/ } sort keys %expect;

# --- towards clients ----------------------------------------------------------------------------------------------------
my %tls = (ca => "$d/ca.pem");
my $c = BMR::Client->new($gw->addr('pop3'));
$c->line;
$c->send("STLS\r\nUSER evil\r\nCAPA\r\n");
like($c->line, qr/^\+OK begin TLS/, 'POP3: the go-ahead');
$c->secure(%tls);
like($c->cmd('STAT'), qr/^-ERR log in first/, 'the first answer in TLS is that to the first command in TLS');
like($c->cmd('PASS x'), qr/^-ERR USER first/, 'the injected user does not count');
ok($c->silent(0.3), 'nothing else comes');
like($gw->log, qr/octets behind the command that begins TLS dropped/, 'and the log says so');
my $m = BMR::Client->new($gw->addr('smtp'));
$m->reply;
$m->smtp('EHLO x');
$m->send("STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil\@x>\r\n");
like($m->reply, qr/^220 /, 'SMTP: the go-ahead');
$m->secure(%tls);
like($m->smtp('NOOP'), qr/^250 2\.0\.0 Ok/, 'S45: the first answer in TLS is that to the first command in TLS');
like($m->smtp('MAIL FROM:<x@site.test>'), qr/^503 /, 'the injected EHLO does not count');
ok($m->silent(0.3), 'nothing else comes');
my $i = BMR::Client->new($gw->addr('imap4'));
like($i->line, qr/ STARTTLS/, 'IMAP4 offers STARTTLS');
$i->send("a STARTTLS\r\nb NOOP\r\nc LOGIN evil secret\r\n");
like($i->line, qr/^a OK/, 'IMAP4: the go-ahead');
$i->secure(%tls);
like($i->cmd('d NOOP'), qr/^d OK/, 'the first answer in TLS is that to the first command in TLS');
like($i->cmd('e STATUS INBOX (MESSAGES)'), qr/^e BAD/, 'the injected login does not count');
ok($i->silent(0.3), 'nothing else comes');
$c = BMR::Client->new($gw->addr('pop3'));
$c->line;
$c->cmd('STLS');
$c->send("USER evil\r\nPASS secret\r\n");
my $rest = eval { $c->rest } // '';
unlike($rest, qr/OK|ERR/, 'clear text instead of a handshake gets no answer');
$c = BMR::Client->new("$net.1:10995");
$c->send("USER evil\r\n");
unlike(eval { $c->rest } // '', qr/OK|ERR/, 'nor does it on the TLS port');
my $out = `(sleep 0.5; echo R; sleep 1) | timeout 20 openssl s_client -connect $net.1:10995 -tls1_2 -CAfile $d/ca.pem 2>&1`;
like($out, qr/RENEGOTIATING/, 'a client asks for renegotiation');
like($out, qr/no renegotiation|unexpected|handshake failure/i, 'and does not get it');
like(BMR::Client->new("$net.1:10995", tls => { mode => 'implicit', %tls })->line, qr/^\+OK/, 'the service goes on');

# many half-open handshakes cost nobody else anything
my @idle = map { BMR::Client->new("$net.1:10995") } 1 .. 200;
$_->send("\x16\x03\x01") for @idle;
like(BMR::Client->new("$net.1:10995", tls => { mode => 'implicit', %tls })->line, qr/^\+OK/, 'served beside 200 that do not go on');
$_->close for @idle;
for my $junk ("\x16\x03\x01\xff\xff", "\x80\x2e\x01\x00\x02", "\x16\x03\x03\x00\x05\x01\x00\x00\x01\x00", 'x' x 20000) {
	my $x = BMR::Client->new("$net.1:10995");
	$x->send($junk);
	$x->close;
}
like(BMR::Client->new("$net.1:10995", tls => { mode => 'implicit', %tls })->line, qr/^\+OK/, 'served after nonsense');
unlike($gw->log, qr/tls process \d+ (?:died|exited)/, 'no tls process died of it');
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$_->stop for @taps;
$site->stop;
done_testing();
