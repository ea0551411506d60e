#!/usr/bin/perl
# Sessions whose process is killed: in each phase of SMTP and POP3 the client gets the octets that it would have got.
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
	my $m = "Subject: case\r\nMessage-ID: <r" . ++$n . ".$$\@test>\r\nFrom: x\@site.test\r\n\r\n";
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
	kill $signal // 'KILL', $p;
	$x->{killed}++;
	return $p;
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
		is(() = $x->gw->log =~ /another goes on/g, $x->{killed}, 'each death was seen');
	});
}

done_testing();
