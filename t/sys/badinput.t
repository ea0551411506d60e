#!/usr/bin/perl
# Bad configuration, and hostile clients against real backends: each is answered or cut off, and no other feels it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Temp qw(tempdir);
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

my $bmrd = "$BMR::Gateway::build/bin/bmrd";
my $dir = tempdir('bmr-bad-XXXXXX', TMPDIR => 1, CLEANUP => 1);

sub try_conf {
	my ($text, @args) = @_;
	open(my $f, '>', "$dir/bmr.conf") or die;
	print $f $text;
	close $f;
	my $out = `$bmrd @args -f $dir/bmr.conf 2>&1 </dev/null`;
	return ($? >> 8, $out);
}

my $good = qq(state-dir = "$dir/state"\nrun-dir = "$dir/run"\nservice smtp {\n  listen = {"127.0.0.1:29925"}\n  backend a { address = "127.0.0.2:1" }\n}\n);
my ($code, $out) = try_conf($good, '-t');
is($code, 0, 'a good file is good');
is($out, "configuration ok\n", 'and said to be');
my @bad = (
	['an unknown key', "foo = 1\n$good", 1, qr/no such option 'foo'|foo/],
	['an unknown key in a service', $good =~ s/listen/listne/r, 4, qr/listne/],
	['a wrong unit', $good =~ s/backend a/timeout {\n    command = "5 parsecs"\n  }\n  backend a/r, 6, qr/parsecs.*expected/],
	['a number that is none', $good =~ s/backend a/limit {\n    recipients = "many"\n  }\n  backend a/r, 6, qr/many.*expected/],
	['no service', "state-dir = \"/x\"\n", undef, qr/expected service/],
	['no backend', $good =~ s/\n.*backend.*//r, undef, qr/expected backend/],
	['a bad port', $good =~ s/29925/99999/r, 4, qr/99999|expected/],
	['an unknown policy', $good =~ s/backend a/in-doubt = "guess"\n  backend a/r, undef, qr/guess.*expected/],
	['an open brace', "service smtp {\n", undef, qr/./],
);
for my $b (@bad) {
	my ($name, $text, $line, $re) = @$b;
	($code, $out) = try_conf($text, '-t');
	is($code, 78, "$name: exit 78") or diag($out);
	my $at = defined $line ? $line : '\d+';
	like($out, qr/^\Q$dir\E\/bmr\.conf:$at: /, "$name: file and line");
	like($out, $re, "$name: what it is");
	is(scalar(grep { !/^\S+bmr\.conf:\d+: / } split /\n/, $out), 0, "$name: one line for each fault") or diag($out);
}
$out = `$bmrd -t -f $dir/none.conf 2>&1`;
is($? >> 8, 66, 'a missing file: exit 66');
like($out, qr/^\Q$dir\E\/none\.conf: No such file/, 'and said');
($code, $out) = try_conf(qq(\nrelease-dir = "/nonexistent"\n$good), '-t');
is($code, 78, 'programs that are not there: exit 78');
like($out, qr/^\Q$dir\E\/bmr\.conf:2: release-dir = .*No such file/, 'and said');
mkdir "$dir/few";
($code, $out) = try_conf(qq(release-dir = "few"\n$good), '-F');
is($code, 69, 'nor are they at a start: exit 69');
like($out, qr/bmr\.conf: .*few\/bmr-fdstore: No such file/, 'and said');
my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 29925, Listen => 1, ReuseAddr => 1) or die;
($code, $out) = try_conf(qq(release-dir = "$BMR::Gateway::build/bin"\n$good), '-F');
is($code, 69, 'a port in use: exit 69');
like($out, qr/^.*bmr\.conf:5: cannot listen on 127\.0\.0\.1 port 29925: Address already in use$/m, 'and said');
close $taken;
`$bmrd -x 2>&1`;
is($? >> 8, 64, 'a wrong option: exit 64');

if (my $why = BMR::Site::possible()) {
	note($why);
	done_testing();
	exit 0;
}

