#!/usr/bin/perl
# bmr backend check: a real session says what works with a backend, and what does not.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use JSON::PP;
use Time::HiRes qw(sleep);
use BMR::Gateway;
use BMR::Site;
use BMR::Tap;
use BMR::Tls;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $ca = BMR::Tls->new;
$ca->cert('gw');
my $d = $ca->{dir};
my $tls = "ssl = yes\nssl_cert = <$d/gw.pem\nssl_key = <$d/gw.key\n";
# a trusts the gateway and b does not; each expects PROXY on ports of its own, b from elsewhere
my $proxied = join '', map { "service $_->[0]-login {\n  inet_listener $_->[0]-proxy {\n    port = $_->[1]\n    haproxy = yes\n  }\n}\n" } [ 'pop3', 10111 ], [ 'imap', 10144 ];
my $site = BMR::Site->new(smtp => 1, postfix => { a => {}, b => { smtpd_authorized_xclient_hosts => '' } }, dovecot => {
	a => $tls . $proxied . "haproxy_trusted_networks = 127.0.0.0/8\n",
	b => $tls . $proxied . "login_trusted_networks = 192.0.2.0/24\nhaproxy_trusted_networks = 192.0.2.0/24\n" });
my $more = qq(tls {\n      mode = "starttls"\n      ca = "$d/ca.pem"\n      name = "gw.test"\n    });
my $port = 11110;
# A service of both hosts; a protocol's own port, or another.
sub service {
	my ($proto, $conf, $at) = @_;
	my %b = map { my $addr = $site->addr($_, $proto); $addr =~ s/\d+$/$at/ if $at; $_ => $addr } 'a', 'b';
	return { protocol => $proto, port => ++$port, backends => \%b, backend_more => $conf };
}
# An IMAP4 server that says no more than it must.
my @taps;
sub imap_server {
	my ($name, $id) = @_;
	my $dir = File::Temp::tempdir("bmr-$name-XXXXXX", TMPDIR => 1, CLEANUP => 1);
	push @taps, BMR::Tap->new(host => $name, dir => $dir, listen => "$site->{net}.5:" . ++$port, serve => sub {
		my ($conn, $data) = @_;
		return "* OK [CAPABILITY IMAP4rev1 ID AUTH=PLAIN] x\r\n" if !defined $data;
		return join '', map { my ($tag, $cmd) = split / /; $cmd eq 'ID' ? "* ID NIL\r\n$tag $id\r\n" : "* CAPABILITY IMAP4rev1 ID\r\n$tag OK done\r\n" }
		    split /\r\n/, $data;
	});
	return $taps[-1]{listen};
}
my $gw = BMR::Gateway->new(net => $site->{net}, services => {
	pop3 => { backends => { map { $_ => $site->addr($_, 'pop3') } 'a', 'b' }, backend_more => $more },
	imap4 => { backends => { map { $_ => $site->addr($_, 'imap') } 'a', 'b' } },
	smtp => { backends => { map { $_ => $site->addr($_, 'smtp') } 'a', 'b' } },
	(map { my $p = $_; map { ("$p-v$_" => service($p, qq(proxy = "v$_"))) } 1, 2 } 'pop3', 'imap4', 'smtp'),
	'to-pop3' => service('pop3', qq(proxy = "v2"\n    xclient = false), 10111), 'to-imap4' => service('imap4', 'proxy = "v1"', 10144),
	'off-pop3' => service('pop3', 'xclient = false'), 'off-imap4' => service('imap4', 'xclient = false'), 'off-smtp' => service('smtp', 'xclient = false'),
	id => { protocol => 'imap4', port => ++$port, backends => { believes => imap_server('believes', 'OK Trusted ID completed.'),
		refuses => imap_server('refuses', 'BAD Invalid ID parameters') } },
	bad => { protocol => 'pop3', port => ++$port, backends => { plain => "$site->{net}.99:1" } } });
for my $b (map { my $s = $_; map { "$s/$_" } 'a', 'b' } 'pop3', 'imap4', 'smtp', 'off-pop3', 'off-imap4', 'off-smtp') {
	$gw->wait_up($b) or die "$b does not come up\n";
}
$gw->wait_up($_) or die "$_ does not come up\n" for 'to-pop3/a', 'to-imap4/a', 'id/believes';

# What bmr(8) prints; again while no process is warm.
sub asked {
	my ($options, $name, $user, $password) = @_;
	my $cmd = "$BMR::Gateway::build/bin/bmr $options -s $gw->{dir}/run/bmr.sock " . ($user ? "--user $user " : '') . "backend check $name 2>/dev/null";
	for (1 .. 100) {
		my $out = $user ? `echo $password | $cmd` : `$cmd </dev/null`;
		$gw->{code} = $? >> 8;
		return $out if $gw->{code} != 75;
		sleep 0.1;
	}
	return '';
}

sub check {
	my $out = asked('-j', @_);
	return $out ? JSON::PP::decode_json($out)->{check} // {} : {};
}

