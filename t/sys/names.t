#!/usr/bin/perl
# Backends by name: of several addresses one that serves is found, of either family; a name without one is told once, and a name
# server that is silent holds up nobody else.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Temp qw(tempdir);
use IO::Socket::IP;
use JSON::PP;
use Test::More;
use Time::HiRes qw(sleep);
use BMR::Bare;
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
if (!-e '/etc/resolv.conf' || system('unshare -m true 2>/dev/null') != 0) { plan skip_all => 'needs a mount namespace for its own /etc/hosts' }
my $site = BMR::Site->new(hosts => ['a']);
my $dir = tempdir('bmr-names-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my ($ip, $port) = split /:/, $site->addr('a', 'pop3');
BMR::Site::put("$dir/hosts", "127.0.0.1 localhost\n$site->{net}.98 several.test\n$site->{net}.99 several.test\n$ip several.test\n::1 both.test\n$ip both.test\n");
# a name server that says nothing, and a name that none need be asked for
my $dns = IO::Socket::IP->new(LocalHost => "$site->{net}.97", LocalPort => 53, Proto => 'udp') or die "$@";
BMR::Site::put("$dir/resolv.conf", "nameserver $site->{net}.97\noptions timeout:30 attempts:1\n");
my $long = 'x' x 70 . '.test';
BMR::Bare::conf($dir, <<"EOT");
service pop3 {
  listen = {"$site->{net}.1:10110"}
  auth-plaintext = yes
  backend silent { address = "silent.test:$port" }
  backend several { address = "several.test:$port" }
  backend both { address = "both.test:$port" }
  backend nameless { address = "$long:$port" }
  health { interval = "300ms"  rise = 1  fall = 1 }
}
EOT
my $pid = BMR::Bare::start($dir, before => ['unshare', '-m', 'sh', '-c',
	"mount --bind $dir/hosts /etc/hosts && mount --bind $dir/resolv.conf /etc/resolv.conf && exec \"\$@\"", 'sh']);

sub bmr {
	my $out = qx($BMR::Gateway::build/bin/bmr -j -s $dir/run/bmr.sock @_ 2>/dev/null);
	return $out ? decode_json($out) : {};
}

sub log_text { return BMR::Bare::log($dir) }
my %state;
for (1 .. 200) {
	%state = map { ($_->{name} => $_->{state}) } @{ bmr('backend', 'list')->{backends} // [] };
	last if ($state{several} // '') eq 'up' && ($state{both} // '') eq 'up' && log_text() =~ /$long:/;
	sleep 0.1;
}
unlike(log_text(), qr/pop3\/silent: silent/, 'nobody waits for the answer to another name');
is($state{several}, 'up', 'the third address of a name serves') or diag(log_text());
is($state{both}, 'up', 'IPv4 of one that has both, or IPv6');
is($state{nameless}, 'unknown', 'one without an address is not known');
bmr('reload');
sleep 1;
my @said = log_text() =~ m{backend pop3/nameless: $long: \S}g;
is(@said, 1, 'which the log says, once');
my $c = BMR::Client->new("$site->{net}.1:10110");
$c->line;
$c->cmd('USER names');
like($c->cmd('PASS secret'), qr/^\+OK/, 'sessions go there');
kill 'TERM', $pid;
waitpid($pid, 0);
$site->stop;
done_testing();
