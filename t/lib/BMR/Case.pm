package BMR::Case;
# One failover case: a fresh gateway before two taps before two hosts of a site that many cases share.
#
# run_case($site, "S5 name", proto => 'smtp', c2s => rule, s2c => rule, more => "conf", client => sub { my ($x) = @_; ... })
# Rules run in both taps; the first that calls $conn->{tap}->fire($conn, 'fin'|'rst'|'mute') is the host that dies,
# and its tap goes down. $x: gw, site, connect, lines, kill, murder, dead, alive, died, said(host), user, addr; for IMAP also login and
# direct. With BMR_DIRECT=1 the client's part runs straight at host b, no host dies and all must come true the same:
# it tests the tests.
use strict;
use warnings;
use Exporter 'import';
use File::Temp qw(tempdir);
use File::Path qw(remove_tree);
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Imap;
use BMR::Tap;
use BMR::Tls;

our @EXPORT_OK = qw(run_case);
our $direct = $ENV{BMR_DIRECT};
my $count = 0;
# BMR_TLS=implicit|starttls: clients speak TLS to the gateway that way, and the gateway TLS to the hosts. BMR_TLS=both: each case
# in one of the ways, always the same, by its name.
my ($ca, %modes, $owner);

sub use_tls {
	my ($name) = @_;
	return if !$ENV{BMR_TLS};
	if (!$ca) {
		$ca = BMR::Tls->new;
		$ca->cert('gw');
		$owner = $$;
	}
	my $mode = $ENV{BMR_TLS} eq 'both' ? ('implicit', 'starttls')[unpack('%32C*', $name) % 2] : $ENV{BMR_TLS};
	$modes{$mode}++;
	return { mode => $mode, ca => $ca->file('ca.pem'), backends => 1 };
}

sub run_case {
	my ($site, $name, %o) = @_;
	my $filter = $ENV{CASE};
	return if $filter && $name !~ /^(?:$filter)\b/;
	my $tls = use_tls($name);
	subtest $tls ? "$name ($tls->{mode})" : $name => sub {
		my $dir = tempdir('bmr-case-XXXXXX', TMPDIR => 1, CLEANUP => 0);
		my $proto = $o{proto} // 'smtp';
		my $x = bless { dir => $dir, site => $site, proto => $proto, tls => $tls, user => sprintf('u%d', ++$count) }, __PACKAGE__;
		$site->mailbox($x->user) if $proto eq 'smtp';
		return $x->straight($o{client}) if $direct;
		my $port = 11000 + $count * 10;
		my %backends;
		for my $h ('a', 'b') {
			$x->{tap}{$h} = BMR::Tap->new(host => $h, site => $site, dir => make("$dir/$h"), tls => $tls ? $ca->file('gw') : undef, listen => "$site->{net}.5:" . ++$port,
				($o{serve} ? (serve => $o{serve}) : (to => $site->addr($h, $proto))),
				on_c2s => $o{c2s}, on_s2c => $o{s2c});
			$backends{$h} = $x->{tap}{$h}{listen};
		}
		$x->{gw} = BMR::Gateway->new(net => $site->{net}, tls => $tls, top => $tls ? $ca->block('gw') : '', services => { $proto => { backends => \%backends,
			health => qq(interval = ") . ($o{interval} // '600s') . qq("\n    fall = 1\n    rise = 1), more => $o{more} } });
		eval {
			$x->{gw}->ready;
			$_->arm for values %{ $x->{tap} };
			$o{client}->($x);
			1;
		} or fail("case dies: $@");
		diag($x->{gw}->log) if !Test::More->builder->is_passing && $ENV{BMR_LOG};
		unlike($x->{gw}->log, qr/signal \d+|exited with [1-9]/, 'no process of the gateway died') if !$x->{murdered};
		$x->{gw}->stop;
		is_deeply($x->{gw}{left}, [], 'no process of the gateway is left');
		$_->stop for values %{ $x->{tap} };
		remove_tree($dir) if !$ENV{BMR_KEEP};
	};
	return;
}

sub straight {
	my ($x, $client) = @_;
	eval { $client->($x); 1 } or fail("case dies: $@");
	remove_tree($x->{dir});
	return;
}

sub make { my ($d) = @_; mkdir $d; return $d }

sub gw   { return $_[0]{gw} }
sub site { return $_[0]{site} }
sub user { my ($x, $n) = @_; return $x->{user} . (($n // '') eq '' ? '' : "-$n") }	# u8-1 is not u81, another case's
sub addr { my ($x, $n) = @_; return $x->user($n) . '@site.test' }

sub connect {
	my ($x, %o) = @_;
	my $class = $x->{proto} eq 'imap4' ? 'BMR::Imap' : 'BMR::Client';
	return $class->new($x->{site}->addr('b', $x->{proto}), %o) if $direct;
	return $class->new($x->{gw}->addr($x->{proto}), tls => $x->{tls}, %o);
}

# A client that takes lines as they come, the greeting too, whatever the protocol.
sub lines {
	my ($x, %o) = @_;
	return BMR::Client->new($x->{gw}->addr($x->{proto}), tls => $x->{tls}, %o);
}

# IMAP: a client that is logged in, and one that is so at a host itself, past the tap.
sub login {
	my ($x, %o) = @_;
	my $c = $x->connect(%o);
	like($c->{greeting}, $direct ? qr/^\* OK / : qr/^\* OK \[CAPABILITY [^\]]*\] gw\.test /, 'greeting');
	my $r = $c->login($x->user);
	ok($r->ok, 'LOGIN') or die "no login: $r->{line}\n";
	return $c;
}

sub direct {
	my ($x, $h, $user) = @_;
	my $c = BMR::Imap->new($x->{site}->addr($h // 'b', 'imap4'), prefix => 'd');
	$c->login($user // $x->user)->ok or die "no login at $h\n";
	return $c;
}

# The host that died, by a rule or by kill.
sub dead {
	my ($x) = @_;
	return $x->{dead} if $x->{dead};
	open(my $f, '<', "$x->{dir}/fired") or return '';
	return <$f> // '';
}
# A rule has had its turn, or has it soon.
sub died {
	my ($x) = @_;
	my $until = time() + 10;
	sleep 0.02 while !$direct && !$x->dead && time() < $until;
	return ok($direct || $x->dead, 'a backend died');
}
sub alive { my ($x) = @_; return $x->dead eq 'a' ? 'b' : 'a' }

# The host in use now.
sub used {
	my ($x) = @_;
	for my $h ('a', 'b') {
		return $h if $x->{tap}{$h}->conns;
	}
	die "no backend is in use\n";
}

# The test itself ends processes of the gateway, so that a death proves nothing against it.
sub murder {
	my ($x, $signal, @pids) = @_;
	$x->{murdered} += @pids;
	$x->{gw}{crashed} = 1 if $signal eq 'SEGV';	# the sanitizers report it as a fault of ours
	return CORE::kill $signal, @pids;
}

# The backend in use now dies; how: down, or what else the tap can do.
sub kill {
	my ($x, $how, $host) = @_;
	return 'a' if $direct;
	my $h = $host // $x->used;
	$x->{tap}{$h}->tell($how // 'down');
	return $x->{dead} = $h;
}

sub said { my ($x, $h, $dir) = @_; return $direct ? '' : $x->{tap}{$h}->seen($dir // 'c2s') }

# A suite that is to run both ways has done so.
END {
	if (($owner // 0) == $$ && $ENV{BMR_TLS} eq 'both' && !$ENV{CASE} && keys %modes == 1) {
		diag("all cases ran with @{[keys %modes]} TLS");
		$? ||= 1;
	}
}

1;
