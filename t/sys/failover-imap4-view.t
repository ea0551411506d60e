#!/usr/bin/perl
# The failover cases of the IMAP4 behaviour that concern the selected mailbox: I3 to I17, I49 and I55 to I58, over two
# real Dovecots on one store.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Case qw(run_case);
use BMR::Cut qw(not_sent no_reply fired);
use BMR::ImapCase;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(imap => 1, store => $ENV{BMR_STORE} // 'sdbox');
my $straight = $BMR::Case::direct;
sub case { my ($name, %o) = @_; return run_case($o{site} // $site, $name, proto => 'imap4', %o) }
sub uniq { my %s; return grep { !$s{$_}++ } @_ }
sub numbers { my ($c, $what) = @_; return [uniq map { "$_->{num}=$_->{item}{UID}" } grep { $_->{item}{UID} } $c->do("FETCH $what (UID)")->fetches] }

case('I3 selected, nothing changed', client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 3);
	my $c = selected($x, 'INBOX');
	$x->kill;
	ok($c->silent(0.3), 'nothing is said');
	my $r = $c->do('NOOP');
	ok($r->ok, 'NOOP');
	is($r->raw, '', 'and no noise');
	is_deeply(numbers($c, '1:*'), ['1=1', '2=2', '3=3'], 'the same messages');
	is($c->do('NOOP')->raw, '', 'and none after that');
});

for my $at (['after EXISTS', keep => qr/\* \d+ EXISTS\r\n/], ['after one octet', keep => 1], ['at the tagged line', keep => 'untagged'],
    ['inside it', keep => -3]) {
	my ($where, @keep) = @$at;
	case("I4 SELECT cut $where", no_reply(qr/SELECT/, @keep), client => sub {
		my ($x) = @_;
		fill($x, 'INBOX', 5);
		my $c = selected($x, 'INBOX');
		my $r = $x->{selected};
		is(scalar($r->of($_)), 1, "one $_") for 'FLAGS', 'EXISTS', 'RECENT';
		for my $code ('UIDVALIDITY', 'UIDNEXT', 'PERMANENTFLAGS') {
			is(scalar(grep { ($_->{code} // '') =~ /^$code/ } @{ $r->{untagged} }), 1, "one $code");
		}
		like($r->{code}, qr/^READ-WRITE/, 'READ-WRITE');
		is($c->{view}{exists}, 5, 'five messages');
		is_deeply(numbers($c, '1:*'), [map { "$_=$_" } 1 .. 5], 'as they are');
		$x->died;
	});
}

case('I5 EXAMINE', client => sub {
	my ($x) = @_;
	fill($x, 'box', 3);
	my $c = selected($x, 'box', how => 'EXAMINE');
	like($x->{selected}{code}, qr/^READ-ONLY/, 'READ-ONLY');
	$x->kill;
	is_deeply(numbers($c, '2'), ['2=2'], 'reads');
	isnt($c->do('STORE 1 +FLAGS (\Flagged)')->{status}, '', 'STORE is answered');
	is_deeply(flags($x, 'box'), { 1 => '', 2 => '', 3 => '' }, 'nothing was written');
	$c->do('LOGOUT');
	my $d = $x->direct($x->alive);
	$d->do('SELECT box');
	is($d->{view}{recent}, 3, '\Recent was left to others');
});

for my $cmd ('NOOP', 'CHECK', 'FETCH 1 (UID)', 'UID SEARCH ALL') {
	case("I6 two new messages, then $cmd", client => sub {
		my ($x) = @_;
		fill($x, 'INBOX', 3);
		my $c = selected($x, 'INBOX');
		$x->kill;
		fill($x, 'INBOX', 2);
		ok($c->do($cmd)->ok, $cmd);
		$c->do('NOOP') if $c->{view}{exists} == 3;
		is($c->{view}{exists}, 5, 'EXISTS 5');
		is_deeply(numbers($c, '1:*'), [map { "$_=$_" } 1 .. 5], 'numbers are stable');
	});
}

case('I6 a new keyword', client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 3);
	my $c = selected($x, 'INBOX');
	$x->kill;
	other($x, 'INBOX', 'STORE 2 +FLAGS ($NewKeyword)');
	my $r = $c->do('NOOP');
	ok($r->ok, 'NOOP');
	my @order = map { /\* (FLAGS|OK \[PERMANENTFLAGS|\d+ FETCH).*\$NewKeyword/ ? $1 : () } split /\r\n/, $r->raw;
	is_deeply(\@order, ['FLAGS', 'OK [PERMANENTFLAGS', '2 FETCH'], 'what flags there are comes before a message has it') or diag($r->raw);
	is($c->do('NOOP')->raw, '', 'once');
});

sub ghost {
	my ($x, %o) = @_;
	fill($x, 'INBOX', 5);
	my $c = selected($x, 'INBOX', %o);
	$x->kill;
	other($x, 'INBOX', 'STORE 2 +FLAGS (\Deleted)', 'EXPUNGE');
	return $c;
}

case('I7 message 2 of 5 is gone', client => sub {
	my ($x) = @_;
	my $c = ghost($x);
	my $r = $c->do('FETCH 3 (UID)');
	is_deeply([uniq map { "$_->{num}=$_->{item}{UID}" } grep { $_->{item}{UID} } $r->fetches], ['3=3'], 'number 3 is still UID 3');
	is(scalar($r->of('EXPUNGE')), 0, 'no EXPUNGE in FETCH');
	$r = $c->do('SEARCH UID 4');
	is_deeply([$r->search], [4], 'nor in SEARCH');
	$r = $c->do('STORE 5 +FLAGS (\Answered)');
	ok($r->ok, 'nor in STORE');
	$r = $c->do('NOOP');
	is_deeply([map { $_->{num} } $r->of('EXPUNGE')], [2], 'EXPUNGE 2 with NOOP');
	is($c->{view}{exists}, 4, 'four are left');
	is_deeply(numbers($c, '1:*'), ['1=1', '2=3', '3=4', '4=5'], 'renumbered');
	is_deeply(flags($x, 'INBOX'), { 1 => '', 3 => '', 4 => '', 5 => '\Answered' }, 'the right one was changed');
});

case('I7 several are gone and some are new', client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 10);
	my $c = selected($x, 'INBOX');
	$x->kill;
	other($x, 'INBOX', 'STORE 2,5:6,10 +FLAGS (\Deleted)', 'EXPUNGE');
	fill($x, 'INBOX', 3);
	is_deeply(numbers($c, '1,3,4,7:9'), ['1=1', '3=3', '4=4', '7=7', '8=8', '9=9'], 'numbers as the client knows them');
	my $r = $c->do('NOOP');
	is_deeply([sort { $a <=> $b } grep { defined } @{ $c->{view}{uid} }], [1, 3, 4, 7, 8, 9], 'the right ones are taken away');
	is($c->{view}{exists}, 9, 'nine now');
	is_deeply(numbers($c, '1:*'), ['1=1', '2=3', '3=4', '4=7', '5=8', '6=9', '7=11', '8=12', '9=13'], 'renumbered');
});

case('I7 all are gone', client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 4);
	my $c = selected($x, 'INBOX');
	$x->kill;
	other($x, 'INBOX', 'STORE 1:* +FLAGS (\Deleted)', 'EXPUNGE');
	ok($c->do('NOOP')->ok, 'NOOP');
	is($c->{view}{exists}, 0, 'none is left');
	fill($x, 'INBOX', 1);
	$c->do('NOOP');
	is_deeply(numbers($c, '*'), ['1=5'], 'and a new one is the first');
});

