#!/usr/bin/perl
# The failover cases S1 to S37, S43 and S44 of the SMTP behaviour over two real Postfix before one Dovecot store.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Digest::SHA qw(sha256_hex);
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Case qw(run_case);
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $soak = $ENV{BMR_SOAK} // 0;
my $site = BMR::Site->new(smtp => 1, sieve => 1);
my $n = 0;

sub message {
	my ($size) = @_;
	my $m = "Subject: case\r\nMessage-ID: <m" . ++$n . ".$$\@test>\r\nFrom: x\@site.test\r\nDate: Tue, 24 Nov 2026 00:00:00 +0000\r\n\r\n";
	my $line = 0;
	$m .= sprintf("%06d the quick brown fox jumps over the lazy dog\r\n", $line++) while length $m < ($size // 200);
	return $m . ".. dots\r\n.\tone dot\r\nlast line\r\n";
}

sub stuffed { my ($m) = @_; $m =~ s/^\./../mg; return $m }

# Copies of a message in the store of the users named, and that each is whole.
sub delivered {
	my ($x, $m, @users) = @_;
	my $total = 0;
	$x->site->flush;
	for my $u (@users ? @users : $x->user) {
		for my $got ($x->site->messages($u)) {
			$total++;
			ok(substr($got, -length $m) eq $m, 'the copy in the store is whole') or diag(substr($got, 0, 600));
		}
	}
	return $total;
}

sub hello {
	my ($x, %o) = @_;
	my $c = $x->connect(%o);
	like($c->reply, qr/^220 gw\.test /, 'greeting');
	like($c->smtp('EHLO client.test'), qr/^250-gw\.test\r\n/, 'EHLO');
	return $c;
}

sub mail { my ($x, $c, $more) = @_; like($c->smtp("MAIL FROM:<x\@site.test>" . ($more // '')), qr/^250 2\.1\.0 /, 'MAIL'); return }
sub rcpt { my ($x, $c, $u) = @_; like($c->smtp('RCPT TO:<' . $x->addr($u) . '>'), qr/^250 2\.1\.5 /, 'RCPT'); return }
sub data { my ($c) = @_; like($c->smtp('DATA'), qr/^354 /, 'DATA'); return }

sub content {
	my ($c, $m) = @_;
	$c->send(stuffed($m) . ".\r\n");
	return $c->reply;
}

sub quit { my ($c) = @_; like($c->smtp('QUIT'), qr/^221 2\.0\.0 /, 'QUIT'); is($c->rest, '', 'nothing more'); return }

# A whole session that must succeed, the message once in the store.
sub all_well {
	my ($x, %o) = @_;
	my $m = $o{message} // message();
	my $c = hello($x);
	mail($x, $c);
	rcpt($x, $c);
	data($c);
	like(content($c, $m), qr/^250 2\.0\.0 /, '250 at the dot');
	quit($c);
	is(delivered($x, $m), 1, 'once in the store');
	ok($x->dead, 'a backend died') if !$o{calm};
	return;
}

# A rule that acts when the octets to the backend in this connection, with these, match.
sub when_c2s {
	my ($re, $act) = @_;
	return sub {
		my ($conn, $data) = @_;
		return $data if !(($conn->{in}{c2s} . $data) =~ $re);
		return $act->($conn, $data);
	};
}
sub cut_unsent { my ($conn, $data) = @_; return $conn->{tap}->fire($conn, 'fin') ? '' : $data }

my $in_content = qr/DATA\r\n.*\r\n/s;
my $at_dot = qr/DATA\r\n.*\r\n\.\r\n\z/s;

run_case($site, 'S1 before the greeting',
	s2c => sub { my ($conn, $d) = @_; return $conn->{in}{s2c} eq '' && $conn->{tap}->fire($conn, 'fin') ? '' : $d },
	client => sub { all_well(@_) });

run_case($site, 'S2 hangs at EHLO', more => qq(timeout {\n command = "1s"\n }),
	c2s => when_c2s(qr/EHLO/, sub { my ($conn, $d) = @_; return $conn->{tap}->fire($conn, 'mute') ? '' : $d }),
	client => sub { all_well(@_) });

run_case($site, 'S2 answers an octet at a time', more => qq(timeout {\n command = "1s"\n }),
	c2s => when_c2s(qr/MAIL/, sub { my ($conn, $d) = @_; $conn->{tap}->fire($conn, 'drip'); return $d }),
	client => sub {
		my ($x) = @_;
		all_well(@_);
		like($x->gw->log, qr/: timed out/, 'it was given up');
	});

run_case($site, 'S3 after EHLO, idle', client => sub {
	my ($x) = @_;
	my $m = message();
	my $c = hello($x);
	mail($x, $c);
	like($c->smtp('RSET'), qr/^250 2/, 'RSET');
	$x->kill;
	ok($c->silent(0.3), 'nothing is said');
	mail($x, $c);
	rcpt($x, $c);
	data($c);
	like(content($c, $m), qr/^250 /, 'answer 250');
	quit($c);
	is(delivered($x, $m), 1, 'once');
	ok($x->gw->wait_log(qr/ failovers=1 /), 'and it is counted');
});

run_case($site, 'S4 MAIL sent, no reply', c2s => when_c2s(qr/MAIL FROM/, \&cut_unsent), client => sub { all_well(@_) });
run_case($site, 'S4 MAIL done, no reply',
	s2c => sub { my ($conn, $d) = @_; return $conn->{in}{c2s} =~ /MAIL/ && $conn->{tap}->fire($conn, 'rst') ? '' : $d },
	client => sub { all_well(@_) });

run_case($site, 'S5 after MAIL, before RCPT', client => sub {
	my ($x) = @_;
	my $m = message();
	my $c = hello($x);
	mail($x, $c);
	$x->kill;
	rcpt($x, $c);
	data($c);
	like(content($c, $m), qr/^250 /, 'answer 250');
	quit($c);
	is(delivered($x, $m), 1, 'once');
});

run_case($site, 'S6 after three of five RCPTs, one refused', client => sub {
	my ($x) = @_;
	my $m = message();
	my $c = hello($x);
	mail($x, $c);
	rcpt($x, $c, 'a');
	like($c->smtp('RCPT TO:<nobody@site.test>'), qr/^5\d\d 5\.1\.1 /, 'refused');
	rcpt($x, $c, 'b');
	$x->kill;
	rcpt($x, $c, 'c');
	rcpt($x, $c, 'd');
	data($c);
	like(content($c, $m), qr/^250 /, 'answer 250');
	quit($c);
	unlike($x->said($x->alive), qr/nobody/, 'the refused one is not replayed');
	is(delivered($x, $m, map { $x->user($_) } 'a' .. 'd'), 4, 'four recipients, once each');
});

run_case($site, 'S7 a pipelined group',
	c2s => sub { my ($conn, $d) = @_; return (() = ($conn->{in}{c2s} . $d) =~ /RCPT TO/g) == 2 && $conn->{tap}->fire($conn, 'fin') ? '' : $d },
	client => sub {
		my ($x) = @_;
		my $m = message();
		my $c = hello($x);
		$c->send(join("\r\n", 'MAIL FROM:<x@site.test>', (map { 'RCPT TO:<' . $x->addr($_) . '>' } 1 .. 5), 'DATA', ''));
		like($c->reply, qr/^250 /, 'MAIL');
		like($c->reply, qr/^250 /, "RCPT $_") for 1 .. 5;
		like($c->reply, qr/^354 /, 'DATA');
		ok($c->silent(0.2), 'the count is exact');
		like(content($c, $m), qr/^250 /, 'answer 250');
		quit($c);
		ok($x->dead, 'a backend died');
		is(delivered($x, $m, map { $x->user($_) } 1 .. 5), 5, 'once each');
	});

run_case($site, 'S8 DATA sent, no 354', c2s => when_c2s(qr/DATA\r\n/, \&cut_unsent), client => sub { all_well(@_) });

run_case($site, 'S9 after 354', client => sub {
	my ($x) = @_;
	my $m = message();
	my $c = hello($x);
	mail($x, $c);
	rcpt($x, $c);
	data($c);
	$x->kill;
	like(content($c, $m), qr/^250 /, 'answer 250');
	quit($c);
	is(delivered($x, $m), 1, 'once, byte-identical');
});

for my $cut (1, 4096, $soak ? 50 << 20 : 3 << 20) {
	run_case($site, "S10 content cut after $cut octets", more => qq(limit {\n spool-memory = "64k"\n }),
		c2s => sub {
			my ($conn, $d) = @_;
			$conn->{content} += length $d if $conn->{in}{c2s} =~ /DATA\r\n/;
			return ($conn->{content} // 0) >= $cut && $conn->{tap}->fire($conn, 'rst') ? '' : $d;
		},
		client => sub { all_well(@_, message => message($cut + 1_000_000)) });
}

for my $k (0 .. 4) {
	run_case($site, ($k == 4 ? 'S12' : 'S11') . " cut after $k octets of the terminator",
		c2s => sub {
			my ($conn, $d) = @_;
			return $d if $conn->{in}{c2s} !~ /DATA\r\n\z/ || -e "$conn->{tap}{dir}/../fired";
			$conn->{hold} = ($conn->{hold} // '') . $d;
			return '' if $conn->{hold} !~ /\r\n\.\r\n\z/;
			return $conn->{tap}->fire($conn, 'fin') ? substr($conn->{hold}, 0, -5 + $k) : $conn->{hold};
		},
		client => sub { all_well(@_) });
}

run_case($site, 'S13 fence sent, stopped before reading, killed',
	c2s => when_c2s($at_dot, sub {
		my ($conn, $d) = @_;
		return $d if !$conn->{tap}->fire($conn, 'rst');
		kill 'STOP', $site->pids($conn->{tap}{host}, 'smtpd');
		$conn->{tap}->push_out($conn, 's', $d);
		sleep 0.05;
		kill 'KILL', $site->pids($conn->{tap}{host}, 'smtpd');
		return '';
	}),
	client => sub { all_well(@_) });

# The store that drops a second copy is what README says that it is.
my $readme = do { local $/; open(my $f, '<', "$FindBin::Bin/../../README.md") or die "README.md: $!"; <$f> };
my ($duplicate) = $readme =~ /`(duplicate [^`]*)`/ or die 'README does not say how a second copy is dropped';

# One message to two users, the second behind Sieve. The number of copies that the first has.
sub in_doubt {
	my ($x, %o) = @_;
	my $m = message();
	$x->site->sieve($x->user('s'), qq(require "duplicate";\nif $duplicate {\n\tdiscard;\n}\n));
	my $c = hello($x);
	mail($x, $c);
	rcpt($x, $c, $_) for '', 's';
	data($c);
	like(content($c, $m), qr/^250 /, 'always 250');
	quit($c);
	ok($x->dead, 'a backend died');
	$o{after}->($x) if $o{after};
	my $copies = delivered($x, $m);
	is(delivered($x, $m, $x->user('s')), 1, "with Sieve exactly one, without $copies");
	my %id = map { /^X-Gw-Txn: (\S+)/m ? ($1 => 1) : () } $x->site->messages($x->user);
	is(scalar keys %id, 1, 'and all bear one transaction id');
	return $copies;
}

my $rounds = $soak ? 500 : 12;
for my $round (1 .. $rounds) {
	my $ms = $round % 51 * ($soak ? 1 : 50 / $rounds);
	my $host = $round % 6 == 0;	# all of Postfix, which comes back with its queue, else the process that was spoken to
	run_case($site, sprintf('S14 killed %.1f ms after the fence%s, round %d', $ms, $host ? ', the whole host' : '', $round),
		c2s => when_c2s($at_dot, sub {
			my ($conn, $d) = @_;
			return $d if !$conn->{tap}->fire($conn, 'fin');
			$conn->{tap}->push_out($conn, 's', $d);
			sleep($ms / 1000);
			$host ? $site->kill_host($conn->{tap}{host}, 'postfix') : kill 'KILL', $site->pids($conn->{tap}{host}, 'smtpd');
			return '';
		}),
		client => sub {
			my ($x) = @_;
			my $copies = in_doubt($x, after => sub { $x->site->start_postfix($x->dead) if $host });
			cmp_ok($copies, '>=', 1, 'not lost');
			ok($copies == 1 || $x->gw->log =~ /possible-duplicate/, 'a duplicate is only where one was announced');
		});
}
run_case($site, 'S14 done, and the reply lost with the backend',
	s2c => sub { my ($conn, $d) = @_; return $d =~ /^250 2\.0\.0 Ok: queued/ && $conn->{tap}->fire($conn, 'fin') ? '' : $d },
	client => sub {
		my ($x) = @_;
		is(in_doubt($x), 2, 'two copies where nothing drops one');
		like($x->gw->log, qr/possible-duplicate/, 'announced');
	});

sub at_reply {		# alters what the backend says to the dot
	my ($how) = @_;
	return sub {
		my ($conn, $d) = @_;
		return $d if $conn->{in}{c2s} !~ $at_dot || !$conn->{tap}->fire($conn, 'fin');
		return $how->($d);
	};
}

run_case($site, 'S15 "2" and dead', s2c => at_reply(sub { substr($_[0], 0, 1) }), client => sub {
	my ($x) = @_;
	all_well($x);
	unlike($x->said($x->alive), qr/MAIL/, 'the other received nothing');
});
run_case($site, 'S16 "250-" and dead', s2c => at_reply(sub { "250-2.0.0 first\r\n" }), client => sub {
	my ($x) = @_;
	all_well($x);
	unlike($x->said($x->alive), qr/MAIL/, 'the other received nothing');
});

sub instead_of_dot {	# the backend never gets the dot and says this
	my ($say) = @_;
	return when_c2s($at_dot, sub {
		my ($conn, $d) = @_;
		return $d if !$conn->{tap}->fire($conn, 'fin');
		$conn->{tap}->push_out($conn, 'c', $say);
		return '';
	});
}

run_case($site, 'S17 "4" and dead', c2s => instead_of_dot('4'), client => sub {
	my ($x) = @_;
	all_well($x);
	unlike($x->gw->log, qr/possible-duplicate/, 'known not to be a duplicate');
});
run_case($site, 'S18 421 to the dot', c2s => instead_of_dot("421 4.3.2 shutting down\r\n"), client => sub { all_well(@_) });

# A host that says it cannot for reasons of its own (RFC 3463: X.3.X) is as good as dead for this message.
run_case($site, 'S17 451 4.3.0 to the dot: the other takes it', c2s => instead_of_dot("451 4.3.0 Error: queue file write error\r\n"),
	client => sub {
		my ($x) = @_;
		all_well($x);
		unlike($x->gw->log, qr/possible-duplicate/, 'known not to be a duplicate');
	});
run_case($site, 'S17 452 4.3.1 to MAIL: the other takes it',
	s2c => sub {
		my ($conn, $d) = @_;
		$d =~ s/^250 2\.1\.0 Ok\r\n/452 4.3.1 Insufficient system storage\r\n/ if $conn->{in}{c2s} =~ /MAIL/ && $conn->{tap}->fire($conn, 'fin');
		return $d;
	},
	client => sub { all_well(@_) });
run_case($site, 'S17 all hosts say so: the client hears it',
	s2c => sub {
		my ($conn, $d) = @_;
		$d =~ s/^250 2\.0\.0 Ok: queued.*/451 4.3.0 Error: queue file write error\r/m if $conn->{in}{c2s} =~ /MAIL FROM:<dot/;
		$d =~ s/^250 2\.1\.0 Ok\r\n/452 4.3.1 Insufficient system storage\r\n/ if $conn->{in}{c2s} =~ /MAIL FROM:<mail/;
		return $d;
	},
	client => sub {
		my ($x) = @_;
		my $c = hello($x);
		for (1 .. 2) {
			is($c->smtp('MAIL FROM:<mail@site.test>'), "452 4.3.1 Insufficient system storage\r\n", 'at MAIL');
		}
		like($c->smtp('RCPT TO:<' . $x->addr . '>'), qr/^503 /, 'no transaction is open');
		$c->close;
		$c = hello($x);
		for (1 .. 2) {
			like($c->smtp('MAIL FROM:<dot@site.test>'), qr/^250 /, 'MAIL');
			rcpt($x, $c);
			data($c);
			is(content($c, message()), "451 4.3.0 Error: queue file write error\r\n", 'at the dot');
		}
		quit($c);
	});

run_case($site, 'S19 550 to the dot is relayed', c2s => instead_of_dot("550 5.7.1 policy\r\n"), client => sub {
	my ($x) = @_;
	my $m = message();
	my $c = hello($x);
	mail($x, $c);
	rcpt($x, $c);
	data($c);
	is(content($c, $m), "550 5.7.1 policy\r\n", '550 as it was said');
	quit($c);
	is(delivered($x, $m), 0, 'none');
	unlike($x->said($x->alive), qr/MAIL/, 'no failover');
});

# Eight minutes in a soak, with every default as it is; else seconds, and all deadlines but the one for this shorter (its
# default is in t/unit/smtp.c).
my $silence = $soak ? 480 : 7;
run_case($site, "S20 silent at the dot for $silence s, alive", more => $soak ? '' : 'timeout {' . join('', map { qq(\n $_ = "3s") }
	qw(connect greeting command data-init bulk login idle content hold queue)) . "\n }\n",
	c2s => when_c2s($at_dot, sub { my ($conn, $d) = @_; sleep $silence; return $d }), client => sub {
		my ($x) = @_;
		local $BMR::Client::patience = $silence + 60;
		all_well($x, calm => 1);
		is((() = ($x->said('a') . $x->said('b')) =~ /MAIL FROM/g), 1, 'the other was not asked');
	});

for my $policy ('replay', 'tempfail') {
	run_case($site, "S21 silent at the dot too long, in-doubt $policy",
		more => qq(in-doubt = "$policy"\n timeout {\n end-of-data = "1s"\n }),
		c2s => when_c2s($at_dot, sub { my ($conn, $d) = @_; return $conn->{tap}->fire($conn, 'mute') ? '' : $d }),
		client => sub {
			my ($x) = @_;
			return all_well($x) if $policy eq 'replay';
			my $m = message();
			my $c = hello($x);
			mail($x, $c);
			rcpt($x, $c);
			data($c);
			like(content($c, $m), qr/^451 4\.3\.0 /, '451 by policy');
			quit($c);
			is(delivered($x, $m), 0, 'not replayed');
		});
}

run_case($site, 'S22 the client goes while the dot is in doubt', more => qq(fence-delay = "2s"),
	c2s => when_c2s($at_dot, \&cut_unsent), client => sub {
		my ($x) = @_;
		my $m = message();
		my $c = hello($x);
		mail($x, $c);
		rcpt($x, $c);
		data($c);
		$c->send(stuffed($m) . ".\r\n");
		sleep 0.5;
		$c->close;
		ok($x->gw->wait_log(qr/session=<[^>]+>.*rip/), 'the session ends');
		unlike($x->said($x->alive), qr/MAIL/, 'nothing is replayed');
		is(delivered($x, $m), 0, 'none');
	});

run_case($site, 'S23 the other refuses a replayed RCPT',
	s2c => sub {
		my ($conn, $d) = @_;
		my $dead = $conn->{tap}->fired;
		$d =~ s/250 2\.1\.5 Ok/450 4.2.0 greylisted/ if $dead ne '' && $dead ne $conn->{tap}{host};
		return $d;
	},
	c2s => when_c2s(qr/DATA\r\n/, \&cut_unsent), client => sub {
		my ($x) = @_;
		my $m = message();
		my $c = hello($x);
		mail($x, $c);
		rcpt($x, $c);
		like($c->smtp('DATA'), qr/^451 4\.3\.0 /, '451 at DATA');
		like($c->smtp('RCPT TO:<' . $x->addr('z') . '>'), qr/^451 4\.3\.0 /, 'the transaction is poisoned');
		like($c->smtp('RSET'), qr/^250 /, 'RSET');
		quit($c);
		is(delivered($x, $m), 0, 'none, and not to a part of the recipients');
	});

run_case($site, 'S24 the other lacks SMTPUTF8',
	s2c => sub {
		my ($conn, $d) = @_;
		my $dead = $conn->{tap}->fired;
		$d =~ s/250-SMTPUTF8\r\n// if $dead ne '' && $dead ne $conn->{tap}{host};
		return $d;
	},
	c2s => when_c2s(qr/DATA\r\n/, \&cut_unsent), client => sub {
		my ($x) = @_;
		my $c = hello($x);
		mail($x, $c, ' SMTPUTF8');
		rcpt($x, $c);
		like($c->smtp('DATA'), qr/^451 4\.3\.0 /, 'answer 451');
		is(delivered($x, ''), 0, 'none');
	});

run_case($site, 'S25 the smaller SIZE is advertised',
	s2c => sub { my ($conn, $d) = @_; return $d }, client => sub {
		my ($x) = @_;
		my $c = $x->connect;
		$c->reply;
		like($c->smtp('EHLO x'), qr/^250-SIZE 200000000\r$/m, 'SIZE of both');
		like($c->smtp('MAIL FROM:<x@site.test> SIZE=200000001'), qr/^552 5\.3\.4 /, 'more is refused at once');
	});
run_case($site, 'S25 the other takes less',
	s2c => sub {
		my ($conn, $d) = @_;
		my $dead = $conn->{tap}->fired;
		$d =~ s/250-SIZE \d+/250-SIZE 1000/ if $dead ne '' && $dead ne $conn->{tap}{host};
		return $d;
	},
	c2s => when_c2s($at_dot, \&cut_unsent), client => sub {
		my ($x) = @_;
		my $m = message(5000);
		my $c = hello($x);
		mail($x, $c);
		rcpt($x, $c);
		data($c);
		like(content($c, $m), qr/^451 4\.3\.0 /, 'answer 451');
		is(delivered($x, $m), 0, 'none');
	});

sub bdat {
	my ($c, $octets, $last) = @_;
	$c->send('BDAT ' . length($octets) . ($last ? ' LAST' : '') . "\r\n$octets");
	return $c->reply;
}

run_case($site, 'S26 BDAT, dead after the second chunk', client => sub {
	my ($x) = @_;
	my $m = message(300_000);
	my $c = hello($x);
	mail($x, $c);
	rcpt($x, $c);
	like(bdat($c, substr($m, 0, 100_001)), qr/^250 /, 'chunk 1');
	like(bdat($c, substr($m, 100_001, 77_777)), qr/^250 /, 'chunk 2');
	$x->kill;
	like(bdat($c, substr($m, 177_778, 10)), qr/^250 /, 'chunk 3');
	like(bdat($c, substr($m, 177_788), 1), qr/^250 2/, 'LAST');
	quit($c);
	is(delivered($x, $m), 1, 'once');
});
run_case($site, 'S27 BDAT LAST in doubt', c2s => when_c2s(qr/BDAT 0 LAST\r\n/, \&cut_unsent), client => sub {
	my ($x) = @_;
	my $m = message(5000);
	my $c = hello($x);
	mail($x, $c);
	rcpt($x, $c);
	like(bdat($c, $m, 1), qr/^250 2/, 'answer 250');
	quit($c);
	ok($x->dead, 'a backend died');
	is(delivered($x, $m), 1, 'once');
});
run_case($site, 'S28 BDAT 0 LAST in doubt', c2s => when_c2s(qr/BDAT 0 LAST\r\n/, \&cut_unsent), client => sub {
	my ($x) = @_;
	my $m = message(5000);
	my $c = hello($x);
	mail($x, $c);
	rcpt($x, $c);
	like(bdat($c, $m), qr/^250 2/, 'chunk');
	like(bdat($c, '', 1), qr/^250 2/, 'LAST');
	quit($c);
	is(delivered($x, $m), 1, 'once');
});

# A server that takes BINARYMIME, which Postfix does not: keeps what it got.
sub binary_server {
	my ($conn, $data) = @_;
	return "220 fake ESMTP\r\n" if !defined $data;
	my $out = '';
	$conn->{buf} .= $data;
	while (1) {
		if ($conn->{left}) {
			my $part = substr($conn->{buf}, 0, $conn->{left}, '');
			$conn->{left} -= length $part;
			last if $conn->{left} > 0;
			$out .= "250 2.0.0 chunk\r\n";
			next;
		}
		last if $conn->{buf} !~ s/^(.*?)\r\n//s;
		my $cmd = $1;
		if ($cmd =~ /^BDAT (\d+)( LAST)?/) {
			return $out if $2 && $conn->{tap}{armed} && $conn->{tap}->fire($conn, 'fin');
			$conn->{left} = $1;
			$out .= "250 2.0.0 done\r\n" if !$1;
		} elsif ($cmd =~ /^EHLO/) {
			$out .= "250-fake\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250 SIZE 100000000\r\n";
		} else {
			$out .= $cmd =~ /^QUIT/ ? "221 2.0.0 bye\r\n" : "250 2.1.0 ok\r\n";
		}
	}
	return $out;
}
run_case($site, 'S29 BINARYMIME with bare LF and NUL', serve => \&binary_server, client => sub {
	my ($x) = @_;
	my $m = "Subject: b\r\n\r\n" . join('', map { chr($_ % 256) } 0 .. 99_999) . "\n\0\n.\n.\r\n\r\n.\r\nend";
	my $c = $x->connect;
	$c->reply;
	like($c->smtp('EHLO x'), qr/^250-BINARYMIME\r$/m, 'offered');
	like($c->smtp('MAIL FROM:<x@site.test> BODY=BINARYMIME'), qr/^250 /, 'MAIL');
	like($c->smtp('RCPT TO:<y@site.test>'), qr/^250 /, 'RCPT');
	like($c->smtp('DATA'), qr/^503 5\.5\.1 /, 'not with DATA');
	like(bdat($c, substr($m, 0, 70_000)), qr/^250 /, 'chunk');
	like(bdat($c, substr($m, 70_000), 1), qr/^250 2/, 'LAST');
	quit($c);
	my $got = $x->said($x->alive);
	$got =~ s/BDAT (\d+)( LAST)?\r\n//g;
	ok(index($got, $m) > 0, 'identical octets at the other backend');
});

run_case($site, 'S30 content and the next transaction in one segment', c2s => when_c2s($at_dot, \&cut_unsent), client => sub {
	my ($x) = @_;
	my ($m, $m2) = (message(), message());
	my $c = hello($x);
	mail($x, $c);
	rcpt($x, $c, 'a');
	data($c);
	$c->send(stuffed($m) . ".\r\nRSET\r\nMAIL FROM:<y\@site.test>\r\nRCPT TO:<" . $x->addr('b') . ">\r\nDATA\r\n");
	like($c->reply, qr/^250 2\.0\.0 Ok: queued/, 'first message');
	like($c->reply, qr/^250 2\.0\.0 /, 'RSET');
	like($c->reply, qr/^250 2\.1\.0 /, 'MAIL');
	like($c->reply, qr/^250 2\.1\.5 /, 'RCPT');
	like($c->reply, qr/^354 /, 'DATA');
	like(content($c, $m2), qr/^250 /, 'second message');
	quit($c);
	is(delivered($x, $m, $x->user('a')), 1, 'first once');
	is(delivered($x, $m2, $x->user('b')), 1, 'second once');
});

run_case($site, 'S31 dead at MAIL of the second transaction',
	c2s => when_c2s(qr/MAIL FROM:<second/, \&cut_unsent), client => sub {
		my ($x) = @_;
		my ($m, $m2) = (message(), message());
		my $c = hello($x);
		mail($x, $c);
		rcpt($x, $c, 'a');
		data($c);
		like(content($c, $m), qr/^250 /, 'first');
		like($c->smtp('MAIL FROM:<second@site.test>'), qr/^250 /, 'MAIL');
		rcpt($x, $c, 'b');
		data($c);
		like(content($c, $m2), qr/^250 /, 'second');
		quit($c);
		is(delivered($x, $m, $x->user('a')), 1, 'first not delivered again');
		is(delivered($x, $m2, $x->user('b')), 1, 'second once');
	});

run_case($site, 'S32 RSET', client => sub {
	my ($x) = @_;
	my $c = hello($x);
	mail($x, $c);
	rcpt($x, $c);
	$x->kill;
	like($c->smtp('RSET'), qr/^250 2\.0\.0 /, 'RSET is answered here');
	quit($c);
	is(delivered($x, ''), 0, 'none');
});

run_case($site, 'S33 AUTH PLAIN in flight', c2s => when_c2s(qr/AUTH PLAIN/, \&cut_unsent), client => sub {
	my ($x) = @_;
	my $c = hello($x);
	like($c->smtp('AUTH PLAIN AGFsaWNlAHNlY3JldA=='), qr/^235 2\.7\.0 /, '235 by the other');
	ok($x->dead, 'a backend died');
	like($c->smtp('AUTH PLAIN AGFsaWNlAHNlY3JldA=='), qr/^503 /, 'once only');
	my $m = message();
	mail($x, $c);
	rcpt($x, $c);
	data($c);
	like(content($c, $m), qr/^250 /, 'and mail goes');
	quit($c);
});
run_case($site, 'S33 authenticated, replayed', client => sub {
	my ($x) = @_;
	my $m = message();
	my $c = hello($x);
	like($c->smtp('AUTH LOGIN'), qr/^334 VXNlcm5hbWU6/, 'LOGIN');
	like($c->smtp('YWxpY2U='), qr/^334 UGFzc3dvcmQ6/, 'user');
	like($c->smtp('c2VjcmV0'), qr/^235 /, 'password');
	mail($x, $c);
	$x->kill;
	rcpt($x, $c);
	data($c);
	like(content($c, $m), qr/^250 /, 'answer 250');
	quit($c);
	like($x->said($x->alive), qr/AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\nMAIL/, 'the other saw the login');
	unlike($x->gw->log, qr/c2VjcmV0|AGFsaWNl/, 'no secret in the log');
	is(delivered($x, $m), 1, 'once');
});
run_case($site, 'S33 wrong password', client => sub {
	my ($x) = @_;
	my $c = hello($x);
	like($c->smtp('AUTH PLAIN AGFsaWNlAHdyb25n'), qr/^535 5\.7\.8 /, '535 from the backend');
	is((() = ($x->said('a') . $x->said('b')) =~ /AUTH PLAIN/g), 1, 'asked once');
	quit($c);
});

run_case($site, 'S34 mechanisms that cannot be replayed are not offered', client => sub {
	my ($x) = @_;
	my $c = $x->connect;
	$c->reply;
	my $e = $c->smtp('EHLO x');
	unlike($e, qr/SCRAM|CRAM|GSSAPI|NTLM/, 'not offered');
	like($c->smtp('AUTH SCRAM-SHA-256 biwsbj11c2Vy'), qr/^504 5\.5\.4 /, 'answer 504');
});

run_case($site, 'S35 QUIT', client => sub {
	my ($x) = @_;
	my $c = hello($x);
	mail($x, $c);
	$x->kill;
	quit($c);
});

run_case($site, 'S36 unsolicited 421 while idle', client => sub {
	my ($x) = @_;
	my $m = message();
	my $c = hello($x);
	mail($x, $c);
	for my $h ('a', 'b') {
		next if !$x->{tap}{$h}->conns;
		$x->{tap}{$h}->tell('inject 421 4.3.2 a.site.test shutting down');
		$x->{tap}{$h}->down;
		$x->{dead} = $h;
		last;
	}
	ok($c->silent(0.3), 'nothing is said');
	rcpt($x, $c);
	data($c);
	like(content($c, $m), qr/^250 /, '250 by the other');
	quit($c);
	is(delivered($x, $m), 1, 'once');
});

run_case($site, 'S37 both down', more => qq(timeout {\n hold = "2s"\n }), client => sub {
	my ($x) = @_;
	my $c = hello($x);
	mail($x, $c);
	$x->{tap}{$_}->down for 'a', 'b';
	like($c->smtp('RCPT TO:<' . $x->addr . '>'), qr/^451 4\.3\.0 /, 'answer 451');
	like($c->smtp('RCPT TO:<' . $x->addr . '>'), qr/^421 4\.3\.2 gw\.test /, 'then 421');
	is($c->rest, '', 'and the end');
});

run_case($site, 'S43 the backends know the client', client => sub {
	my ($x) = @_;
	my @m = (message(), message());
	my $ip = $x->site->{net} . '.99';
	my $c = hello($x, from => $ip);
	for my $i (0, 1) {
		mail($x, $c);
		rcpt($x, $c);
		data($c);
		$x->kill if $i == 1;
		like(content($c, $m[$i]), qr/^250 /, 'answer 250');
	}
	quit($c);
	$x->site->flush;
	my @got = $x->site->messages($x->user);
	is(scalar @got, 2, 'two messages');
	like($got[$_], qr/^Received: from client\.test \(\S+ \[\Q$ip\E\]\)\r\n\tby [ab]\.site\.test/m, 'the client in the trace line') for 0, 1;
	is(scalar(keys %{ { map { /by ([ab])\.site\.test \(Postfix\)/ ? ($1 => 1) : () } @got } }), 2, 'of both backends');
});

my %smuggle = ('LF.LF' => "\n.\n", 'LF.CRLF' => "\n.\r\n", 'CRLF.LF' => "\r\n.\n", 'CR.CR' => "\r.\r", 'CRLF.CR' => "\r\n.\r",
	'CR.CRLF' => "\r.\r\n", 'CR.LF' => "\r.\n", 'LF.CR' => "\n.\r");
my $smuggled = 0;
for my $name (sort keys %smuggle) {
	my $evil = "Subject: outer\r\n\r\nbody$smuggle{$name}MAIL FROM:<evil\@site.test>\r\nRCPT TO:<victim\@site.test>\r\nDATA\r\n"
	    . "Subject: smuggled\r\n\r\nevil\r\n";
	# the backend dies after k octets behind "body", while the client is still sending; all k in t/unit/smtp.c
	my $dies = sub {
		my ($k) = @_;
		return sub {
			my ($conn, $d) = @_;
			return $d if $conn->{in}{c2s} !~ /DATA\r\n/;
			my $had = length($conn->{content} // '');
			$conn->{content} .= $d;
			my $at = index($conn->{content}, "\r\n\r\nbody");
			my $cut = $at + 8 + $k;
			return $d if $at < 0 || length $conn->{content} < $cut || $had > $cut || !$conn->{tap}->fire($conn, 'fin');
			return substr($d, 0, $cut - $had);
		};
	};
	my $say = sub {
		my ($x, $c, $more) = @_;
		my $part = index($evil, 'body') + 4 + $more;
		mail($x, $c);
		rcpt($x, $c);
		data($c);
		$c->send(substr($evil, 0, $part));
		sleep 0.1;
		$c->send(substr($evil, $part) . ".\r\n");
		return $c->reply;
	};
	run_case($site, "S44 $name is refused, dead after $_", c2s => $dies->($_), client => sub {
		my ($x) = @_;
		my $c = hello($x);
		like($say->($x, $c, 0), qr/^550 5\.5\.2 /, 'answer 550');
		ok($x->dead, 'a backend died');
		mail($x, $c);
		quit($c);
		is(delivered($x, ''), 0, 'none');
		is(scalar(() = $x->site->messages('victim')), 0, 'and no smuggled one');
	}) for $soak ? (-3 .. 0) : 0;
	my $places = 3 + length $smuggle{$name};	# a line's CR LF is written where one of them was
	run_case($site, "S44 $name is normalised, dead after $_", more => qq(bare-newline = "normalize"), c2s => $dies->($_), client => sub {
		my ($x) = @_;
		my $c = hello($x);
		like($say->($x, $c, length $smuggle{$name}), qr/^250 /, 'answer 250');
		ok($x->dead, 'a backend died');
		quit($c);
		$x->site->flush;
		my @got = $x->site->messages($x->user);
		is(scalar @got, 1, 'exactly one message');
		like($got[0], qr/smuggled\r\n\r\nevil\r\n\z/, 'which holds all of it');
		is(scalar(() = $x->site->messages('victim')), 0, 'and no smuggled one');
	}) for $soak ? (0 .. $places) : ++$smuggled % ($places + 1);
	run_case($site, "S44 $name is normalised, over a death", more => qq(bare-newline = "normalize"),
		c2s => when_c2s($at_dot, \&cut_unsent), client => sub {
			my ($x) = @_;
			my $c = hello($x);
			mail($x, $c);
			rcpt($x, $c);
			data($c);
			$c->send("$evil.\r\n");
			like($c->reply, qr/^250 /, 'answer 250');
			quit($c);
			$x->site->flush;
			my @got = $x->site->messages($x->user);
			is(scalar @got, 1, 'exactly one message');
			like($got[0], qr/smuggled\r\n\r\nevil\r\n\z/, 'which holds all of it');
			is(scalar(() = $x->site->messages('victim')), 0, 'and no smuggled one');
		});
}

done_testing();
