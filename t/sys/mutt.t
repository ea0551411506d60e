#!/usr/bin/perl
# mutt as a person would use it, in a terminal of its own: reads by IMAP4 and POP3 and sends by SMTP, over STARTTLS and implicit TLS,
# with the certificate verified; a host dies between two of its commands.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use IO::Select;
use POSIX qw(:sys_wait_h);
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Gateway;
use BMR::Site;
use BMR::Tls;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
for my $p ('mutt', 'script') {
	plan skip_all => "no $p" if !grep { -x "$_/$p" } split /:/, $ENV{PATH};
}
my $site = BMR::Site->new(smtp => 1);
my $ip = "$site->{net}.1";
my $ca = BMR::Tls->new;
$ca->cert('gw', san => "DNS:gw.test,IP:$ip");
my $d = $ca->{dir};
my %implicit = (smtp => 10465, pop3 => 10995, imap4 => 10993);
my %at = (smtp => 'smtp', pop3 => 'pop3', imap4 => 'imap');
my $gw = BMR::Gateway->new(net => $site->{net}, top => $ca->block('gw'), services => { map { my $p = $_;
	$p => { backends => { map { $_ => $site->addr($_, $at{$p}) } 'a', 'b' },
	more => qq(listen-tls = {"$ip:$implicit{$p}"}\n  tls {\n    certificates = {"gw"}\n  }) } } keys %at });
$gw->ready;
mkdir "$d/mail";
my $settings = <<"EOT";
set folder="$d/mail" record="" postponed="" mbox="$d/mail/mbox" spoolfile="$d/mail/spool" tmpdir="$d" header_cache="" message_cachedir=""
set certificate_file="" ssl_ca_certificates_file="$d/ca.pem" ssl_force_tls=yes ssl_starttls=yes ssl_verify_host=yes
set imap_user=alice imap_pass=secret pop_user=alice pop_pass=secret smtp_pass=secret imap_authenticators=%s pop_authenticators=%s
set smtp_authenticators=%s
set wait_key=no quit=yes confirmappend=no sleep_time=0 pop_checkinterval=0 mail_check=1 connect_timeout=20 realname=x from=x\@site.test
EOT

sub rc {
	my ($mech, $more) = @_;
	open(my $f, '>', "$d/muttrc") or die;
	print $f sprintf($settings, ($mech) x 3), $more // '';
	close $f;
	return "$d/muttrc";
}

# In a terminal that script(1) makes; what it showed, or nothing when it had to be ended.
sub terminal {
	my ($seconds, $cmd) = @_;
	my $pid = open(my $p, '-|') // die;
	if ($pid == 0) {
		open(STDERR, '>&', \*STDOUT);
		open(STDIN, '<', '/dev/null');
		@ENV{qw(HOME TERM LC_ALL)} = ($d, 'vt100', 'C');
		exec('timeout', '-k', '2', $seconds, 'script', '-qec', $cmd, '/dev/null') or POSIX::_exit(127);
	}
	my $out = do { local $/; <$p> };
	close $p;
	return { status => $? >> 8, out => $out };
}

sub read_file { my ($f) = @_; open(my $h, '<', $f) or return ''; local $/; return <$h> // '' }

# --- sending, as from a script ---------------------------------------------------------------------------------------------
for my $how ([ 'STARTTLS', "smtp://alice\@$ip:10025/", 'plain' ], [ 'implicit', "smtps://alice\@$ip:10465/", 'login' ]) {
	rc($how->[2], qq(set smtp_url="$how->[1]"\n));
	open(my $f, '>', "$d/body") or die;
	print $f "by mutt, $how->[0]\n";
	close $f;
	my $out = `HOME=$d LC_ALL=C timeout 30 mutt -n -F $d/muttrc -s "$how->[0]" alice\@site.test <$d/body 2>&1`;
	is($? >> 8, 0, "mutt sends, $how->[0], $how->[2]") or diag($out);
}
$site->flush;
is(scalar(() = $site->messages('alice')), 2, 'both have come');

# --- reading: the second message is piped into a file -----------------------------------------------------------------------
for my $how ([ 'IMAP4, STARTTLS', "imap://$ip:10143/INBOX", 'plain' ], [ 'IMAP4, implicit', "imaps://$ip:10993/INBOX", 'login' ],
	[ 'POP3, STLS', "pop://$ip:10110/", 'plain' ], [ 'POP3, implicit', "pops://$ip:10995/", 'user' ]) {
	unlink "$d/read";
	rc($how->[2], qq(push "<last-entry><pipe-message>cat >$d/read<enter><quit>"\n));
	my $r = terminal(30, "mutt -n -F $d/muttrc -R -f $how->[1]");
	is($r->{status}, 0, "mutt reads, $how->[0], $how->[2]") or diag($r->{out});
	like(read_file("$d/read"), qr/^by mutt, (?:STARTTLS|implicit)$/m, 'a whole message');
}

# --- a death while mutt waits -------------------------------------------------------------------------------------------------
unlink "$d/read", "$d/died";
rc('plain', qq(push "<first-entry><shell-escape>touch $d/first; until test -e $d/died; do sleep 0.1; done<enter><last-entry>) .
    qq(<pipe-message>cat >$d/read<enter><quit>"\n));
my $killer = fork() // die;
if ($killer == 0) {
	my $until = time() + 20;
	sleep 0.1 while !-e "$d/first" && time() < $until;
	my ($s) = grep { $_->{service} eq 'imap4' } @{ $gw->bmr('who')->{sessions} };
	$site->kill_host($s->{backend}) if $s;
	open(my $f, '>', "$d/died.new");
	print $f $s ? $s->{backend} : '';
	close $f;
	rename "$d/died.new", "$d/died";
	POSIX::_exit(0);
}
my $r = terminal(60, "mutt -n -F $d/muttrc -R -f imaps://$ip:10993/INBOX");
waitpid($killer, 0);
like(read_file("$d/died"), qr/^[ab]$/, 'its host was killed');
is($r->{status}, 0, 'mutt ends well') or diag($r->{out});
like(read_file("$d/read"), qr/^by mutt, /m, 'and has read on at the other');
unlike($r->{out}, qr/closed|error|fail/i, 'nothing was said of it') or diag($r->{out});
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$site->stop;
done_testing();