case('I8 STORE to a ghost', client => sub {
	my ($x) = @_;
	my $c = ghost($x);
	my $r = $c->do('STORE 2 +FLAGS (\Flagged)');
	like("$r->{status} $r->{code}", qr/^NO EXPUNGEISSUED$/, 'NO [EXPUNGEISSUED]') if !$straight;
	ok($c->do('STORE 2 +FLAGS.SILENT (\Flagged)')->ok, 'silently: OK');
	$r = $c->do('STORE 1:3 +FLAGS (\Draft)');
	is(scalar(grep { $_->{num} == 2 } $r->fetches), 0, 'no word of the ghost') if !$straight;
	$c->do('NOOP');
	is_deeply(flags($x, 'INBOX'), { 1 => '\Draft', 3 => '\Draft', 4 => '', 5 => '' }, 'others are untouched');
});
case('I8 FETCH and COPY of a ghost', client => sub {
	my ($x) = @_;
	my $c = ghost($x);
	my $r = $c->do('FETCH 1:3 (UID BODY.PEEK[])');
	is_deeply([map { $_->{item}{UID} } grep { $_->{item}{'BODY[]'} && $_->{num} != 2 } $r->fetches], [1, 3], 'the others come');
	$r = $c->do('COPY 2 INBOX');
	isnt($r->{status}, 'BAD', 'COPY is answered');
	$c->do('NOOP');
	is(scalar(() = @{ uids($x, 'INBOX') }), $c->{view}{exists}, 'the view is what there is');
});

