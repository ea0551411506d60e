#!/usr/bin/perl
# What the policies let through: each version, cipher, suite, group and signature algorithm that openssl(1) knows, offered alone.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Temp qw(tempdir);
use Test::More;
use BMR::Gateway;
use BMR::Tap;
use BMR::Tls;

my $ca = BMR::Tls->new;
$ca->cert('ec');
$ca->cert('rsa', kind => 'rsa');
my $net = sprintf('127.%d.%d', 64 + ($$ >> 8) % 128, $$ % 256);
my $server = BMR::Tap->new(host => 'x', dir => tempdir('bmr-policy-XXXXXX', TMPDIR => 1, CLEANUP => 1), listen => "$net.5:11000", serve => sub {
	($_[1] // '') =~ /^CAPA/ ? "+OK\r\nUSER\r\nUIDL\r\nTOP\r\n.\r\n" : "+OK\r\n" });
my %at = (modern => "$net.1:10996", intermediate => "$net.1:10995");
my $gw = BMR::Gateway->new(net => $net, top => $ca->block('ec', 'rsa'), services => { map { $_ => { protocol => 'pop3', port => $_ eq 'modern' ? 10110 : 10111,
	backends => { x => "$net.5:11000" }, more => qq(tls {\n    certificates = {"ec", "rsa"}\n    policy = "$_"\n  }\n  listen-tls = {"$at{$_}"}) } } keys %at });
$gw->ready;

# What becomes of a handshake: taken, refused by the gateway, or not tried, since openssl(1) does not know how.
sub handshake {
	my ($policy, $args) = @_;
	my $out = `timeout 60 openssl s_client -connect $at{$policy} -servername gw.test -brief $args </dev/null 2>&1`;
	return $out =~ /^CONNECTION ESTABLISHED/m ? 'taken' : $out =~ /:\w+ alert |alert number|:unsupported protocol:/ ? 'refused' : 'not tried';
}

# Each of these alone, given to openssl(1) as %s in args; those of good are taken and all others refused.
sub only {
	my ($policy, $what, $args, $good, $least, @all) = @_;
	my %good = map { $_ => 1 } @$good;
	my (%is, %seen);
	for my $x (grep { !$seen{$_}++ } @$good, @all) {
		push @{ $is{ handshake($policy, sprintf($args, $x)) } }, $x;
	}
	is_deeply([sort @{ $is{taken} // [] }], [sort @$good], "$policy: $what: what is taken");
	my $refused = @{ $is{refused} // [] };
	cmp_ok($refused, '>=', $least, "... and $refused refused") or diag("not tried: @{ $is{'not tried'} // [] }");
	return;
}

my $weak = '@SECLEVEL=0';
my @versions = ('-tls1', '-tls1_1', '-tls1_2', '-tls1_3');
only('modern', 'versions', "%s -cipher 'ALL:$weak'", ['-tls1_3'], 3, @versions);
only('intermediate', 'versions', "%s -cipher 'ALL:$weak'", ['-tls1_2', '-tls1_3'], 2, @versions);

chomp(my @ciphers = split /:/, `openssl ciphers -s -tls1_2 'ALL:COMPLEMENTOFALL:$weak'`);
my @forward = map { my $kx = $_; map { "ECDHE-$kx-$_" } 'AES128-GCM-SHA256', 'AES256-GCM-SHA384', 'CHACHA20-POLY1305' } 'ECDSA', 'RSA';
only('modern', 'ciphers of TLS 1.2', "-tls1_2 -cipher '%s:$weak'", [], 50, @ciphers);
only('intermediate', 'ciphers of TLS 1.2', "-tls1_2 -cipher '%s:$weak'", \@forward, 50, @ciphers);

my @good = ('TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256');
my @suites = ('TLS_AES_128_CCM_SHA256', 'TLS_AES_128_CCM_8_SHA256', 'TLS_SHA256_SHA256', 'TLS_SHA384_SHA384');
only($_, 'suites of TLS 1.3', "-tls1_3 -cipher 'ALL:$weak' -ciphersuites %s", \@good, 2, @suites) for sort keys %at;

# by the names that openssl(1) has for elliptic curves, P-256 and P-384 among them, and those of the other groups
my @groups = ('X448', (map { "ffdhe$_" } 2048, 3072, 4096, 6144, 8192), `openssl ecparam -list_curves` =~ /^ *([\w-]+) *:/mg);
my @three = ('X25519', 'prime256v1', 'secp384r1');
only('modern', 'groups', "-cipher 'ALL:$weak' -groups %s", \@three, 7, @groups);
only('intermediate', 'groups', "-cipher 'ALL:$weak' -groups %s", \@three, 7, @groups);
only('intermediate', 'groups of TLS 1.2', "-tls1_2 -cipher 'ALL:$weak' -groups %s", \@three, 25, @groups);

my @broken = map { my $hash = $_; map { "$_+$hash" } 'RSA', 'ECDSA', 'RSA-PSS', 'DSA' } 'MD5', 'SHA1', 'SHA224';
my @signed = ('ecdsa_secp256r1_sha256', map { "rsa_pss_rsae_$_" } 'sha256', 'sha384', 'sha512');
my @pkcs1 = map { "rsa_pkcs1_$_" } 'sha256', 'sha384', 'sha512';
only('modern', 'signatures', "-cipher 'ALL:$weak' -sigalgs %s", \@signed, 5, @pkcs1, @broken);
only('intermediate', 'signatures of TLS 1.2', "-tls1_2 -cipher 'ALL:$weak' -sigalgs %s", [@signed, @pkcs1], 6, @broken);
only('intermediate', 'signatures of TLS 1.3', "-tls1_3 -cipher 'ALL:$weak' -sigalgs %s:ed25519", \@signed, 3, @pkcs1, @broken);

$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$server->stop;
done_testing();
