#!/usr/bin/perl
# Mechanisms with a challenge through POP3 and SMTP: passed on to a real server; after its death the master user goes on.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Digest::MD5 qw(md5);
use Digest::SHA qw(sha256 hmac_sha256);
use MIME::Base64 qw(encode_base64 decode_base64);
use Test::More;
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $dir = File::Temp::tempdir('bmr-scram-XXXXXX', TMPDIR => 1, CLEANUP => 1);
chmod 0755, $dir;
for my $f ([ master => "gw:{PLAIN}mastersecret\n" ], [ password => "mastersecret\n" ]) {
	open(my $h, '>', "$dir/$f->[0]") or die;
	print $h $f->[1];
	close $h;
}
my $site = BMR::Site->new(smtp => 1, dovecot => "auth_mechanisms = plain login cram-md5 scram-sha-256\npassdb {\n  driver = passwd-file\n" .
	"  args = $dir/master\n  master = yes\n}\nauth_failure_delay = 0\n" .
	"service anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n");
my %backends = map { $_ => $site->addr($_, 'pop3') } 'a', 'b';
my $master = qq(master-user = "gw"\n  master-password-file = "$dir/password"\n  timeout {\n    login-failure = "10ms"\n  });
my $gw = BMR::Gateway->new(net => $site->{net}, services => { pop3 => { backends => \%backends, more => $master },
	(map { my $p = $_; $p => { backends => { map { $_ => $site->addr($_, $p) } 'a', 'b' }, more => $master } } 'smtp', 'imap4'),
	without => { protocol => 'pop3', port => 11110, backends => \%backends } });
$gw->ready;
$site->deliver('alice', "Subject: one\r\n\r\nbody\r\n");

