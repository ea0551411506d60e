#!/usr/bin/perl
# Chaos: many sessions of the three protocols, each checking every octet, while a killer picks processes of every kind.
# Afterwards nothing is lost, nothing twice but for commits that were in doubt, and nothing is left behind: no descriptor, no memory.
#
# Every second client speaks TLS (STARTTLS), the gateway TLS with no host. A tls process that is killed ends its connections, and no
# others. Half of the POP3 and IMAP4 clients change a mailbox of their own, and know at the end what must be in it.
# BMR_SOAK: seconds of a long run (1: ten minutes). BMR_SEED: repeats a run's choices.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use List::Util qw(min max shuffle sum0);
use POSIX ();
use Storable qw(store_fd fd_retrieve);
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Imap;
use BMR::Site;
use BMR::Tls;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $seconds = $ENV{BMR_SOAK} ? ($ENV{BMR_SOAK} > 1 ? $ENV{BMR_SOAK} : 600) : 25;
my $clients = $ENV{BMR_SOAK} ? 240 : 60;
my $seed = $ENV{BMR_SEED} // time() % 1_000_000;
srand $seed;
diag("seed $seed, $clients clients, $seconds s");
my $site = BMR::Site->new(smtp => 1);
my %more = (pop3 => '', smtp => '', imap4 => '');
my %services = map { my $p = $_; $p => { backends => { map { $_ => $site->addr($_, $p) } 'a', 'b' }, health => qq(interval = "1s"\n    fall = 3\n    rise = 1),
	more => qq(timeout {\n park = "700ms"\n }) } } sort keys %more;
my $ca = BMR::Tls->new;
$ca->cert('gw', cn => 'gw.test', san => 'DNS:gw.test');
my $tls = { mode => 'starttls', ca => $ca->file('ca.pem') };
my $gw = BMR::Gateway->new(net => $site->{net}, tls => $tls, top => $ca->block('gw'), services => \%services);
$gw->ready;

my $letters = join('', map { sprintf("%06d the quick brown fox jumps over the lazy dog\r\n", $_) } 1 .. 2000);
my $line = index($letters, "\n") + 1;
sub message {
	my ($id, $size) = @_;
	return "Subject: chaos\r\nMessage-ID: <$id\@test>\r\nFrom: x\@site.test\r\nDate: Tue, 24 Nov 2026 00:00:00 +0000\r\n\r\n"
	    . substr($letters, 0, int($size / $line + 1) * $line) . "last line\r\n";
}
my @stock = map { message("stock$_", 100 + $_ * 9000) } 1 .. 5;
$site->deliver('stock', @stock);
$site->mailbox(map { "sink$_" } 0 .. 9);
my (%direct);
{	# what each message is, from a backend itself
	my @m = $site->messages('stock');
	$direct{$_ + 1} = $m[$_] for 0 .. $#m;
}

# Of the clients that change a mailbox: the number is its owner's.
my @writers = grep { $_ % 3 < 2 && int($_ / 6) % 2 } 0 .. $clients - 1;
for my $k (@writers) {
	if ($k % 3) { $site->deliver("w$k", map { message("w$k-$_", 300) } 1 .. 20) }
	else {
		$site->mailbox("w$k");
		my $c = BMR::Imap->new($site->addr('a', 'imap4'));
		$c->login("w$k")->ok && $c->do('CREATE Copies')->ok or die "w$k: no mailbox\n";
	}
}

