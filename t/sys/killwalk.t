#!/usr/bin/perl
# Kills a session's process after each system call that it makes in a whole session: the client gets the same octets each
# time, and the store has each message once (invariant J3). BMR_WALK: one walk alone, by its name.
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

# The warm process whose turn is next, the oldest, held by killat.
sub hold {
	my ($gw, $n) = @_;
	my $until = time() + 20;
	my @warm;
	while (time() < $until) {
		@warm = sort { born($a) <=> born($b) || $a <=> $b } $gw->pids(qr/session \(warm\)/);
		last if @warm > 0;
		sleep 0.005;
	}
	die "no warm process\n" if !@warm;
	my $pid = open(my $out, '-|', $killat, $warm[0], $n) // die "killat: $!";
	my $ready = <$out> // '';
	die "killat has no hold of $warm[0]\n" if $ready ne "ready\n";
	return { out => $out, pid => $pid };
}

# One run: said to the client, word for word; and what killat says.
sub run_once {
	my ($gw, $proto, $n, $o) = @_;
	my $h = hold($gw, $n);
	my $c;
	my $good = eval { $c = BMR::Client->new($gw->addr($proto), $o->{tls} ? (tls => $o->{tls}) : ()); $o->{dialogue}->($c, $n); 1 };
	my $why = $@;
	$c->close if $c;
	my $out = $h->{out};
	my $said = <$out> // '';
	close $out;
	return ($c ? $c->{seen} : '', $said, $good ? '' : $why);
}

sub differs {
	my ($want, $got) = @_;
	my $i = 0;
	$i++ while $i < length $want && $i < length $got && substr($want, $i, 1) eq substr($got, $i, 1);
	my $from = $i > 60 ? $i - 60 : 0;
	return "$i: [" . substr($want, $from, 160) . '] against [' . substr($got, $from, 160) . ']';
}

