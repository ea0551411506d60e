#!/usr/bin/perl
# Kills the listener after a system call that a session's process has made, in a session with STARTTLS and a message that needs a file:
# the client gets the same octets each time, and the store has each message once. Every fourth call, from one on that differs from
# run to run, as slowly as the supervisor allows; every one in the long form (BMR_SOAK).
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use IO::Handle;
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;
use BMR::Tls;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $killat = "$BMR::Gateway::build/t/lib/killat";
plan skip_all => 'killat is not built: make check does' if !-x $killat;
my ($first, $step) = $ENV{BMR_SOAK} ? (1, 1) : (1 + int(rand 4), 4);
my $site = BMR::Site->new(smtp => 1);
my $ca = BMR::Tls->new;
$ca->cert('gw', cn => 'gw.test', san => 'DNS:gw.test');
my $tls = { mode => 'starttls', ca => $ca->file('ca.pem') };
my $gw = BMR::Gateway->new(net => $site->{net}, tls => $tls, top => $ca->block('gw'), services => { smtp => {
	backends => { map { $_ => $site->addr($_, 'smtp') } 'a', 'b' }, more => 'warm = 1', health => qq(interval = "600s"\n    fall = 1\n    rise = 1) } });
$gw->ready;
$SIG{PIPE} = 'IGNORE';
diag("from call $first on, each ${step}th");

my $line = "the quick brown fox jumps over the lazy dog\r\n";
my $message = "Subject: walk\r\nMessage-ID: <m\@test>\r\nFrom: x\@site.test\r\nDate: Tue, 24 Nov 2026 00:00:00 +0000\r\n\r\n" . $line x 26_000;

sub born {
	my ($pid) = @_;
	open(my $f, '<', "/proc/$pid/stat") or return 0;
	return (split ' ', (<$f> // '') =~ s/.*\) //r)[19];
}

# The warm process whose turn is next and the listener of now; dies if they do not come to be.
sub pair {
	my $until = time() + 20;
	while (time() < $until) {
		my @warm = sort { born($a) <=> born($b) || $a <=> $b } $gw->pids(qr/session \(warm\)/);
		my @l = $gw->pids(qr{^bmr: smtp/listener});
		return ($warm[0], $l[0]) if @warm && @l == 1;
		sleep 0.01;
	}
	die "no warm process\n";
}

sub dialogue {
	my ($c, $n) = @_;
	$c->begin_tls($tls);
	my $greeting = $c->reply;
	$greeting =~ /^220/ or die "reply $greeting";
	sleep 0.4 if $n / $step % 2;		# the fdstore knows it then
	return $c->whole_message("l$n\@site.test", $message);
}

my (@wrong, @told, $said);
for (my $n = $first; $n < 1000; $n += $step) {
	my $began = time();
	$site->mailbox("l$n");
	my ($session, $listener) = pair();
	my $pid = open(my $out, '-|', $killat, $session, $n, $listener) // die "killat: $!";
	(<$out> // '') eq "ready\n" or die "killat has no hold\n";
	my $c = BMR::Client->new($gw->addr('smtp'));
	eval { dialogue($c, $n); 1 } ? push @told, $n : push @wrong, "after call $n: " . $@ =~ s/\n.*//sr;
	$c->close;
	$said = <$out> // '';
	close $out;
	last if $said !~ /^killed/ || @wrong > 5;
	my $left = 1.3 - (time() - $began);
	sleep $left if $left > 0;
}
is_deeply(\@wrong, [], 'the client gets what it should after each of ' . @told . ' deaths');
like($said, qr/^ended/, 'up to the end of the session');
cmp_ok(scalar @told, '>', 60 / $step, 'there were some');
$site->flush;
my %copies = map { $_ => [$site->messages("l$_")] } @told;
is_deeply([grep { !@{ $copies{$_} } } @told], [], 'no message is lost');
is_deeply([grep { @{ $copies{$_} } > 1 } @told], [], 'none is there twice');
is_deeply([grep { index($copies{$_}[0] // '', $message) < 0 } @told], [], 'all are whole');
$gw->stop;
is_deeply($gw->{left}, [], 'no process is left');
done_testing();
