#!/usr/bin/perl
# What ends no session: their processes killed in each phase, every worker killed among live sessions, frozen backends, a full disk.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(smtp => 1);
my $gw = BMR::Gateway->new(net => $site->{net}, services => {
	smtp => { backends => { map { $_ => $site->addr($_, 'smtp') } 'a', 'b' },
		more => qq(timeout {\n command = "2s"\n bulk = "2s"\n end-of-data = "5s"\n data-init = "2s"\n }\n limit {\n spool-memory = "64k"\n }) },
	pop3 => { backends => { map { $_ => $site->addr($_, 'pop3') } 'a', 'b' },
		more => qq(timeout {\n command = "2s"\n bulk = "2s"\n login = "2s"\n }) } });
$gw->ready;

sub smtp_at {		# a session in this phase
	my ($phase, $user) = @_;
	my $c = BMR::Client->new($gw->addr('smtp'));
	$c->reply;
	return $c if $phase eq 'greeted';
	$c->smtp('EHLO f.test');
	return $c if $phase eq 'ehlo';
	like($c->smtp('MAIL FROM:<x@site.test>'), qr/^250/, 'MAIL');
	return $c if $phase eq 'mail';
	like($c->smtp("RCPT TO:<$user\@site.test>"), qr/^250/, 'RCPT');
	return $c if $phase eq 'rcpt';
	like($c->smtp('DATA'), qr/^354/, 'DATA');
	return $c if $phase eq 'data';
	$c->send("Subject: $user\r\nMessage-ID: <$user\@f>\r\n\r\n" . 'x' x 70 . "\r\n" x 10);
	return $c;
}

sub smtp_finish {
	my ($c, $phase, $user) = @_;
	my @todo = qw(greeted ehlo mail rcpt data content);
	shift @todo while $todo[0] ne $phase;
	for my $p (@todo) {
		$c->smtp('EHLO f.test') if $p eq 'greeted';
		like($c->smtp('MAIL FROM:<x@site.test>'), qr/^250/, 'MAIL') if $p eq 'ehlo';
		like($c->smtp("RCPT TO:<$user\@site.test>"), qr/^250/, 'RCPT') if $p eq 'mail';
		like($c->smtp('DATA'), qr/^354/, 'DATA') if $p eq 'rcpt';
		$c->send("Subject: $user\r\nMessage-ID: <$user\@f>\r\n\r\n") if $p eq 'data';
	}
	$c->send("end\r\n.\r\n");
	like($c->reply, qr/^250/, "the session in $phase goes on to its end");
	like($c->smtp('QUIT'), qr/^221/, 'QUIT');
	return;
}

