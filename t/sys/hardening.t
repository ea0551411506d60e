#!/usr/bin/perl
# What a session's process may not do, and where credentials are not found.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
plan skip_all => 'a build with sanitizers has no filter of system calls' if $BMR::Gateway::build =~ m{/san$};
my $callas = "$BMR::Gateway::build/t/lib/callas";
plan skip_all => 'callas is not built: make check does' if !-x $callas;
plan skip_all => 'the numbers of system calls are those of x86-64' if `uname -m` !~ /x86_64/;
my $site = BMR::Site->new;
my ($user) = grep { defined getpwnam $_ } 'nobody', 'mail';
my $gw = BMR::Gateway->new(net => $site->{net}, top => qq(user = "$user"\n), services => { pop3 => {
	backends => { map { $_ => $site->addr($_, 'pop3') } 'a', 'b' } } });
$gw->ready;
$site->deliver('hard', "Subject: x\r\n\r\nbody\r\n");

sub slurp { my ($f) = @_; open(my $h, '<', $f) or return ''; local $/; return <$h> // '' }

sub login {
	my ($password) = @_;
	my $c = BMR::Client->new($gw->addr('pop3'));
	$c->line;
	$c->cmd('USER hard');
	like($c->cmd('PASS ' . ($password // 'secret')), $password ? qr/^-ERR/ : qr/^\+OK/, 'PASS');
	return $c;
}

sub process {
	my @p = $gw->pids(qr/session [0-9a-f]+ /);
	is(scalar @p, 1, 'one process of a session');
	return $p[0];
}

my $c = login();
my $p = process();
my $status = slurp("/proc/$p/status");
my $uid = getpwnam $user;
like($status, qr/^Uid:\t$uid\t$uid\t$uid\t$uid$/m, "it runs as $user");
like($status, qr/^Cap$_:\t0+$/m, "no capability: Cap$_") for 'Prm', 'Eff', 'Inh', 'Amb';
like($status, qr/^NoNewPrivs:\t1$/m, 'no new privileges');
like($status, qr/^Seccomp:\t2$/m, 'a filter of system calls');
my $root = readlink("/proc/$p/root");
opendir(my $d, "/proc/$p/root/") or die;
is_deeply([grep { !/^\.\.?$/ } readdir $d], [], "an empty root, $root");
isnt($root, '/', 'of its own');
like(slurp("/proc/$p/limits"), qr/^Max core file size\s+0\s+0\s/m, 'no core dump');
my @journal = grep { (readlink($_) // '') =~ /bmr-journal/ } glob("/proc/$p/fd/*");
is(scalar @journal, 1, 'one journal');
like(slurp($journal[0]), qr/secret/, 'in which the credentials lie');
my ($map) = grep { /bmr-journal/ } split /^(?=[0-9a-f]+-[0-9a-f]+ )/m, slurp("/proc/$p/smaps");
like($map, qr/^VmFlags:.* dd\b/m, 'in no core dump');
my $others = join "\n", map { readlink($_) // '' } glob("/proc/$p/fd/*");
is(() = $others =~ /bmr-journal/g, 1, "no other session's journal is in it");

# Another process of the same user, such as a session that was taken over, comes to no other's memory, descriptors or journal.
sub slurp_as {
	my ($uid, $gid, @pids) = @_;
	my $pid = open(my $out, '-|') // die;
	if ($pid == 0) {
		if ($uid) { POSIX::setgid($gid) && POSIX::setuid($uid) or POSIX::_exit(1) }
		$| = 1;
		for my $q (@pids) {
			opendir(my $d, "/proc/$q->{pid}/fd") and print "$q->{what}: descriptors\n";
			open(my $m, '<', "/proc/$q->{pid}/mem") and print "$q->{what}: mem\n";
			open($m, '<', "/proc/$q->{pid}/maps") and print "$q->{what}: maps\n";
			open($m, '<', "/proc/$q->{pid}/environ") and print "$q->{what}: environ\n";
			my $space = ' ' x 16;
			my ($local, $remote) = (pack('PQ', $space, 16), pack('QQ', $q->{at}, 16));
			print "$q->{what}: process_vm_readv\n" if syscall(310, $q->{pid}, $local, 1, $remote, 1, 0) >= 0;
			print "$q->{what}: ptrace\n" if syscall(101, 0x4206, $q->{pid}, 0, 0) >= 0;	# SEIZE; it is let go when we end
		}
		POSIX::_exit(0);
	}
	my @done = <$out>;
	close $out;
	return join '', @done;
}

sub process_at {
	my ($what, $q) = @_;
	my ($at) = slurp("/proc/$q/maps") =~ /^([0-9a-f]+)-[0-9a-f]+ rw.* \[stack\]$/m;
	no warnings 'portable';
	return { what => $what, pid => 0 + $q, at => hex $at };
}

sub all_kinds {
	my ($g) = @_;
	return map { my ($q) = $g->pids(qr/^bmr: \Q$_\E/); process_at($_, $q) } 'pop3/listener', 'pop3/zygote', 'fdstore', 'balancer', 'admin';
}
like(slurp_as(0, 0, process_at('session', $p)), qr/descriptors\n.* mem\n.* maps\n.* environ\n.*process_vm_readv\n.*ptrace\n\z/, 'root can look into a session');
is(slurp_as((getpwnam $user)[2, 3], process_at('session', $p), all_kinds($gw)), '', "another process of $user can look into none");
{
	my $unprivileged = BMR::Gateway->new(net => $site->{net}, as => $user, services => { pop3 => { port => 10111,
		backends => { map { $_ => $site->addr($_, 'pop3') } 'a', 'b' } } });
	$unprivileged->ready;
	my $x = BMR::Client->new($unprivileged->addr('pop3'));
	like($x->line, qr/^\+OK/, 'a gateway that was not started by root');
	my ($q) = $unprivileged->pids(qr/session [0-9a-f]+ /);
	like(slurp("/proc/$q/status"), qr/^Uid:\t$uid\t$uid\t$uid\t$uid$/m, "a session of it is $user\'s");
	is(slurp_as((getpwnam $user)[2, 3], process_at('session', $q), all_kinds($unprivileged)), '', 'cannot be looked into either');
	my ($listener) = grep { $_->{id} =~ /listener/ } @{ $unprivileged->bmr('tree')->{tree} };
	cmp_ok($listener->{rss_kb} // 0, '>', 100, 'its memory is told all the same');
	$unprivileged->stop;
	is_deeply($unprivileged->{left}, [], 'no process is left');
}

# What it may do it survives, so that the others tell something; getpid.
my $spared = process();
is(`$callas $spared 39`, "returned $spared\n", 'a call that is allowed');
like($c->cmd('NOOP'), qr/^\+OK/, 'the session goes on');
is(process(), $spared, 'in the same process');

# A process that does what it never does is killed; the session goes on in another. Signals would have reached the balancer.
my ($balancer) = $gw->pids(qr/^bmr: balancer/);
for my $call ([openat => 257], [socket => 41], [execve => 59], [connect => 42], [ioctl => 16], [ptrace => 101, 0x4206, $balancer],
	[process_vm_readv => 310, $balancer], [process_vm_writev => 311, $balancer], [prctl => 157, 4, 1], [kill => 62, $balancer, 9],
	[tkill => 200, $balancer, 9], [tgkill => 234, $balancer, $balancer, 9], [rt_sigqueueinfo => 129, $balancer, 9],
	[rt_tgsigqueueinfo => 297, $balancer, $balancer, 9], [pidfd_open => 434, $balancer], [pidfd_send_signal => 424, 3, 9],
	['fcntl F_SETOWN' => 72, 3, 8, $balancer], ['fcntl F_SETSIG' => 72, 3, 10, 9]) {
	my ($name, @call) = @$call;
	my $victim = process();
	is(`$callas $victim @call`, "signal 31\n", "$name is its end");
	like($c->cmd('STAT'), qr/^\+OK 1 /, 'the session goes on');
}

like($gw->log, qr/process \d+ died of signal 31/, 'the log says so');
is(($gw->pids(qr/^bmr: balancer/))[0], $balancer, 'the balancer has heard of none');

# Credentials that are no longer needed, and those of a session that is over, are gone.
my $e = login('not-this-one');
my ($other) = grep { my $q = $_; grep { (readlink($_) // '') =~ /bmr-journal/ && slurp($_) =~ /hard/ } glob("/proc/$q/fd/*") }
    $gw->pids(qr/session [0-9a-f]+ /);
ok($other, 'a session whose login was refused');
for my $q ($gw->pids(qr/session [0-9a-f]+ /)) {
	my ($j) = grep { (readlink($_) // '') =~ /bmr-journal/ } glob("/proc/$q/fd/*");
	my $log = substr(slurp($j), 3 * 4096 + 2 * 131072);	# behind cores, input and output
	unlike($log, qr/not-this-one/, 'a password that was refused is not kept');
}
is($_->cmd('QUIT'), "+OK bye\r\n", 'QUIT') for $c, $e;
my $until = time() + 20;
sleep 0.1 while time() < $until && $gw->pids(qr/session [0-9a-f]+ /);
my @left;
for my $q (BMR::Proc::tree($gw->{pid})) {
	push @left, "$q $_" for grep { (readlink($_) // '') =~ /bmr-journal/ } glob("/proc/$q/fd/*");
}
is_deeply(\@left, [], 'no journal outlives its session');
unlike($gw->log, qr/secret|not-this-one/, 'no password in the log');
$gw->stop;
is_deeply($gw->{left}, [], 'no process is left');
done_testing();