case('I9 QRESYNC', client => sub {
	my ($x) = @_;
	my $c = ghost($x, enable => 'QRESYNC');
	my $r = $c->do('FETCH 3 (UID)');
	is(scalar($r->of('VANISHED')), 0, 'not during FETCH');
	$r = $c->do('NOOP');
	is_deeply([map { $_->{args}[-1] } $r->of('VANISHED')], [2], 'VANISHED 2');
	is_deeply(numbers($c, '1:*'), ['1=1', '2=3', '3=4', '4=5'], 'renumbered');
});

for my $with ('', ' (CONDSTORE)') {
	case("I10 a flag changed by another$with", client => sub {
		my ($x) = @_;
		fill($x, 'INBOX', 3);
		my $c = selected($x, 'INBOX', with => $with);
		ok($c->do($_)->ok, $_) for 'STORE 3 +FLAGS (\Seen)', 'STORE 1 +FLAGS.SILENT (\Answered)';	# which is known
		$x->kill;
		other($x, 'INBOX', 'STORE 2 +FLAGS (\Flagged $mine)');
		my $r = $c->do('NOOP');
		my ($f) = grep { $_->{num} == 2 } $r->fetches;
		ok($f, 'the change is told') or return;
		is(join(' ', sort grep { $_ ne '\Recent' } @{ $f->{item}{FLAGS} }), '$mine \Flagged', 'as it is');
		ok($f->{item}{MODSEQ}, 'with MODSEQ') if $with;
		is(scalar($r->fetches), 1, 'and nothing else');
		like(($r->of('FLAGS'))[0]{raw}, qr/\$mine/, 'the new keyword was announced') if $r->of('FLAGS');
	});
}

my $short = qq(timeout {\n hold = "30s"\n });
sub refused_bye {
	my ($c, $what) = @_;
	my $r = $c->do('NOOP');
	is($r->{status}, '', "$what: no answer");
	like($c->{bye} // '', qr/^\* BYE \[UNAVAILABLE\]/, 'but BYE [UNAVAILABLE]');
	is($c->end, $c->{bye}, 'and the end');
	return;
}
case('I11 another UIDVALIDITY', more => $short, client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	my @m = fill($x, 'box', 3);
	my $c = selected($x, 'box');
	$x->kill;
	other($x, undef, 'RENAME box old', 'CREATE box');
	fill($x, 'box', @m);
	refused_bye($c, 'another mailbox');
});
case('I11 the mailbox is gone', more => $short, client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	fill($x, 'box', 3);
	my $c = selected($x, 'box');
	$x->kill;
	other($x, undef, 'RENAME box old');
	my $r = $c->do('NOOP');
	is($r->{status}, '', 'no answer');
	like($c->{bye} // '', qr/^\* BYE \[UNAVAILABLE\]/, 'but BYE [UNAVAILABLE]');
});
case('I11 the client gives the mailbox another name', client => sub {
	my ($x) = @_;
	fill($x, 'box', 3);
	my $c = selected($x, 'box');
	ok($c->do('RENAME box old')->ok, 'RENAME');
	$x->kill;
	is_deeply(numbers($c, '1:*'), ['1=1', '2=2', '3=3'], 'the same messages');
});
case('I12 a lower HIGHESTMODSEQ', more => $short, client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	fill($x, 'INBOX', 3);
	my $mail = $site->{dir} . '/mail/' . $x->user;
	system("cp -a $mail $mail.old");
	other($x, 'INBOX', map { "STORE $_ +FLAGS (\\Flagged)" } 1 .. 3);
	my $c = selected($x, 'INBOX', with => ' (CONDSTORE)');
	$x->kill;
	sleep 0.2;	# its imap process is gone
	system("rm -rf $mail && mv $mail.old $mail");
	refused_bye($c, 'an older store');
});

