#!/usr/bin/perl
# Listening sockets and protocols over reloads: who serves an address follows the file, also for a listener that dies later.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep time);
use BMR::Client;
use BMR::Gateway;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new;
my %pop3 = (backends => { a => $site->addr('a', 'pop3') });
my %imap4 = (backends => { a => $site->addr('a', 'imap') });
my $gw = BMR::Gateway->new(net => $site->{net}, services => { pop3 => {%pop3}, imap4 => {%imap4} });
$gw->ready;
my $version = 1;

# The services in this order, and what is done to the text.
sub reload {
	my ($change, $fails, %services) = @_;
	$gw->write_conf(%services) if %services;
	my $file = "$gw->{dir}/bmr.conf";
	open(my $f, '<', $file) or die;
	my $text = do { local $/; <$f> };
	close $f;
	$text = $change->($text);
	open($f, '>', $file) or die;
	print $f $text;
	close $f;
	my $r = $gw->bmr('reload');
	return if $fails;
	$version++;
	is($r->{configuration_version}, $version, "version $version is in use") or diag(explain($r));
	return;
}

# Who comes while the address changes hands may be sent away by him who had it; nobody is left without a word.
sub greets {
	my ($port, $re, $what) = @_;
	my $line = '';
	for (1 .. 20) {
		eval {
			local $SIG{ALRM} = sub { die "silent\n" };
			alarm 10;
			$line = BMR::Client->new("$gw->{ip}:$port")->line;
		};
		alarm 0;
		last if $@ || $line =~ $re;
		sleep 0.2;
	}
	like($line // '', $re, $what);
	return;
}

sub refused {
	my ($port, $what) = @_;
	ok(!IO::Socket::INET->new(PeerAddr => $gw->{ip}, PeerPort => $port, Timeout => 2), $what);
	return;
}

sub same { return $_[0] }

my $and_pop3 = sub { my ($t) = @_; $t =~ s/(listen = \{)("[\d.]+:)(10110")/$1${2}10111", $2$3/; return $t };
reload($and_pop3, 0);
greets(10111, qr/^\+OK /, 'an address before another one is served');
kill 'KILL', $gw->pids(qr/^bmr: pop3\/listener/);
sleep 0.5;
greets($_, qr/^\+OK /, "and $_ by a successor of the listener") for 10110, 10111;

reload(\&same, 0, pop => { protocol => 'pop3', port => 10110, %pop3 }, imap4 => {%imap4});
greets(10110, qr/^\+OK /, 'a service of another name serves its address');
refused(10111, 'the one that is gone is closed');
kill 'KILL', $gw->pids(qr/^bmr: pop3\/listener/);
sleep 0.5;
greets(10110, qr/^\+OK /, 'and so does a successor');

reload(\&same, 0, pop => { protocol => 'imap4', port => 10110, %imap4 }, imap4 => { protocol => 'pop3', port => 10143, %pop3 });
greets(10110, qr/^\* OK /, 'a service of another protocol serves its address');
greets(10143, qr/^\+OK /, 'and the other way round');

my $taken = IO::Socket::INET->new(LocalAddr => $gw->{ip}, LocalPort => 10113, Listen => 1, ReuseAddr => 1) or die;
my %both = (pop3 => {%pop3}, imap4 => {%imap4});
my $and_two = sub { my ($t) = @_; $t =~ s/(listen = \{)("[\d.]+:)(10110")/$1${2}10112", ${2}10113", $2$3/; return $t };
reload($and_two, 1, %both);
is($gw->{code}, 78, 'an address that is taken: the file is not taken');
refused(10112, 'and the one before it is not left open');
$taken->close;
reload(\&same, 0);
greets($_, qr/^\+OK /, "with it free, $_ is served") for 10112, 10113, 10110;

my $swap = sub { my ($t) = @_; my ($head, @s) = split /^(?=service )/m, $t; return join('', $head, reverse @s) };
reload($swap, 0, %both);
greets(10110, qr/^\+OK /, 'services in another order: POP3');
greets(10143, qr/^\* OK /, 'and IMAP4');
my $gone = BMR::Client->new($gw->addr('imap4'));
$gone->line;
reload(\&same, 0, pop3 => {%pop3});
like($gone->line, qr/^\* BYE /, 'a protocol that no service has any more: its session is told');
refused(10143, 'and its address is closed');
reload(\&same, 0, %both);
greets(10143, qr/^\* OK /, 'it is served again when one has it');
$gw->write_conf(%both, smtp => { backends => { a => "$site->{net}.99:1" } });
$gw->bmr('reload');
is($gw->{code}, 78, 'a protocol that no service had needs a restart');
$gw->stop;
is($gw->{status}, 0, 'stopped in good order');
$site->stop;
done_testing();
