package BMR::ImapCase;
# What the IMAP failover cases share: messages that can be told apart, mailboxes filled and read past the gateway.
use strict;
use warnings;
use Exporter 'import';
use Test::More;

our @EXPORT = qw(message fill selected box flags uids holds other);
my $n = 0;

# A message of about so many octets. id: its mark; noid: without a Message-ID.
sub message {
	my ($size, %o) = @_;
	my $id = $o{id} // 'm' . ++$n . ".$$";
	my $m = "Subject: case $id\r\n" . ($o{noid} ? '' : "Message-ID: <$id\@test>\r\n") .
	    "Date: Tue, 24 Nov 2026 10:00:00 +0000\r\nFrom: x\@site.test\r\nX-Case: $id\r\n\r\n";
	my $line = 0;
	$m .= sprintf("%06d the quick brown fox jumps over the lazy dog\r\n", $line++) while length $m < ($size // 300);
	return $m . ")\r\na1 OK not a reply\r\n* 1 EXPUNGE\r\n{5}\r\nlast line\r\n";
}

# Appends messages (or so many of a few octets) to a mailbox, at a host itself. Returns them.
sub fill {
	my ($x, $box, @m) = @_;
	@m = map { message() } 1 .. $m[0] if @m == 1 && $m[0] =~ /^\d+$/;
	my $c = $x->direct;
	$c->do("CREATE $box") if $box ne 'INBOX';
	for my $m (@m) {
		my $r = $c->do("APPEND $box ", [$m]);
		die "APPEND: $r->{line}" if !$r->ok;
	}
	$c->do('LOGOUT');
	return @m;
}

# A client that is logged in and has a mailbox of so many messages selected.
sub selected {
	my ($x, $box, %o) = @_;
	my $c = $x->login;
	if ($o{enable}) { my $r = $c->do("ENABLE $o{enable}"); ok($r->ok, "ENABLE $o{enable}") }
	my $r = $c->do(($o{how} // 'SELECT') . " $box" . ($o{with} // ''));
	ok($r->ok, ($o{how} // 'SELECT') . " $box") or diag($r->{line});
	$x->{selected} = $r;
	return $c;
}

# The messages of a mailbox, read at a living host itself: [uid, flags, octets] each.
sub box {
	my ($x, $box, $user) = @_;
	my $c = $x->direct($x->alive, $user);
	my $r = $c->do("EXAMINE $box");
	return if !$r->ok;
	my @m = map { my $i = $_->{item}; [$i->{UID}, join(' ', sort grep { $_ ne '\\Recent' } @{ $i->{FLAGS} }), $i->{'BODY[]'}] }
	    $c->do('UID FETCH 1:* (UID FLAGS BODY.PEEK[])')->fetches;
	$c->do('LOGOUT');
	return @m;
}
sub flags { my ($x, $box) = @_; return { map { $_->[0] => $_->[1] } box($x, $box) } }
sub uids { my ($x, $box) = @_; return [map { $_->[0] } box($x, $box)] }

# The mailbox holds exactly these messages, each as often as it is named, in any order.
sub holds {
	my ($x, $box, $what, @m) = @_;
	my @got = map { $_->[2] } box($x, $box);
	return is_deeply([sort @got], [sort @m], $what) ||
	    diag(scalar(@got) . ' instead of ' . @m . ": @{[map { /X-Case: (\S+)/ } @got]}");
}

# Another client, at a living host itself, does something in a mailbox.
sub other {
	my ($x, $box, @cmd) = @_;
	my $c = $x->direct($x->alive);
	$c->do("SELECT $box")->ok or die "SELECT $box\n" if defined $box;
	my $r;
	for my $cmd (@cmd) {
		$r = $c->do(ref $cmd eq 'ARRAY' ? @$cmd : $cmd);
		die "$r->{line}" if !$r->ok;
	}
	$c->do('LOGOUT');
	return $r;
}

1;