case('I13 IDLE, a new message', client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 2);
	my $c = selected($x, 'INBOX');
	my $t = $c->idle;
	$x->kill;
	fill($x, 'INBOX', 1);
	ok($c->await(qr/^\* 3 EXISTS/), 'EXISTS 3');
	fill($x, 'INBOX', 1);
	ok($c->await(qr/^\* 4 EXISTS/), 'EXISTS 4, so IDLE goes on');
	my $r = $c->done;
	ok($r->ok, 'DONE');
	is($r->{tag}, $t, 'with its tag');
	is_deeply(numbers($c, '1:*'), [map { "$_=$_" } 1 .. 4], 'all there');
});
case('I13 IDLE over many deaths', interval => '1s', client => sub {
	my ($x) = @_;
	my $c = selected($x, 'INBOX');
	$c->idle;
	for my $i (1 .. 6) {
		my $h = $x->kill;
		fill($x, 'INBOX', 1);
		ok($c->await(qr/^\* $i EXISTS/), "EXISTS $i");
		next if $straight;
		$x->{tap}{$h}->up;
		$x->gw->wait_up("imap4/$h");
	}
	ok($c->done->ok, 'DONE');
});
case('I14 IDLE, one is gone', client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 4);
	my $c = selected($x, 'INBOX');
	$c->idle;
	$x->kill;
	other($x, 'INBOX', 'STORE 2 +FLAGS (\Deleted)', 'EXPUNGE');
	ok($c->await(qr/^\* 2 EXPUNGE/), 'EXPUNGE in IDLE');
	other($x, 'INBOX', 'STORE 2 +FLAGS (\Flagged)');
	ok($c->await(qr/^\* 2 FETCH .*\\Flagged/), 'and a flag');
	ok($c->done->ok, 'DONE');
	is_deeply(numbers($c, '1:*'), ['1=1', '2=3', '3=4'], 'renumbered');
});
case('I14 IDLE with QRESYNC, one is gone', client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 4);
	my $c = selected($x, 'INBOX', enable => 'QRESYNC');
	$c->idle;
	$x->kill;
	other($x, 'INBOX', 'STORE 2 +FLAGS (\Deleted)', 'EXPUNGE');
	ok($c->await(qr/^\* VANISHED 2\r/), 'VANISHED in IDLE');
	ok($c->done->ok, 'DONE');
});

case('I15 IDLE not received', not_sent(qr/IDLE\r\n/), client => sub { idles($_[0]) });
case('I15 IDLE received, no +', s2c => sub {
	my ($conn, $d) = @_;
	return !fired($conn) && $conn->{in}{c2s} =~ /IDLE\r\n\z/ && $conn->{tap}->fire($conn, 'fin') ? '' : $d;
}, client => sub { idles($_[0]) });
case('I16 DONE not received', not_sent(qr/DONE\r\n/), client => sub { idles($_[0]) });
case('I16 DONE received, no OK', s2c => sub {
	my ($conn, $d) = @_;
	return !fired($conn) && $conn->{in}{c2s} =~ /DONE\r\n\z/ && $conn->{tap}->fire($conn, 'fin') ? '' : $d;
}, client => sub { idles($_[0]) });
sub idles {
	my ($x) = @_;
	fill($x, 'INBOX', 2);
	my $c = selected($x, 'INBOX');
	$c->idle;
	fill($x, 'INBOX', 1);
	ok($c->await(qr/^\* 3 EXISTS/), 'EXISTS 3');
	ok($c->done->ok, 'DONE');
	is_deeply(numbers($c, '1:*'), [map { "$_=$_" } 1 .. 3], 'as it is');
	$x->died;
	return;
}
case('I16 IDLE without a mailbox', client => sub {
	my ($x) = @_;
	my $c = $x->login;
	$c->idle;
	$x->kill;
	ok($c->silent(0.5), 'nothing is said');
	ok($c->done->ok, 'DONE');
	ok($c->do('STATUS INBOX (MESSAGES)')->ok, 'and on');
});