sub pid_of {		# the session process of this client
	my ($c, $proto) = @_;
	my $port = $c->{sock}->sockport;
	for (1 .. 40) {
		for my $s (@{ $gw->bmr('who')->{sessions} // [] }) {
			return $s->{pid} if $s->{service} eq $proto && $s->{client_port} == $port;
		}
		sleep 0.05;
	}
	die "no such session\n";
}

my @phases = qw(greeted ehlo mail rcpt data content);
for my $phase (@phases) {
	my $other = smtp_at('rcpt', "other$phase");
	my $c = smtp_at($phase, "killed$phase");
	kill 'KILL', pid_of($c, 'smtp');
	smtp_finish($other, 'rcpt', "other$phase");
	smtp_finish($c, $phase, "killed$phase");
}
$site->flush;
is(scalar(() = $site->messages("killed$_")), 1, "killed in $_: the message is there once") for @phases;
is(scalar(() = $site->messages("other$_")), 1, "the other session's message is there once ($_)") for @phases;

# every worker of the gateway, one after the other, among live sessions
$site->deliver('alice', "Subject: one\r\n\r\n" . ("y" x 70 . "\r\n") x 100);
for my $worker ('balancer', 'admin', 'smtp/zygote', 'pop3/zygote') {
	my %c = map { $_ => smtp_at($_, "w$_") } 'mail', 'data';
	my $p = BMR::Client->new($gw->addr('pop3'));
	$p->line;
	$p->cmd('USER alice');
	like($p->cmd('PASS secret'), qr/^\+OK/, 'POP3 login');
	my ($node) = grep { $_->{id} eq $worker } @{ $gw->bmr('tree')->{tree} };
	$gw->mark;
	kill 'KILL', $node->{pid};
	ok($gw->wait_log(qr/child_terminated.*child \Q$worker\E /), "$worker killed: reported") or diag(substr($gw->log, $gw->{mark}));
	for (1 .. 100) {
		my ($now) = grep { $_->{id} eq $worker } @{ $gw->bmr('tree')->{tree} // [] };
		last if $now && $now->{state} eq 'up' && $now->{pid} != $node->{pid};
		sleep 0.05;
	}
	my ($now) = grep { $_->{id} eq $worker } @{ $gw->bmr('tree')->{tree} // [] };
	isnt($now->{pid}, $node->{pid}, "$worker is there again");
	cmp_ok($now->{restarts}, '>=', 1, 'its restart is counted');
	smtp_finish($c{$_}, $_, "w$_") for sort keys %c;
	like($p->cmd('RETR 1'), qr/^\+OK/, 'POP3 goes on');
	ok($p->body =~ /yyyy\r\n\z/, 'to the end');
	$p->cmd('QUIT');
	smtp_finish(smtp_at('greeted', 'after'), 'greeted', 'after');
}

# a listener: what waits in the backlog is not lost
{
	my ($node) = grep { $_->{id} eq 'smtp/listener' } @{ $gw->bmr('tree')->{tree} };
	kill 'STOP', $node->{pid};
	my @waiting = map { IO::Socket::IP->new(PeerAddr => $gw->{ip}, PeerPort => $gw->{port}{smtp}, Timeout => 5) } 1 .. 10;
	is(scalar(grep { $_ } @waiting), 10, 'ten connect while the listener is frozen');
	kill 'KILL', $node->{pid};
	my $greeted = 0;
	for my $s (@waiting) {
		my $c = bless { sock => $s, buf => '', seen => '', eof => 0 }, 'BMR::Client';
		$greeted++ if $c->reply =~ /^220/;
		$c->smtp('QUIT');
	}
	is($greeted, 10, 'and all are greeted by its successor');
}

# a host that freezes is no different from a dead one
for my $phase ('mail', 'rcpt', 'data') {
	my $c = smtp_at($phase, "freeze$phase");
	my ($s) = grep { $_->{client_port} == $c->{sock}->sockport } @{ $gw->bmr('who')->{sessions} };
	my @frozen = $site->pids($s->{backend}, 'smtpd');
	kill 'STOP', @frozen;
	smtp_finish($c, $phase, "freeze$phase");
	kill 'KILL', @frozen;
	$gw->wait_up("smtp/$s->{backend}", 20);
}
$site->flush;
is(scalar(() = $site->messages("freeze$_")), 1, "frozen in $_: the message is there once") for 'mail', 'rcpt', 'data';

# drain: no new sessions, idle ones move, a session in a transaction at its end
{
	my $idle = smtp_at('mail', 'drain');
	like($idle->smtp('RSET'), qr/^250/, 'RSET');
	my $busy = smtp_at('rcpt', 'drain');
	$gw->bmr('backend', 'drain', 'smtp/a', '--reason', 'test');
	is($gw->{code}, 0, 'drain');
	smtp_finish($busy, 'rcpt', 'drain');
	smtp_finish($idle, 'ehlo', 'drain');
	smtp_finish(smtp_at('greeted', 'drain'), 'greeted', 'drain') for 1 .. 3;
	my $empty = 0;
	for (1 .. 100) {
		my ($a) = grep { $_->{service} eq 'smtp' && $_->{name} eq 'a' } @{ $gw->bmr('backend', 'list')->{backends} };
		ok($a->{drained}, 'drained is shown') if $_ == 1;
		last if $empty = $a->{sessions} == 0;
		sleep 0.05;
	}
	ok($empty, 'the drained backend gets empty');
	$gw->bmr('backend', 'ready', 'smtp/a');
	is($gw->{code}, 0, 'ready');
	$gw->bmr('backend', 'drain', 'smtp/none');
	is($gw->{code}, 65, 'no such backend: 65');
}

# kick
{
	my $c = smtp_at('rcpt', 'kick');
	my ($s) = grep { $_->{client_port} == $c->{sock}->sockport } @{ $gw->bmr('who')->{sessions} };
	$gw->bmr('kick', $s->{session}, '--reason', 'test');
	is($gw->{code}, 0, 'kick');
	like($c->reply, qr/^421 /, 'the kicked one is told');
	is($c->rest, '', 'and gone');
}
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left after the stop');
is($gw->{status}, 0, 'exit 0');

SKIP: {
	skip 'no tmpfs', 6 if system("mount -t tmpfs -o size=2m none $site->{dir}/mail/../full 2>/dev/null") && !do {
		mkdir "$site->{dir}/full";
		system("mount -t tmpfs -o size=2m none $site->{dir}/full 2>/dev/null") == 0;
	};
	my $full = BMR::Gateway->new(net => $site->{net}, state => "$site->{dir}/full", services => { smtp => {
		backends => { map { $_ => $site->addr($_, 'smtp') } 'a', 'b' }, more => qq(limit {\n spool-memory = "64k"\n }) } });
	$full->ready;
	my $c = BMR::Client->new($full->addr('smtp'));
	$c->reply;
	for my $size (10_000_000, 1_000_000) {
		$c->smtp($_) for 'EHLO x', 'MAIL FROM:<x@site.test>', 'RCPT TO:<full@site.test>', 'DATA';
		$c->send("Subject: full$size\r\n\r\n" . ("z" x 76 . "\r\n") x ($size / 78) . ".\r\n");
		like($c->reply, $size > 2_000_000 ? qr/^452 4\.3\.1 / : qr/^250 /, "a spool of 2 MB and a message of $size");
	}
	my ($free) = `df -k $site->{dir}/full` =~ /(\d+)\s+\d+%/;
	cmp_ok($free, '>', 1900, 'the space is given back');
	$c->smtp('QUIT');
	$full->stop;
	system("umount $site->{dir}/full");
	$site->flush;
	is(scalar(() = $site->messages('full')), 1, 'the one that was accepted is there once');
}
$site->stop;
done_testing();
