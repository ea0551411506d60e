#!/usr/bin/perl
# Real clients through the gateway before real servers; the processes as an operator finds them.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;
use BMR::Tap;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(smtp => 1);
my $gw = BMR::Gateway->new(net => $site->{net}, top => qq(user = "mail"\ngroup = "mail"\n), services => {
	map { my $p = $_; $p => { backends => { map { $_ => $site->addr($_, $p) } 'a', 'b' } } } 'smtp', 'pop3' });
$gw->ready;
my ($smtp, $pop3) = ($gw->addr('smtp'), $gw->addr('pop3'));

sub have { my ($p) = @_; return grep { -x "$_/$p" } split(/:/, $ENV{PATH}), '/usr/sbin' }

SKIP: {
	skip 'no swaks', 3 if !have('swaks');
	for my $how ('', '--pipeline', '--auth PLAIN --auth-user alice --auth-password secret') {
		my $out = `swaks --server $smtp --from x\@site.test --to alice\@site.test --timeout 20 $how 2>&1 </dev/null`;
		is($? >> 8, 0, "swaks $how") or diag($out);
	}
}
SKIP: {
	skip 'no smtp-source', 1 if !have('smtp-source');
	$site->mailbox('bob');
	system("smtp-source -s 10 -m 100 -l 5000 -f x\@site.test -t bob\@site.test $smtp >/dev/null 2>&1");
	is($? >> 8, 0, 'smtp-source: 100 messages, ten at a time');
}
$site->flush;
is(scalar(() = $site->messages('alice')), 3, 'three messages of swaks') if have('swaks');
is(scalar(() = $site->messages('bob')), 100, 'a hundred of smtp-source') if have('smtp-source');
SKIP: {
	skip 'no curl', 4 if !have('curl');
	open(my $f, '>', "$site->{dir}/curl.eml") or die;
	print $f "Subject: by curl\r\n\r\nbody\r\n";
	close $f;
	is(system("curl -s --max-time 20 smtp://$smtp --mail-from x\@site.test --mail-rcpt carol\@site.test -T $site->{dir}/curl.eml"), 0,
		'curl sends');
	$site->flush;
	like(`curl -s --max-time 20 -u carol:secret pop3://$pop3/`, qr/^1 \d+\r\n/, 'curl lists');
	like(`curl -s --max-time 20 -u carol:secret pop3://$pop3/1`, qr/^Subject: by curl\r\n/m, 'curl fetches');
	like(`curl -s --max-time 20 -u carol:wrong pop3://$pop3/ ; echo \$?`, qr/67/, 'a wrong password is a wrong password');
}
SKIP: {
	skip 'no fetchmail', 1 if !have('fetchmail');
	my ($ip, $port) = split /:/, $pop3;
	open(my $f, '>', "$site->{dir}/fetchmailrc") or die;
	print $f "poll $ip service $port proto pop3 user bob password secret mda \"cat >/dev/null\" fetchall keep\n";
	close $f;
	chmod 0600, "$site->{dir}/fetchmailrc";
	my $out = `HOME=$site->{dir} fetchmail -f $site->{dir}/fetchmailrc --pidfile $site->{dir}/fetchmail.pid --nosyslog --sslproto '' 2>&1`;
	is($? >> 8, 0, 'fetchmail') or diag($out);
}

# the client's address, by XCLIENT, in the logs of both
my $c = BMR::Client->new($smtp, from => "$site->{net}.77");
$c->reply;
$c->smtp($_) for 'EHLO somewhere.test', 'MAIL FROM:<x@site.test>', 'RCPT TO:<dave@site.test>', 'DATA';
my $p = BMR::Client->new($pop3, from => "$site->{net}.78");
$p->line;
$p->cmd($_) for 'USER dave', 'PASS secret';
$site->logs('postfix', qr/client=unknown\[\Q$site->{net}.77\E\]/, 'Postfix logs the client');
$site->logs('dovecot', qr/Login: user=<dave>.*rip=\Q$site->{net}.78\E/, 'and so does Dovecot');