my $site = BMR::Site->new(smtp => 1);
my $gw = BMR::Gateway->new(net => $site->{net}, services => {
	smtp => { backends => { map { $_ => $site->addr($_, 'smtp') } 'a', 'b' },
		more => qq(timeout {\n idle = "2s"\n content = "2s"\n }\n limit {\n recipients = "200"\n message = "300k"\n }) },
	pop3 => { backends => { map { $_ => $site->addr($_, 'pop3') } 'a', 'b' }, more => qq(timeout {\n idle = "2s"\n }) } });
$gw->ready;

sub smtp {
	my $c = BMR::Client->new($gw->addr('smtp'));
	$c->reply;
	$c->smtp('EHLO bad.test');
	return $c;
}

# Another session, which must go on as if nothing were.
sub fine {
	my ($what) = @_;
	my $c = smtp();
	my $ok = $c->smtp('MAIL FROM:<x@site.test>') =~ /^250/ && $c->smtp('RCPT TO:<fine@site.test>') =~ /^250/ && $c->smtp('DATA') =~ /^354/;
	$c->send("Subject: fine\r\n\r\nfine\r\n.\r\n") if $ok;
	ok($ok && $c->reply =~ /^250/, "$what: another session is fine");
	$c->smtp('QUIT');
	return;
}

my $c = smtp();
$c->send('x' x 65536) for 1 .. 80;
fine('5 of 10 MB without a line end');
$c->send('x' x 65536) for 1 .. 80;
like($c->reply, qr/^500 5\.5\.2 /, '10 MB without a line end: answered');
$c->send("\r\n");
like($c->smtp('NOOP'), qr/^250 /, 'the session goes on after it');
like($c->smtp('NOOP ' . 'y' x 3000), qr/^500 5\.5\.2 /, 'a line of 3000');
like($c->smtp("NOOP \0"), qr/^500 5\.5\.2 /, 'NUL');
like($c->smtp("NOOP\rNOOP"), qr/^500 5\.5\.2 /, 'a bare CR');
like($c->smtp('XCLIENT ADDR=1.2.3.4'), qr/^550 5\.7\.0 /, 'XCLIENT');
like($c->smtp('PROXY TCP4 1.2.3.4 1.2.3.4 1 1'), qr/^550 5\.7\.0 /, 'PROXY');
like($c->smtp('MAIL FROM:<x@site.test> FOO=bar'), qr/^555 5\.5\.4 /, 'an unknown parameter');
like($c->smtp('MAIL FROM:<x@site.test> SIZE=400000'), qr/^552 5\.3\.4 /, 'SIZE above the limit');
like($c->smtp("MAIL FROM:<j\xc3\xbcrgen\@site.test>"), qr/^553 5\.6\.7 /, '8-bit without SMTPUTF8');
like($c->smtp('MAIL FROM:<a b@site.test>'), qr/^501 /, 'a space in a path');
like($c->smtp('DATA'), qr/^503 /, 'DATA first');
like($c->smtp('RCPT TO:<x@site.test>'), qr/^503 /, 'RCPT first');
$c->close;

$c = smtp();
$c->smtp("BOGUS $_") for 1 .. 19;
like($c->smtp('BOGUS 20'), qr/^500 /, 'the twentieth error');
like($c->reply, qr/^421 4\.7\.0 /, 'ends the session');
is($c->rest, '', 'ended');

$c = BMR::Client->new($gw->addr('smtp'));
$c->reply;
like($c->smtp('GET / HTTP/1.1'), qr/^221 2\.7\.0 /, 'HTTP');
is($c->rest, '', 'ended');

$c = smtp();
$c->smtp('MAIL FROM:<x@site.test>');
$c->smtp('RCPT TO:<early@site.test>');
$c->send("DATA\r\nSubject: early\r\n\r\nx\r\n.\r\n");
like($c->reply, qr/^554 5\.5\.0 /, 'content before the 354');
is($c->rest, '', 'ended');

