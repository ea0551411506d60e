#!/usr/bin/perl
# Dovecot's imaptest, where there is one (in PATH, or IMAPTEST=file; its scripted tests beside it, or IMAPTEST_TESTS=directory):
# what it finds wrong through the gateway is what it finds straight at the same Dovecots, whether or not hosts die meanwhile.
# BMR_SOAK: longer, and more ways to run it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Basename qw(dirname);
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my ($imaptest) = grep { -f && -x } $ENV{IMAPTEST} // (), map { "$_/imaptest" } split /:/, $ENV{PATH};
plan skip_all => 'no imaptest (IMAPTEST=file names one)' if !$imaptest;
my ($scripts) = grep { -d } $ENV{IMAPTEST_TESTS} // (), dirname($imaptest) . '/tests';
my $seconds = $ENV{BMR_SOAK} ? 90 : 20;
my $seed = $ENV{BMR_SEED} // $$;
diag("seed $seed");

my $site = BMR::Site->new;
my $gw = BMR::Gateway->new(net => $site->{net}, services => { imap4 => { backends => { map { $_ => $site->addr($_, 'imap4') } 'a', 'b' } } });
$gw->ready;
my %at = (straight => $site->ip('a'), gateway => $gw->{ip});
my $mbox = "$site->{dir}/stress.mbox";
srand $seed;
BMR::Site::put($mbox, join '', map { my $n = $_;
	"From x\@test Tue Nov 24 10:00:00 2026\nFrom: from$n\@test\nTo: to\@test\nDate: Tue, 24 Nov 2026 10:00:00 +0000\nSubject: number $n\n" .
	"Message-ID: <$n.$seed\@test>\n\n" . join('', map { "line $_ of number $n\n" } 1 .. (1, 5, 40, 400)[rand 4]) . "\n" } 1 .. 300);

# Runs it to its end, and $meanwhile until then; what it said.
sub run {
	my ($where, $meanwhile, @args) = @_;
	my $pid = fork() // die;
	if ($pid == 0) {
		$site->{owner} = $gw->{owner} = -1;
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', "$site->{dir}/said");
		open(STDERR, '>&', \*STDOUT);
		exec($imaptest, "host=$at{$where}", 'port=10143', 'pass=secret', @args) or POSIX::_exit(127);
	}
	my $until = time() + $seconds + 120;
	while (waitpid($pid, 1) == 0) {
		if (time() > $until) {
			kill 'KILL', $pid;
			waitpid($pid, 0);
			$? = -1;
			last;
		}
		$meanwhile ? $meanwhile->() : sleep 0.1;
	}
	my $status = $?;
	open(my $f, '<', "$site->{dir}/said") or die;
	local $/;
	return ($status, <$f> // '');
}

# Kinds of errors, without the names of clients, all numbers, and the text that is a server's own.
sub errors {
	my ($said) = @_;
	my %kind;
	for my $l ($said =~ /^((?:Error|Warning|Fatal|Panic): .*)/mg) {
		(my $k = $l) =~ s/^(\w+: )\S+\[\d+\]: /$1/;
		$k =~ s/(BAD reply for command|replied (?:BAD|NO)|reply for command): .*/$1/;
		$k =~ s/\d+/N/g;
		push @{ $kind{$k} }, $l;
	}
	return \%kind;
}

SKIP: {
	skip 'no scripted tests beside it (IMAPTEST_TESTS=directory names them)', 3 if !$scripts;
	my %failed;
	for my $where ('straight', 'gateway') {
		my ($status, $said) = run($where, undef, "test=$scripts", "user=scripts-$where", "mbox=$scripts/default.mbox");
		like($said, qr/^\d+ test groups: \d+ failed/m, "$where: the scripted tests run to their end") or diag($said);
		push @{ $failed{$where}{$1} }, $2 while $said =~ /^\*\*\* Test (\S+) command (.*?)(?=^\*\*\*|\n\n|\z)/msg;
	}
	my @only = grep { !$failed{straight}{$_} } sort keys %{ $failed{gateway} // {} };
	is("@only", '', 'nothing fails through the gateway alone') or diag(map { "$_: " . substr($_, 0, 600) } map { @{ $failed{gateway}{$_} } } @only);
}

my $deaths = 0;
my @next = ('a', 'b');
sub death {
	sleep 1 + rand 2;
	push @next, my $h = shift @next;
	$site->kill_host($h);
	$deaths++;
	sleep rand 1;
	$site->start_host($h);
	$gw->wait_up("imap4/$h");
	return;
}

sub stress {
	my ($name, @args) = @_;
	my %said;
	push @args, "mbox=$mbox", "seed=$seed";
	(my $user = lc $name) =~ s/\W+/-/g;
	@args = map { s/USER/$user/r } @args;
	my ($status, $straight) = run('straight', undef, "secs=" . int($seconds / 2), @args);
	$deaths = 0;
	my $mark = length $gw->log;
	($status, my $said) = run('gateway', \&death, "secs=$seconds", @args);
	my ($known, $kinds) = (errors($straight), errors($said));
	my @new = grep { !$known->{$_} } sort keys %$kinds;
	is_deeply(\@new, [], "$name: no error but those of a server that does not die") or diag(map { "$_\n" } map { my @l = @{ $kinds->{$_} }; @l[0 .. ($#l < 4 ? $#l : 4)] } @new);
	is($status, 0, "$name: imaptest ends well") or diag(substr($said, -1000)) if !keys %$known;
	my $moved = () = substr($gw->log, $mark) =~ /session \S+: backend [ab]: connection/g;
	diag("$name: $deaths deaths of hosts, $moved of sessions' backends");
	return;
}
stress('several users', 'user=USER%d', 'users=5', 'clients=10');
stress('one mailbox', 'user=USER', 'clients=10');
my @all = split ' ', 'search=30 sort=30 thread=20 copy=33,5 noop=30 check=20 uidfetch=30 auth=30 append=100,20';
stress('every command', 'user=USER%d', 'users=3', 'clients=9', @all);
if ($ENV{BMR_SOAK}) {
	stress('one mailbox, every command', 'user=USER', 'clients=10', @all);
	stress('a large mailbox, QRESYNC', 'user=USER', 'clients=10', 'msgs=400', 'qresync', @all);
	stress('one command after the other', 'user=USER', 'clients=10', 'no_pipelining');
	stress('own messages', 'user=USER', 'clients=10', 'own_msgs');
	stress('checkpoints', 'user=USER', 'clients=5', 'checkpoint=3');
	stress('QRESYNC', 'user=USER%d', 'users=3', 'clients=10', 'qresync');
	stress('many clients', 'user=USER', 'clients=40');
	stress('large messages', 'user=USER%d', 'users=3', 'clients=9', 'random_msg_size=200000');
}
unlike($gw->log, qr/signal \d+|exited with [1-9]/, 'no process of the gateway died');
$gw->stop;
is_deeply($gw->{left}, [], 'no process is left');
done_testing();
