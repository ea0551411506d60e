#!/usr/bin/perl
# run.pl - the same load through the gateway and through what one would use in its place; prints tables
#
#   run.pl [-n SESSIONS] [-c CONCURRENCY] [-r ROUNDS] [-i IDLE] [-m MEGABYTES] [-s OCTETS] [-p pop3,smtp,imap4] [-x] [-k]
#
# -x: nobody says XCLIENT, which else the gateway does in both protocols and nginx in SMTP.
#
# Every peer proxies to one null backend (null.c) and is driven by load.c. Rounds go from peer to peer, so that what
# else the machine does meets all of them; each figure is the median of the rounds. CPU is utime + stime + cutime +
# cstime over the whole process tree, the difference before and after: sessions that were processes of their own are
# in it, and whatever the peer does besides, as probes. Memory is Pss over the tree; the kernel's part is not in it,
# nor what the peer kept from the load before and uses again. A tick of CPU is 10 ms: few sessions say little.
# Fairness: nginx has a worker and HAProxy a thread for each CPU, the others their defaults; all log each session to a
# file, but HAProxy nothing. nginx asks its auth_http for every session, since it cannot do without; its own workers
# answer. The gateway reads the whole listing of a maildrop (LIST, UIDL) at login, which the others do not.
# All is below one temporary directory (-k keeps it) and ended by pid, also after a failure or a signal.
use strict;
use warnings;
use Cwd qw(abs_path);
use File::Copy qw(copy);
use File::Path qw(make_path remove_tree);
use File::Temp qw(tempdir);
use FindBin;
use Getopt::Std;
use IO::Socket::INET;
use POSIX qw(:sys_wait_h sysconf _SC_CLK_TCK);
use Time::HiRes qw(sleep time);