# Walks the kill through a session until it ends by itself. $same: makes transcripts comparable.
sub walk {
	my ($name, $proto, %o) = @_;
	return if $only && $only ne $name;
	my $gw = BMR::Gateway->new(net => $site->{net}, $o{tls} ? (tls => $o{tls}, top => $ca->block('gw')) : (), services => { $proto => {
		backends => { map { $_ => $site->addr($_, $proto) } 'a', 'b' }, more => 'warm = 1', health => qq(interval = "600s"\n    fall = 1\n    rise = 1) } });
	$gw->ready;
	my ($want, $calls) = run_once($gw, $proto, 1_000_000, \%o);
	$want = $o{same}->($want, 1_000_000);
	ok($calls =~ /^ended (\d+)/ && $1 > 20, "$name: an undisturbed session") or diag($calls);
	my ($killed, @wrong) = (0);
	for my $n (1 .. 1000) {
		my ($got, $said, $why) = run_once($gw, $proto, $n, \%o);
		$got = $o{same}->($got, $n);
		push @wrong, "after call $n: $why first difference at " . differs($want, $got) . " got [" . substr($got, -300) . ']' if $why || $got ne $want;
		last if $said =~ /^ended/;
		$said =~ /^killed/ or push @wrong, "after call $n: $said";
		$killed++;
		last if @wrong > 5;
	}
	is_deeply(\@wrong, [], "$name: the client gets the same after each of $killed deaths") or diag($gw->log =~ /(.{0,3000})\z/s);
	ok($killed > 20, "$name: killed $killed times");
	$o{after}->($gw, $killed) if $o{after};
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

# Deletions are done once, at QUIT.
walk('POP3 deletes', 'pop3', dialogue => sub {
	my ($c, $n) = @_;
	$site->deliver("d$n", message('d1', 200), message('d2', 200), message('d3', 200));
	$c->line;
	$c->cmd("USER d$n") =~ /^\+OK/ && $c->cmd('PASS secret') =~ /^\+OK/ or die "login\n";
	$c->cmd($_) =~ /^\+OK/ or die "$_\n" for 'DELE 1', 'DELE 3', 'QUIT';
	die "more than expected\n" if $c->rest ne '';
}, same => sub {
	my ($t, $n) = @_;
	my @left = map { /Message-ID: <(\w+)/ ? $1 : '?' } $site->messages("d$n");
	return "$t left: @left";
});

sub smtp {
	my ($c, $n) = @_;
	my $ok = sub { my ($re, $r) = @_; $r =~ $re or die "reply $r" };
	$site->mailbox("s$n");
	$ok->(qr/^220/, $c->reply);
	$ok->(qr/^250/, $c->smtp('EHLO client.test'));
	$ok->(qr/^250/, $c->smtp('MAIL FROM:<x@site.test>'));
	$ok->(qr/^250/, $c->smtp("RCPT TO:<s$n\@site.test>"));
	$ok->(qr/^554/, $c->smtp('RCPT TO:<nobody@site.test>'));
	$ok->(qr/^354/, $c->smtp('DATA'));
	$c->send(stuffed(message('s1', 90_000)) . ".\r\n");
	$ok->(qr/^250/, $c->reply);
	$c->send("MAIL FROM:<y\@site.test>\r\nRCPT TO:<s$n\@site.test>\r\n");
	$ok->(qr/^250/, $c->reply) for 1 .. 2;
	my $m = message('s2', 3000);
	$c->send('BDAT ' . length($m) . " LAST\r\n$m");
	$ok->(qr/^250/, $c->reply);
	$ok->(qr/^250/, $c->smtp($_)) for 'MAIL FROM:<x@site.test>', 'RSET', 'NOOP';
	$ok->(qr/^221/, $c->smtp('QUIT'));
	die "more than expected\n" if $c->rest ne '';
	return;
}

my ($twice, %queued) = (0);
walk('SMTP', 'smtp', dialogue => \&smtp, same => sub {
	my ($t, $n) = @_;
	$queued{$n} = [$t =~ /queued as (\w+)/g];
	$t =~ s/\b[0-9a-f]{10,}\.(\d+)\@/ID.$1\@/g;
	$t =~ s/(queued as )\w+/$1QUEUE/g;
	$t =~ s/s\d+\@site/sN\@site/g;
	return $t;
}, after => sub {
	my ($gw, $killed) = @_;
	$site->flush;
	my $doubt = () = $gw->log =~ /possible-duplicate/g;
	my @wrong;
	for my $n (1 .. $killed) {
		my %copies;
		for my $m ($site->messages("s$n")) {
			my ($id) = $m =~ /Message-ID: <(\w+)/;
			my ($size) = $id eq 's1' ? 90_000 : 3000;
			push @wrong, "s$n: $id is not whole" if index($m, message($id, $size)) < 0;
			my ($txn) = $m =~ /^X-Gw-Txn: (\S+)/m;
			push @{ $copies{$id} }, $txn // '';
		}
		for my $id ('s1', 's2') {
			my @t = @{ $copies{$id} // [] };
			push @wrong, "s$n: $id is lost" if !@t;
			diag("s$n, $id, queued as @{ $queued{$n} }\n", map { $site->fate($_) } @{ $queued{$n} }) if !@t;
			$twice += @t - 1 if @t;
			push @wrong, "s$n: a second $id that a store cannot recognise" if grep { $_ ne $t[0] } @t;
		}
	}
	is_deeply(\@wrong, [], 'SMTP: each message is in the store, whole, a second copy is recognisable');
	cmp_ok($twice, '<=', $doubt, "SMTP: $twice second copies, $doubt commits were in doubt");
});

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
walk('IMAP4', 'imap4', dialogue => sub {
	my ($c, $n) = @_;
	$tag = 0;
	$site->deliver(sprintf("i%07d", $n), message('i1', 200), message('i2', 60_000), message('i3', 300));
	$c->line =~ /^\* OK/ or die "greeting\n";
	imap($c, sprintf("LOGIN i%07d secret", $n));
	imap($c, 'SELECT INBOX');
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
}, same => sub {
	my ($t, $n) = @_;
	my $mine = sub { return join ' ', map { /Message-ID: <(\w+)/ ? $1 : '?' } @_ };
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
	$t =~ s/\bi\d+\@site/iN\@site/g;
	return "$t left: " . $mine->($site->messages(sprintf("i%07d", $n)));
});
done_testing();
