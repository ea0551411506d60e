#!/usr/bin/perl
# The failover cases of the IMAP4 behaviour that concern reading: I18 to I21, I47 and I48, over two real Dovecots on one
# store. A death falls on every octet of a reply with BMR_SOAK=1, and on a few of them without.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use BMR::Case qw(run_case);
use BMR::Cut qw(not_sent no_reply fired);
use BMR::ImapCase;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(imap => 1, store => $ENV{BMR_STORE} // 'sdbox');
my $straight = $BMR::Case::direct;
sub case { my ($name, %o) = @_; return run_case($o{site} // $site, $name, proto => 'imap4', %o) }

# Up to so many whole responses, and some octets of the next.
sub responses {
	my ($n, $more) = @_;
	return sub {
		my ($reply) = @_;
		my $at = 0;
		$at = index($reply, "\r\n", $at) + 2 for 1 .. $n;
		return $at + $more;
	};
}
for my $at ([0, 0], [1, 0], [20, 0], [20, 7], [49, 3], [50, 0], [50, 2]) {
	my ($n, $more) = @$at;
	case("I18 FETCH of 50, cut after $n responses and $more octets",
		no_reply(qr/(?:UID )?FETCH \S+ \(?[^\r]*RFC822\.SIZE/, keep => responses($n, $more)), client => sub {
			my ($x) = @_;
			my @m = fill($x, 'INBOX', map { message(200 + $_) } 1 .. 50);
			my $c = selected($x, 'INBOX');
			my $r = $c->do('FETCH 1:50 (FLAGS UID RFC822.SIZE)');
			ok($r->ok, 'one tagged OK') or diag($r->{line});
			my (%seen, %size);
			$seen{ $_->{num} }++ for $r->fetches;
			is(scalar(keys %seen), 50, '50 distinct');
			cmp_ok(scalar($r->fetches), '<=', 51, 'none again, but the one that was cut');
			$size{ $_->{num} } = $_->{item}{'RFC822.SIZE'} for grep { $_->{item}{'RFC822.SIZE'} } $r->fetches;
			is_deeply(\%size, { map { $_ => length $m[ $_ - 1 ] } 1 .. 50 }, 'and what was asked for');
			is($c->do('NOOP')->raw, '', 'nothing is left over');
			$x->died;
		});
}
case('I18 bodies of 40', no_reply(qr/(?:UID )?FETCH [^\r]*BODY/, keep => sub { int(length($_[0]) / 2) }), client => sub {
	my ($x) = @_;
	my @m = fill($x, 'INBOX', map { message(1000 + $_ * 50) } 1 .. 40);
	my $c = selected($x, 'INBOX');
	my $r = $c->do('FETCH 1:40 (UID BODY.PEEK[] FLAGS)');
	ok($r->ok, 'OK');
	my %got = map { $_->{num} => $_->{item}{'BODY[]'} } grep { $_->{item}{'BODY[]'} } $r->fetches;
	is_deeply(\%got, { map { $_ => $m[ $_ - 1 ] } 1 .. 40 }, 'all 40, octet by octet');
	$x->died;
});
case('I18 envelopes and structures', no_reply(qr/(?:UID )?FETCH [^\r]*ENVELOPE/, keep => sub { int(length($_[0]) / 3) }), client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 30);
	my $d = $x->direct;
	$d->do('EXAMINE INBOX');
	my %want = map { $_->{num} => $_->{item}{ENVELOPE} } $d->do('FETCH 1:* (ENVELOPE BODYSTRUCTURE INTERNALDATE)')->fetches;
	my $c = selected($x, 'INBOX');
	my %got = map { $_->{num} => $_->{item}{ENVELOPE} } $c->do('FETCH 1:* (ENVELOPE BODYSTRUCTURE INTERNALDATE)')->fetches;
	is_deeply(\%got, \%want, 'as straight from a server');
	$x->died;
});

# k octets into the literal of BODY[], or of the reply behind it
sub in_literal {
	my ($k, $re) = @_;
	return sub {
		my ($reply) = @_;
		$reply =~ ($re // qr/BODY\[\]\S* \{(\d+)\}\r\n/) or die "no literal\n";
		my ($at, $n) = ($+[0], $1);
		return $at + ($k =~ /^n(.*)/ ? $n + ($1 || 0) : $k);
	};
}
my $big;
for my $k (0, 1, 65536, 3_922_397, 'n-1', 'n', 'n+1', 'n+3') {
	case("I19 UID FETCH of 6 MB, cut at $k", no_reply(qr/UID FETCH [^\r]*BODY\.PEEK/, keep => in_literal($k)), client => sub {
		my ($x) = @_;
		$big //= message(6_400_000);
		fill($x, 'INBOX', message(), $big);
		my $c = selected($x, 'INBOX');
		my $r = $c->do('UID FETCH 2 (UID BODY.PEEK[])');
		ok($r->ok, 'OK') or diag($r->{line});
		my ($f) = grep { defined $_->{item}{'BODY[]'} } $r->fetches;
		ok($f && $f->{item}{'BODY[]'} eq $big, 'every octet of it');
		is($f->{num}, 2, 'number 2') if $f;
		is_deeply(flags($x, 'INBOX'), { 1 => '', 2 => '' }, 'not \Seen');
		is($c->do('NOOP')->raw, '', 'and nothing else');
		$x->died;
	});
}

# A small reply cut at its every octet: two literals, and items before, between and behind them.
sub small {
	my ($x) = @_;
	my @m = fill($x, 'INBOX', message(120), message(130));
	my $c = selected($x, 'INBOX');
	my $cmd = 'FETCH 1:2 (UID BODY.PEEK[HEADER.FIELDS (SUBJECT)] RFC822.SIZE BODY.PEEK[TEXT] INTERNALDATE)';
	my $r = $c->do($cmd);
	ok($r->ok, 'OK') or diag($r->{line});
	for my $i (1, 2) {
		my ($head, $text) = $m[ $i - 1 ] =~ /^(.*?\r\n)\r\n(.*)\z/s;
		my ($subject) = $head =~ /^(Subject: .*\r\n)/m;
		my %item;
		for my $f (grep { $_->{num} == $i } $r->fetches) {
			for my $k (keys %{ $f->{item} }) {
				fail("$k came twice and differs") if exists $item{$k} && $item{$k} ne $f->{item}{$k};
				$item{$k} = $f->{item}{$k};
			}
		}
		is($item{'BODY[TEXT]'}, $text, "text of $i");
		is($item{'BODY[HEADER.FIELDS (SUBJECT)]'}, "$subject\r\n", "subject of $i");
		is($item{'RFC822.SIZE'}, length $m[ $i - 1 ], "size of $i");
	}
	$x->died;
	return;
}
my $length = 0;
case('I19 a small reply, whole', s2c => sub { $_[1] }, client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', message(120), message(130));
	my $c = selected($x, 'INBOX');
	$length = length $c->do('FETCH 1:2 (UID BODY.PEEK[HEADER.FIELDS (SUBJECT)] RFC822.SIZE BODY.PEEK[TEXT] INTERNALDATE)')->raw;
	cmp_ok($length, '>', 400, "$length octets");
});
for (my $k = 0; $k < $length + 8; $k += $ENV{BMR_SOAK} ? 1 : 41) {
	case("I19 a small reply cut at $k", no_reply(qr/(?:UID )?FETCH [^\r]*INTERNALDATE/, keep => sub { $k < length $_[0] ? $k : length $_[0] }),
		client => \&small);
}
for my $what ('BODY[HEADER]', 'BODY[1]', 'BINARY[1]', 'RFC822', 'RFC822.TEXT', 'BODY[]<100.20000>', 'BODY[TEXT]<10.5>') {
	(my $name = $what) =~ s/<(\d+)\.\d+>/<$1>/;
	my $word = quotemeta($what =~ s/^(\w+)\[.*/$1/r);
	case("I19 $what, cut in the middle", no_reply(qr/(?:UID )?FETCH [^\r]*$word/, keep => sub { int(length($_[0]) / 2) }), client => sub {
		my ($x) = @_;
		fill($x, 'INBOX', message(30_000));
		my $d = $x->direct;
		$d->do('SELECT INBOX');
		my ($want) = $d->do("FETCH 1 ($what)")->fetches;
		$d->do('STORE 1 FLAGS ()');
		my $c = selected($x, 'INBOX');
		my $r = $c->do("FETCH 1 ($what)");
		ok($r->ok, 'OK') or diag($r->{line});
		my ($f) = grep { defined $_->{item}{ uc $name } } $r->fetches;
		ok($f && $f->{item}{ uc $name } eq $want->{item}{ uc $name }, 'as straight from a server');
		$x->died;
	});
}

for my $how (['not received', not_sent(qr/FETCH 1 [^\r]*BODY\[\]/)], ['no reply', no_reply(qr/(?:UID )?FETCH 1 [^\r]*BODY\[\]/)],
    ['cut in the literal', no_reply(qr/(?:UID )?FETCH 1 [^\r]*BODY\[\]/, keep => in_literal(20_000))],
    ['no tagged line', no_reply(qr/(?:UID )?FETCH 1 [^\r]*BODY\[\]/, keep => 'untagged')]) {
	my ($name, @cut) = @$how;
	case("I20 FETCH BODY[], $name", @cut, client => sub {
		my ($x) = @_;
		my ($m) = fill($x, 'INBOX', message(60_000), message());
		my $c = selected($x, 'INBOX');
		my $r = $c->do('FETCH 1 (BODY[])');
		ok($r->ok, 'OK') or diag($r->{line});
		my ($f) = grep { $_->{item}{'BODY[]'} } $r->fetches;
		ok($f && $f->{item}{'BODY[]'} eq $m, 'the message');
		($f) = $c->do('FETCH 1 (FLAGS)')->fetches;
		ok((grep { $_ eq '\Seen' } @{ $f->{item}{FLAGS} }), '\Seen at the client');
		is_deeply(flags($x, 'INBOX'), { 1 => '\Seen', 2 => '' }, 'and in the store');
		$x->died;
	});
}

# The host that stands in has another message under this UID.
for my $k (1, 30_000) {
	my %cut = no_reply(qr/UID FETCH [^\r]*BODY\.PEEK/, keep => in_literal($k));
	case("I21 another size at the other, cut at $k", more => qq(timeout {\n hold = "30s"\n }), s2c => sub {
		my ($conn, $d) = @_;
		return $cut{s2c}->($conn, $d) if !fired($conn) || $conn->{tap}->fired eq $conn->{tap}{host};
		# every literal of a message is short of seven octets, and says so
		$conn->{lie} = ($conn->{lie} // '') . $d;
		return '' if $conn->{in}{c2s} =~ /BODY/ && $conn->{lie} =~ /\{(\d{4,})\}\r\n/ && length($conn->{lie}) < $+[0] + $1 + 20;
		my $out = $conn->{lie};
		$out =~ s/\{(\d{4,})\}\r\n/'{' . ($1 - 7) . "}\r\n"/e and substr($out, $+[0] + 100, 7) = '';
		$conn->{lie} = '';
		return $out;
	}, client => sub {
		my ($x) = @_;
		return pass('only through the gateway') if $straight;
		my ($m) = fill($x, 'INBOX', message(60_000));
		my $c = selected($x, 'INBOX');
		my $t = $c->begin('UID FETCH 1 (BODY.PEEK[])');
		ok(!eval { $c->finish($t); 1 } && $@ =~ /inside a literal/, 'the stream ends inside the literal') or diag($@ || 'it did not');
		my ($lit) = ($c->{cut} // '') =~ /\}\r\n(.*)\z/s;
		is($lit, substr($m, 0, length($lit // '')), 'nothing but its own octets came') or diag(substr($lit // '', -200));
		unlike($c->{cut} // '', qr/BYE/, 'no BYE within it');
		cmp_ok(length($lit // ''), '<', length $m, 'and no padding');
	});
}
case('I21 gone at the other', more => qq(timeout {\n hold = "30s"\n }),
	no_reply(qr/UID FETCH [^\r]*BODY\.PEEK/, keep => in_literal(30_000), how => 'mute'), client => sub {
		my ($x) = @_;
		return pass('only through the gateway') if $straight;
		my ($m) = fill($x, 'INBOX', message(60_000));
		my $c = selected($x, 'INBOX');
		my $t = $c->begin('UID FETCH 1 (BODY.PEEK[])');
		$x->died;
		other($x, 'INBOX', 'STORE 1 +FLAGS (\Deleted)', 'EXPUNGE');
		$x->{tap}{ $x->dead }->down;
		ok(!eval { $c->finish($t); 1 } && $@ =~ /inside a literal/, 'the stream ends inside the literal') or diag($@ || 'it did not');
	});

for my $what ('UNSEEN', 'ALL', '2:4', 'FLAGGED') {
	case("I47 SEARCH RETURN (SAVE) $what", client => sub {
		my ($x) = @_;
		fill($x, 'INBOX', 6);
		other($x, 'INBOX', 'STORE 2,5 +FLAGS (\Flagged)', 'STORE 3 +FLAGS (\Seen)');
		my $c = selected($x, 'INBOX');
		ok($c->do("SEARCH RETURN (SAVE) $what")->ok, 'saved');
		my @before = map { $_->{item}{UID} } $c->do('FETCH $ (UID)')->fetches;
		cmp_ok(scalar(@before), '>', 1, "$what: @before");
		$x->kill;
		other($x, 'INBOX', 'STORE 1:* FLAGS ()', 'STORE 1 +FLAGS (\Seen \Flagged)');
		my %now = map { $_->{item}{UID} => 1 } grep { $_->{item}{UID} } $c->do('UID FETCH $ (UID)')->fetches;
		$c->do('NOOP');
		%now = map { $_->{item}{UID} => 1 } $c->do('UID FETCH $ (UID)')->fetches;
		is_deeply([sort { $a <=> $b } keys %now], \@before, 'the same UIDs');
		ok($c->do('STORE $ +FLAGS ($kept)')->ok, 'STORE $');
		my $f = flags($x, 'INBOX');
		is_deeply([grep { $f->{$_} =~ /\$kept/ } sort keys %$f], \@before, 'changes the same');
	});
}
case('I47 $ after a ghost', client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 5);
	my $c = selected($x, 'INBOX');
	ok($c->do('UID SEARCH RETURN (SAVE COUNT) 2:4')->ok, 'saved');
	$x->kill;
	other($x, 'INBOX', 'STORE 3 +FLAGS (\Deleted)', 'EXPUNGE');
	$c->do('NOOP');
	is_deeply([map { $_->{item}{UID} } $c->do('FETCH $ (UID)')->fetches], [2, 4], 'without it');
});

sub found { my ($c, $set) = @_; return [map { $_->{item}{UID} } $c->do("FETCH $set (UID)")->fetches] }
# What the gateway asks for itself, at either host.
sub asked { my ($x) = @_; return scalar(() = join('', map { $x->said($_) } 'a', 'b') =~ /^~\S+ UID SEARCH RETURN \(ALL\) UID \$\r$/mg) }
for my $cmd ('SEARCH RETURN (SAVE) 2:4', 'uid search return (save) uid 2:4', 'UID SEARCH RETURN (COUNT SAVE) 2:4', 'SORT RETURN (ALL SAVE) (REVERSE ARRIVAL) UTF-8 2:4') {
	case("I47 death behind the OK of $cmd", client => sub {
		my ($x) = @_;
		fill($x, 'INBOX', 5);
		my $c = selected($x, 'INBOX');
		my $r = $c->do($cmd);
		ok($r->ok, 'saved') or diag($r->{line});
		$x->kill;
		is_deeply(found($c, '$'), [2, 3, 4], '$ is what it was');
	});
}
for my $keep (0, 10, 'untagged', -1) {
	case("I47 death in the gateway's own look at \$, after $keep", no_reply(qr/UID SEARCH RETURN \(ALL\) UID \$/, keep => $keep), client => sub {
		my ($x) = @_;
		fill($x, 'INBOX', 5);
		my $c = selected($x, 'INBOX');
		my $r = $c->do('SEARCH RETURN (SAVE MIN MAX) 2:4');
		ok($r->ok, 'OK') or diag($r->{line});
		is(scalar($r->of('ESEARCH')), 1, 'one result') or diag($r->raw);
		like($r->raw, qr/^\* ESEARCH \(TAG "\S+"\) MIN 2 MAX 4\r\n\z/, 'as it should be');
		is_deeply(found($c, q($)), [2, 4], "\$ is the two that were named");	# RFC 5182 section 2.1
		$x->died;
	});
}
for my $cmd ('SEARCH SUBJECT "SAVE"', 'SEARCH SUBJECT SAVE', 'SEARCH SAVEDBEFORE 1-Jan-2020', 'UID SEARCH RETURN (COUNT) TEXT "RETURN (SAVE)"', 'SEARCH UNKEYWORD save',
    'SEARCH RETURN (COUNT) OR SUBJECT {4+}|SAVE| SEEN') {
	case("I47 \$ is left alone by $cmd", client => sub {
		my ($x) = @_;
		fill($x, 'INBOX', 5);
		my $c = selected($x, 'INBOX');
		ok($c->do('SEARCH RETURN (SAVE) 2:3')->ok, 'saved');
		my $n = asked($x);
		my ($head, $literal, $rest) = $cmd =~ /^(.*)\{4\+\}\|(.*)\|(.*)/ ? ($1, $2, $3) : ($cmd);
		my $r = defined $literal ? $c->do($head, \$literal, $rest) : $c->do($cmd);
		ok($r->ok, 'another SEARCH') or diag($r->{line});
		is(asked($x), $n, 'the gateway does not ask what $ is');
		$x->kill;
		is_deeply(found($c, '$'), [2, 3], '$ is what it was');
	});
}
case('I47 a SEARCH that fails', client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 5);
	my $c = selected($x, 'INBOX');
	ok($c->do('SEARCH RETURN (SAVE) 2:3')->ok, 'saved');
	is($c->do('SEARCH RETURN (SAVE) BOGUS')->{status}, 'BAD', 'BAD');
	is($c->do('SEARCH CHARSET BOGUS ALL')->{status}, 'NO', 'NO without SAVE');
	$x->kill;
	is_deeply(found($c, '$'), [2, 3], 'and $ is what it was');	# RFC 5182 section 2.1
	is($c->do('SEARCH RETURN (SAVE) CHARSET BOGUS ALL')->{status}, 'NO', 'NO');
	is_deeply(found($c, '$'), [], 'and $ is empty');
});
case('I47 $ too scattered to be kept', client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	fill($x, 'INBOX', 1);
	other($x, 'INBOX', ('COPY 1:* INBOX') x 13, 'STORE ' . join(',', map { 2 * $_ } 1 .. 3000) . ' +FLAGS.SILENT (\Flagged)');
	my $c = selected($x, 'INBOX');
	ok($c->do('SEARCH RETURN (SAVE) 2:3')->ok, 'saved');
	my $r = $c->do('SEARCH RETURN (SAVE COUNT) FLAGGED');
	is("$r->{status} $r->{code}", 'NO NOTSAVED', 'NO [NOTSAVED]') or diag($r->{line});
	like($r->raw, qr/COUNT 3000\r/, 'with the result that was asked for');
	is_deeply(found($c, '$'), [], '$ is empty');
	$x->kill;
	is_deeply(found($c, '$'), [], 'and is so at another backend');
	ok($c->do('SEARCH RETURN (SAVE) 4:5')->ok, 'one that can be kept');
	is_deeply(found($c, '$'), [4, 5], 'is');
});

for my $cmd ('COPY', 'MOVE', 'UID COPY') {
	case("I47 $cmd \$, no reply", no_reply(qr/UID (?:COPY|MOVE)/), client => sub {
		my ($x) = @_;
		my @m = fill($x, 'INBOX', map { message(300 + $_) } 1 .. 5);
		fill($x, 'target', 0);
		my $c = selected($x, 'INBOX');
		ok($c->do('SEARCH RETURN (SAVE) 2,4:5')->ok, 'saved');
		my $r = $c->do("$cmd \$ target");
		ok($r->ok, 'OK') or diag($r->{line});
		like($r->whole, qr/\[COPYUID \d+ 2,4:5 1:3\]/, 'COPYUID');
		holds($x, 'target', 'each once', @m[1, 3, 4]);
		$x->died;
	});
}

case('I48 SEARCH with numbers after a ghost', client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 6);
	my $c = selected($x, 'INBOX');
	$x->kill;
	other($x, 'INBOX', 'STORE 2 +FLAGS (\Deleted)', 'STORE 4 +FLAGS (\Flagged)', 'EXPUNGE');
	my $found = sub { return join ' ', grep { $_ != 2 } $c->do("SEARCH $_[0]")->search };
	is($found->('ALL'), '1 3 4 5 6', 'ALL');
	is($found->('3:5'), '3 4 5', '3:5');
	is($found->('1:2,4'), '1 4', '1:2,4');
	is($found->('*'), '6', '*');
	is($found->('FLAGGED'), '4', 'FLAGGED');
	is($found->('UID 4:5'), '4 5', 'UID 4:5');
	is($found->('NOT 4:*'), '1 3', 'NOT 4:*');
	is($found->('OR 3 (UID 5 NOT FLAGGED)'), '3 5', 'OR 3 (UID 5 NOT FLAGGED)');
	is($found->('SUBJECT "4:5"'), '', 'text that looks like numbers');
	my ($e) = $c->do('SEARCH RETURN (MIN MAX COUNT) 3:6')->of('ESEARCH');
	like($e->{raw}, qr/MIN 3 MAX 6 COUNT 4/, 'ESEARCH counts') if $e;
	my ($s) = $c->do('SORT (REVERSE ARRIVAL) US-ASCII 4:6')->of('SORT');
	is(join(' ', sort @{ $s->{args} }), '4 5 6', 'SORT');
	$c->do('NOOP');
	is($c->{view}{exists}, 5, 'told at last');
	is(join(' ', $c->do('SEARCH FLAGGED')->search), '3', 'renumbered');
});

$site->stop;
done_testing();
