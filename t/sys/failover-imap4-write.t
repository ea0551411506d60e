#!/usr/bin/perl
# The failover cases of the IMAP4 behaviour that concern writing: I22 to I46 and I63, over two real Dovecots on one store.
# I31 to I34 and I39 kill a whole host at random moments: in a few rounds, or in 300 with BMR_SOAK=1. BMR_STORE=maildir
# runs all over a maildir; I31 to I34 always run over both.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Case qw(run_case);
use BMR::Cut qw(not_sent no_reply killed fired);
use BMR::ImapCase;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my %site;
sub site { my ($store) = @_; return $site{$store} //= BMR::Site->new(imap => 1, store => $store) }
my $store = $ENV{BMR_STORE} // 'sdbox';
my $straight = $BMR::Case::direct;
sub case { my ($name, %o) = @_; return run_case($o{site} // site($store), $name, proto => 'imap4', %o) }

# Both kinds of doubt: the command did not come to the server, or its reply did not come back.
sub doubts {
	my ($name, $re, $client, %o) = @_;
	case("$name, not received", not_sent(qr/ (?:UID )?(?:$re)/), client => $client, %o);
	case("$name, done, no reply", no_reply(qr/(?:UID )?(?:$re)/), client => $client, %o);
	case("$name, done, no tagged line", no_reply(qr/(?:UID )?(?:$re)/, keep => 'untagged'), client => $client, %o);
	return;
}
sub same_flags {
	my ($got) = @_;
	return { map { $_ => join(' ', sort grep { $_ ne '\Recent' } split ' ', $got->{$_}) } keys %$got };
}

# --- flags ---------------------------------------------------------------------------------------------------------------

for my $op (['I22', '+FLAGS (\Flagged)', '\Flagged \Seen'], ['I23', 'FLAGS (\Answered $x)', '$x \Answered'], ['I24', '-FLAGS (\Seen)', '']) {
	my ($n, $what, $want) = @$op;
	for my $form ('', 'UID ') {
		doubts("$n ${form}STORE $what", qr/STORE/, sub {
			my ($x) = @_;
			fill($x, 'INBOX', 4);
			other($x, 'INBOX', 'STORE 1:* FLAGS (\Seen)');
			my $c = selected($x, 'INBOX');
			my $r = $c->do("${form}STORE 2:3 $what");
			ok($r->ok, 'OK') or diag($r->{line});
			my %told = map { $_->{num} => join ' ', sort grep { $_ ne '\Recent' } @{ $_->{item}{FLAGS} } } $r->fetches;
			is_deeply(\%told, { 2 => $want, 3 => $want }, 'FETCH tells') if !$straight || %told;
			is_deeply(flags($x, 'INBOX'), { 1 => '\Seen', 2 => $want, 3 => $want, 4 => '\Seen' }, 'so it is in the store');
			$x->died;
		});
	}
}
case('I22 STORE .SILENT', no_reply(qr/(?:UID )?STORE/), client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 3);
	my $c = selected($x, 'INBOX');
	my $r = $c->do('STORE 2 +FLAGS.SILENT (\Flagged)');
	ok($r->ok, 'OK');
	is_deeply(flags($x, 'INBOX'), { 1 => '', 2 => '\Flagged', 3 => '' }, 'so it is');
	$x->died;
});
case('I23 STORE FLAGS, another changed one meanwhile', no_reply(qr/(?:UID )?STORE/, how => 'mute'), client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	fill($x, 'INBOX', 2);
	my $c = selected($x, 'INBOX');
	my $t = $c->begin('STORE 1 FLAGS (\Answered)');
	$x->died;
	other($x, 'INBOX', 'STORE 1 +FLAGS (\Draft)');
	$x->{tap}{ $x->dead }->down;
	ok($c->finish($t)->ok, 'OK');
	is_deeply(flags($x, 'INBOX'), { 1 => '\Answered', 2 => '' }, 'what was asked for');
});

for my $how (['I25', 'executed', no_reply(qr/(?:UID )?STORE/)], ['I26', 'not executed', not_sent(qr/STORE/)]) {
	my ($n, $name, @cut) = @$how;
	case("$n UNCHANGEDSINCE, $name", @cut, client => sub {
		my ($x) = @_;
		fill($x, 'INBOX', 3);
		my $c = selected($x, 'INBOX', enable => 'CONDSTORE');
		my ($m) = map { $_->{item}{MODSEQ}[0] } $c->do('FETCH 2 (MODSEQ)')->fetches;
		my $r = $c->do("UID STORE 2 (UNCHANGEDSINCE $m) +FLAGS (\$MDNSent)");
		is_deeply(flags($x, 'INBOX'), { 1 => '', 2 => '$MDNSent', 3 => '' }, 'it is done');
		$x->died;
		# the flag may be another's claim as well
		return like($c->{bye} // '', qr/\[UNAVAILABLE\]/, 'BYE') if $n eq 'I25' && !$straight;
		ok($r->ok, 'OK') or diag($r->{line});
		like($r->{code}, qr/^(?:HIGHESTMODSEQ \d+)?$/, 'not MODIFIED');
		my ($f) = grep { $_->{item}{FLAGS} } $r->fetches, $c->do('NOOP')->fetches;
		ok($f && (grep { $_ eq '$MDNSent' } @{ $f->{item}{FLAGS} }), 'the flag is told');
		cmp_ok($f ? $f->{item}{MODSEQ}[0] : 0, '>', $m, 'with its MODSEQ');
	});
}
case('I26 UNCHANGEDSINCE, another changed it', not_sent(qr/STORE/), client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 3);
	my $c = selected($x, 'INBOX', enable => 'CONDSTORE');
	my ($m) = map { $_->{item}{MODSEQ}[0] } $c->do('FETCH 2 (MODSEQ)')->fetches;
	other($x, 'INBOX', 'STORE 2 +FLAGS (\Draft)');
	my $r = $c->do("STORE 2 (UNCHANGEDSINCE $m) +FLAGS (\\Flagged)");
	like("$r->{status} $r->{code}", qr/^(?:OK|NO) MODIFIED 2$/, '[MODIFIED 2]');
	is_deeply(flags($x, 'INBOX'), { 1 => '', 2 => '\Draft', 3 => '' }, 'and not changed');
	$x->died;
});

