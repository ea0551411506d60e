#!/usr/bin/perl
# Real clients over TLS: each that there is, by STARTTLS and by implicit TLS, with each way to log in that it knows (mutt: mutt.t).
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use MIME::Base64 qw(encode_base64);
use Test::More;
use BMR::Gateway;
use BMR::Site;
use BMR::Tls;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $ca = BMR::Tls->new;
$ca->cert('gw', cn => 'gw.test', san => 'DNS:gw.test');
my $d = $ca->{dir};
my $site = BMR::Site->new(smtp => 1, dovecot => "ssl = yes\nssl_cert = <$d/gw.pem\nssl_key = <$d/gw.key\n",
	postfix => { smtpd_tls_security_level => 'may', smtpd_tls_cert_file => "$d/gw.pem", smtpd_tls_key_file => "$d/gw.key",
	smtpd_tls_loglevel => 1 });
my $ip = "$site->{net}.1";
my %port = (smtp => { starttls => 10025, implicit => 10465 }, pop3 => { starttls => 10110, implicit => 10995 },
	imap4 => { starttls => 10143, implicit => 10993 });
my $gw = BMR::Gateway->new(net => $site->{net}, top => qq(user = "mail"\ngroup = "mail"\n) . $ca->block('gw'), services => { map {
	$_ => { backends => { a => $site->addr('a', $_ eq 'imap4' ? 'imap' : $_), b => $site->addr('b', $_ eq 'imap4' ? 'imap' : $_) },
	backend_more => qq(tls {\n      mode = "starttls"\n      ca = "$d/ca.pem"\n      name = "gw.test"\n    }),
	more => qq(listen-tls = {"$ip:$port{$_}{implicit}"}\n  tls {\n    certificates = {"gw"}\n  }) } } keys %port });
$gw->ready;
sub have { my ($p) = @_; return grep { -x "$_/$p" } split(/:/, $ENV{PATH}), '/usr/sbin' }
sub put { my ($name, $text) = @_; BMR::Site::put("$d/$name", $text); chmod 0600, "$d/$name"; return "$d/$name" }
sub run { my ($what, $cmd) = @_; my $out = `HOME=$d timeout 60 $cmd 2>&1 </dev/null`; is($? >> 8, 0, $what) or diag($out); return $out }
$site->deliver('carol', "Subject: one\r\n\r\nbody\r\n");

# both: what is said in each way to log in
my $plain = encode_base64("\0carol\0secret", '');
my ($user, $pass) = map { encode_base64($_, '') } 'carol', 'secret';
my %dialogue = (
	smtp => { PLAIN => ['EHLO x', "AUTH PLAIN $plain", 'QUIT'], LOGIN => ['EHLO x', 'AUTH LOGIN', $user, $pass, 'QUIT'], re => qr/^235 /m },
	pop3 => { PLAIN => ["AUTH PLAIN $plain", 'STAT', 'QUIT'], LOGIN => ['AUTH LOGIN', $user, $pass, 'STAT', 'QUIT'],
		USER => ['USER carol', 'PASS secret', 'STAT', 'QUIT'], re => qr/^\+OK 1 \d+\r$/m },
	imap4 => { PLAIN => ["a AUTHENTICATE PLAIN $plain", 'b STATUS INBOX (MESSAGES)', 'c LOGOUT'], LOGIN => ['a AUTHENTICATE LOGIN', $user,
		$pass, 'b STATUS INBOX (MESSAGES)', 'c LOGOUT'], USER => ['a LOGIN carol secret', 'b STATUS INBOX (MESSAGES)', 'c LOGOUT'],
		re => qr/^\* STATUS INBOX \(MESSAGES 1\)\r$/m });
