#!/usr/bin/perl
# A user whose command ends every server that gets it: he hears so, and the hosts stay up for all others.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Temp qw(tempdir);
use Test::More;
use BMR::Gateway;
use BMR::Imap;
use BMR::Site;
use BMR::Tap;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new;
my $dir = tempdir('bmr-poison-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my ($port, %tap) = 12000;
for my $h ('a', 'b') {
	mkdir "$dir/$h";
	$tap{$h} = BMR::Tap->new(host => $h, dir => "$dir/$h", listen => "$site->{net}.5:" . ++$port, to => $site->addr($h, 'imap4'), on_c2s => sub {
		my ($conn, $data) = @_;
		return $data if $data !~ /poison/;
		$conn->{cut_after} = "rst";
		return "";
	});
}
my $gw = BMR::Gateway->new(net => $site->{net}, services => { imap4 => { backends => { map { $_ => $tap{$_}{listen} } keys %tap },
	health => 'interval = "600s"' } });
$gw->ready;
sub selected {
	my ($user) = @_;
	my $c = BMR::Imap->new($gw->addr('imap4'));
	ok($c->login($user)->ok && $c->do('SELECT INBOX')->ok, "$user is at work");
	return $c;
}
$_->arm for values %tap;
my @good = map { selected("good$_") } 1 .. 4;
my @bad = map { selected('bad') } 1 .. 8;
$gw->mark;
my @t = map { $_->begin('SEARCH SUBJECT poison') } @bad;
for my $i (0 .. $#bad) {
	my $r = $bad[$i]->finish($t[$i]);
	like($r->{line}, qr/^\S+ NO \[UNAVAILABLE\]/, 'it cannot be done, and that is said');
	ok($bad[$i]->do('NOOP')->ok, 'his session goes on');
}
unlike(substr($gw->log, $gw->{mark}), qr/is down/, 'no host was held for dead');
ok($_->do('NOOP')->ok, 'others saw nothing') for @good;
selected('late');
$gw->stop;
$_->stop for values %tap;
$site->stop;
done_testing();
