#!/usr/bin/perl
# Configuration changed while sessions go on: backends added, removed, drained, given by name; counts stay true.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(smtp => 1);
my %at = map { $_ => $site->addr($_, 'smtp') } 'a', 'b';
my $gw = BMR::Gateway->new(net => $site->{net}, services => { smtp => { backends => { b => $at{b} } } });
$gw->ready;
my $version = 1;

sub session {
	my $c = BMR::Client->new($gw->addr('smtp'));
	$c->reply;
	$c->smtp('EHLO reload.test');
	like($c->smtp('MAIL FROM:<x@site.test>'), qr/^250 /, 'MAIL');
	return $c;
}

sub reload {
	my (%services) = @_;
	$version++;
	$gw->write_conf(%services);
	$gw->mark;
	$gw->hup;
	ok($gw->wait_log(qr/configuration version $version in use/), "version $version is in use");
	return;
}

# name => sessions, when they are as expected or after some seconds
sub counts {
	my (%want) = @_;
	my %n;
	for (1 .. 60) {
		%n = map { ("$_->{service}/$_->{name}" => $_->{sessions}) } @{ $gw->bmr('backend', 'list')->{backends} };
		last if join(',', map { "$_=$n{$_}" } sort keys %n) eq join(',', map { "$_=$want{$_}" } sort keys %want);
		sleep 0.1;
	}
	is_deeply(\%n, \%want, 'sessions are counted where they are');
	return;
}

my @c = map { session() } 1 .. 4;
reload(smtp => { backends => { %at } });
ok($gw->wait_up('smtp/a'), 'an added backend comes up');
counts('smtp/a' => 0, 'smtp/b' => 4);
push @c, map { session() } 1 .. 4;
counts('smtp/a' => 4, 'smtp/b' => 4);	# the fewest sessions first
like($_->smtp('RCPT TO:<reload@site.test>'), qr/^250 /, 'a session goes on') for @c[0, 4];
reload(another => { protocol => 'smtp', port => 10029, backends => { a => $at{a} } }, smtp => { backends => { a => $at{a} } });
counts('another/a' => 0, 'smtp/a' => 4);
my $n = BMR::Client->new($gw->addr('another'));
like($n->reply, qr/^220 /, 'a new service is served');
$n->smtp('QUIT');
# a session on the removed backend ends its transaction there, and moves
like($c[0]->smtp('RSET'), qr/^250 /, 'RSET');
sleep 0.3;
for my $c (@c) {
	like($c->smtp('RCPT TO:<reload@site.test>'), qr/^(?:250|503) /, 'all of them go on');
	$c->smtp('RSET');
	like($c->smtp('MAIL FROM:<y@site.test>'), qr/^250 /, 'and on');
}
counts('another/a' => 0, 'smtp/a' => 8);
like($_->smtp('QUIT'), qr/^221 /, 'QUIT') for @c;
counts('another/a' => 0, 'smtp/a' => 0);

my $gone = BMR::Client->new($gw->addr('another'));
$gone->reply;
my ($ip, $port) = split /:/, $at{a};
reload(smtp => { backends => { named => "localhost:$port", a => $at{a} } });
like($gone->reply, qr/^421 /, 'a session of a removed service is told');
is($gone->rest, '', 'and ends');
ok(!eval { BMR::Client->new($gw->{ip} . ':10029') }, 'its port is closed');
my ($named) = grep { $_->{name} eq 'named' } @{ $gw->bmr('backend', 'list')->{backends} };
ok($named && $named->{state} ne 'up', 'a backend by name is looked up (nothing listens there)');
session()->smtp('QUIT');
counts('smtp/a' => 0, 'smtp/named' => 0);
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');

# fewer warm processes, too
$gw = BMR::Gateway->new(net => $site->{net}, listeners => 1, services => { smtp => { backends => {%at}, more => 'warm = 12' } });
$gw->ready;
$version = 1;
reload(smtp => { backends => {%at}, more => 'warm = 2' });
for (1 .. 12) {
	my $c = session();
	$c->smtp('QUIT');
}
my $warm = $gw->bmr('status')->{services}[0]{warm};
cmp_ok($warm, '<=', 2, 'as many warm processes as the new file says');

# what is for a restart is not for processes that start later either
my $file = "$gw->{dir}/bmr.conf";
open(my $f, '<', $file) or die;
(my $text = do { local $/; <$f> }) =~ s{^(run|state)-dir = "[^"]*"}{$1-dir = "$gw->{dir}/elsewhere"}mg;
close $f;
BMR::Site::put($file, $text);
$gw->mark;
$gw->hup;
ok($gw->wait_log(qr/run-dir: .*takes effect with a restart/), 'another run-dir: the log says that it is for a restart');
kill 'KILL', $gw->pids(qr/^bmr: (?:admin|smtp\/listener)/);
my $up = 0;
for (1 .. 50) {
	last if $up = ($gw->bmr('status')->{gateway}{configuration_version} // 0) == 3;
	sleep 0.1;
}
ok($up, 'and a process that starts later is where the others are');
session()->smtp('QUIT');
$gw->stop;

# whose drain it is: the file's, or an operator's, which is kept
$gw = BMR::Gateway->new(net => $site->{net}, services => { smtp => { backends => {%at}, backend_more => 'drained = yes' } });
$gw->ready;
$version = 1;

sub drained { return join(' ', map { $_->{name} } grep { $_->{drained} } @{ $gw->bmr('backend', 'list')->{backends} }) }
is(drained(), 'a b', 'drained by the file');
$gw->bmr('backend', 'drain', 'smtp/a');
open($f, '<', "$gw->{dir}/state/drained") or die;
is(do { local $/; <$f> }, "smtp a\n", 'what an operator drained is kept, and nothing else');
close $f;
$gw->bmr('backend', 'ready', 'smtp/b');
reload(smtp => { backends => { b => $at{b} } });
reload(smtp => { backends => {%at} });
is(drained(), 'a', 'also of a backend that goes and comes again');
$gw->bmr('backend', 'ready', 'smtp/a');
reload(smtp => { backends => {%at} });
is(drained(), '', 'until it is ready');
$gw->stop;

# nobody there at the start: clients wait, and are refused for now; when one comes up they are served
my $alone = BMR::Gateway->new(net => $site->{net}, services => { smtp => { backends => { x => "$site->{net}.200:1" },
	more => qq(timeout {\n queue = "1s"\n }) } });
for (1 .. 100) {
	last if -S "$alone->{dir}/run/bmr.sock";
	sleep 0.05;
}
my $early = BMR::Client->new($alone->addr('smtp'));
like($early->reply, qr/^421 gw\.test /, 'no backend: 421 after the time to wait');
is($early->rest, '', 'and the end');
$alone->write_conf(smtp => { backends => { x => $at{a} }, more => qq(timeout {\n queue = "20s"\n }) });
my $waits = BMR::Client->new($alone->addr('smtp'));
$alone->hup;
like($waits->reply, qr/^(?:220|421) /, 'one who waited is answered');
ok($alone->wait_up('smtp/x'), 'the backend is up');
my $late = BMR::Client->new($alone->addr('smtp'));
like($late->reply, qr/^220 /, 'and clients are served');
$alone->stop;
$site->stop;
done_testing();