$c = smtp();
$c->smtp('MAIL FROM:<x@site.test>');
$c->smtp('RCPT TO:<big@site.test>');
$c->smtp('DATA');
$c->send(("y" x 998 . "\r\n") x 500 . ".\r\n");
like($c->reply, qr/^552 5\.3\.4 /, 'a message above the limit');
like($c->smtp('MAIL FROM:<x@site.test>'), qr/^250 /, 'and the next is fine');
$c->smtp('RCPT TO:<big@site.test>');
$c->smtp('DATA');
$c->send("Subject: x\r\n\r\n" . 'z' x 70_000 . "\r\n.\r\n");
like($c->reply, qr/^550 5\.6\.0 /, 'a text line of 70,000');
$c->smtp('MAIL FROM:<x@site.test>');
$c->smtp('RCPT TO:<big@site.test>');
$c->smtp('DATA');
$c->send("Received: x\r\n" x 101 . "\r\n\r\n.\r\n");
like($c->reply, qr/^554 5\.4\.6 /, 'a loop');
$c->close;

# 100,000 recipients in one pipelined flood, replies read as they come
$c = smtp();
$c->smtp('MAIL FROM:<x@site.test>');
my $pid = fork() // die;
if ($pid == 0) {
	$SIG{PIPE} = 'IGNORE';
	eval { $c->send(join('', map { "RCPT TO:<r$_\@site.test>\r\n" } 1 .. 1000)) or last for 1 .. 100 };
	POSIX::_exit(0);
}
my %n;
while ((my $l = $c->line) ne '') { $n{ substr($l, 0, 3) }++ }
kill 'KILL', $pid;
waitpid($pid, 0);
is($n{250}, 200, '100,000 RCPTs: as many accepted as the limit says');
cmp_ok($n{452}, '>', 999, 'the others refused for now');
cmp_ok($n{452}, '<', 2000, 'and cut off');
is($n{421}, 1, 'with 421');
fine('100,000 RCPTs');

$c = smtp();
my ($t, $cut) = (time(), 0);
while (time() - $t < 15 && !$cut) {
	$c->send('N') or last;
	$cut = !$c->silent(0.5);
}
like($c->reply, qr/^421 4\.4\.2 /, 'a command an octet at a time: cut off');
$c = smtp();
$c->smtp('MAIL FROM:<x@site.test>');
$c->smtp('RCPT TO:<slow@site.test>');
$c->smtp('DATA');
($t, $cut) = (time(), 0);
while (time() - $t < 15 && !$cut) {
	$c->send('N') or last;
	$cut = !$c->silent(0.5);
}
like($c->reply, qr/^421 4\.4\.2 /, 'content an octet at a time: cut off');
is($c->rest, '', 'ended');
fine('slow clients');

$c = BMR::Client->new($gw->addr('pop3'));
$c->line;
$c->send('x' x 65536) for 1 .. 160;
like($c->line, qr/^-ERR /, 'POP3: 10 MB without a line end');
$c->send("\r\n");
like($c->cmd('CAPA'), qr/^\+OK/, 'the session goes on');
$c->body;
like($c->cmd('STAT'), qr/^-ERR/, 'STAT before login');
like($c->cmd('APOP x y'), qr/^-ERR/, 'APOP is not offered');
like($c->cmd("USER \0"), qr/^-ERR/, 'NUL');
my $last = '';
for (1 .. 40) {
	my $l = $c->cmd('BOGUS');
	last if $l eq '';
	$last = $l;
}
like($last, qr/^-ERR/, 'too many errors');
is($c->rest, '', 'end the session');
fine('POP3');

my $conf = do { local $/; open(my $f, '<', "$gw->{dir}/bmr.conf"); <$f> };
open(my $f, '>>', "$gw->{dir}/bmr.conf");
print $f "bogus = 1\n";
close $f;
$gw->mark;
$gw->hup;
ok($gw->wait_log(qr/bmr\.conf:\d+: .*bogus/) && $gw->wait_log(qr/configuration not changed/), 'a bad file on SIGHUP: said');
fine('and changes nothing');
open($f, '>', "$gw->{dir}/bmr.conf");
print $f $conf;
close $f;
$gw->mark;
$gw->hup;
ok($gw->wait_log(qr/configuration version 2 in use/), 'a good file is taken');
fine('after a reload');
unlike($gw->log, qr/signal|crash|core/, 'nothing crashed');
$gw->stop;
$site->stop;
done_testing();
