package BMR::Cut;
# Rules for BMR::Tap that kill a host at a point of an IMAP dialogue, to the octet. Each is a pair for run_case; the first
# host that comes to the point dies, and the other one is let through.
#
#	not_sent(qr/STORE/)		it dies before it gets what matches
#	not_sent(qr/.../, at => n)	n octets behind the beginning of the match, or 'end'
#	no_reply(qr/STORE/)		it does the command whose line, behind its tag, begins so; nothing of the reply comes out
#	no_reply(qr/.../, keep => k)	so many octets come out (negative: all but so many), or up to the end of a match,
#					'untagged', or what a sub says of the whole reply
#	killed($site, qr/...\r\n/, ms)	its processes die so long after they were handed what matches
# how => 'mute': it falls silent there instead; 'rst': a reset instead of an end.
use strict;
use warnings;
use Exporter 'import';
use Time::HiRes qw(sleep);

our @EXPORT_OK = qw(not_sent no_reply killed fired);

# Whether any host has died in this case.
sub fired { my ($conn) = @_; return -e "$conn->{tap}{dir}/../fired" }

sub not_sent {
	my ($re, %o) = @_;
	return (c2s => sub {
		my ($conn, $d) = @_;
		my $had = length $conn->{in}{c2s};
		return $d if fired($conn) || "$conn->{in}{c2s}$d" !~ $re;
		my $at = ($o{at} // 0) eq 'end' ? $+[0] : $-[0] + ($o{at} // 0);
		return $d if $at > $had + length $d;
		return $d if !$conn->{tap}->fire($conn, $o{how} // 'fin');
		return $at > $had ? substr($d, 0, $at - $had) : '';
	});
}

sub kept {
	my ($keep, $reply, $tag) = @_;
	return $keep->($reply) if ref $keep eq 'CODE';
	if (ref $keep) {
		$reply =~ $keep or die "the reply has no $keep\n";
		return $+[0];
	}
	if ($keep eq 'untagged') {
		$reply =~ /^\Q$tag\E /m or die "no tagged line\n";
		return $-[0];
	}
	return $keep < 0 ? length($reply) + $keep : $keep;
}

sub no_reply {
	my ($re, %o) = @_;
	return (s2c => sub {
		my ($conn, $d) = @_;
		return $d if fired($conn);
		if (!defined $conn->{held}) {
			return $d if $conn->{in}{c2s} !~ /^(\S+) (?:$re)/m;
			@$conn{qw(held tag)} = ('', $1);
		}
		$conn->{held} .= $d;
		my $go = '';	# what asks for a literal has to come out
		$go .= $1 while $conn->{held} =~ s/\A(\+[^\n]*\n)//;
		return $go if $conn->{held} !~ /^\Q$conn->{tag}\E (?:OK|NO|BAD)[^\n]*\n/m;
		my $all = $conn->{held};
		my $n = kept($o{keep} // 0, substr($all, 0, $+[0]), $conn->{tag});
		return $conn->{tap}->fire($conn, $o{how} // 'fin') ? substr($all, 0, $n) : $all;
	});
}

# What the server said in its last moments still comes out, as from a host that died a little later.
sub killed {
	my ($site, $re, $delay) = @_;
	return (c2s => sub {
		my ($conn, $d) = @_;
		my $t = $conn->{tap};
		return $d if fired($conn) || "$conn->{in}{c2s}$d" !~ $re || !$t->fire($conn, 'fin');
		my $ms = ref $delay ? $delay->() : $delay;
		$t->push_out($conn, 's', $d);
		$t->keep($conn, 'c2s', $d);
		sleep($ms / 1000);
		$site->kill_host($t->{host});
		while (sysread($conn->{s}, my $last, 65536)) {
			$t->keep($conn, 's2c', $last);
			$t->push_out($conn, 'c', $last);
		}
		return '';
	});
}

1;
