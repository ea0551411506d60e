#!/usr/bin/perl
# The PROXY protocol on both sides: who the client is, to the gateway and to real backends; TLS in a process each.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;
use BMR::Tls;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $ca = BMR::Tls->new;
$ca->cert('gw');
my $d = $ca->{dir};
my $site = BMR::Site->new(smtp => 1, postfix => { smtpd_upstream_proxy_protocol => 'haproxy' }, dovecot => <<"EOT");
haproxy_trusted_networks = 127.0.0.0/8
ssl = yes
ssl_cert = <$d/gw.pem
ssl_key = <$d/gw.key
service pop3-login {
  inet_listener pop3 {
    haproxy = yes
  }
  inet_listener pop3s {
    port = 10995
    ssl = yes
    haproxy = yes
  }
}
EOT
my $net = $site->{net};
my %smtp = (backends => { a => $site->addr('a', 'smtp') }, backend_more => qq(proxy = "v1"\n    xclient = false));
my ($pop3s) = $site->addr('a', 'pop3') =~ /^(.*):/;
my $gw = BMR::Gateway->new(net => $net, top => $ca->block('gw') . "tls {\n  sessions-per-process = 1\n}\n", services => {
	smtp => { %smtp, more => qq(listener p {\n    address = "$net.1:11025"\n    proxy-from = {"$net.64/26"}\n  }) },
	pop3 => { backends => { a => "$pop3s:10995" }, backend_more => qq(proxy = "v2"\n    xclient = false
    tls {\n      mode = "implicit"\n      ca = "$d/ca.pem"\n      name = "gw.test"\n    }),
	    more => qq(tls {\n    certificates = {"gw"}\n  }
  listener p {\n    address = "$net.1:11995"\n    tls = "implicit"\n    proxy-from = {"$net.64/26", "2001:db8::/32"}\n  }) } });
$gw->ready;
my %tls = (ca => "$d/ca.pem");
sub who { my ($service) = @_; return (grep { $_->{service} eq $service } @{ $gw->bmr('who')->{sessions} })[0] // {} }

# to the gateway
my $c = BMR::Client->new("$net.1:11025", from => "$net.70");
$c->send("PROXY TCP4 192.0.2.7 192.0.2.1 4711 25\r\n");
like($c->reply, qr/^220 /, 'behind a header');
is(who('smtp')->{client}, '192.0.2.7', 'version 1: the client is whom it names');
is(who('smtp')->{client_port}, 4711, 'with its port');
$c->smtp($_) for 'EHLO x', 'MAIL FROM:<x@site.test>', 'RCPT TO:<alice@site.test>';
$site->logs('postfix', qr/connect from unknown\[192\.0\.2\.7\]/, 'Postfix hears it, by version 1');
$c->smtp('QUIT');
my $direct = BMR::Client->new("$net.1:11025", from => "$net.7");
like($direct->reply, qr/^220 /, 'no header from elsewhere');
$direct->send("PROXY TCP4 192.0.2.8 192.0.2.1 4711 25\r\n");
like($direct->reply, qr/^5/, 'and one that comes is not believed');
is(who('smtp')->{client}, "$net.7", 'the address is its own');
$direct->smtp('QUIT');
my $none = BMR::Client->new("$net.1:11025", from => "$net.71");
$none->send("EHLO x\r\n");
is($none->rest, '', 'from a trusted network without a header: the end');
like($gw->log, qr/proxy \Q$net.71\E: sends no PROXY header/, 'with a word in the log');

# version 2, in pieces, then TLS
$c = BMR::Client->new("$net.1:11995", from => "$net.72");
my $header = "\r\n\r\n\0\r\nQUIT\n\x21\x21" . pack('n', 36) . pack('H32H32nn', '20010db8' . '0' x 23 . '7', '20010db8' . '0' x 23 . '1', 4712, 995);
for my $octet (split //, $header) {
	$c->send($octet);
	sleep 0.005;
}
$c->secure(%tls);
like($c->line, qr/^\+OK/, 'version 2, octet by octet, then TLS');
is(who('pop3')->{client}, '2001:db8::7', 'the client is whom it names');
$c->cmd('USER alice');
like($c->cmd('PASS secret'), qr/^\+OK/, 'to a backend by version 2 and TLS');
$site->logs('dovecot', qr/Login: user=<alice>.*rip=2001:db8::7.*TLS/, 'Dovecot hears it');
my @procs = $gw->pids(qr/^bmr: tls process of pop3/);
my @more = map { my $x = BMR::Client->new("$net.1:11995", from => "$net.73"); $x->send("PROXY UNKNOWN\r\n"); $x->secure(%tls); $x->line; $x } 1 .. 5;
cmp_ok(scalar($gw->pids(qr/^bmr: tls process of pop3/)), '>=', 7, 'a process for each connection');
is(scalar(grep { $_->cmd('NOOP') =~ /^-ERR/ } @more), 5, 'that serves it');
$_->cmd('QUIT'), $_->close for @more, $c;
for (1 .. 100) {
	last if $gw->pids(qr/^bmr: tls process of pop3/) <= 4;
	sleep 0.1;
}
cmp_ok(scalar($gw->pids(qr/^bmr: tls process of pop3/)), '<=', 4, 'and ends with it');
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$site->stop;
done_testing();
