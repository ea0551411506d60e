package BMR::Tls;
# A certificate authority for a test: certificates of every kind in one directory, made by openssl(1).
use strict;
use warnings;
use File::Temp qw(tempdir);
use File::Path qw(remove_tree);
use IO::Select;
use IPC::Open2;
use POSIX qw(strftime);

sub new {
	my ($class) = @_;
	my $dir = tempdir('bmr-tls-XXXXXX', TMPDIR => 1, CLEANUP => 0);
	chmod 0755, $dir;
	my $t = bless { dir => $dir, owner => $$, serial => 1 }, $class;
	$t->run('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '30', '-subj', '/CN=Test CA',
		'-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign,cRLSign',
		'-keyout', "$dir/ca.key", '-out', "$dir/ca.pem");
	return $t;
}

sub run {
	my ($t, @cmd) = @_;
	my $pid = fork() // die;
	if ($pid == 0) {
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>>', "$t->{dir}/openssl.log");
		open(STDERR, '>>', "$t->{dir}/openssl.log");
		exec('openssl', @cmd) or POSIX::_exit(127);
	}
	waitpid($pid, 0);
	die "openssl @cmd: see $t->{dir}/openssl.log\n" if $?;
	return;
}

# openssl s_client: all that it prints. A line is said when what was said before is answered and no more comes for a moment;
# without STARTTLS there is a greeting first.
sub s_client {
	my ($t, $addr, $args, @lines) = @_;
	my $pid = open2(my $out, my $in, "exec timeout 60 openssl s_client -connect $addr -CAfile $t->{dir}/ca.pem -ign_eof $args 2>&1");
	my $sel = IO::Select->new($out);
	my ($all, $since, $wait) = ('', '', $args =~ /starttls/ ? qr/^verify return/m : qr/^(?:220|\+OK|\* OK) /m);
	local $SIG{PIPE} = 'IGNORE';
	while ($sel->can_read(60) && sysread($out, my $more, 65536)) {
		$all .= $more;
		$since .= $more;
		next if !@lines || $since !~ $wait || $sel->can_read(0.2);
		syswrite($in, shift(@lines) . "\r\n");
		($since, $wait) = ('', qr/\n/);
	}
	close $in;
	waitpid($pid, 0);
	return $all;
}

