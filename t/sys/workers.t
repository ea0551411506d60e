#!/usr/bin/perl
# Every process of the gateway is killed, one kind after the other: no established session ends, and clients that come
# meanwhile are served.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(smtp => 1);
my %services = map { my $p = $_; $p => { backends => { map { $_ => $site->addr($_, $p) } 'a', 'b' } } } 'smtp', 'pop3';
my $gw = BMR::Gateway->new(net => $site->{net}, services => \%services);
$gw->ready;
my $n = 0;

sub message {
	my ($size) = @_;
	my $m = "Subject: case\r\nMessage-ID: <w" . ++$n . ".$$\@test>\r\nFrom: x\@site.test\r\nDate: Tue, 24 Nov 2026 00:00:00 +0000\r\n\r\n";
	my $line = 0;
	$m .= sprintf("%06d the quick brown fox jumps over the lazy dog\r\n", $line++) while length $m < ($size // 300);
	return $m . "last line\r\n";
}

# Four sessions: POP3 idle, POP3 with a deletion and half of a body read, SMTP in a transaction, SMTP inside content.
sub begin {
	my (%s);
	my $u = 'w' . ++$n;
	$s{user} = $u;
	$s{m} = [message(), message(400_000), message()];
	$site->deliver($u, @{ $s{m} });
	$s{pop} = BMR::Client->new($gw->addr('pop3'));
	like($s{pop}->line, qr/^\+OK/, 'POP3');
	$s{pop}->cmd("USER $u");
	like($s{pop}->cmd('PASS secret'), qr/^\+OK/, 'login');
	$s{read} = BMR::Client->new($gw->addr('pop3'), rcvbuf => 65536);
	$s{read}->line;
	$s{read}->cmd("USER $u");
	like($s{read}->cmd('PASS secret'), qr/^\+OK/, 'login');
	like($s{read}->cmd('DELE 1'), qr/^\+OK/, 'DELE');
	$s{read}->send("RETR 2\r\n");
	$s{read}->line for 1 .. 10;
	$s{smtp} = BMR::Client->new($gw->addr('smtp'));
	$s{smtp}->reply;
	$s{smtp}->smtp('EHLO client.test');
	like($s{smtp}->smtp('MAIL FROM:<x@site.test>'), qr/^250/, 'MAIL');
	$s{data} = BMR::Client->new($gw->addr('smtp'));
	$s{data}->reply;
	$s{data}->smtp($_) for 'EHLO client.test', 'MAIL FROM:<x@site.test>', "RCPT TO:<$u-in\@site.test>";
	like($s{data}->smtp('DATA'), qr/^354/, 'DATA');
	$s{sent} = message(3_000_000);
	$s{data}->send(substr($s{sent}, 0, 1_500_000));
	return \%s;
}

sub finish {
	my ($s) = @_;
	like($s->{pop}->cmd('STAT'), qr/^\+OK 3 /, 'POP3 goes on');
	like($s->{pop}->cmd('RETR 1'), qr/^\+OK/, 'RETR');
	my $b = $s->{pop}->body;
	ok(substr($b, -length $s->{m}[0]) eq $s->{m}[0], 'whole');
	is($s->{pop}->cmd('QUIT'), "+OK bye\r\n", 'QUIT');
	$b = $s->{read}->body;
	ok(substr($b, -1000) eq substr($s->{m}[1], -1000), 'the rest of the body');
	is($s->{read}->cmd('QUIT'), "+OK bye\r\n", 'QUIT');
	is(scalar $site->messages($s->{user}), 2, 'one deleted');
	like($s->{smtp}->smtp("RCPT TO:<$s->{user}-in\@site.test>"), qr/^250/, 'RCPT');
	like($s->{smtp}->smtp('DATA'), qr/^354/, 'DATA');
	my $m = message();
	$s->{smtp}->send("$m.\r\n");
	like($s->{smtp}->reply, qr/^250/, 'the message');
	$s->{data}->send(substr($s->{sent}, 1_500_000) . ".\r\n");
	like($s->{data}->reply, qr/^250/, 'the large message');
	like($s->{$_}->smtp('QUIT'), qr/^221/, 'QUIT') for 'smtp', 'data';
	$site->flush;
	my @got = $site->messages("$s->{user}-in");
	is(scalar @got, 2, 'both in the store');
	for my $want ($m, $s->{sent}) {
		is(scalar(grep { substr($_, -length $want) eq $want } @got), 1, 'once, whole');
	}
	return;
}

# How many there are of these: each share has its own of some.
sub processes { my $n = 0; $n += /listener|zygote|fdstore/ ? $ENV{BMR_LISTENERS} // 1 : 1 for @_; return $n }

sub murder {
	my (@title) = @_;
	my @p = map { $gw->pids(qr/^bmr: \Q$_\E/) } @title;
	is(scalar @p, processes(@title), "kills @title");
	kill 'KILL', @p;
	return @p;
}

# Until the listeners have that many sessions.
sub known {
	my ($count) = @_;
	my $until = time() + 30;
	sleep 0.05 while time() < $until && @{ $gw->bmr('who')->{sessions} // [] } < $count;
	return $count == @{ $gw->bmr('who')->{sessions} // [] };
}

# Until a successor of each is there and the listener answers.
sub settled {
	my ($old, @title) = @_;
	my $until = time() + 30;
	while (time() < $until) {
		my @p = map { $gw->pids(qr/^bmr: \Q$_\E/) } @title;
		my %old = map { $_ => 1 } @$old;
		return 1 if @p == processes(@title) && !grep { $old{$_} } @p;
		sleep 0.05;
	}
	return 0;
}

my @kinds = (['pop3/listener', 'smtp/listener'], ['fdstore'], ['pop3/zygote', 'smtp/zygote'], ['balancer'], ['admin'],
	['pop3/listener', 'pop3/zygote', 'smtp/listener', 'smtp/zygote'], ['fdstore', 'balancer']);
for my $kinds (@kinds) {
	subtest "@$kinds" => sub {
		my $s = begin();
		ok($gw->deposited(4), 'the fdstore has them');
		my @old = murder(@$kinds);
		my $c = BMR::Client->new($gw->addr('pop3'));
		like($c->line, qr/^\+OK/, 'a client that comes is served');
		ok(settled(\@old, @$kinds), 'successors are there');
		finish($s);
		$c->cmd('QUIT');
	};
}

subtest 'a listener, then the processes of its sessions, then a backend' => sub {
	my $s = begin();
	ok($gw->deposited(4), 'the fdstore has them');
	my @old = murder('pop3/listener', 'smtp/listener');
	ok(settled(\@old, 'pop3/listener', 'smtp/listener'), 'successors are there');
	ok($gw->wait_log(qr/sessions taken over/), 'sessions are taken over');
	my @p = $gw->pids(qr/session [0-9a-f]+ /);
	is(scalar @p, 4, 'four processes');
	kill 'KILL', @p;
	finish($s);
};

subtest 'a listener together with the processes of its sessions' => sub {
	my $s = begin();
	ok($gw->deposited(4), 'the fdstore has them');
	my @p = $gw->pids(qr/session [0-9a-f]+ /);
	kill 'KILL', @p;
	murder('pop3/listener', 'smtp/listener');
	finish($s);
};

subtest 'a listener twice, the fdstore between' => sub {
	my $s = begin();
	ok($gw->deposited(4), 'the fdstore has them');
	my @old = murder('pop3/listener', 'smtp/listener');
	ok(settled(\@old, 'pop3/listener', 'smtp/listener'), 'successors are there');
	ok(known(4), 'they have the sessions');
	@old = murder('fdstore');
	ok(settled(\@old, 'fdstore'), 'a successor is there');
	ok($gw->deposited(4), 'the fdstore has them');
	murder('pop3/listener', 'smtp/listener');
	finish($s);
};

subtest 'a listener while clients wait for a process' => sub {
	my ($zygote) = $gw->pids(qr{^bmr: pop3/zygote});
	kill 'STOP', $zygote;
	my @c = map { BMR::Client->new($gw->addr('pop3')) } 1 .. 10;	# more than there are processes
	$gw->bmr('status') for 1 .. 2;		# the listener has seen them all
	my @old = murder('pop3/listener');
	ok(settled(\@old, 'pop3/listener'), 'a successor is there');
	kill 'CONT', $zygote;
	like($_->line, qr/^\+OK/, 'all are served') for @c;
	is($_->cmd('QUIT'), "+OK bye\r\n", 'QUIT') for @c;
};

# What backends can do is learned by probes: the successor is not left to wait for the next one.
subtest 'a listener, between two probes that are far apart' => sub {
	my $slow = BMR::Gateway->new(net => $site->{net}, services => { pop3 => { port => 10111,
	    backends => { a => $site->addr('a', 'pop3') }, health => qq(interval = "600s"\n    fall = 1\n    rise = 1) } });
	$slow->ready;
	for (1 .. 2) {
		my $c = BMR::Client->new($slow->addr('pop3'));
		like($c->line, qr/^\+OK/, 'a client is served');
		is($c->cmd('QUIT'), "+OK bye\r\n", 'QUIT');
		kill 'KILL', $slow->pids(qr{^bmr: pop3/listener});
	}
	$slow->stop;
	is_deeply($slow->{left}, [], 'no process is left');
};

# The fdstore does not know them yet. How old one is when its listener dies is up to the machine: so until two were so young, or one
# on a machine that is busy.
subtest 'a listener of young sessions' => sub {
	my $u = 'w' . ++$n;
	$site->deliver($u, message());
	$gw->mark;
	my $young = 0;
	for my $round (1 .. 10) {
		my $pop = BMR::Client->new($gw->addr('pop3'));
		my $smtp = BMR::Client->new($gw->addr('smtp'));
		like($pop->line, qr/^\+OK/, 'POP3');
		like($smtp->reply, qr/^220/, 'SMTP');
		like($smtp->smtp('EHLO client.test'), qr/^250/, 'EHLO');
		my @old = murder('pop3/listener', 'smtp/listener');
		$smtp->send("MAIL FROM:<x\@site.test>\r\n");
		$pop->send("USER $u\r\nPASS secret\r\n");
		like($pop->line, qr/^\+OK/, 'USER');
		like($pop->line, qr/^\+OK/, 'PASS waits for the successor');
		like($smtp->reply, qr/^250/, 'MAIL waits for the successor');
		ok(settled(\@old, 'pop3/listener', 'smtp/listener'), 'successors are there');
		my ($p) = $gw->pids(qr/pop3 session [0-9a-f]+ /);
		kill 'KILL', $p;
		like($pop->cmd('STAT'), qr/^\+OK 1 /, 'it is a session as any other');
		is($pop->cmd('QUIT'), "+OK bye\r\n", 'QUIT');
		like($smtp->smtp($_), qr/^2/, $_) for "RCPT TO:<$u\@site.test>", 'QUIT';
		$young = () = substr($gw->log, $gw->{mark}) =~ /listener died when it was young/g;
		last if $young >= 2;
	}
	cmp_ok($young, '>=', 1, 'some were young');
};

subtest 'bmrd' => sub {
	my $s = begin();
	my @before = grep { $_ != $gw->{pid} } BMR::Proc::tree($gw->{pid});
	my @workers = grep { cmdline($_) !~ /session/ } @before;
	my @sessions = grep { cmdline($_) =~ /session [0-9a-f]+ / } @before;	# now: one that is warm serves another client later
	is(scalar @sessions, 4, 'four sessions');
	kill 'KILL', $gw->{pid};
	waitpid($gw->{pid}, 0);
	my $c = BMR::Client->new($gw->addr('pop3'));
	like($c->line, qr/^\+OK/, 'what it started serves on: a client that comes');
	like($c->cmd("USER $s->{user}"), qr/^\+OK/, 'USER');
	like($c->cmd('PASS secret'), qr/^\+OK/, 'login');
	like($s->{pop}->cmd('STAT'), qr/^\+OK 3 /, 'and an old one');
	$gw->mark;
	$gw->start;
	ok($gw->wait_log(qr/sessions come from another bmrd's/), 'a new one takes over');
	my $d;
	for (1 .. 100) {
		$d = eval { BMR::Client->new($gw->addr('pop3')) };
		last if $d;
		sleep 0.05;
	}
	like($d->line, qr/^\+OK/, 'clients are served');
	like($d->cmd('QUIT'), qr/^\+OK/, 'QUIT');
	my $until = time() + 20;
	sleep 0.1 while time() < $until && grep { cmdline($_) =~ /^bmr/ } @workers;
	is_deeply([map { cmdline($_) } grep { cmdline($_) =~ /^bmr/ } @workers], [], 'the old processes are gone');
	like($c->cmd('STAT'), qr/^\+OK 3 /, 'the sessions are there');
	like($c->cmd('QUIT'), qr/^\+OK/, 'QUIT');
	is(scalar(grep { cmdline($_) =~ /session [0-9a-f]+ / } @sessions), 4, 'in the processes that they had');
	kill 'KILL', @sessions;
	finish($s);
};

sub cmdline {
	my ($pid) = @_;
	open(my $f, '<', "/proc/$pid/cmdline") or return '';
	local $/;
	return <$f> // '';
}

# Nothing is left behind.
my $until = time() + 20;
sleep 0.2 while time() < $until && $gw->pids(qr/session [0-9a-f]+ /);
is(scalar $gw->pids(qr/session [0-9a-f]+ /), 0, 'no process of a session is left');
for my $title ('fdstore', 'pop3/listener', 'smtp/listener') {
	my ($p) = $gw->pids(qr/^bmr: \Q$title\E/);
	my @journals = grep { (readlink($_) // '') =~ /bmr-journal/ } glob("/proc/$p/fd/*");
	is(scalar @journals, 0, "$title holds no journal");
}
$gw->stop;
is_deeply($gw->{left}, [], 'no process is left');
done_testing();