my $r = check('pop3/a');
ok($r->{good}, 'POP3 without a user: good') or diag(explain($r));
like($r->{tls}, qr/^TLSv1\.3 /, 'with TLS');
like($r->{capabilities}, qr/UIDL/, 'and capabilities');
like($r->{login}, qr/^not tried/, 'no login');
like($r->{forwarding}, qr/^not tried/, 'no address');
is($gw->{code}, 0, 'exit status 0');
$r = check('pop3/a', 'alice', 'secret');
ok($r->{good}, 'with a user: good') or diag(explain($r));
is($r->{login}, 'good', 'login');
is($r->{forwarding}, 'XCLIENT is taken', 'and the address is taken');
$site->logs('dovecot', qr/user=<alice>.*rip=192\.0\.2\.1/, 'which the backend\'s log shows');
$r = check('pop3/a', 'alice', 'wrong');
ok(!$r->{good}, 'a wrong password: not good');
is($gw->{code}, 69, 'which the exit status says');
is($r->{login}, 'refused', 'the login is what is wrong');
like($r->{fault}, qr/AUTH.*[^?]\z/, 'with the backend\'s words');

# --- whether the client's address gets there ----------------------------------------------------------------------------
sub told {
	my ($name, $forwarded, $forwarding, $what) = @_;
	$r = check($name, 'alice', 'secret');
	my $good = $forwarded ne 'no';
	my $right = is($gw->{code}, $good ? 0 : 69, "$name: $what");
	$right &= ok($good ? $r->{good} : !$r->{good}, $good ? '... good' : '... not good');
	$right &= is($r->{forwarded}, $forwarded, '... which the answer has in a word');
	$right &= like($r->{forwarding}, $forwarding, '... and in words');
	$right &= isnt($r->{fault}, '', '... with the fault') if !$good;
	$right or diag(explain($r));
	return;
}
told('pop3/b', 'no', qr/^XCLIENT is (?:not offered|refused or ignored)/, 'a POP3 server that does not trust the gateway');
is($r->{login}, 'good', '... though one can log in');
told('smtp/b', 'no', qr/^XCLIENT is not offered/, 'an SMTP server that does not');
told('smtp/a', 'yes', qr/^XCLIENT is taken/, 'and one that does');
is($r->{login}, 'good', '... and takes the login');
told("off-$_/b", 'off', qr/off for this backend: the client's address is not told/, "$_: nobody has asked for it") for 'pop3', 'imap4', 'smtp';
for my $h ('a', 'b') {
	told("imap4/$h", 'unproven', qr/^ID is sent, and no answer shows .* login of alice from 192\.0\.2\.1, session [0-9a-f]+$/, 'IMAP4: what cannot be known');
	is($r->{login}, 'good', '... and the login');
	my ($session) = $r->{forwarding} =~ /session (\S+)$/;
	my $shown = qr/imap-login: Info: Login: user=<alice>.*rip=192\.0\.2\.1,.*session=<\Q$session\E>/;
	$site->logs('dovecot', $shown, 'IMAP4: what the log of one that believes it must have', 'a') if $h eq 'a';
	unlike($site->log_of('dovecot', 'b'), $shown, 'IMAP4: and that of one that does not lacks') if $h eq 'b';
}
like(asked('', 'imap4/b', 'alice', 'secret'), qr{^imap4/b: good, but FORWARDING IS UNPROVEN$}m, 'IMAP4: not plainly good');
is($gw->{code}, 0, '... though nothing is known to be wrong');
like(asked('', 'pop3/b', 'alice', 'secret'), qr{^pop3/b: NOT GOOD$}m, 'POP3: not good, in words');
told('id/believes', 'yes', qr/^ID is believed/, 'an IMAP4 server that says that it believes it');
told('id/refuses', 'no', qr/^ID is refused/, 'one that refuses it');
told('to-pop3/a', 'yes', qr/^PROXY v2 names 192\.0\.2\.1 and is taken/, 'PROXY, version 2');
$site->logs('dovecot', qr/pop3-login: Info: Login: user=<alice>.*rip=192\.0\.2\.1, lip=192\.0\.2\.2,/, '... which the log shows', 'a');
told('to-imap4/a', 'yes', qr/^PROXY v1 names 192\.0\.2\.1 and is taken/, 'version 1, whatever becomes of ID');
for my $name ('to-pop3/b', 'to-imap4/b', map { ("$_-v1/a", "$_-v2/a") } 'pop3', 'imap4', 'smtp') {
	told($name, 'no', qr/^PROXY v[12] was sent, and no session came of it/, 'PROXY is not expected');
}
for my $name (map { ("$_-v1/a", "$_-v2/a") } 'pop3', 'imap4', 'smtp') {
	check($name);
	is($gw->{code}, 69, "$name: which shows without a user");
}
ok(!(grep { $_->{service} =~ /-v\d$/ && $_->{state} eq 'up' } @{ $gw->bmr('backend', 'list')->{backends} }), 'none of them is up');

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
$_->stop for @taps;
$site->stop;
done_testing();
