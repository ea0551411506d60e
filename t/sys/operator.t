#!/usr/bin/perl
# What an operator says and is told: where a fault stands, relative paths in the background, what `bmr` does with wrong arguments,
# a backend made ready that its file has drained, and who waits while no backend is there.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Temp qw(tempdir);
use IO::Socket::INET;
use IO::Socket::UNIX;
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

my $bin = "$BMR::Gateway::build/bin";
my $dir = tempdir('bmr-operator-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $net = BMR::Site::network();

sub say_of {
	my (@cmd) = @_;
	my $out = qx(@cmd 2>&1 </dev/null);
	return ($? >> 8, $out);
}

# Faults in a file that is included are told of that file.
sub included {
	my ($top, $line, $re, $name) = @_;
	BMR::Site::put("$dir/inner.conf", $top);
	BMR::Site::put("$dir/outer.conf", qq(# one\n\ninclude("$dir/inner.conf")\nservice smtp {\n  listen = {"$net.1:10025"}\n  backend a { address = "$net.2:1" }\n}\n));
	my ($code, $out) = say_of("$bin/bmrd", '-t', '-f', "$dir/outer.conf");
	is($code, 78, "$name: exit 78");
	like($out, qr/\A\Q$dir\E\/inner\.conf:$line: [^\n]*$re[^\n]*\n\z/, "$name: one line, of the right file and line");
	return;
}
included("\nlisteners = 0\n", 2, qr/expected a number from 1 to 8/, 'listeners');
included("\n\nuser = \"nobody-at-all\"\n", 3, qr/no such user/, 'user');
included("\ngroup = \"root\"\n", 2, qr/together with user/, 'group');
included("tls {\n  ticket-life = \"x\"\n}\n", 2, qr/expected a time/, 'tls');
included("\nsocket = \"/nonexistent/s\"\n", 2, qr/expected a directory/, 'socket');

# In the background: relative paths are of the directory that bmrd was started in, also at a reload.
mkdir "$dir/up";
my $taken = IO::Socket::INET->new(LocalAddr => "$net.1", LocalPort => 10026, Listen => 1, ReuseAddr => 1) or die;
BMR::Site::put("$dir/up/inner.conf", qq(service smtp {\n  listen = {"$net.1:10025"}\n  backend a { address = "$net.2:1" }\n}\n));
BMR::Site::put("$dir/up/bmr.conf", qq(listeners = 1\nstate-dir = "st"\nrun-dir = "rn"\nrelease-dir = "$bin"\ninclude("inner.conf")\n));
system("cd $dir/up && timeout 20 $bin/bmrd -f bmr.conf </dev/null >$dir/up/said 2>&1");
is($?, 0, 'a start in the background');
my $sock = "$dir/up/rn/bmr.sock";
for (1 .. 100) { last if -S $sock; sleep 0.05 }
my ($code, $out) = say_of("$bin/bmr", '-s', $sock, 'reload');
is($out, "configuration version 2 is in use\n", 'a reload finds what is relative');
BMR::Site::put("$dir/up/inner.conf", qq(service smtp {\n  listen = {"$net.1:10025",\n    "$net.1:10026"}\n  backend a { address = "$net.2:1" }\n}\n));
($code, $out) = say_of("$bin/bmr", '-s', $sock, 'reload');
is($code, 78, 'a port that is taken: exit 78');
like($out, qr/\Abmr: inner\.conf:\d: cannot listen on \S+ port 10026: Address already in use\n\z/, 'told of the file that it stands in');
close $taken;

# Wrong arguments: the first line says what is wrong.
for my $c (['bogus', qr/^bmr: bogus: no such command$/m], ['backend', qr/^bmr: backend: expected a second word$/m],
    ['backend drain', qr/^bmr: backend drain: expected service\/name/m], ['kick', qr/^bmr: kick: expected a session/m],
    ['-s ' . 'x' x 120 . ' status', qr/^bmr: socket x+\.\.\.: expected a path of at most 107 octets$/m]) {
	($code, $out) = say_of("$bin/bmr", $c->[0]);
	is($code, 64, substr($c->[0], 0, 20) . ': exit 64');
	like($out, $c->[1], 'and why');
}
$out = `perl -e 'print "x" x 200' | $bin/bmr -s $sock --user anna backend check smtp/a 2>&1`;
is($? >> 8, 64, 'a password that does not fit is not cut: exit 64');
is($out, "bmr: expected a password of 1 to 127 octets\n", 'and said');

my $raw = IO::Socket::UNIX->new(Peer => $sock) or die;
print $raw "GET /v1/who%00x HTTP/1.0\r\n\r\n";
like(scalar <$raw>, qr/^HTTP\/1\.\d 404 /, 'a path with an octet of zero in it is no other');
close $raw;

my @many;	# more than are taken and may wait
for (1 .. 200) {
	push @many, IO::Socket::UNIX->new(Peer => $sock, Blocking => 0);
	sleep 0.005;
}
($code, $out) = say_of("$bin/bmr", '-s', $sock, 'status');
is($code, 75, 'bmr beside them: exit 75');
like($out, qr/\Abmr: \S+: too many connections: try again\n\z/, 'and said');
@many = ();
my $pid = do { open(my $f, '<', "$dir/up/rn/bmrd.pid") or die; <$f> };
kill 'TERM', $pid;
for (1 .. 200) { last if !kill 0, $pid; sleep 0.05 }
ok(!kill(0, $pid), 'it stops');

if (my $why = BMR::Site::possible()) {
	note($why);
	done_testing();
	exit 0;
}
mkdir "$dir/shared";
BMR::Site::put("$dir/shared/others", '');
for my $key ('state-dir', 'run-dir') {
	my %at = ('state-dir' => "$dir/st", 'run-dir' => "$dir/rn", $key => "$dir/shared");
	BMR::Site::put("$dir/own.conf", join('', map { qq($_ = "$at{$_}"\n) } sort keys %at) .
	    qq(release-dir = "$bin"\nuser = "nobody"\nservice smtp {\n  listen = {"$net.1:10025"}\n  backend a { address = "$net.2:1" }\n}\n));
	($code, $out) = say_of('timeout', 10, "$bin/bmrd", '-F', '-f', "$dir/own.conf");
	is($code, 78, "a $key with files of others: exit 78");
	like($out, qr/own\.conf: \Q$dir\E\/shared: has files of others/, 'and said');
	is((stat "$dir/shared")[4], 0, 'it is not given away');
}
mkdir "$dir/all";
BMR::Site::put("$dir/all/bmr.conf", qq(state-dir = "$dir/all"\nrun-dir = "$dir/all"\nrelease-dir = "$bin"\nuser = "nobody"\n) .
	qq(service smtp {\n  listen = {"$net.1:10025"}\n  backend a { address = "$net.2:1" }\n}\n));
($code, $out) = say_of('timeout', 3, "$bin/bmrd", '-F', '-f', "$dir/all/bmr.conf");
unlike($out, qr/files of others/, 'but for that of the file itself');
my $site = BMR::Site->new;
my $gw = BMR::Gateway->new(net => $site->{net}, services => {
	smtp => { backends => { a => $site->addr('a', 'pop3') } },
	pop3 => { backends => { map { $_ => $site->addr($_, 'pop3') } 'a', 'b' }, backend_more => "drained = yes\n" },
	imap4 => { backends => { a => $site->addr('a', 'imap4') } } });
ok($gw->wait_up('pop3/a'), 'up');

sub drained { return join ' ', map { $_->{drained} ? "$_->{name} drained" : $_->{name} } grep { $_->{service} eq 'pop3' } @{ $gw->bmr('backend', 'list')->{backends} } }
is(drained(), 'a drained b drained', 'drained by the file');
$gw->bmr('backend', 'ready', 'pop3/a');
is(drained(), 'a b drained', 'made ready');
my ($balancer) = grep { $_->{id} eq 'balancer' } @{ $gw->bmr('tree')->{tree} };
kill 'KILL', $balancer->{pid};
sleep 0.3;
ok($gw->wait_up('pop3/a'), 'another balancer');
is(drained(), 'a b drained', 'knows what the operator said');
$gw->bmr('backend', 'drain', 'pop3/a');
is(drained(), 'a drained b drained', 'drained again');
$gw->bmr('backend', 'ready', 'pop3/a');
is(join(' ', map { $_->{service} } @{ $gw->bmr('status')->{services} }), 'imap4 pop3 smtp', 'services in the order of the configuration');

$site->kill_host('a');
my @wait;
for my $n (1 .. 3) {
	my $c = BMR::Client->new($gw->addr('pop3'));
	$c->line;
	$c->cmd('USER anna');
	$c->send("PASS secret\r\n");
	push @wait, $c;
	my ($until, $waiting) = (time() + 5, -1);
	while (time() < $until && $waiting != $n) {
		sleep 0.1;
		($waiting) = map { $_->{waiting} } grep { $_->{service} eq 'pop3' } @{ $gw->bmr('status')->{services} };
	}
	is($waiting, $n, "$n wait for a backend, from the first on");
}
$site->start_host('a');
like($_->line, qr/^\+OK/, 'is served then') for @wait;
$gw->stop;
$site->stop;
done_testing();
