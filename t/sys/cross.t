#!/usr/bin/perl
# Cases over all protocols (protocols.md 7.4): X1, a host dies under many mixed sessions; X2, hosts flap; X3, a host greets and
# hangs at login; X4, a host from which nothing comes any more; X5, what hosts offer drifts; X8, the host in use dies at random
# octets of whole sessions, in both directions. BMR_SOAK=1: many more.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Digest::SHA qw(sha256_hex);
use File::Temp qw(tempdir);
use MIME::Base64 qw(encode_base64);
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Case qw(run_case);
use BMR::Client;
use BMR::Gateway;
use BMR::Imap;
use BMR::Site;
use BMR::Tap;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(smtp => 1, imap => 1, hosts => ['a', 'b', 'c']);
my $soak = $ENV{BMR_SOAK};
my $seed = $ENV{BMR_SEED} // $$;
srand $seed;
diag("seed $seed");

sub text { my ($id, $lines) = @_; return "From: x\@cross.test\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\nTo: y\@cross.test\r\nSubject: $id\r\nMessage-ID: <$id\@cross.test>\r\n\r\n" . join('', map { "line $_ of $id\r\n" } 1 .. $lines) }

# --- one whole session of each protocol; dies where an answer is not what it should be ---------------------------------

sub smtp_session {
	my ($addr, $user, $id, %o) = @_;
	my $c = BMR::Client->new($addr);
	$c->reply =~ /^220/ or die 'greeting';
	for my $cmd ('EHLO client.test', "MAIL FROM:<x\@site.test>", "RCPT TO:<$user\@site.test>", 'DATA') {
		my $r = $c->smtp($cmd);
		$r =~ /^[23]/ or die "$cmd: $r";
	}
	$o{pause}->() if $o{pause};
	$c->send(text($id, 300) . ".\r\n");
	my $r = $c->reply;
	$r =~ /^250/ or die "dot: $r";
	$c->smtp('QUIT') =~ /^221/ or die 'QUIT';
	return;
}

sub pop3_session {
	my ($addr, $user, $want, %o) = @_;
	my $c = BMR::Client->new($addr);
	$c->line =~ /^\+OK/ or die 'greeting';
	for my $cmd ("USER $user", 'PASS secret', 'STAT') {
		my $r = $c->cmd($cmd);
		$r =~ /^\+OK/ or die "$cmd: $r";
	}
	$o{pause}->() if $o{pause};
	$c->cmd('RETR 1') =~ /^\+OK/ or die 'RETR';
	my $b = $c->body // die 'the message is cut';
	sha256_hex($b) eq $want or die 'another message';
	$c->cmd('QUIT') =~ /^\+OK/ or die 'QUIT';
	return;
}

sub imap_session {
	my ($addr, $user, $id, %o) = @_;
	my $c = BMR::Client->new($addr);
	$c->line =~ /^\* OK/ or die 'greeting';
	my $n = 0;
	my $do = sub {
		my ($cmd, $more) = @_;
		my $tag = 't' . ++$n;
		my ($all, $l) = ('', '');
		$c->send("$tag $cmd\r\n");
		do {
			$l = $c->line;
			die "$cmd: the end, after " . substr($all, -200) if $l eq '';
			$all .= $l;
			$c->send("$more\r\n") if $l =~ /^\+ / && defined $more;
		} while $l !~ /^$tag /;
		$l =~ /^$tag OK/ or die "$cmd: $l";
		return $all;
	};
	$do->("LOGIN $user secret");
	$do->('SELECT INBOX') =~ /^\* (\d+) EXISTS/m or die 'EXISTS';
	my $m = text($id, 100);
	$do->('APPEND INBOX (\Seen) {' . length($m) . '}', $m);
	$o{pause}->() if $o{pause};
	my $all = $do->('UID SEARCH HEADER Message-ID ' . "<$id\@cross.test>");
	my @uid = $all =~ /^\* SEARCH((?: \d+)+)\r$/m ? split(' ', $1) : ();
	@uid == 1 or die scalar(@uid) . " messages where one was put: $all";
	$all = $do->("UID FETCH $uid[0] BODY.PEEK[]");
	my ($size) = $all =~ /BODY\[\] \{(\d+)\}\r\n/ or die "no message: $all";
	substr($all, $+[0], $size) eq $m or die 'another message';
	$do->("UID STORE $uid[0] +FLAGS (\\Deleted)");
	$do->('EXPUNGE') =~ /EXPUNGE\r/ or die 'nothing was expunged';
	$do->('LOGOUT');
	return;
}

