#!/usr/bin/perl
# Real clients by IMAP4 through the gateway, whose hosts are killed and come back in turn meanwhile: what they have at the
# end is what a single server that never dies would have given them.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Digest::SHA qw(sha256_hex);
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(dovecot => "service imap {\n  service_count = 1\n}\n");
my $gw = BMR::Gateway->new(net => $site->{net}, services => {
	imap4 => { backends => { map { $_ => $site->addr($_, 'imap') } 'a', 'b' } } });
$gw->ready;
my ($ip, $port) = split /:/, $gw->addr('imap4');
my $d = "$site->{dir}/clients";
mkdir $d;
my $kills = 0;

sub have { my ($p) = @_; return grep { -x "$_/$p" } split(/:/, $ENV{PATH}), '/usr/sbin' }

my @mail = map { my $n = $_; "Subject: number $n\r\nMessage-ID: <$n.$$\@test>\r\nFrom: a\@site.test\r\n\r\n" . "line $n of the text\r\n" x (200 + $n * 7 % 900) } 1 .. 800;

# Runs a command while the host in use dies again and again, each time after it has gone on for a while.
sub among_deaths {
	my ($cmd, $seconds) = @_;
	my $pid = fork() // die;
	if ($pid == 0) {
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', "$d/out");
		open(STDERR, '>&', \*STDOUT);
		exec('sh', '-c', $cmd) or POSIX::_exit(127);
	}
	my ($until, $dead) = (time() + $seconds);
	while (waitpid($pid, 1) == 0) {
		if (time() > $until) {
			kill 'KILL', $pid;
			waitpid($pid, 0);
			return -1;
		}
		sleep 0.05;
		if ($dead) {
			$site->start_host($dead);
			$gw->wait_up("imap4/$dead");
			$dead = undef;
			next;
		}
		my ($h) = map { $_->{backend} } grep { $_->{backend} ne '' } @{ $gw->bmr('who')->{sessions} // [] } or next;
		$site->kill_host($h);
		$dead = $h;
		$kills++;
	}
	my $status = $?;
	if ($dead) {
		$site->start_host($dead);
		$gw->wait_up("imap4/$dead");
	}
	return $status >> 8;
}
sub out { open(my $f, '<', "$d/out") or return ''; local $/; return <$f> // '' }

# Text of the messages of a local folder, as the server has them.
sub local_mail {
	my ($folder) = @_;
	my @m;
	for my $file (glob("$d/sync/$folder/{new,cur}/*")) {
		open(my $f, '<', $file) or die;
		local $/;
		my $t = <$f>;
		$t =~ s/^X-TUID: .*\r?\n//m;
		$t =~ s/\r?\n/\r\n/g;
		push @m, $t;
	}
	return map { sha256_hex($_) } @m;
}

SKIP: {
	skip 'no mbsync', 8 if !have('mbsync');
	$site->deliver('alice', @mail);
	# a mail store adds Return-Path and the like: what counts is what the server says
	my %want = map { sha256_hex($_) => 1 } $site->messages('alice');
	mkdir "$d/sync";
	BMR::Site::put("$d/mbsyncrc", "IMAPAccount x\nHost $ip\nPort $port\nUser alice\nPass secret\nSSLType None\nAuthMechs LOGIN\nTimeout 60\n\n" .
	    "IMAPStore far\nAccount x\n\nMaildirStore near\nPath $d/sync/\nInbox $d/sync/INBOX\nSubFolders Verbatim\n\n" .
	    "Channel c\nFar :far:\nNear :near:\nPatterns *\nCreate Both\nExpunge Both\nSync All\nSyncState *\n");
	my $mbsync = "HOME=$d mbsync -c $d/mbsyncrc -a";
	is(among_deaths($mbsync, 120), 0, 'mbsync fetches a mailbox over dying hosts') or diag(out());
	my @got = local_mail('INBOX');
	is(scalar(@got), 800, 'every message');
	is(scalar(grep { !$want{$_} } @got), 0, 'octet by octet');
	ok($kills > 0, "$kills hosts died");
	# changes go up: some are answered, some are deleted, some are new
	my @file = sort glob("$d/sync/INBOX/{new,cur}/*");
	unlink @file[0 .. 49];
	for my $f (@file[50 .. 99]) {
		(my $to = $f) =~ s{/new/}{/cur/};
		$to =~ s/:2,.*//;
		rename $f, "$to:2,R" or die;
	}
	for my $n (1 .. 30) {
		BMR::Site::put("$d/sync/INBOX/cur/new$n.$$.x:2,F", "Subject: new $n\nMessage-ID: <new$n.$$\@test>\n\nmine $n\n");
	}
	$kills = 0;
	is(among_deaths($mbsync, 120), 0, 'mbsync sends changes over dying hosts') or diag(out());
	my $c = BMR::Client->new($site->addr('a', 'imap'));
	$c->line;
	$c->cmd('a LOGIN alice secret');
	$c->send("b SELECT INBOX\r\n");
	my ($l, $exists) = ('', 0);
	do { $l = $c->line; $exists = $1 if $l =~ /^\* (\d+) EXISTS/ } while $l !~ /^b /;
	is($exists, 780, '800 less 50 plus 30 are in the store');
	my %n;
	for my $key ('ANSWERED', 'FLAGGED') {
		$c->send("c SEARCH $key\r\n");
		do { $l = $c->line; $n{$key} = () = $l =~ /\d+/g if $l =~ /^\* SEARCH/ } while $l !~ /^c /;
	}
	is($n{ANSWERED}, 50, 'fifty are answered');
	is($n{FLAGGED}, 30, 'and the new ones are there once each');
	diag("$kills hosts died while changes went up");
}

SKIP: {
	skip 'no fetchmail', 2 if !have('fetchmail');
	$site->deliver('bob', @mail[0 .. 99]);
	mkdir "$d/bob";
	BMR::Site::put("$d/mda", "#!/bin/sh\nexec cat >$d/bob/\$\$\n");
	chmod 0755, "$d/mda";
	BMR::Site::put("$d/fetchmailrc", "poll $ip service $port proto imap user bob password secret sslproto '' mda \"$d/mda\" fetchall nokeep\n");
	chmod 0600, "$d/fetchmailrc";
	is(among_deaths("HOME=$d fetchmail -f $d/fetchmailrc --pidfile $d/fetchmail.pid --nosyslog -v", 120), 0, 'fetchmail by IMAP over dying hosts') or diag(substr(out(), -2000));
	my %subject;
	for my $f (glob("$d/bob/*")) {
		open(my $h, '<', $f) or die;
		local $/;
		$subject{$1}++ if <$h> =~ /^Subject: (number \d+)/m;
	}
	is(scalar(keys %subject), 100, 'every message came');
}

SKIP: {
	skip 'no curl', 2 if !have('curl');
	$site->deliver('carol', $mail[0]);
	my $got = `curl -s -u carol:secret 'imap://$ip:$port/INBOX;UID=1' 2>/dev/null`;
	like($got, qr/^Subject: number 1\r/m, 'curl fetches by UID');
	BMR::Site::put("$d/up.eml", "Subject: up\n\nby curl\n");
	is(system("curl -s -u carol:secret -T $d/up.eml 'imap://$ip:$port/INBOX' >/dev/null 2>&1"), 0, 'curl appends');
}
$gw->stop;
is_deeply($gw->{left}, [], 'no process is left');
done_testing();