# --- APPEND --------------------------------------------------------------------------------------------------------------

# The message that an APPEND has to have made is where its answer says, and there once.
sub appended {
	my ($x, $box, $r, @m) = @_;
	ok($r->ok, 'OK') or diag("$r->{line}" . ($r->{untagged} ? $r->raw : ''));
	like($r->{code}, qr/^APPENDUID \d+ [\d:,]+$/, 'APPENDUID') or return;
	my ($v, $set) = $r->{code} =~ /^APPENDUID (\d+) (\S+)/;
	my @uid = BMR::View::set($set);
	is(scalar(@uid), scalar(@m), 'as many UIDs');
	my %at = map { $_->[0] => $_->[2] } box($x, $box);
	is_deeply([@at{@uid}], \@m, 'each its message');
	my ($uv) = map { $_->{args}[1][1] } $x->direct($x->alive)->do("STATUS $box (UIDVALIDITY)")->of('STATUS');
	is($v, $uv, 'UIDVALIDITY');
	return;
}
sub append_case {
	my ($name, %o) = @_;
	my $client = sub {
		my ($x) = @_;
		my @old = fill($x, 'box', 2);
		my $m = message($o{size} // 60_000, noid => $o{noid});
		my $c = $x->login;
		my $r = $c->do('APPEND box (\Seen $k) "17-Jul-2026 02:44:25 -0700" ', $o{plus} ? [$m] : \$m);
		appended($x, 'box', $r, $m);
		holds($x, 'box', 'one copy', @old, $m);
		my ($new) = grep { $_->[2] eq $m } box($x, 'box');
		is($new->[1], '$k \Seen', 'with its flags');
		ok($c->do('NOOP')->ok, 'and on');
		$x->died;
	};
	return case($name, client => $client, %{ $o{rule} });
}
append_case('I27 APPEND not received', rule => { not_sent(qr/APPEND/) });
append_case('I27 APPEND received, no +', rule => { s2c => sub {
	my ($conn, $d) = @_;
	return !fired($conn) && $d =~ /^\+ /m && $conn->{tap}->fire($conn, 'fin') ? '' : $d;
} });
append_case("I28 APPEND cut $_ octets behind its beginning", rule => { not_sent(qr/APPEND/, at => $_) }) for 50, 200, 30_000;
append_case('I28 APPEND with LITERAL+, cut in the literal', plus => 1, rule => { not_sent(qr/APPEND/, at => 30_000) });
append_case('I28 APPEND of 5 MB, cut in the literal', size => 5_000_000, rule => { not_sent(qr/APPEND.*?000400 /s) });
append_case('I30 APPEND without its last CRLF', rule => { not_sent(qr/\r\nlast line\r\n/, at => 'end') });
append_case("I31 APPEND done, $_->[0]", rule => { no_reply(qr/APPEND/, keep => $_->[1]) }) for ['no reply', 0], ['no tagged line', 'untagged'],
    ['cut in the tagged line', -12], ['cut before its end', -1];
append_case('I32 APPEND without a Message-ID, not received', noid => 1, rule => { not_sent(qr/APPEND/) });
append_case('I32 APPEND without a Message-ID, done', noid => 1, rule => { no_reply(qr/APPEND/) });
append_case('I31 a small one, done, no reply', size => 10, rule => { no_reply(qr/APPEND/) });

# A client that waits for + hears nothing before it, whatever has changed in its own mailbox: imaplib2 takes anything else for a
# refusal, sends no literal and waits for the tagged line for good.
for my $what ([ 'APPEND', qr/ APPEND / ], [ 'IDLE', qr/ IDLE\r\n/ ]) {
	case("I27 $what->[0], not received, another has changed the mailbox", not_sent($what->[1]), client => sub {
		my ($x) = @_;
		my @old = fill($x, 'INBOX', 3);
		my $c = selected($x, 'INBOX');
		$c->do('FETCH 1:* (UID FLAGS)');
		$c->do('NOOP');
		other($x, 'INBOX', 'STORE 2 +FLAGS (\Flagged)', ['APPEND INBOX ', [my $theirs = message()]], 'STORE 1 +FLAGS (\Deleted)', 'EXPUNGE');
		my $from = length $c->{seen};
		my $m = message(9000);
		if ($what->[0] eq 'IDLE') {
			$c->idle;
			ok($c->done->ok, 'OK');
		} else {
			ok($c->do('APPEND INBOX ', \$m)->ok, 'OK');
		}
		like(substr($c->{seen}, $from), qr/^\+ /, '+ comes first');
		ok($c->do('NOOP')->ok, 'and on');
		my @want = (@old[1, 2], $theirs, $what->[0] eq 'IDLE' ? () : $m);
		is($c->{view}{exists}, scalar(@want), 'the client has heard of all');
		holds($x, 'INBOX', 'they are there once each', @want);
		$x->died;
	});
}

# Another client appends between the death and the look at the other host.
sub another {
	my ($conn, $said, $same) = @_;
	my ($user) = $said =~ /LOGIN "?([^" ]+)/;
	my $o = BMR::Imap->new(site($store)->addr($conn->{tap}{host} eq 'a' ? 'b' : 'a', 'imap4'));
	$o->login($user);
	$o->do('APPEND box ', [$same ? message(4000, id => "same-$user") : message(4000)]);
	return;
}
for my $same (0, 1) {
	my %how = ('not received' => { c2s => sub {
		my ($conn, $d) = @_;
		return $d if fired($conn) || $d !~ / APPEND / || !$conn->{tap}->fire($conn, 'fin');
		another($conn, "$conn->{in}{c2s}$d", $same);
		return '';
	} }, 'done' => { s2c => sub {
		my ($conn, $d) = @_;
		return $d if fired($conn) || $conn->{in}{c2s} !~ /^(\S+) APPEND /m || $d !~ /^\Q$1\E /m || !$conn->{tap}->fire($conn, 'fin');
		another($conn, $conn->{in}{c2s}, $same);
		return '';
	} });
	for my $how (sort keys %how) {
		case(($same ? 'I34' : 'I33') . ' another appends ' . ($same ? 'an identical' : 'a different') . " message, $how", %{ $how{$how} }, client => sub {
			my ($x) = @_;
			return pass('only through the gateway') if $straight;
			fill($x, 'box', 1);
			my $m = message(4000, id => 'same-' . $x->user);
			my $r = $x->login->do('APPEND box ', \$m);
			$x->died;
			my @box = map { $_->[2] } box($x, 'box');
			my $ours = grep { $_ eq $m } @box;
			if ($same) {
				ok($r->ok, 'OK');
				ok($ours == 1 || $ours == 2, "one of ours at least, and none too many ($ours)");
			} else {
				appended($x, 'box', $r, $m);
				is($ours, 1, 'one of ours');
				is(scalar(@box), 3, 'and one of the other');
			}
		});
	}
}

