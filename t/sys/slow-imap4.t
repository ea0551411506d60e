#!/usr/bin/perl
# An IMAP4 client that reads late is to be told more at once than there is room for: while its backend is dead, nearly all of
# a large mailbox is expunged, and the other backend's view is brought level with the client's by a quarter of a megabyte of EXPUNGE.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep);
use BMR::Case qw(run_case);
use BMR::Client;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $messages = 15_000;
my $keep = 1000;	# each such one stays
my $site = BMR::Site->new(store => 'mdbox');

# The untagged lines before the tagged one, which must be OK.
sub imap {
	my ($c, $cmd) = @_;
	my @l;
	$c->send('t' . ++$c->{tag} . " $cmd\r\n");
	while ((my $l = $c->line) ne '') {
		return @l if $l =~ /^t$c->{tag} OK /;
		die "$cmd: $l" if $l =~ /^t$c->{tag} /;
		push @l, $l;
	}
	die "$cmd: the connection is closed\n";
}

sub direct {
	my ($x, $host) = @_;
	my $c = BMR::Client->new($x->site->addr($host, 'imap4'));
	$c->line;
	imap($c, 'LOGIN ' . $x->user . ' secret');
	return $c;
}

sub fill {
	my ($x) = @_;
	my $c = direct($x, 'a');
	imap($c, 'APPEND INBOX' . " {6+}\r\na: b\r\n" x $messages);
	imap($c, 'LOGOUT');
	return;
}

sub expunge {
	my ($x, $host) = @_;
	my $c = direct($x, $host);
	my @set = map { ($_ - 1) * $keep + 1 . ':' . ($_ * $keep - 1) } 1 .. $messages / $keep;
	imap($c, 'SELECT INBOX');
	imap($c, 'STORE ' . join(',', @set) . ' +FLAGS.SILENT (\Deleted)');
	is(scalar(grep { /EXPUNGE/ } imap($c, 'EXPUNGE')), $messages - $messages / $keep, 'expunged by another client');
	imap($c, 'LOGOUT');
	return;
}

sub selected {
	my ($x) = @_;
	my $c = BMR::Client->new($x->gw->addr('imap4'), rcvbuf => 4096);	# one that does not read ahead
	like($c->line, qr/^\* OK /, 'greeting');
	imap($c, 'LOGIN ' . $x->user . ' secret');
	ok((grep { $_ eq "* $messages EXISTS\r\n" } imap($c, 'SELECT INBOX')), 'all messages are there');
	$c->{view} = [1 .. $messages];	# their UIDs, in a fresh mailbox
	return $c;
}

# Does what a client does with this line. False when it is none that an honest server says here.
sub heed {
	my ($c, $line) = @_;
	if ($line =~ /^\* (\d+) EXPUNGE\r\n\z/) {
		return 0 if $1 < 1 || $1 > @{ $c->{view} };
		splice(@{ $c->{view} }, $1 - 1, 1);
		$c->{told} += length $line;
		return 1;
	}
	return 1 if $line =~ /^\* \d+ RECENT\r\n\z/;
	return ++$c->{ok} < 10 if $line =~ /^\* OK /;	# that it still waits
	return $line =~ /^\* (\d+) EXISTS\r\n\z/ && $1 == @{ $c->{view} };
}

sub level {
	my ($x, $c) = @_;
	my @stay = map { $_ * $keep } 1 .. $messages / $keep;
	is_deeply($c->{view}, \@stay, 'the client knows what stays');
	cmp_ok($c->{told}, '>', 200_000, 'it was told in more octets than the gateway has room for');
	is_deeply([map { /\* (\d+) FETCH \(UID (\d+)\)/ ? "$1 $2" : () } imap($c, 'FETCH 1:* (UID)')], [map { "$_ $stay[$_ - 1]" } 1 .. @stay],
		'and by its numbers it gets the right messages');
	imap($c, 'LOGOUT');
	is($c->rest, '', 'nothing more');
	is(scalar(() = $x->gw->log =~ /signal \d|exited with [1-9]/g), 0, 'no process died');
	return;
}

# The backend in use hears nothing any more, the mailbox shrinks, and the backend is dead.
sub shrink {
	my ($x, $meanwhile) = @_;
	my $host = $x->used;
	$x->{tap}{$host}->stall;
	expunge($x, $host eq 'a' ? 'b' : 'a');
	$meanwhile->() if $meanwhile;
	$x->kill('down', $host);
	return;
}

run_case($site, 'in IDLE', proto => 'imap4', client => sub {
	my ($x) = @_;
	fill($x);
	my $c = selected($x);
	$c->send("i IDLE\r\n");
	like($c->line, qr/^\+ /, 'IDLE');
	shrink($x);
	sleep 2;
	while (@{ $c->{view} } > $messages / $keep) {
		my $l = $c->line;
		heed($c, $l) or return fail("in IDLE: $l");
	}
	$c->send("DONE\r\n");
	while ((my $l = $c->line) !~ /^i /) { heed($c, $l) or return fail("after DONE: $l") }
	level($x, $c);
});

run_case($site, 'before the answer to NOOP', proto => 'imap4', client => sub {
	my ($x) = @_;
	fill($x);
	my $c = selected($x);
	shrink($x, sub { $c->send("n NOOP\r\n") });
	sleep 2;
	while ((my $l = $c->line) !~ /^n OK /) { heed($c, $l) or return fail("before n OK: $l") }
	level($x, $c);
});

run_case($site, 'in IDLE, and the second backend dies while the client does not read', proto => 'imap4', interval => '1s', client => sub {
	my ($x) = @_;
	fill($x);
	my $c = selected($x);
	$c->send("i IDLE\r\n");
	like($c->line, qr/^\+ /, 'IDLE');
	my $first = $x->used;
	shrink($x);
	sleep 2;
	my $second = $x->used;
	isnt($second, $first, 'the other has it');
	$x->{tap}{$first}->go;
	$x->{tap}{$first}->up;
	$x->kill('down', $second);
	for (1 .. 100) {	# some octets at a time
		my $l = $c->line;
		heed($c, $l) or return fail("in IDLE: $l");
	}
	while (@{ $c->{view} } > $messages / $keep) {
		my $l = $c->line;
		heed($c, $l) or return fail("in IDLE: $l");
	}
	$c->send("DONE\r\n");
	while ((my $l = $c->line) !~ /^i /) { heed($c, $l) or return fail("after DONE: $l") }
	level($x, $c);
});

$site->stop;
done_testing();
