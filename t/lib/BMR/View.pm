package BMR::View;
# What a client may believe of the selected mailbox, and the rules that a server must keep towards it (RFC 3501 and
# 9051 sections 5.2, 5.5, 7.4 and 7.5; RFC 7162 section 3.2.10). A broken rule dies: it fails the test that reads on.
use strict;
use warnings;

sub new { my ($class) = @_; return bless { exists => 0, uid => [], qresync => 0, flags => {} }, $class }

# A mailbox is being selected, or none is any more.
sub reset_to { my ($v, $selected) = @_; @$v{qw(selected exists uid flags)} = ($selected, 0, [], {}); return }

sub none_after { my ($v, $why) = @_; die "view: $why\n" }

sub exists_ {
	my ($v, $n) = @_;
	die "view: EXISTS shrinks from $v->{exists} to $n\n" if $n < $v->{exists};
	$v->{exists} = $n;
	$#{ $v->{uid} } = $n - 1;
	return;
}

sub gone {
	my ($v, $seq) = @_;
	my ($uid) = splice(@{ $v->{uid} }, $seq - 1, 1);
	delete $v->{flags}{$uid} if defined $uid;
	$v->{exists}--;
	return;
}

# may: whether a command is in progress during which a number may be taken away.
sub expunge {
	my ($v, $seq, $may) = @_;
	die "view: EXPUNGE $seq of $v->{exists}\n" if $seq < 1 || $seq > $v->{exists};
	die "view: EXPUNGE $seq where none may be sent\n" if !$may;
	die "view: EXPUNGE to a client that enabled QRESYNC\n" if $v->{qresync};
	$v->gone($seq);
	return;
}

sub set {
	my ($text) = @_;
	return map { /^(\d+):(\d+)$/ ? ($1 <= $2 ? $1 .. $2 : $2 .. $1) : $_ } split /,/, $text;
}

sub vanished {
	my ($v, $uids, $earlier, $may) = @_;
	die "view: VANISHED to a client that did not enable QRESYNC\n" if !$v->{qresync};
	return if $earlier;
	die "view: VANISHED $uids where none may be sent\n" if !$may;
	my %gone = map { $_ => 1 } set($uids);
	my $unknown = 0;
	for my $i (reverse 0 .. $#{ $v->{uid} }) {
		my $u = $v->{uid}[$i];
		if (!defined $u) {
			$unknown++;
		} elsif (delete $gone{$u}) {
			$v->gone($i + 1);
		}
	}
	# of the others it is only known that there are fewer now
	die "view: VANISHED of more than there are\n" if %gone > $unknown;
	if (%gone) {
		my @known = grep { defined } @{ $v->{uid} };
		$v->{exists} -= %gone;
		$v->{uid} = [@known == $v->{exists} ? @known : (undef) x $v->{exists}];
	}
	return;
}

sub fetch {
	my ($v, $seq, $item) = @_;
	die "view: FETCH $seq of $v->{exists}\n" if $seq < 1 || $seq > $v->{exists};
	my $uid = $item->{UID};
	my $had = $v->{uid}[ $seq - 1 ];
	if (defined $uid) {
		die "view: number $seq was UID $had and is UID $uid\n" if defined $had && $had != $uid;
		my ($before) = grep { defined } reverse @{ $v->{uid} }[0 .. $seq - 2];
		my ($after) = grep { defined } @{ $v->{uid} }[$seq .. $v->{exists} - 1];
		die "view: UID $uid at $seq is not in order\n" if (defined $before && $before >= $uid) || (defined $after && $after <= $uid);
		$v->{uid}[ $seq - 1 ] = $uid;
	}
	$uid //= $had;
	$v->{flags}{$uid} = join(' ', sort map { lc } @{ $item->{FLAGS} }) if $item->{FLAGS} && defined $uid;
	return;
}

# The UID at a number, as far as it was told.
sub uid { my ($v, $seq) = @_; return $v->{uid}[ $seq - 1 ] }

1;
