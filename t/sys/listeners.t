#!/usr/bin/perl
# More than one listener for each protocol: limits and penalties hold over all of them together, the operator sees one
# service, each can die, and another bmrd may have another number. A listener that has no descriptors left takes no more.
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
my $site = BMR::Site->new(smtp => 1, imap => 1);
my %services = map { my $p = $_; $p => { backends => { map { $_ => $site->addr($_, $p) } 'a', 'b' },
	more => qq(limit {\n sessions = "24"\n per-address = "16"\n }\n timeout {\n queue = "2s"\n }\n) } } 'smtp', 'pop3', 'imap4';
my $gw = BMR::Gateway->new(net => $site->{net}, listeners => 3, services => \%services);
$gw->ready;

sub pop3 {
	my ($from) = @_;
	my $c = BMR::Client->new($gw->addr('pop3'), $from ? (from => $from) : ());
	$c->{greeting} = $c->line;
	return $c;
}

sub who { return @{ $gw->bmr('who')->{sessions} // [] } }
sub listeners { my %n; $n{ $_->{listener} }++ for who(); return \%n }
sub of { my ($service) = @_; return grep { $_->{service} eq $service } @{ $gw->bmr('status')->{services} } }
sub gone { my $until = time() + 20; sleep 0.05 while time() < $until && who() > $_[0]; return }
sub login { my ($c, $u) = @_; $c->cmd("USER $u"); return $c->cmd('PASS secret') }

is(scalar $gw->pids(qr{^bmr: pop3/listener}), 3, 'three listeners');
is(scalar $gw->pids(qr{^bmr: fdstore}), 3, 'and as many fdstores');

# They take turns, by how many sessions each has: after eight it is the next one's, within two seconds.
my %had;
for my $try (1 .. 5) {
	my @some;
	for my $n (1 .. 23) {
		push @some, pop3("$site->{net}." . (200 + $n % 2));
		sleep 2.5 if $n % 8 == 0;
	}
	%had = (%had, %{ listeners() });
	$_->cmd('QUIT') for @some;
	gone(0);
	last if keys %had == 3;
}
is_deeply([sort keys %had], ['pop3/listener', 'pop3/listener-2', 'pop3/listener-3'], 'clients come to all');

my $net = $site->{net};
my @one = map { pop3("$net.200") } 1 .. 16;
is(scalar(grep { $_->{greeting} =~ /^\+OK/ } @one), 16, 'as many of one address as may be');
like(pop3("$net.200")->{greeting}, qr/^-ERR/, 'one more is refused') for 1 .. 6;
my @two = map { pop3("$net.201") } 1 .. 8;
is(scalar(grep { $_->{greeting} =~ /^\+OK/ } @two), 8, 'as many of a service as may be');
like(pop3("$net.202")->{greeting}, qr/^-ERR/, 'one more is refused') for 1 .. 6;
my @rows = of('pop3');
is(scalar @rows, 1, 'status: one row of a service');
is($rows[0]{sessions}, 24, 'with all its sessions');
my %id = map { $_->{session} => 1 } who();
is(scalar keys %id, 24, 'each has an id of its own');

# A successor counts what its predecessor had.
$gw->deposited(24);
my @old = $gw->pids(qr{^bmr: pop3/listener});
kill 'KILL', @old;
my $until = time() + 20;
sleep 0.05 while time() < $until && who() < 24;
is(scalar who(), 24, 'all listeners died: the sessions are there');
like(pop3("$net.202")->{greeting}, qr/^-ERR/, 'and one more is refused') for 1 .. 6;
my @before = map { $_->cmd('NOOP') } @one, @two;
is(scalar(grep { /^-ERR/ } @before), 24, 'they go on');
my ($balancer) = $gw->pids(qr{^bmr: balancer});
kill 'KILL', $balancer;
$until = time() + 20;
sleep 0.05 while time() < $until && (!$gw->pids(qr{^bmr: balancer}) || $gw->pids(qr{^bmr: balancer}) eq $balancer);
ok($gw->wait_up('pop3/a'), 'another balancer');
like(pop3("$net.202")->{greeting}, qr/^-ERR/, 'the limits still hold') for 1 .. 6;

# bmr kick and move find the session wherever it is.
my ($some) = who();
is_deeply([$gw->bmr('kick', $some->{session})->{kicked} ? 1 : 0, $gw->{code}], [1, 0], 'a session is found');
gone(23);
$_->close for @one, @two;
gone(0);

# Failed logins are known to all, of every protocol: the next one from that address waits.
sub imap4 { my $c = BMR::Client->new($gw->addr('imap4'), from => $_[0]); $c->line; $c->send("a LOGIN $_[1] secret\r\n"); return $c }
for my $guess (1 .. 2) {
	local $BMR::Client::patience = 60;
	my $bad = pop3("$net.203");
	$bad->cmd("USER nobody$guess");
	like($bad->cmd("PASS wrong$guess"), qr/^-ERR/, 'a wrong password');
	$bad->close;
}
sleep 0.5;
my $waits = imap4("$net.203", 'l1');
ok($waits->silent(1), 'another protocol has it wait');
like(imap4("$net.205", 'l2')->line, qr/^a OK/, 'but not one from elsewhere');
like($waits->line, qr/^a OK/, 'and lets it in then');
$waits->close;
gone(0);

# A drain reaches the sessions of all listeners.
my @user = map { "l$_" } 1 .. 12;
$site->deliver($_, "Subject: $_\r\n\r\nx\r\n") for @user;
my @c = map { my $c = pop3("$net.204"); login($c, $_); $c } @user;
$gw->bmr('backend', 'drain', 'pop3/a');
$until = time() + 20;
sleep 0.1 while time() < $until && grep { $_->{backend} eq 'a' } who();
is(scalar(grep { $_->{backend} eq 'a' } who()), 0, 'a drain empties the backend');
like($_->cmd('STAT'), qr/^\+OK 1 /, 'its sessions go on') for @c;
$gw->bmr('backend', 'ready', 'pop3/a');

# Another bmrd, with fewer and then with more.
for my $n (1, 2) {
	$gw->deposited(12);
	$gw->{o}{listeners} = $n;
	$gw->write_conf(%services);
	kill 'KILL', $gw->{pid};
	waitpid($gw->{pid}, 0);
	$gw->mark;
	$gw->start;
	ok($gw->wait_log(qr/started smtp pid/), "a bmrd with $n");	# not the admin of before, which still answers
	my $have = 0;
	$until = time() + 40;
	sleep 0.1 while time() < $until && ($have = who()) < 12;
	is($have, 12, 'takes all sessions over');
	like($_->cmd('STAT'), qr/^\+OK 1 /, 'it goes on') for @c;
}
is($_->cmd('QUIT'), "+OK bye\r\n", 'QUIT') for @c;
$gw->stop;
is_deeply($gw->{left}, [], 'no process is left');

# Few descriptors: as many clients as there is room for, the others wait, and are told so when they waited too long.
my $few = BMR::Gateway->new(net => $site->{net}, listeners => 1, files => 200, services => { pop3 => { backends => $services{pop3}{backends}, port => 10210,
	more => qq(limit {\n sessions = "1000"\n }\n timeout {\n queue = "3s"\n }\n) } });
$few->ready;
my @all = map { my $c = BMR::Client->new($few->addr('pop3')); $c } 1 .. 80;
$until = time() + 20;
sleep 0.1 while time() < $until && $few->log !~ /no more are taken/;
my $have = @{ $few->bmr('who')->{sessions} };
cmp_ok($have, '>', 20, "room for $have");
cmp_ok($have, '<', 80, 'and not for all');
my %said;
$said{ (eval { $_->line } // '') =~ /^(\+OK|-ERR)/ ? $1 : 'nothing' }++ for @all;
is_deeply(\%said, { '+OK' => $have, '-ERR' => 80 - $have }, 'the others are told after a while');
my ($mine) = grep { $_->{seen} =~ /^\+OK/ } @all;
$mine->cmd('QUIT');
$until = time() + 20;
sleep 0.05 while time() < $until && @{ $few->bmr('who')->{sessions} } == $have;
my $late = BMR::Client->new($few->addr('pop3'));
like($late->line, qr/^\+OK/, 'one leaves, another comes');
unlike($few->log, qr/Too many open files|descriptors lost/, 'it never ran out');
$few->stop;
is_deeply($few->{left}, [], 'no process is left');
done_testing();