my $build = abs_path($ENV{BMR_BUILD} // "$FindBin::Bin/../../build");
my %opt = (n => 4000, c => 32, r => 3, i => 500, m => 100, s => 1024, p => 'pop3,smtp,imap4');
getopts('n:c:r:i:m:s:p:xk', \%opt) or die "usage: see the first lines of $0\n";
my @protocols = grep { -x "$build/bin/bmr-$_" } split /,/, $opt{p};
my ($owner, $tick, $failed) = ($$, sysconf(_SC_CLK_TCK), 0);
my ($dir, %started);	# pid => name
my ($backend_ip, $ip) = ('127.0.0.2', '127.0.0.1');

# --- processes ---------------------------------------------------------------------------------------------------

sub slurp {
	my ($file) = @_;
	open(my $f, '<', $file) or return '';
	local $/;
	return <$f> // '';
}

sub put {
	my ($file, $text) = @_;
	open(my $f, '>', $file) or die "$file: $!";
	print $f $text;
	close($f) or die "$file: $!";
	return;
}

# Its output goes to $dir/NAME.out and NAME.log, its pid to %started before anything else can happen.
sub start {
	my ($name, @cmd) = @_;
	my $block = POSIX::SigSet->new(POSIX::SIGINT, POSIX::SIGTERM, POSIX::SIGHUP);
	my $was = POSIX::SigSet->new;
	POSIX::sigprocmask(POSIX::SIG_BLOCK, $block, $was);
	my $pid = fork() // die "fork: $!";
	if ($pid == 0) {
		$SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
		POSIX::sigprocmask(POSIX::SIG_SETMASK, $was);
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', "$dir/$name.out");
		open(STDERR, '>>', "$dir/$name.log");
		{ no warnings 'exec'; exec(@cmd); }
		POSIX::_exit(127);
	}
	$started{$pid} = $name;
	POSIX::sigprocmask(POSIX::SIG_SETMASK, $was);
	return $pid;
}

# The fields of /proc/PID/stat from the third on; none: no such process.
sub stat_of {
	my ($pid) = @_;
	return slurp("/proc/$pid/stat") =~ /\A\d+ \(.*\) (.*)/s ? split(' ', $1) : ();
}

# pid => fields of it and of all its descendants.
sub tree {
	my ($root) = @_;
	my (%stat, %children, %tree);
	opendir(my $d, '/proc') or die "/proc: $!";
	for my $pid (grep { /^\d+$/ } readdir $d) {
		my @f = stat_of($pid) or next;
		$stat{$pid} = \@f;
		push @{ $children{ $f[1] } }, $pid;
	}
	my @todo = ($root);
	while (defined(my $pid = pop @todo)) {
		$tree{$pid} = $stat{$pid} if $stat{$pid};
		push @todo, @{ $children{$pid} // [] };
	}
	return \%tree;
}

# Seconds of CPU that the tree has used since it was started.
sub cpu {
	my ($pid) = @_;
	my $sum = 0;
	for my $f (values %{ tree($pid) }) {
		$sum += $_ for @$f[11 .. 14];
	}
	return $sum / $tick;
}

# KiB of the tree.
sub pss {
	my ($pid) = @_;
	my $sum = 0;
	for my $p (keys %{ tree($pid) }) {
		$sum += $1 if slurp("/proc/$p/smaps_rollup") =~ /^Pss:\s+(\d+) kB/m;
	}
	return $sum;
}

sub reaped {
	my ($pid, $seconds) = @_;
	my $until = time() + $seconds;
	while (time() < $until) {
		return 1 if waitpid($pid, WNOHANG) != 0;
		sleep 0.01;
	}
	return 0;
}

# TERM, a deadline, KILL; then whatever is left of its tree, if it is still the same process.
sub stop {
	my ($pid) = @_;
	delete $started{$pid} // return;
	my $tree = tree($pid);
	kill 'TERM', $pid;
	if (!reaped($pid, 15)) {
		kill 'KILL', $pid;
		waitpid($pid, 0);
	}
	for my $p (grep { $_ != $pid } keys %$tree) {
		my @f = stat_of($p);
		kill 'KILL', $p if @f && $f[19] == $tree->{$p}[19];
	}
	return;
}

END {
	if ($$ == $owner) {
		my $status = $?;
		local $SIG{$_} = 'IGNORE' for qw(INT TERM HUP);
		stop($_) for sort { $b <=> $a } keys %started;
		remove_tree($dir) if defined $dir && !$opt{k};
		print "kept: $dir\n" if defined $dir && $opt{k};
		$? = $status;
	}
}
$SIG{$_} = sub { die "ended by a signal\n" } for qw(INT TERM HUP);

# --- the load ------------------------------------------------------------------------------------------------------

# One run of load: { sessions errors seconds bytes }, or nothing when it did not say.
sub load {
	my ($seconds, @args) = @_;
	my $pid = start('load', "$build/t/bench/load", @args);
	my $done = reaped($pid, $seconds);
	delete $started{$pid} if $done;
	stop($pid);
	return slurp("$dir/load.out") =~ /^sessions (\d+) errors (\d+) seconds (\S+) bytes (\d+)$/m
	    ? { sessions => $1, errors => $2, seconds => $3, bytes => $4 } : ();
}

sub median { my @v = sort { $a <=> $b } @_; return @v % 2 ? $v[$#v / 2] : ($v[@v / 2 - 1] + $v[@v / 2]) / 2 }

# What load and CPU come to: octets, sessions and CPU seconds of one run.
sub measure {
	my ($peer, $seconds, @args) = @_;
	my $before = $peer->{pid} ? cpu($peer->{pid}) : 0;
	my $r = load($seconds, @args, '-t', $peer->{address}) or return;
	sleep 0.3;	# sessions that are processes end a little after their client
	$r->{cpu} = $peer->{pid} ? cpu($peer->{pid}) - $before : 0;
	return $r;
}

# --- the peers -----------------------------------------------------------------------------------------------------

my $next_port = 20000 + $$ % 8000;	# below the range from which clients get theirs

sub port {
	for (1 .. 1000) {
		my $p = $next_port++;
		my @s = map { IO::Socket::INET->new(LocalAddr => $_, LocalPort => $p, Listen => 1) } $ip, $backend_ip;
		return $p if 2 == grep { defined } @s;
	}
	die "no port is free\n";
}

# A peer: name, ip, pid, and the port of each protocol that it speaks. Each is tried before it is measured.
my (%backend, @peers);

sub bmrd {
	my ($p) = @_;
	my $text = qq(state-dir = "$dir/state"\nrun-dir = "$dir/run"\nrelease-dir = "$dir/bin"\n);
	make_path("$dir/state", "$dir/run", "$dir/bin");
	# a copy, since a make meanwhile would give the sessions that come another program than those before
	for my $file (glob("$build/bin/bmr*")) {
		copy($file, "$dir/bin") or die "$file: $!";
	}
	chmod 0755, glob("$dir/bin/*");
	for my $proto (@protocols) {
		$text .= <<~"END";
			service $proto {
			  listen = {"$ip:$p->{$proto}"}
			  banner = "gw.test"
			  backend a {
			    address = "$backend_ip:$backend{$proto}"
			    xclient = @{[ $opt{x} ? 'false' : 'true' ]}
			  }
			  auth-plaintext = true
			  health {
			    interval = "1s"
			  }
			  limit {
			    message = "1G"
			    per-address = "10000"
			  }
			}
			END
	}
	put("$dir/bmr.conf", $text);
	return ("$dir/bin/bmrd", '-F', '-f', "$dir/bmr.conf");
}

sub nginx {
	my ($p) = @_;
	my $auth = port();
	my ($servers, $answers) = ('', '');
	for my $proto (@protocols) {
		(my $name = $proto) =~ s/4\z//;
		$servers .= "server { listen $ip:$p->{$proto}; protocol $name; auth_http $ip:$auth/$proto; " .
		    ($proto eq 'smtp' ? 'smtp_auth none; ' : "${name}_auth plain; ") . "xclient " . ($opt{x} ? 'off' : 'on') . "; }\n";
		$answers .= "location /$proto { add_header Auth-Status OK; add_header Auth-Server $backend_ip; " .
		    "add_header Auth-Port $backend{$proto}; return 200; }\n";
	}
	put("$dir/nginx.conf", <<~"END");
		load_module /usr/lib/nginx/modules/ngx_mail_module.so;
		daemon off;
		user root;
		worker_processes auto;
		worker_rlimit_nofile 16384;
		pid $dir/nginx.pid;
		error_log $dir/nginx-error.log info;
		events { worker_connections 8192; }
		http {
		access_log off;
		client_body_temp_path $dir/nginx-body;
		proxy_temp_path $dir/nginx-proxy;
		fastcgi_temp_path $dir/nginx-fastcgi;
		uwsgi_temp_path $dir/nginx-uwsgi;
		scgi_temp_path $dir/nginx-scgi;
		server { listen $ip:$auth;
		$answers} }
		mail { server_name gw.test;
		$servers}
		END
	return ('/usr/sbin/nginx', '-c', "$dir/nginx.conf", '-e', "$dir/nginx-error.log");
}

sub perdition {
	my ($p) = @_;
	put("$dir/perdition.conf", '');
	return ('/usr/sbin/perdition.pop3', '--no_daemon', '-f', "$dir/perdition.conf", '--bind_address', $ip,
	    '--listen_port', $p->{pop3}, '--outgoing_server', $backend_ip, '--outgoing_port', $backend{pop3},
	    '--map_library', '', '--pid_file', '', '--log_facility', '+');
}

# Its login proxy, for the protocols that it has one for.
sub dovecot {
	my ($p) = @_;
	my ($text, @has) = ('', grep { $p->{$_} } 'pop3', 'imap4');
	for my $proto (@has) {
		(my $name = $proto) =~ s/4\z//;
		$text .= "service $name-login {\n  inet_listener $name {\n    port = $p->{$proto}\n  }\n  inet_listener ${name}s {\n    port = 0\n  }\n" .
		    "  service_count = 0\n  process_min_avail = 2\n  client_limit = 10000\n}\n";
	}
	my ($imap, $pop3) = map { $backend{$_} // 0 } 'imap4', 'pop3';
	my $port = "%{if;%s;eq;imap;$imap;$pop3}";
	my $protocols = join ' ', map { s/4\z//r } @has;
	put("$dir/dovecot.conf", <<~"END");
		base_dir = $dir/dovecot
		state_dir = $dir/dovecot.state
		log_path = $dir/dovecot.log
		info_log_path = $dir/dovecot.log
		listen = $ip
		protocols = $protocols
		ssl = no
		disable_plaintext_auth = no
		mail_location = mbox:/nowhere
		passdb {
		  driver = static
		  args = proxy=y host=$backend_ip port=$port nopassword=y
		}
		service auth {
		  client_limit = 20000
		}
		service anvil {
		  client_limit = 20000
		}
		$text
		END
	return ('/usr/sbin/dovecot', '-F', '-c', "$dir/dovecot.conf");
}

sub haproxy {
	my ($p) = @_;
	my $text = "global\n  maxconn 8192\ndefaults\n  mode tcp\n" .
	    "  timeout connect 10s\n  timeout client 10m\n  timeout server 10m\n";
	$text .= "listen $_\n  bind $ip:$p->{$_}\n  server a $backend_ip:$backend{$_}\n" for @protocols;
	put("$dir/haproxy.cfg", $text);
	return ('/usr/sbin/haproxy', '-db', '-f', "$dir/haproxy.cfg");
}

# A whole session goes through it, within so many seconds.
sub serves {
	my ($address, $proto, $seconds) = @_;
	my $until = time() + $seconds;
	while (time() < $until) {
		my $r = load(10, '-p', $proto, '-c', 1, '-n', 1, '-t', $address);
		return 1 if $r && $r->{sessions} == 1;
		sleep 0.1;
	}
	return 0;
}

sub give_up {
	my ($p, $proto) = @_;
	print "$p->{name}: $proto does not work\n";
	for my $log ("$p->{name}.log", 'load.log') {
		my @l = split /^/, slurp("$dir/$log");
		print map { "  $log: $_" } @l > 8 ? @l[-8 .. -1] : @l;
	}
	delete $p->{$proto};
	$failed = 1;
	return;
}

sub start_peers {
	for my $proto (@protocols) {
		$backend{$proto} = port();
		my $address = "$backend_ip:$backend{$proto}";
		start("null-$proto", "$build/t/bench/null", '-p', $proto, '-l', $address, '-s', $opt{s});
		serves($address, $proto, 5)
		    or die "the null backend does not work: " . slurp("$dir/load.log");
	}
	push @peers, { name => 'direct', %backend, ip => $backend_ip };
	my $mail = '/usr/lib/nginx/modules/ngx_mail_module.so';
	for my $k ([bmrd => \&bmrd, "$build/bin/bmrd"], [nginx => \&nginx, $mail], [perdition => \&perdition,
	    '/usr/sbin/perdition.pop3'], [haproxy => \&haproxy, '/usr/sbin/haproxy'],
	    [dovecot => \&dovecot, '/usr/sbin/dovecot']) {
		my ($name, $conf, $file) = @$k;
		if (!-e $file) {
			print "$name is not here ($file)\n";
			next;
		}
		my $p = { name => $name, ip => $ip };
		$p->{$_} = port() for $name eq 'perdition' ? grep { $_ eq 'pop3' } @protocols : $name eq 'dovecot' ?
		    grep { $_ ne 'smtp' } @protocols : @protocols;
		next if !grep { $p->{$_} } @protocols;
		$p->{pid} = start($name, $conf->($p));
		push @peers, $p;
		for my $proto (grep { $p->{$_} } @protocols) {
			serves("$p->{ip}:$p->{$proto}", $proto, 20) or give_up($p, $proto);
		}
	}
	return;
}

# --- the tables ----------------------------------------------------------------------------------------------------

sub row { printf "%-11s" . ' %15s' x (@_ - 1) . "\n", @_; return }
sub fixed { my ($digits, $v) = @_; return defined $v ? sprintf("%.${digits}f", $v) : '-' }
sub ratio { my ($v, $of) = @_; return defined $v && ($of // 0) > 0 ? sprintf('%.2f', $v / $of) : '-' }

# The peers that speak it, with their address set; the nginx among them.
sub speakers {
	my ($proto, %not) = @_;
	my @p = grep { $_->{$proto} && !$not{ $_->{name} } } @peers;
	$_->{address} = "$_->{ip}:$_->{$proto}" for @p;
	return (\@p, grep { $_->{name} eq 'nginx' } @p);
}

sub speed {
	my ($proto) = @_;
	my ($who, $nginx) = speakers($proto);
	my @args = ('-p', $proto, '-c', $opt{c}, '-s', $opt{s});
	$_->{runs} = [] for @$who;
	load(60, @args, '-n', 200, '-t', $_->{address}) for @$who;
	for (1 .. $opt{r}) {
		push @{ $_->{runs} }, measure($_, 300, @args, '-n', $opt{n}) for @$who;
	}
	for my $p (@$who) {
		my @ok = grep { $_->{sessions} } @{ $p->{runs} };
		$p->{errors} = 0;
		$p->{errors} += $_->{errors} for @{ $p->{runs} };
		$p->{errors} += $opt{n} * ($opt{r} - @{ $p->{runs} });
		$p->{rate} = @ok ? median(map { $_->{sessions} / $_->{seconds} } @ok) : undef;
		$p->{cost} = @ok && $p->{pid} ? median(map { $_->{cpu} * 1e6 / $_->{sessions} } @ok) : undef;
		$failed = 1 if $p->{errors} && $p->{name} eq 'bmrd';
	}
	printf "\n%s: %d sessions of %d octets, %d at a time, median of %d rounds\n", uc $proto, @opt{qw(n s c r)};
	row('', 'sessions/s', 'CPU us/session', 'errors', 'CPU/nginx', 'sessions/nginx');
	row($_->{name}, fixed(0, $_->{rate}), fixed(0, $_->{cost}), $_->{errors},
	    ratio($_->{cost}, $nginx && $nginx->{cost}), ratio($_->{rate}, $nginx && $nginx->{rate})) for @$who;
	return;
}

# KiB of Pss that each of so many idle sessions takes; nothing: they did not all stand.
sub standing {
	my ($p, $proto) = @_;
	my $before = pss($p->{pid});
	my $l = start('load', "$build/t/bench/load", '-p', $proto, '-c', $opt{i}, '-H', 120, '-t', $p->{address});
	my $until = time() + 60;
	while (time() < $until && slurp("$dir/load.out") !~ /^standing$/m) {
		if (reaped($l, 0.1)) {
			delete $started{$l};
			return;
		}
	}
	sleep 1;	# what was started for the last ones settles
	my $each = (pss($p->{pid}) - $before) / $opt{i};
	stop($l);
	return slurp("$dir/load.out") =~ /^standing\n+sessions $opt{i} errors 0 /m ? $each : undef;
}

sub memory {
	my ($proto) = @_;
	my ($who, $nginx) = speakers($proto, direct => 1);
	for my $p (@$who) {
		$p->{each} = standing($p, $proto);
		$failed = 1 if !defined $p->{each} && $p->{name} eq 'bmrd';
	}
	printf "\n%s: memory of an idle session (%s), %d of them\n", uc $proto,
	    { pop3 => 'after STAT', smtp => 'after EHLO', imap4 => 'after SELECT' }->{$proto}, $opt{i};
	row('', 'KiB/session', 'of nginx');
	row($_->{name}, fixed(1, $_->{each}), ratio($_->{each}, $nginx && $nginx->{each})) for @$who;
	return;
}

sub bulk {
	my ($who, $nginx) = speakers('smtp', direct => 1);
	for my $p (@$who) {
		my @ok;
		for (1 .. $opt{r}) {
			my $r = measure($p, 120, '-p', 'smtp', '-c', 1, '-n', 1, '-s', $opt{m} * 1000000);
			push @ok, $r if $r && $r->{sessions} && $r->{cpu} > 0;
		}
		$p->{bulk} = @ok == $opt{r} ? median(map { $_->{bytes} / $_->{cpu} / 1e6 } @ok) : undef;
		$p->{wall} = @ok == $opt{r} ? median(map { $_->{bytes} / $_->{seconds} / 1e6 } @ok) : undef;
		$failed = 1 if !defined $p->{bulk} && $p->{name} eq 'bmrd';
	}
	printf "\nSMTP: one message of %d MB, median of %d\n", @opt{qw(m r)};
	row('', 'MB/CPU second', 'MB/second', 'MB/CPU of nginx');
	row($_->{name}, fixed(0, $_->{bulk}), fixed(0, $_->{wall}), ratio($_->{bulk}, $nginx && $nginx->{bulk})) for @$who;
	return;
}

sub machine {
	my ($model) = slurp('/proc/cpuinfo') =~ /^model name\s*: (.*)$/m;
	my $cpus = () = slurp('/proc/cpuinfo') =~ /^processor\s*:/mg;
	printf "%d x %s, Linux %s\n", $cpus, $model // 'CPU', (POSIX::uname())[2];
	my @v = map { chomp; $_ } qx{dpkg-query -W -f '\${Package} \${Version}\\n' nginx perdition haproxy 2>/dev/null};
	print join(', ', @v), "\n" if @v;
	return;
}

$| = 1;
@protocols or die "no protocol of $opt{p} is built below $build/bin\n";
$dir = tempdir('bmr-bench-XXXXXX', TMPDIR => 1, CLEANUP => 0);
chmod 0755, $dir;
machine();
start_peers();
speed($_) for @protocols;
memory($_) for @protocols;
bulk() if grep { $_ eq 'smtp' } @protocols;
exit $failed;
