#!/usr/bin/perl
# Where log lines go: whole lines to a stream, as systemd(1) gives one for stderr; to syslog, also to one that was started later or again.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Temp qw(tempdir);
use IO::Select;
use Socket;
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Bare;
use BMR::Gateway;
use BMR::Site;

my $dir = tempdir('bmr-log-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $net = BMR::Site::network();
my $bin = "$BMR::Gateway::build/bin";
BMR::Bare::conf($dir, <<"EOT");
service smtp {
  listen = {"$net.1:10025"}
  backend a { address = "$net.2:25" }
}
EOT

socketpair(my $ours, my $theirs, AF_UNIX, SOCK_STREAM, 0) or die;
my $pid = BMR::Bare::start($dir, verbose => 1, stderr => $theirs);
close $theirs;
my $text = '';
my $until = time() + 30;
while (time() < $until && $text !~ /backend smtp\/a is down/) {
	sysread($ours, $text, 4096, length $text) || last if IO::Select->new($ours)->can_read(1);
}
kill 'TERM', $pid;
$text .= $_ while <$ours>;
waitpid($pid, 0);
my @odd = grep { !/^==\d+==/ && !/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ bmr\/[\w\/-]+\[\d+\]: [^<]/ } split /\n/, $text;	# but for a word of a sanitizer at an end
like($text, qr/backend smtp\/a is down/, 'stderr is a stream socket: lines come');
is_deeply(\@odd, [], 'each by itself');

# Who reads stderr may stop to read.
pipe(my $out, my $in) or die;
$pid = BMR::Bare::start($dir, verbose => 1, stderr => $in);
close $in;
sub version { return qx($bin/bmr -j -s $dir/run/bmr.sock reload 2>/dev/null) =~ /"configuration_version": (\d+)/ ? $1 : 0 }
for (1 .. 100) {
	last if version();
	sleep 0.1;
}
my $more = 'x' x 190;
for (1 .. 150) {
	system("$bin/bmr -s $dir/run/bmr.sock --reason $more reload >/dev/null 2>&1") == 0 or last;
}
cmp_ok(version(), '>', 150, 'a pipe that nobody reads is full: the gateway goes on');
kill 'TERM', $pid;
my $ended = 0;
for (1 .. 200) {
	last if $ended = waitpid($pid, 1) == $pid;
	sleep 0.05;
}
ok($ended, 'and stops when it is told to');
if (!$ended) {
	my $all;
	sysread($out, $all, 1 << 20);
	waitpid($pid, 0);
}
close $out;

SKIP: {
	skip 'needs root for /dev/log', 3 if $> != 0;
	skip 'a syslogd runs here', 3 if -e '/dev/log';
	my $started = system("$bin/bmrd -v -f $dir/bmr.conf");
	is($started, 0, 'in the background without a syslogd');
	for my $which ('started later', 'started again') {
		socket(my $log, AF_UNIX, SOCK_DGRAM, 0) or die;
		unlink '/dev/log';
		bind($log, sockaddr_un('/dev/log')) or die "/dev/log: $!";
		chmod 0666, '/dev/log';
		my ($got, $line) = (0, '');
		for (1 .. 20) {
			system("$bin/bmr -s $dir/run/bmr.sock reload >/dev/null 2>&1");
			while (IO::Select->new($log)->can_read(0.3)) {
				recv($log, $line, 4096, 0) // last;
				$got ||= $line =~ /^<\d+>bmr\/bmrd\[\d+\]: configuration version/;
			}
			last if $got;
		}
		ok($got, "a syslogd that is $which gets the lines");
		close $log;
	}
	unlink '/dev/log';
	open(my $f, '<', "$dir/run/bmrd.pid") or die;
	chomp(my $bmrd = <$f>);
	kill 'TERM', $bmrd;
	for (1 .. 300) {
		last if !BMR::Site::alive($bmrd);
		sleep 0.05;
	}
}
done_testing();
