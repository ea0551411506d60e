#!/usr/bin/perl
# Kills a session's process after each system call that it makes in a whole session: the client gets the same octets each
# time, and the store has each message once (invariant J3). The same with TLS, while a parked session wakes, with a second death while
# the first one's session is taken up, and for the listener's own calls when it wakes one. Of these every fifth or so is a point, from one
# on that differs from run to run; all in the long form (BMR_SOAK). BMR_WALK: one walk alone, by its name.
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
my $site = BMR::Site->new(smtp => 1);
my $ca = BMR::Tls->new;
$ca->cert('gw', cn => 'gw.test', san => 'DNS:gw.test');
my $tls = { mode => 'starttls', ca => $ca->file('ca.pem') };
my $only = $ENV{BMR_WALK} // '';		# a walk's name: no other

sub message {
	my ($id, $size) = @_;
	my $m = "Subject: walk\r\nMessage-ID: <$id\@test>\r\nFrom: x\@site.test\r\nDate: Tue, 24 Nov 2026 00:00:00 +0000\r\n\r\n";
	my $line = 0;
	$m .= sprintf("%06d the quick brown fox jumps over the lazy dog\r\n", $line++) while length $m < $size;
	return $m . "last line\r\n";
}
sub stuffed { my ($m) = @_; $m =~ s/^\./../mg; return $m }