# The server does not say what the target is, and answers the command.
for my $why ('[NOPERM] Permission denied', '[SERVERBUG] Internal error occurred') {
	for my $cmd ('APPEND', 'COPY') {
		my %cut = no_reply(qr/(?:UID )?$cmd/);
		my $client = sub {
			my ($x) = @_;
			my @m = (fill($x, 'INBOX', 2), message());
			fill($x, 'box', 0);
			my $c = selected($x, 'INBOX');
			my $r = $cmd eq 'APPEND' ? $c->do('APPEND box ', \$m[2]) : $c->do('COPY 1 box');
			$x->died;
			ok($straight ? $r->ok : ($c->{bye} // '') =~ /\[UNAVAILABLE\]/, 'BYE') or diag($r->{line});
			holds($x, 'box', 'one copy', $cmd eq 'APPEND' ? $m[2] : $m[0]);
		};
		case("I33 $cmd, done, STATUS before it was refused: $why", client => $client, s2c => sub {
			my ($conn, $d) = @_;
			$d =~ s/^\* STATUS [^\n]*\n(~\S+) OK [^\n]*\n/$1 NO $why\r\n/m if !fired($conn);
			return $cut{s2c}->($conn, $d);
		});
	}
}

case('I29 the mailbox goes while the literal comes', not_sent(qr/ APPEND /, at => 20_000, how => 'mute'), client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	fill($x, 'box', 1);
	my $c = $x->login;
	my $m = message(60_000);
	push @{ $c->{flight} }, { tag => 'x1', name => 'APPEND', untagged => [] };
	$c->send('x1 APPEND box {' . length($m) . "}\r\n");
	ok($c->upto(sub { $_[0]{plus} || $_[0]{tag} })->{plus}, '+');
	$c->send(substr($m, 0, 30_000));
	sleep 0.5;
	my $h = $x->used;
	my $d = $x->direct($h eq 'a' ? 'b' : 'a');
	ok($d->do('DELETE box')->ok, 'DELETE by another');
	$x->kill('down', $h) if !$x->dead;
	$x->{tap}{ $x->dead }->down;
	$c->send(substr($m, 30_000) . "\r\n");
	my $r = $c->finish('x1');
	like("$r->{status} $r->{code}", qr/^NO (?:TRYCREATE|NONEXISTENT)/, 'NO [TRYCREATE]') or diag($r->{line});
	ok($c->do('NOOP')->ok, 'the literal was swallowed');
	ok(!$d->do('STATUS box (MESSAGES)')->ok, 'no mailbox was made');
});
case('I29 refused at once', client => sub {
	my ($x) = @_;
	my $c = $x->login;
	my $m = message(60_000);
	for my $lit (\$m, [$m]) {
		my $r = $c->do('APPEND nowhere ', $lit);
		like("$r->{status} $r->{code}", qr/^NO TRYCREATE/, 'NO [TRYCREATE]');
		ok($c->do('NOOP')->ok, 'and on');
	}
});

# The first host gets an APPEND whole and does nothing of it; the other refuses the replay once, having done it or not.
sub swallow {
	my ($conn, $d) = @_;	# what to pass on, and the tag when all of the command is here
	my $pass = '';
	if (!defined $conn->{sunk}) {
		return ($d) if $d !~ /^\S+ APPEND /m;
		($pass, $conn->{sunk}) = (substr($d, 0, $-[0]), '');
		$d = substr($d, $-[0]);
	}
	$conn->{sunk} .= $d;
	return ($pass) if $conn->{sunk} !~ /^(\S+) APPEND .*?\{(\d+)(\+?)\}\r\n/;
	my ($tag, $n, $plus, $at) = ($1, $2, $3, $+[0]);
	$conn->{tap}->push_out($conn, 'c', "+ OK\r\n") if !$plus && !$conn->{asked}++;
	return ($pass, length $conn->{sunk} >= $at + $n + 2 ? $tag : undef);
}
sub serverbug {
	my ($done) = @_;
	my $bug = "NO [SERVERBUG] Internal error occurred.\r\n";
	my $other = sub { my ($conn) = @_; return fired($conn) && $conn->{tap}->fired ne $conn->{tap}{host} && !-e "$conn->{tap}{dir}/bug" };
	my $once = sub { my ($conn) = @_; open(my $f, '>', "$conn->{tap}{dir}/bug"); close $f; return };
	return (c2s => sub {
		my ($conn, $d) = @_;
		return $d if fired($conn) && !($other->($conn) && !$done);
		my ($pass, $tag) = swallow($conn, $d);
		return $pass if !defined $tag;
		if (fired($conn)) {
			$once->($conn);
			$conn->{tap}->push_out($conn, 'c', "$tag $bug");
			$conn->{cut_after} = 'fin';
		} else {
			$conn->{tap}->fire($conn, 'fin');
		}
		return $pass;
	}, s2c => sub {
		my ($conn, $d) = @_;
		return $d if !$done || !$other->($conn) || $conn->{in}{c2s} !~ /^(\S+) APPEND/m || $d !~ /^\Q$1\E OK/m;
		my ($tag) = $conn->{in}{c2s} =~ /^(\S+) APPEND/m;
		$once->($conn);
		return "$tag $bug";
	});
}
append_case('I35 the replay is refused and was not done', size => 3000, rule => { serverbug(0) });
append_case('I35 the replay is refused and was done', size => 3000, rule => { serverbug(1) });

# What Dovecot keeps in another form than it came: a CR before CR LF or at the end goes, NUL becomes 0x80, binary is encoded.
for my $st ('sdbox', 'maildir') {
	for my $odd (['CR CR LF', "Subject: x\r\n\r\nx\r\r\ny\r\n"], ['CR at its end', "Subject: x\r\n\r\nx\r"], ['NUL', "Subject: x\r\n\r\nx\0y\r\n"],
	    ['bare CR and LF', "Subject: x\n\r\n\rx\ry\n"], ['a binary literal', "Content-Transfer-Encoding: binary\r\n\r\nx\0y\r\n", 1]) {
		my ($name, $m, $binary) = @$odd;
		case("I30 APPEND of what the store alters: $name, $st", site => site($st), no_reply(qr/APPEND/), client => sub {
			my ($x) = @_;
			fill($x, 'box', 1);
			my $c = $x->login;
			my $r = $c->do('APPEND box ', $binary ? \\$m : \$m);
			ok($r->ok || ($binary && !$straight && $c->{bye} =~ /\[UNAVAILABLE\]/), $binary ? 'OK, or BYE' : 'OK') or diag($r->{line});
			is(scalar(box($x, 'box')), 2, 'one copy');
			$x->died;
		});
	}
}

my %no_plus = no_reply(qr/APPEND/);
append_case('I36 LITERAL+ to a host without it', plus => 1, rule => { c2s => sub {
	my ($conn, $d) = @_;
	$conn->{tap}->push_out($conn, 'c', "* BYE no such literal\r\n") if fired($conn) && $d =~ /\+\}\r\n/;
	return $d;
}, s2c => sub {
	my ($conn, $d) = @_;
	$d =~ s/ LITERAL\+//g;
	return $no_plus{s2c}->($conn, $d);
} });