# --- X1, X2: many sessions, real hosts ---------------------------------------------------------------------------------

sub many {
	my ($name, $sessions, $meanwhile) = @_;
	my $gw = BMR::Gateway->new(net => $site->{net}, services => { map { my $p = $_;
		$p => { backends => { map { $_ => $site->addr($_, $p eq 'imap4' ? 'imap' : $p) } 'a', 'b' } } } 'smtp', 'pop3', 'imap4' });
	$gw->ready;
	$site->mailbox('many');
	$site->deliver("pop$_", text("pop$_", 2000)) for 1 .. 3;
	my %want = map { $_ => sha256_hex(($site->messages("pop$_"))[0]) } 1 .. 3;
	my %pid;
	for my $i (1 .. $sessions) {
		my $pid = fork() // die;
		if ($pid == 0) {
			my $proto = (qw(smtp pop3 imap4))[$i % 3];
			my $u = 1 + $i % 9 / 3 | 0;
			my %o = (pause => sub { sleep rand 1.5 });
			sleep rand 0.5;
			eval {
				smtp_session($gw->addr('smtp'), 'many', "many-$$-$i", %o) if $proto eq 'smtp';
				pop3_session($gw->addr('pop3'), "pop$u", $want{$u}, %o) if $proto eq 'pop3';
				imap_session($gw->addr('imap4'), "imap$i", "imap-$$-$i", %o) if $proto eq 'imap4';
				1;
			} or print "# $name, $proto: $@\n";
			POSIX::_exit($@ ? 1 : 0);
		}
		$pid{$pid} = $i;
	}
	$meanwhile->($gw);
	my ($good, $bad, $until) = (0, 0, time() + 180);
	while (%pid && time() < $until) {
		my $p = waitpid(-1, 1);
		if ($p > 0 && delete $pid{$p}) { $? == 0 ? $good++ : $bad++ } else { sleep 0.05 }
	}
	kill 'KILL', keys %pid;
	is(scalar(keys %pid), 0, "$name: no session hangs");
	is($bad, 0, "$name: none of $sessions sessions sees anything");
	$gw->stop;
	is_deeply($gw->{left}, [], "$name: no process is left");
	return;
}
many('X1 a host dies under mixed sessions', $soak ? 300 : 45, sub {
	sleep 0.9;
	$site->kill_host('a');
	sleep 1;
	$site->start_host('a');
});
many('X2 a host flaps', $soak ? 200 : 30, sub {
	my ($gw) = @_;
	for (1 .. 3) {
		sleep 0.5;
		$site->kill_host('b');
		sleep 0.3;
		$site->start_host('b');
	}
});

# --- X3 to X5: some hosts, sessions of each protocol that were begun at a certain one ----------------------------------------

my @protos = ('smtp', 'pop3', 'imap4');
my $users = 0;

