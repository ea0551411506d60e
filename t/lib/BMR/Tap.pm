package BMR::Tap;
# A fault injector between the gateway and one backend: a process that forwards, and cuts, stalls or alters on command.
#
# Rules are closures over the octets so far: on_c2s/on_s2c => sub { my ($conn, $data) = @_; ... return data to pass on }.
# They may call $conn->{tap}->cut($conn) after returning what is still to go: set $conn->{cut_after} = 1 (FIN) or
# 'rst'. Commands from the test: cut, down, up, stall, go, deaf. All octets of both directions are kept in files.
use strict;
use warnings;
use Fcntl qw(O_WRONLY O_CREAT O_EXCL);
use IO::Select;
use IO::Socket::INET;
use IO::Socket::IP;
use Socket qw(SOL_SOCKET SO_LINGER SO_RCVBUF);
use Time::HiRes qw(sleep time);

sub new {
	my ($class, %o) = @_;
	my $t = bless { %o, owner => $$ }, $class;
	pipe(my $r, my $w) or die;
	pipe(my $ar, my $aw) or die;
	$t->{pid} = fork() // die;
	if ($t->{pid} == 0) {
		close $w;
		close $ar;
		$t->{owner} = -1;
		eval { $t->run($r, $aw); 1 } or print STDERR "tap: $@";
		POSIX::_exit(0);
	}
	close $r;
	close $aw;
	$w->autoflush(1);
	@$t{qw(w ar)} = ($w, $ar);
	readline($ar);
	return $t;
}

# A command, done when this returns.
sub tell {
	my ($t, $cmd) = @_;
	print { $t->{w} } "$cmd\n";
	return readline($t->{ar});
}
sub cut   { return $_[0]->tell('cut') }
sub down  { return $_[0]->tell('down') }
sub up    { return $_[0]->tell('up') }
sub stall { return $_[0]->tell('stall') }
sub go    { return $_[0]->tell('go') }
sub arm   { return $_[0]->tell('arm') }
sub conns { return $_[0]->tell('conns') + 0 }

# In a rule: true for the first that asks in this case, who is then the backend that dies. The tap goes down with it.
sub fire {
	my ($t, $conn, $how) = @_;
	sysopen(my $f, "$t->{dir}/../fired", O_WRONLY | O_CREAT | O_EXCL) or return 0;
	syswrite($f, $t->{host});
	close $f;
	if ($how eq 'mute' || $how eq 'drip') {
		$conn->{$how} = 1;
	} else {
		$conn->{cut_after} = $how;
		$conn->{down_after} = 1;
	}
	return 1;
}

sub fired {
	my ($t) = @_;
	open(my $f, "<", "$t->{dir}/../fired") or return '';
	return <$f> // '';
}

# What went through connection n (from 1 on) in one direction; all connections without n.
sub seen {
	my ($t, $dir, $n) = @_;
	my $all = '';
	for my $f (defined $n ? "$t->{dir}/tap.$n.$dir" : glob("$t->{dir}/tap.*.$dir")) {
		open(my $h, '<', $f) or next;
		local $/;
		$all .= <$h> // '';
	}
	return $all;
}

sub listen_again {
	my ($t) = @_;
	my ($ip, $port) = $t->{listen} =~ /^\[?(.*?)\]?:(\d+)$/;
	my $l = IO::Socket::IP->new(LocalHost => $ip, LocalPort => $port, Listen => 50, ReuseAddr => 1) // die "tap: listen: $!";
	setsockopt($l, SOL_SOCKET, SO_RCVBUF, $t->{rcvbuf}) if $t->{rcvbuf};	# of each connection, too
	return $l;
}

sub end_conn {
	my ($t, $conn, $how) = @_;
	setsockopt($conn->{c}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0)) if $how eq 'rst';
	for my $s (qw(c s)) {
		next if !$conn->{$s};
		$_->remove($conn->{$s}) for @$t{qw(sel full)};
		delete $t->{by}{ fileno $conn->{$s} };
		close $conn->{$s};
	}
	delete $t->{conns}{ $conn->{n} };
	return;
}

