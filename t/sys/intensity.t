#!/usr/bin/perl
# What a supervisor that gives up costs sessions: nothing; and what counts towards that: deaths, not the ends of sessions, nor what was planned.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use IO::Select;
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(smtp => 1);
$site->deliver('by', "Subject: x\r\n\r\nbody\r\n");
my $gw;

sub gateway {
	my (%o) = @_;
	$gw = BMR::Gateway->new(net => $site->{net}, listeners => 1, services => { pop3 => { backends => { map { $_ => $site->addr($_, 'pop3') } 'a', 'b' } } }, %o);
	$gw->ready;
	return;
}

sub done {
	$gw->stop;
	is_deeply($gw->{left}, [], 'nothing is left after the stop');
	return;
}

sub login {
	my (%o) = @_;
	my $c = BMR::Client->new($gw->addr('pop3'), %o);
	$c->line;
	$c->cmd('USER by');
	like($c->cmd('PASS secret'), qr/^\+OK/, 'login');
	return $c;
}

sub who { return @{ $gw->bmr('who')->{sessions} // [] } }
sub gave_up { return substr($gw->log, $gw->{mark}) =~ /reached_max/ }
sub renewed { return scalar(() = substr($gw->log, $gw->{mark}) =~ /making place for a fresh zygote/g) }
sub warm { return $gw->pids(qr/pop3 session \(warm\)/) }

# Until it is so, or for a generous while.
sub await {
	my ($so, $do) = @_;
	my $until = time() + 60;
	while (time() < $until && !$so->()) { $do->() if $do; sleep 0.1 }
	return $so->();
}

sub all_go_on {
	my ($what, @c) = @_;
	is(scalar(grep { (eval { $_->cmd('STAT') } // $@) =~ /^\+OK 1 / } @c), scalar(@c), "$what: the sessions go on");
	my $new = eval { login() };
	ok($new, "$what: a new client is served") or diag($@);
	is($new->cmd('QUIT'), "+OK bye\r\n", 'to his end') if $new;
	return;
}

# processes of sessions crash, again and again; then a session is moved to a fresh zygote, again and again
gateway();
{
	my @by = map { login() } 1 .. 3;
	$gw->deposited(3);
	$gw->mark;
	await(sub { gave_up() || renewed() >= 12 }, sub { kill 'ABRT', warm() });
	ok(!gave_up(), 'crashes of processes of sessions count in no intensity') or diag(substr($gw->log, $gw->{mark}));
	cmp_ok(renewed(), '>=', 12, 'although their zygote is made anew each time');
	all_go_on('crashes', @by);

	$gw->mark;
	my ($one) = who();
	await(sub { gave_up() || renewed() >= 12 }, sub { $gw->bmr('session', 'move', '--zygote', $one->{session}) });
	ok(!gave_up(), 'a zygote that is made anew as planned counts in no intensity');
	cmp_ok(renewed(), '>=', 12, 'as often as it may be');
	my ($z) = grep { $_->{id} eq 'pop3/zygote' } @{ $gw->bmr('tree')->{tree} };
	is($z->{restarts}, 0, 'nor is it shown as a restart');
	all_go_on('moves', @by);

	# the zygote itself dies, until its supervisor gives up
	my %before = map { $_->{session} => 1 } who();
	$gw->mark;
	ok(await(\&gave_up, sub { kill 'KILL', $gw->pids(qr{^bmr: pop3/zygote}) }), 'the supervisor gives up');
	all_go_on('given up', @by);
	is(scalar(grep { $before{ $_->{session} } } who()), scalar(@by), 'the new listener knows them all');
	unlike(substr($gw->log, $gw->{mark}), qr/user=<by> .*shut/, 'and nobody was sent away');
	$gw->mark;
	my $new = login();
	kill 'TERM', $gw->{pid};
	like($_->rest, qr/^-ERR .*shutting down\r\n\z/, 'an ordered stop says good-bye') for @by, $new;
}
done();

# one of two listeners dies, until the supervisor gives up
gateway(listeners => 2);
{
	my @by = map { login() } 1 .. 24;
	my %at;
	$at{ $_->{listener} }++ for who();
	diag(join ', ', map { "$_: $at{$_}" } sort keys %at);
	$gw->deposited(24);
	$gw->mark;
	ok(await(\&gave_up, sub { kill 'KILL', $gw->pids(qr{^bmr: pop3/listener-2}) }), 'the supervisor of two listeners gives up');
	all_go_on('both listeners', @by);
}
done();

# listeners die until bmrd itself waits before it starts another, and is then told to stop
gateway();
{
	my @by = map { login() } 1 .. 3;
	$gw->deposited(3);
	$gw->mark;
	my $until = time() + 60;
	while (time() < $until && substr($gw->log, $gw->{mark}) !~ /backing off/) { kill 'KILL', $gw->pids(qr{^bmr: pop3/listener}); sleep 0.01 }
	ok($gw->wait_log(qr/backing off/, 1), 'bmrd waits');
	kill 'TERM', $gw->{pid};
	like(eval { $_->rest } // $@, qr/^-ERR .*shutting down\r\n\z/, 'sessions without a listener are told that all stops') for @by;
}
done();

# an address from which sessions crash has to wait, and keeps nobody else waiting
gateway(services => { pop3 => { backends => { map { $_ => $site->addr($_, 'pop3') } 'a', 'b' }, more => qq(limit {\n queue = 3\n }) } });
{
	for (1 .. 3) {
		my $c = login(from => '127.0.0.7');
		kill 'ABRT', $gw->pids(qr/pop3 session [0-9a-f]+ 127\.0\.0\.7 /);
		like(eval { $c->cmd('STAT') } // $@, qr/^\+OK 1 /, 'a session whose process has crashed goes on');
		kill 'ABRT', $gw->pids(qr/pop3 session [0-9a-f]+ 127\.0\.0\.7 /);
		like(eval { $c->cmd('STAT') } // $@, qr/^\+OK 1 /, 'also the second time, at another point');
		$c->cmd('QUIT');
	}
	my $slow = BMR::Client->new($gw->addr('pop3'), from => '127.0.0.7');
	my $other = BMR::Client->new($gw->addr('pop3'), from => '127.0.0.8');
	like($other->line, qr/^\+OK/, 'another client is greeted');
	ok(!IO::Select->new($slow->{sock})->can_read(0), 'before one from that address');
	like($slow->line, qr/^\+OK/, 'who is greeted too, later');
	# they wait for fifteen seconds from the last crash on, in which a busy machine may not get so far
	my (@slow, $last, $greeting, $pop3);
	for (1 .. 5) {
		$_->close for @slow;
		my $c = login(from => '127.0.0.7');
		$gw->mark;
		kill 'ABRT', $gw->pids(qr/pop3 session [0-9a-f]+ 127\.0\.0\.7 /);
		$gw->wait_log(qr/died of signal 6/);
		$c->cmd('QUIT');
		sleep 0.3;	# the listener hears of it from the zygote
		@slow = map { BMR::Client->new($gw->addr('pop3'), from => '127.0.0.7') } 1 .. 260;
		$last = eval { $slow[-1]->line } // $@;
		$other = BMR::Client->new($gw->addr('pop3'), from => '127.0.0.8');
		$greeting = eval { $other->line } // $@;
		($pop3) = grep { $_->{service} eq 'pop3' } @{ $gw->bmr('status')->{services} };
		last if $last =~ /^-ERR/ && $pop3->{waiting} > 200;
	}
	like($last, qr/^-ERR/, 'of too many the last is refused');
	like($greeting, qr/^\+OK/, 'another client finds room in the queue');
	cmp_ok($pop3->{waiting}, '>', 200, 'while they wait');
	cmp_ok($pop3->{warm}, '<', 20, 'and no processes for them');
	like(eval { $slow[0]->line } // $@, qr/^\+OK/, 'and are served in their turn');
}
done();

# content in files: as many sessions as there are descriptors for, four each
{
	$site->mailbox('big');
	gateway(files => 400, services => { smtp => { backends => { map { $_ => $site->addr($_, 'smtp') } 'a', 'b' }, more => qq(limit {\n spool-memory = "4k"\n }) } });
	my @c;
	while (@c < 120) {
		my $c = BMR::Client->new($gw->addr('smtp'));
		IO::Select->new($c->{sock})->can_read(2) or last;
		$c->reply;
		$c->smtp($_) for 'EHLO x', 'MAIL FROM:<x@site.test>', 'RCPT TO:<big@site.test>';
		like($c->smtp('DATA'), qr/^354/, 'DATA') or last;
		push @c, $c;
	}
	$_->send("Subject: x\r\n\r\n" . ("0123456789" x 7 . "\r\n") x 400) for @c;
	cmp_ok(scalar(@c), '>', 50, scalar(@c) . ' sessions are taken');
	$gw->deposited(scalar @c);
	is(scalar(grep { $_->send(".\r\n"); (eval { $_->reply } // $@) =~ /^250 / } @c), scalar(@c), 'and each has its message accepted');
	unlike($gw->log, qr/descriptors lost|sent nonsense|Too many open files|no file for content/, 'nobody was short of descriptors');
	done();
}

# descriptors are lost all the same: it is nobody's fault, and made good
gateway();
{
	my ($f) = $gw->pids(qr/^bmr: fdstore/);
	my $limit = sub { my ($p, $n) = @_; system('prlimit', '--pid', $p, "--nofile=$n:") };
	my $least = sub { my ($p) = @_; my $n = 0; $n++ while -l "/proc/$p/fd/$n"; return $n };
	$limit->($f, $least->($f) + 1);
	$gw->mark;
	my @by = map { login() } 1 .. 3;
	ok($gw->wait_log(qr/fdstore.*listener: descriptors lost/), 'the fdstore has no room for a session');
	$limit->($f, 1000);
	ok($gw->deposited(3), 'it gets it when it has');
	unlike($gw->log, qr/sent nonsense/, 'the listener was not blamed');

	kill 'STOP', $f;
	my ($old) = $gw->pids(qr{^bmr: pop3/listener});
	kill 'KILL', $old;
	my $l;
	ok(await(sub { ($l) = grep { $_ != $old } $gw->pids(qr{^bmr: pop3/listener}) }), 'another listener');
	sleep 1;
	$limit->($l, $least->($l));
	kill 'CONT', $f;
	ok($gw->wait_log(qr/listener.*fdstore: descriptors lost/), 'has no room for what it is given');
	$limit->($l, 1000);
	ok(await(sub { who() == 3 }), 'and gets it later');
	all_go_on('lost', @by);
	$_->cmd('QUIT') for @by;
	ok(await(sub { !grep { (readlink($_) // '') =~ /bmr-journal/ } glob("/proc/$f/fd/*") }), 'the fdstore keeps none of them in the end');
}
done();

# a session that waits for a process when the gateway is told to stop
gateway();
{
	my ($c, $busy) = (login(), login());
	my @b = map { my $h = $_; ($site->master_pid($h, 'dovecot'), $site->pids($h, 'pop3')) } 'a', 'b';
	kill 'STOP', @b;
	$busy->send("RETR 1\r\n");
	$gw->deposited(2);
	sleep 0.3;
	my ($z) = $gw->pids(qr{^bmr: pop3/zygote});
	kill 'STOP', $z;
	kill 'KILL', $gw->pids(qr/pop3 session /);
	ok(await(sub { 2 == grep { $_->{state} eq 'moving' } who() }), 'two sessions without a process');
	kill 'TERM', $gw->{pid};
	like($c->rest, qr/^-ERR .*shutting down\r\n\z/, 'one is told so');
	is($busy->rest, '', 'one that waits for an answer is cut');
	kill 'CONT', $z, @b;
}
done();

# the bmrd that takes over dies while it does; the next one comes later, or in the middle of it
for my $when ('later', 'meanwhile') {
	gateway();
	my @by = map { login() } 1 .. 3;
	$gw->deposited(3);
	my ($l) = $gw->pids(qr{^bmr: pop3/listener});
	my $die = sub { kill 'KILL', $gw->{pid}; waitpid $gw->{pid}, 0 };
	$gw->mark;
	kill 'STOP', $l;
	$die->();
	$gw->start;
	ok($gw->wait_log(qr/another bmrd takes over/), 'another bmrd begins to take over');
	$die->();
	my $queued;
	if ($when eq 'later') {
		kill 'CONT', $l;
		ok($gw->wait_log(qr/fdstore\S*: bmrd is gone .*before we were ready/), 'and dies before its fdstore has said that it is ready');
		ok($queued = BMR::Client->new($gw->addr('pop3')), 'somebody listens');
		$gw->start;
	} else {
		$gw->start;
		ok($gw->wait_log(qr/another bmrd takes over.*another bmrd takes over/s), 'a third one asks too');
		kill 'CONT', $l;
		$queued = BMR::Client->new($gw->addr('pop3'));
	}
	# the client that came meanwhile may have been the old listener's still
	ok($gw->wait_log(qr{pop3/listener\S*: [34] sessions taken over}), "$when: a third one has all sessions") or diag(substr($gw->log, $gw->{mark}));
	like($queued->line, qr/^\+OK/, 'who came meanwhile is served');
	all_go_on("third, $when", @by);
	done();
}

$site->stop;
done_testing;
