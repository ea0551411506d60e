#!/usr/bin/perl
# The gateway's own certificate towards backends that ask for one: real Postfix and Dovecot, which let nobody in without.
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
my ($ca, $evil) = (BMR::Tls->new, BMR::Tls->new);
$ca->cert('host', cn => 'mail.test');
$ca->cert('gateway', cn => 'gateway.test');
$ca->cert('rsa', cn => 'gateway.test', kind => 'rsa');
$evil->cert('forged', cn => 'gateway.test');
my $d = $ca->{dir};
my $site = BMR::Site->new(smtp => 1, dovecot => <<"EOT", postfix => { smtpd_tls_security_level => 'encrypt',
ssl = yes
ssl_cert = <$d/host.pem
ssl_key = <$d/host.key
ssl_ca = <$d/ca.pem
ssl_require_crl = no
ssl_verify_client_cert = yes
auth_ssl_require_client_cert = yes
EOT
	smtpd_tls_cert_file => "$d/host.pem", smtpd_tls_key_file => "$d/host.key", smtpd_tls_CAfile => "$d/ca.pem",
	smtpd_tls_req_ccert => 'yes', smtpd_tls_loglevel => 1 });
my %at = (smtp => 'smtp', pop3 => 'pop3', imap4 => 'imap');
my ($port, %services) = (11000);
for my $p (sort keys %at) {
	for my $cert ('gateway', 'rsa', 'forged', '') {
		$services{$p . ($cert && "-$cert")} = { protocol => $p, port => ++$port, backends => { a => $site->addr('a', $at{$p}), b => $site->addr('b', $at{$p}) },
			more => qq(timeout {\n    login-failure = "10ms"\n    queue = "1s"\n  }),
			backend_more => qq(tls {\n mode = "starttls"\n ca = "$d/ca.pem"\n name = "mail.test"\n) .
			    ($cert ? qq( certificate = "$cert"\n) : '') . '    }' };
	}
}
my $gw = BMR::Gateway->new(net => $site->{net}, top => $ca->block('gateway', 'rsa') . $evil->block('forged'), services => \%services);
for my $p (sort keys %at) {
	ok($gw->wait_up("$p-$_/a"), "$p: up with the certificate $_") for 'gateway', 'rsa';
}

sub down {
	my ($service) = @_;
	for (1 .. 100) {
		my ($b) = grep { $_->{service} eq $service && $_->{name} eq 'a' } @{ $gw->bmr('backend', 'list')->{backends} };
		return "$b->{state}: $b->{last_error}" if ($b->{last_error} // '') ne '';
		sleep 0.1;
	}
	return 'up';
}

# Postfix serves nobody else, Dovecot logs nobody else in
like(down('smtp-forged'), qr/^down: .+/, 'smtp: a certificate of another issuer is refused');
like(down('smtp'), qr/^down: .+/, 'smtp: none is refused');

sub pop3 { my $c = BMR::Client->new($gw->addr($_[0])); $c->line; $c->cmd('USER alice'); return ($c, $c->cmd('PASS secret')) }
sub imap { my $c = BMR::Client->new($gw->addr($_[0])); $c->line; return ($c, $c->cmd('a LOGIN alice secret')) }
$site->deliver('alice', "Subject: one\r\n\r\nbody\r\n");
for my $how ('', '-forged') {
	unlike((pop3("pop3$how"))[1], qr/^\+OK/, "pop3$how: no login without a good one");
	unlike((imap("imap4$how"))[1], qr/^a OK/, "imap4$how: no login without a good one");
}
for my $cert ('gateway', 'rsa') {
	my ($c, $said) = pop3("pop3-$cert");
	like($said, qr/^\+OK/, "pop3: login with $cert");
	my ($on) = map { $_->{backend} } grep { $_->{client_port} == $c->{sock}->sockport } @{ $gw->bmr('who')->{sessions} };
	$site->kill_host($on);
	like($c->cmd('RETR 1'), qr/^\+OK/, 'and at the other host, after a death');
	like($c->body, qr/^Subject: one/m, 'the same mail');
	$c->cmd('QUIT');
	$site->start_host($on);
	$gw->wait_up("$_-$cert/$on") for sort keys %at;
	($c, $said) = imap("imap4-$cert");
	like($said, qr/^a OK/, "imap4: login with $cert");
	$c->cmd('b LOGOUT');
	$c = BMR::Client->new($gw->addr("smtp-$cert"));
	$c->reply;
	$c->smtp('EHLO x');
	like($c->smtp('MAIL FROM:<x@site.test>'), qr/^250 /, "smtp: served with $cert");
	$c->smtp('QUIT');
}
# whole handshakes, since Dovecot cannot resume where it asks for a certificate: probes and sessions alike
unlike(join("\n", grep { /TLS: / } split /\n/, $gw->log), qr/(?:pop3|imap4)/, 'no handshake with Dovecot has failed');
$site->logs('postfix', qr/Trusted TLS connection established from/, 'Postfix has verified it');
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$site->stop;
done_testing();