case('I17 all backends are down in IDLE', interval => '1s', client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	fill($x, 'INBOX', 2);
	my $c = selected($x, 'INBOX');
	$c->idle;
	$_->down for values %{ $x->{tap} };
	my $until = time() + ($ENV{BMR_SOAK} ? 300 : 6);
	my $alive = 0;
	while (time() < $until) {
		next if $c->silent(1);
		my $u = $c->unit or last;
		$c->file($u);
		$alive++ if $u->{raw} =~ /^\* OK /;
	}
	is($c->{bye}, undef, 'no BYE');
	ok($alive, 'but a sign of life') if $ENV{BMR_SOAK};
	fill($x, 'INBOX', 1);
	$x->{tap}{b}->up;
	ok($c->await(qr/^\* 3 EXISTS/), 'EXISTS 3, once one is back');
	ok($c->done->ok, 'DONE');
	is_deeply(numbers($c, '1:*'), [map { "$_=$_" } 1 .. 3], 'as it is');
});
case('I17 DONE while all backends are down', interval => '1s', client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	my $c = selected($x, 'INBOX');
	$c->idle;
	$_->down for values %{ $x->{tap} };
	ok($c->done->ok, 'DONE is answered');
	my $t = $c->begin('NOOP');
	sleep 1;
	$x->{tap}{b}->up;
	ok($c->finish($t)->ok, 'the next command waits');
});