sub accept_one {
	my ($t) = @_;
	my $c = $t->{lsock}->accept or return;
	my $n = ++$t->{count};
	my $conn = { n => $n, c => $c, tap => $t, in => { c2s => '', s2c => '' }, out => { c => '', s => '' } };
	if (!$t->{serve}) {
		$conn->{s} = IO::Socket::INET->new(PeerAddr => $t->{to}, Timeout => 5);
		if (!$conn->{s}) {
			close $c;
			return;
		}
	}
	if ($t->{tls}) {	# the gateway's side is TLS, the server's is clear, and rules see clear text
		require IO::Socket::SSL;
		$c->blocking(1);
		local $SIG{ALRM} = sub { die "no handshake\n" };
		alarm 20;
		my $good = eval { IO::Socket::SSL->start_SSL($c, SSL_server => 1, SSL_cert_file => "$t->{tls}.pem", SSL_key_file => "$t->{tls}.key") };
		alarm 0;
		if (!$good) {
			close $c;
			close $conn->{s} if $conn->{s};
			return;
		}
	}
	$t->{conns}{$n} = $conn;
	for my $s (grep { $_ } @$conn{qw(c s)}) {
		$s->blocking(0);
		$s->autoflush(1);
		$t->{by}{ fileno $s } = $conn;
		$t->{sel}->add($s);
	}
	$t->push_out($conn, 'c', $t->{serve}->($conn, undef)) if $t->{serve};
	return;
}

# To one side; what it does not take at once waits, and meanwhile nothing more is read for it.
sub push_out {
	my ($t, $conn, $side, $data) = @_;
	return if !defined $data || $data eq '' || !$conn->{$side};
	$conn->{out}{$side} .= $data;
	return $t->drain($conn, $side);
}

sub source { my ($t, $conn, $side) = @_; return $conn->{ $t->{serve} || $side eq 's' ? 'c' : 's' } }

sub drain {
	my ($t, $conn, $side) = @_;
	my $sock = $conn->{$side};
	my $source = $t->source($conn, $side);
	local $SIG{PIPE} = 'IGNORE';
	while ($conn->{out}{$side} ne '') {
		my $n = syswrite($sock, $conn->{out}{$side}, length $conn->{out}{$side});
		if (defined $n) {
			substr($conn->{out}{$side}, 0, $n, '');
		} elsif ($!{EAGAIN}) {
			$t->{full}->add($sock);
			$t->{sel}->remove($source) if $source;
			return;
		} else {
			$conn->{out}{$side} = '';
		}
	}
	return if !$t->{full}->exists($sock);
	$t->{full}->remove($sock);
	return $t->end_after($conn, $conn->{ending}) if $conn->{ending};
	$t->{sel}->add($source) if $source;
	return;
}

# When all has gone to both sides; until then nothing more is read.
sub end_after {
	my ($t, $conn, $how) = @_;
	return $t->end_conn($conn, $how) if !grep { $_ ne '' } values %{ $conn->{out} };
	$conn->{ending} = $how;
	$t->{sel}->remove(grep { $_ } @$conn{qw(c s)});
	return;
}

sub keep {
	my ($t, $conn, $dir, $data) = @_;
	$conn->{in}{$dir} .= $data if length $conn->{in}{$dir} < 1 << 20;
	open(my $f, '>>', "$t->{dir}/tap.$conn->{n}.$dir") or return;
	print $f $data;
	close $f;
	return;
}

sub forward {
	my ($t, $sock) = @_;
	my $conn = $t->{by}{ fileno $sock } or return;
	my $from_client = $sock == $conn->{c};
	my ($dir, $out) = $from_client ? ('c2s', 's') : ('s2c', 'c');
	my $n = sysread($sock, my $data, 65536);
	return if !defined $n && $!{EAGAIN};
	return $t->end_after($conn, 'fin') if !$n;
	while ((my $more = $from_client && $t->{tls} ? $conn->{c}->pending : 0) > 0) {
		sysread($sock, $data, $more, length $data) or last;
	}
	if ($t->{serve}) {
		$t->keep($conn, 'c2s', $data);
		$t->push_out($conn, 'c', $t->{serve}->($conn, $data));
	} else {
		my $rule = $t->{"on_$dir"};
		$data = $conn->{mute} ? '' : $rule->($conn, $data) if $rule && $t->{armed};
		$t->keep($conn, $dir, $data);
		if ($conn->{drip} && !$from_client) {
			$conn->{drops} .= $data;
		} else {
			$t->push_out($conn, $out, $data);
		}
	}
	$t->end_after($conn, $conn->{cut_after}) if $conn->{cut_after};
	if ($conn->{down_after} && $t->{lsock}) {
		$t->{sel}->remove($t->{lsock});
		close $t->{lsock};
		$t->{lsock} = undef;
	}
	return;
}

