#!/usr/bin/perl
# A session has begun TLS and the handshake is under way: its listener dies, its process, both, in every order that matters. The
# client completes the handshake and the session goes on.
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
use BMR::Tls;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(smtp => 1);
my $ca = BMR::Tls->new;
$ca->cert('gw', cn => 'gw.test', san => 'DNS:gw.test');
my $tls = { mode => 'starttls', ca => $ca->file('ca.pem') };
my $gw = BMR::Gateway->new(net => $site->{net}, tls => $tls, top => $ca->block('gw'), services => {
	map { my $p = $_; $p => { backends => { map { $_ => $site->addr($_, $p) } 'a', 'b' } } } 'smtp', 'pop3' });
$gw->ready;
my ($users, @stopped) = (0);

sub pids { my ($what) = @_; return $gw->pids({ listener => qr{^bmr: smtp/listener}, tls => qr{^bmr: tls process of smtp}, session => qr{smtp session [0-9a-f]+ } }->{$what}) }
sub stop { my @p = map { pids($_) } @_; kill 'STOP', @p; push @stopped, @p; return }
sub cont { kill 'CONT', @stopped; @stopped = (); return }

# Ends one of a kind and waits until it is gone and, but for a session's, another is there.
sub murder {
	my ($what) = @_;
	my @p = pids($what);
	kill 'KILL', @p;
	my $until = time() + 20;
	sleep 0.02 while time() < $until && grep { my $p = $_; !grep { $_ != $p } pids($what) } @p;
	ok(time() < $until, "another $what is there");
	return;
}

# The handshake, said by another process: what it is told to do between two of its octets can be done here.
sub secure_while {
	my ($c, $do) = @_;
	my $pid = fork() // die;
	if ($pid == 0) {
		my $good = eval { $c->secure(%$tls); 1 };
		print STDERR "# $@" if !$good;
		$good &&= eval { session($c); 1 };
		print STDERR "# $@" if !$good;
		POSIX::_exit($good ? 0 : 1);
	}
	sleep 0.2;
	$do->();
	waitpid($pid, 0);
	return is($?, 0, 'the handshake is completed and the session goes on');
}

# What is left of the session.
sub session { my ($c) = @_; return $c->whole_message("t$users\@site.test", "Subject: t$users\r\nMessage-ID: <t$users\@test>\r\n\r\nhello\r\n") }

# $old: the fdstore knows the session. $before: what is done before STARTTLS is said.
sub begin {
	my ($old, $before) = @_;
	$users++;
	my $c = BMR::Client->new($gw->addr('smtp'));
	$c->reply =~ /^220/ or die "no greeting: $c->{seen}\n";
	$c->smtp('EHLO client.test');
	sleep 1 if $old;
	$before->() if $before;
	like($c->smtp('STARTTLS'), qr/^220/, 'STARTTLS');
	return $c;
}

sub end {
	my ($c) = @_;
	$c->close;
	$site->flush;
	my @m = $site->messages("t$users");
	is(scalar @m, 1, 'its message is in the store, once');
	my $until = time() + 20;
	sleep 0.05 while time() < $until && pids('session');
	is(scalar(() = $gw->log =~ /smtp: session=.* tls=TLSv1\.3 .*: logged out$/mg), $users, 'the log has its TLS');
	is(scalar(() = pids('session')), 0, 'no process is left');
	sleep 1;		# the supervisor gives up a worker that dies more often than ten times in ten seconds
	return;
}

for my $old (0, 1) {
	my $age = $old ? 'old' : 'young';
	my $c;
	subtest "$age: the listener dies before the client has said a word of TLS" => sub {
		$c = begin($old);
		murder('listener');
		secure_while($c, sub {});
		end($c);
	};
	subtest "$age: the listener dies before it has read what the session says" => sub {
		$c = begin($old, sub { stop('listener') });
		sleep 0.1;
		murder('listener');
		@stopped = ();
		secure_while($c, sub {});
		end($c);
	};
	subtest "$age: the listener dies in mid-handshake" => sub {
		$c = begin($old);
		sleep 0.2;
		stop('tls');
		secure_while($c, sub { murder('listener'); cont() });
		end($c);
	};
	subtest "$age: the listener dies before the tls process has read what it says" => sub {
		$c = begin($old, sub { stop('tls') });
		secure_while($c, sub { murder('listener'); cont() });
		end($c);
	};
	subtest "$age: the session's process dies in mid-handshake" => sub {
		$c = begin($old, sub { stop('tls') });
		secure_while($c, sub { murder('session'); cont() });
		end($c);
	};
	subtest "$age: both die, the listener first" => sub {
		$c = begin($old, sub { stop('tls') });
		secure_while($c, sub { murder('listener'); sleep 1; murder('session'); cont() });
		end($c);
	};
	subtest "$age: both die, the listener last" => sub {
		$c = begin($old, sub { stop('tls') });
		secure_while($c, sub { murder('session'); murder('listener'); cont() });
		end($c);
	};
}
subtest 'the tls process dies: that is the end of the session' => sub {
	my $c = begin(1);
	sleep 0.2;
	kill 'KILL', pids('tls');
	is($c->rest, '', 'the connection is closed');
	my $until = time() + 20;
	sleep 0.05 while time() < $until && pids('session');
	is(scalar(() = pids('session')), 0, 'no process is left');
	ok($gw->wait_log(qr/TLS handshake with \S+ failed: the tls process has ended/), 'the log says why');
};
subtest 'no handshake at all' => sub {
	my $c = begin(0);
	$c->send("EHLO in clear\r\n");
	unlike($c->rest, qr/^[2-5]/m, 'not a word in clear');
	ok($gw->wait_log(qr/TLS handshake with \S+ failed: (?!the tls process)/), 'the log says why');
};
my $until = time() + 20;
my $who = sub { scalar @{ $gw->bmr('who')->{sessions} // ['?'] } };
sleep 0.2 while time() < $until && $who->() > 0;
is($who->(), 0, 'no session is left');
$gw->stop;
is_deeply($gw->{left}, [], 'no process is left');
done_testing();
