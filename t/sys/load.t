#!/usr/bin/perl
# Load: many sessions that stand at once, while new ones come at a rate, through the gateway to a backend that costs nothing
# (t/bench). None has an error, and afterwards the gateway has the processes, descriptors and memory that it had after the load before.
#
# BMR_SOAK: 2,000 at once, and 500 a second for a minute, for each protocol; else a tenth of it for some seconds.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Gateway;
use BMR::Proc;
use BMR::Site;

my ($standing, $rate, $seconds) = $ENV{BMR_SOAK} ? (2000, 500, 60) : (200, 50, 3);
my $bench = "$BMR::Gateway::build/t/bench";
my $sanitized = $BMR::Gateway::build =~ /san/;
my @protocols = qw(smtp pop3 imap4);
my $each = 3;		# descriptors that the listener holds for a session
my $files = $each * ($standing + $rate) + 200;
chomp(my $limit = `sh -c 'ulimit -Hn'`);
plan skip_all => "needs $files descriptors in a process, and the limit is $limit (ulimit -Hn)" if $limit ne 'unlimited' && $limit < $files;
plan skip_all => "$bench/load is not built" if !-x "$bench/load";

my $net = BMR::Site::network();

sub start { my ($out, @cmd) = @_; return BMR::Proc::start($out, 'sh', '-c', "ulimit -n $files; exec \"\$@\"", 'sh', @cmd) }

sub slurp {
	my ($file) = @_;
	open(my $f, '<', $file) or return '';
	local $/;
	return <$f> // '';
}

local $ENV{ASAN_OPTIONS} = 'quarantine_size_mb=0:thread_local_quarantine_size_kb=0' if $sanitized;	# what is freed is to be free
my $gw = BMR::Gateway->new(net => $net, services => { map { $_ => { health => 'interval = "10s"', backends => { a => "$net.9:" . { smtp => 10025, pop3 => 10110, imap4 => 10143 }->{$_} } } } @protocols });
start("$gw->{dir}/null-$_", "$bench/null", '-p', $_, '-l', $gw->{services}{$_}{backends}{a}) for @protocols;
$gw->ready(60);

# Processes of the gateway, descriptors and KiB that they have.
sub has {
	my ($pss, $fds, @p) = (0, 0, BMR::Proc::tree($gw->{pid}));
	for my $p (@p) {
		$fds += () = glob("/proc/$p/fd/*");
		$pss += $1 if slurp("/proc/$p/smaps_rollup") =~ /^Pss:\s+(\d+) kB/m;
	}
	return { processes => scalar @p, descriptors => $fds, kib => $pss };
}

# When there is no session more, and as many processes and descriptors as a moment before.
sub calm {
	my ($until, $h, $was) = (time() + 120, has());
	do {
		$was = $h;
		sleep 0.5;
		$h = has();
	} while (time() < $until && (@{ $gw->bmr('who')->{sessions} // [1] } || grep { $h->{$_} != $was->{$_} } 'processes', 'descriptors'));
	return $h;
}

# { sessions, errors, seconds } of a load, when it has ended
sub result {
	my ($pid, $out) = @_;
	BMR::Proc::ended($pid);
	return slurp($out) =~ /^sessions (\d+) errors (\d+) seconds (\S+)/m ? { sessions => $1, errors => $2, seconds => $3 } : { sessions => 0, errors => 'it died', seconds => 0 };
}

# So many stand, so many come meanwhile.
sub round {
	my ($proto, $count, $name) = @_;
	my $out = "$gw->{dir}/load-$proto-$name";
	my @load = ("$bench/load", '-p', $proto, '-t', $gw->addr($proto));
	my $stand = start("$out-stand", @load, '-c', $standing, '-H', 3600);
	my $until = time() + 120;
	sleep 0.05 while time() < $until && slurp("$out-stand") !~ /^standing$/m;
	my $who = @{ $gw->bmr('who')->{sessions} // [] };
	my $come = result(start("$out-come", @load, '-c', $standing, '-r', $rate, '-n', $count), "$out-come");
	kill 'TERM', $stand;
	my $stood = result($stand, "$out-stand");
	is($who, $standing, "$proto, $name: $standing sessions stand at once");
	is("$stood->{sessions} $stood->{errors}", "$standing 0", "$proto, $name: each to its end, no error") or diag(slurp("$out-stand.err"));
	is("$come->{sessions} $come->{errors}", "$count 0", "$proto, $name: $count come at $rate a second meanwhile, no error") or diag(slurp("$out-come.err"));
	return $come;
}

# The first fills what is kept for the next sessions; the second leaves no more of anything, or, since there may have been more at a
# time than ever before, another one does. The bounds are a small part of what there would be if each session left something.
for my $proto (@protocols) {
	round($proto, $rate, 'first');
	my ($count, $before) = ($rate * $seconds, calm());
	my ($sessions, $most, $after, $come) = ($standing + $count);
	for my $try (2 .. 5) {
		$come = round($proto, $count, $try);
		$after = calm();
		$most = { processes => $before->{processes} + 8, descriptors => $before->{descriptors} + 60, kib => $before->{kib} + ($ENV{BMR_SOAK} ? 4096 : 1536) };
		last if !grep { $after->{$_} > $most->{$_} } keys %$most;
		note("$proto, $try: " . join ', ', map { "$before->{$_} $_ became $after->{$_}" } sort keys %$most);
		$before = $after if $try < 5;
	}
	cmp_ok($after->{$_}, '<=', $most->{$_}, "$proto: $_ are as before (" . ($after->{$_} - $before->{$_}) . " more than $before->{$_}, after $sessions sessions)")
	    for qw(processes descriptors kib);
	cmp_ok($come->{seconds}, '<', $seconds * 1.1 + 1, "$proto: which took no longer than it had to") if $ENV{BMR_SOAK} && !$sanitized;
}
unlike($gw->log, qr/signal \d+|exited with [1-9]/, 'no process of the gateway died');
$gw->stop;
is_deeply($gw->{left}, [], 'no process of the gateway is left');
is($gw->{status}, 0, 'exit 0');
done_testing();