sub command {
	my ($t, $cmd) = @_;
	if ($cmd eq 'cut' || $cmd eq 'down') {
		$t->end_conn($_, 'fin') for values %{ $t->{conns} };
	}
	if ($cmd eq 'down' && $t->{lsock}) {
		$t->{sel}->remove($t->{lsock});
		close $t->{lsock};
		$t->{lsock} = undef;
	} elsif ($cmd eq 'up' && !$t->{lsock}) {
		$t->{lsock} = $t->listen_again;
		$t->{sel}->add($t->{lsock});
	} elsif ($cmd eq 'stall' || $cmd eq 'go') {
		$t->{stalled} = $cmd eq 'stall';
	} elsif ($cmd eq 'front') {	# as a network that is cut: the server notices nothing
		for my $conn (values %{ $t->{conns} }) {
			$_->remove($conn->{c}, $conn->{s}) for @$t{qw(sel full)};
			delete $t->{by}{ fileno $conn->{c} };
			close $conn->{c};
			push @{ $t->{held} }, $conn->{s};
			delete $t->{by}{ fileno $conn->{s} };
			delete $t->{conns}{ $conn->{n} };
		}
		$t->command('down');
	} elsif ($cmd eq 'deaf') {	# a host that vanished: the kernel drops what comes to it, and acknowledges nothing
		my $drop = pack('S C C L', 6, 0, 0, 0);		# BPF_RET 0, see bpf(4) of BSD and socket(7)
		setsockopt($_, SOL_SOCKET, 26, pack('S x![J] P', 1, $drop)) or die "filter: $!" for grep { $_ } $t->{lsock}, map { $_->{c} } values %{ $t->{conns} };
	} elsif ($cmd eq 'release') {
		close $_ for @{ $t->{held} // [] };
		$t->{held} = [];
	} elsif ($cmd eq 'arm') {
		$t->{armed} = 1;
	} elsif ($cmd =~ /^inject (.*)/) {
		$t->push_out($_, 'c', "$1\r\n") for values %{ $t->{conns} };
	} elsif ($cmd eq 'conns') {
		return scalar keys %{ $t->{conns} };
	}
	return 'done';
}

# After fire($conn, 'drip'): what the server says goes out an octet at a time.
sub drip {
	my ($t) = @_;
	return if time() - ($t->{dripped} // 0) < 0.3;
	$t->{dripped} = time();
	$t->push_out($_, 'c', substr($_->{drops}, 0, 1, '')) for grep { ($_->{drops} // '') ne '' } values %{ $t->{conns} };
	return;
}

sub run {
	my ($t, $r, $aw) = @_;
	$aw->autoflush(1);
	@$t{qw(sel full)} = (IO::Select->new($r), IO::Select->new);
	$t->{lsock} = $t->listen_again;
	$t->{sel}->add($t->{lsock});
	print $aw "ready\n";
	while (1) {
		my ($read, $write) = IO::Select::select($t->{sel}, $t->{full}, undef, 0.3);
		$t->drip;
		for my $s (@$write) {
			my $conn = defined fileno $s ? $t->{by}{ fileno $s } : undef;
			$t->drain($conn, $s == $conn->{c} ? 'c' : 's') if $conn;
		}
		for my $s (@$read) {
			if ($s == $r) {
				my $cmd = <$r>;
				return if !defined $cmd;
				chomp $cmd;
				my $said = $t->command($cmd);
				print $aw "$said\n";
				last;
			}
			if ($t->{lsock} && $s == $t->{lsock}) {
				$t->accept_one;
			} elsif (defined fileno $s) {
				if ($t->{stalled}) { sleep 0.02; next }
				$t->forward($s);
			}
		}
	}
}

sub stop {
	my ($t) = @_;
	return if $t->{owner} != $$ || !$t->{pid};
	kill 'KILL', $t->{pid};
	waitpid($t->{pid}, 0);
	$t->{pid} = 0;
	return;
}

sub DESTROY {
	my ($t) = @_;
	local ($?, $@, $!);
	$t->stop;
	return;
}

1;
