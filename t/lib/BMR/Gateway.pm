package BMR::Gateway;
# One bmrd of this build in a temporary directory, unprivileged or not, with the log in a file.
use strict;
use warnings;
use File::Path qw(make_path remove_tree);
use File::Temp qw(tempdir);
use FindBin;
use Test::More ();
use Time::HiRes qw(sleep time);
use BMR::Proc;

our $build = $ENV{BMR_BUILD} // "$FindBin::Bin/../../build";

# new(net => "127.1.2", listeners => 1 or "auto", files => most descriptors of a process, bin => directory of the images, as => a user who starts it, services => { smtp => { backends => {a => "ip:port"}, more => "text", port => n } })
sub new {
	my ($class, %o) = @_;
	my $dir = tempdir('bmr-gw-XXXXXX', TMPDIR => 1, CLEANUP => 0);
	chmod 0755, $dir;
	my $g = bless { dir => $dir, net => $o{net}, o => \%o, owner => $$, ip => "$o{net}.1" }, $class;
	$g->write_conf(%{ $o{services} });
	$g->start;
	return $g;
}

my %port = (smtp => 10025, pop3 => 10110, imap4 => 10143);

sub write_conf {
	my ($g, %services) = @_;
	my $d = $g->{dir};
	my $t = qq(state-dir = "@{[ $g->{o}{state} // "$d/state" ]}"\nrun-dir = "$d/run"\nrelease-dir = "@{[ $g->{o}{bin} // "$build/bin" ]}"\n) . ($g->{o}{top} // '');
	my $listeners = $g->{o}{listeners} // $ENV{BMR_LISTENERS} // 1;
	$t .= "listeners = $listeners\n" if $listeners ne 'auto';
	for my $name (sort keys %services) {
		my $s = $services{$name};
		my $proto = $s->{protocol} // $name;
		$g->{port}{$name} = $s->{port} // $port{$proto};
		my $tls = $g->{o}{tls};
		my $listen = $tls && $tls->{mode} eq 'implicit' ? 'listen-tls' : 'listen';
		$t .= qq(service $name {\n  protocol = "$proto"\n  $listen = {"$g->{ip}:$g->{port}{$name}"}\n  banner = "gw.test"\n);
		$t .= qq(  tls {\n    certificates = {"gw"}\n  }\n) if $tls;
		for my $b (sort keys %{ $s->{backends} }) {
			my $more = $s->{backend_more} // '';
			$more .= qq(tls {\n      mode = "implicit"\n      ca = "$tls->{ca}"\n      name = "gw.test"\n    }) if $tls && $tls->{backends};
			$t .= qq(  backend $b {\n    address = "$s->{backends}{$b}"\n    $more\n  }\n);
		}
		my $health = $s->{health} // qq(interval = "1s"\n    fall = 2\n    rise = 1);
		$t .= qq(  health {\n    $health\n  }\n  auth-plaintext = true\n);
		$t .= qq(  fence-delay = "0s"\n) if ($s->{more} // '') !~ /fence-delay/;
		$t .= "  $s->{more}\n" if $s->{more};
		$t .= "}\n";
	}
	$g->{services} = \%services;
	open(my $f, '>', "$d/bmr.conf") or die;
	print $f $t;
	close($f);
	return;
}

sub start {
	my ($g) = @_;
	make_path("$g->{dir}/state", "$g->{dir}/run");
	$g->{pid} = fork() // die;
	if ($g->{pid} == 0) {
		open(STDIN, '<', '/dev/null');
		my @limit = $g->{o}{files} ? ('sh', '-c', "ulimit -n $g->{o}{files}; exec \"\$@\"", 'sh') : ();
		open(STDOUT, '>>', "$g->{dir}/log");
		open(STDERR, '>>', "$g->{dir}/log");
		my @ids = $g->{o}{as} ? (getpwnam $g->{o}{as})[2, 3] : ();
		chown @ids, map { "$g->{dir}/$_" } 'state', 'run', 'log' if @ids;
		my @as = @ids ? ('setpriv', "--reuid=$ids[0]", "--regid=$ids[1]", '--clear-groups') : ();
		exec(@limit, @as, "$build/bin/bmrd", '-F', '-v', '-f', "$g->{dir}/bmr.conf") or POSIX::_exit(127);
	}
	return;
}

sub addr { my ($g, $service) = @_; return "$g->{ip}:$g->{port}{$service}" }

sub log {
	my ($g) = @_;
	open(my $f, '<', "$g->{dir}/log") or return '';
	local $/;
	return <$f> // '';
}

# Waits until every backend of every service was found up by a probe.
sub ready {
	my ($g, $seconds) = @_;
	my $until = time() + ($seconds // 30);
	my $want = 0;
	$want += keys %{ $_->{backends} } for values %{ $g->{services} };
	while (time() < $until) {
		my %up;
		my $log = $g->log;
		$up{$1} = $2 eq 'up' while $log =~ /backend (\S+\/\S+) is (up|down)/g;
		return $g if $want <= grep { $_ } values %up;
		sleep 0.05;
	}
	die "the gateway does not get ready:\n" . $g->log;
}

# Waits for a line in the log, from an offset on.
sub wait_log {
	my ($g, $re, $seconds) = @_;
	my $until = time() + ($seconds // 20);
	while (time() < $until) {
		return 1 if substr($g->log, $g->{mark} // 0) =~ $re;
		sleep 0.05;
	}
	return 0;
}

# What the command says, as data.
sub bmr {
	my ($g, @cmd) = @_;
	require JSON::PP;
	open(my $p, '-|', "$build/bin/bmr", '-j', '-s', "$g->{dir}/run/bmr.sock", @cmd) or die;
	local $/;
	my $out = <$p>;
	close $p;
	$g->{code} = $? >> 8;
	return $out ? JSON::PP::decode_json($out) : {};
}

# Waits until the balancer holds this backend ("smtp/a") for up.
sub wait_up {
	my ($g, $name, $seconds) = @_;
	my $until = time() + ($seconds // 20);
	while (time() < $until) {
		for my $b (@{ $g->bmr('backend', 'list')->{backends} // [] }) {
			return 1 if "$b->{service}/$b->{name}" eq $name && $b->{state} eq 'up';
		}
		sleep 0.1;
	}
	return 0;
}

sub mark { my ($g) = @_; $g->{mark} = length $g->log; return }

# Pids of the gateway's processes whose title matches.
sub pids {
	my ($g, $re) = @_;
	my @p;
	for my $p (BMR::Proc::tree($g->{pid})) {
		open(my $f, '<', "/proc/$p/cmdline") or next;
		local $/;
		push @p, $p if (<$f> // '') =~ $re;
	}
	return @p;
}

# Waits until the fdstore keeps that many sessions: what it has, a listener may die with.
sub deposited {
	my ($g, $count) = @_;
	my $until = time() + 20;
	while (time() < $until) {
		return 1 if $count <= grep { (readlink($_) // '') =~ /bmr-journal/ } map { glob("/proc/$_/fd/*") } $g->pids(qr/^bmr: fdstore/);
		sleep 0.05;
	}
	return 0;
}

sub hup { my ($g) = @_; kill 'HUP', $g->{pid}; return }

sub title {
	my ($pid) = @_;
	open(my $f, '<', "/proc/$pid/cmdline") or return '';
	(my $t = <$f> // '') =~ s/\0.*//s;
	return $t;
}

sub is_ours { return title($_[0]) =~ /bmr/ }

sub stop {
	my ($g) = @_;
	return if $g->{owner} != $$ || $g->{stopped}++;
	my @all = BMR::Proc::tree($g->{pid});
	kill 'TERM', $g->{pid};
	my $until = time() + 15;
	my $done = 0;
	while (time() < $until && !$done) {
		$done = waitpid($g->{pid}, 1) == $g->{pid};
		$g->{status} = $? if $done;
		sleep 0.02 if !$done;
	}
	$until = time() + 15;
	my @left = grep { is_ours($_) } @all;
	while (@left && $done && time() < $until) {	# who was forked last learns last that all is over, and goes
		sleep 0.02;
		@left = grep { is_ours($_) } @left;
	}
	$g->{left} = [ map { "$_ " . title($_) } @left ];
	kill 'KILL', @left if @left;
	waitpid($g->{pid}, 0) if !$done;
	my ($finding) = grep { !$g->{crashed} || !/Sanitizer: SEGV on unknown/ } $g->log =~ /^(.*(?:ERROR: \w+Sanitizer|runtime error:).*)$/mg;
	Test::More::fail("the sanitizers find nothing: $finding") if $finding;
	remove_tree($g->{dir}) if !$ENV{BMR_KEEP};
	return;
}

sub DESTROY {
	my ($g) = @_;
	local ($?, $@, $!);
	$g->stop if $g->{pid};
	return;
}

1;
