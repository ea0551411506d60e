#!/usr/bin/perl
# What is short for a moment (processes, descriptors, room for input) is made good when there is some again.
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
my $site = BMR::Site->new;
my $gw = BMR::Gateway->new(net => $site->{net}, listeners => 1, services => { pop3 => {
	backends => { map { $_ => $site->addr($_, 'pop3') } 'a', 'b' }, more => qq(timeout {\n park = "300ms"\n hold = "10s"\n }) } });
$gw->ready;
$site->deliver('short', "Subject: one\r\n\r\nbody\r\n");

sub pid { my ($id) = @_; return (grep { $_->{id} eq "pop3/$id" } @{ $gw->bmr('tree')->{tree} })[0]{pid} }
sub files { my ($p) = @_; return scalar(() = glob("/proc/$p/fd/*")) }
sub limit { my ($p, $n) = @_; return system('prlimit', '--pid', $p, "--nofile=$n:") == 0 }
sub warm { return $gw->pids(qr/pop3 session \(warm\)/) }
sub who { return @{ $gw->bmr('who')->{sessions} // [] } }

sub login {
	my $c = BMR::Client->new($gw->addr('pop3'));
	like($c->line, qr/^\+OK/, 'greeting');
	$c->cmd('USER short');
	like($c->cmd('PASS secret'), qr/^\+OK/, 'login');
	return $c;
}

sub served {
	my ($when) = @_;
	my $c = eval { local $BMR::Client::patience = 10; login() };
	ok($c, "a client is served $when") or diag("$@");
	$c->cmd('QUIT') if $c;
	return;
}

# ticks of the clock that a process has used
sub used {
	my ($p) = @_;
	open(my $f, '<', "/proc/$p/stat") or return;
	my @s = split ' ', <$f> =~ s/.*\)//r;
	return $s[11] + $s[12];
}

# how often it has gone to sleep
sub switches {
	my ($p) = @_;
	open(my $f, '<', "/proc/$p/status") or return;
	return (map { /^voluntary_ctxt_switches:\s+(\d+)/ ? $1 : () } <$f>)[0];
}

# the zygote cannot fork for a while
{
	my $z = pid('zygote');
	ok(limit($z, 3), 'the zygote has no descriptors');
	kill 'KILL', warm();
	ok($gw->wait_log(qr/socketpair/), 'and fails to make a process');
	sleep 1.5;
	ok(limit($z, 1024), 'it has some again');
	served('when the zygote can fork again');
}

# the listener has no descriptor left when processes are made for it
{
	my $l = pid('listener');
	limit($l, files($l) - 6);
	kill 'KILL', warm();
	sleep 1.5;
	limit($l, 20000);
	served('when the listener has descriptors again');
}

# a backend is not held for dead because we have no descriptors or ports
{
	my $c = BMR::Client->new($gw->addr('pop3'));
	like($c->line, qr/^\+OK/, 'greeting');
	my $l = pid('listener');
	$gw->mark;
	kill 'STOP', $l;
	my %open = map { $_ => 1 } map { m,(\d+)$, } glob("/proc/$l/fd/*");
	my $free = 0;
	$free++ while $open{$free};
	limit($l, $free);
	kill 'CONT', $l;
	$c->send("USER short\r\nPASS secret\r\n");
	sleep 1.2;
	limit($l, 20000);
	like($c->line, qr/^\+OK/, 'USER');
	like($c->line, qr/^\+OK/, 'PASS, when there are descriptors again');
	unlike(substr($gw->log, $gw->{mark}), qr/reports\)/, 'no backend is taken for dead') ;
	my %f = map { $_->{name} => $_->{last_error} } @{ $gw->bmr('backend', 'list')->{backends} };
	isnt($f{$_}, 'connection failed', "nor is it said of $_") for 'a', 'b';
	$c->cmd('QUIT');
}
$gw->wait_up("pop3/$_") for 'a', 'b';

# the processes that would go on with a parked session are dead, and the listener does not know yet
{
	my $c = login();
	my $until = time() + 20;
	sleep 0.05 while time() < $until && grep { $_->{state} ne 'parked' } who();
	is((who())[0]{state}, 'parked', 'parked');
	sleep 1.2;
	my $l = pid('listener');
	kill 'STOP', $l;
	$c->send("STAT\r\n");
	sleep 0.2;
	kill 'KILL', warm();
	sleep 0.3;
	kill 'CONT', $l;
	like(eval { $c->line } // $@, qr/^\+OK 1 /, 'a session goes on although the process that it was given is dead');
	$c->cmd('QUIT');
}

# more input than there is room for, while a command is pending
{
	my $c = BMR::Client->new($gw->addr('pop3'));
	$c->line;
	$c->cmd('USER short');
	my @b = map { my $h = $_; ($site->master_pid($h, 'dovecot'), map { $site->pids($h, $_) } 'auth', 'pop3-login') } 'a', 'b';
	kill 'STOP', @b;
	$c->send("PASS secret\r\n" . "NOOP\r\n" x 20000);
	sleep 0.7;
	my ($p) = $gw->pids(qr/session [0-9a-f]+ /);
	ok($p, 'a login that is not answered') or BAIL_OUT('no process');
	my $before = used($p);
	sleep 1.5;
	cmp_ok(used($p) - $before, '<', 30, 'a session whose input is full waits');
	kill 'CONT', @b;
	like($c->line, qr/^\+OK/, 'login');
	my $good = 0;
	for (1 .. 20000) { $good++ if $c->line =~ /^\+OK/ }
	is($good, 20000, 'everything is answered');
	close($c->{sock});
}

# the listener dies when it has heard of a session's new journal and not yet told the fdstore
SKIP: {
	skip 'no gdb', 2 if !grep { -x "$_/gdb" } split /:/, $ENV{PATH};
	my $c = login();
	my $until = time() + 20;
	sleep 0.05 while time() < $until && grep { $_->{state} ne 'parked' } who();
	sleep 0.5;
	my $l = pid('listener');
	open(my $k, '-|', "gdb -q -nx -p $l -batch -ex 'break on_journal' -ex 'echo held\\n' -ex continue -ex kill 2>&1") or die;
	while (my $line = <$k>) { last if $line =~ /^held/ }
	like($c->cmd('DELE 1'), qr/^\+OK/, 'DELE');
	like(join('', <$k>), qr/Breakpoint 1, on_journal/, 'the listener died there');
	close $k;
	$until = time() + 20;
	sleep 0.05 while time() < $until && !who();
	kill 'KILL', $gw->pids(qr/session [0-9a-f]+ /);
	like(eval { $c->cmd('STAT') } // $@, qr/^\+OK 0 /, 'what was done in that journal is known to the next process');
	$c->cmd('RSET');
	$c->cmd('QUIT');
}

# a login that waits because others have failed
{
	my $c = BMR::Client->new($gw->addr('pop3'));
	$c->line;
	for my $wrong (1 .. 2) {
		$c->cmd('USER short');
		like($c->cmd("PASS wrong$wrong"), qr/^-ERR/, 'a failure');
	}
	$c->cmd('QUIT');
	$c = BMR::Client->new($gw->addr('pop3'));
	$c->line;
	$c->cmd('USER short');
	$c->send("PASS secret\r\n");
	sleep 0.3;
	my ($p) = $gw->pids(qr/session [0-9a-f]+ /);
	my $before = switches($p);
	sleep 1;
	cmp_ok(switches($p) - $before, '<', 100, 'it sleeps meanwhile');
	like($c->line, qr/^\+OK/, 'and goes on');
	$c->cmd('QUIT');
}

done_testing;