# Of each kind of process that is there once: descriptors by what they are, and memory of its own in KiB. A listener has a channel to each
# warm process, of which there are now more, now fewer.
my @fixed = ('fdstore', 'balancer', 'admin', 'tls', map { ("$_/listener", "$_/zygote") } sort keys %more);
sub held {
	my %held;
	for my $title (@fixed) {
		my ($p) = $gw->pids(qr/^bmr: \Q$title\E(?! process)/) or next;
		open(my $f, '<', "/proc/$p/status") or next;
		($held{$title}{anon}) = do { local $/; <$f> } =~ /^RssAnon:\s+(\d+)/m;
		$held{$title}{fds}{ s/:?\[\d+\]|:\d+$//r }++ for grep { defined } map { readlink } glob("/proc/$p/fd/*");
		$held{$title}{fds}{socket} -= () = $gw->pids(qr/^bmr: $1 session \(warm\)/) if $title =~ /^(.*)\/listener/;
	}
	return \%held;
}
sleep 1;
my $before = held();

# --- clients ---------------------------------------------------------------------------------------------------------

sub must($$) { my ($good, $what) = @_; $good or die "$what\n"; return }
sub nap { sleep rand 0.4 }

sub pop3 {
	my ($c, $r) = @_;
	must(($_ = $c->line) =~ /^\+OK gw\.test /, "greeting: $_");
	nap();
	must(($_ = $c->cmd('USER stock')) =~ /^\+OK/, "USER: $_");
	must(($_ = $c->cmd('PASS secret')) =~ /^\+OK/, "PASS: $_");
	for (1 .. 4 + rand 6) {
		nap();
		my $n = 1 + int rand 5;
		must(($_ = $c->cmd("RETR $n")) =~ /^\+OK /, "RETR: $_");
		my $b = $c->body;
		must(defined $b && $b eq $direct{$n}, "RETR $n differs");
		must(($_ = $c->cmd('STAT')) =~ /^\+OK 5 /, "STAT: $_");
		sleep 1 if rand() < 0.2;
	}
	must(($_ = $c->cmd('QUIT')) eq "+OK bye\r\n", "QUIT: $_");
	must($c->rest eq '', 'more after QUIT');
	return;
}

sub smtp {
	my ($c, $r) = @_;
	must(($_ = $c->reply) =~ /^220 gw\.test /, "greeting: $_");
	must(($_ = $c->smtp('EHLO chaos.test')) =~ /^250/, "EHLO: $_");
	for (1 .. 2 + rand 3) {
		nap();
		my $id = sprintf('c%d-%d', $$, ++$r->{n});
		my $m = message($id, 200 + int rand 90_000);
		must(($_ = $c->smtp('MAIL FROM:<x@site.test>')) =~ /^250/, "MAIL: $_");
		nap();
		must(($_ = $c->smtp("RCPT TO:<sink$r->{k}\@site.test>")) =~ /^250/, "RCPT: $_");
		must(($_ = $c->smtp('DATA')) =~ /^354/, "DATA: $_");
		$c->send(substr($m, 0, length($m) / 2));
		nap();
		$c->send(substr($m, length($m) / 2) . ".\r\n");
		my $said = $c->reply;
		must($said =~ /^250/, "end of content: $said");
		$r->{sent}{$id} = { size => length $m, said => $said };
		sleep 1 if rand() < 0.2;
	}
	must(($_ = $c->smtp('QUIT')) =~ /^221/, "QUIT: $_");
	must($c->rest eq '', 'more after QUIT');
	return;
}

my $tag = 0;
sub imap {
	my ($c, $cmd) = @_;
	my $t = 't' . ++$tag;
	$c->send("$t $cmd\r\n");
	return imap_until($c, $t, $cmd);
}
sub imap_until {
	my ($c, $t, $cmd) = @_;
	my $r = '';
	while (1) {
		my $l = $c->line;
		must($l ne '', "$cmd: end of the stream");
		$r .= $l;
		if ($l =~ /\{(\d+)\}\r\n\z/) {
			my $n = $1;
			while (length $c->{buf} < $n) { must($c->fill, 'end in a literal') }
			$r .= substr($c->{buf}, 0, $n, '');
		} elsif ($l =~ /^\Q$t\E /) {
			must($l =~ /^\S+ OK/, "$cmd: $l");
			return $r;
		}
	}
}

sub imap4 {
	my ($c, $r) = @_;
	must(($_ = $c->line) =~ /^\* OK/, "greeting: $_");
	imap($c, 'LOGIN stock secret');
	must(imap($c, 'SELECT INBOX') =~ /^\* 5 EXISTS/m, 'SELECT');
	for (1 .. 4 + rand 4) {
		nap();
		my $n = 1 + int rand 5;
		my $f = imap($c, "FETCH $n BODY.PEEK[]");
		$f =~ /BODY\[\] \{(\d+)\}\r\n/ or die "FETCH $n: no body\n";
		must(substr($f, $+[0], $1) eq $direct{$n}, "FETCH $n differs");
		if (rand() < 0.4) {
			$c->send("i$n IDLE\r\n");
			my $l;
			do { $l = $c->line } while $l =~ /^\*/;
			must($l =~ /^\+/, "IDLE: $l");
			sleep rand 2;
			$c->send("DONE\r\n");
			imap_until($c, "i$n", 'IDLE');
		}
	}
	imap($c, 'LOGOUT');
	must($c->rest eq '', 'more after LOGOUT');
	return;
}

# Takes a message out of its mailbox; what was asked for and not answered may have been done.
sub pop3_writes {
	my ($c, $r) = @_;
	must(($_ = $c->line) =~ /^\+OK/, "greeting: $_");
	must(($_ = $c->cmd("USER w$r->{no}")) =~ /^\+OK/, "USER: $_");
	must(($_ = $c->cmd('PASS secret')) =~ /^\+OK/, "PASS: $_");
	nap();
	my ($n) = ($_ = $c->cmd('STAT')) =~ /^\+OK (\d+)/ or die "STAT: $_";
	my $id;
	if ($n > 0) {
		must(($_ = $c->cmd("RETR $n")) =~ /^\+OK /, "RETR: $_");
		($id) = ($c->body // '') =~ /^Message-ID: <([\w-]+)\@/m or die "no message\n";
		must(($r->{is}{$id} // '') ne 'gone', "$id is back");
		must(($_ = $c->cmd("DELE $n")) =~ /^\+OK/, "DELE: $_");
		nap();
		$r->{is}{$id} = 'going';
	}
	must(($_ = $c->cmd('QUIT')) =~ /^\+OK/, "QUIT: $_");
	$r->{is}{$id} = 'gone' if defined $id;
	sleep 0.3 if !defined $id;
	return;
}

# Puts messages into its mailbox, marks, copies and removes them, each by its UID.
sub imap4_writes {
	my ($c, $r) = @_;
	must(($_ = $c->line) =~ /^\* OK/, "greeting: $_");
	imap($c, "LOGIN w$r->{no} secret");
	imap($c, 'SELECT INBOX');
	for (1 .. 2 + rand 3) {
		my $id = sprintf('i%d-%d', $$, ++$r->{n});
		my $m = message($id, 200 + int rand 40_000);
		my $t = 't' . ++$tag;
		$r->{is}{$id} = 'coming';
		$c->send("$t APPEND INBOX {" . length($m) . "}\r\n");
		my $l;
		do { $l = $c->line } while $l =~ /^\*/;
		must($l =~ /^\+/, "APPEND: $l");
		$c->send(substr($m, 0, 150));
		nap();
		$c->send(substr($m, 150) . "\r\n");
		my ($uid) = imap_until($c, $t, 'APPEND') =~ /\[APPENDUID \d+ (\d+)\]/;
		$r->{is}{$id} = 'there';
		($uid) = imap($c, "UID SEARCH HEADER Message-ID $id\@test") =~ /^\* SEARCH (\d+)\r/m if !$uid;
		must($uid, "$id has no UID");
		nap();
		imap($c, "UID STORE $uid +FLAGS.SILENT (\\Flagged)");
		$r->{flagged}{$id} = 1;
		if (rand() < 0.5) {
			$r->{copy}{$id} = 'coming';
			imap($c, "UID COPY $uid Copies");
			$r->{copy}{$id} = 'there';
		}
		nap();
		if (rand() < 0.5) {
			$r->{is}{$id} = 'going';
			imap($c, "UID STORE $uid +FLAGS.SILENT (\\Deleted)");
			imap($c, "UID EXPUNGE $uid");
			$r->{is}{$id} = 'gone';
		}
	}
	imap($c, 'LOGOUT');
	must($c->rest eq '', 'more after LOGOUT');
	return;
}

sub client {
	my ($k, $until) = @_;
	local $SIG{PIPE} = 'IGNORE';		# a close with TLS writes
	my %do = (pop3 => \&pop3, smtp => \&smtp, imap4 => \&imap4);
	my $proto = (sort keys %do)[$k % 3];
	@do{ 'pop3', 'imap4' } = (\&pop3_writes, \&imap4_writes) if grep { $_ == $k } @writers;
	my %r = (k => $k % 10, no => $k, n => 0, sessions => 0, failed => [], sent => {}, is => {}, copy => {}, flagged => {});
	srand($seed + $k);
	while (time() < $until) {
		my $began = time();
		my $c = eval { BMR::Client->new($gw->addr($proto), $k % 2 ? (tls => $tls) : ()) };
		if (!$c) { push @{ $r{failed} }, [$proto, $began, time(), "connect: $@", $k % 2]; sleep 0.2; next }
		$r{sessions}++;
		eval { $do{$proto}->($c, \%r); 1 } or push @{ $r{failed} }, [$proto, $began, time(), $@ =~ s/\n.*//sr, $k % 2];
		$c->close;
	}
	return \%r;
}

my $begun = time();
my @pipes;
for my $k (0 .. $clients - 1) {
	pipe(my $r, my $w) or die;
	my $pid = fork() // die;
	if ($pid == 0) {
		close $r;
		my $said = client($k, $begun + $seconds);
		store_fd($said, $w);
		close $w;
		POSIX::_exit(0);
	}
	close $w;
	push @pipes, [$pid, $r];
}

# --- the killer ------------------------------------------------------------------------------------------------------

my (%kills, @tls_deaths);
my ($next_worker, $no_listener_before) = (time() + 4, 0);
my @workers = ('pop3/listener', 'smtp/listener', 'imap4/listener', 'pop3/zygote', 'smtp/zygote', 'imap4/zygote', 'balancer', 'admin',
	'fdstore', 'bmrd');
my @turn = shuffle('tls', 'tls process', (shuffle(@workers))[0 .. 5]);	# of a short run too; then at random

sub shoot {
	my ($kind, @p) = @_;
	return if !@p;
	my $p = $p[rand @p];
	$kills{$kind}++ if kill 'KILL', $p;
	return;
}

sub kill_worker {
	my $kind = shift @turn // ('tls', 'tls process', @workers)[rand(@workers + 2)];
	$kind = 'admin' if time() < $no_listener_before && $kind =~ /listener|bmrd/;
	if ($kind eq 'bmrd') {
		kill 'KILL', $gw->{pid};
		waitpid($gw->{pid}, 0);
		$kills{bmrd}++;
		sleep 0.5;
		$gw->start;
		$next_worker = time() + 6;
		$no_listener_before = time() + 8;
		return;
	}
	$no_listener_before = time() + 4 if $kind eq 'fdstore';	# a listener's death on top is one too many
	push @tls_deaths, time() if $kind eq 'tls process';
	shoot($kind =~ s/.*\///r, $gw->pids($kind eq 'tls' ? qr/^bmr: tls(?! process)/ : qr/^bmr: \Q$kind\E/));
	$next_worker = time() + 1.5 + rand 1.5;
	return;
}

setpriority(0, 0, -15);		# hundreds of clients leave it little else
while (time() < $begun + $seconds) {
	sleep 0.05 + rand 0.15;
	my $what = rand();
	if (time() > $next_worker) { kill_worker() }
	elsif ($what < 0.8) { shoot('session', $gw->pids(qr/session [0-9a-f]+ /)) }
	else {
		my $h = ('a', 'b')[rand 2];
		my $name = ('pop3', 'imap', 'smtpd')[rand 3];
		shoot("backend's $name", $site->pids($h, $name));
	}
}

# --- what came of it -------------------------------------------------------------------------------------------------

my (%sent, @failed, $sessions, %wrote);
for my $p (@pipes) {
	my $r = eval { fd_retrieve($p->[1]) };
	waitpid($p->[0], 0);
	if (!$r) { push @failed, ['?', 0, 0, 'a client died', 0]; next }
	$sessions += $r->{sessions};
	push @failed, @{ $r->{failed} };
	$sent{$_} = $r->{sent}{$_} for keys %{ $r->{sent} };
	$wrote{ $r->{no} } = $r;
}
# who had or began TLS when a process of it was killed
my $excused = grep { my $f = $_; $f->[4] && grep { $f->[1] < $_ + 3 && $f->[2] > $_ - 0.5 } @tls_deaths } @failed;
@failed = grep { my $f = $_; !$f->[4] || !grep { $f->[1] < $_ + 3 && $f->[2] > $_ - 0.5 } @tls_deaths } @failed;
my $resumed = () = $gw->log =~ /another goes on/g;
my $doubt = () = $gw->log =~ /possible-duplicate/g;
diag(sprintf '%d sessions, %d resumed after a death, %d failed', $sessions, $resumed, scalar @failed);
diag("$excused ended with their tls process");
diag('kills: ' . join ', ', map { "$_ $kills{$_}" } sort keys %kills);
cmp_ok($sessions, '>', $clients, 'there were many sessions');
cmp_ok(sum0(values %kills), '>', 20, 'and many kills');
my @how = map { sprintf '%s%s at %.2f-%.2f: %s', $_->[0], $_->[4] ? ' with TLS' : '', $_->[1] - $begun, $_->[2] - $begun, $_->[3] } @failed;
is_deeply(\@how, [], 'no session has failed');

$site->flush;
my (%got, @wrong);
for my $k (0 .. 9) {
	for my $m ($site->messages("sink$k")) {
		my ($id) = $m =~ /^Message-ID: <([\w-]+)\@/m;
		next if !$sent{$id};		# sent by a session that failed before it heard so
		push @wrong, "$id is not whole" if length($m) < $sent{$id}{size} || $m !~ /last line\r\n\z/;
		$got{$id}++;
	}
}
my @lost = grep { !$got{$_} } sort keys %sent;
for my $id (@lost) {
	diag(join '', "lost: $id, answered $sent{$id}{said}\n", map { my $h = $_; map { "$h: $_\n" } grep { /\b\Q$id\E\@/ } split /\n/, $site->log_of($h, 'postfix') } 'a', 'b');
}
my $twice = sum0(map { $_ - 1 } values %got);
is_deeply(\@lost, [], 'no message of ' . keys(%sent) . ' is lost');
is_deeply(\@wrong, [], 'all are whole');
cmp_ok($twice, '<=', $doubt, "$twice copies too many, $doubt commits were in doubt");

# What must be in a mailbox, by what its client was told, and is not; or is there although it must not, or twice.
sub compare {
	my ($where, $want, $got) = @_;
	my @bad;
	for my $id (sort keys %$want) {
		my $n = $got->{$id} // 0;
		push @bad, "$where: $id, $want->{$id}, is there $n times" if $n > 1 || ($want->{$id} eq 'there' && $n != 1) || ($want->{$id} eq 'gone' && $n);
	}
	return @bad, map { "$where: $_ is not known" } grep { !$want->{$_} } sort keys %$got;
}

sub box {
	my ($k, $name) = @_;
	my $c = BMR::Imap->new($site->addr('a', 'imap4'));
	$c->login("w$k")->ok && $c->do("EXAMINE $name")->ok or die "$name of w$k\n";
	my (%n, %flagged);
	for my $f ($c->{view}{exists} ? $c->do('FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])')->fetches : ()) {
		my ($id) = join(' ', map { $_ // '' } values %{ $f->{item} }) =~ /<([\w-]+)\@test>/ or next;
		$n{$id}++;
		$flagged{$id} = 1 if grep { $_ eq '\\Flagged' } @{ $f->{item}{FLAGS} };
	}
	return (\%n, \%flagged);
}

my @changed;
my $changes = 0;
for my $k (grep { $wrote{$_} } @writers) {
	my $r = $wrote{$k};
	my ($n, $flagged) = box($k, 'INBOX');
	my %want = %{ $r->{is} };
	if ($k % 3) { $want{"w$k-$_"} //= 'there' for 1 .. 20 }
	push @changed, compare("INBOX of w$k", \%want, $n), map { "INBOX of w$k: $_ is not flagged" } grep { $n->{$_} && !$flagged->{$_} } sort keys %{ $r->{flagged} };
	push @changed, compare("Copies of w$k", $r->{copy}, (box($k, 'Copies'))[0]) if $k % 3 == 0;
	$changes += keys(%{ $r->{is} }) + keys(%{ $r->{copy} }) + keys %{ $r->{flagged} };
}
cmp_ok($changes, '>', scalar @writers, "there were $changes changes of mailboxes");
is_deeply(\@changed, [], 'all were done, and once');

my $until = time() + 30;
sleep 0.2 while time() < $until && $gw->pids(qr/session [0-9a-f]+ /);
is(scalar $gw->pids(qr/session [0-9a-f]+ /), 0, 'no process of a session is left');
my $who = sub { scalar @{ $gw->bmr('who')->{sessions} // ['?'] } };
sleep 0.3 while time() < $until && $who->() > 0;
is($who->(), 0, 'no session is left');
for my $s (@{ $gw->bmr('who')->{sessions} // [] }) {
	diag(join ' ', map { "$_=" . ($s->{$_} // '') } sort keys %$s);
	diag($_) for grep { /$s->{session}/ } split /\n/, $gw->log;
}
sleep 0.3 while time() < $until && grep { (readlink($_) // '') =~ /bmr-journal/ } map { glob("/proc/$_/fd/*") } $gw->pids(qr/^bmr: (?:fdstore|\S+\/listener)/);
for my $title ('fdstore', 'pop3/listener', 'smtp/listener', 'imap4/listener') {
	my ($p) = $gw->pids(qr/^bmr: \Q$title\E/);
	my @fds = map { readlink($_) // '' } glob("/proc/$p/fd/*");
	is(scalar(grep { /bmr-journal/ } @fds), 0, "$title holds no journal");
	cmp_ok(scalar @fds, '<', 60, "$title holds few descriptors");
}

# Descriptors of a kind that are more than at the start.
sub too_many {
	my ($now) = @_;
	my @many;
	for my $title (@fixed) {
		my ($was, $is) = ($before->{$title}{fds} // {}, $now->{$title}{fds} // {});
		push @many, map { "$title: $is->{$_} of $_" } grep { $is->{$_} > ($was->{$_} // 0) } sort keys %$is;
		push @many, "$title is not there" if !%$is;
	}
	return @many;
}
$until = time() + 30;
my $after;
sleep 0.3 while ($after = held()) && too_many($after) && time() < $until;
is_deeply([too_many($after)], [], 'all have the descriptors that they had before');
my $slack = $BMR::Gateway::build =~ m{/san$} ? 65536 : 2048;	# the sanitizers keep what was freed
is_deeply([map { "$_: $after->{$_}{anon} KiB, at first $before->{$_}{anon}" } grep { $after->{$_}{anon} > $before->{$_}{anon} + $slack } @fixed], [], 'and the memory');
$gw->stop;
is_deeply($gw->{left}, [], 'no process is left');
done_testing();
