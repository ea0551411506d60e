#!/usr/bin/perl
# Sessions that are idle give their process back and go on when somebody speaks, when a time is up, or when they are told.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Case qw(run_case);
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(smtp => 1, dovecot => "imap_max_line_length = 1M\n");
my $n = 0;
my $soon = qq(timeout {\n park = "300ms"\n });

sub message {
	my ($size) = @_;
	my $m = "Subject: case\r\nMessage-ID: <k" . ++$n . ".$$\@test>\r\nFrom: x\@site.test\r\nDate: Tue, 24 Nov 2026 00:00:00 +0000\r\n\r\n";
	my $line = 0;
	$m .= sprintf("%06d the quick brown fox jumps over the lazy dog\r\n", $line++) while length $m < ($size // 300);
	return $m . "last line\r\n";
}

sub who { my ($x) = @_; return @{ $x->gw->bmr('who')->{sessions} // [] } }

sub parked {
	my ($x, $count) = @_;
	my ($until, @w, @pids) = (time() + 20);
	do {	# one look at a time: it may be told at any moment that the server is still there
		sleep 0.05;
		@w = who($x);
		@pids = $x->gw->pids(qr/session [0-9a-f]+ /);
	} while time() < $until && (@pids || @w != ($count // 1) || grep { $_->{state} ne 'parked' } @w);
	is(scalar(grep { $_->{state} eq 'parked' } @w), $count // 1, 'parked');
	is(scalar @pids, 0, 'no process');
	return;
}

sub pop_login {
	my ($x) = @_;
	my $c = $x->connect;
	$c->line;
	$c->cmd('USER ' . $x->user);
	like($c->cmd('PASS secret'), qr/^\+OK/, 'login');
	return $c;
}

sub retr {
	my ($c, $num, $m) = @_;
	like($c->cmd("RETR $num"), qr/^\+OK /, "RETR $num");
	my $b = $c->body;
	ok(defined $b && substr($b, -length $m) eq $m, 'the message is whole');
	return;
}

run_case($site, 'POP3', proto => 'pop3', more => $soon, client => sub {
	my ($x) = @_;
	my @m = (message(), message(50_000));
	$x->site->deliver($x->user, @m);
	my $c = $x->connect;
	like($c->line, qr/^\+OK/, 'greeting');
	parked($x);
	like($c->cmd('USER ' . $x->user), qr/^\+OK/, 'USER');
	parked($x);
	like($c->cmd('PASS secret'), qr/^\+OK/, 'PASS');
	parked($x);
	is((who($x))[0]{backend}, $x->used, 'its backend is kept');
	is((who($x))[0]{user}, $x->user, 'and its user known');
	my @conns = map { $x->{tap}{$_}->conns } 'a', 'b';
	retr($c, 2, $m[1]);
	is_deeply([map { $x->{tap}{$_}->conns } 'a', 'b'], \@conns, 'over the same connection');
	like($c->cmd('DELE 1'), qr/^\+OK/, 'DELE');
	parked($x);
	like($c->cmd('STAT'), qr/^\+OK 1 /, 'STAT');
	parked($x);
	is($c->cmd('QUIT'), "+OK bye\r\n", 'QUIT');
	is($c->rest, '', 'nothing more');
	is(scalar $x->site->messages($x->user), 1, 'one is deleted');
});

run_case($site, 'SMTP', more => $soon, client => sub {
	my ($x) = @_;
	my $c = $x->connect;
	like($c->reply, qr/^220/, 'greeting');
	parked($x);
	like($c->smtp('EHLO client.test'), qr/^250/, 'EHLO');
	for (1 .. 2) {
		my $m = message();
		like($c->smtp('MAIL FROM:<x@site.test>'), qr/^250/, 'MAIL');
		like($c->smtp('RCPT TO:<' . $x->addr . '>'), qr/^250/, 'RCPT');
		like($c->smtp('DATA'), qr/^354/, 'DATA');
		$c->send("$m.\r\n");
		like($c->reply, qr/^250/, 'the message');
		parked($x);
	}
	like($c->smtp('QUIT'), qr/^221/, 'QUIT');
	$x->site->flush;
	is(scalar $x->site->messages($x->user), 2, 'both in the store');
});

sub done_idling {
	my ($c) = @_;
	$c->send("DONE\r\n");
	my $l;
	do { $l = $c->line } while $l =~ /^\*/;
	like($l, qr/^i1 OK/, 'DONE');
	return;
}
sub imap_login {
	my ($x) = @_;
	my $c = $x->lines;
	like($c->line, qr/^\* OK /, 'greeting');
	like(tagged($c, 'LOGIN ' . $x->user . ' secret'), qr/^t\d+ OK/m, 'LOGIN');
	return $c;
}
my $tag = 0;
sub tagged {
	my ($c, $cmd) = @_;
	my $t = 't' . ++$tag;
	my $r = '';
	$c->send("$t $cmd\r\n");
	while ($r !~ /^$t /m) { my $l = $c->line; last if $l eq ''; $r .= $l }
	return $r;
}

run_case($site, 'IMAP4', proto => 'imap4', more => $soon, client => sub {
	my ($x) = @_;
	my @m = (message(), message());
	$x->site->deliver($x->user, @m);
	my $c = imap_login($x);
	parked($x);
	like(tagged($c, 'SELECT INBOX'), qr/^\* 2 EXISTS/m, 'SELECT');
	parked($x);
	my @conns = map { $x->{tap}{$_}->conns } 'a', 'b';
	like(tagged($c, 'FETCH 1 BODY.PEEK[HEADER.FIELDS (SUBJECT)]'), qr/Subject: case/, 'FETCH');
	parked($x);
	$c->send("i1 IDLE\r\n");
	like($c->line, qr/^\+ /, 'IDLE');
	parked($x);
	$x->site->deliver($x->user, message());
	like($c->line, qr/^\* 3 EXISTS/, 'new mail wakes it');
	$c->line if !$c->silent(0.5);
	parked($x);
	is_deeply([map { $x->{tap}{$_}->conns } 'a', 'b'], \@conns, 'over the same connection');
	$x->kill;
	my $until = time() + 20;	# another backend is found, and parked with
	sleep 0.05 while time() < $until && (who($x))[0]{backend} ne $x->alive;
	parked($x);
	$x->site->deliver($x->user, message());
	like($c->line, qr/^\* 4 EXISTS/, 'new mail wakes it on the other');
	done_idling($c);
	like(tagged($c, 'LOGOUT'), qr/^\* BYE/m, 'LOGOUT');
});

# What was said to the backend before is no part of what is put away.
run_case($site, 'IMAP4 after a long command', proto => 'imap4', more => $soon, client => sub {
	my ($x) = @_;
	$x->site->deliver($x->user, message());
	my $c = imap_login($x);
	tagged($c, 'SELECT INBOX');
	my @conns = map { $x->{tap}{$_}->conns } 'a', 'b';
	like(tagged($c, join ' ', 'SEARCH', ("SUBJECT {9000+}\r\n" . 'x' x 9000) x 20), qr/^\* SEARCH\r\n/m, 'a SEARCH of 180,000 octets');
	$c->send("i1 IDLE\r\n");
	like($c->line, qr/^\+ /, 'IDLE');
	parked($x);
	$x->site->deliver($x->user, message());
	like($c->line, qr/^\* 2 EXISTS/, 'new mail wakes it');
	done_idling($c);
	like(tagged($c, 'SEARCH SUBJECT case'), qr/^\* SEARCH 1 2\r\n/m, 'SEARCH');
	is_deeply([map { $x->{tap}{$_}->conns } 'a', 'b'], \@conns, 'all over the same connection');
	like(tagged($c, 'LOGOUT'), qr/^\* BYE/m, 'LOGOUT');
});

# A client that waits hears a word in time, and a backend too that would end the connection; both wake the session for a moment.
run_case($site, 'IMAP4 waits for long', proto => 'imap4', more => qq(timeout {\n park = "200ms"\n keep-client = "1s"\n keep-backend = "1500ms"\n }),
    client => sub {
	my ($x) = @_;
	$x->site->deliver($x->user, message());
	my $c = imap_login($x);
	tagged($c, 'SELECT INBOX');
	$c->send("i1 IDLE\r\n");
	like($c->line, qr/^\+ /, 'IDLE');
	parked($x);
	my @conns = map { $x->{tap}{$_}->conns } 'a', 'b';
	my $heard = sub { my $n = () = $c->{seen} =~ /^\* OK Still here\r\n/mg; return $n };
	my $told = sub { my $n = () = $x->said($x->used) =~ /^DONE\r\n/mg; return $n };
	my ($h, $t, $until) = ($heard->(), $told->(), time() + 60);
	$c->silent(0.2) while time() < $until && ($heard->() < $h + 3 || $told->() < $t + 2);
	cmp_ok($heard->(), '>=', $h + 3, 'the client hears that the server is there');
	cmp_ok($told->(), '>=', $t + 2, 'the backend is told to idle on');
	parked($x);
	unlike($c->{seen}, qr/^(?!\* OK Still here\r\n)[^\r]*\r\n\z/m, 'nothing else');
	is_deeply([map { $x->{tap}{$_}->conns } 'a', 'b'], \@conns, 'over the same connection');
	$x->site->deliver($x->user, message());
	like($c->line, qr/^\* 2 EXISTS/, 'new mail is told');
	done_idling($c);
	like(tagged($c, 'LOGOUT'), qr/^\* BYE/m, 'LOGOUT');
});

run_case($site, 'the backend dies meanwhile', proto => 'pop3', more => $soon, client => sub {
	my ($x) = @_;
	my $m = message();
	$x->site->deliver($x->user, $m);
	my $c = pop_login($x);
	parked($x);
	$x->kill;
	ok($c->silent(0.5), 'nothing is said');
	parked($x);
	is((who($x))[0]{backend}, '', 'without a backend');
	retr($c, 1, $m);
	is((who($x))[0]{backend}, $x->alive, 'on the other');
});

run_case($site, 'the client goes meanwhile', proto => 'pop3', more => $soon, client => sub {
	my ($x) = @_;
	my $c = pop_login($x);
	parked($x);
	$c->close;
	ok($x->gw->wait_log(qr/client disconnected/), 'the session ends');
	is(scalar who($x), 0, 'it is gone');
});

for my $parks ('60s', '300ms') {
	run_case($site, "the client goes in IDLE, parked after $parks", proto => 'imap4', more => qq(timeout {\n park = "$parks"\n }), client => sub {
		my ($x) = @_;
		my $c = imap_login($x);
		tagged($c, 'SELECT INBOX');
		$c->send("i1 IDLE\r\n");
		like($c->line, qr/^\+ /, 'IDLE');
		parked($x) if $parks ne '60s';
		$c->close;
		ok($x->gw->wait_log(qr/client disconnected/), 'the session ends');
		is(scalar who($x), 0, 'it is gone');
	});
}

run_case($site, 'idle for too long', more => qq(timeout {\n park = "300ms"\n idle = "2s"\n }), client => sub {
	my ($x) = @_;
	my $c = $x->connect;
	$c->reply;
	$c->smtp('EHLO client.test');
	parked($x);
	like($c->rest, qr/^421 4\.4\.2 /, 'it is told so');
});

run_case($site, 'a kick, a drain', more => $soon, client => sub {
	my ($x) = @_;
	my $c = $x->connect;
	$c->reply;
	like($c->smtp($_), qr/^250/, $_) for 'EHLO client.test', 'MAIL FROM:<x@site.test>', 'RSET';
	parked($x);
	my $was = $x->used;
	$x->gw->bmr('backend', 'drain', "smtp/$was");
	my $until = time() + 20;
	sleep 0.1 while time() < $until && (who($x))[0]{backend} eq $was;
	parked($x);
	isnt((who($x))[0]{backend}, $was, 'moved off');
	like($c->smtp('MAIL FROM:<x@site.test>'), qr/^250/, 'goes on');
	like($c->smtp('RSET'), qr/^250/, 'RSET');
	parked($x);
	$x->gw->bmr('kick', (who($x))[0]{session});
	like($c->rest, qr/^421 4\.3\.2 /, 'it is told so');
});

run_case($site, 'the listener dies', proto => 'pop3', more => $soon, client => sub {
	my ($x) = @_;
	my $m = message();
	$x->site->deliver($x->user, $m);
	my @c = map { pop_login($x) } 1 .. 5;
	parked($x, 5);
	ok($x->gw->deposited(5), 'the fdstore has them');
	my @conns = map { $x->{tap}{$_}->conns } 'a', 'b';
	for (1 .. 2) {
		$x->murder('KILL', $x->gw->pids(qr/^bmr: pop3\/listener/));
		ok($x->gw->wait_log(qr/5 sessions taken over/), 'a successor takes over');
		$x->gw->mark;
		parked($x, 5);
	}
	retr($_, 1, $m) for @c;
	is_deeply([map { $x->{tap}{$_}->conns } 'a', 'b'], \@conns, 'over the same connections');
	$_->close for @c;
});

# Code change: a session goes on in a process of a fresh zygote, at its next safe point.
run_case($site, 'another zygote', proto => 'pop3', client => sub {
	my ($x) = @_;
	my $m = message(15_000_000);	# more than the kernel takes for a client that does not read
	$x->site->deliver($x->user, $m);
	my $idle = pop_login($x);
	my $busy = $x->connect(rcvbuf => 65536);
	$busy->line;
	$busy->cmd($_) for 'USER ' . $x->user, 'PASS secret';
	$busy->send("RETR 1\r\n");
	$busy->line for 1 .. 10;
	my %before = map { $_->{session} => $_ } who($x);
	my @conns = map { $x->{tap}{$_}->conns } 'a', 'b';
	$x->gw->bmr('session', 'move', '--zygote', 'all');
	is($x->gw->{code}, 0, 'asked');
	my $moved = sub { scalar grep { $_->{zygote} != $before{ $_->{session} }{zygote} && $_->{pid} } who($x) };
	my $until = time() + 20;
	sleep 0.1 while time() < $until && $moved->() < 1;
	is($moved->(), 1, 'the idle one has moved, the busy one has not');
	my $rest = $busy->body;
	ok(length $rest > length($m) - 2000 && substr($m, -length($rest)) eq $rest, 'the rest of the message is whole');
	$until = time() + 20;
	sleep 0.1 while time() < $until && $moved->() < 2;
	is($moved->(), 2, 'now the other has moved too');
	is_deeply([map { $x->{tap}{$_}->conns } 'a', 'b'], \@conns, 'with the same connections to the backends');
	like($_->cmd('STAT'), qr/^\+OK 1 /, 'STAT') for $idle, $busy;
	is($_->cmd('QUIT'), "+OK bye\r\n", 'QUIT') for $idle, $busy;
});

run_case($site, 'the gateway stops', more => $soon, client => sub {
	my ($x) = @_;
	my $c = $x->connect;
	$c->reply;
	parked($x);
	kill 'TERM', $x->gw->{pid};
	like($c->rest, qr/^421 .*shutting down\r\n\z/, 'the client is told');
});

done_testing();
1;
