#!/usr/bin/perl
# Bearer tokens over TLS before a real Dovecot that asks a server of ours about each: XOAUTH2 and OAUTHBEARER in all protocols,
# tokens that are not good, and one that has expired when its session has to go on at another host.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use IO::Select;
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64 decode_base64);
use Test::More;
use Time::HiRes qw(sleep);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;
use BMR::Tap;
use BMR::Tls;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $ca = BMR::Tls->new;
$ca->cert('gw');
my $d = $ca->{dir};

sub put { my ($f, $t, $mode) = @_; open(my $h, '>', $f) or die; print $h $t; close $h; chmod $mode // 0644, $f; return }

# Token introspection (RFC 7662): a token is what the file of its name says, "user" or nothing.
mkdir "$d/tokens";
my $issuer = IO::Socket::INET->new(LocalAddr => BMR::Site::network() . '.9', Listen => 50, ReuseAddr => 1) or die;
my $server = fork() // die;
if ($server == 0) {
	while (my $c = $issuer->accept) {
		my $in = '';
		while ($in !~ /\r\n\r\n/ || length($in) < index($in, "\r\n\r\n") + 4 + ($in =~ /^Content-Length: (\d+)/mi ? $1 : 0)) {
			last if !IO::Select->new($c)->can_read(5) || !sysread($c, $in, 4096, length $in);
		}
		my ($token) = $in =~ /token=([\w.-]+)/;
		my $user = '';
		if (open(my $f, '<', "$d/tokens/" . ($token // 'none'))) {
			chomp($user = <$f> // '');
		}
		my $body = $user ? qq({"active": true, "username": "$user"}) : '{"active": false}';
		print $c "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body";
		close $c;
	}
	POSIX::_exit(0);
}
END { if ($server) { local $?; kill 'KILL', $server; waitpid($server, 0) } }
my $asks = 'http://' . $issuer->sockhost . ':' . $issuer->sockport . '/introspect';
put("$d/oauth.conf", "introspection_mode = post\nintrospection_url = $asks\nusername_attribute = username\nactive_attribute = active\n" .
    "active_value = true\nforce_introspection = yes\n");
put("$d/master", "gw:{PLAIN}mastersecret\n");
put("$d/password", "mastersecret\n", 0600);
my $site = BMR::Site->new(smtp => 1, dovecot => <<"EOT", postfix => { smtpd_tls_security_level => 'may',
ssl = yes
ssl_cert = <$d/gw.pem
ssl_key = <$d/gw.key
auth_mechanisms = plain login xoauth2 oauthbearer
auth_cache_size = 0
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
passdb {
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = $d/oauth.conf
}
passdb {
  driver = passwd-file
  args = $d/master
  master = yes
}
EOT
	smtpd_tls_cert_file => "$d/gw.pem", smtpd_tls_key_file => "$d/gw.key" });
my $tls = { mode => 'starttls', ca => "$d/ca.pem" };
my %at = (smtp => 'smtp', pop3 => 'pop3', imap4 => 'imap');
my $times = qq(timeout {\n    login-failure = "10ms"\n    hold = "5s"\n  });
my $to = qq(tls {\n mode = "starttls"\n ca = "$d/ca.pem"\n name = "gw.test"\n    });
my (%tap, $port);	# a death is that of the way to a host: Dovecot slows a host down that is killed again and again
for my $p (sort keys %at) {
	for my $h ('a', 'b') {
		mkdir "$d/tap-$p-$h";
		$tap{$p}{$h} = BMR::Tap->new(host => $h, dir => "$d/tap-$p-$h", listen => "$site->{net}.5:" . (12000 + ++$port), to => $site->addr($h, $at{$p}));
	}
}
my %services = map { my $p = $_; my %b = map { $_ => $tap{$p}{$_}{listen} } 'a', 'b';
	($p => { backends => \%b, backend_more => $to, more => qq($times\n  master-user = "gw"\n  master-password-file = "$d/password") },
	"without-$p" => { protocol => $p, port => { smtp => 11025, pop3 => 11110, imap4 => 11143 }->{$p}, backends => \%b, backend_more => $to,
		more => $times }) } keys %at;
my $gw = BMR::Gateway->new(net => $site->{net}, tls => { mode => 'starttls' }, top => $ca->block('gw'), services => \%services);
$gw->ready;
$site->deliver('alice', "Subject: one\r\n\r\nbody\r\n");

sub b64 { return encode_base64($_[0], '') }
sub message {
	my ($mech, $user, $token) = @_;
	return b64($mech eq 'XOAUTH2' ? "user=$user\1auth=Bearer $token\1\1" : "n,a=$user,\1host=gw.test\1port=1\1auth=Bearer $token\1\1");
}

# Each protocol: how it begins and offers, how a token is given, what is done after, how it looks when it is well.
my %proto = (
	pop3 => { begin => sub { $_[0]->line; $_[0]->cmd('CAPA'); return $_[0]->body }, auth => sub { my ($c, $m, $t) = @_; return $c->cmd("AUTH $m $t") },
		two => sub { my ($c, $m, $t) = @_; my $l = $c->cmd("AUTH $m"); return $l =~ /^\+ / ? $c->cmd($t) : $l }, offer => qr/^SASL .*XOAUTH2 OAUTHBEARER/m,
		good => qr/^\+OK/, bad => qr/^-ERR \[AUTH\]/, use => sub { return $_[0]->cmd('RETR 1') =~ /^\+OK/ && $_[0]->body }, used => qr/^Subject: one/m },
	imap4 => { begin => sub { $_[0]->line; $_[0]->send("c CAPABILITY\r\n"); return $_[0]->line . $_[0]->line }, auth => sub { my ($c, $m, $t) = @_; return $c->cmd("a AUTHENTICATE $m $t") },
		two => sub { my ($c, $m, $t) = @_; my $l = $c->cmd("a AUTHENTICATE $m"); return $l =~ /^\+/ ? $c->cmd($t) : $l }, offer => qr/AUTH=XOAUTH2 AUTH=OAUTHBEARER/,
		good => qr/^a OK/, bad => qr/^a NO \[AUTHENTICATIONFAILED\]/, use => sub { my $l = $_[0]->cmd('u STATUS INBOX (MESSAGES)');
			return $l . ($l =~ /^\* STATUS/ ? $_[0]->line : '') }, used => qr/^\* STATUS INBOX \(MESSAGES 1\)\r\nu OK/ },
	smtp => { begin => sub { $_[0]->reply; return $_[0]->smtp('EHLO x') }, auth => sub { my ($c, $m, $t) = @_; return $c->smtp("AUTH $m $t") },
		two => sub { my ($c, $m, $t) = @_; my $l = $c->smtp("AUTH $m"); return $l =~ /^334/ ? $c->smtp($t) : $l }, offer => qr/^250-AUTH .*XOAUTH2 OAUTHBEARER/m,
		good => qr/^235 /, bad => qr/^535 /, use => sub { return $_[0]->smtp('MAIL FROM:<x@site.test>') . $_[0]->smtp('RCPT TO:<alice@site.test>') },
		used => qr/^250 .*\n250 / },
);
my $n = 0;
sub token { my ($user, $size) = @_; my $t = 'token' . ++$n . ('x' x ($size // 0)); put("$d/tokens/$t", "$user\n"); return $t }
sub expire { unlink "$d/tokens/$_[0]" or die; return }
my $address = 100;	# each client from an address of its own: refusals make the next login from there wait
sub client { my ($service) = @_; return BMR::Client->new($gw->addr($service), tls => $tls, from => "$site->{net}." . ++$address) }
sub on { my ($c) = @_; return (map { $_->{backend} } grep { $_->{client_port} == $c->{sock}->sockport } @{ $gw->bmr('who')->{sessions} })[0] }
sub with_death {
	my ($c, $p, $sub) = @_;
	my $on = on($c);
	$tap{$p}{$on}->down;
	my $said = eval { $sub->() };
	my $why = $@;
	$tap{$p}{$on}->up;
	$gw->wait_up("$_/$on") for $p, "without-$p";
	return defined $said ? $said : "dies: $why";
}

for my $p ('pop3', 'imap4', 'smtp') {
	my $x = $proto{$p};
	for my $mech ('XOAUTH2', 'OAUTHBEARER') {
		for my $how ('auth', 'two') {
			my $c = client($p);
			like($x->{begin}->($c), $x->{offer}, "$p: offered");
			like($x->{$how}->($c, $mech, message($mech, 'alice', token('alice', $how eq 'two' ? 180 : 0))), $x->{good}, "$p: $mech, $how");
			like($x->{use}->($c), $x->{used}, 'and in');
		}
		my $c;
		for my $t ([ 'no-token', 'an unknown token' ], [ token('bob'), "another user's token" ]) {
			$c = client($p);
			$x->{begin}->($c);
			like($x->{auth}->($c, $mech, message($mech, 'alice', $t->[0])), $x->{bad}, "$p: $mech: $t->[1] is refused");
		}

		# the host dies: with a token that is still good, and with one that has expired
		$c = client("without-$p");
		$x->{begin}->($c);
		$x->{auth}->($c, $mech, message($mech, 'alice', token('alice')));
		like(with_death($c, $p, sub { $x->{use}->($c) }), $x->{used}, "$p: $mech: goes on at the other host with its token");
		{
			my $long = $mech eq 'OAUTHBEARER';
			my $token = token('alice', $long ? 200 : 0);
			$c = client($p);
			$x->{begin}->($c);
			$x->{auth}->($c, $mech, message($mech, 'alice', $token));
			expire($token);
			like(with_death($c, $p, sub { $x->{use}->($c) }), $x->{used}, "$p: $mech: and with an expired one as the master user");
			like(with_death($c, $p, sub { $p eq 'smtp' && $c->smtp('RSET'); $x->{use}->($c) }), $x->{used}, 'and once more') if !$long;
		}
		my $token = token('alice');
		$c = client("without-$p");
		$x->{begin}->($c);
		$x->{auth}->($c, $mech, message($mech, 'alice', $token));
		expire($token);
		my $end = with_death($c, $p, sub { my $r = $x->{use}->($c); return $r });
		unlike($end, $x->{used}, "$p: $mech: without one it ends");
		unlike($c->{seen}, qr/\[AUTH|535/, 'and is not told of a wrong password');
	}
}
# a message that names two users: the backend may take the one and the gateway the other, so the master user acts for neither
sub failed { my $n = 0; $n += $_->{logins_failed} for @{ $gw->bmr('status')->{services} }; return $n }
for my $p ('pop3', 'imap4', 'smtp') {
	my ($x, $token, $before) = ($proto{$p}, token('alice'), failed());
	my $c = client($p);
	$x->{begin}->($c);
	like($x->{auth}->($c, 'XOAUTH2', b64("user=alice\1user=alice\1auth=Bearer $token\1\1")), $x->{good}, "$p: Dovecot takes it");
	is(failed(), $before, 'a login without a name is no failed one');
	expire($token);
	unlike(with_death($c, $p, sub { my $r = $x->{use}->($c); return $r }), $x->{used}, 'but with an expired token it ends');
}
unlike($gw->log, qr/mastersecret|token\d/, 'no secret in the log');
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$_->stop for map { values %$_ } values %tap;
$site->stop;
done_testing();
