#!/usr/bin/perl
# The run directory belongs to the user of the processes: what he puts in the place of the pid file is not written to.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Temp qw(tempdir);
use Test::More;
use BMR::Bare;
use BMR::Gateway;
use BMR::Site;

my $dir = tempdir('bmr-pid-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $net = BMR::Site::network();
mkdir "$dir/run" or die;
BMR::Site::put("$dir/precious", "precious\n");
symlink "$dir/precious", "$dir/run/bmrd.pid" or die;
BMR::Bare::conf($dir, <<"EOT");
service smtp {
  listen = {"$net.1:10025"}
  backend a { address = "$net.2:25" }
}
EOT
is(system("timeout 10 $BMR::Gateway::build/bin/bmrd -F -f $dir/bmr.conf 2>/dev/null") >> 8, 73, 'a link is no pid file');
is(-s "$dir/precious", 9, 'what it leads to is as it was');

system('sed', '-i', "s|^state-dir.*|state-dir = \"$dir/precious\"|", "$dir/bmr.conf");
unlink "$dir/run/bmrd.pid";
is(system("timeout 10 $BMR::Gateway::build/bin/bmrd -F -f $dir/bmr.conf 2>/dev/null") >> 8, 73, 'a file is no state directory');
done_testing();