# as root: nobody but bmrd itself is
my ($s) = grep { $_->{service} eq 'smtp' } @{ $gw->bmr('who')->{sessions} };
my $mail = getpwnam('mail');
sub status { my ($pid, $key) = @_; open(my $f, '<', "/proc/$pid/status") or return ''; return join '', grep { /^$key:/ } <$f> }
like(status($s->{pid}, 'Uid'), qr/^Uid:\s+$mail\s+$mail\s+$mail\s/, 'a session is not root');
isnt(readlink("/proc/$s->{pid}/root"), '/', 'it is in an empty root');
like(status($s->{pid}, 'NoNewPrivs'), qr/1/, 'cannot get privileges');
like(status($s->{pid}, 'Seccomp'), qr/2/, 'and has its system calls filtered') if $BMR::Gateway::build !~ /san$/;
open(my $f, '<', "/proc/$s->{pid}/cmdline") or die;
like(scalar <$f>, qr/^bmr: smtp session \Q$s->{session}\E \Q$site->{net}.77\E -> [ab]\b/, 'its title says who and where');
opendir(my $d, "/proc/$s->{pid}/fd") or die;
my @fds = grep { /^\d+$/ } readdir $d;
cmp_ok(scalar(@fds), '<=', 9, 'it holds few descriptors') or diag(join ' ', map { readlink "/proc/$s->{pid}/fd/$_" } @fds);
my @sock = stat("$gw->{dir}/run/bmr.sock");
is($sock[2] & 07777, 0660, 'the control socket is 0660');
is($sock[5], scalar getgrnam('mail'), 'and the group\'s');

# the secret is nowhere but in the memory of its session
unlike($gw->log, qr/secret/, 'no secret in the log');
is(`grep -rl secret $gw->{dir}/state $gw->{dir}/run 2>/dev/null`, '', 'nor in a file');

# IPv6
SKIP: {
	skip 'no ::1', 7 if !-e '/proc/net/if_inet6' || !grep { /^0{31}1 / } do { open(my $h, '<', '/proc/net/if_inet6'); <$h> };
	my $port = 20000 + $$ % 10000;		# a backend over IPv6: ours before the real one
	my %tap = map { my $p = $_; mkdir "$site->{dir}/$p"; $p => BMR::Tap->new(host => 'a', site => $site, dir => "$site->{dir}/$p",
		listen => '[::1]:' . $port++, to => $site->addr('a', $p)) } 'smtp', 'pop3';
	my $six = BMR::Gateway->new(net => $site->{net}, services => { map { $_ => { port => $_ eq 'smtp' ? 10026 : 10111,
		backends => { a => $tap{$_}{listen} }, more => qq(listen += {"[::1]:) . $port++ . qq("}) } } 'pop3', 'smtp' });
	$six->ready;
	my $c6 = BMR::Client->new('[::1]:' . ($port - 1));
	like($c6->reply, qr/^220 /, 'a client over IPv6');
	$c6->smtp($_) for 'EHLO six.test', 'MAIL FROM:<x@site.test>', 'RCPT TO:<erin@site.test>', 'DATA';
	$c6->send("Subject: six\r\n\r\n.\r\n");
	like($c6->reply, qr/^250 /, 'and a backend over IPv6');
	$site->flush;
	like(join('', $site->messages('erin')), qr/\[IPv6:::1\]/, 'and its address in the trace line');
	like($tap{smtp}->seen('c2s'), qr/^XCLIENT .*ADDR=IPV6:::1\r$/m, 'as XCLIENT writes it');
	$c6 = BMR::Client->new('[::1]:' . ($port - 2));
	like($c6->line, qr/^\+OK/, 'POP3 over IPv6');
	$c6->cmd('USER erin');
	like($c6->cmd('PASS secret'), qr/^\+OK/, 'through IPv6');
	$c6->cmd('QUIT');
	like($tap{pop3}->seen('c2s'), qr/^XCLIENT ADDR=::1 /m, 'the client by XCLIENT');
	$six->stop;
}
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$site->stop;
done_testing();