for my $plus (0, 1) {
	doubts('I37 MULTIAPPEND of 10' . ($plus ? ' with LITERAL+' : ''), qr/APPEND/, sub {
		my ($x) = @_;
		my @old = fill($x, 'box', 1);
		my @m = map { message(500 + 700 * $_) } 1 .. 10;
		my $c = $x->login;
		my $r = $c->do('APPEND box', map { (" (\\Seen) ", $plus ? [$_] : \(my $copy = $_)) } @m);
		appended($x, 'box', $r, @m);
		holds($x, 'box', 'each once', @old, @m);
		$x->died;
	});
}
case('I37 MULTIAPPEND cut in the seventh', not_sent(qr/ APPEND .*(?:last line.*){6}/s, at => 9000), client => sub {
	my ($x) = @_;
	fill($x, 'box', 0);
	my @m = map { message(3000) } 1 .. 10;
	my $c = $x->login;
	my $r = $c->do('APPEND box', map { (' ', \(my $copy = $_)) } @m);
	appended($x, 'box', $r, @m);
	holds($x, 'box', 'each once', @m);
});

# Rounds of one APPEND each, the host killed so many ms after it got the last octet.
sub rounds {
	my ($name, $st, $rounds, %o) = @_;
	my $delay = sub { my $r = rand; return 2 * $r * $r };
	case("$name, $st, $rounds rounds", site => site($st), interval => '1s', killed(site($st), qr/ APPEND .*\r\nlast line\r\n\r\n/s, $delay), client => sub {
		my ($x) = @_;
		return pass('only through the gateway') if $straight;
		fill($x, 'box', 1);
		my (@m, %verdict, @bad);
		for my $i (1 .. $rounds) {
			my $c = $x->login;
			my $m = message(400 + int(rand(20_000)), noid => $o{noid});
			my $r = $c->do('APPEND box (\Seen) ', $i % 2 ? \$m : [$m]);
			$verdict{ $r->{status} || ($c->{bye} // 'closed') }++;
			push @m, $m if $r->ok;
			my $h = $x->dead;
			my @box = box($x, 'box');
			my $n = grep { $_->[2] eq $m } @box;
			my ($uid) = $r->{code} =~ /^APPENDUID \d+ (\d+)/;
			push @bad, "round $i: $r->{line} $n copies" if $r->ok && ($n != 1 || !defined $uid || !grep { $_->[0] == $uid && $_->[2] eq $m } @box);
			push @bad, "round $i: $r->{line} " . ($c->{bye} // '') if !$r->ok && ($r->{status} || ($c->{bye} // '') !~ /UNAVAILABLE/ || $n > 1);
			$c->close;
			next if !$h;
			site($st)->start_host($h);
			unlink "$x->{dir}/fired";
			$x->{tap}{$h}->up;
			$x->gw->wait_up("imap4/$h") or push @bad, "round $i: $h does not come up";
			$x->{dead} = undef;
		}
		is_deeply(\@bad, [], 'always OK or BYE, exactly one copy, and its UID');
		note(join ', ', map { "$_ $verdict{$_}" } sort keys %verdict);
		cmp_ok($verdict{OK} // 0, '>', $rounds / 2, 'mostly OK');
	});
	return;
}
my $rounds = $ENV{BMR_SOAK} ? 300 : 8;
for my $st ('sdbox', 'maildir') {
	rounds('I31 APPEND killed', $st, $rounds);
	rounds('I32 APPEND without a Message-ID killed', $st, $ENV{BMR_SOAK} ? 60 : 3, noid => 1);
}

# --- COPY and MOVE ---------------------------------------------------------------------------------------------------------

# COPYUID says where each message came to be.
sub copied {
	my ($x, $code, $from, $want) = @_;	# $from: uid => octets
	like($code, qr/^COPYUID \d+ [\d:,]+ [\d:,]+$/, 'COPYUID') or return;
	my (undef, undef, $src, $dst) = split ' ', $code;
	my @src = BMR::View::set($src);
	my @dst = BMR::View::set($dst);
	is(scalar(@src), scalar(@dst), 'as many as');
	my %at = map { $_->[0] => $_->[2] } box($x, 'target');
	is(scalar(grep { ($from->{ $src[$_] } // 'none') ne ($at{ $dst[$_] } // '') } 0 .. $#src), 0, 'each UID is its message');
	is_deeply([sort { $a <=> $b } @src], $want, 'all that were asked for');
	return;
}
for my $n (3, 100) {
	for my $form ('', 'UID ') {
		doubts("I38 ${form}COPY of $n", qr/COPY/, sub {
			my ($x) = @_;
			my @m = fill($x, 'INBOX', $n + 2);
			my @old = fill($x, 'target', 2);
			my $c = selected($x, 'INBOX');
			my $last = $n + 1;
			my $r = $c->do("${form}COPY 2:$last target");
			ok($r->ok, 'OK') or diag($r->{line});
			copied($x, $r->{code}, { map { $_ => $m[ $_ - 1 ] } 1 .. @m }, [2 .. $last]);
			holds($x, 'target', "exactly $n more", @old, @m[1 .. $n]);
			holds($x, 'INBOX', 'and all where they were', @m);
			$x->died;
		});
	}
}
case('I38 COPY into the selected mailbox', no_reply(qr/(?:UID )?COPY/), client => sub {
	my ($x) = @_;
	my @m = fill($x, 'INBOX', 3);
	my $c = selected($x, 'INBOX');
	ok($c->do('COPY 1:3 INBOX')->ok, 'OK');
	$c->do('NOOP');
	is($c->{view}{exists}, 6, 'six now');
	holds($x, 'INBOX', 'each twice', @m, @m);
	$x->died;
});
case('I38 COPY of messages that are alike', no_reply(qr/(?:UID )?COPY/), client => sub {
	my ($x) = @_;
	my $m = message(300, noid => 1);
	fill($x, 'INBOX', $m, $m, $m);
	my $c = selected($x, 'INBOX');
	fill($x, 'target', 0);
	ok($c->do('COPY 1:3 target')->ok, 'OK');
	holds($x, 'target', 'three', $m, $m, $m);
	$x->died;
});
case('I38 COPY to nowhere', no_reply(qr/(?:UID )?COPY/), client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 2);
	my $c = selected($x, 'INBOX');
	my $r = $c->do('COPY 1:2 nowhere');
	like("$r->{status} $r->{code}", qr/^NO TRYCREATE/, 'NO [TRYCREATE]');
	$x->died;
});

# MOVE: everything is in one of the two mailboxes, and the client was told so.
sub moves {
	my ($x, $n, %o) = @_;
	my @m = fill($x, 'INBOX', $o{m} ? @{ $o{m} } : $n + 1);
	fill($x, 'target', 0);
	my $c = selected($x, 'INBOX');
	$x->{mark} = 1;
	my $r = $c->do(($o{form} // '') . "MOVE 1:$n target");
	ok($r->ok, 'OK') or diag($r->{line}, $r->raw);
	my @uid = map { split ' ', $_->{code} } grep { ($_->{code} // '') =~ /^COPYUID/ } @{ $r->{untagged} }, $r;
	my (@src, @dst);
	while (my (undef, undef, $s, $d) = splice(@uid, 0, 4)) { push @src, BMR::View::set($s); push @dst, BMR::View::set($d) }
	my %at = map { $_->[0] => $_->[2] } box($x, 'target');
	my %pair;
	@pair{@src} = @dst;
	is_deeply([sort { $a <=> $b } keys %pair], [1 .. $n], 'COPYUID names all');
	is(scalar(grep { $m[ $_ - 1 ] ne ($at{ $pair{$_} } // '') } keys %pair), 0, 'and where each is');
	is($c->{view}{exists}, @m - $n, 'EXPUNGEs exact');
	is_deeply([map { $_->{item}{UID} } $c->do('FETCH 1:* (UID)')->fetches], [$n + 1 .. @m], 'what is left');
	holds($x, 'target', 'each in the target, once', @m[0 .. $n - 1]);
	holds($x, 'INBOX', 'and not in the source', @m[$n .. $#m]);
	return $r;
}
for my $form ('', 'UID ') {
	doubts("I39 ${form}MOVE of 8", qr/MOVE/, sub { moves($_[0], 8, form => $form); $_[0]->died });
	case("I40 ${form}MOVE, COPYUID relayed", no_reply(qr/(?:UID )?MOVE/, keep => qr/\* OK \[COPYUID[^\n]*\n/),
		client => sub { moves($_[0], 8, form => $form); $_[0]->died });
	case("I40 ${form}MOVE, COPYUID and three EXPUNGEs relayed", no_reply(qr/(?:UID )?MOVE/, keep => qr/(?:EXPUNGE.*?){3}\n/s),
		client => sub { moves($_[0], 8, form => $form); $_[0]->died });
}
# What a host that dies behind its first batch leaves (Dovecot: 1000 messages): another session does that part.
sub batch {
	my ($first, @how) = @_;
	return (c2s => sub {
		my ($conn, $d) = @_;
		return $d if fired($conn) || $d !~ / (?:UID )?(?:COPY|MOVE) / || !$conn->{tap}->fire($conn, 'fin');
		my ($user) = $conn->{in}{c2s} =~ /LOGIN "?([^" ]+)/;
		my $o = BMR::Imap->new(site($store)->addr($conn->{tap}{host}, 'imap4'));
		$o->login($user);
		$o->do('SELECT INBOX');
		$o->do(sprintf($_, $first)) for @how;
		return '';
	});
}
case('I38 COPY of 20, killed after eight', batch(8, 'UID COPY 1:%d target'), client => sub {
	my ($x) = @_;
	my @m = fill($x, 'INBOX', 20);
	fill($x, 'target', 0);
	my $c = selected($x, 'INBOX');
	ok($c->do('COPY 1:20 target')->ok, 'OK');
	holds($x, 'target', 'each once', @m);
	$x->died;
});
my $tiny = sub { my $n = shift; return [map { "Subject: $_\r\nMessage-ID: <t$_\@test>\r\n\r\n$_\r\n" } 1 .. $n] };
case('I39 MOVE of 20, killed after eight', batch(8, 'UID MOVE 1:%d target'), client => sub { moves($_[0], 20); $_[0]->died });
case('I39 MOVE of 20, killed after eight were copied', batch(8, 'UID COPY 1:%d target'), client => sub { moves($_[0], 20); $_[0]->died });
case('I39 MOVE of 3000, killed after 1000', batch(1000, 'UID MOVE 1:%d target'), client => sub {
	my ($x) = @_;
	moves($x, 3000, m => $tiny->(3001));
	$x->died;
});
for my $i (1 .. ($ENV{BMR_SOAK} ? 30 : 2)) {
	case("I39 MOVE of 3000, a host killed, $i", killed(site($store), qr/ (?:UID )?MOVE [^\r]*\r\n/, sub { rand(250) }), client => sub {
		my ($x) = @_;
		moves($x, 3000, m => $tiny->(3001));
		my $h = $x->dead;
		site($store)->start_host($h) if $h;
	});
}

# --- EXPUNGE and CLOSE -------------------------------------------------------------------------------------------------------

for my $cmd ('EXPUNGE', 'UID EXPUNGE 1:20') {
	for my $cut (['not received', not_sent(qr/ (?:UID )?EXPUNGE/)], ['no reply', no_reply(qr/(?:UID )?EXPUNGE/)],
	    ['three of eight told', no_reply(qr/(?:UID )?EXPUNGE/, keep => qr/(?:EXPUNGE[^\n]*\n.*?){3}/s)],
	    ['no tagged line', no_reply(qr/(?:UID )?EXPUNGE/, keep => 'untagged')]) {
		my ($name, @cut) = @$cut;
		case("I41 $cmd, $name", @cut, client => sub {
			my ($x) = @_;
			my @m = fill($x, 'INBOX', 12);
			other($x, 'INBOX', 'STORE 2:5,8,10:12 +FLAGS (\Deleted)');
			my $c = selected($x, 'INBOX');
			my $r = $c->do($cmd);
			ok($r->ok, 'OK') or diag($r->{line});
			is(scalar($r->of('EXPUNGE')), 8, 'eight EXPUNGEs');
			is_deeply([map { "$_->{num}=$_->{item}{UID}" } $c->do('FETCH 1:* (UID)')->fetches], ['1=1', '2=6', '3=7', '4=9'], 'with the right numbers');
			is_deeply(uids($x, 'INBOX'), [1, 6, 7, 9], 'so it is in the store');
			$x->died;
		});
	}
}
case('I41 EXPUNGE, another marks one meanwhile', no_reply(qr/(?:UID )?EXPUNGE/, how => 'mute'), client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	fill($x, 'INBOX', 5);
	my $c = selected($x, 'INBOX');
	ok($c->do('STORE 2:3 +FLAGS (\Deleted)')->ok, 'STORE');
	my $t = $c->begin('EXPUNGE');
	$x->died;
	other($x, 'INBOX', 'UID STORE 5 +FLAGS (\Deleted)');
	$x->{tap}{ $x->dead }->down;
	my $r = $c->finish($t);
	ok($r->ok, 'OK');
	is(scalar($r->of('EXPUNGE')), 2, 'two EXPUNGEs');
	is_deeply(uids($x, 'INBOX'), [1, 4, 5], 'the one of the other survives');
});
case('I41 EXPUNGE with QRESYNC', no_reply(qr/(?:UID )?EXPUNGE/), client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 5);
	my $c = selected($x, 'INBOX', enable => 'QRESYNC');
	ok($c->do('STORE 2:3 +FLAGS (\Deleted)')->ok, 'STORE');
	my $r = $c->do('EXPUNGE');
	ok($r->ok, 'OK');
	is_deeply([sort map { BMR::View::set($_->{args}[-1]) } $r->of('VANISHED')], [2, 3], 'VANISHED');
	like($r->{code}, qr/^HIGHESTMODSEQ \d+$/, 'HIGHESTMODSEQ');
	$x->died;
});

for my $cut (['not received', not_sent(qr/ (?:CLOSE|(?:UID )?EXPUNGE)/)], ['no reply', no_reply(qr/(?:CLOSE|(?:UID )?EXPUNGE)/)]) {
	my ($name, @cut) = @$cut;
	case("I42 CLOSE, $name", @cut, client => sub {
		my ($x) = @_;
		fill($x, 'INBOX', 5);
		my $c = selected($x, 'INBOX');
		ok($c->do('STORE 2:3 +FLAGS (\Deleted)')->ok, 'STORE');
		my $r = $c->do('CLOSE');
		ok($r->ok, 'OK') or diag($r->{line});
		is(scalar($r->of('EXPUNGE')), 0, 'silently');
		is($c->do('FETCH 1 (UID)')->{status}, 'BAD', 'nothing is selected');
		ok($c->do('STATUS INBOX (MESSAGES)')->ok, 'but the session is there');
		is_deeply(uids($x, 'INBOX'), [1, 4, 5], 'the marked ones are gone');
		$x->died;
	});
}
case('I42 CLOSE after EXAMINE', no_reply(qr/(?:CLOSE|(?:UID )?EXPUNGE|UNSELECT)/), client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 3);
	other($x, 'INBOX', 'STORE 2 +FLAGS (\Deleted)');
	my $c = selected($x, 'INBOX', how => 'EXAMINE');
	ok($c->do('CLOSE')->ok, 'OK');
	is_deeply(uids($x, 'INBOX'), [1, 2, 3], 'nothing is gone');
});
case('I42 UNSELECT', no_reply(qr/UNSELECT/), client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 3);
	my $c = selected($x, 'INBOX');
	ok($c->do('STORE 2 +FLAGS (\Deleted)')->ok, 'STORE');
	ok($c->do('UNSELECT')->ok, 'OK');
	is($c->do('FETCH 1 (UID)')->{status}, 'BAD', 'nothing is selected');
	is_deeply(uids($x, 'INBOX'), [1, 2, 3], 'nothing is gone');
});

# --- mailboxes -----------------------------------------------------------------------------------------------------------------

sub names { my ($x) = @_; return [sort map { $_->{args}[2] } $x->direct($x->alive)->do('LIST "" *')->of('LIST')] }

doubts('I43 CREATE', qr/CREATE/, sub {
	my ($x) = @_;
	my $c = $x->login;
	my $r = $c->do('CREATE "new one"');
	ok($r->ok, 'OK') or diag($r->{line});
	is_deeply(names($x), ['INBOX', 'new one'], 'one mailbox');
	$x->died;
});
case('I43 CREATE of what there is', no_reply(qr/CREATE/), client => sub {
	my ($x) = @_;
	fill($x, 'box', 2);
	my $r = $x->login->do('CREATE box');
	like("$r->{status} $r->{code}", qr/^NO ALREADYEXISTS/, 'NO [ALREADYEXISTS]');
	$x->died;
});
doubts('I44 DELETE', qr/DELETE/, sub {
	my ($x) = @_;
	fill($x, 'box', 2);
	my $r = $x->login->do('DELETE box');
	ok($r->ok, 'OK') or diag($r->{line});
	is_deeply(names($x), ['INBOX'], 'it is gone');
	$x->died;
});
case('I44 DELETE of what there is not', no_reply(qr/DELETE/), client => sub {
	my ($x) = @_;
	my $r = $x->login->do('DELETE nowhere');
	is($r->{status}, 'NO', 'NO');
	$x->died;
});
# Names that are no mailbox's.
doubts('I44 DELETE of one that has another below it', qr/DELETE/, sub {
	my ($x) = @_;
	fill($x, $_, 1) for 'a', 'a/b';
	my $r = $x->login->do('DELETE a');
	ok($r->ok, 'OK') or diag($r->{line});
	is_deeply([grep { !/^a$/ } @{ names($x) }], ['INBOX', 'a/b'], 'that one stays');
	ok(!$x->direct($x->alive)->do('STATUS a (MESSAGES)')->ok, 'it is gone');
	$x->died;
}) if $store eq 'sdbox';
doubts('I45 RENAME of what only has others below it', qr/RENAME/, sub {
	my ($x) = @_;
	my @m = fill($x, 'a/b', 2);
	my $r = $x->login->do('RENAME a c');
	ok($r->ok, 'OK') or diag($r->{line});
	is_deeply(names($x), ['INBOX', 'c', 'c/b'], 'they have the new name');
	holds($x, 'c/b', 'with their mail', @m);
	$x->died;
}) if $store eq 'sdbox';
case('I44 DELETE, and another has made it anew', no_reply(qr/DELETE/, how => 'mute'), client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	fill($x, 'box', 2);
	my $c = $x->login;
	my $t = $c->begin('DELETE box');
	$x->died;
	sleep 1.1;	# UIDVALIDITY is a time
	my $d = $x->direct($x->alive);
	ok($d->do('CREATE box')->ok, 'CREATE by another');
	my $m = message();
	ok($d->do('APPEND box ', [$m])->ok, 'with mail');
	$x->{tap}{ $x->dead }->down;
	ok($c->finish($t)->ok, 'OK');
	holds($x, 'box', 'the new mail is there', $m);
});
doubts('I45 RENAME', qr/RENAME/, sub {
	my ($x) = @_;
	my @m = fill($x, 'box', 2);
	my $r = $x->login->do('RENAME box other');
	ok($r->ok, 'OK') or diag($r->{line});
	is_deeply(names($x), ['INBOX', 'other'], 'one name');
	holds($x, 'other', 'with its mail', @m);
	$x->died;
});
case('I45 RENAME to what there is', no_reply(qr/RENAME/), client => sub {
	my ($x) = @_;
	my @m = fill($x, 'box', 2);
	my @n = fill($x, 'other', 1);
	my $r = $x->login->do('RENAME box other');
	is($r->{status}, 'NO', 'NO') or diag($r->{line}, ' ');
	holds($x, 'box', 'nothing is changed', @m);
	holds($x, 'other', 'in either', @n);
	$x->died;
});
for my $cmd ('SUBSCRIBE', 'UNSUBSCRIBE') {
	doubts("I46 $cmd", qr/$cmd/, sub {
		my ($x) = @_;
		fill($x, 'box', 1);
		other($x, undef, 'SUBSCRIBE box') if $cmd eq 'UNSUBSCRIBE';
		ok($x->login->do("$cmd box")->ok, 'OK');
		is(join(' ', map { $_->{args}[2] } $x->direct($x->alive)->do('LSUB "" *')->of('LSUB')), $cmd eq 'SUBSCRIBE' ? 'box' : '', 'so it is');
		$x->died;
	});
}
for my $cmd ('SETACL INBOX bob lr', 'DELETEACL INBOX bob', 'SETMETADATA INBOX (/private/comment "x")') {
	my ($word) = $cmd =~ /^(\w+)/;
	doubts("I46 $word", qr/$word/, sub {
		my ($x) = @_;
		ok($x->login->do($cmd)->ok, 'OK');
		like($x->direct($x->alive)->do($word eq 'SETMETADATA' ? 'GETMETADATA INBOX /private/comment' : 'GETACL INBOX')->raw,
		    $word eq 'SETACL' ? qr/bob "?lr/ : $word eq 'SETMETADATA' ? qr/x\)/ : qr/^(?!.*bob)/, 'so it is');
		$x->died;
	});
}

# --- a host that comes back ------------------------------------------------------------------------------------------------------

# Its imap process is stopped with the whole APPEND before it, then cut off from the gateway: as a partition.
for my $fenced (0, 1) {
	case('I63 APPEND at a host that is cut off, ' . ($fenced ? 'and ended' : 'and comes back'), c2s => sub {
		my ($conn, $d) = @_;
		return $d if fired($conn) || "$conn->{in}{c2s}$d" !~ / APPEND .*\r\nlast line\r\n\r\n/s || !$conn->{tap}->fire($conn, 'mute');
		kill 'STOP', site($store)->pids($conn->{tap}{host}, 'imap');
		return $d;
	}, client => sub {
		my ($x) = @_;
		return pass('only through the gateway') if $straight;
		fill($x, 'box', 1);
		my $c = $x->login;
		my $m = message(5000);
		my $t = $c->begin('APPEND box ', [$m]);
		$x->died;
		my @pids = site($store)->pids($x->dead, 'imap');
		if ($fenced) { kill 'KILL', @pids }
		$x->{tap}{ $x->dead }->tell('front');
		my $r = $c->finish($t);
		ok($r->ok, 'OK from the other');
		my $before = grep { $_->[2] eq $m } box($x, 'box');
		is($before, 1, 'one copy');
		kill 'CONT', @pids;
		$x->{tap}{ $x->dead }->tell('release');
		sleep 1;
		my $n = grep { $_->[2] eq $m } box($x, 'box');
		$fenced ? is($n, 1, 'and it stays one') : ok($n == 1 || $n == 2, "without fencing there are $n");
		kill 'KILL', @pids;
		site($store)->kill_host($x->dead);
		site($store)->start_host($x->dead);
	});
}

$_->stop for values %site;
done_testing();
