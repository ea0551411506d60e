#!/usr/bin/perl
# Which certificate a client gets, and what is told of those that are not as they should be.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Temp qw(tempdir);
use JSON::PP;
use Test::More;
use Time::HiRes qw(sleep);
use BMR::Bare;
use BMR::Gateway;
use BMR::Site;
use BMR::Tls;

my $ca = BMR::Tls->new;
my $d = $ca->{dir};
my $dir = tempdir('bmr-certificates-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $net = BMR::Site::network();
my (%port, $blocks, $services);

# The list of a service, in its order; the blocks stand in the order of the alphabet.
sub service {
	my ($name, @certs) = @_;
	$port{$name} = 10990 + keys %port;
	my $list = join ', ', map { qq("$_") } @certs;
	$services .= qq(service $name {\n  protocol = "pop3"\n  listen-tls = {"$net.1:$port{$name}"}\n  tls { certificates = {$list} }\n) .
	    qq(  backend a { address = "$net.2:110" }\n}\n);
	return;
}

# Whose certificate a client gets; '' is none.
sub gets {
	my ($service, $args) = @_;
	my $out = `timeout 30 openssl s_client -connect $net.1:$port{$service} -CAfile $d/ca.pem $args 2>&1 </dev/null`;
	return $out =~ /^subject=CN = (\S+)/m ? $1 : '';
}

sub bmr { return decode_json(scalar `$BMR::Gateway::build/bin/bmr -j -s $dir/run/bmr.sock @_`) }
sub certificate { my ($name) = @_; return (grep { $_->{certificate} eq $name } @{ bmr('tls', 'list')->{certificates} })[0] }

my ($ec, $rsa) = ('-sigalgs ecdsa_secp256r1_sha256', '-sigalgs rsa_pss_rsae_sha256');
$ca->cert('ec', cn => 'ec.test');
$ca->cert('rsa', cn => 'rsa.test', kind => 'rsa');
service('rsafirst', 'rsa', 'ec');
service('ecfirst', 'ec', 'rsa');
$ca->cert('aa', cn => 'aa.test', san => 'DNS:aa.test,DNS:both.test');
$ca->cert('bb', cn => 'bb.test', san => 'DNS:bb.test,DNS:both.test');
$ca->cert('cc', cn => 'cc.test', san => 'DNS:cc.test,DNS:both.test', kind => 'rsa');
service('same', 'rsa', 'bb', 'aa');
service('pair', 'cc', 'ec', 'bb', 'aa', 'bb');
$ca->cert('wild', cn => 'wild', san => 'DNS:*.wild.test');
$ca->cert('exact', cn => 'exact', san => 'DNS:exact.wild.test');
$ca->cert('mail', cn => 'mail', san => 'DNS:mail.wild.test,DNS:exact.wild.test', kind => 'rsa');
service('wild', 'wild', 'mail', 'exact');
BMR::Bare::conf($dir, $ca->block('aa', 'bb', 'cc', 'ec', 'exact', 'mail', 'rsa', 'wild') . $services);
my $pid = BMR::Bare::start($dir);
for (1 .. 200) {
	last if gets('wild', '') ne '';
	sleep 0.1;
}

# --- the order of the list -----------------------------------------------------------------------------------------------
is(gets('rsafirst', '-noservername'), 'rsa.test', 'no name gets the first of the list, RSA');
is(gets('ecfirst', '-noservername'), 'ec.test', 'or ECDSA');
is(gets('rsafirst', '-servername nobody.test'), 'rsa.test', 'and so does an unknown one');
is(gets('rsafirst', "-noservername $ec"), '', 'another one that shares no name with the first is not its pair');
is(gets('rsafirst', '-servername ec.test'), 'ec.test', 'but there by its own name');
is(gets('same', '-servername both.test'), 'bb.test', 'of two with one name the first of the list counts');
is(gets('pair', "-noservername $rsa"), 'cc.test', 'the first of the list');
is(gets('pair', "-noservername $ec"), 'bb.test', 'and the first of the other kind that has a name of it');

# --- wildcards ---------------------------------------------------------------------------------------------------------------
is(gets('wild', "-servername mail.wild.test $ec"), 'wild', 'ECDSA by wildcard, where RSA has the name');
is(gets('wild', "-servername mail.wild.test $rsa"), 'mail', 'which gets its own');
is(gets('wild', "-servername MAIL.wild.test. $ec"), 'wild', 'however it is written');
is(gets('wild', "-servername exact.wild.test $ec"), 'exact', 'the name itself before the wildcard');
is(gets('wild', "-servername other.wild.test $ec"), 'wild', 'any other name gets the wildcard');
is(gets('wild', "-servername other.wild.test $rsa"), '', 'which has no RSA');
is(gets('wild', "-noservername $rsa"), 'mail', 'a name that one has by wildcard is shared');

kill 'TERM', $pid;
waitpid($pid, 0);
unlike(BMR::Bare::log($dir), qr/ERROR: \w+Sanitizer|runtime error:/, 'the sanitizers find nothing');
done_testing();
