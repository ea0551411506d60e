#!/usr/bin/perl
# Sessions whose process is killed: in each phase of SMTP, POP3 and IMAP4 the client gets the octets that it would have got, and one that
# crashes again at the same point is given up with an honest word.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Case qw(run_case);
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(smtp => 1);
my $n = 0;

sub message {
	my ($size) = @_;
	my $m = "Subject: case\r\nMessage-ID: <r" . ++$n . ".$$\@test>\r\nFrom: x\@site.test\r\nDate: Tue, 24 Nov 2026 00:00:00 +0000\r\n\r\n";
	my $line = 0;
	$m .= sprintf("%06d the quick brown fox jumps over the lazy dog\r\n", $line++) while length $m < ($size // 300);
	return $m . ".\r\n..\r\n.x one dot\r\nlast line\r\n";
}

# The process of the only session there is.
sub process {
	my ($x) = @_;
	my $until = time() + 20;
	while (time() < $until) {
		my @p = $x->gw->pids(qr/session [0-9a-f]+ /);
		return $p[0] if @p == 1;
		sleep 0.02;
	}
	die "no process of the session\n";
}

sub murder {
	my ($x, $signal) = @_;
	my $p = process($x);
	$x->murder($signal // 'KILL', $p);
	return $p;
}

sub wait_new {
	my ($x, $old) = @_;
	my $until = time() + 20;
	while (time() < $until) {
		my @p = $x->gw->pids(qr/session [0-9a-f]+ /);
		return if @p == 1 && $p[0] != $old;
		sleep 0.02;
	}
	die "nobody goes on\n";
}

sub ids { return [map { /Message-ID: <(r\d+)/ ? $1 : '?' } @_] }
sub left { my ($x, $u) = @_; return map { /Message-ID: <(r\d+)/ ? $1 : '?' } $x->site->messages($u // $x->user) }

sub pop_login {
	my ($x, $between) = @_;
	my $c = $x->connect;
	like($c->line, qr/^\+OK gw\.test /, 'greeting');
	$between->('greeting') if $between;
	like($c->cmd('USER ' . $x->user), qr/^\+OK/, 'USER');
	$between->('USER') if $between;
	like($c->cmd('PASS secret'), qr/^\+OK/, 'PASS');
	$between->('PASS') if $between;
	return $c;
}

sub retr {
	my ($c, $num, $m) = @_;
	like($c->cmd("RETR $num"), qr/^\+OK /, "RETR $num");
	my $b = $c->body;
	ok(defined $b && substr($b, -length $m) eq $m, 'the message is whole') or diag(substr($b // 'none', -300));
	return;
}

for my $signal ('KILL', 'ABRT', 'SEGV') {
	run_case($site, "POP3 SIG$signal between commands", proto => 'pop3', client => sub {
		my ($x) = @_;
		my @m = (message(), message(50_000), message());
		$x->site->deliver($x->user, @m);
		my $c = pop_login($x, sub { murder($x, $signal) });
		my $step = sub { murder($x, $signal); return };
		like($c->cmd('STAT'), qr/^\+OK 3 /, 'STAT');
		$step->();
		$c->send("LIST\r\n");
		like($c->line . $c->body, qr/^\+OK 3 messages\r\n1 \d+\r\n2 \d+\r\n3 \d+\r\n\z/, 'LIST');
		$step->();
		retr($c, 2, $m[1]);
		$step->();
		like($c->cmd('DELE 1'), qr/^\+OK/, 'DELE');
		$step->();
		like($c->cmd('DELE 1'), qr/^-ERR/, 'marked');
		like($c->cmd('STAT'), qr/^\+OK 2 /, 'STAT');
		$step->();
		like($c->cmd('RSET'), qr/^\+OK/, 'RSET');
		like($c->cmd('DELE 3'), qr/^\+OK/, 'DELE');
		$step->();
		is($c->cmd('QUIT'), "+OK bye\r\n", 'QUIT');
		is($c->rest, '', 'nothing more');
		is_deeply([left($x)], ids(@m[0, 1]), 'one is deleted');
		is(() = $x->gw->log =~ /another goes on/g, $x->{murdered}, 'each death was seen');
	});
}

for my $signal ('ABRT', 'SEGV') {
	run_case($site, "IMAP4 SIG$signal between commands", proto => 'imap4', client => sub {
		my ($x) = @_;
		my @m = (message(), message(50_000), message());
		$x->site->deliver($x->user, @m);
		my $step = sub { murder($x, $signal); return };
		my $c = $x->connect;
		my $ok = sub { my ($r, $what) = @_; ok($r->ok, $what) or diag($r->{line}); return $r };
		$step->();
		$ok->($c->login($x->user), 'LOGIN');
		$step->();
		$ok->($c->do('SELECT INBOX'), 'SELECT');
		is($c->{view}{exists}, 3, 'three are there');
		$step->();
		my ($f) = $ok->($c->do('FETCH 2 BODY.PEEK[]'), 'FETCH')->fetches;
		ok(substr($f->{item}{'BODY[]'}, -length $m[1]) eq $m[1], 'the message is whole');
		$step->();
		$ok->($c->do('STORE 1 +FLAGS.SILENT (\Flagged)'), 'STORE');
		$step->();
		my $new = message(20_000);
		my $t = $c->begin('APPEND INBOX {' . length($new) . '}');
		ok($c->upto(sub { $_[0]{plus} }), 'APPEND may begin');
		$step->();
		$c->send(substr($new, 0, 9000));
		sleep 0.2;
		$step->();
		$c->send(substr($new, 9000) . "\r\n");
		$ok->($c->finish($t), 'APPEND');
		$step->();
		$c->idle;
		$step->();
		$ok->($c->done, 'IDLE');
		$ok->($c->do('STORE 3 +FLAGS.SILENT (\Deleted)'), 'STORE');
		$step->();
		$ok->($c->do('EXPUNGE'), 'EXPUNGE');
		$step->();
		my @f = $ok->($c->do('FETCH 1:* (FLAGS)'), 'FETCH')->fetches;
		is_deeply([map { (grep { $_ eq '\\Flagged' } @{ $_->{item}{FLAGS} }) ? 1 : 0 } @f], [1, 0, 0], 'one is marked');
		$ok->($c->do('LOGOUT'), 'LOGOUT');
		is_deeply([left($x)], ids(@m[0, 1], $new), 'one is gone, one has come');
		is(() = $x->gw->log =~ /another goes on/g, $x->{murdered}, 'each death was seen');
	});
}

run_case($site, 'SMTP in small content', client => sub {
	my ($x) = @_;
	my $c = $x->connect;
	$c->reply;
	$c->smtp('EHLO client.test');
	my %want;
	for my $i (1 .. 12) {
		my $m = message(3000 + 7000 * ($i % 3));
		$want{ ids($m)->[0] } = $m;
		$c->smtp($_) for 'MAIL FROM:<x@site.test>', 'RCPT TO:<' . $x->addr . '>', 'DATA';
		(my $stuffed = $m) =~ s/^\./../mg;
		$c->send(substr($stuffed, 0, length($stuffed) / 2));
		sleep 0.02 * ($i % 4);
		my $p = murder($x);
		wait_new($x, $p) if $i % 2;
		sleep 0.02 * ($i % 5);
		$c->send(substr($stuffed, length($stuffed) / 2) . ".\r\n");
		like($c->reply, qr/^250 2\.0\.0 /, '250 at the dot');
	}
	like($c->smtp('QUIT'), qr/^221 /, 'QUIT');
	$x->site->flush;
	my @got = $x->site->messages($x->user);
	my %got;
	for my $g (@got) {
		my $id = ids($g)->[0];
		$got{$id}++;
		ok(substr($g, -length $want{$id}) eq $want{$id}, "$id is whole") if $want{$id};
	}
	is_deeply([grep { !$got{$_} } sort keys %want], [], 'all are there');
});

# A message larger than what the journal holds: its file outlives the process.
run_case($site, 'SMTP in each phase', more => qq(limit {\n spool-memory = "64k"\n }), client => sub {
	my ($x) = @_;
	my $m = message(400_000);
	my $c = $x->connect;
	my $step = sub { murder($x); return };
	like($c->reply, qr/^220 /, 'greeting');
	$step->();
	like($c->smtp('EHLO client.test'), qr/^250-/, 'EHLO');
	$step->();
	like($c->smtp('MAIL FROM:<x@site.test>'), qr/^250 /, 'MAIL');
	$step->();
	like($c->smtp('RCPT TO:<' . $x->addr . '>'), qr/^250 /, 'RCPT');
	$step->();
	like($c->smtp('DATA'), qr/^354 /, 'DATA');
	$step->();
	(my $stuffed = $m) =~ s/^\./../mg;
	for my $part (unpack '(a100000)*', $stuffed) {
		$c->send($part);
		sleep 0.05;
		$step->();
	}
	$c->send(".\r\n");
	like($c->reply, qr/^250 2\.0\.0 /, '250 at the dot');
	$step->();
	like($c->smtp('QUIT'), qr/^221 /, 'QUIT');
	is($c->rest, '', 'nothing more');
	$x->site->flush;
	my @got = $x->site->messages($x->user);
	is(scalar @got, 1, 'one message in the store');
	ok(substr($got[0], -length $m) eq $m, 'it is whole');
});

run_case($site, 'POP3 RETR to a slow reader', proto => 'pop3', client => sub {
	my ($x) = @_;
	my $m = message(3_000_000);
	$x->site->deliver($x->user, $m);
	my $c = $x->connect(rcvbuf => 65536);
	$c->line;
	$c->cmd($_) for 'USER ' . $x->user, 'PASS secret';
	$c->send("RETR 1\r\n");
	for (1 .. 4) {		# one more within seconds and without progress would end it
		my $want = length($c->{seen}) + 100_000;
		while (length $c->{seen} < $want) { $c->fill or last }
		wait_new($x, murder($x));
	}
	like($c->line, qr/^\+OK /, 'RETR');
	my $b = $c->body;
	ok(defined $b && substr($b, -length $m) eq $m, 'the message is whole');
	is($c->cmd('QUIT'), "+OK bye\r\n", 'QUIT');
});

# What hangs at the backend is pending at the same point when the process dies again (J6).
sub hang {
	my ($x, $c, $command) = @_;
	$_->tell('stall') for values %{ $x->{tap} };
	$c->send($command);
	sleep 1;	# nothing tells from outside that it was taken
	return $c;
}

sub pending {
	my ($x) = @_;
	$x->site->deliver($x->user, message());
	return hang($x, pop_login($x), "RETR 1\r\n");
}

# It crashes twice there. Returns the report of it.
sub given_up {
	my ($x, $c, $said) = @_;
	wait_new($x, murder($x, 'SEGV'));
	ok($c->silent(0.2), 'the first is not seen');
	murder($x, 'ABRT');
	is($c->rest, $said, 'the second has an honest answer');
	ok($x->gw->wait_log(qr/its process died again at the same point/), 'and the log says why');
	my $list = $x->gw->bmr('crashes', 'list')->{crashes};
	is(scalar @$list, 1, 'there is a report');
	is($list->[0]{how}, 'signal 6', 'of how it died');
	$_->tell('go') for values %{ $x->{tap} };
	return $x->gw->bmr('crashes', 'show', $list->[0]{session});
}

sub journal {
	my ($j) = grep { (readlink($_) // '') =~ /bmr-journal/ } map { glob("/proc/$_/fd/*") } process($_[0]);
	open(my $f, '<', $j) or die;
	return do { local $/; <$f> };
}

run_case($site, 'a second crash at the same point', proto => 'pop3', client => sub {
	my ($x) = @_;
	my $r = given_up($x, pending($x), "-ERR [SYS/TEMP] mail store not available, try later\r\n");
	is($r->{pending} ? 1 : 0, 1, 'with what was pending');
	is(length $r->{state}, 2 * int(length($r->{state}) / 2), 'and the state');
	my $dir = "$x->{gw}{dir}/state/crashes";
	my ($file) = glob("$dir/*.json");
	open(my $f, '<', $file) or die;
	my $text = do { local $/; <$f> };
	my $user = $x->user;
	unlike($text, qr/secret|\Q$user\E|${\ unpack('H*', 'secret') }/, 'without credentials');
});

run_case($site, 'a second crash at the same point of SMTP', client => sub {
	my ($x) = @_;
	my $c = $x->connect;
	$c->reply;
	like($c->smtp($_), qr/^250/, $_) for 'EHLO who.example.org', 'MAIL FROM:<x@site.test>';
	hang($x, $c, 'RCPT TO:<' . $x->addr . ">\r\n");
	ok(journal($x) =~ /who\.example\.org/, 'it knows who the client says it is');
	my $r = given_up($x, $c, "421 4.3.0 gw.test Error: internal error\r\n");
	is($r->{pending} ? 1 : 0, 1, 'with what was pending');
	like(pack('H*', $r->{state}), qr/\A(?!.*example).*[^\0]/s, 'and the state, without the words of the client');
});

run_case($site, 'a second crash at the same point of IMAP4', proto => 'imap4', client => sub {
	my ($x) = @_;
	my $c = $x->login;
	ok($c->do('SELECT INBOX')->ok, 'SELECT');
	hang($x, $c, "x FETCH 1:* (FLAGS)\r\n");
	given_up($x, $c, "* BYE [SERVERBUG] internal error\r\n");
});

run_case($site, 'SIGKILL says nothing of the input', proto => 'pop3', client => sub {
	my ($x) = @_;
	my $c = pending($x);
	wait_new($x, murder($x)) for 1 .. 4;
	$_->tell('go') for values %{ $x->{tap} };
	like($c->line, qr/^\+OK /, 'RETR');
	like($c->body, qr/last line\r\n\z/, 'whole');
	is($c->cmd('QUIT'), "+OK bye\r\n", 'QUIT');
});

done_testing();
1;
