package BMR::Client;
# A strict client of line protocols: every read has a deadline, every octet that came is kept in {seen}.
use strict;
use warnings;
use IO::Select;
use IO::Socket::IP;
use Time::HiRes qw(time sleep);
use Socket qw(SOL_SOCKET SO_RCVBUF);

our $patience = $ENV{BMR_PATIENCE} // 60;

sub new {
	my ($class, $addr, %o) = @_;
	my ($host, $port) = $addr =~ /^\[?(.*?)\]?:(\d+)$/ or die "address $addr";
	my $sock = IO::Socket::IP->new(PeerHost => $host, PeerPort => $port, Timeout => 10,
		$o{from} ? (LocalHost => $o{from}) : ()) or die "connect $addr: $@\n";
	setsockopt($sock, SOL_SOCKET, SO_RCVBUF, $o{rcvbuf}) if $o{rcvbuf};
	my $c = bless { sock => $sock, buf => '', seen => '', eof => 0 }, $class;
	$c->begin_tls($o{tls}) if $o{tls};	# { mode => implicit|starttls, ca => file }
	return $c;
}

# TLS from the first octet, or after the protocol's own command; the greeting can be read all the same.
sub begin_tls {
	my ($c, $how) = @_;
	return $c->secure(%$how) if $how->{mode} eq 'implicit';
	my $greeting = $c->line;
	if ($greeting =~ /^220/) {
		$c->smtp('EHLO starttls.test');
		$c->smtp('STARTTLS') =~ /^220 / or die "STARTTLS: $c->{seen}\n";
	} elsif ($greeting =~ /^\+OK/) {
		$c->cmd('STLS') =~ /^\+OK/ or die "STLS: $c->{seen}\n";
	} else {
		$c->cmd('tls STARTTLS') =~ /^tls OK/i or die "STARTTLS: $c->{seen}\n";
	}
	$c->secure(%$how);
	$c->{buf} = $greeting;
	$c->{seen} = $greeting;
	return;
}

# The handshake; dies when it fails. ca, name, and whatever else IO::Socket::SSL takes.
sub secure {
	my ($c, %o) = @_;
	require IO::Socket::SSL;
	my %args = (SSL_hostname => $o{name} // 'gw.test', SSL_verifycn_name => $o{name} // 'gw.test', SSL_verifycn_scheme => 'smtp',
		$o{ca} ? (SSL_ca_file => $o{ca}) : (SSL_verify_mode => 0), %{ $o{ssl} // {} });
	local $SIG{ALRM} = sub { die "handshake: nothing came in time\n" };
	alarm 20;
	my $good = IO::Socket::SSL->start_SSL($c->{sock}, %args);
	alarm 0;
	die "handshake: $IO::Socket::SSL::SSL_ERROR\n" if !$good;
	$c->{ssl} = 1;
	return;
}

sub pending { my ($c) = @_; return $c->{ssl} && $c->{sock}->pending }

sub send {
	my ($c, $data) = @_;
	my $off = 0;
	my $until = time() + $patience;
	local $SIG{PIPE} = 'IGNORE';
	my $sel = IO::Select->new($c->{sock});
	while ($off < length $data) {
		die "send: no progress\n" if time() > $until;
		next if !$sel->can_write(1);
		my $n = syswrite($c->{sock}, $data, 65536, $off);
		return 0 if !defined $n;
		$off += $n;
		$until = time() + $patience;
	}
	return 1;
}

# Reads once; false at the end of the stream.
sub fill {
	my ($c, $seconds) = @_;
	return 0 if $c->{eof};
	$c->pending || IO::Select->new($c->{sock})->can_read($seconds // $patience) or die "nothing came in time, last: "
	    . substr($c->{seen}, -200) . "\n";
	my $n = sysread($c->{sock}, my $data, 65536);
	return 1 if !defined $n && $c->{ssl} && $!{EAGAIN};	# a record that is no data: a session ticket
	if (!$n) {
		$c->{eof} = 1;
		$c->{reset} = 1 if !defined $n;
		return 0;
	}
	$c->{buf} .= $data;
	$c->{seen} .= $data;
	return 1;
}

# One line with its end; '' at the end of the stream. What an IMAP client is told that it should know the server alive comes at
# moments of the clock, between any two lines, and is passed over.
sub line {
	my ($c) = @_;
	while (1) {
		my $nl;
		while (($nl = index($c->{buf}, "\n")) < 0) {
			return '' if !$c->fill;
		}
		my $l = substr($c->{buf}, 0, $nl + 1, '');
		$l =~ /\r\n\z/ or die "line without CRLF: $l";
		return $l if $l ne "* OK Still here\r\n";
	}
}

sub cmd {
	my ($c, $cmd) = @_;
	$c->send("$cmd\r\n");
	return $c->line;
}

# A multi-line POP3 answer, dot-unstuffed.
sub body {
	my ($c) = @_;
	my $b = '';
	while ((my $l = $c->line) ne ".\r\n") {
		return if $l eq '';
		$l =~ s/^\.//;
		$b .= $l;
	}
	return $b;
}

# An SMTP reply of all its lines.
sub reply {
	my ($c) = @_;
	my $r = '';
	while (1) {
		my $l = $c->line;
		return $r if $l eq '';
		$l =~ /^([2-5]\d\d)([ -])/ or die "no SMTP reply: $l";
		die "code changes in a reply: $r$l" if $r ne '' && substr($r, 0, 3) ne $1;
		$r .= $l;
		return $r if $2 eq ' ';
	}
}

sub smtp {
	my ($c, $cmd) = @_;
	$c->send("$cmd\r\n");
	return $c->reply;
}

# SMTP from EHLO to QUIT with one message; dies at the first reply that is not as it should be, and of anything behind.
sub whole_message {
	my ($c, $to, $message) = @_;
	my $said = sub { my ($re, $r) = @_; $r =~ $re or die "it says $r\n" };
	$said->(qr/^250/, $c->smtp('EHLO client.test'));
	$said->(qr/^250/, $c->smtp('MAIL FROM:<x@site.test>'));
	$said->(qr/^250/, $c->smtp("RCPT TO:<$to>"));
	$said->(qr/^354/, $c->smtp('DATA'));
	$c->send("$message.\r\n");
	$said->(qr/^250/, $c->reply);
	$said->(qr/^221/, $c->smtp('QUIT'));
	die "more than expected\n" if $c->rest ne '';
	return;
}

# Everything up to the end of the stream.
sub rest {
	my ($c) = @_;
	1 while $c->fill;
	my $r = $c->{buf};
	$c->{buf} = '';
	return $r;
}

# Nothing comes within this time; the word of line above does not count.
sub silent {
	my ($c, $seconds) = @_;
	my $until = time() + $seconds;
	while ($c->{buf} eq '' && ($c->pending || IO::Select->new($c->{sock})->can_read($seconds > 0 ? $seconds : 0))) {
		return 0 if !$c->fill;
		$c->{buf} =~ s/\A\* OK Still here\r\n//;
		$seconds = $until - time();
	}
	return $c->{buf} eq '';
}

sub close { my ($c) = @_; close($c->{sock}); return }

1;