for my $enable ('CONDSTORE', 'QRESYNC') {
	case("I49 ENABLE $enable", client => sub {
		my ($x) = @_;
		fill($x, 'INBOX', 3);
		my $c = selected($x, 'INBOX', enable => $enable);
		$x->kill;
		my ($f) = $c->do('STORE 2 +FLAGS (\Flagged)')->fetches;
		ok($f && $f->{item}{MODSEQ}, 'FETCH has MODSEQ');
		ok($f && $f->{item}{UID}, 'and UID') if $enable eq 'QRESYNC';
		my $m = $f->{item}{MODSEQ}[0];
		other($x, 'INBOX', 'STORE 3 +FLAGS (\Seen)');
		my $r = $c->do("UID FETCH 1:* (FLAGS) (CHANGEDSINCE $m)");
		is_deeply([uniq map { $_->{num} } grep { $_->{item}{MODSEQ} } $r->fetches], [3], 'CHANGEDSINCE') or diag($r->raw);
		if ($enable eq 'QRESYNC') {
			other($x, 'INBOX', 'STORE 1 +FLAGS (\Deleted)', 'EXPUNGE');
			$c->do('NOOP');
			$r = $c->do("UID FETCH 1:* (FLAGS) (CHANGEDSINCE $m VANISHED)");
			is_deeply([map { $_->{args}[-1] } grep { ref $_->{args}[0] } $r->of('VANISHED')], [1], 'VANISHED (EARLIER)') or diag($r->raw);
		}
	});
}
sub highest { return [map { $_->{code} =~ /^HIGHESTMODSEQ (\d+)/ } grep { $_->{code} } @{ $_[0]{untagged} }] }
for my $cmd ('FETCH 1 (MODSEQ)', 'UID FETCH 1 (FLAGS) (CHANGEDSINCE 1)', 'STORE 1 (UNCHANGEDSINCE 99) +FLAGS (\Seen)', 'SEARCH MODSEQ 1', 'STATUS INBOX (HIGHESTMODSEQ)') {
	(my $word) = $cmd =~ /((?:UID )?\w+)/;
	case("I49 mod-sequences are used first by $cmd, no reply", no_reply(qr/(?:UID )?$word [^\r]*(?:MODSEQ|SINCE)/), client => sub {
		my ($x) = @_;
		fill($x, 'INBOX', 3);
		my $c = selected($x, 'INBOX');
		$c->do('STORE 2 +FLAGS (\Flagged)');
		other($x, 'INBOX', 'STORE 3 +FLAGS (\Flagged)');
		$c->do('NOOP');
		my ($m) = other($x, undef, 'STATUS INBOX (HIGHESTMODSEQ)')->raw =~ /HIGHESTMODSEQ (\d+)/;
		my $r = $c->do($cmd);
		is($r->{status}, 'OK', 'OK') or diag($r->{line});
		is_deeply(highest($r), [$m], 'the highest one is told, once') or diag($r->raw);
		is_deeply(highest($c->do($cmd)), [], 'and not again');
		$x->died;
	});
}
case('I49 mod-sequences are used first after a death', client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 3);
	my $c = selected($x, 'INBOX');
	$x->kill;
	other($x, 'INBOX', 'STORE 3 +FLAGS (\Flagged)');
	my ($m) = other($x, undef, 'STATUS INBOX (HIGHESTMODSEQ)')->raw =~ /HIGHESTMODSEQ (\d+)/;
	$c->do('NOOP');
	is_deeply(highest($c->do('FETCH 1 (MODSEQ)')), [$m], 'the change is counted');
});
case('I49 QRESYNC at SELECT', no_reply(qr/SELECT/, keep => 20), client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 4);
	my $c = $x->direct;
	my ($v) = map { $_->{code} =~ /^UIDVALIDITY (\d+)/ } grep { $_->{code} } @{ $c->do('SELECT INBOX')->{untagged} };
	my ($m) = map { $_->{item}{MODSEQ}[0] } $c->do('FETCH 4 (MODSEQ)')->fetches;
	$c->do($_) for 'STORE 3 +FLAGS (\Flagged)', 'STORE 2 +FLAGS (\Deleted)', 'EXPUNGE', 'LOGOUT';
	$c = $x->login;
	$c->do('ENABLE QRESYNC');
	my $r = $c->do("SELECT INBOX (QRESYNC ($v $m 1:4))");
	is_deeply([map { $_->{args}[-1] } $r->of('VANISHED')], [2], 'VANISHED (EARLIER) 2');
	is_deeply([map { "$_->{num}=$_->{item}{UID}" } $r->fetches], ['2=3'], 'and what changed');
	$x->died;
});

case('I55 the same tag again and again', client => sub {
	my ($x) = @_;
	my ($m) = fill($x, 'INBOX', message(400), message(500), message(600));
	my $c = $x->connect;
	my @do = ('LOGIN ' . $x->user . ' secret', 'SELECT INBOX', 'FETCH 1 (UID)', 'NOOP');
	ok($c->do({ tag => 'x' }, $_)->ok, $_) for @do;
	$x->kill;
	my $r = $c->do({ tag => 'x' }, 'FETCH 1 (BODY.PEEK[])');
	is(($r->fetches)[0]{item}{'BODY[]'}, $m, 'FETCH with that tag');
	my @t = map { $c->begin({ tag => 'x' }, $_) } 'FETCH 1 (UID)', 'FETCH 2 (UID)', 'FETCH 3 (UID)';
	is(join(' ', map { $_->{item}{UID} } map { $c->finish($_)->fetches } @t), '1 2 3', 'three under way');
});