# A gateway before these hosts, or before taps of them: { host => { proto => address } }.
sub before {
	my ($hosts, %o) = @_;
	my $gw = BMR::Gateway->new(net => $site->{net}, services => { map { my $p = $_;
		$p => { backends => { map { $_ => $o{taps} ? $o{taps}{$p}{$_}{listen} : $site->addr($_, $p) } @$hosts },
			health => $o{health}, more => $o{more} } } @{ $o{protos} // \@protos } });
	$gw->ready;
	return $gw;
}

# From now on new backend connections go to this host alone, or to all again.
sub route {
	my ($gw, $host) = @_;
	for my $b (@{ $gw->bmr('backend', 'list')->{backends} }) {
		$gw->bmr('backend', !defined $host || $b->{name} eq $host ? 'ready' : 'drain', "$b->{service}/$b->{name}", '--reason', 'test');
	}
	return;
}

sub on { my ($gw, $c) = @_; return (map { $_->{backend} } grep { $_->{client_port} == $c->{sock}->sockport } @{ $gw->bmr('who')->{sessions} })[0] // '' }

sub smtp_hello { my ($gw) = @_; my $c = BMR::Client->new($gw->addr('smtp')); $c->reply; return ($c, $c->smtp('EHLO drift.test')) }
sub smtp_open {
	my ($c, $user, $more) = @_;
	like($c->smtp('MAIL FROM:<x@site.test>' . ($more // '')), qr/^250 /, 'MAIL');
	like($c->smtp("RCPT TO:<$user\@site.test>"), qr/^250 /, 'RCPT');
	return;
}
sub bdat { my ($c, $octets, $last) = @_; $c->send('BDAT ' . length($octets) . ($last ? ' LAST' : '') . "\r\n$octets"); return $c->reply }
sub pop3_hello { my ($gw) = @_; my $c = BMR::Client->new($gw->addr('pop3')); $c->line; $c->cmd('CAPA'); return ($c, $c->body) }
sub xoauth2 { my ($user) = @_; return encode_base64("user=$user\1auth=Bearer " . $site->token($user) . "\1\1", '') }
sub imap_offer { my ($c) = @_; return $c->do('CAPABILITY')->raw }
sub straight { my ($user) = @_; my $c = BMR::Imap->new($site->addr('b', 'imap4'), prefix => 'd'); $c->login($user); return $c }
sub imap_hello { my ($gw, $user) = @_; my $c = BMR::Imap->new($gw->addr('imap4')); ok($c->login($user)->ok, 'LOGIN'); return ($c, imap_offer($c)) }

# What a new client of a protocol is offered.
sub offered {
	my ($gw, $proto) = @_;
	my ($c, $offer) = $proto eq 'smtp' ? smtp_hello($gw) : $proto eq 'pop3' ? pop3_hello($gw) : do {
		my $i = BMR::Imap->new($gw->addr('imap4'));
		$i->login('offer');
		($i, imap_offer($i));
	};
	$c->close;
	return $offer;
}

# Waits until new clients are offered what matches, or what does not.
sub until_offered {
	my ($gw, $proto, $re, $not) = @_;
	my ($offer, $until) = ('', time() + 30);
	while (time() < $until) {
		$offer = offered($gw, $proto);
		last if $not xor $offer =~ $re;
		sleep 0.1;
	}
	return $not ? unlike($offer, $re, "$proto: what a host lacks is offered no more") : like($offer, $re, "$proto: what all have is offered");
}

sub case {
	my ($name, $code) = @_;
	return if $ENV{CASE} && $name !~ /^(?:$ENV{CASE})\b/;
	subtest $name => sub { eval { $code->(); 1 } or fail("case dies: $@") };
	return;
}

sub ends {
	my ($gw) = @_;
	unlike($gw->log, qr/signal \d+|exited with [1-9]/, 'no process of the gateway died');
	$gw->stop;
	return is_deeply($gw->{left}, [], 'no process of the gateway is left');
}

# X3. Dovecot's login processes greet while its auth process, which Postfix asks too, is stopped.
case('X3 a host greets and hangs at login', sub {
	my $gw = before(['a', 'b'], health => qq(interval = "600s"\n    fall = 1\n    rise = 1),
		more => qq(timeout {\n greeting = "2s"\n command = "2s"\n login = "2s"\n }));
	$site->mailbox('x31');	# SMTP's
	my @auth = $site->pids('a', 'auth') or die "no auth process\n";
	kill 'STOP', @auth;
	my $good = eval {
		for my $p (@protos) {
			my $user = 'x3' . ++$users;
			route($gw, 'a');
			my $c = $p eq 'imap4' ? BMR::Imap->new($gw->addr($p)) : BMR::Client->new($gw->addr($p));
			if ($p eq 'imap4') {
				my $t = $c->begin("LOGIN $user secret");
				ok($gw->wait_log(qr/session \S+: backend a: timed out/), 'the deadline of the login');
				route($gw);
				ok($c->finish($t)->ok, 'imap4: LOGIN');
				ok($c->do('SELECT INBOX')->ok, 'SELECT');
			} else {
				$p eq 'smtp' ? $c->reply : $c->line;
				$c->smtp('EHLO x3.test') if $p eq 'smtp';
				my $plain = encode_base64("\0$user\0secret", '');
				$c->send($p eq 'smtp' ? "AUTH PLAIN $plain\r\n" : "USER $user\r\nPASS secret\r\n");
				ok($gw->wait_log(qr/session \S+: backend a: timed out/), "$p: the deadline of the login");
				route($gw);
				like($c->line, qr/^\+OK/, 'pop3: USER') if $p eq 'pop3';
				like($c->line, $p eq 'smtp' ? qr/^235 / : qr/^\+OK/, "$p: the login succeeds");
				smtp_open($c, $user) if $p eq 'smtp';
				like($c->cmd('STAT'), qr/^\+OK 0 /, 'pop3: STAT') if $p eq 'pop3';
			}
			is(on($gw, $c), 'b', "$p: at the other host");
			my ($a) = grep { $_->{service} eq $p && $_->{name} eq 'a' } @{ $gw->bmr('backend', 'list')->{backends} };
			like($gw->log, qr/backend $p\/a is down/, "$p: the host that hangs was marked bad");
			$gw->mark;
			$c->close;
		}
		1;
	};
	my $why = $@;
	kill 'CONT', @auth;
	$good or die $why;
	ends($gw);
});

# Dovecot's login processes refuse what its auth process dies over, as if the password were wrong.
case('a host refuses a login as it dies', sub {
	for my $p ('pop3', 'imap4') {
		my $gw = before(['a', 'b'], protos => [$p], health => qq(interval = "600s"\n    fall = 1\n    rise = 1));
		my $user = 'dying' . ++$users;
		my $m = $site->master_pid('a', 'dovecot');
		my $c = BMR::Client->new($gw->addr($p));
		$c->line;
		my @auth = $site->pids('a', 'auth');
		route($gw, 'a');
		kill 'STOP', $m, @auth;
		$c->cmd("USER $user") if $p eq 'pop3';
		$c->send($p eq 'pop3' ? "PASS secret\r\n" : "a LOGIN $user secret\r\n");
		ok($c->silent(0.5), "$p: the login is under way");
		route($gw);
		kill 'KILL', @auth;
		ok($c->silent(0.5), 'and is refused there, but not here');
		$site->kill_host('a');
		like($c->line, $p eq 'pop3' ? qr/^\+OK/ : qr/^a OK /, 'the other host lets him in');
		like($gw->log, qr/session \S+: backend a: .*it had refused the login: not believed/, 'which is logged');
		unlike($gw->log, qr/authentication failed/, 'and not counted as a failure');
		$site->start_host('a');
		ends($gw);
	}
	# a server whose way it is to go after a refusal
	my $dir = tempdir('bmr-cross-XXXXXX', TMPDIR => 1, CLEANUP => 1);
	my $goes = BMR::Tap->new(host => 'g', dir => $dir, listen => "$site->{net}.5:12999", serve => sub {
		my ($conn, $d) = @_;
		return !defined $d ? "+OK x\r\n" : $d =~ /^CAPA/ ? "+OK\r\nUSER\r\nUIDL\r\n.\r\n" : "+OK\r\n" if !defined $d || $d !~ /^PASS/m;
		$conn->{cut_after} = 'fin';
		return "-ERR [AUTH] no\r\n";
	});
	my $gw = BMR::Gateway->new(net => $site->{net}, services => { pop3 => { backends => { g => "$site->{net}.5:12999" } } });
	ok($gw->wait_up('pop3/g'), 'it is up');
	my $c = BMR::Client->new($gw->addr('pop3'));
	$c->line;
	$c->cmd('USER x');
	like($c->cmd('PASS wrong'), qr/^-ERR \[AUTH\]/, 'is believed the second time');
	ends($gw);
	$goes->stop;
});

# X4. What comes to the taps of host a is dropped by the kernel, without an answer of any kind.
case('X4 half open', sub {
	my $dir = tempdir('bmr-cross-XXXXXX', TMPDIR => 1, CLEANUP => 1);
	my ($port, %tap) = (13000);
	for my $p (@protos) {
		for my $h ('a', 'b') {
			mkdir "$dir/$p-$h";
			$tap{$p}{$h} = BMR::Tap->new(host => $h, dir => "$dir/$p-$h", listen => "$site->{net}.5:" . ++$port, to => $site->addr($h, $p));
		}
	}
	# deadlines of commands far away: it is TCP_USER_TIMEOUT that finds it
	my $gw = before(['a', 'b'], taps => \%tap, more => qq(timeout {\n command = "10m"\n data-init = "10m"\n bulk = "10m"\n hold = "5m"\n }), health => qq(interval = "1s"\n    fall = 1\n    rise = 1));
	my $user = 'x4' . ++$users;
	$site->mailbox("new$user");
	$site->deliver($user, text('x4', 50));
	my ($want) = $site->messages($user);
	route($gw, 'a');
	my ($smtp) = smtp_hello($gw);
	smtp_open($smtp, $user);
	my ($pop3) = pop3_hello($gw);
	$pop3->cmd("USER $user");
	like($pop3->cmd('PASS secret'), qr/^\+OK/, 'PASS');
	my ($imap) = imap_hello($gw, $user);
	ok($imap->do('SELECT INBOX')->ok, 'SELECT');
	is(on($gw, $_), 'a', 'at host a') for $smtp, $imap;
	route($gw);
	$_->{a}->tell('deaf') for values %tap;
	$smtp->send("DATA\r\n");
	$pop3->send("RETR 1\r\n");
	my $fetch = $imap->begin('FETCH 1 (BODY.PEEK[])');
	ok($gw->wait_log(qr/backend $_\/a is down/), "$_: a probe finds it") for @protos;
	# new sessions meanwhile
	ok(eval { smtp_session($gw->addr('smtp'), "new$user", "x4-$$"); 1 }, 'a new session of SMTP') or diag($@);
	ok(eval { pop3_session($gw->addr('pop3'), $user, sha256_hex($want)); 1 }, 'of POP3') or diag($@);
	ok(eval { imap_session($gw->addr('imap4'), $user, "x4i-$$"); 1 }, 'of IMAP4') or diag($@);
	like($smtp->reply, qr/^354 /, 'DATA goes on');
	$smtp->send(text("x4s-$$", 20) . ".\r\n");
	like($smtp->reply, qr/^250 /, 'and the message is taken');
	like($pop3->line, qr/^\+OK/, 'RETR goes on');
	is($pop3->body, $want, 'and is the message');
	my ($f) = $imap->finish($fetch)->fetches;
	is($f->{item}{'BODY[]'}, $want, 'FETCH goes on and is the message');
	is(on($gw, $_), 'b', 'at host b') for $smtp, $pop3, $imap;
	my @found = $gw->log =~ /session \S+: (backend a: .*)/g;
	is(scalar(grep { !/timed out/ } @found), 3, 'found by TCP, not by a deadline of ours') or diag("@found");
	$site->flush;
	is(scalar(grep { /x4s-$$/ } $site->messages($user)), 1, 'once in the store');
	ends($gw);
	$_->stop for map { values %$_ } values %tap;
});

# X5. Host b comes to offer less than sessions were promised that were begun at host a, which dies; c, if there, offers all.
my $less_imap = "imap_capability = IMAP4rev1 SASL-IR ID ENABLE IDLE LITERAL+ UIDPLUS NAMESPACE UNSELECT CHILDREN ESEARCH CONDSTORE MOVE\n";
my %less = (dovecot => "auth_mechanisms = plain login\n$less_imap" . "protocol imap {\n  mail_plugins =\n  imap_metadata = no\n}\n",
	postfix => { smtpd_discard_ehlo_keywords => 'chunking, smtputf8, dsn, silent-discard', message_size_limit => 100000 });
my $quick = qq(interval = "200ms"\n    fall = 1\n    rise = 1);

sub drift {
	my ($third, $proto, $code) = @_;
	my @hosts = ('a', 'b', $third ? 'c' : ());
	case("X5 $proto, a host comes to offer less" . ($third ? ', a third does not' : ''), sub {
		my $gw = before(\@hosts, protos => [$proto], health => $quick, more => qq(timeout {\n hold = "8s"\n }));
		my $user = 'x5' . ++$users;
		$site->mailbox($user) if $proto eq 'smtp';
		my $good = eval { $code->($gw, $user, $third); 1 };
		my $why = $@;
		$site->start_host('a') if !$site->master_pid('a', 'dovecot');
		$site->reconfigure('b');
		die $why if !$good;
		until_offered($gw, $proto, $proto eq 'smtp' ? qr/CHUNKING/ : $proto eq 'pop3' ? qr/XOAUTH2/ : qr/ENABLE/);
		ends($gw);
	});
	return;
}

for my $third (0, 1) {
	drift($third, 'smtp', sub {
		my ($gw, $user) = @_;
		my $m = text("x5-$user-$$", 60);
		route($gw, 'a');
		my ($c, $offer) = smtp_hello($gw);
		like($offer, qr/^250[ -]$_\r$/m, "$_ is offered") for 'CHUNKING', 'SMTPUTF8', 'DSN', 'SIZE 200000000';
		smtp_open($c, $user, ' SMTPUTF8 RET=HDRS');
		like(bdat($c, substr($m, 0, 700)), qr/^250 /, 'BDAT');
		my ($plain) = smtp_hello($gw);
		smtp_open($plain, $user);
		my ($waits) = smtp_hello($gw);	# promised as much, and without a backend yet
		route($gw);
		$site->reconfigure('b', %less);
		until_offered($gw, 'smtp', qr/CHUNKING|SMTPUTF8|DSN/, 1);
		like(offered($gw, 'smtp'), qr/^250-SIZE 100000\r$/m, 'the smaller SIZE too');
		like((smtp_hello($gw))[0]->smtp('MAIL FROM:<x@site.test> SMTPUTF8'), qr/^555 /, 'nor is it taken');
		$site->kill_host('a');
		like($plain->smtp('DATA'), qr/^354 /, 'who uses nothing of it goes on');
		$plain->send($m . ".\r\n");
		like($plain->reply, qr/^250 /, 'to the end');
		my $last = bdat($c, substr($m, 700), 1);
		my $new = $waits->smtp('MAIL FROM:<x@site.test> SMTPUTF8');
		if ($third) {
			like($last, qr/^250 /, 'the session goes on at the third host');
			like($new, qr/^250 /, 'and one that was promised as much begins there');
		} else {
			like($last, qr/^451 4\.3\.0 /, 'an honest answer');
			like($new, qr/^451 4\.3\.0 /, 'and to one that was promised as much');
		}
		for my $s ($c, $waits) {
			like($s->smtp('RSET'), qr/^250 /, 'RSET');
			smtp_open($s, $user);
			like($s->smtp('DATA'), qr/^354 /, 'DATA');
			$s->send($m . ".\r\n");
			like($s->reply, qr/^250 /, 'what all can do goes on');
		}
		$site->flush($third ? ('b', 'c') : 'b');
		my @got = $site->messages($user, 'b');
		is(scalar(@got), $third ? 4 : 3, 'each message that was taken is there, no other');
		is(scalar(grep { substr($_, -length $m) eq $m } @got), scalar(@got), 'whole');
	});
	drift($third, 'pop3', sub {
		my ($gw, $user) = @_;
		$site->deliver($user, text("x5p$_-$$", 30 * $_)) for 1 .. 2;
		my @want = $site->messages($user);
		route($gw, 'a');
		my @c;
		for (1 .. 3) {
			my ($c, $offer) = pop3_hello($gw);
			like($offer, qr/^SASL PLAIN LOGIN XOAUTH2 OAUTHBEARER\r$/m, 'the mechanisms of all');
			like($c->cmd('AUTH XOAUTH2 ' . xoauth2($user)), qr/^\+OK/, 'login by a token') if $_ < 3;
			push @c, $c;
		}
		my ($c, $deletes, $new) = @c;
		like($deletes->cmd('DELE 1'), qr/^\+OK/, 'DELE');
		my ($plain) = pop3_hello($gw);
		$plain->cmd("USER $user");
		like($plain->cmd('PASS secret'), qr/^\+OK/, 'login by a password');
		route($gw);
		$site->reconfigure('b', %less);
		until_offered($gw, 'pop3', qr/XOAUTH2|OAUTHBEARER/, 1);
		like((pop3_hello($gw))[0]->cmd('AUTH XOAUTH2 ' . xoauth2($user)), qr/^-ERR /, 'nor is it taken');
		$site->kill_host('a');
		like($plain->cmd('RETR 2'), qr/^\+OK/, 'who uses nothing of it goes on');
		is($plain->body, $want[1], 'with the message');
		my $retr = $c->cmd('RETR 2');
		my $quit = $deletes->cmd('QUIT');
		if ($third) {
			like($retr, qr/^\+OK/, 'the session goes on at the third host');
			is($c->body, $want[1], 'with the message');
			like($quit, qr/^\+OK/, 'deletions too');
			is_deeply([$site->messages($user, 'b')], [$want[1]], 'what was deleted is gone');
			is($c->cmd('TOP 2 1'), "+OK\r\n", 'TOP');
		} else {
			like($retr, qr/^-ERR \[SYS\/TEMP\]/, 'an honest answer');
			like($quit, qr/^-ERR \[SYS\/TEMP\] some deleted messages not removed/, 'and that nothing was deleted');
			is_deeply([$site->messages($user, 'b')], \@want, 'nothing was lost');
		}
	});
	drift($third, 'imap4', sub {
		my ($gw, $user) = @_;
		my $box = straight($user);
		$box->do('APPEND INBOX ', [text("x5i$_-$$", 20)])->ok or die 'APPEND' for 1 .. 5;
		route($gw, 'a');
		my ($c, $offer) = imap_hello($gw, $user);
		like($offer, qr/ $_\b/, "$_ is offered") for 'QRESYNC', 'METADATA', 'QUOTA', 'ACL';
		ok($c->do('ENABLE QRESYNC')->ok, 'ENABLE QRESYNC');
		ok($c->do('SELECT INBOX')->ok, 'SELECT');
		route($gw, 'c') if $third;
		my @others = map { (imap_hello($gw, "$user-$_"))[0] } $third ? (1 .. 2) : ();	# so b is what is tried first
		route($gw);
		$site->reconfigure('b', %less);
		$site->kill_host('a');
		$box = straight($user);		# a reload ends whoever was idle for ten seconds
		$box->do($_)->ok or die $_ for 'SELECT INBOX', 'STORE 2 +FLAGS.SILENT (\Deleted)', 'EXPUNGE';
		my $r = $c->do('NOOP');
		like($gw->log, qr/backend b: cannot stand in/, 'the host with less is tried, and not taken');
		if ($third) {
			ok($r->ok, 'the session goes on');
			is(on($gw, $c), 'c', 'at the third host');
			like($r->raw, qr/^\* VANISHED 2\r$/m, 'as it was promised');
			like($c->do('SETMETADATA INBOX (/private/comment "x5")')->{line}, qr/ OK /, 'all of it');
			route($gw, 'c');	# what b lacks is known from that try
		} else {
			is($r->{status}, '', 'no answer');
			like($c->{bye}, qr/^\* BYE \[UNAVAILABLE\]/, 'an honest word');
			is($c->unit, undef, 'the end');
		}
		until_offered($gw, 'imap4', qr/QRESYNC|METADATA|QUOTA|ACL/, 1);
		route($gw);
		my ($small, $smaller) = imap_hello($gw, $user);
		like($smaller, qr/ CONDSTORE\b/, 'what all have is offered');
		ok($small->do('SELECT INBOX')->ok, 'SELECT');
		$site->start_host('a');
		$gw->wait_up('imap4/a');
		route($gw, 'a');
		$small->close;
		($small, $smaller) = imap_hello($gw, $user);
		unlike($smaller, qr/QRESYNC|METADATA/, 'at a host that has more too');
		ok($small->do('SELECT INBOX')->ok, 'SELECT');
		route($gw);
		$site->kill_host('a');
		is($small->do('FETCH 1:* (UID)')->{status}, 'OK', 'and such a session goes on anywhere');
	});
}

# No limit is not less than one.
case('X5 imap4, a host with a limit on APPEND dies', sub {
	$site->reconfigure('a', dovecot => "imap_capability = +APPENDLIMIT=30000000\n");
	my $gw = before(['a', 'b'], protos => ['imap4'], health => $quick);
	my $good = eval {
		offered($gw, 'imap4');
		route($gw, 'b');
		offered($gw, 'imap4');
		route($gw, 'a');
		until_offered($gw, 'imap4', qr/ APPENDLIMIT=30000000\b/);
		my ($c) = imap_hello($gw, 'x5' . ++$users);
		ok($c->do('SELECT INBOX')->ok, 'SELECT');
		route($gw);
		$site->kill_host('a');
		is($c->do('NOOP')->{status}, 'OK', 'the session goes on where there is none');
		is(on($gw, $c), 'b', 'at the other host');
	};
	my $why = $@;
	$site->start_host('a') if !$site->master_pid('a', 'dovecot');
	$site->reconfigure('a');
	die $why if !$good;
	ends($gw);
});

# Dovecot cannot be told to have no TOP: the tap before the other host answers in its place.
run_case($site, 'X5 pop3, the other host has no TOP', proto => 'pop3', c2s => sub {
	my ($conn, $d) = @_;
	my $dead = $conn->{tap}->fired;
	return $d if $dead eq '' || $dead eq $conn->{tap}{host} || $d !~ s/^TOP [^\n]*\n//m;
	$conn->{tap}->push_out($conn, 'c', "-ERR Unknown command.\r\n");
	return $d;
}, client => sub {
	my ($x) = @_;
	$x->site->deliver($x->user, text("x5t$_-$$", 40)) for 1 .. 2;
	my @want = $x->site->messages($x->user);
	my ($c) = pop3_hello($x->gw);
	$c->cmd('USER ' . $x->user);
	like($c->cmd('PASS secret'), qr/^\+OK/, 'PASS');
	is($c->cmd('TOP 1 0'), "+OK\r\n", 'TOP');
	ok($c->body, 'its lines');
	$x->kill;
	open(my $f, '>', "$x->{dir}/fired");
	print $f $x->dead;
	close $f;
	like($c->cmd('TOP 1 0'), qr/^-ERR /, 'TOP fails honestly');
	like($c->cmd('RETR 1'), qr/^\+OK/, 'the session goes on');
	is($c->body, $want[0], 'with the message');
	like($c->cmd('DELE 2'), qr/^\+OK/, 'DELE');
	like($c->cmd('QUIT'), qr/^\+OK/, 'QUIT');
	is_deeply([$x->site->messages($x->user)], [$want[0]], 'nothing but that is gone');
});

# --- X8: random octets -----------------------------------------------------------------------------------------------------

# The connection in use dies when so many octets have gone that way.
sub at {
	my ($n) = @_;
	return sub {
		my ($conn, $d) = @_;
		return $d if -e "$conn->{tap}{dir}/../fired";
		$conn->{went} += length $d;
		return $d if $conn->{went} < $n;
		my $keep = length($d) - ($conn->{went} - $n);
		return $conn->{tap}->fire($conn, 'fin') ? substr($d, 0, $keep) : $d;
	};
}
my $rounds = $soak ? 300 : 12;
for my $r (1 .. $rounds) {
	for my $p (['smtp', 300, 7000], ['pop3', 300, 50_000], ['imap4', 1500, 8000]) {
		my ($proto, $c2s, $s2c) = @$p;
		$c2s = 7000 if $proto eq 'smtp';
		my $dir = rand() < 0.5 ? 'c2s' : 's2c';
		my $n = 1 + int rand($dir eq 'c2s' ? $c2s : $proto eq 'smtp' ? 400 : $s2c);
		run_case($site, "X8 $proto, $dir, octet $n", proto => $proto, $dir => at($n), client => sub {
			my ($x) = @_;
			my $addr = $x->gw->addr($proto);
			if ($proto eq 'smtp') {
				ok(eval { smtp_session($addr, $x->user, "x8-$$-$r"); 1 }, 'the session') or diag($@);
				$site->flush;
				my $copies = () = $site->messages($x->user);
				ok($copies == 1 || ($copies == 2 && $x->gw->log =~ /possible-duplicate/), "$copies in the store")
				    or diag(map { my $h = $_; map { "$h: $_\n" } grep { /\b@{[ $x->user ]}\@/ } split /\n/, $site->log_of($h, 'postfix') } 'a', 'b');
			} elsif ($proto eq 'pop3') {
				$site->deliver($x->user, text("x8-$$-$r", 2000));
				my ($m) = $site->messages($x->user);
				ok(eval { pop3_session($addr, $x->user, sha256_hex($m)); 1 }, 'the session') or diag($@);
			} else {
				ok(eval { imap_session($addr, $x->user, "x8-$$-$r"); 1 }, 'the session') or diag($@);
			}
		});
	}
}
done_testing();