for my $mode ('starttls', 'implicit') {
	for my $p (sort keys %dialogue) {
		for my $how (sort grep { $_ ne 're' } keys %{ $dialogue{$p} }) {
			my $name = $p eq 'imap4' ? 'imap' : $p;
			like($ca->s_client("$ip:$port{$p}{$mode}", ($mode eq 'starttls' ? "-starttls $name " : '') . '-quiet', @{ $dialogue{$p}{$how} }),
				$dialogue{$p}{re}, "openssl, $p, $mode, $how");
		}
	}
	for my $mech ('PLAIN', 'LOGIN') {
		with($mode, $mech);
	}
	fetchmail($mode, $_) for 'pop3', 'imap';
}

sub with {
	my ($mode, $mech) = @_;
	SKIP: {
		skip 'no swaks', 1 if !have('swaks');
		run("swaks, $mode, $mech", "swaks --server $ip:$port{smtp}{$mode} --from x\@site.test --to dave\@site.test --timeout 20 " .
			($mode eq 'starttls' ? '--tls' : '--tlsc') . " --auth $mech --auth-user carol --auth-password secret");
	}
	SKIP: {
		skip 'no curl', 3 if !have('curl');
		my %at = map { $_ => "gw.test:$port{$_}{$mode}" } keys %port;
		my $s = $mode eq 'implicit' ? 's' : '';
		my $curl = "curl -s --max-time 20 --cacert $d/ca.pem --ssl-reqd -u carol:secret --login-options AUTH=$mech " .
			join(' ', map { "--resolve $_:$ip" } values %at);
		my $file = put('curl.eml', "Subject: by curl\r\n\r\nbody\r\n");
		run("curl, smtp, $mode, $mech", "$curl smtp$s://$at{smtp} --mail-from x\@site.test --mail-rcpt dave\@site.test -T $file");
		like(run("curl, pop3, $mode, $mech", "$curl pop3$s://$at{pop3}/1"), qr/^Subject: one\r$/m, 'the message');
		like(run("curl, imap4, $mode, $mech", "$curl 'imap$s://$at{imap4}/INBOX;MAILINDEX=1'"), qr/^Subject: one\r$/m, 'the message');
	}
	SKIP: {
		skip 'no mbsync', 2 if !have('mbsync');
		system("rm -rf $d/sync; mkdir -p $d/sync");
		my $rc = put('mbsyncrc', "IMAPAccount x\nHost $ip\nPort $port{imap4}{$mode}\nUser carol\nPass secret\nAuthMechs $mech\n" .
			'SSLType ' . ($mode eq 'implicit' ? 'IMAPS' : 'STARTTLS') . "\nCertificateFile $d/gw.pem\n\nIMAPStore far\nAccount x\n\n" .
			"MaildirStore near\nPath $d/sync/\nInbox $d/sync/INBOX\n\nChannel c\nFar :far:\nNear :near:\nPatterns INBOX\n" .
			"Create Near\nSync Pull\nSyncState *\n");
		run("mbsync, $mode, $mech", "mbsync -c $rc -a");
		is(scalar(() = glob("$d/sync/INBOX/{new,cur}/*")), 1, 'the message');
	}
	return;
}

# It chooses by itself, in the order of what it takes for safe.
sub fetchmail {
	my ($mode, $proto) = @_;
	my $p = $proto eq 'imap' ? 'imap4' : $proto;
	SKIP: {
		skip 'no fetchmail', 1 if !have('fetchmail');
		my $rc = put('fetchmailrc', "poll $ip service $port{$p}{$mode} proto $proto user carol password secret mda \"cat >/dev/null\" fetchall keep " .
			($mode eq 'implicit' ? 'ssl' : "sslproto 'tls1.2+'") . " sslcommonname gw.test sslcertfile $d/ca.pem no sslcertck\n");
		like(run("fetchmail, $proto, $mode", "fetchmail -f $rc --pidfile $d/fetchmail.pid --nosyslog -v"), qr/1 message/, 'the message');
	}
	return;
}
$site->logs('postfix', qr/TLS connection established from .*TLSv1\.3/, 'STARTTLS to Postfix');
$site->logs('dovecot', qr/Login: user=<carol>.*TLS/, 'STLS to Dovecot');
unlike($gw->log, qr/signal|authentication failed/, 'nothing went wrong');
$gw->stop;
$site->stop;
done_testing();
