#!/usr/bin/perl
# Logins that fail: told late, counted by address and user; a backend that cannot tell is never told as a wrong password.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use MIME::Base64 qw(encode_base64);
use Test::More;
use Time::HiRes qw(sleep);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;
use BMR::Tap;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
# what waits is the gateway, not Dovecot
my $site = BMR::Site->new(smtp => 1, dovecot => "auth_failure_delay = 0\nservice anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n");
my $net = $site->{net};
my $dir = File::Temp::tempdir('bmr-logins-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $times = qq(timeout {\n    login-failure = "10ms"\n    hold = "1s"\n    queue = "3s"\n  });
mkdir "$dir/$_" for 'pop3', 'smtp', 'imap4';
my %serve = (
	pop3 => sub { !defined $_[1] ? "+OK x\r\n" : $_[1] =~ /^CAPA/ ? "+OK\r\nUSER\r\nUIDL\r\nSASL PLAIN\r\n.\r\n" :
	    $_[1] =~ /^PASS busy/m ? "-ERR [IN-USE] locked\r\n" : $_[1] =~ /^PASS|^AUTH/m ? "-ERR [SYS/TEMP] database down\r\n" : "+OK\r\n" },
	smtp => sub { !defined $_[1] ? "220 x\r\n" : $_[1] =~ /^EHLO/ ? "250-x\r\n250 AUTH PLAIN\r\n" :
	    $_[1] =~ /^AUTH PLAIN AGFsaWNlAGJ1c3k=/ ? "534 5.7.9 too weak\r\n" : $_[1] =~ /^AUTH/ ? "454 4.7.0 database down\r\n" : "250 ok\r\n" },
	imap4 => sub { my ($tag, $cmd) = ($_[1] // '') =~ /^(\S+) (\w+)/; return !defined $_[1] ? "* OK x\r\n" : !$cmd ? '' : $cmd eq 'CAPABILITY' ?
	    "* CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR LITERAL+\r\n$tag OK\r\n" : $cmd eq 'LOGIN' && $_[1] =~ /busy/ ? "$tag NO [INUSE] locked\r\n" : $cmd eq 'LOGIN' || $cmd eq 'AUTHENTICATE' ?
	    "$tag NO [UNAVAILABLE] database down\r\n" : $cmd eq 'LOGOUT' ? "* BYE\r\n$tag OK\r\n" : "$tag OK\r\n" });
my ($n, @taps, %services) = (0);
for my $p (sort keys %serve) {
	my $listen = "$net.5:" . (13000 + ++$n);
	push @taps, BMR::Tap->new(host => $p, dir => "$dir/$p", listen => $listen, serve => $serve{$p});
	$services{"temp-$p"} = { protocol => $p, port => 13100 + $n, backends => { x => $listen }, more => $times };
	$services{$p} = { backends => { map { $_ => $site->addr($_, $p eq 'imap4' ? 'imap' : $p) } 'a', 'b' }, more => $times };
}
my $gw = BMR::Gateway->new(net => $net, services => \%services);
ok($gw->wait_up("$_/x"), "$_ is up") for map { "temp-$_" } sort keys %serve;
ok($gw->wait_up("$_/a"), "$_ is up") for sort keys %serve;

# --- temporary ---------------------------------------------------------------------------------------------------------
my $c = BMR::Client->new($gw->addr('temp-pop3'));
$c->line;
$c->cmd('USER alice');
like($c->cmd('PASS secret'), qr/^-ERR \[SYS\/TEMP\]/, 'POP3: [SYS/TEMP]');
$c = BMR::Client->new($gw->addr('temp-smtp'));
$c->reply;
$c->smtp('EHLO x');
like($c->smtp('AUTH PLAIN AGFsaWNlAHNlY3JldA=='), qr/^454 /, 'SMTP: 454');
$c = BMR::Client->new($gw->addr('temp-imap4'));
$c->line;
like($c->cmd('a LOGIN alice secret'), qr/^a NO \[UNAVAILABLE\]/, 'IMAP4: [UNAVAILABLE]');

# --- refused for something else than the password ------------------------------------------------------------------------
$c = BMR::Client->new($gw->addr('temp-pop3'));
$c->line;
$c->cmd('USER alice');
like($c->cmd('PASS busy'), qr/^-ERR \[IN-USE\]/, 'POP3: [IN-USE]');
$c = BMR::Client->new($gw->addr('temp-smtp'));
$c->reply;
$c->smtp('EHLO x');
like($c->smtp('AUTH PLAIN AGFsaWNlAGJ1c3k='), qr/^534 /, 'SMTP: 534');
$c = BMR::Client->new($gw->addr('temp-imap4'));
$c->line;
like($c->cmd('a LOGIN alice busy'), qr/^a NO \[INUSE\]/, 'IMAP4: [INUSE]');
sleep 0.2;	# what is logged comes by way of the listener
unlike($gw->log, qr/authentication failed/, 'none of them counts as a failure');

# --- wrong -------------------------------------------------------------------------------------------------------------
sub pop3 { my (@o) = @_; my $x = BMR::Client->new($gw->addr('pop3'), @o); $x->line; return $x }
sub login { my ($x, $user, $pass) = @_; $x->cmd("USER $user"); return $x->cmd("PASS $pass") }
like(login(pop3(from => "$net.70"), 'alice', 'wrong'), qr/^-ERR \[AUTH\]/, 'POP3: a wrong password is a wrong password');
my $s = BMR::Client->new($gw->addr('smtp'), from => "$net.71");
$s->reply;
$s->smtp('EHLO x');
like($s->smtp('AUTH PLAIN AGFsaWNlAHdyb25n'), qr/^535 /, 'SMTP too');
my $i = BMR::Client->new($gw->addr('imap4'), from => "$net.72");
$i->line;
like($i->cmd('a LOGIN alice wrong'), qr/^a NO \[AUTHENTICATIONFAILED\]/, 'and IMAP4');
like($gw->log, qr/pop3: session=<\w+> user=<alice> rip=\Q$net.70\E .*service=pop3: authentication failed/, 'it is logged');
is((grep { $_->{service} eq 'pop3' } @{ $gw->bmr('status')->{services} })[0]{logins_failed}, 1, 'and counted');

# failures of an address make its next login wait, in another session as well, but nobody else's
for my $n (1 .. 2) {
	my $x = pop3(from => "$net.73");
	local $BMR::Client::patience = 60;
	login($x, "user$n", "guess$n");
}
my $waits = pop3(from => "$net.73");
$waits->cmd('USER bob');
$waits->send("PASS secret\r\n");
ok($waits->silent(1), 'the next login from there waits');
like(login(pop3(from => "$net.74"), 'bob', 'secret'), qr/^\+OK/, 'one from elsewhere does not');
ok($waits->silent(0.2), 'it still waits');
like($waits->line, qr/^\+OK/, 'and is let in');
like(login(pop3(from => "$net.73"), 'bob', 'secret'), qr/^\+OK/, 'a success forgets all');

# failures of a user, from wherever, make his next login wait, in whatever case his name is
login(pop3(from => "$net." . (79 + $_)), $_ % 2 ? 'carol' : 'Carol', "guess$_") for 1 .. 6;
my $case = pop3(from => "$net.90");
$case->cmd('USER CAROL');
$case->send("PASS guess\r\n");
ok($case->silent(1), 'a login waits after six failures of its user from elsewhere');
like($case->line, qr/^-ERR/, 'and is tried then');

# who logs in for another is counted himself (RFC 4616: authzid, authcid, password), whatever the protocol
sub plain {
	my ($p, $from, $for, $user, $pass) = @_;
	my $x = BMR::Client->new($gw->addr($p), from => "$net.$from");
	$p eq 'smtp' ? do { $x->reply; $x->smtp('EHLO x') } : $x->line;
	$x->send(($p eq 'imap4' ? 'a AUTHENTICATE' : 'AUTH') . ' PLAIN ' . encode_base64("$for\0$user\0$pass", '') . "\r\n");
	return $x;
}
my @every = ('imap4', 'pop3', 'smtp');
my $no = qr/^a NO|^-ERR|^535/;
like(plain($every[$_ % 3], 100 + $_, "other$_", 'dave', "guess$_")->line, $no, "a guess of dave's password in another's name") for 1 .. 6;
my $dave = plain('imap4', 110, 'other7', 'dave', 'guess7');
ok($dave->silent(1), 'a login waits after six failures of its user in the names of others');
like($dave->line, $no, 'and is tried then');
like($gw->log, qr/ $_: session=<\w+> user=<dave> .*authentication failed/, "$_ logs who it was") for @every;

# one count for all protocols, and the same wrong password in all of them is one
plain('pop3', 111, '', 'erin', 'guess1')->line;
my $erin = plain('imap4', 111, '', 'erin', 'guess2');
ok($erin->silent(1), 'a failure in one protocol makes the next login from there wait in another');
$erin->line;
plain($every[$_ % 3], 120 + $_, "other$_", 'frank', 'guess1')->line for 1 .. 15;
ok(!plain('imap4', 140, '', 'frank', 'guess2')->silent(8), 'the same wrong password counts once, however it is said');

# whoever logs in with another's address for a name does not make him wait
plain('pop3', 150 + $_, '', "$net.154", "guess$_")->line for 1 .. 3;
ok(!plain('pop3', 154, '', 'bob', 'secret')->silent(6), 'a user whose name is an address is not that address');
unlike($gw->log, qr/secret|guess/, 'no password in the log');
$gw->stop;
$_->stop for @taps;
$site->stop;
done_testing();
