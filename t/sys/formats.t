#!/usr/bin/perl
# Sessions move between the images of two releases, of which the newer has another format of state, in both directions; what
# the newer writes the older can read as long as it is told so (invariant J4).
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Temp qw(tempdir);
use File::Path qw(remove_tree);
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my %image = (1 => "$BMR::Gateway::build/bin/bmr-pop3", 2 => "$BMR::Gateway::build/t/lib/next/bmr-pop3");
plan skip_all => 'the other image is not built: make check does' if !-x $image{2};
my $site = BMR::Site->new;
my $n = 0;

sub message {
	my ($size) = @_;
	my $m = "Subject: format\r\nMessage-ID: <f" . ++$n . ".$$\@test>\r\nFrom: x\@site.test\r\nDate: Tue, 24 Nov 2026 00:00:00 +0000\r\n\r\n";
	my $line = 0;
	$m .= sprintf("%06d the quick brown fox jumps over the lazy dog\r\n", $line++) while length $m < ($size // 300);
	return $m . "last line\r\n";
}

# A directory of images in which bmr-pop3 is that of a release.
my $bin = tempdir('bmr-bin-XXXXXX', TMPDIR => 1, CLEANUP => 0);
chmod 0755, $bin;
symlink $_, "$bin/" . s/.*\///r for glob "$BMR::Gateway::build/bin/*";
sub release {
	my ($format) = @_;
	unlink "$bin/new";
	symlink $image{$format}, "$bin/new" and rename "$bin/new", "$bin/bmr-pop3" or die "link: $!";
	return;
}

my $gw;
sub gateway {
	my ($top) = @_;
	$gw = BMR::Gateway->new(net => $site->{net}, bin => $bin, top => $top, services => services());
	$gw->ready;
	return;
}
sub services { return { pop3 => { backends => { map { $_ => $site->addr($_, 'pop3') } 'a', 'b' }, more => qq(timeout {\n park = "10m"\n }) } } }
sub who { return @{ $gw->bmr('who')->{sessions} // [] } }

# The format in which a process writes, 0: it has no journal yet.
sub format_of {
	my ($pid) = @_;
	my ($j) = grep { (readlink($_) // '') =~ /bmr-journal/ } glob("/proc/$pid/fd/*");
	open(my $f, '<', $j // return 0) or return 0;
	my $head = "";
	return sysread($f, $head, 12) == 12 ? unpack('x10 S', $head) : 0;
}

# All processes of sessions are of this image and write this format.
sub settled {
	my ($image, $format, $count) = @_;
	my $until = time() + 60;
	my $all;
	while (time() < $until) {
		my @w = who();
		$all = join ' ', sort map { "$_->{state}:" . (($_->{pid} && (readlink("/proc/$_->{pid}/exe") // '') eq $image{$image}) ? $image : '?') . ':' .
		    format_of($_->{pid}) } @w;
		last if $all eq join ' ', ("active:$image:$format") x $count;
		sleep 0.1;
	}
	is($all, join(' ', ("active:$image:$format") x $count), "in processes of image $image, written in format $format");
	return;
}

sub move { $gw->bmr('session', 'move', '--zygote', 'all'); is($gw->{code}, 0, 'moves'); return }

# Three sessions: before the login, in it with a deletion, inside a body.
my @m;
sub begin {
	my $u = 'f' . ++$n;
	my %s = (user => $u);
	@m = (message(), message(20_000_000), message(), message());
	$site->deliver($u, @m);
	$s{$_} = BMR::Client->new($gw->addr('pop3'), rcvbuf => 65536) for 'new', 'idle', 'busy';
	like($_->line, qr/^\+OK/, 'greeting') for @s{'new', 'idle', 'busy'};
	like($s{new}->cmd("USER $u"), qr/^\+OK/, 'USER');
	for my $c (@s{'idle', 'busy'}) {
		$c->cmd("USER $u");
		like($c->cmd('PASS secret'), qr/^\+OK/, 'PASS');
		like($c->cmd('DELE 3'), qr/^\+OK/, 'DELE');
	}
	$s{busy}->send("RETR 2\r\n");
	$s{busy}->line for 1 .. 10;
	return \%s;
}

# What each of them must still know.
sub probe {
	my ($s) = @_;
	like($s->{idle}->cmd('STAT'), qr/^\+OK 3 /, 'STAT');
	like($s->{idle}->cmd('DELE 3'), qr/^-ERR/, 'marked before');
	like($s->{idle}->cmd('RETR 4'), qr/^\+OK/, 'RETR');
	my $b = $s->{idle}->body // '';
	ok(substr($b, -length $m[3]) eq $m[3], 'whole');
	return;
}
sub body {
	my ($s) = @_;
	my $rest = $s->{busy}->body // '';
	ok(length $rest > length($m[1]) - 2000 && substr($m[1], -length $rest) eq $rest, 'the rest of the body is whole');
	return;
}
sub finish {
	my ($s) = @_;
	like($s->{new}->cmd('PASS secret'), qr/^\+OK/, 'PASS, whose USER another release took');
	like($s->{new}->cmd('STAT'), qr/^\+OK 4 /, 'STAT');
	is($s->{busy}->cmd('RSET') =~ /^\+OK/ ? $s->{busy}->cmd('QUIT') : '', "+OK bye\r\n", 'RSET, QUIT');
	is($s->{$_}->cmd('QUIT'), "+OK bye\r\n", 'QUIT') for 'new', 'idle';
	is(scalar $site->messages($s->{user}), 3, 'one is deleted');
	return;
}

subtest 'the listener is of the older release' => sub {
	release(1);
	gateway('');
	my $s = begin();
	settled(1, 1, 3);
	release(2);
	move();
	body($s);		# the busy one moves when it is done
	settled(2, 1, 3);
	probe($s);
	kill 'KILL', map { $_->{pid} } who();
	probe($s);
	settled(2, 1, 3);
	release(1);
	move();
	settled(1, 1, 3);
	probe($s);
	finish($s);
	$gw->stop;
	is_deeply($gw->{left}, [], 'no process is left');
};

subtest 'an upgrade that is undone, then made permanent' => sub {
	release(2);
	gateway(qq(journal-format = "previous"\n));
	my $s = begin();
	settled(2, 1, 3);
	release(1);
	move();
	body($s);
	settled(1, 1, 3);
	probe($s);
	release(2);
	move();
	settled(2, 1, 3);
	$gw->{o}{top} = '';
	$gw->write_conf(%{ services() });
	$gw->mark;
	$gw->hup;
	ok($gw->wait_log(qr/configuration/), 'now it is permanent');
	move();
	settled(2, 2, 3);
	probe($s);
	kill 'KILL', map { $_->{pid} } who();
	probe($s);
	settled(2, 2, 3);
	finish($s);
	$gw->stop;
	is_deeply($gw->{left}, [], 'no process is left');
};

remove_tree($bin);
done_testing();