sub client { my ($s) = @_; my $c = BMR::Client->new($gw->addr($s // 'pop3')); $c->line; return $c }
sub b64 { return encode_base64($_[0], '') }
sub hmac_md5_hex {
	my ($data, $key) = @_;
	$key .= "\0" x (64 - length $key);
	return unpack('H*', md5(($key ^ ("\x5c" x 64)) . md5(($key ^ ("\x36" x 64)) . $data)));
}

sub cram {
	my ($c, $user, $password) = @_;
	my ($challenge) = $c->cmd('AUTH CRAM-MD5') =~ /^(?:\+|334) (\S+)/ or return 'no challenge';
	return $c->cmd(b64("$user " . hmac_md5_hex(decode_base64($challenge), $password)));
}

# SCRAM-SHA-256 (RFC 5802, 7677); ir: the first message goes with the command
our $nonce = 'fyko+d2lbbFgONRv9qkxdawL';
sub scram {
	my ($c, $user, $password, $ir, $before_last) = @_;
	my $bare = "n=$user,r=$nonce";
	my $l = $ir ? $c->cmd('AUTH SCRAM-SHA-256 ' . b64("n,,$bare")) : do { $c->cmd('AUTH SCRAM-SHA-256'); $c->cmd(b64("n,,$bare")) };
	my ($server) = map { decode_base64($_) } $l =~ /^(?:\+|334) (\S+)/ or return $l;
	my ($both, $salt, $n) = $server =~ /^r=([^,]+),s=([^,]+),i=(\d+)/ or return "server: $server";
	my $u = my $salted = hmac_sha256(decode_base64($salt) . pack('N', 1), $password);
	$salted ^= $u = hmac_sha256($u, $password) for 2 .. $n;
	my $key = hmac_sha256('Client Key', $salted);
	my $final = "c=biws,r=$both";
	my $proof = $key ^ hmac_sha256("$bare,$server,$final", sha256($key));
	$before_last->() if $before_last;
	$l = $c->cmd(b64("$final,p=" . b64($proof)));
	return $l if $l !~ /^(?:\+|334) (\S+)/;
	my $sig = hmac_sha256("$bare,$server,$final", hmac_sha256('Server Key', $salted));
	return 'the server does not prove itself' if decode_base64($1) ne 'v=' . b64($sig);
	return $c->cmd('');
}

my $c = client();
$c->cmd('CAPA');
like($c->body, qr/^SASL .*CRAM-MD5 SCRAM-SHA-256/m, 'offered, since the backends have them and there is a master user');
my $w = client('without');
$w->cmd('CAPA');
unlike($w->body, qr/CRAM/, 'not without one');
like($w->cmd('AUTH CRAM-MD5'), qr/^-ERR/, 'nor taken');
for my $t ([ 'CRAM-MD5', sub { cram($_[0], 'alice', 'secret') } ], [ 'SCRAM-SHA-256', sub { scram($_[0], 'alice', 'secret', 0) } ],
	[ 'SCRAM-SHA-256 with its first message', sub { scram($_[0], 'alice', 'secret', 1) } ]) {
	my ($name, $login) = @$t;
	$c = client();
	like($login->($c), qr/^\+OK/, "$name: logged in");
	my ($user) = map { $_->{user} } grep { $_->{client_port} == $c->{sock}->sockport } @{ $gw->bmr('who')->{sessions} };
	my ($on) = map { $_->{backend} } grep { $_->{client_port} == $c->{sock}->sockport } @{ $gw->bmr('who')->{sessions} };
	$site->kill_host($on);
	like($c->cmd('RETR 1'), qr/^\+OK/, "$name: its host dies, and it goes on at the other");
	like($c->body, qr/^Subject: one/m, 'in the same mailbox');
	$c->cmd('QUIT');
	$site->start_host($on);
	$gw->wait_up("pop3/$on");
}
$c = client();
like(cram($c, 'alice', 'wrong'), qr/^-ERR \[AUTH\]/, 'a wrong proof is refused');
like(cram($c, 'alice', 'secret'), qr/^\+OK/, 'and a good one taken in the same session');
$c = client();
$c->cmd('AUTH CRAM-MD5');
like($c->cmd('*'), qr/^-ERR/, 'an exchange that is given up');
like($c->cmd('NOOP'), qr/^-ERR/, 'leaves the session where it was');
{
	local $nonce = 'n' x 500;
	like(scram(client(), 'alice', 'secret', 1), qr/^\+OK/, 'a long first message');
	$nonce = 'n' x 1000;
	like(scram(client(), 'alice', 'secret', 1), qr/^-ERR .*too long/, 'one that is too long is refused');
}
$c = client();
my $r = scram($c, 'alice', 'secret', 1, sub {
	my ($on) = map { $_->{backend} } grep { $_->{client_port} == $c->{sock}->sockport } @{ $gw->bmr('who')->{sessions} };
	$site->kill_host($on);
	$c->{died} = $on });
like($r, qr/^-ERR \[SYS\/TEMP\]/, 'a host that dies between challenge and proof: for now refused, not wrong');
$site->start_host($c->{died});
$gw->wait_up("pop3/$_") for 'a', 'b';

# SMTP
sub smtp { my $s = BMR::Client->new($gw->addr('smtp')); $s->reply; return ($s, $s->smtp('EHLO x')) }
sub on { my ($c) = @_; return (map { $_->{backend} } grep { $_->{client_port} == $c->{sock}->sockport } @{ $gw->bmr('who')->{sessions} })[0] }
{
	local $nonce = 'n' x 500;
	like(scram((smtp())[0], 'alice', 'secret', 1), qr/^235 /, 'SMTP: a long first message');
	$nonce = 'n' x 1000;
	like(scram((smtp())[0], 'alice', 'secret', 1), qr/^500 5\.5\.6 /, 'SMTP: one that is too long is refused');
}
for my $t ([ 'CRAM-MD5', sub { cram($_[0], 'alice', 'secret') } ], [ 'SCRAM-SHA-256', sub { scram($_[0], 'alice', 'secret', 0) } ],
	[ 'SCRAM-SHA-256 with its first message', sub { scram($_[0], 'alice', 'secret', 1) } ]) {
	my ($name, $login) = @$t;
	$gw->wait_up("smtp/$_") for 'a', 'b';
	my ($s, $ehlo) = smtp();
	like($ehlo, qr/^250-AUTH .*CRAM-MD5 SCRAM-SHA-256/m, 'SMTP offers them');
	like($login->($s), qr/^235 /, "SMTP $name: logged in");
	$s->smtp('MAIL FROM:<x@site.test>');
	my $on = on($s);
	$site->kill_host($on);
	like($s->smtp('RCPT TO:<alice@site.test>'), qr/^250 /, "SMTP $name: its host dies, and it goes on at the other");
	$s->smtp('QUIT');
	$site->start_host($on);
}
$gw->wait_up("smtp/$_") for 'a', 'b';
my ($s) = smtp();
like(cram($s, 'alice', 'wrong'), qr/^535 /, 'SMTP: a wrong proof is refused');
like(cram($s, 'alice', 'secret'), qr/^235 /, 'and a good one taken in the same session');

# guesses: the answer to a challenge names who it is, and waits before it goes to the server; no two are the same
sub guess {
	my ($p, $from, $user) = @_;
	my $c = BMR::Client->new($gw->addr($p), from => "$site->{net}.$from");
	$p eq 'smtp' ? do { $c->reply; $c->smtp('EHLO x') } : $c->line;
	my ($challenge) = $c->cmd($p eq 'imap4' ? 'a AUTHENTICATE CRAM-MD5' : 'AUTH CRAM-MD5') =~ /^(?:\+|334) (\S+)/ or die 'no challenge';
	$c->send(b64("$user " . hmac_md5_hex(decode_base64($challenge), 'guess')) . "\r\n");
	return $c;
}
my @every = ('imap4', 'pop3', 'smtp');
my $no = qr/^a NO|^-ERR|^535/;
like(guess($every[$_ % 3], 100 + $_, 'grace')->line, $no, "a guess of grace's password") for 1 .. 6;
my $grace = guess('imap4', 110, 'grace');
ok($grace->silent(1), 'an answer waits after six failures of its user from elsewhere');
like($grace->line, $no, 'and is tried then');
like($gw->log, qr/ $_: session=<\w+> user=<grace> .*authentication failed/, "$_ logs who it was") for @every;
unlike($gw->log, qr/user=<> .*authentication failed/, 'an exchange that was given up is no failure');
guess('imap4', 120, 'heidi')->line for 1 .. 3;
my $heidi = guess('imap4', 120, 'heidi');
ok($heidi->silent(3), 'each counts for the address');
like($heidi->line, $no, 'and the next waits longer than two or four seconds');

($s) = smtp();
like(scram($s, 'alice', 'secret', 1, sub { $site->kill_host(on($s)) }), qr/^454 /, 'SMTP: dies between challenge and proof: 454');
unlike($gw->log, qr/secret/, 'no password in the log');
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$site->stop;
done_testing();