sub born {
	my ($pid) = @_;
	open(my $f, '<', "/proc/$pid/stat") or return 0;
	return (split ' ', (<$f> // '') =~ s/.*\) //r)[19];
}

# Held by killat: the warm processes whose turns are next, the oldest, or those that match; each up to its own call.
sub hold {
	my ($gw, $re, @n) = @_;
	my $until = time() + 20;
	my @p;
	while (time() < $until) {
		@p = sort { born($a) <=> born($b) || $a <=> $b } $gw->pids($re // qr/session \(warm\)/);
		last if @p >= @n;
		sleep 0.005;
	}
	die "no process to hold\n" if @p < @n;
	my @held;
	for my $n (@n) {
		my $p = shift @p;
		my $pid = open(my $out, '-|', $killat, $p, $n) // die "killat: $!";
		my $ready = <$out> // '';
		die "killat has no hold of $p\n" if $ready ne "ready\n";
		push @held, { out => $out, pid => $pid };
	}
	return @held;
}

# What it says at its end; let go: it is not waited for, and may have had nothing to do.
sub heard {
	my ($h, $let_go) = @_;
	kill 'TERM', $h->{pid} if $let_go;
	my $out = $h->{out};
	my $said = <$out> // '';
	close $out;
	return $said;
}

sub parked {
	my ($gw) = @_;
	my $until = time() + 20;
	while (time() < $until) {
		my @w = @{ $gw->bmr('who')->{sessions} // [] };
		return $gw->deposited(1) if @w == 1 && $w[0]{state} eq 'parked';
		sleep 0.02;
	}
	die "it is not parked\n";
}

# One run: said to the client, word for word; and what killat says.
sub run_once {
	my ($gw, $proto, $n, $o) = @_;
	my $connect = sub { BMR::Client->new($gw->addr($proto), $o->{tls} ? (tls => $o->{tls}) : ()) };
	my $c;
	if ($o->{before}) {
		$c = $connect->();
		$o->{before}->($c, $n);
		parked($gw);
	}
	my @held = hold($gw, $o->{victim}, $n, $o->{twice} ? 1 + $n % 24 : ());
	my $good = eval { $c //= $connect->(); $o->{dialogue}->($c, $n); 1 };
	my $why = $@;
	$c->close if $c;
	my @said = (heard($held[0], $o->{victim}), map { heard($_, 1) } @held[1 .. $#held]);
	return ($c ? $c->{seen} : '', $good ? '' : $why, @said);
}

sub differs {
	my ($want, $got) = @_;
	my $i = 0;
	$i++ while $i < length $want && $i < length $got && substr($want, $i, 1) eq substr($got, $i, 1);
	my $from = $i > 60 ? $i - 60 : 0;
	return "$i: [" . substr($want, $from, 160) . '] against [' . substr($got, $from, 160) . ']';
}

# Walks the kill through a session until it ends by itself. same: makes transcripts comparable; after: looks at what came of each, by
# its number. every: how many calls lie between two points; before: what is said until the session parks, the walk is what follows;
# twice: the process that goes on dies as well; victim: walks another process than the session's, as slowly as the supervisor allows.
sub walk {
	my ($name, $proto, %o) = @_;
	return if $only && $only ne $name;
	my $gw = BMR::Gateway->new(net => $site->{net}, $o{tls} ? (tls => $o{tls}, top => $ca->block('gw')) : (), services => { $proto => {
		backends => { map { $_ => $site->addr($_, $proto) } 'a', 'b' }, health => qq(interval = "600s"\n    fall = 1\n    rise = 1),
		more => 'warm = ' . ($o{twice} ? 2 : 1) . ($o{before} ? qq(\n  timeout {\n park = "200ms"\n }) : '') } });
	$gw->ready;
	my ($want, undef, $calls) = run_once($gw, $proto, 1_000_000, \%o);
	$want = $o{same}->($want, 1_000_000);
	like($calls, $o{victim} ? qr/^\z/ : qr/^ended (?:2[1-9]|[3-9]\d|\d{3})/, "$name: an undisturbed session");
	my $step = $ENV{BMR_SOAK} ? 1 : $o{every} // 1;
	my ($second, @killed, @wrong) = (0);
	for (my $n = 1 + int(rand $step); $n < 1000; $n += $step) {
		my $began = time();
		my ($got, $why, $said, $again) = run_once($gw, $proto, $n, \%o);
		$got = $o{same}->($got, $n);
		push @wrong, "after call $n: $why first difference at " . differs($want, $got) . " got [" . substr($got, -300) . ']' if $why || $got ne $want;
		last if $said =~ /^ended/ || ($o{victim} && $said eq '');
		$said =~ /^killed/ or push @wrong, "after call $n: $said";
		push @killed, $n;
		$second++ if ($again // '') =~ /^killed/;
		last if @wrong > 5;
		my $left = $o{victim} ? 1.3 - (time() - $began) : 0;
		sleep $left if $left > 0;
	}
	is_deeply(\@wrong, [], "$name: the client gets the same after each of " . @killed . ' deaths') or diag($gw->log =~ /(.{0,3000})\z/s);
	cmp_ok(scalar @killed, '>', $o{victim} ? 1 : 20 / $step, "$name: killed often enough");
	cmp_ok($second, '>', 0, "$name: $second times again") if $o{twice};
	$o{after}->($gw, @killed) if $o{after};
	$gw->stop;
	is_deeply($gw->{left}, [], "$name: no process is left");
	return;
}

sub pop3 {
	my ($c, $pipelined) = @_;
	my @cmd = ('STAT', 'LIST', 'UIDL', 'RETR 2', 'DELE 1', 'STAT', 'TOP 3 1', 'LIST', 'RSET', 'NOOP');
	my $ask = sub { $c->send(join('', map { "$_\r\n" } @_)) };
	my $hear = sub { my $l = $c->line; $c->body if $_[0] =~ /^(?:LIST|UIDL|RETR|TOP)/ && $l =~ /^\+OK/; return $l };
	$c->line =~ /^\+OK/ or die "greeting\n";
	$c->cmd('USER walker') =~ /^\+OK/ or die "USER\n";
	$c->cmd('PASS secret') =~ /^\+OK/ or die "PASS\n";
	if ($pipelined) {
		$ask->(@cmd);
		$hear->($_) for @cmd;
	} else {
		for (@cmd) { $ask->($_); $hear->($_) }
	}
	$c->cmd('QUIT') =~ /^\+OK/ or die "QUIT\n";
	die "more than expected\n" if $c->rest ne '';
	return;
}

$site->deliver('walker', message('w1', 200), message('w2', 60_000), message('w3', 500));
walk('POP3', 'pop3', dialogue => sub { pop3($_[0], 0) }, same => sub { $_[0] });
walk('POP3 pipelined', 'pop3', dialogue => sub { pop3($_[0], 1) }, same => sub { $_[0] });
walk('POP3 with STLS', 'pop3', tls => $tls, dialogue => sub { pop3($_[0], 0) }, same => sub { $_[0] });
walk('POP3 twice', 'pop3', twice => 1, every => 5, dialogue => sub { pop3($_[0], 0) }, same => sub { $_[0] });

# What a store or a server adds differs from one delivery to the next.
sub bare {
	my ($t) = @_;
	$t =~ s/^(?:Return-Path|Delivered-To|Received|X-Gw-Txn):.*\r\n(?:[ \t].*\r\n)*//mg;
	$t =~ s/^\+OK \d+ octets/+OK N octets/mg;
	$t =~ s/^\+OK (\d+) \d+\r/+OK $1 N\r/mg;
	return $t;
}
# A mailbox for each death of a walk.
sub mailbox_of { my ($name, $n) = @_; return lc($name =~ s/\W//gr) . $n }
sub left { return join ' ', map { /Message-ID: <(\w+)/ ? $1 : '?' } $site->messages($_[0]) }

sub pop3_login {
	my ($c, $u) = @_;
	$c->line;
	$c->cmd("USER $u") =~ /^\+OK/ && $c->cmd('PASS secret') =~ /^\+OK/ or die "login\n";
	return;
}
for my $w (['POP3 wakes', every => 4], ['POP3 is woken', every => 5, victim => qr{^bmr: pop3/listener}]) {
	my ($name, @more) = @$w;
	walk($name, 'pop3', @more, before => sub {
		my ($c, $n) = @_;
		$site->deliver(mailbox_of($name, $n), message('k1', 200), message('k2', 200), message('k3', 9000));
		pop3_login($c, mailbox_of($name, $n));
		$c->cmd('DELE 1') =~ /^\+OK/ or die "DELE 1\n";
	}, dialogue => sub {
		my ($c, $n) = @_;
		$c->cmd($_) =~ /^\+OK/ or die "$_\n" for 'STAT', 'DELE 2';
		$c->cmd('RETR 3') =~ /^\+OK/ && $c->body or die "RETR\n";
		$c->cmd('DELE 1') =~ /^-ERR/ or die "it is not deleted any more\n";
		$c->cmd('QUIT') =~ /^\+OK/ or die "QUIT\n";
		die "more than expected\n" if $c->rest ne '';
	}, same => sub {
		my ($t, $n) = @_;
		return bare($t) . ' left: ' . left(mailbox_of($name, $n));
	});
}

# Deletions are done once, at QUIT.
walk('POP3 deletes', 'pop3', dialogue => sub {
	my ($c, $n) = @_;
	$site->deliver("d$n", message('d1', 200), message('d2', 200), message('d3', 200));
	pop3_login($c, "d$n");
	$c->cmd($_) =~ /^\+OK/ or die "$_\n" for 'DELE 1', 'DELE 3', 'QUIT';
	die "more than expected\n" if $c->rest ne '';
}, same => sub {
	my ($t, $n) = @_;
	return "$t left: " . left("d$n");
});

# Two messages, s1 and s2, for a mailbox.
sub smtp {
	my ($c, $u) = @_;
	my $ok = sub { my ($re, $r) = @_; $r =~ $re or die "reply $r" };
	$ok->(qr/^250/, $c->smtp('MAIL FROM:<x@site.test>'));
	$ok->(qr/^250/, $c->smtp("RCPT TO:<$u\@site.test>"));
	$ok->(qr/^554/, $c->smtp('RCPT TO:<nobody@site.test>'));
	$ok->(qr/^354/, $c->smtp('DATA'));
	$c->send(stuffed(message('s1', 90_000)) . ".\r\n");
	$ok->(qr/^250/, $c->reply);
	$c->send("MAIL FROM:<y\@site.test>\r\nRCPT TO:<$u\@site.test>\r\n");
	$ok->(qr/^250/, $c->reply) for 1 .. 2;
	my $m = message('s2', 3000);
	$c->send('BDAT ' . length($m) . " LAST\r\n$m");
	$ok->(qr/^250/, $c->reply);
	$ok->(qr/^250/, $c->smtp($_)) for 'MAIL FROM:<x@site.test>', 'RSET', 'NOOP';
	$ok->(qr/^221/, $c->smtp('QUIT'));
	die "more than expected\n" if $c->rest ne '';
	return;
}

sub smtp_begin {
	my ($c, $u) = @_;
	$site->mailbox($u);
	$c->reply =~ /^220/ && $c->smtp('EHLO client.test') =~ /^250/ or die "EHLO\n";
	return;
}

sub walk_smtp {
	my ($name, %o) = @_;
	my %queued;
	my $u = sub { mailbox_of($name, $_[0]) };
	my $parks = delete $o{parks};
	walk($name, 'smtp', %o, $parks ? (before => sub { smtp_begin($_[0], $u->($_[1])) }) : (), dialogue => sub {
		my ($c, $n) = @_;
		smtp_begin($c, $u->($n)) if !$parks;
		smtp($c, $u->($n));
	}, same => sub {
		my ($t, $n) = @_;
		$queued{$n} = [$t =~ /queued as (\w+)/g];
		$t =~ s/\b[0-9a-f]{10,}\.(\d+)\@/ID.$1\@/g;
		$t =~ s/(queued as )\w+/$1QUEUE/g;
		$t =~ s/\w+\d+\@site/N\@site/g;
		return $t;
	}, after => sub {
		my ($gw, @killed) = @_;
		$site->flush;
		in_store($name, scalar(() = $gw->log =~ /possible-duplicate/g), \%queued, map { $_ => $u->($_) } @killed);
	});
	return;
}

sub in_store {
	my ($name, $doubt, $queued, %user) = @_;
	my ($twice, @wrong) = (0);
	for my $n (sort { $a <=> $b } keys %user) {
		my %copies;
		for my $m ($site->messages($user{$n})) {
			my ($id) = $m =~ /Message-ID: <(\w+)/;
			my ($size) = $id eq 's1' ? 90_000 : 3000;
			push @wrong, "$user{$n}: $id is not whole" if index($m, message($id, $size)) < 0;
			my ($txn) = $m =~ /^X-Gw-Txn: (\S+)/m;
			push @{ $copies{$id} }, $txn // '';
		}
		for my $id ('s1', 's2') {
			my @t = @{ $copies{$id} // [] };
			push @wrong, "$user{$n}: $id is lost" if !@t;
			diag("$user{$n}, $id, queued as @{ $queued->{$n} }\n", map { $site->fate($_) } @{ $queued->{$n} }) if !@t;
			$twice += @t - 1 if @t;
			push @wrong, "$user{$n}: a second $id that a store cannot recognise" if grep { $_ ne $t[0] } @t;
		}
	}
	is_deeply(\@wrong, [], "$name: each message is in the store, whole, a second copy is recognisable");
	cmp_ok($twice, '<=', $doubt, "$name: $twice second copies, $doubt commits were in doubt");
	return;
}
walk_smtp('SMTP');
walk_smtp('SMTP with STARTTLS', tls => $tls, every => 6);
walk_smtp('SMTP twice', twice => 1, every => 6);
walk_smtp('SMTP wakes', parks => 1, every => 6);
walk_smtp('SMTP is woken', parks => 1, every => 6, victim => qr{^bmr: smtp/listener});

# IMAP4: every state, a STORE, an APPEND by literal, IDLE, EXPUNGE; the store is as it would be.
my $tag = 0;
sub imap {
	my ($c, $cmd) = @_;
	my $t = 't' . ++$tag;
	$c->send("$t $cmd\r\n");
	return imap_until($c, $t);
}
sub imap_until {
	my ($c, $t) = @_;
	my $r = '';
	while (1) {
		my $l = $c->line;
		die "end of the stream after $r\n" if $l eq '';
		$r .= $l;
		if ($l =~ /\{(\d+)\}\r\n\z/) {
			my $n = $1;
			while (length $c->{buf} < $n) { $c->fill or die "end in a literal\n" }
			$r .= substr($c->{buf}, 0, $n, '');
		} elsif ($l =~ /^\Q$t\E /) {
			$l =~ /^\S+ OK/ or die "refused: $r\n";
			return $r;
		}
	}
}
# What a server says of its own accord may come first.
sub plus {
	my ($c) = @_;
	my $l;
	do { $l = $c->line } while $l =~ /^\*/;
	$l =~ /^\+/ or die "no +, but $l\n";
	return;
}
my $appended = message('ap', 9000);
sub imap4_begin {
	my ($c, $u) = @_;
	$tag = 0;
	$site->deliver($u, message('i1', 200), message('i2', 60_000), message('i3', 300));
	$c->line =~ /^\* OK/ or die "greeting\n";
	imap($c, "LOGIN $u secret");
	imap($c, 'SELECT INBOX');
	return;
}

sub imap4 {
	my ($c) = @_;
	imap($c, 'FETCH 1:* (UID FLAGS RFC822.SIZE)');
	imap($c, 'FETCH 2 BODY.PEEK[TEXT]');
	# SILENT: a server need not answer a STORE that changes nothing, as one that is done again
	imap($c, 'STORE 1 +FLAGS.SILENT (\Flagged)');
	imap($c, 'FETCH 1 (FLAGS)');
	imap($c, 'UID SEARCH FLAGGED');
	$c->send('a1 APPEND INBOX (\Seen) {' . length($appended) . "}\r\n");
	plus($c);
	$c->send("$appended\r\n");
	imap_until($c, 'a1');
	imap($c, 'NOOP');
	$c->send("i1 IDLE\r\n");
	plus($c);
	$c->send("DONE\r\n");
	imap_until($c, 'i1');
	imap($c, 'STORE 3 +FLAGS.SILENT (\Deleted)');
	imap($c, 'EXPUNGE');
	imap($c, 'FETCH 1:* (FLAGS)');
	imap($c, 'LOGOUT');
	die "more than expected\n" if $c->rest ne '';
	return;
}

# Waits for new mail while it parks.
sub imap4_idle { my ($c, $u) = @_; imap4_begin($c, $u); $c->send("i0 IDLE\r\n"); plus($c); return }

sub imap4_same {
	my ($t) = @_;
	$t =~ s/ \((?:[\d.]+ \+ )+[\d.]+ secs\)\.//g;	# in doubt and found done: answered in the gateway's own words
	$t =~ s/^\* OK Still here\r\n//mg;	# a word while a client waits, at moments of the clock
	# \Recent is a server's to give once; the session that died with its backend has had it (RFC 3501 section 2.3.2)
	$t =~ s/^\* \d+ RECENT\r\n//mg;
	$t =~ s/ ?\\Recent//g;
	$t =~ s/FLAGS \( /FLAGS (/g;
	$t =~ s/^\* \d FETCH [^\r]*\r\n(?=t(?:5|9) )//mg;	# what a server says of a silent STORE
	$t =~ s/^\* \d FETCH \(UID \d+ FLAGS \([^)]*\)\)\r\n//mg;	# of its own accord, from another server
	# new messages are told with this answer or with the next
	my $told = () = $t =~ /^\* 4 EXISTS\r\n/mg;
	$t =~ s/^\* 4 EXISTS\r\n//mg;
	$t .= "told $told\n";
	$t =~ s/UIDVALIDITY \d+/UIDVALIDITY N/g;
	$t =~ s/APPENDUID \d+/APPENDUID N/g;
	return $t;
}

sub walk_imap4 {
	my ($name, %o) = @_;
	my $u = sub { sprintf '%s%07d', lc($name =~ s/\W//gr), $_[0] };
	my $parks = delete $o{parks};
	walk($name, 'imap4', %o, $parks ? (before => sub { imap4_idle($_[0], $u->($_[1])) }) : (), dialogue => sub {
		my ($c, $n) = @_;
		if ($parks) { $c->send("DONE\r\n"); imap_until($c, 'i0') } else { imap4_begin($c, $u->($n)) }
		imap4($c);
	}, same => sub { my ($t, $n) = @_; return imap4_same($t) . ' left: ' . left($u->($n)) });
	return;
}
walk_imap4('IMAP4');
walk_imap4('IMAP4 with STARTTLS', tls => $tls, every => 8);
walk_imap4('IMAP4 twice', twice => 1, every => 8);
walk_imap4('IMAP4 wakes', parks => 1, every => 8);
walk_imap4('IMAP4 is woken', parks => 1, every => 6, victim => qr{^bmr: imap4/listener});
done_testing();
