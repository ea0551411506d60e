#!/usr/bin/perl
# tls.pl - what TLS costs the gateway, nginx's mail module and Dovecot's login proxy, in the same run; prints a table
#
#   tls.pl [-n SESSIONS] [-c CONCURRENCY] [-r ROUNDS] [-i IDLE] [-m MEGABYTES]
#
# All have the same ECDSA certificate, speak POP3 with implicit TLS and proxy to one null backend in clear. CPU is that of the
# whole process tree, as in run.pl; "TLS" is the cost of a session with TLS less that of the same session without. Memory is
# Pss over the tree; "both KiB" is what TLS adds to an idle session with TLS to the client and to a backend, which is nginx then. Each figure is the median of the rounds, which go from peer to peer.
use strict;
use warnings;
use Cwd qw(abs_path);
use File::Path qw(make_path remove_tree);
use File::Temp qw(tempdir);
use FindBin;
use lib "$FindBin::Bin/../lib";
use Getopt::Std;
use IO::Socket::INET;
use POSIX qw(sysconf _SC_CLK_TCK :sys_wait_h);
use Time::HiRes qw(sleep time);
use BMR::Tls;

my $build = abs_path($ENV{BMR_BUILD} // "$FindBin::Bin/../../build");
my %opt = (n => 2000, c => 4, r => 3, i => 400, m => 64);
getopts('n:c:r:i:m:', \%opt) or die "usage: see the first lines of $0\n";
my $tick = sysconf(_SC_CLK_TCK);
my $dir = tempdir('bmr-bench-XXXXXX', TMPDIR => 1, CLEANUP => 0);
chmod 0755, $dir;
my ($owner, @started) = ($$);
my $ca = BMR::Tls->new;
$ca->cert('gw');
my $crt = $ca->file('gw.pem');
my $key = $ca->file('gw.key');
my $net = sprintf('127.%d.%d', 200 + $$ % 50, $$ / 50 % 250);

sub put { my ($f, $t) = @_; open(my $h, '>', $f) or die "$f: $!"; print $h $t; close $h; return }
sub slurp { my ($f) = @_; open(my $h, '<', $f) or return ''; local $/; return <$h> // '' }

sub start {
	my ($name, @cmd) = @_;
	my $pid = fork() // die;
	if ($pid == 0) {
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', "$dir/$name.out");
		open(STDERR, '>>', "$dir/$name.log");
		exec(@cmd) or POSIX::_exit(127);
	}
	push @started, $pid;
	return $pid;
}

sub tree {
	my (@all) = @_;
	for (my $i = 0; $i < @all; $i++) {
		push @all, split ' ', slurp("/proc/$all[$i]/task/$all[$i]/children");
	}
	return @all;
}

sub cpu {
	my ($pid) = @_;
	my $sum = 0;
	for my $p (tree($pid)) {
		my @f = slurp("/proc/$p/stat") =~ /\A\d+ \(.*\) (.*)/s ? split(' ', $1) : next;
		$sum += $_ for @f[11 .. 14];
	}
	return $sum / $tick;
}

sub pss {
	my ($pid) = @_;
	my $sum = 0;
	for my $p (tree($pid)) {
		$sum += $1 if slurp("/proc/$p/smaps_rollup") =~ /^Pss:\s+(\d+) kB/m;
	}
	return $sum;
}

END {
	if ($$ == $owner) {
		my $s = $?;
		my @all = map { tree($_) } @started;
		kill 'TERM', @started;
		sleep 1;
		kill 'KILL', grep { slurp("/proc/$_/stat") =~ /^\d+ \((?:bmr|nginx|dovecot|pop3-login|auth|anvil|log|config|null|stats)/ } @all;
		1 while waitpid(-1, WNOHANG) > 0;
		remove_tree($dir) if defined $dir;
		$? = $s;
	}
}

sub wait_port {
	my ($addr) = @_;
	for (1 .. 200) {
		return 1 if IO::Socket::INET->new(PeerAddr => $addr);
		sleep 0.05;
	}
	return 0;
}

sub median { my @v = sort { $a <=> $b } @_; return $v[$#v / 2] }

start('null', "$build/t/bench/null", '-p', 'pop3', '-l', "$net.1:20110", '-s', 1024);
start('bulk', "$build/t/bench/null", '-p', 'pop3', '-l', "$net.1:20111", '-s', $opt{m} * 1000000);
my @peers;

# the gateway
put("$dir/bmr.conf", qq(state-dir = "$dir/state"\nrun-dir = "$dir/run"\nrelease-dir = "$build/bin"\n) . $ca->block('gw') . join '', map {
	my ($n, $p, $q) = @$_;
	qq(service $n {\n protocol = "pop3"\n listen = {"$net.2:$p"}\n listen-tls = {"$net.2:$q"}\n banner = "gw.test"\n auth-plaintext = true\n) .
	    qq( tls { certificates = {"gw"} }\n backend a { address = "$net.1:) . ($n eq 'pop3' ? 20110 : 20111) . qq("\n xclient = false\n }\n) .
	    qq( limit { sessions = "20000"\n per-address = "20000"\n }\n}\n) } [ 'pop3', 20001, 20002 ], [ 'bulk', 20003, 20004 ]);
# one more whose backend is nginx's TLS, for memory with TLS on both sides; the backend keeps what the client of it costs
my $nginx = -e '/usr/lib/nginx/modules/ngx_mail_module.so';
put("$dir/bmr.conf", slurp("$dir/bmr.conf") . qq(service both {\n protocol = "pop3"\n listen-tls = {"$net.2:20006"}\n banner = "gw.test"\n) .
    qq( tls { certificates = {"gw"} }\n backend a { address = "$net.3:20002"\n xclient = false\n) .
    qq( tls { mode = "implicit"\n ca = ") . $ca->file('ca.pem') . qq("\n name = "gw.test"\n }\n }\n) .
    qq( limit { sessions = "20000"\n per-address = "20000"\n }\n}\n)) if $nginx;
make_path("$dir/state", "$dir/run");
push @peers, { name => 'bmrd', pid => start('bmrd', "$build/bin/bmrd", '-F', '-f', "$dir/bmr.conf"), plain => "$net.2:20001",
	tls => "$net.2:20002", bulk => "$net.2:20004", both => $nginx ? "$net.2:20006" : undef };

# nginx
put("$dir/nginx.conf", <<"END");
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
daemon off;
user root;
worker_processes auto;
pid $dir/nginx.pid;
error_log $dir/nginx-error.log info;
events { worker_connections 8192; }
http { access_log off;
client_body_temp_path $dir/nginx-body;
proxy_temp_path $dir/nginx-proxy;
fastcgi_temp_path $dir/nginx-fastcgi;
uwsgi_temp_path $dir/nginx-uwsgi;
scgi_temp_path $dir/nginx-scgi;
server { listen $net.3:20000;
location /pop3 { add_header Auth-Status OK; add_header Auth-Server $net.1; add_header Auth-Port 20110; return 200; }
location /bulk { add_header Auth-Status OK; add_header Auth-Server $net.1; add_header Auth-Port 20111; return 200; }
} }
mail { server_name gw.test; ssl_certificate $crt; ssl_certificate_key $key; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on;
server { listen $net.3:20001; protocol pop3; auth_http $net.3:20000/pop3; }
server { listen $net.3:20002 ssl; protocol pop3; auth_http $net.3:20000/pop3; }
server { listen $net.3:20004 ssl; protocol pop3; auth_http $net.3:20000/bulk; }
}
END
push @peers, { name => 'nginx', pid => start('nginx', '/usr/sbin/nginx', '-c', "$dir/nginx.conf", '-e', "$dir/nginx-error.log"),
	plain => "$net.3:20001", tls => "$net.3:20002", bulk => "$net.3:20004" } if -e '/usr/lib/nginx/modules/ngx_mail_module.so';

# Dovecot's login proxy
for my $k ([ 'dovecot', 4, 20110 ], [ 'dovebulk', 5, 20111 ]) {
	my ($n, $ip, $port) = @$k;
	put("$dir/$n.conf", <<"END");
base_dir = $dir/$n
state_dir = $dir/$n.state
log_path = $dir/$n.log
info_log_path = /dev/null
listen = $net.$ip
protocols = pop3
ssl = yes
ssl_cert = <$crt
ssl_key = <$key
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_location = mbox:/nowhere
passdb {
  driver = static
  args = proxy=y host=$net.1 port=$port nopassword=y
}
service pop3-login {
  inet_listener pop3 {
    port = 20001
  }
  inet_listener pop3s {
    port = 20002
    ssl = yes
  }
  service_count = 0
  process_min_avail = 2
  client_limit = 10000
}
service auth {
  client_limit = 20000
}
service anvil {
  client_limit = 20000
}
END
	next if !-x '/usr/sbin/dovecot';
	my $pid = start($n, '/usr/sbin/dovecot', '-F', '-c', "$dir/$n.conf");
	push @peers, { name => 'dovecot', pid => $pid, plain => "$net.4:20001", tls => "$net.4:20002" } if $ip == 4;
	@{ $peers[-1] }{qw(bulk bulkpid)} = ("$net.5:20002", $pid) if $ip == 5;
}
for my $p (@peers) {
	wait_port($p->{$_}) or die "$p->{name} does not listen, see $dir\n" for qw(plain tls bulk);
}
sleep 2;

sub load {
	my (@args) = @_;
	my $out = `$build/t/bench/tlsload @args`;
	return $out =~ /^sessions (\d+) errors (\d+) seconds (\S+) resumed (\d+) bytes (\d+)/ ? { sessions => $1, errors => $2, seconds => $3,
		resumed => $4, bytes => $5 } : { sessions => 0, errors => 1 };
}

sub cost {
	my ($p, $pid, @args) = @_;
	my $before = cpu($pid);
	my $r = load(@args);
	sleep 0.5;
	$r->{cpu} = cpu($pid) - $before;
	$p->{errors} += $r->{errors};
	return $r;
}

my (%full, %again, %whole, %plain, %bulk, %idle);
my @load = ('-c', $opt{c}, '-n', $opt{n});
for my $p (@peers) {
	load(@load[0, 1], '-n', 200, '-t', $p->{tls});
	$p->{errors} = 0;
}
for (1 .. $opt{r}) {
	for my $p (@peers) {
		my $n = $p->{name};
		my $r = cost($p, $p->{pid}, @load, '-t', $p->{tls});
		push @{ $full{$n} }, $r->{cpu} * 1e6 / ($r->{sessions} || 1);
		$r = cost($p, $p->{pid}, @load, '-r', '-t', $p->{tls});
		$p->{resumed} = $r->{resumed};
		push @{ $again{$n} }, $r->{cpu} * 1e6 / ($r->{sessions} || 1);
		$r = cost($p, $p->{pid}, @load, '-s', '-t', $p->{tls});
		push @{ $whole{$n} }, $r->{cpu} * 1e6 / ($r->{sessions} || 1);
		my $before = cpu($p->{pid});
		my $out = `$build/t/bench/load -p pop3 -t $p->{plain} -c $opt{c} -n $opt{n} 2>/dev/null`;
		sleep 0.5;
		push @{ $plain{$n} }, $out =~ /^sessions (\d+)/ && $1 ? (cpu($p->{pid}) - $before) * 1e6 / $1 : 0;
		$r = cost($p, $p->{bulkpid} // $p->{pid}, '-c', 1, '-n', 1, '-s', '-t', $p->{bulk});
		push @{ $bulk{$n} }, $r->{cpu} > 0 ? $r->{bytes} / $r->{cpu} / 1e6 : 0;
	}
}
for my $p (@peers) {
	my @kb;
	for my $how ('plain', 'tls', $p->{both} ? 'both' : ()) {
		if ($p->{name} eq 'bmrd') {	# fresh tls processes: those of before keep what they have freed
			system("$build/bin/bmr -s $dir/run/bmr.sock tls reload >/dev/null");
			sleep 1;
		}
		my $before = pss($p->{pid});
		my ($out, @cmd) = ("$dir/stand.out");
		@cmd = $how ne 'plain' ? ("$build/t/bench/tlsload", '-n', $opt{i}, '-H', 30, '-t', $p->{$how}) :
		    ("$build/t/bench/load", '-p', 'pop3', '-c', $opt{i}, '-H', 30, '-t', $p->{plain});
		unlink $out;
		my $pid = start('stand', @cmd);
		for (1 .. 200) { last if slurp($out) =~ /standing/; sleep 0.1 }
		sleep 1;
		push @kb, (pss($p->{pid}) - $before) / $opt{i};
		kill 'KILL', $pid;
		waitpid($pid, 0);
		sleep 3;
	}
	@{ $idle{ $p->{name} } } = @kb;
}
printf "POP3 over TLS 1.3 with ECDSA: %d sessions, %d at a time, median of %d rounds; microseconds of CPU\n", @opt{qw(n c r)};
printf "%-9s" . ' %11s' x 9 . "\n", '', 'greeting', 'resumed', 'session', 'without TLS', 'TLS', 'MB/CPU s', 'idle KiB', 'TLS KiB', 'both KiB';
for my $p (@peers) {
	my $n = $p->{name};
	my @m = (median(@{ $full{$n} }), median(@{ $again{$n} }), median(@{ $whole{$n} }), median(@{ $plain{$n} }));
	printf "%-9s" . ' %11.0f' x 6 . ' %11.1f' x 2 . " %11s%s\n", $n, @m, $m[2] - $m[3], median(@{ $bulk{$n} }), $idle{$n}[1], $idle{$n}[1] - $idle{$n}[0],
	    defined $idle{$n}[2] ? sprintf('%.1f', $idle{$n}[2] - $idle{$n}[0]) : '-',
	    $p->{errors} ? "  errors: $p->{errors}" : '';
}
