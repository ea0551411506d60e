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
my (%port, @all, $services);

# The list of a service, in its order; the blocks stand in the order of the alphabet.
sub service {
	my ($name, @certs) = @_;
	push @all, @certs;
	$port{$name} = 10990 + keys %port;
	my $list = join ', ', map { qq("$_") } @certs;
	$services .= qq(service $name {\n  protocol = "pop3"\n  listen-tls = {"$net.1:$port{$name}"}\n  tls { certificates = {$list} }\n) .
	    qq(  backend a { address = "$net.2:110" }\n}\n);
	return;
}

# Whose certificate a client gets; '' is none.
sub gets {
	my ($service, $args) = @_;
	return shake(@_) =~ /^subject=CN = (\S+)/m ? $1 : '';
}

sub shake { my ($service, $args) = @_; return `timeout 30 openssl s_client -connect $net.1:$port{$service} -CAfile $d/ca.pem $args 2>&1 </dev/null` }

sub bmr { return decode_json(scalar `$BMR::Gateway::build/bin/bmr -j -s $dir/run/bmr.sock @_`) }
sub certificate { my ($name) = @_; return (grep { $_->{certificate} eq $name } @{ bmr('tls', 'list')->{certificates} })[0] }

# Waits until it has that state and fault; both, for a message.
sub becomes {
	my ($name, $state, $fault) = @_;
	my $c;
	for (1 .. 300) {
		$c = certificate($name);
		last if $c->{state} eq $state && $c->{fault} =~ $fault;
		sleep 0.2;
	}
	return "$c->{state}: $c->{fault}";
}

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

my $soon = time() + 30;		# for what is still good when the gateway starts
my %ocsp = (good => {}, revoked => { revoked => 1 }, unknown => { nothing => 1 }, old => { until => time() - 86400 }, aging => { until => $soon });
for my $name (sort keys %ocsp) {
	$ca->cert("o$name", cn => "$name.test");
	$ca->ocsp("o$name", %{ $ocsp{$name} });
}
$ca->cert('oother', cn => 'other.test');
system('cp', "$d/ogood.ocsp", "$d/oother.ocsp");
service('ocsp', map { "o$_" } sort('other', keys %ocsp));

$ca->cert('inter', cn => 'inter.test', ca => 1, days => 3);
$ca->cert('interwas', cn => 'was.test', ca => 1, days => 0);
$ca->cert('interends', cn => 'ends.test', ca => 1, until => $soon);
$ca->cert('ksoon', cn => 'soon.test', issuer => 'inter');
$ca->cert('kwas', cn => 'was.test', issuer => 'interwas');
$ca->cert('kends', cn => 'ends.test', issuer => 'interends');
$ca->cert('kstranger', cn => 'stranger.test', issuer => 'inter');
system("cat $d/kstranger.one $d/oother.one >$d/kstranger.pem");
service('chain', 'kends', 'ksoon', 'kstranger', 'kwas');
my %seen;
(my $blocks = $ca->block(grep { !$seen{$_}++ } sort @all)) =~ s/(certificate (o\w+) \{)/$1\n  ocsp = "$d\/$2.ocsp"/g;
BMR::Bare::conf($dir, $blocks . $services);
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

# --- OCSP responses ----------------------------------------------------------------------------------------------------------
sub stapled { my ($name) = @_; return shake('ocsp', "-status -servername $name.test") =~ /OCSP Response Status: successful/ ? 1 : 0 }

is(stapled('good'), 1, 'a response that says good is stapled');
is(becomes('ogood', 'good', qr/^$/), 'good: ', 'and nothing is wrong with it');
for my $x ([ revoked => 'its OCSP response says that it is revoked, and is not stapled' ],
	[ unknown => 'its OCSP response says that it is unknown, and is not stapled' ],
	[ old => 'its OCSP response is too old to be stapled' ], [ other => 'its OCSP response is for another certificate and not stapled' ]) {
	is(stapled($x->[0]), 0, "$x->[0]: it is not stapled");
	is(certificate("o$x->[0]")->{fault}, $x->[1], 'bmr tls list says why');
	like(BMR::Bare::log($dir), qr/certificate o$x->[0]: \Q$x->[1]\E$/m, 'and so does the log');
}

# --- chains --------------------------------------------------------------------------------------------------------------------
my $list = certificate('ksoon');
is($list->{state}, 'expires soon', 'a chain that ends before its certificate');
cmp_ok($list->{days_left}, '<=', 3, 'what is left is its time');
like(BMR::Bare::log($dir), qr/certificate 2 of the chain of ksoon expires in \d days$/m, 'and the log says so');
$list = certificate('kwas');
is("$list->{state}: $list->{fault}", 'expired: certificate 2 of the chain has expired', 'one that has ended');
is(certificate('kstranger')->{fault}, 'certificate 2 of the chain did not issue the one before it', 'one that belongs to another');

# --- what time brings ----------------------------------------------------------------------------------------------------------
is(becomes('oaging', 'good', qr/./), 'good: its OCSP response is too old to be stapled', 'a response that gets too old in use');
is(stapled('aging'), 0, 'is stapled no more');
is(becomes('kends', 'expired', qr/./), 'expired: certificate 2 of the chain has expired', 'a chain that ends in use');
my $count = bmr('status')->{certificates};
is("$count->{expiring} $count->{expired} $count->{faulty}", '1 2 8', 'bmr status counts them all');

kill 'TERM', $pid;
waitpid($pid, 0);
unlike(BMR::Bare::log($dir), qr/ERROR: \w+Sanitizer|runtime error:/, 'the sanitizers find nothing');
done_testing();