for my $in ('idle', 'in IDLE') {
	case("I56 a backend says BYE, $in", client => sub {
		my ($x) = @_;
		return pass('only through the gateway') if $straight;
		fill($x, 'INBOX', 2);
		my $c = selected($x, 'INBOX');
		$c->idle if $in ne 'idle';
		my $h = $x->used;
		my $m = $site->master_pid($h, 'dovecot');
		kill 'TERM', $m;
		for (1 .. 500) { last if !BMR::Site::alive($m); sleep 0.02 }
		like($x->said($h, 's2c'), qr/^\* BYE /m, 'it said so');
		$x->kill('down', $h);
		ok($c->silent(0.3), 'nothing is relayed') if $in eq 'idle';
		fill($x, 'INBOX', 1) if $h ne 'b';
		if ($h eq 'b') { my $d = $x->direct('a'); $d->do('APPEND INBOX ', [message()]) }
		if ($in ne 'idle') {
			ok($c->await(qr/^\* 3 EXISTS/), 'EXISTS in IDLE');
			ok($c->done->ok, 'DONE');
		}
		ok($c->do('NOOP')->ok, 'NOOP');
		is($c->{view}{exists}, 3, 'three');
		is($c->{bye}, undef, 'no BYE');
		$site->start_host($h);
	});
}

my $maildir;
sub maildir { return $maildir //= BMR::Site->new(imap => 1, store => 'maildir') }
case('I57 a lock left in the maildir', site => maildir(), more => qq(timeout {\n hold = "@{[ $ENV{BMR_SOAK} ? 200 : 4 ]}s"\n }), client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	fill($x, 'INBOX', 2);
	my $c = selected($x, 'INBOX');
	my $mail = maildir()->{dir} . '/mail/' . $x->user;
	$x->kill;
	sleep 0.2;
	my ($uid, $gid) = (getpwnam('mail'))[2, 3];
	for my $f ("$mail/dovecot-uidlist.lock", "$mail/new/1795537166.M1P1.x") {
		open(my $h, '>', $f) or die "$f: $!";
		print $h "Subject: by hand\r\n\r\n" if $f =~ /new/;
		close $h;
		chown $uid, $gid, $f;
	}
	local $BMR::Client::patience = 300;
	my $r = $c->do('NOOP');
	my $said = $r->{status} eq 'OK' ? 'OK' : "$r->{status} $r->{code} " . ($c->{bye} // '');
	like($said, $ENV{BMR_SOAK} ? qr/^OK/ : qr/^(?:OK|NO UNAVAILABLE| +\* BYE \[UNAVAILABLE\])/, 'waited for, or an honest refusal');
	unlink "$mail/dovecot-uidlist.lock";
});

case('I58 \Recent', client => sub {
	my ($x) = @_;
	fill($x, 'INBOX', 2);
	my $d = other($x, 'INBOX', 'NOOP');
	fill($x, 'INBOX', 3);
	my $c = selected($x, 'INBOX');
	is($c->{view}{recent}, 3, '3 RECENT');
	$x->kill;
	my $r = $c->do('FETCH 1:* (FLAGS)');
	is_deeply([map { $_->{num} } grep { grep { $_ eq '\Recent' } @{ $_->{item}{FLAGS} } } $r->fetches], [3, 4, 5], 'still \Recent');
	is_deeply([$c->do('SEARCH NEW')->search], [3, 4, 5], 'SEARCH NEW');
	is_deeply([$c->do('SEARCH RECENT')->search], [3, 4, 5], 'SEARCH RECENT');
	is_deeply([$c->do('SEARCH OLD')->search], [1, 2], 'SEARCH OLD');
	is_deeply([$c->do('SEARCH NOT RECENT 2:4')->search], [2], 'SEARCH NOT RECENT');
	$c->do('NOOP');
	is($c->{view}{recent}, 3, 'the count is kept');
	fill($x, 'INBOX', 1);
	$c->do('NOOP');
	is($c->{view}{exists}, 6, 'a new one');
	is($c->{view}{recent}, 4, 'and it is recent too');
});

# Another client expunges, and one appends, after a mailbox is selected and before its UIDs are learned: the answer to that
# brings both. The host dies while the client has not yet heard of it.
sub changed_meanwhile {
	my ($conn, $d) = @_;
	my $once = "$conn->{tap}{dir}/../changed";
	return $d if -d $once || $d !~ /^(?=~\S+ UID SEARCH)/m;
	mkdir $once;
	my ($t, $rest) = ($conn->{tap}, substr($d, $-[0]));
	$t->push_out($conn, 's', substr($d, 0, $-[0]));
	my ($got, $until) = ($conn->{in}{s2c}, time() + 5);
	while ($got !~ /OK \[READ-WRITE\]/ && time() < $until) {
		sysread($conn->{s}, my $more, 65536) or sleep(0.01), next;
		$t->push_out($conn, 'c', $more);
		$got .= $more;
	}
	my ($user) = $conn->{in}{c2s} =~ /LOGIN "?([\w-]+)/;
	my $o = BMR::Imap->new($site->addr('b', 'imap4'), prefix => 'd');
	$o->login($user);
	$o->do('SELECT box');
	$o->do($_)->ok or die $_ for 'STORE 2 +FLAGS.SILENT (\Deleted)', 'EXPUNGE';
	$o->do('APPEND box ', [message()])->ok or die 'APPEND';
	return $rest;
}
case('I7 changed while its UIDs were learned', c2s => \&changed_meanwhile, client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	fill($x, 'box', 5);
	my $c = selected($x, 'box');
	is_deeply(numbers($c, '3:5'), ['3=3', '4=4', '5=5'], 'numbers stand');
	$x->kill;
	other($x, 'box', 'STORE 3 +FLAGS.SILENT (\Deleted)', 'EXPUNGE');
	fill($x, 'box', 1);
	is_deeply(numbers($c, '3,5'), ['3=3', '5=5'], 'and stand when the host has died');
	is(scalar($c->do('NOOP')->of('EXPUNGE')), 2, 'then both are gone');
	is_deeply(numbers($c, '1:*'), ['1=1', '2=3', '3=5', '4=6', '5=7'], 'all is as it is');
});

