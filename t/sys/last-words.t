#!/usr/bin/perl
# A backend that refuses content before its end, and closes without having read what was sent: its words lie unread when the next
# write fails. They count all the same.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket ();
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

my $net = BMR::Site::network();
my $dir = tempdir('bmr-words-XXXXXX', TMPDIR => 1, CLEANUP => 0);
my ($owner, @started) = ($$);
END {
	if ($$ == $owner) {
		my $status = $?;
		kill 'KILL', @started;
		waitpid($_, 0) for @started;
		remove_tree($dir);
		$? = $status;
	}
}

sub touch { my ($name) = @_; open(my $f, '>', "$dir/$name") or die "$name: $!"; return }
sub wait_for { my ($name) = @_; my $until = time() + 30; sleep 0.02 while !-e "$dir/$name" && time() < $until; return -e "$dir/$name" }

# One session: says this to the content when the test has it do so, and is gone.
sub session {
	my ($c, $words) = @_;
	print $c "220 fake\r\n";
	while (sysread($c, my $line, 2000)) {
		if ($line =~ /^DATA/ && -e "$dir/go") {
			print $c "554 5.5.0 asked again\r\n";
		} elsif ($line =~ /^DATA/) {
			print $c "354 go\r\n";
			sysread($c, my $some, 100);
			touch('content');
			wait_for('go');
			print $c $words;
			close $c;
			touch('gone');
			return;
		}
		next if $line =~ /^DATA/;
		print $c $line =~ /^EHLO/ ? "250-fake\r\n250 SIZE 100000000\r\n" : "250 2.0.0 ok\r\n";
	}
	return;
}

sub server {
	my ($words, $port) = @_;
	my $l = IO::Socket::INET->new(Listen => 9, LocalAddr => "$net.9", LocalPort => $port, ReuseAddr => 1) or die "listen: $!";
	setsockopt($l, Socket::SOL_SOCKET(), Socket::SO_RCVBUF(), 4096);
	my $pid = fork() // die "fork: $!";
	if (!$pid) {
		$SIG{CHLD} = 'IGNORE';
		while (my $c = $l->accept) {
			next if fork();
			$c->autoflush(1);
			session($c, $words);
			POSIX::_exit(0);
		}
		POSIX::_exit(0);
	}
	push @started, $pid;
	return;
}

my $block = ('y' x 62 . "\r\n") x 1024;
my $port = 10025;
for my $words ("552 5.3.4 it is too much\r\n", "554-5.7.1 this is not\r\n554 5.7.1 taken here\r\n") {
	unlink map { "$dir/$_" } 'content', 'go', 'gone';
	server($words, ++$port);
	my $gw = BMR::Gateway->new(net => $net, services => { smtp => { backends => { a => "$net.9:$port" }, health => 'interval = "600s"' } });
	$gw->ready;
	my $c = BMR::Client->new($gw->addr('smtp'));
	$c->reply;
	$c->smtp($_) for 'EHLO c.test', 'MAIL FROM:<a@b>', 'RCPT TO:<c@d>';
	like($c->smtp('DATA'), qr/^354 /, 'DATA');
	my $sel = IO::Select->new($c->{sock});
	$c->{sock}->blocking(0);
	my ($sent, $n) = 0;
	while ($sent < 64 << 20 && $sel->can_write(1)) {
		$sent += $n if $n = syswrite($c->{sock}, substr($block, $sent % length $block));
	}
	$c->{sock}->blocking(1);
	ok($sent < 64 << 20 && wait_for('content'), 'the backend takes no more, nor does the gateway');
	my ($s) = @{ $gw->bmr('who')->{sessions} };
	kill 'STOP', $s->{pid};
	touch('go');
	ok(wait_for('gone'), 'the backend refuses, and closes');
	kill 'CONT', $s->{pid};
	$c->send(substr($block, $sent % length $block) . ".\r\n");
	is($c->reply, $words, 'the client hears what it said');
	like($c->smtp('NOOP'), qr/^250 /, 'and goes on');
	like($c->smtp('QUIT'), qr/^221 /, 'QUIT');
	unlike($gw->log, qr/signal \d|exited with [1-9]/, 'no process died');
	$gw->stop;
	is_deeply($gw->{left}, [], 'nothing is left');
}
done_testing();
