#!/usr/bin/perl
# The failover cases of the IMAP4 behaviour that concern login, the session and its end: I1, I2, I51 to I54 and I65, over
# two real Dovecots on one store.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use MIME::Base64 qw(encode_base64);
use Test::More;
use BMR::Case qw(run_case);
use BMR::Cut qw(not_sent no_reply fired);
use BMR::ImapCase;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(imap => 1, store => $ENV{BMR_STORE} // 'sdbox');
my $straight = $BMR::Case::direct;
sub case { my ($name, %o) = @_; return run_case($o{site} // $site, $name, proto => 'imap4', %o) }
sub b64 { my ($s) = @_; return encode_base64($s, '') }

# The session works, and did not begin to work by a second login of the client.
sub works {
	my ($x, $c) = @_;
	my $r = $c->do('LIST "" *');
	ok($r->ok, 'LIST');
	is_deeply([sort map { $_->{args}[2] } $r->of('LIST')], ['INBOX', 'box'], 'what there is');
	ok($c->do('SELECT box')->ok, 'SELECT');
	is($c->{view}{exists}, 2, 'two messages');
	my $end = $c->do('LOGOUT');
	ok($end->ok, 'LOGOUT');
	like($c->{bye}, qr/^\* BYE /, 'with BYE');
	is($c->unit, undef, 'and the end');
	return;
}
sub plain {
	my ($x) = @_;
	fill($x, 'box', 2);
	works($x, $x->login);
	$x->died;
	return;
}

case('I1 before the greeting', s2c => sub {
	my ($conn, $d) = @_;
	return $conn->{in}{s2c} eq '' && $conn->{tap}->fire($conn, 'fin') ? '' : $d;
}, client => \&plain);
case('I1 within the greeting', s2c => sub {
	my ($conn, $d) = @_;
	return $conn->{in}{s2c} eq '' && $conn->{tap}->fire($conn, 'rst') ? substr($d, 0, 9) : $d;
}, client => \&plain);
case('I1 LOGIN not received', not_sent(qr/LOGIN/), client => \&plain);
case('I1 LOGIN half received', not_sent(qr/LOGIN "/, at => 'end'), client => \&plain);
case('I1 LOGIN without a reply', no_reply(qr/LOGIN/), client => \&plain);
case('I1 LOGIN with half a reply', no_reply(qr/LOGIN/, keep => 30), client => \&plain);
case('I1 hangs at login', no_reply(qr/LOGIN/, how => 'mute'), more => qq(timeout {\n login = "1s"\n }), client => \&plain);

case('I2 nothing selected', client => sub {
	my ($x) = @_;
	fill($x, 'box', 2);
	my $c = $x->login;
	$x->kill;
	ok($c->silent(0.3), 'nothing is said');
	works($x, $c);
});
for my $cmd ('LIST "" *', 'STATUS box (MESSAGES UIDNEXT)', 'NAMESPACE', 'GETQUOTAROOT INBOX', 'MYRIGHTS INBOX', 'LSUB "" *',
    'GETMETADATA INBOX /private/comment') {
	my ($word) = $cmd =~ /^(\w+)/;
	for my $how ([not_sent(qr/ $word[ \r]/)], [no_reply(qr/$word/)], [no_reply(qr/$word/, keep => 'untagged')]) {
		case("I2 $cmd in doubt", @$how, client => sub {
			my ($x) = @_;
			fill($x, 'box', 2);
			my $c = $x->login;
			my $d = $x->direct;
			my %want = map { $_->{raw} => 1 } @{ $d->do($cmd)->{untagged} };
			my $r = $c->do($cmd);
			ok($r->ok, 'OK') or diag($r->{line});
			is_deeply({ map { $_->{raw} => 1 } @{ $r->{untagged} } }, \%want, 'the answer is the same');
			$x->died;
		});
	}
}

case('I51 AUTHENTICATE PLAIN without initial response', s2c => sub {
	my ($conn, $d) = @_;
	# the gateway's own exchange with its backend, wherever it asks for the credentials
	return $conn->{in}{c2s} =~ /^\S+ (?:LOGIN|AUTHENTICATE)/m && $conn->{tap}->fire($conn, 'fin') ? '' : $d;
}, client => sub {
	my ($x) = @_;
	fill($x, 'box', 2);
	my $c = $x->connect;
	my $t = $c->begin('AUTHENTICATE PLAIN');
	ok($c->upto(sub { $_[0]{plus} }), '+');
	$c->send(b64("\0" . $x->user . "\0secret") . "\r\n");
	ok($c->finish($t)->ok, 'OK');
	works($x, $c);
	$x->died;
});
my %mech = (
	'LOGIN' => sub { my ($x, $c) = @_; return login_mech($x, $c) },
	'PLAIN' => sub { my ($x, $c) = @_; return $c->do('AUTHENTICATE PLAIN ' . b64("\0" . $x->user . "\0secret")) },
	'XOAUTH2' => sub {
		my ($x, $c) = @_;
		return $c->do('AUTHENTICATE XOAUTH2 ' . b64('user=' . $x->user . "\1auth=Bearer " . $site->token($x->user) . "\1\1"));
	},
	'OAUTHBEARER' => sub {
		my ($x, $c) = @_;
		return $c->do('AUTHENTICATE OAUTHBEARER ' . b64('n,a=' . $x->user . ",\1host=gw\1port=143\1auth=Bearer " . $site->token($x->user) . "\1\1"));
	},
);
sub login_mech {
	my ($x, $c) = @_;
	my $t = $c->begin('AUTHENTICATE LOGIN');
	for my $word ($x->user, 'secret') {
		ok($c->upto(sub { $_[0]{plus} }), '+');
		$c->send(b64($word) . "\r\n");
	}
	return $c->finish($t);
}
for my $mech (sort keys %mech) {
	case("I51 AUTHENTICATE $mech, then death", client => sub {
		my ($x) = @_;
		fill($x, 'box', 2);
		my $c = $x->connect;
		ok($mech{$mech}->($x, $c)->ok, $mech);
		$x->kill;
		works($x, $c);
	});
	case("I51 AUTHENTICATE $mech, no reply", no_reply(qr/(?:LOGIN|AUTHENTICATE)/), client => sub {
		my ($x) = @_;
		fill($x, 'box', 2);
		my $c = $x->connect;
		ok($mech{$mech}->($x, $c)->ok, $mech);
		works($x, $c);
		$x->died;
	});
}
case('I51 passwords of every kind', client => sub {
	my ($x) = @_;
	my $c = $x->connect;
	for my $bad ('a b', 'q"uo\\te', '{5}', '*', "\xc3\xa9", 'x' x 300) {
		my $r = $c->do('LOGIN ' . $x->user . ' ', \$bad);
		is($r->{status}, 'NO', 'refused');
		like($r->{code}, qr/^AUTHENTICATIONFAILED$/, 'by the backend');
	}
	ok($c->do('LOGIN ', \$x->user, ' ', \'secret')->ok, 'with literals');
});

case('I52 AUTHENTICATE CRAM-MD5', client => sub {
	my ($x) = @_;
	fill($x, 'box', 2);
	my $c = $x->connect;
	my $r = $c->do('CAPABILITY');
	my $offered = $r->raw =~ /AUTH=CRAM-MD5/;
	return pass('only through the gateway') if $straight;
	$r = $c->do('AUTHENTICATE CRAM-MD5') if !$offered;
	is($r->{status}, 'NO', 'not offered: NO') if !$offered;
	unlike($r->{code}, qr/AUTHENTICATIONFAILED/, 'and not for the password') if !$offered;
	ok($c->login($x->user)->ok, 'and another way is open');
	works($x, $c);
});

case('I53 LOGOUT in flight', not_sent(qr/LOGOUT/), client => sub { logout($_[0]) });
case('I53 LOGOUT without a reply', no_reply(qr/LOGOUT/), client => sub { logout($_[0]) });
case('I53 LOGOUT after a death', client => sub { logout($_[0], 1) });
sub logout {
	my ($x, $kill) = @_;
	fill($x, 'INBOX', 3);
	my $c = selected($x, 'INBOX');
	ok($c->do('STORE 1:2 +FLAGS (\Deleted)')->ok, 'STORE');
	$x->kill if $kill;
	ok($c->do('LOGOUT')->ok, 'OK');
	like($c->{bye}, qr/^\* BYE /, 'BYE');
	is($c->unit, undef, 'the end');
	is_deeply(flags($x, 'INBOX'), { 1 => '\Deleted', 2 => '\Deleted', 3 => '' }, 'nothing is expunged');
	return;
}

case('I54 STORE, SEARCH, NOOP in one go', no_reply(qr/(?:UID )?SEARCH FLAGGED/), client => sub { pipelined($_[0]) });
case('I54 the same, cut in the STORE', no_reply(qr/(?:UID )?STORE/), client => sub { pipelined($_[0]) });
case('I54 the same, cut in the NOOP', not_sent(qr/NOOP/), client => sub { pipelined($_[0]) });
sub pipelined {
	my ($x) = @_;
	fill($x, 'INBOX', 5);
	my $c = selected($x, 'INBOX');
	my @t;
	for my $i (1 .. 3) {
		push @t, map { $c->begin($_) } "STORE $i +FLAGS (\\Flagged)", 'SEARCH FLAGGED', 'NOOP';
	}
	my @r = map { $c->finish($_) } @t;	# a server may have several under way and answer with the first what is of the second
	is(join(' ', map { $_->{status} } @r), join(' ', ('OK') x 9), 'nine OK');
	is_deeply([map { join ' ', $_->search } grep { $_->of('SEARCH') } map { one($_) } map { $_->of('SEARCH') } @r], ['1', '1 2', '1 2 3'],
		'each SEARCH sees the STOREs before it, once');
	is_deeply(flags($x, 'INBOX'), { 1 => '\Flagged', 2 => '\Flagged', 3 => '\Flagged', 4 => '', 5 => '' }, 'the flags');
	$x->died;
	return;
}
sub one { my ($u) = @_; return bless { untagged => [$u] }, 'BMR::Imap::Reply' }
case('I54 many commands in one write', client => sub {
	my ($x) = @_;
	my @m = fill($x, 'INBOX', 20);
	my $c = selected($x, 'INBOX');
	my @t = map { ($c->begin("FETCH $_ (BODY.PEEK[])"), $c->begin('NOOP')) } 1 .. 20;
	$x->kill;
	my @got = map { $_->{item}{'BODY[]'} } map { $c->finish($_)->fetches } @t;
	is_deeply(\@got, \@m, 'each answered, in order');
});

case('I65 the account is closed before the death', more => qq(timeout {\n hold = "30s"\n }), client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	fill($x, 'box', 2);
	my $c = selected($x, 'box');
	$site->deny($x->user);
	$x->kill;
	my $r = $c->do('NOOP');
	is($r->{status}, '', 'no answer');
	like($c->{bye}, qr/^\* BYE \[UNAVAILABLE\]/, 'BYE [UNAVAILABLE]');
	unlike($c->{seen}, qr/AUTHENTICATIONFAILED/, 'nothing of the password');
	is($c->unit, undef, 'the end');
});

# The host that is to stand in refuses once, for now: what it said well is replaced.
for my $at (['the login', qr/Logged in/, 'NO [UNAVAILABLE] Temporary authentication failure'], ['the mailbox', qr/Select completed/, 'NO [SERVERBUG] Internal error'],
    ['the mailbox without a reason', qr/Select completed/, 'NO something is wrong']) {
	my ($what, $good, $bad) = @$at;
	case("I65 $what is refused once at the other host", s2c => sub {
		my ($conn, $d) = @_;
		my $due = "$conn->{tap}{dir}/../due";
		unlink $due if -e $due && $d =~ s/^(~\S+) OK [^\r\n]*$good[^\r\n]*/$1 $bad/m;
		return $d;
	}, client => sub {
		my ($x) = @_;
		return pass('only through the gateway') if $straight;
		fill($x, 'box', 2);
		my $c = selected($x, 'box');
		open(my $due, '>', "$x->{dir}/due") or die "due: $!\n";
		$x->kill;
		ok($c->do('NOOP')->ok, 'NOOP is answered');
		ok(!-e "$x->{dir}/due", 'after a refusal');
		is($c->{view}{exists}, 2, 'with what there is');
	});
}

case('I65 wrong password', client => sub {
	my ($x) = @_;
	my $c = $x->connect;
	my $r = $c->login($x->user, 'wrong');
	is($r->{status}, 'NO', 'NO');
	like($r->{code}, qr/^AUTHENTICATIONFAILED$/, '[AUTHENTICATIONFAILED] from the backend');
	is((() = ($x->said('a') . $x->said('b')) =~ /LOGIN/g), 1, 'not tried on the other') if !$straight;
	ok($c->login($x->user)->ok, 'another try succeeds');
	unlike($x->gw->log, qr/wrong|secret/, 'no password in the log') if !$straight;
});

$site->stop;
done_testing();