# A command that lets the other's VANISHED be told is there by then: it is told, and counts, at the same time.
case('I9 QRESYNC, changed while its UIDs were learned', c2s => \&changed_meanwhile, client => sub {
	my ($x) = @_;
	return pass('only through the gateway') if $straight;
	fill($x, 'box', 5);
	my $c = $x->login;
	ok($c->do('ENABLE QRESYNC')->ok, 'ENABLE QRESYNC');
	my @t = map { $c->begin($_) } 'SELECT box', 'UID FETCH 1:* (UID FLAGS)';
	is($c->finish($_)->{status}, 'OK', 'answered') for @t;
	is_deeply(numbers($c, '3:4'), $c->{view}{exists} == 6 ? ['3=3', '4=4'] : ['3=4', '4=5'], 'numbers as they were told');
	ok($c->do('NOOP')->ok, 'NOOP');
	is(scalar(() = $c->{seen} =~ /VANISHED 2\r/g), 1, 'VANISHED, once');
	is_deeply(numbers($c, '1:*'), ['1=1', '2=3', '3=4', '4=5', '5=6'], 'all is as it is');
	$x->kill;
	is_deeply([sort @{ numbers($c, '1:*') }], ['1=1', '2=3', '3=4', '4=5', '5=6'], 'and so at the other host');
});

for my $more (1, 0) {
	case('I7 dead before its UIDs were learned, then changed, ' . ($more ? 'more' : 'fewer') . ' messages', no_reply(qr/SELECT/, keep => sub { length $_[0] }), client => sub {
		my ($x) = @_;
		return pass('only through the gateway') if $straight;
		fill($x, 'box', 5);
		my $c = selected($x, 'box');
		$x->died;
		other($x, 'box', 'STORE 2,3 +FLAGS.SILENT (\Deleted)', 'EXPUNGE');
		fill($x, 'box', 3) if $more;
		my @now = $more ? (1, 4 .. 8) : (1, 4, 5);
		is($c->do('FETCH 1 (UID)')->{status}, 'OK', 'the session goes on');
		ok($c->do('NOOP')->ok, 'NOOP');
		is($c->{view}{exists}, scalar(@now), 'so many messages');
		is_deeply(numbers($c, '1:*'), [map { ($_ + 1) . "=$now[$_]" } 0 .. $#now], 'those that there are');
	});
}

$site->stop;
$maildir->stop if $maildir;
done_testing();
