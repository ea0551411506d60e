#!/usr/bin/perl
# Clients of TLS that mean harm, and files and processes of TLS that fail beside it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Temp qw(tempdir);
use IO::Select;
use Socket qw(SOL_SOCKET SO_RCVBUF);
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
$ca->ocsp('gw');
$ca->cert('alice', subject => '/CN=alice');
my $d = $ca->{dir};
BMR::Site::put("$d/password", "mastersecret\n");
BMR::Site::put("$d/clients.pem", slurp("$d/ca.pem"));
my $site = BMR::Site->new(hosts => ['a']);
my ($ip, $to) = ("$site->{net}.1", "$site->{net}.5:12000");
my $dir = tempdir('bmr-hostile-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $tap = BMR::Tap->new(host => 'x', dir => $dir, listen => $to, serve => sub {
	!defined $_[1] ? "+OK x\r\n" : $_[1] =~ /^CAPA/ ? "+OK\r\nUSER\r\nUIDL\r\nSASL PLAIN\r\n.\r\n" : "+OK\r\n" });
(my $block = $ca->block('gw')) =~ s/(certificate gw \{)/$1\n  ocsp = "$d\/gw.ocsp"/;
my $gw = BMR::Gateway->new(net => $site->{net}, top => $block . "tls {\n  sessions-per-process = 100\n}\n", services => {
	pop3 => { backends => { x => $to }, more => qq(tls {\n    certificates = {"gw"}\n    client-certificates = "optional"
    client-ca = "$d/clients.pem"\n  }\n  master-user = "gw"\n  master-password-file = "$d/password"\n  listen-tls = {"$ip:10995"}
  timeout {\n    content = "2s"\n  }) } });
$gw->ready;
my %tls = (ca => "$d/ca.pem");
local $SIG{PIPE} = 'IGNORE';

sub slurp {
	my ($file) = @_;
	open(my $f, '<', $file) or die "$file: $!";
	local $/;
	return <$f>;
}

sub s_client { return $ca->s_client("$ip:10995", @_) }

sub processes { return $gw->pids(qr/^bmr: tls process of pop3/) }

# --- one who never reads ------------------------------------------------------------------------------------------------
sub sockets { return scalar grep { (readlink($_) // '') =~ /^socket:/ } map { glob("/proc/$_/fd/*") } processes() }
my $before = sockets();
my $deaf = BMR::Client->new("$ip:10995");
setsockopt($deaf->{sock}, SOL_SOCKET, SO_RCVBUF, 4096);
$deaf->secure(%tls);
$deaf->line;
$deaf->{sock}->blocking(0);
for (1 .. 600) {
	syswrite($deaf->{sock}, "CAPA\r\n" x 500);
	sleep 0.01;
}
for (1 .. 300) {
	last if !@{ $gw->bmr('who')->{sessions} };
	sleep 0.1;
}
is(scalar(@{ $gw->bmr('who')->{sessions} }), 0, 'a client that never reads: its session gives up');
for (1 .. 900) {
	last if sockets() == $before;
	sleep 0.1;
}
is(sockets(), $before, 'and the tls process, a minute later');
$deaf->close;

# --- updates of keys without end ----------------------------------------------------------------------------------------
my $beside = BMR::Client->new("$ip:10995", tls => { mode => 'implicit', %tls });
$beside->line;
my @updates = map { open(my $f, '-|', "$BMR::Gateway::build/t/lib/keyupdates", $ip, 10995, 4_000_000) or die; $f } 1 .. 4;
is(scalar(grep { (readline($_) // '') eq "begins\n" } @updates), 4, 'clients send updates of their keys, and nothing else');
my ($answers, $until) = (0, time() + 120);
my $busy = IO::Select->new(@updates);
while ($busy->count && time() < $until) {
	$answers++ if $beside->cmd('CAPA') =~ /^\+OK/ && defined $beside->body;
	$busy->remove($_) for $busy->can_read(0);
}
is(scalar(grep { (readline($_) // '') eq "done\n" } @updates), 4, 'all are taken');
cmp_ok($answers, '>=', 5, 'beside them the others of the process are served');
close $_ for @updates;
$beside->close;

# --- certificates of clients that are no longer good ----------------------------------------------------------------------
for my $v ('-tls1_3', '-tls1_2') {
	BMR::Site::put("$d/clients.pem", slurp("$d/ca.pem"));
	$gw->bmr('tls', 'reload');
	like(s_client("$v -cert $d/alice.pem -key $d/alice.key -sess_out $d/sess", 'CAPA', 'QUIT'), qr/^SASL EXTERNAL/m, "$v: a good certificate");
	BMR::Site::put("$d/clients.pem", slurp("$evil->{dir}/ca.pem"));
	$gw->bmr('tls', 'reload');
	is($gw->{code}, 0, 'its issuer is believed no more');
	unlike(s_client("$v -cert $d/alice.pem -key $d/alice.key", 'CAPA', 'QUIT'), qr/^SASL EXTERNAL/m, 'then nor is it');
	my $out = s_client("$v -sess_in $d/sess", 'CAPA', 'QUIT');
	like($out, qr/^SASL PLAIN/m, 'who comes with a ticket from before is served');
	unlike($out, qr/EXTERNAL/, 'but has shown none');
	s_client("$v -sess_out $d/sess", 'QUIT');
	like(s_client("$v -sess_in $d/sess", 'QUIT'), qr/^Reused, /m, 'without a certificate tickets are good');
}

# --- files from before a renewal, and from the middle of one -----------------------------------------------------------
my $status = sub { return scalar `echo Q | timeout 20 openssl s_client -connect $ip:10995 -CAfile $d/ca.pem -status 2>&1` };
$ca->ocsp('gw');
$gw->bmr('tls', 'reload');
like($status->(), qr/OCSP Response Status: successful/, 'a response for the certificate is stapled');
$ca->cert('gw');
$gw->bmr('tls', 'reload');
is($gw->{code}, 0, 'a renewed certificate beside the response for the last one is taken');
like($status->(), qr/OCSP response: no response sent/, 'but that is not stapled');
like($gw->bmr('tls', 'list')->{certificates}[0]{fault}, qr/OCSP response is for another certificate/, 'and bmr tls list says so');
my $whole = slurp("$d/gw.pem");
BMR::Site::put("$d/gw.pem", substr($whole, 0, length($whole) - 200));
$gw->mark;
$gw->bmr('tls', 'reload');
isnt($gw->{code}, 0, 'a file that is cut within its chain is refused');
ok($gw->wait_log(qr/bmr\.conf:\d+: chain = .*: certificate 2: /), 'and the log says where');
like(s_client('-showcerts', 'QUIT'), qr/BEGIN CERT.*BEGIN CERT/s, 'that of before goes on');
BMR::Site::put("$d/gw.pem", $whole);

# --- a keeper that cannot fork for a while --------------------------------------------------------------------------------
SKIP: {
	skip 'no prlimit', 2 if system('prlimit --version >/dev/null 2>&1');
	my ($keeper) = map { $_->{pid} } grep { $_->{id} eq 'tls' } @{ $gw->bmr('tree')->{tree} };
	my ($limits) = slurp("/proc/$keeper/limits") =~ /^Max open files\s+(\d+)/m;
	system('prlimit', '--pid', $keeper, '--nofile=5:');
	$gw->mark;
	kill 'KILL', processes();
	ok($gw->wait_log(qr/socketpair: Too many open files/), 'the keeper cannot fork another tls process');
	system('prlimit', '--pid', $keeper, "--nofile=$limits:");
	for (1 .. 300) {
		last if processes();
		sleep 0.1;
	}
	like(s_client('-quiet', 'QUIT'), qr/^\+OK bye/m, 'TLS comes back when it can');
}
unlike($gw->log, qr/tls process \d+ (?:died of signal (?!9:)|exited)/, 'no tls process died of it');
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$tap->stop;
$site->stop;
done_testing();
