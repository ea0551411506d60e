package BMR::Site;
# A mail site of two hosts, a and b, on loopback addresses of its own: real Postfix and Dovecot on each, one shared
# store. Postfix needs root. Everything lives below one temporary directory and is ended by its own pids.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256);
use MIME::Base64 qw(encode_base64);
use File::Path qw(make_path remove_tree);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use Test::More ();
use Time::HiRes qw(sleep time);
use POSIX qw(:sys_wait_h);
use BMR::Proc;

my $sites = 0;

sub possible {
	return 'needs root for Postfix and Dovecot' if $> != 0;
	for my $p (qw(/usr/sbin/postfix /usr/sbin/dovecot)) {
		return "$p is not installed" if !-x $p;
	}
	return;
}

# Loopback is a /8: a network for each test keeps tests that run side by side apart.
sub network { return sprintf('127.%d.%d', 64 + ($$ >> 8) % 128, $$ % 256) }

# new(smtp => 1, imap => 1, sieve => 1, store => sdbox|maildir, dovecot => "more settings", postfix => {name => value}, hosts => [a, b])
# imap: ACL, QUOTA and METADATA, the mechanisms CRAM-MD5, XOAUTH2 and OAUTHBEARER (token()), the master user
# gw/mastersecret, and deny() for an account that is closed in mid-session.
sub new {
	my ($class, %o) = @_;
	my $dir = tempdir('bmr-site-XXXXXX', TMPDIR => 1, CLEANUP => 0);
	chmod 0755, $dir;
	my $s = bless { dir => $dir, net => network(), store => $o{store} // 'sdbox', o => \%o, owner => $$ }, $class;
	make_path("$dir/mail", "$dir/sieve");
	$s->imap_files if $o{imap};
	my ($uid, $gid) = (getpwnam('mail'))[2, 3];
	chown $uid, $gid, "$dir/mail", "$dir/sieve";	# compiled scripts are kept there too
	my $base = 10 + 10 * $sites++;
	for my $h (@{ $o{hosts} // ['a', 'b'] }) {
		$s->{ip}{$h} = "$s->{net}." . ($base + ord($h) - ord('a'));
		$s->dovecot_conf($h);
		$s->start_dovecot($h);
		next if !$o{smtp};
		$s->postfix_conf($h);
		push @{ $s->{starting} }, start_only("$s->{dir}/postfix-$h/conf");
	}
	waitpid($_, 0) for @{ $s->{starting} // [] };
	$s->wait_postfix($_) for $o{smtp} ? sort keys %{ $s->{ip} } : ();
	return $s;
}

sub ip   { return $_[0]{ip}{ $_[1] } }
sub addr { my ($s, $h, $what) = @_; return $s->{ip}{$h} . ':' . { smtp => 10025, pop3 => 10110, imap => 10143, imap4 => 10143, lmtp => 10024 }->{$what} }

# At once: daemons that are being started read such files at any time.
sub put {
	my ($file, $text) = @_;
	open(my $f, '>', "$file.new") or die "$file.new: $!";
	print $f $text;
	close($f) or die "$file.new: $!";
	rename "$file.new", $file or die "$file: $!";
	return;
}

# Daemons keep what they are given open: never our pipes to prove.
sub quiet {
	waitpid(background(@_), 0);
	return $? >> 8;
}

sub background {
	my (@cmd) = @_;
	my $pid = fork() // die "fork: $!";
	if ($pid == 0) {
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', '/dev/null');
		open(STDERR, '>', '/dev/null');
		exec(@cmd) or POSIX::_exit(127);
	}
	return $pid;
}

sub dovecot_conf {
	my ($s, $h) = @_;
	my $d = "$s->{dir}/dovecot-$h";
	make_path($d);
	my $ip = $s->{ip}{$h};
	my $more = $s->{o}{dovecot} // '';
	$more = $more->{$h} // '' if ref $more;
	$more .= "protocol lmtp {\n  mail_plugins = sieve\n}\nplugin {\n  sieve = file:$s->{dir}/sieve/%n.sieve\n}\n" if $s->{o}{sieve};
	$more .= $s->imap_conf if $s->{o}{imap};
	$more .= $s->{now}{$h}{dovecot} // '';
	my $mechanisms = $s->{o}{imap} ? 'plain login cram-md5 xoauth2 oauthbearer' : 'plain login';
	put("$d/dovecot.conf", <<"EOT");
base_dir = $d/run
state_dir = $d/state
log_path = $d/log
info_log_path = $d/log
listen = $ip
protocols = pop3 imap lmtp
ssl = no
disable_plaintext_auth = no
auth_mechanisms = $mechanisms
auth_username_format = %Ln
login_trusted_networks = 127.0.0.0/8
mail_location = $s->{store}:$s->{dir}/mail/%n
first_valid_uid = 0
mail_uid = mail
mail_gid = mail
mail_fsync = never
mail_max_userip_connections = 0
imap_idle_notify_interval = 1 day
default_process_limit = 400
default_client_limit = 2000
@{[ $s->{o}{imap} ? $s->imap_passdb : '' ]}passdb {
  driver = static
  args = password=secret
}
userdb {
  driver = static
  args = uid=mail gid=mail home=$s->{dir}/mail/%n/home
}
service pop3-login {
  inet_listener pop3 {
    port = 10110
  }
  inet_listener pop3s {
    port = 0
  }
  service_count = 0
  client_limit = 2000
}
service imap-login {
  inet_listener imap {
    port = 10143
  }
  inet_listener imaps {
    port = 0
  }
  service_count = 0
  client_limit = 2000
}
service lmtp {
  inet_listener lmtp {
    port = 10024
  }
}
service auth {
  inet_listener {
    port = 10026
  }
}
service anvil {
  client_limit = 3000
}
namespace inbox {
  inbox = yes
}
$more
EOT
	return;
}

# What imap_conf and imap_passdb name. The key of the tokens is where Dovecot looks for one of no issuer.
my $token_key = 'a key that all hosts of the site know';

sub imap_files {
	my ($s) = @_;
	make_path("$s->{dir}/keys/default/HS256");
	put("$s->{dir}/keys/default/HS256/default", encode_base64($token_key, ''));
	put("$s->{dir}/oauth2.conf", "introspection_mode = local\nlocal_validation_key_dict = fs:posix:prefix=$s->{dir}/keys/\n" .
	    "username_attribute = sub\n");
	put("$s->{dir}/masters", "gw:{PLAIN}mastersecret\n");
	put("$s->{dir}/denied", '');
	return;
}

sub imap_passdb {
	my ($s) = @_;
	return <<"EOT";
auth_master_user_separator = *
passdb {
  driver = passwd-file
  args = $s->{dir}/denied
  deny = yes
}
passdb {
  driver = passwd-file
  args = $s->{dir}/masters
  master = yes
  result_success = continue
}
passdb {
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = $s->{dir}/oauth2.conf
}
EOT
}

sub imap_conf {
	my ($s) = @_;
	my $d = $s->{dir};
	return <<"EOT";
mail_plugins = acl quota
mail_attribute_dict = file:$d/mail/%n/home/attributes
protocol imap {
  mail_plugins = acl quota imap_acl imap_quota
  imap_metadata = yes
}
plugin {
  acl = vfile
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:storage=2G
}
EOT
}

# A bearer token of a user, good for so many seconds (RFC 7519, HS256).
sub token {
	my ($s, $user, $seconds) = @_;
	my $part = sub { my $b = encode_base64($_[0], ''); $b =~ tr{+/}{-_}; return $b =~ s/=+$//r };
	my $t = time();
	my $body = $part->('{"typ":"JWT","alg":"HS256"}') . '.' .
	    $part->(sprintf('{"sub":"%s","iat":%d,"exp":%d}', $user, $t - 5, $t + ($seconds // 3600)));
	return $body . '.' . $part->(hmac_sha256($body, $token_key));
}

# From now on no host lets this user in. Dovecot looks at the file once a second.
sub deny {
	my ($s, $user) = @_;
	open(my $f, '>>', "$s->{dir}/denied") or die "denied: $!";
	print $f "$user:\n";
	close $f;
	require BMR::Imap;
	for my $h (sort keys %{ $s->{ip} }) {
		next if !$s->master_pid($h, 'dovecot');
		for (1 .. 20) {
			last if BMR::Imap->new($s->addr($h, 'imap4'))->login($user)->{status} eq 'NO';
			sleep 0.2;
		}
	}
	return;
}

sub wait_port {
	my ($ip, $port, $seconds) = @_;
	my $until = time() + ($seconds // 60);
	while (time() < $until) {
		my $c = IO::Socket::INET->new(PeerAddr => $ip, PeerPort => $port, Timeout => 2);
		return 1 if $c;
		sleep 0.05;
	}
	return 0;
}

sub start_dovecot {
	my ($s, $h) = @_;
	quiet('/usr/sbin/dovecot', '-c', "$s->{dir}/dovecot-$h/dovecot.conf");
	wait_port($s->{ip}{$h}, 10110) or die "dovecot $h does not listen, see $s->{dir}/dovecot-$h/log\n";
	return;
}

sub postfix_conf {
	my ($s, $h) = @_;
	my $d = "$s->{dir}/postfix-$h";
	make_path("$d/conf", "$d/queue", "$d/data");
	my ($uid, $gid) = (getpwnam('postfix'))[2, 3];
	chown $uid, $gid, "$d/data";
	chmod 0700, "$d/data";
	my $more = $s->{o}{postfix} // {};
	$more = $more->{$h} // {} if ref($more->{$h} // '') || ref($more->{a} // '') || ref($more->{b} // '');
	my %main = (
		compatibility_level => '3.6', queue_directory => "$d/queue", data_directory => "$d/data",
		inet_interfaces => 'loopback-only', inet_protocols => 'ipv4', myhostname => "$h.site.test", mydestination => '',
		local_recipient_maps => '', virtual_mailbox_domains => 'site.test', virtual_mailbox_maps => 'static:ok',
		virtual_transport => "lmtp:inet:$s->{ip}{$h}:10024", mynetworks => '127.0.0.0/8',
		smtpd_authorized_xclient_hosts => '127.0.0.0/8', smtpd_sasl_auth_enable => 'yes', smtpd_sasl_type => 'dovecot',
		smtpd_sasl_path => "inet:$s->{ip}{$h}:10026", smtputf8_enable => 'yes', message_size_limit => '200000000',
		virtual_mailbox_limit => '0', smtpd_recipient_restrictions =>
		    "check_recipient_access inline:{{nobody\@site.test = reject 5.1.1 no such user}}, permit_mynetworks, reject",
		maillog_file => "$d/maillog", maillog_file_prefixes => "$s->{dir}", service_throttle_time => '1s',
		smtpd_client_connection_count_limit => '0', smtpd_client_connection_rate_limit => '0', default_process_limit => '200',
		smtpd_timeout => '300s', minimal_backoff_time => '1s', queue_run_delay => '5s', alias_maps => '', alias_database => '',
		fsync => 'no', in_flow_delay => '0', lmtp_destination_concurrency_limit => '40', %$more,
		%{ $s->{now}{$h}{postfix} // {} },
	);
	delete $main{fsync};
	put("$d/conf/main.cf", join('', map { "$_ = $main{$_}\n" } sort keys %main));
	put("$d/conf/master.cf", <<"EOT");
$s->{ip}{$h}:10025 inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
EOT
	return;
}

sub start_only { return background('/usr/sbin/postfix', '-c', $_[0], 'start') }

sub start_postfix {
	my ($s, $h) = @_;
	waitpid(start_only("$s->{dir}/postfix-$h/conf"), 0);
	return $s->wait_postfix($h);
}

sub wait_postfix {
	my ($s, $h) = @_;
	wait_port($s->{ip}{$h}, 10025) or die "postfix $h does not listen, see $s->{dir}/postfix-$h/maillog\n";
	return;
}

sub master_pid {
	my ($s, $h, $what) = @_;
	my $file = $what eq 'postfix' ? "$s->{dir}/postfix-$h/queue/pid/master.pid" : "$s->{dir}/dovecot-$h/run/master.pid";
	open(my $f, '<', $file) or return;
	my ($pid) = (<$f> // '') =~ /(\d+)/;
	return $pid;
}

sub alive {
	my ($pid) = @_;
	open(my $f, '<', "/proc/$pid/stat") or return 0;
	return (<$f> // '') !~ /\) Z /;
}

# Pids of the processes of a host that bear this name ("smtpd", "pop3").
sub pids {
	my ($s, $h, $name) = @_;
	my $master = $s->master_pid($h, $name =~ /^(?:pop3|imap|lmtp|auth)/ ? 'dovecot' : 'postfix') // return ();
	my @pids;
	for my $p (BMR::Proc::children_of($master)) {
		open(my $f, '<', "/proc/$p/comm") or next;
		chomp(my $c = <$f> // '');
		push @pids, $p if $c eq $name;
	}
	return @pids;
}

# The plug of a whole host: the master is stopped first, so that it restarts nothing, and dies last, so that its children are found.
sub kill_host {
	my ($s, $h, @what) = @_;
	for my $what (@what ? @what : $s->{o}{smtp} ? ('postfix', 'dovecot') : ('dovecot')) {
		my $m = $s->master_pid($h, $what) // next;
		kill 'STOP', $m;
		for (1 .. 500) {
			my @c = BMR::Proc::children_of($m) or last;
			kill 'KILL', @c;
			sleep 0.01;
		}
		kill 'KILL', $m;
		for (1 .. 500) {
			last if !alive($m);
			sleep 0.01;
		}
		unlink($what eq 'postfix' ? "$s->{dir}/postfix-$h/queue/pid/master.pid" : "$s->{dir}/dovecot-$h/run/master.pid");
	}
	return;
}

sub start_host {
	my ($s, $h) = @_;
	$s->start_dovecot($h);
	$s->start_postfix($h) if $s->{o}{smtp};
	return;
}

# What is in the queue of this host: the names of the files, complete or not. A message moves between the directories while they are
# read: deferred is looked at twice, since from there it goes back to active.
sub queue_of {
	my ($s, $h) = @_;
	my %f;
	for my $d ('deferred/*', 'maildrop', 'incoming', 'active', 'deferred/*') {
		for my $file (glob("$s->{dir}/postfix-$h/queue/$d/*")) {
			my $mode = (stat $file)[2];
			# one that has gone on meanwhile was there; what a killed cleanup left is not in the queue
			$f{ $file =~ s{.*/}{}r } = 1 if !defined $mode || $mode & 0100;
		}
	}
	my @f = sort keys %f;
	return @f;
}

# From now on a host has these settings beside its own (dovecot => text, postfix => {name => value}), until the next call.
# Sessions that there are keep what they began with.
sub reconfigure {
	my ($s, $h, %o) = @_;
	$s->{now}{$h} = \%o;
	$s->dovecot_conf($h);
	quiet('/usr/bin/doveadm', '-c', "$s->{dir}/dovecot-$h/dovecot.conf", 'reload') == 0 or die "dovecot $h does not reload\n";
	return if !$s->{o}{smtp};
	$s->postfix_conf($h);
	quiet('/usr/sbin/postfix', '-c', "$s->{dir}/postfix-$h/conf", 'reload') == 0 or die "postfix $h does not reload\n";
	return;
}

# Waits until nothing is in the queue of this host any more.
sub flush {
	my ($s, @hosts) = @_;
	my $until = time() + 90;
	for my $h (@hosts ? @hosts : sort keys %{ $s->{ip} }) {
		next if !$s->{o}{smtp};
		my $again = time() + 4;
		while (time() < $until && $s->queue_of($h)) {
			if (time() > $again) {		# a delivery that failed for the moment is tried again
				quiet('/usr/sbin/postfix', '-c', "$s->{dir}/postfix-$h/conf", 'flush');
				$again = time() + 4;
			}
			sleep 0.05;
		}
		my @left = $s->queue_of($h);
		print STDERR "# mail is still in the queue of $h: @left\n" if @left;
	}
	return;
}

# What the hosts have done with the message of this number in a queue: lines of their logs.
sub fate {
	my ($s, $number) = @_;
	return map { my $h = $_; map { "$h: $_\n" } grep { /: \Q$number\E: / } split /\n/, $s->log_of($h, 'postfix') } sort keys %{ $s->{ip} };
}

# All messages of a user, read from a host itself.
sub messages {
	my ($s, $user, $h) = @_;
	$h //= (grep { $s->master_pid($_, 'dovecot') } sort keys %{ $s->{ip} })[0];
	require BMR::Client;
	my $c = BMR::Client->new($s->addr($h, 'pop3'));
	$c->line;
	$c->cmd("USER $user");
	$c->cmd('PASS secret') =~ /^\+OK/ or die "login of $user at $h fails\n";
	my ($n) = $c->cmd('STAT') =~ /^\+OK (\d+)/;
	my @m;
	for my $i (1 .. $n) {
		$c->cmd("RETR $i");
		push @m, $c->body;
	}
	$c->cmd('QUIT');
	return @m;
}

# Makes mailboxes. Dovecot 2.3 makes one at its first delivery, and of two at once it may refuse one for the moment ("Mailbox already
# exists") or die in one (a deadlock of its locks), which may have been delivered.
sub mailbox {
	my ($s, @users) = @_;
	$s->messages($_) for @users;
	return;
}

# Puts messages into a mailbox by LMTP at one host.
sub deliver {
	my ($s, $user, @messages) = @_;
	require BMR::Client;
	my $h = (grep { $s->master_pid($_, 'dovecot') } sort keys %{ $s->{ip} })[0];
	my $c = BMR::Client->new($s->addr($h, 'lmtp'));
	$c->reply;
	$c->smtp('LHLO test');
	for my $m (@messages) {
		(my $stuffed = $m) =~ s/^\./../mg;
		$c->smtp('MAIL FROM:<>') =~ /^2/ or die 'LMTP MAIL';
		$c->smtp("RCPT TO:<$user\@site.test>") =~ /^2/ or die 'LMTP RCPT';
		$c->smtp('DATA') =~ /^354/ or die 'LMTP DATA';
		$c->send("$stuffed.\r\n");
		$c->reply =~ /^2/ or die 'LMTP delivery';
	}
	$c->smtp('QUIT');
	return;
}

# What is delivered to this user goes through this script, at either host.
sub sieve {
	my ($s, $user, $script) = @_;
	put("$s->{dir}/sieve/$user.sieve", $script);
	return;
}

sub log_of {
	my ($s, $h, $what) = @_;
	open(my $f, '<', $what eq 'postfix' ? "$s->{dir}/postfix-$h/maillog" : "$s->{dir}/dovecot-$h/log") or return '';
	local $/;
	return <$f> // '';
}

# A test: some host's log has it, now or soon, since a server may write it a moment after its answer.
sub logs {
	my ($s, $what, $re, $name, @hosts) = @_;
	my ($all, $until) = ('', time() + 15);
	while (1) {
		$all = join '', map { $s->log_of($_, $what) } @hosts ? @hosts : sort keys %{ $s->{ip} };
		last if $all =~ $re || time() > $until;
		sleep 0.1;
	}
	return Test::More::like($all, $re, $name);
}

sub stop {
	my ($s) = @_;
	return if $s->{owner} != $$ || $s->{stopped}++;
	for my $h (sort keys %{ $s->{ip} }) {
		$s->kill_host($h);
	}
	remove_tree($s->{dir}, { safe => 0, error => \my $err }) if !$ENV{BMR_KEEP};
	return;
}

sub DESTROY {
	my ($s) = @_;
	local ($?, $@, $!);
	$s->stop;
	return;
}

1;
