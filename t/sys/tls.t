#!/usr/bin/perl
# TLS as clients and operators see it: each mode, certificates by name and kind, tickets, renewal, death.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;
use BMR::Tls;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $ca = BMR::Tls->new;
$ca->cert('ec', cn => 'gw.test', san => 'DNS:gw.test,DNS:*.wild.test');
$ca->cert('rsa', kind => 'rsa', cn => 'gw.test', san => 'DNS:gw.test');
$ca->cert('other', cn => 'other.test');
$ca->cert('soon', cn => 'soon.test', days => 3, no_chain => 1);
$ca->ocsp('ec');
$ca->cert('alice', subject => '/O=Site/CN=alice', san => 'email:alice@site.test');
my $d = $ca->{dir};
for my $f ([ master => "gw:{PLAIN}mastersecret\n" ], [ password => "mastersecret\n" ]) {
	open(my $h, '>', "$d/$f->[0]") or die;
	print $h $f->[1];
	close $h;
}
my $site = BMR::Site->new(smtp => 1, dovecot => <<"EOT", postfix => { smtpd_tls_security_level => 'may',
ssl = yes
ssl_cert = <$d/ec.pem
ssl_key = <$d/ec.key
passdb {
  driver = passwd-file
  args = $d/master
  master = yes
}
EOT
	smtpd_tls_cert_file => "$d/ec.pem", smtpd_tls_key_file => "$d/ec.key", smtpd_tls_loglevel => 1 });
