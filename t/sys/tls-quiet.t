#!/usr/bin/perl
# TLS with backends where the keeper of keys has had no reason to look at a date: no certificates, and no -v that has it log.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Temp qw(tempdir);
use Test::More;
use Time::HiRes qw(sleep);
use BMR::Bare;
use BMR::Site;
use BMR::Tls;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $ca = BMR::Tls->new;
$ca->cert('gw');
my $d = $ca->{dir};
my $site = BMR::Site->new(hosts => ['a'], dovecot => { a => "ssl = yes\nssl_cert = <$d/gw.pem\nssl_key = <$d/gw.key\n" });
my $dir = tempdir('bmr-quiet-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $to = $site->addr('a', 'pop3');
BMR::Bare::conf($dir, <<"EOT");
service pop3 {
  listen = {"$site->{net}.1:10110"}
  backend good { address = "$to"  tls { mode = "starttls"  name = "gw.test"  ca = "$d/ca.pem" } }
  backend named { address = "$to"  tls { mode = "starttls"  name = "another.test"  ca = "$d/ca.pem" } }
  health { interval = "500ms"  rise = 1 }
}
EOT
delete $ENV{TZ};
my $pid = BMR::Bare::start($dir);
sub log_text { return BMR::Bare::log($dir) }
for (1 .. 200) {
	last if log_text() =~ m{backend pop3/good is up} && log_text() =~ m{backend pop3/named is down};
	sleep 0.1;
}
kill 'TERM', $pid;
waitpid($pid, 0);
like(log_text(), qr{backend pop3/good is up}, 'a backend with a good certificate is up');
like(log_text(), qr{backend pop3/named is down: TLS: certificate: \S.*mismatch}, 'of one with another name that is said');
unlike(log_text(), qr/died of signal/, 'and no tls process dies of it');
$site->stop;
done_testing();