# cert(NAME, kind => ec|rsa, cn => ..., san => "DNS:a,DNS:b", days => n or until => seconds, issuer => NAME, ca => 1):
# NAME.pem (with chain) and NAME.key
sub cert {
	my ($t, $name, %o) = @_;
	my $d = $t->{dir};
	my @key = ($o{kind} // 'ec') eq 'rsa' ? ('rsa:2048') : ('ec', '-pkeyopt', 'ec_paramgen_curve:P-256');
	my $cn = $o{cn} // 'gw.test';
	$t->run('req', '-new', '-newkey', @key, '-nodes', '-subj', $o{subject} // "/CN=$cn", '-keyout', "$d/$name.key", '-out', "$d/$name.csr");
	open(my $f, '>', "$d/$name.ext") or die;
	print $f $o{ca} ? "basicConstraints=critical,CA:TRUE\n" : 'subjectAltName=' . ($o{san} // "DNS:$cn") . "\n";
	close $f;
	my ($issuer, $issuer_key) = $o{issuer} ? ("$d/$o{issuer}.one", "$d/$o{issuer}.key") : ("$d/ca.pem", "$d/ca.key");
	if (($o{days} // 30) > 0 && !$o{until}) {
		$t->run('x509', '-req', '-in', "$d/$name.csr", '-CA', $issuer, '-CAkey', $issuer_key, '-set_serial', ++$t->{serial},
			'-days', $o{days} // 30, '-extfile', "$d/$name.ext", '-out', "$d/$name.one");
	} else {	# one that has expired, or soon will have: only ca(1) takes dates
		mkdir "$d/$name.ca";
		open($f, '>', "$d/$name.ca/index") or die;
		close $f;
		open($f, '>', "$d/$name.ca/cnf") or die;
		print $f "[ca]\ndefault_ca=x\n[x]\ndatabase=$d/$name.ca/index\nnew_certs_dir=$d/$name.ca\nserial=$d/$name.ca/serial\n" .
		    "default_md=sha256\npolicy=p\n[p]\ncommonName=optional\n";
		close $f;
		open($f, '>', "$d/$name.ca/serial") or die;
		print $f "4000\n";
		close $f;
		$t->run('ca', '-batch', '-notext', '-config', "$d/$name.ca/cnf", '-in', "$d/$name.csr", '-cert', $issuer, '-keyfile', $issuer_key,
			'-startdate', '20200101000000Z', '-enddate', $o{until} ? stamp($o{until}) : '20200201000000Z', '-extfile', "$d/$name.ext",
			'-out', "$d/$name.one");
	}
	my $pem = '';
	for my $p ("$d/$name.one", $o{no_chain} ? () : $o{issuer} ? "$d/$o{issuer}.pem" : "$d/ca.pem") {
		open(my $h, '<', $p) or die;
		local $/;
		$pem .= <$h>;
	}
	open(my $out, '>', "$d/$name.pem.new") or die;
	print $out $pem;
	close $out;
	rename "$d/$name.pem.new", "$d/$name.pem";
	return "$d/$name.pem";
}

sub stamp { my ($s) = @_; return strftime('%Y%m%d%H%M%SZ', gmtime($s)) }

# NAME.ocsp: a response that says NAME is good, or revoked => 1, or about nothing => 1 it knows; for a day, or until => seconds
sub ocsp {
	my ($t, $name, %o) = @_;
	my $d = $t->{dir};
	chomp(my $serial = `openssl x509 -in $d/$name.one -noout -serial`);
	$serial =~ s/.*=//;
	open(my $f, '>', "$d/$name.index") or die;
	print $f $o{revoked} ? "R\t401231235959Z\t200101000000Z\t$serial\tunknown\t/CN=x\n" : "V\t401231235959Z\t\t$serial\tunknown\t/CN=x\n"
	    if !$o{nothing};
	close $f;
	$t->run('ocsp', '-issuer', "$d/ca.pem", '-cert', "$d/$name.one", '-reqout', "$d/$name.req", '-no_nonce');
	$t->run('ocsp', '-index', "$d/$name.index", '-rsigner', "$d/ca.pem", '-rkey', "$d/ca.key", '-CA', "$d/ca.pem", '-reqin', "$d/$name.req",
		'-respout', "$d/$name.ocsp", '-ndays', '1');
	$t->redate($name, $o{until}) if $o{until};
	return;
}

# Sets nextUpdate, the last of the response's times. Its signature is then wrong, which the gateway does not look at.
sub redate {
	my ($t, $name, $until) = @_;
	my $file = "$t->{dir}/$name.ocsp";
	open(my $h, '<:raw', $file) or die;
	my $der = do { local $/; <$h> };
	close $h;
	my $stamp = stamp($until);
	$der =~ s/(.*\xa0\x11\x18\x0f)\d{14}Z/$1$stamp/s or die;
	open($h, '>:raw', $file) or die;
	print $h $der;
	close $h;
	return;
}

# The block of bmr.conf for a certificate of that name.
sub block {
	my ($t, @names) = @_;
	return join '', map { qq(certificate $_ {\n  chain = "$t->{dir}/$_.pem"\n  key = "$t->{dir}/$_.key"\n}\n) } @names;
}

sub file { my ($t, $name) = @_; return "$t->{dir}/$name" }

sub DESTROY {
	my ($t) = @_;
	remove_tree($t->{dir}) if $t->{owner} == $$ && !$ENV{BMR_KEEP};
	return;
}

1;
