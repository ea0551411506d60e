#!/usr/bin/perl
# bmr backend check: a real session says what works with a backend, and what does not.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use JSON::PP;
use BMR::Gateway;
use BMR::Site;
use BMR::Tls;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $ca = BMR::Tls->new;
$ca->cert('gw');
my $d = $ca->{dir};
my $tls = "ssl = yes\nssl_cert = <$d/gw.pem\nssl_key = <$d/gw.key\n";
my $site = BMR::Site->new(smtp => 1, dovecot => { a => $tls, b => $tls . "login_trusted_networks = 192.0.2.0/24\n" });
my $more = qq(tls {\n      mode = "starttls"\n      ca = "$d/ca.pem"\n      name = "gw.test"\n    });
my $gw = BMR::Gateway->new(net => $site->{net}, services => {
	pop3 => { backends => { map { $_ => $site->addr($_, 'pop3') } 'a', 'b' }, backend_more => $more },
	imap4 => { backends => { map { $_ => $site->addr($_, 'imap') } 'a', 'b' } },
	smtp => { backends => { map { $_ => $site->addr($_, 'smtp') } 'a', 'b' } },
	bad => { protocol => 'pop3', port => 11111, backends => { plain => "$site->{net}.99:1" } } });
for my $b ('pop3/a', 'imap4/a', 'smtp/a') {
	$gw->wait_up($b) or die "$b does not come up\n";
}

sub check {
	my ($name, $user, $password) = @_;
	my $cmd = "$BMR::Gateway::build/bin/bmr -j -s $gw->{dir}/run/bmr.sock " . ($user ? "--user $user " : '') . "backend check $name";
	my $out = $user ? `echo $password | $cmd 2>/dev/null` : `$cmd 2>/dev/null </dev/null`;
	$gw->{code} = $? >> 8;
	return $out ? JSON::PP::decode_json($out)->{check} // {} : {};
}

my $r = check('pop3/a');
ok($r->{good}, 'POP3 without a user: good') or diag(explain($r));
like($r->{tls}, qr/^TLSv1\.3 /, 'with TLS');
like($r->{capabilities}, qr/UIDL/, 'and capabilities');
like($r->{login}, qr/^not tried/, 'no login');
$r = check('pop3/a', 'alice', 'secret');
ok($r->{good}, 'with a user: good') or diag(explain($r));
is($r->{login}, 'good', 'login');
is($r->{forwarding}, 'XCLIENT is taken', 'and the address is taken');
$site->logs('dovecot', qr/user=<alice>.*rip=192\.0\.2\.1/, 'which the backend\'s log shows');
$r = check('pop3/b', 'alice', 'secret');
like($r->{forwarding}, qr/^XCLIENT is (?:not offered|refused or ignored)/, 'a backend that does not trust us is named') or diag(explain($r));
$r = check('pop3/a', 'alice', 'wrong');
ok(!$r->{good}, 'a wrong password: not good');
is($gw->{code}, 69, 'which the exit status says');
is($r->{login}, 'refused', 'the login is what is wrong');
like($r->{fault}, qr/AUTH.*[^?]\z/, 'with the backend\'s words');
$r = check('smtp/a', 'alice', 'secret');
is($r->{login}, 'good', 'SMTP: login') or diag(explain($r));
is($r->{forwarding}, 'XCLIENT is taken', 'SMTP: forwarding');
$r = check('imap4/a', 'alice', 'secret');
is($r->{login}, 'good', 'IMAP4: login') or diag(explain($r));
like($r->{forwarding}, qr/^ID is sent/, 'IMAP4: forwarding');
$site->logs('dovecot', qr/imap-login: .*user=<alice>.*rip=192\.0\.2\.1/, 'IMAP4: the backend\'s log shows it');
$r = check('bad/plain');
ok(!$r->{good}, 'nothing listens: not good');
like($r->{fault}, qr/^connect: Connection refused/, 'and it is said');
my $long = 'u' x 64;
like(qx(echo secret | $BMR::Gateway::build/bin/bmr -s $gw->{dir}/run/bmr.sock --user $long backend check pop3/a 2>&1), qr/a user of at most 63 octets/,
	'a user whose name is too long');
check('pop3/none');
is($gw->{code}, 65, 'no such backend');
unlike($gw->log, qr/secret/, 'no password in the log');
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$site->stop;
done_testing();