my $ip = "$site->{net}.1";
my $trust = qq(ca = "$d/ca.pem"\n      name = "gw.test");
my $server = qq(tls {\n    certificates = {"ec", "rsa", "other", "soon"}\n  });
my %services = (map { my ($p, $port, $at) = @$_; $p => { backends => { map { $_ => $site->addr($_, $at // $p) } 'a', 'b' },
	backend_more => qq(tls {\n      mode = "starttls"\n      $trust\n    }),
	more => qq(listen-tls = {"$ip:$port"}\n  $server) } } [ 'smtp', 10465 ], [ 'pop3', 10995 ], [ 'imap4', 10993, 'imap' ]);
$services{closed} = { protocol => 'pop3', port => 10998, backends => { a => $site->addr('a', 'pop3') },
	more => qq(tls {\n    certificates = {"ec"}\n  }\n  listener x {\n    address = "$ip:10999"\n    auth-plaintext = "no"\n  }) };
my $external = qq(tls {\n    certificates = {"ec"}\n    client-certificates = "optional"\n    client-ca = "$d/ca.pem"\n  }
  master-user = "gw"\n  master-password-file = "$d/password");
for my $x ([ 'smtp', 11025, 'smtp' ], [ 'pop3', 11110, 'pop3' ], [ 'imap4', 11143, 'imap' ]) {
	$services{"ext-$x->[0]"} = { protocol => $x->[0], port => $x->[1], backends => { a => $site->addr('a', $x->[2]) }, more => $external };
}
(my $blocks = $ca->block('ec', 'rsa', 'other', 'soon')) =~ s/(certificate ec \{)/$1\n  ocsp = "$d\/ec.ocsp"/;
my $gw = BMR::Gateway->new(net => $site->{net}, top => qq(user = "mail"\ngroup = "mail"\n) . $blocks,
	services => \%services);
$gw->ready;
my ($smtp, $pop3, $imap) = map { $gw->addr($_) } 'smtp', 'pop3', 'imap4';
my ($smtps, $pop3s, $imaps) = map { "$ip:$_" } 10465, 10995, 10993;
my %tls = (ca => $ca->file('ca.pem'));

sub s_client { return $ca->s_client(@_) }

# --- each mode; real clients are in clients-tls.t ---------------------------------------------------------------------
like(s_client($pop3s, '-quiet', 'USER alice', 'PASS secret', 'STAT', 'QUIT'), qr/^\+OK 0 0\r\n\+OK/m, 'openssl, implicit, USER');
like(s_client($pop3, '-starttls pop3 -quiet', 'AUTH PLAIN AGFsaWNlAHNlY3JldA==', 'STAT', 'QUIT'), qr/^\+OK 0 0\r\n\+OK/m, 'openssl, STLS, PLAIN');
like(s_client($smtps, '-quiet', 'EHLO x', 'QUIT'), qr/250 ENHANCED.*\r\n221 /, 'openssl, implicit SMTP');
like(s_client($smtp, '-starttls smtp -quiet', 'EHLO x', 'QUIT'), qr/250 ENHANCED.*\r\n221 /, 'openssl, STARTTLS');
like(s_client($imaps, '-quiet', 'a LOGIN alice secret', 'b STATUS INBOX (MESSAGES)', 'c LOGOUT'), qr/^b OK/m, 'openssl, implicit IMAP4');
like(s_client($imap, '-starttls imap -quiet', 'a AUTHENTICATE PLAIN AGFsaWNlAHNlY3JldA==', 'b STATUS INBOX (MESSAGES)', 'c LOGOUT'), qr/^b OK/m,
	'openssl, STARTTLS, PLAIN');

# --- what is offered, and when ----------------------------------------------------------------------------------------
my $c = BMR::Client->new("$ip:10999");
$c->line;
$c->cmd('CAPA');
my $capa = $c->body;
like($capa, qr/^STLS\r$/m, 'STLS is offered');
unlike($capa, qr/^(?:USER|SASL)/m, 'no login in clear where it is not allowed');
like($c->cmd('USER alice'), qr/^-ERR \[AUTH\]/, 'nor is it taken');
$c->cmd('STLS');
$c->secure(%tls);
$c->cmd('CAPA');
$capa = $c->body;
unlike($capa, qr/^STLS/m, 'no STLS in TLS');
like($capa, qr/^USER\r$/m, 'but logins');
like($c->cmd('STLS'), qr/^-ERR/, 'STLS twice is an error');
$c->cmd('USER alice');
like($c->cmd('PASS secret'), qr/^\+OK/, 'login in TLS');
like($c->cmd('STLS'), qr/^-ERR/, 'no STLS after login');
my ($who) = grep { $_->{service} eq 'closed' } @{ $gw->bmr('who')->{sessions} };
is($who->{tls}, 'TLSv1.3', 'who shows the version');

$c->cmd('QUIT');
my $m = BMR::Client->new($smtp);
$m->reply;
like($m->smtp('EHLO x'), qr/^250-STARTTLS\r$/m, 'SMTP offers STARTTLS');
like($m->smtp('STARTTLS x'), qr/^501 /, 'which takes no argument');
$m->smtp('STARTTLS');
$m->secure(%tls);
like($m->smtp('MAIL FROM:<x@site.test>'), qr/^503 /, 'EHLO is forgotten');
unlike($m->smtp('EHLO x'), qr/STARTTLS/, 'and STARTTLS not offered again');
$m->smtp('QUIT');

# --- client certificates --------------------------------------------------------------------------------------------------
sub with_cert {
	my ($service, $name) = @_;
	return BMR::Client->new($gw->addr($service), tls => { mode => 'starttls', %tls, ssl => { $name ? (SSL_cert_file => "$d/$name.pem",
		SSL_key_file => "$d/$name.key") : () } });
}
$c = with_cert('ext-pop3', 'alice');
$c->line;
$c->cmd('CAPA');
like($c->body, qr/^SASL EXTERNAL/m, 'POP3: EXTERNAL for who has a certificate');
like($c->cmd('AUTH EXTERNAL Ym9i'), qr/^-ERR \[AUTH\]/, 'not for another name');
like($c->cmd('AUTH EXTERNAL ='), qr/^\+OK/, 'logged in without a password');
my $name = '';
for (1 .. 100) {	# told when it is a second old
	$name = (grep { $_->{service} eq 'ext-pop3' } @{ $gw->bmr('who')->{sessions} })[0]{user};
	last if $name ne '';
	sleep 0.1;
}
is($name, 'alice', 'as whom the certificate names');
$c->cmd('QUIT');
$c = with_cert('ext-pop3');
$c->line;
$c->cmd('CAPA');
unlike($c->body, qr/EXTERNAL/, 'nobody without one');
$c = with_cert('ext-smtp', 'alice');
$c->reply;
like($c->smtp('EHLO x'), qr/^250-AUTH EXTERNAL/m, 'SMTP: EXTERNAL');
like($c->smtp('AUTH EXTERNAL ='), qr/^235 /, 'and in');
$c->smtp('QUIT');
$c = with_cert('ext-imap4', 'alice');
$c->line;
like($c->cmd('a CAPABILITY') . $c->line, qr/AUTH=EXTERNAL/, 'IMAP4: EXTERNAL');
$c->send("b AUTHENTICATE EXTERNAL =\r\n");
like($c->line, qr/^b OK/, 'and in');
$c->cmd('c LOGOUT');
$c->close;
$site->logs('dovecot', qr/Login: user=<alice>.*/, 'the backend sees alice');
unlike($gw->log, qr/mastersecret/, 'and nobody the master\'s password');

# --- certificates by name and kind --------------------------------------------------------------------------------------
sub subject { my ($args) = @_; return s_client($pop3s, $args, 'QUIT') }
like(subject('-servername other.test'), qr/subject=CN = other\.test/, 'SNI chooses');
like(subject('-servername A.wild.test'), qr/subject=CN = gw\.test/, 'a wildcard matches');
like(subject('-servername nobody.test'), qr/subject=CN = gw\.test/, 'an unknown name gets the first');
like(subject('-noservername'), qr/subject=CN = gw\.test/, 'and so does none');
like(subject('-servername gw.test -sigalgs ecdsa_secp256r1_sha256'), qr/Peer signature type: ECDSA/, 'ECDSA for who takes it');
like(subject('-servername gw.test -sigalgs rsa_pss_rsae_sha256'), qr/Peer signature type: RSA-PSS/, 'RSA for who does not');
like(subject('-servername gw.test -tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256'), qr/Cipher is ECDHE-RSA/, 'in TLS 1.2 too');
like(subject('-servername gw.test -sigalgs ecdsa_secp256r1_sha256 -status'), qr/OCSP Response Status: successful/, 'an OCSP response is stapled');
like(subject('-servername other.test -status'), qr/OCSP response: no response sent/, 'to its own certificate alone');
like(subject('-alpn pop3'), qr/ALPN protocol: pop3/, 'ALPN');
like(subject('-alpn h2,http/1.1'), qr/no application protocol/, 'another protocol is refused');

# --- tickets --------------------------------------------------------------------------------------------------------------
my @pids = $gw->pids(qr/^bmr: tls process of pop3/);
cmp_ok(scalar(@pids), '>=', 2, 'several tls processes');
my $resumed = 0;
for my $v ('-tls1_3', '-tls1_2') {
	s_client($pop3s, "$v -sess_out $d/sess", 'QUIT');
	for (1 .. 4) {
		$resumed += s_client($pop3s, "$v -sess_in $d/sess", 'QUIT') =~ /^Reused, /m;
	}
}
is($resumed, 8, 'every tls process takes the others\' tickets');

# --- bmr tls, renewal -------------------------------------------------------------------------------------------------------
my %cert = map { $_->{certificate} => $_ } @{ $gw->bmr('tls', 'list')->{certificates} };
is($cert{ec}{state}, 'good', 'bmr tls list: a good one');
is($cert{soon}{state}, 'expires soon', 'one that expires soon');
like($cert{soon}{fault}, qr/no chain/, 'whose chain is not there');
is($cert{rsa}{key}, 'RSA', 'its kind');
like($gw->log, qr/certificate soon expires in \d days/, 'and the log says so');
is_deeply($gw->bmr('status')->{certificates}, { good => 3, expiring => 1, expired => 0, not_yet_valid => 0, unusable => 0, faulty => 1 },
	'bmr status counts them');
like(scalar `$BMR::Gateway::build/bin/bmr -s $gw->{dir}/run/bmr.sock status`, qr/^certificates: 3 good, 1 EXPIRE SOON, 1 with a fault$/m, 'in one line');
my $lives = BMR::Client->new($pop3s, tls => { mode => 'implicit', %tls });
$lives->line;
$lives->cmd('USER alice');
$ca->cert('ec', cn => 'gw.test', san => 'DNS:gw.test,DNS:renewed.test');
$gw->bmr('tls', 'reload');
is($gw->{code}, 0, 'bmr tls reload');
like(subject('-servername renewed.test'), qr/subject=CN = gw\.test/, 'a new certificate is used');
like(`echo Q | timeout 20 openssl s_client -connect $pop3s -CAfile $d/ca.pem -servername renewed.test 2>/dev/null | openssl x509 -noout -ext subjectAltName`,
	qr/renewed\.test/, 'the renewed one');
like($lives->cmd('PASS secret'), qr/^\+OK/, 'a session of before goes on');
is($lives->cmd('STAT'), $lives->cmd('STAT'), 'and on');
rename "$d/ec.key", "$d/ec.key.good";
open(my $bad, '>', "$d/ec.key") or die;
close $bad;
$gw->bmr('tls', 'reload');
isnt($gw->{code}, 0, 'a bad key is refused');
like(subject('-servername renewed.test'), qr/subject=CN = gw\.test/, 'and nothing changes');
$gw->mark;
$gw->hup;
ok($gw->wait_log(qr/bmr\.conf:\d+: key = .*ec\.key/), 'SIGHUP says file and line');
my $check = `$BMR::Gateway::build/bin/bmrd -t -f $gw->{dir}/bmr.conf 2>&1`;
is($? >> 8, 78, 'bmrd -t refuses it');
like($check, qr/bmr\.conf:\d+: key = .*expected the private key/, 'with file and line');
rename "$d/ec.key.good", "$d/ec.key";
$gw->mark;
$gw->hup;
ok($gw->wait_log(qr/configuration version 2 in use/), 'SIGHUP takes a good one');
like($lives->cmd('NOOP'), qr/^\+OK/, 'the session still goes on');

# --- a tls process dies -------------------------------------------------------------------------------------------------------
my $plain = BMR::Client->new($pop3);
$plain->line;
my @many = map { my $x = BMR::Client->new($pop3s, tls => { mode => 'implicit', %tls }); $x->line; $x } 1 .. 8;
$_->cmd('NOOP') for @many;
my %sockets = map { $_ => scalar grep { (readlink($_) // '') =~ /^socket:/ } glob("/proc/$_/fd/*") } $gw->pids(qr/^bmr: tls process of pop3/);
my ($victim) = sort { $sockets{$b} <=> $sockets{$a} } keys %sockets;	# has some of them
kill 'KILL', $victim;
my ($ended, $going) = (0, 0);
for my $x (@many) {
	sleep 0.01;
	my $l = eval { local $SIG{PIPE} = 'IGNORE'; $x->cmd('NOOP') } // '';
	$l =~ /^-ERR/ ? $going++ : $ended++;
}
cmp_ok($ended, '>', 0, "$ended sessions of it end");
cmp_ok($going, '>', 0, "$going of the others go on");
like($plain->cmd('CAPA'), qr/^\+OK/, 'plain ones go on');
my $again = BMR::Client->new($pop3s, tls => { mode => 'implicit', %tls });
like($again->line, qr/^\+OK/, 'and new ones are served');
my ($keeper) = map { $_->{pid} } grep { $_->{id} eq 'tls' } @{ $gw->bmr('tree')->{tree} };
my @orphans = $gw->pids(qr/^bmr: tls process/);
kill 'KILL', $keeper;
like($again->cmd('CAPA'), qr/^\+OK/, 'the keeper\'s death ends no session');
$again->body;
my $more = BMR::Client->new($pop3s, tls => { mode => 'implicit', %tls });
like($more->line, qr/^\+OK/, 'nor does it keep new ones out');
unlike($gw->log, qr/secret|PRIVATE/, 'nothing secret in the log');
$_->close for @many, $again, $more, $plain, $lives;
for (1 .. 100) {	# they end with their last connection
	last if !grep { BMR::Gateway::is_ours($_) } @orphans;
	sleep 0.1;
}
ok(!(grep { BMR::Gateway::is_ours($_) } @orphans), 'tls processes of before are gone');
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$site->stop;
done_testing();
