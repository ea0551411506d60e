#!/usr/bin/perl
# Parked sessions: BMR_N IMAP clients in IDLE (10000), in clear and then with TLS, what each costs, how soon all are woken by one delivery each, and a
# kill of every worker, one after the other, meanwhile. BMR_SILENCE seconds of silence (5) with the default timers of IDLE.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use IPC::Open2;
use Time::HiRes qw(sleep time);
use BMR::Gateway;
use BMR::Tls;

my $n = $ENV{BMR_N} // 10000;
my $net = sprintf '127.%d.%d', 200 + $$ % 50, ($$ >> 8) % 250;
my $idle = "$BMR::Gateway::build/t/bench/idle";

sub start { my $pid = open2(my $out, my $in, $idle, @_); return { pid => $pid, out => $out, in => $in } }
sub order { my ($p, $cmd) = @_; syswrite($p->{in}, "$cmd\n"); return }
my $gw;
sub hear {
	my ($p) = @_;
	my $l = readline($p->{out}) // die "it ended\n" . ($gw ? substr($gw->log, -3000) : '');
	chomp $l;
	return $l;
}

my $server = start('server', "$net.9", 10143);
hear($server);
my $ca = BMR::Tls->new;
$ca->cert('gw', cn => 'gw.test', san => 'DNS:gw.test');

sub run {
	my ($how) = @_;
	print "--- $how\n";
	$gw = BMR::Gateway->new(net => $net, listeners => $ENV{BMR_LISTENERS} // 'auto', $how eq 'tls' ? (tls => { mode => 'implicit', ca => $ca->file('ca.pem') }, top => $ca->block('gw')) : (),
			services => { imap4 => { backends => { a => "$net.9:10143" },
		more => qq(limit {\n sessions = "20000"\n }\n timeout {\n park = "2s"\n idle = "2h"\n @{[ $ENV{BMR_SILENCE} ? '' : qq(keep-client = "1h"\n keep-backend = "1h"\n) ]} }) } });
	$gw->ready;
	my ($pss0, $j0) = kb();
	my $t = time();
	my $client = start($how, "$net.1", 10143, $n);
	print hear($client), sprintf(" after %.1f s\n", time() - $t);
	$t = time();
	sleep 0.2 while sessions() > 0 && time() < $t + 120;
	printf "all parked after %.1f s more, %d processes of sessions left\n", time() - $t, sessions();
	my ($pss, $j) = kb();
	my $object = slab('sock_inode_cache') + slab('filp') + slab('dentry');
	my $watched = slab('eventpoll_epi') + slab('eventpoll_pwq');
	my $socket = slab('TCP') + $object + $watched;
	my $pair = $how eq 'tls' ? 2 * (slab('UNIX') + $object) + $watched * 2 : 0;
	my $memfd = slab('shmem_inode_cache') + slab('filp') + slab('dentry');
	printf "per session: processes %.2f KiB, journal %.2f KiB, kernel objects of the sockets and the journal %.2f KiB\n",
	    ($pss - $pss0) / $n, ($j - $j0) / $n, (2 * $socket + $pair + $memfd) / 1024;
	printf "in all %.2f KiB\n", ($pss - $pss0 + $j - $j0) / $n + (2 * $socket + $pair + $memfd) / 1024;
	my $silence = $ENV{BMR_SILENCE} // 5;
	my ($c0, $w0) = (cpu(), wakeups());
	sleep $silence;
	printf "in %d s of silence: CPU %d ms, %d wake-ups of all processes, sessions %d\n", $silence, (cpu() - $c0) * 10, wakeups() - $w0, sessions();

	deliver($client);
	for my $kind ('imap4/listener', 'imap4/zygote', 'fdstore', 'balancer', 'admin', 'imap4/listener') {
		kill 'KILL', $gw->pids(qr/^bmr: \Q$kind\E/);
		sleep 4;
		order($client, 'count');
		printf "%s killed: %s\n", $kind, hear($client);
	}
	deliver($client);
	order($client, 'done');
	$t = time();
	sleep 0.5 while @{ $gw->bmr('who')->{sessions} // ['?'] } && time() < $t + 120;
	printf "all logged out after %.1f s\n", time() - $t;
	kill 'KILL', $client->{pid};
	$gw->stop;
	printf "%d processes left\n", scalar @{ $gw->{left} };
	return;
}

sub slurp { my ($f) = @_; open(my $h, '<', $f) or return ''; local $/; return <$h> // '' }
sub kb {	# of all processes, and of the journals that they keep
	my ($pss, %seen, $journals) = (0);
	for my $p (BMR::Gateway::tree($gw->{pid})) {
		$pss += $1 if slurp("/proc/$p/smaps_rollup") =~ /^Pss:\s+(\d+)/m;
		for my $f (glob "/proc/$p/fd/*") {
			next if (readlink($f) // '') !~ /bmr-journal/;
			my @s = stat $f or next;
			$journals += $s[12] / 2 if !$seen{ $s[1] }++;
		}
	}
	return ($pss, $journals // 0);
}
sub cpu { my $t = 0; for my $p (BMR::Gateway::tree($gw->{pid})) { my @s = split ' ', slurp("/proc/$p/stat") =~ s/.*\) //r; $t += $s[11] + $s[12] if @s } return $t }
sub wakeups { my $t = 0; for my $p (BMR::Gateway::tree($gw->{pid})) { my $s = slurp("/proc/$p/status"); $t += $1 while $s =~ /ctxt_switches:\s+(\d+)/g } return $t }
sub sessions { return scalar $gw->pids(qr/session [0-9a-f]+ /) }
sub slab {
	my ($what) = @_;
	return slurp('/proc/slabinfo') =~ /^\Q$what\E\s+\d+\s+\d+\s+(\d+)/m ? $1 : 0;
}

sub deliver {
	my ($client) = @_;
	order($client, 'mark');		# sets its clock
	order($server, 'mail');
	print hear($client), " ms after the delivery\n";
	my $s = time();
	sleep 0.2 while sessions() > 0 && time() < $s + 120;
	return;
}
run($_) for split ' ', $ENV{BMR_HOW} // 'client tls';
kill 'KILL', $server->{pid};
