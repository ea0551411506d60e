#!/usr/bin/perl
# IMAP4 without faults: the same dialogue through the gateway and straight at a Dovecot gives the same octets, command by
# command. Two users stand for one: their mailboxes are filled alike, and what differs of itself (ids, times, names) is
# put in place of each other by the order in which it comes up.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use MIME::Base64 qw(encode_base64);
use Test::More;
use BMR::Gateway;
use BMR::Imap;
use BMR::ImapCase;
use BMR::Site;

if (my $why = BMR::Site::possible()) { plan skip_all => $why }
my $site = BMR::Site->new(imap => 1, dovecot => "imap_id_log = *\nnamespace inbox {\n  mailbox Drafts {\n    special_use = \\Drafts\n  }\n" .
	"  mailbox Trash {\n    special_use = \\Trash\n    auto = subscribe\n  }\n}\n");
my $gw = BMR::Gateway->new(net => $site->{net}, services => { imap4 => { backends => { map { $_ => $site->addr($_, 'imap4') } 'a', 'b' } } });
$gw->ready;

my %at = (gateway => $gw->addr('imap4'), server => $site->addr('b', 'imap4'));
sub b64 { my ($s) = @_; return encode_base64($s, '') }

# --- two clients in step -------------------------------------------------------------------------------------------------

my $pairs = 0;
sub pair {
	my (%o) = @_;
	my $n = ++$pairs;
	my %p = (user => { gateway => "g$n", server => "s$n" }, names => {});
	for my $side (sort keys %at) {
		$p{c}{$side} = BMR::Imap->new($at{$side});
		next if $o{raw};
		my $r = $p{c}{$side}->login($p{user}{$side});
		die "login at the $side: $r->{line}" if !$r->ok;
	}
	return bless \%p, 'main';
}

# What may differ: times in free text; identifiers, which are numbered in the order of their coming.
sub level {
	my ($p, $side, $text) = @_;
	my $seen = $p->{seen}{$side} //= {};
	my $number = sub { my ($kind, $v) = @_; return "$kind" . ($seen->{"$kind $v"} //= 1 + grep { /^$kind / } keys %$seen) };
	$text =~ s/ \(\d+\.\d+(?: \+ \d+\.\d+)* secs\)//g;
	$text =~ s/\b$p->{user}{$side}\b/USER/g;
	$text =~ s/\[CAPABILITY [^\]]*\] ?|^\* CAPABILITY .*\n//gm;
	$text =~ s/ ?\\(?:Un)?Marked//g;		# STATUS makes an index, and the gateway asks for it
	$text =~ s/^\* OK Still here\r\n//gm;
	$text =~ s/\b(UIDVALIDITY|APPENDUID|COPYUID) (\d{9,})/"$1 " . $number->('V', $2)/ge;
	$text =~ s/\b(MAILBOXID|EMAILID|THREADID|GUID|X-GUID) \(?([0-9a-f]{8,})\)?/"$1 " . $number->('I', $2)/ge;
	$text =~ s/\b(SAVEDATE|INTERNALDATE) "[^"]*2026[^"]*"/$1 NOW/g;
	return $text;
}

# One command on both sides: the same untagged responses in the same order, the same end. own: the gateway answers, so
# the words are its own.
sub same {
	my ($p, $cmd, %o) = @_;
	my @cmd = ref $cmd eq 'ARRAY' ? @$cmd : $cmd;
	(my $name = $o{name} // join '', map { ref $_ ? '...' : $_ } @cmd) =~ s/[^ -~]/?/g;
	my (%said, %reply);
	for my $side (sort keys %{ $p->{c} }) {
		my @mine = map { my $c = $_; $c =~ s/\bUSER\b/$p->{user}{$side}/g if !ref $c; $c } @cmd;
		my $r = $reply{$side} = $p->{c}{$side}->do(@mine);
		my $end = $r->{line} =~ s/^\S+ //r;
		$end =~ s/^(\S+ (?:\[[^\]]*\] )?).*/$1/s if $o{own} || $r->{status} eq 'BAD';
		my @u = map { $_->{raw} } @{ $r->{untagged} };
		@u = sort @u if $o{any};
		$said{$side} = level($p, $side, join('', @u) . $end);
	}
	# Dovecot counts nothing in a mailbox before somebody wants it, and the gateway does from SELECT on
	$said{gateway} =~ s/^\* OK \[HIGHESTMODSEQ \d+\] Highest\r\n//m if $said{server} =~ /^\* OK \[UIDVALIDITY/m && $said{server} !~ /\[HIGHESTMODSEQ/;
	my $good = is($said{gateway}, $said{server}, length $name > 100 ? substr($name, 0, 100) : $name);
	is($reply{gateway}{status}, $o{status}, "and it is $o{status}") if $good && $o{status};
	return wantarray ? ($reply{gateway}, $reply{server}) : $good;
}

# Each of them.
sub all { my ($p, @cmd) = @_; same($p, $_) for @cmd; return }

my $mime = join "\r\n", 'From: "A. Person" <a@site.test>', 'To: b@site.test, "C, D" <c@site.test>', 'Cc: undisclosed:;', 'Date: Tue, 17 Nov 2026 10:00:00 +0100',
    'Subject: =?utf-8?q?J=C3=BCrgen?= and a "quoted" one', 'Message-ID: <mime1@test>', 'In-Reply-To: <mime0@test>', 'References: <mime0@test>',
    'MIME-Version: 1.0', 'Content-Type: multipart/mixed; boundary="b1"', '', '--b1', 'Content-Type: text/plain; charset=utf-8',
    'Content-Transfer-Encoding: quoted-printable', '', 'J=C3=BCrgen says hello, that is the preview of it.', '--b1',
    'Content-Type: application/octet-stream; name="x.bin"', 'Content-Disposition: attachment; filename="x.bin"', 'Content-Transfer-Encoding: base64', '',
    b64(join '', map { chr } 0 .. 255), '--b1', 'Content-Type: message/rfc822', '', 'Subject: inner', 'From: i@site.test', '', 'inner body', '--b1--', '';
my @mail = ($mime, map { "Subject: message $_\r\nFrom: f$_\@site.test\r\nTo: t\@site.test\r\nMessage-ID: <n$_\@test>\r\n" .
    "Date: Mon, 1$_ Nov 2026 12:00:00 +0000\r\n\r\nbody $_\r\n" . ("line of $_\r\n" x ($_ * 20)) } 1 .. 6);
sub stocked {
	my $p = pair();
	for my $m (@mail) { same($p, ['APPEND INBOX (\Seen $one) " 5-Nov-2026 10:00:00 +0100" ', \$m], name => 'APPEND, to begin with') }
	same($p, 'SELECT INBOX');
	return $p;
}

# --- before login ----------------------------------------------------------------------------------------------------------

subtest 'before login' => sub {
	my $p = pair(raw => 1);
	like($p->{c}{gateway}{greeting}, qr/^\* OK \[CAPABILITY IMAP4rev1 [^\]]*\] gw\.test /, 'greeting');
	same($p, 'NOOP', own => 1, status => 'OK');
	for my $cmd ('SELECT INBOX', 'FETCH 1 (FLAGS)', 'IDLE', 'BOGUS', 'LOGIN', 'LOGIN x', 'AUTHENTICATE', 'CREATE x', 'LIST "" *') {
		is($p->{c}{gateway}->do($cmd)->{status}, 'BAD', "$cmd: BAD");
	}
	isnt($p->{c}{gateway}->do('AUTHENTICATE NOSUCH')->{status}, 'OK', 'an unknown mechanism');
	my %caps = map { $_ => { map { $_ => 1 } map { @{ $_->{args} } } $p->{c}{$_}->do('CAPABILITY')->of('CAPABILITY') } } keys %at;
	ok($caps{gateway}{$_}, "CAPABILITY $_") for 'IMAP4rev1', 'SASL-IR', 'ID', 'AUTH=PLAIN', 'AUTH=LOGIN', 'AUTH=XOAUTH2', 'AUTH=OAUTHBEARER';
	is(scalar(grep { $caps{gateway}{$_} } 'LITERAL+', 'LITERAL-'), 1, 'LITERAL+ or LITERAL-');
	ok(!$caps{gateway}{$_}, "no $_") for 'LOGIN-REFERRALS', 'COMPRESS=DEFLATE', 'URLAUTH', 'STARTTLS';
	same($p, 'LOGIN USER wrong', status => 'NO');
	like($p->{c}{gateway}->do('ID ("name" "test" "version" NIL)')->raw, qr/^\* ID \(/, 'ID');
	# the most of RFC 2971 section 3.3
	is($p->{c}{$_}->do('ID (' . join(' ', map { sprintf '"%02d%s" "%s"', $_, 'k' x 28, 'v' x 1024 } 1 .. 30) . ')')->{status}, 'OK', "a long ID, $_")
	    for sort keys %at;
	same($p, 'LOGIN USER secret', own => 1, status => 'OK');
	%caps = map { $_ => { map { $_ => 1 } map { @{ $_->{args} } } $p->{c}{$_}->do('CAPABILITY')->of('CAPABILITY') } } keys %at;
	my @not = grep { !$caps{gateway}{$_} } sort keys %{ $caps{server} };
	my @more = grep { !$caps{server}{$_} } sort keys %{ $caps{gateway} };
	note("not passed: @not; of the gateway's own: @more");
	ok($caps{gateway}{$_}, "CAPABILITY $_ after login") for qw(IDLE ENABLE SORT UNSELECT CHILDREN NAMESPACE UIDPLUS LIST-EXTENDED CONDSTORE QRESYNC
		ESEARCH SEARCHRES WITHIN LIST-STATUS BINARY MOVE PREVIEW STATUS=SIZE SAVEDATE METADATA QUOTA ACL MULTIAPPEND THREAD=REFERENCES
		SORT=DISPLAY ID);
	ok(!grep { /^(?:LOGIN-REFERRALS|URLAUTH.*|COMPRESS=.*|CONTEXT=.*|NOTIFY)$/ } keys %{ $caps{gateway} }, 'none of what is not carried over');
	same($p, 'LOGIN USER secret', status => 'BAD');
	same($p, 'LOGOUT', own => 1, status => 'OK');
};

for my $mech ('PLAIN', 'LOGIN', 'XOAUTH2', 'OAUTHBEARER') {
	for my $ir (1, 0) {
		next if $mech eq 'LOGIN' && $ir;
		my $c = BMR::Imap->new($at{gateway});
		my $bearer = 'auth=Bearer ' . $site->token('oa') . "\1\1";
		my @say = $mech eq 'PLAIN' ? ("\0oa\0secret") : $mech eq 'LOGIN' ? ('oa', 'secret') :
		    $mech eq 'XOAUTH2' ? ("user=oa\1$bearer") : ("n,a=oa,\1host=h\1port=143\1$bearer");
		my $t = $c->begin("AUTHENTICATE $mech" . ($ir ? ' ' . b64(shift @say) : ''));
		for my $s (@say) {
			ok($c->upto(sub { $_[0]{plus} || $_[0]{tag} })->{plus}, '+');
			$c->send(b64($s) . "\r\n");
		}
		ok($c->finish($t)->ok, "AUTHENTICATE $mech" . ($ir ? ' with initial response' : ''));
	}
}
for my $bad ('*', '!!!', '', 'AAAA') {
	my $c = BMR::Imap->new($at{gateway});
	my $t = $c->begin('AUTHENTICATE PLAIN');
	ok($c->upto(sub { $_[0]{plus} || $_[0]{tag} })->{plus}, '+');
	$c->send("$bad\r\n");
	like($c->finish($t)->{status}, qr/^(?:BAD|NO)$/, "answered by '$bad': no");
	ok($c->login('oa')->ok, 'and LOGIN after that');
}

# --- mailboxes -----------------------------------------------------------------------------------------------------------------

subtest 'mailboxes' => sub {
	my $p = pair();
	all($p, 'NAMESPACE', 'LIST "" ""', 'LIST "" *', 'CREATE box', 'CREATE box', 'CREATE "a b"', 'CREATE box.sub', 'CREATE "J&APw-rgen"', 'LIST "" *', 'LIST "" %',
		'LIST box %', 'LIST "" "box*"', 'SUBSCRIBE box', 'SUBSCRIBE "a b"', 'LSUB "" *', 'UNSUBSCRIBE "a b"', 'LSUB "" *',
		'LIST (SUBSCRIBED) "" *', 'LIST "" (INBOX "a b") RETURN (CHILDREN)', 'LIST (REMOTE) "" * RETURN (SUBSCRIBED CHILDREN)',
		'LIST "" * RETURN (STATUS (MESSAGES UIDNEXT UNSEEN))', 'LIST (SPECIAL-USE) "" *', 'LIST "" * RETURN (SPECIAL-USE)',
		'STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY UNSEEN RECENT)', 'STATUS "a b" (MESSAGES SIZE)', 'STATUS nowhere (MESSAGES)', 'STATUS box (BOGUS)',
		'STATUS box (HIGHESTMODSEQ)', 'STATUS box (MAILBOXID)', 'RENAME "a b" "c d"', 'RENAME nowhere x', 'DELETE box.sub', 'DELETE nowhere', 'LIST "" *',
		'GETQUOTAROOT INBOX', 'GETQUOTA "User quota"', 'GETACL INBOX', 'SETACL box bob lrs', 'GETACL box', 'SETACL box bob +i', 'GETACL box', 'LISTRIGHTS box bob',
		'MYRIGHTS box', 'DELETEACL box bob', 'GETACL box', 'SETMETADATA box (/private/comment "x y")', 'GETMETADATA box /private/comment',
		'GETMETADATA (DEPTH infinity) box (/private)', 'GETMETADATA (MAXSIZE 1) box /private/comment', 'SETMETADATA box (/private/comment NIL)', 'GETMETADATA box /private/comment',
		'GETMETADATA "" /private/x', 'SELECT nowhere', 'EXAMINE "c d"', 'CLOSE', 'SELECT box', 'UNSELECT', 'UNSELECT', 'CLOSE', 'CHECK', 'SELECT box', 'SELECT "c d"', 'SELECT nowhere', 'FETCH 1 (UID)',
		'STATUS box (MESSAGES)', 'ENABLE CONDSTORE', 'ENABLE QRESYNC');
	same($p, ['CREATE ', \'lit box']);
	same($p, ['STATUS ', \'lit box', ' (MESSAGES)']);
	same($p, ['STATUS ', ['lit box'], ' (MESSAGES)'], name => 'a literal without waiting');
	same($p, ['SETMETADATA box (/private/comment ', \"line\r\nline", ')']);
	same($p, 'GETMETADATA box /private/comment');
	same($p, ['SETMETADATA box (/private/comment ', \\"nul\0nul", ')'], name => 'SETMETADATA with literal8');
	same($p, ['RENAME ', \'lit box', ' ', \'other box']);
	same($p, ['LIST ', \'', ' ', \'*']);
	same($p, 'list "" *', name => 'small letters');
};

# --- reading --------------------------------------------------------------------------------------------------------------------

subtest 'reading' => sub {
	my $p = stocked();
	all($p, map { "FETCH $_" } '1 ALL', '1 FULL', '1 FAST', '1:* (FLAGS UID INTERNALDATE RFC822.SIZE)', '1 (ENVELOPE BODYSTRUCTURE BODY)', '* (UID)', '2,4:5 UID',
		'1 (BODY.PEEK[])', '1 (BODY.PEEK[HEADER])', '1 (BODY.PEEK[TEXT])', '1 (BODY.PEEK[1])', '1 (BODY.PEEK[2])', '1 (BODY.PEEK[1.MIME])', '1 (BODY.PEEK[3.HEADER])',
		'1 (BODY.PEEK[3.1])', '1 (BODY.PEEK[HEADER.FIELDS (SUBJECT "FROM" To)])', '1 (BODY.PEEK[HEADER.FIELDS.NOT (SUBJECT)])', '1 (BODY.PEEK[]<0.20>)', '1 (BODY.PEEK[]<5.100000>)',
		'1 (BODY.PEEK[TEXT]<10.10>)', '1 (BODY.PEEK[9])', '1 (BINARY.PEEK[1])', '1 (BINARY.PEEK[2])', '1 (BINARY.SIZE[2])', '1 (BINARY.PEEK[2]<10.30>)', '1 (RFC822.HEADER)', '2 (RFC822)',
		'3 (RFC822.TEXT)', '1 (PREVIEW)', '1 (PREVIEW (LAZY))', '1 (SAVEDATE)', '1 (EMAILID THREADID)', '1 (MODSEQ)', '1:3 (BODY[])', '1 (BOGUS)', '1 (FLAGS', '1 ()', '0 (FLAGS)', '99 (FLAGS)',
		'1:99 (FLAGS)', '5:2 (UID)', '4294967295 (UID)', '1,2,2,1:3 (UID)');
	all($p, 'UID FETCH 1:* (FLAGS)', 'UID FETCH 3 (BODY.PEEK[])', 'UID FETCH 99 (FLAGS)', 'UID FETCH 2:* (RFC822.SIZE INTERNALDATE)', 'uid fetch 1 flags',
		'FETCH 1:* (FLAGS) (CHANGEDSINCE 1)', 'UID FETCH 1:* (FLAGS) (CHANGEDSINCE 3)', 'NOOP', 'CHECK');
	same($p, ['FETCH 1 (BODY.PEEK[HEADER.FIELDS (', \'SUBJECT', ')])'], name => 'a header name as a literal');
};
subtest 'searching' => sub {
	my $p = stocked();
	all($p, map { "SEARCH $_" } 'ALL', 'SEEN', 'UNSEEN', 'ANSWERED', 'DELETED', 'KEYWORD $one', 'UNKEYWORD $one', '1:3', '*', 'UID 2:4', 'NOT 2', 'OR 1 3', '(2 (3))', 'FROM f2', 'SUBJECT "message 3"',
		'BODY "body 4"', 'TEXT "line of 5"', 'HEADER Message-ID "<n1@test>"', 'LARGER 500', 'SMALLER 500', 'SINCE 1-Nov-2026', 'BEFORE 1-Nov-2026', 'ON 5-Nov-2026', 'SENTSINCE 13-Nov-2026',
		'SENTBEFORE 13-Nov-2026', 'YOUNGER 3600', 'OLDER 3600', 'SAVEDSINCE 1-Nov-2026', 'RECENT', 'NEW', 'OLD', 'CHARSET UTF-8 ALL', 'CHARSET BOGUS ALL', 'BOGUS', '', 'MODSEQ 2', 'ALL UNDELETED NOT (SEEN)',
		'RETURN () ALL', 'RETURN (MIN MAX COUNT) ALL', 'RETURN (ALL) 2:4', 'RETURN (COUNT) NOT ALL', 'RETURN (SAVE) 2:3', '$', 'RETURN (SAVE COUNT) UID 4:5', 'UID $');
	all($p, 'FETCH $ (UID)', 'UID SEARCH ALL', 'UID SEARCH RETURN (ALL COUNT) 2:5', 'UID SEARCH $', 'SORT (SUBJECT) UTF-8 ALL', 'SORT (REVERSE DATE) US-ASCII ALL', 'UID SORT (FROM SIZE) UTF-8 2:5',
		'SORT RETURN (MIN COUNT) (ARRIVAL) UTF-8 ALL', 'SORT (DISPLAYFROM) UTF-8 ALL', 'SORT (BOGUS) UTF-8 ALL', 'THREAD REFERENCES UTF-8 ALL', 'UID THREAD ORDEREDSUBJECT UTF-8 ALL', 'THREAD REFS UTF-8 ALL');
	same($p, ['SEARCH SUBJECT ', \'message 3'], name => 'a literal in SEARCH');
	same($p, ['SEARCH CHARSET UTF-8 SUBJECT ', \"J\xc3\xbcrgen"], name => 'UTF-8 in SEARCH');
	same($p, ['SEARCH SUBJECT ', ['message'], ' FROM ', \'f2', ' TO "t@site"'], name => 'literals of both kinds');
};

# --- writing ----------------------------------------------------------------------------------------------------------------------

subtest 'writing' => sub {
	my $p = stocked();
	all($p, 'CREATE target', map({ "STORE $_" } '1 +FLAGS (\Flagged)', '1:2 -FLAGS (\Seen)', '3 FLAGS (\Draft $new)', '3 FLAGS ()', '1:3 +FLAGS.SILENT (\Answered)', '2 FLAGS \Seen \Flagged', '9 +FLAGS (\Seen)', '1 BOGUS (\Seen)',
		'1 +FLAGS (\Bogus)', '1 +FLAGS (\Recent)', '1 (UNCHANGEDSINCE 1) +FLAGS (\Deleted)', '1 (UNCHANGEDSINCE 99999) +FLAGS (\Seen)'), 'UID STORE 4 +FLAGS (\Flagged)', 'UID STORE 99 +FLAGS (\Flagged)', 'FETCH 1:* (FLAGS)',
		'COPY 1:2 target', 'UID COPY 3 target', 'COPY 99 target', 'COPY 1 nowhere', 'UID COPY 99 target', 'COPY 1 INBOX', 'NOOP', 'MOVE 7:8 target', 'UID MOVE 5 target', 'UID MOVE 99 target', 'MOVE 1 nowhere', 'FETCH 1:* (UID FLAGS)',
		'STATUS target (MESSAGES UIDNEXT)', 'STORE 2,4 +FLAGS (\Deleted)', 'UID EXPUNGE 1', 'UID EXPUNGE 2', 'STORE 1 +FLAGS (\Deleted)', 'EXPUNGE', 'EXPUNGE', 'FETCH 1:* (UID FLAGS)', 'STORE 1 +FLAGS (\Deleted)', 'CLOSE',
		'STATUS INBOX (MESSAGES)', 'EXAMINE target', 'FETCH 1:* (UID RFC822.SIZE)', 'STORE 1 +FLAGS (\Flagged)', 'EXPUNGE', 'COPY 1 INBOX', 'MOVE 1 INBOX', 'CLOSE', 'SELECT target', 'STORE 1:* +FLAGS (\Deleted)', 'UNSELECT', 'STATUS target (MESSAGES UNSEEN)');
	my $m = "Subject: appended\r\n\r\nwith a line\r\n";
	same($p, ['APPEND target ', \$m]);
	same($p, ['APPEND target ', [$m]], name => 'APPEND with LITERAL+');
	same($p, ['APPEND "target" (\Seen \Flagged $k) "17-Jul-2026 02:44:25 -0700" ', \$m], name => 'APPEND with flags and date');
	same($p, ['APPEND ', \'target', ' ', \$m], name => 'APPEND, the mailbox as a literal');
	same($p, ['APPEND target ', \\"Subject: eight\r\n\r\n\0binary\0\r\n"], name => 'APPEND with literal8');
	same($p, ['APPEND target ', \$m, ' (\Seen) ', \$m, ' "17-Jul-2026 02:44:25 -0700" ', \$m], name => 'MULTIAPPEND');
	same($p, ['APPEND nowhere ', \$m], name => 'APPEND nowhere');
	same($p, ['APPEND target (\Bogus) ', \$m], name => 'APPEND with a bad flag');
	same($p, ['APPEND target "bogus" ', \$m], name => 'APPEND with a bad date');
	same($p, ['APPEND target ', \''], name => 'APPEND of nothing');
	same($p, ['APPEND target ', \("Subject: big\r\n\r\n" . ("0123456789abcdef\r\n" x 100_000))], name => 'APPEND of 1.8 MB');
	same($p, ['APPEND target ', \"Subject: bare\n\nlines\nwith LF\n"], name => 'APPEND with bare LF');
	all($p, 'SELECT target', 'FETCH 1:* (FLAGS RFC822.SIZE)', 'FETCH * (BODY.PEEK[])', 'FETCH 5:8 (BODY.PEEK[])');
};

# The first command that uses mod-sequences is told the highest one of the mailbox, and no other is.
for my $first ('FETCH 1 (MODSEQ)', 'FETCH 1:2 (FLAGS) (CHANGEDSINCE 1)', 'UID STORE 1 (UNCHANGEDSINCE 999) +FLAGS (\Flagged)', 'SEARCH MODSEQ 1', 'UID SEARCH NOT (MODSEQ "/flags/\\\\Seen" all 1)',
    'SORT (SUBJECT) UTF-8 MODSEQ 1', 'STATUS INBOX (HIGHESTMODSEQ)', 'STATUS target (HIGHESTMODSEQ)', 'ENABLE CONDSTORE', 'ENABLE QRESYNC') {
	subtest "mod-sequences are used first by $first" => sub {
		my $p = stocked();
		for my $side (keys %at) {	# from then on every message has its own
			my $c = BMR::Imap->new($at{server});
			$c->login($p->{user}{$side});
			$c->do('SELECT INBOX (CONDSTORE)');
			$c->do('LOGOUT');
		}
		all($p, 'SELECT INBOX', 'CREATE target', 'CREATE MODSEQ', 'STORE 2 +FLAGS (\Flagged)', 'STORE 3 +FLAGS.SILENT (\Flagged)', 'NOOP');
		all($p, 'FETCH 1 (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT MODSEQ)])', 'SEARCH SUBJECT "MODSEQ"', 'SEARCH SUBJECT MODSEQ UNSEEN', 'SEARCH HEADER MODSEQ MODSEQ',
			'STATUS MODSEQ (MESSAGES)', 'FETCH 2 (FLAGS)', 'STORE 4 +FLAGS (MODSEQ)', 'STORE 4 -FLAGS (MODSEQ)');
		all($p, $first, $first);
		all($p, 'FETCH 1:* (FLAGS)', 'NOOP', 'EXAMINE target', 'FETCH 1 (MODSEQ)') if $first !~ /QRESYNC/;	# which has Dovecot say it again
	};
}

subtest 'CONDSTORE and QRESYNC' => sub {
	my $p = stocked();
	all($p, 'UNSELECT', 'SELECT INBOX (CONDSTORE)', 'STORE 1 +FLAGS (\Flagged)', 'FETCH 1:* (MODSEQ)', 'SEARCH MODSEQ 3', 'STORE 2 (UNCHANGEDSINCE 1) +FLAGS (\Seen)', 'UNSELECT', 'ENABLE QRESYNC', 'SELECT INBOX',
		'STORE 3 +FLAGS (\Deleted)', 'EXPUNGE', 'UID FETCH 1:* (FLAGS) (CHANGEDSINCE 2 VANISHED)', 'STORE 2 +FLAGS (\Deleted)', 'UID EXPUNGE 1:99', 'NOOP', 'CLOSE');
	for my $side (keys %{ $p->{c} }) {
		my $r = $p->{c}{$side}->do('STATUS INBOX (UIDVALIDITY)');
		($p->{v}{$side}) = $r->raw =~ /UIDVALIDITY (\d+)/;
	}
	for my $rest ('2', '2 1:7', '2 1:7 (1,3 1,4)', '99999') {
		my %said;
		for my $side (keys %{ $p->{c} }) {
			my $r = $p->{c}{$side}->do("SELECT INBOX (QRESYNC ($p->{v}{$side} $rest))");
			$said{$side} = level($p, $side, $r->whole);
		}
		is($said{gateway}, $said{server}, "SELECT INBOX (QRESYNC (v $rest))");
	}
	same($p, 'SELECT INBOX (QRESYNC (1 2))', name => 'another UIDVALIDITY');
};

# --- news from others ---------------------------------------------------------------------------------------------------------------

subtest 'changes by another' => sub {
	my $p = stocked();
	my %other = map { my $c = BMR::Imap->new($at{server}, prefix => 'o'); $c->login($p->{user}{$_}); $c->do('SELECT INBOX'); $_ => $c } keys %at;
	my $both = sub { $_->do(@_)->ok or die "other: @_" for values %other };
	$both->('STORE 2 +FLAGS (\Flagged $other)');
	same($p, 'NOOP');
	$both->('APPEND INBOX ', ["Subject: from another\r\n\r\n"]);
	same($p, 'NOOP');
	same($p, 'FETCH 8 (UID FLAGS)');
	$both->('STORE 3,5 +FLAGS.SILENT (\Deleted)');
	same($p, 'NOOP');
	$both->('EXPUNGE');
	same($p, 'NOOP');
	same($p, 'FETCH 1:* (UID)');
	$both->('STORE 1 +FLAGS.SILENT (\Deleted)');
	$both->('EXPUNGE');
	same($p, 'UID FETCH 2 (FLAGS)', any => 1);
	same($p, 'NOOP');
	for my $how ('APPEND', 'STORE', 'EXPUNGE') {
		$_->idle for values %{ $p->{c} };
		$both->('APPEND INBOX ', ["Subject: in IDLE\r\n\r\n"]) if $how eq 'APPEND';
		$both->('STORE 2 +FLAGS (\Draft)') if $how eq 'STORE';
		if ($how eq 'EXPUNGE') { $both->('STORE 2 +FLAGS.SILENT (\Deleted)'); $both->('EXPUNGE') }
		my %u = map { $_ => level($p, $_, $p->{c}{$_}->await($how eq 'APPEND' ? qr/EXISTS/ : $how eq 'STORE' ? qr/Draft/ : qr/EXPUNGE/)->{raw}) } keys %{ $p->{c} };
		is($u{gateway}, $u{server}, "$how by another in IDLE");
		my %r = map { $_ => $p->{c}{$_}->done } keys %{ $p->{c} };
		is($r{gateway}{status}, 'OK', 'DONE');
	}
	same($p, 'FETCH 1:* (UID FLAGS)');
	is($p->{c}{gateway}{view}{exists}, $p->{c}{server}{view}{exists}, 'the view is the same');
};

subtest 'pipelined' => sub {
	my $p = stocked();
	my %said;
	for my $side (keys %{ $p->{c} }) {
		my $c = $p->{c}{$side};
		my @t = map { $c->begin($_) } 'NOOP', 'FETCH 1 (UID)', 'STATUS INBOX (MESSAGES)', 'SEARCH ALL', 'FETCH 3:4 (BODY.PEEK[HEADER])', 'STORE 5 +FLAGS (\Flagged)', 'BOGUS', 'NOOP';
		my @r = map { $c->finish($_) } @t;
		# a server may have several under way and answer with one what belongs to the next
		$said{$side} = level($p, $side, join('', sort map { $_->{raw} } map { @{ $_->{untagged} } } @r) . join(' ', map { $_->{status} } @r));
	}
	is($said{gateway}, $said{server}, 'eight commands in one go');
};

# --- lines and literals that are odd ----------------------------------------------------------------------------------------------------

# Another session, which must go on as if nothing were.
my $fine = BMR::Imap->new($at{gateway});
$fine->login('fine');
$fine->do('APPEND INBOX ', ["Subject: fine\r\n\r\n"]);
$fine->do('SELECT INBOX');
sub fine { my ($what) = @_; ok($fine->do('FETCH 1 (UID BODY.PEEK[])')->ok, "$what: another session is fine"); return }

# KiB of Pss of all processes of the gateway.
sub memory {
	my $sum = 0;
	for my $pid (BMR::Proc::tree($gw->{pid})) {
		open(my $f, '<', "/proc/$pid/smaps_rollup") or next;
		$sum += /^Pss:\s+(\d+) kB/ ? $1 : 0 for <$f>;
	}
	return $sum;
}
my $before = memory();

subtest 'I62 a command inside a literal of one that is refused' => sub {
	my $c = BMR::Imap->new($at{gateway});
	$c->login('hidden');
	$c->do('APPEND INBOX ', ["Subject: stays\r\n\r\n"]);
	for my $line ('x BOGUS {%d+}', 'x BOGUS a "{3}" {%d+}', 'x SELECT {%d+}', 'x FETCH {%d+}', 'x UID BOGUS {%d+}', 'x STORE 1 {%d+}') {
		for my $hidden ('x9 DELETE INBOX', 'x9 CREATE hidden', 'x9 LOGOUT') {
			push @{ $c->{flight} }, { tag => 'x', name => 'X', untagged => [] };
			$c->send(sprintf($line, length($hidden) + 2) . "\r\n$hidden\r\n\r\n");
			my $r = $c->finish('x');
			isnt($r->{status}, 'OK', "$line is refused") or diag($r->{line});
			ok($c->do('NOOP')->ok, "and $hidden was no command");
		}
	}
	is(join(' ', sort map { $_->{args}[2] } $c->do('LIST "" *')->of('LIST')), 'INBOX Trash', 'nothing was done');
	is(scalar($c->do('STATUS INBOX (MESSAGES)')->raw =~ /MESSAGES (\d+)/ ? $1 : -1), 1, 'the mail is there');
	# before login too, and with a literal that waits
	$c = BMR::Imap->new($at{gateway});
	push @{ $c->{flight} }, { tag => 'y', name => 'Y', untagged => [] };
	$c->send("y BOGUS {23+}\r\nz LOGIN hidden secret\r\n\r\n");
	is($c->finish('y')->{status}, 'BAD', 'before login: BAD');
	is($c->do('LIST "" *')->{status}, 'BAD', 'and not logged in');
	ok($c->login('hidden')->ok, 'LOGIN');
	push @{ $c->{flight} }, { tag => 'z', name => 'Z', untagged => [] };
	$c->send("z BOGUS {9}\r\n");
	my $u = $c->upto(sub { $_[0]{plus} || $_[0]{tag} });
	if ($u->{plus}) { $c->send("123456789\r\n"); is($c->finish('z')->{status}, 'BAD', 'a literal that waits: BAD') }
	else { is($u->{name}, 'BAD', 'a literal that waits: BAD at once') }
	ok($c->do('NOOP')->ok, 'and on');
};

subtest 'I61 a client that claims to be another' => sub {
	my $c = BMR::Imap->new($at{gateway}, from => "$site->{net}.77");
	my $r = $c->do('ID ("name" "evil" "x-originating-ip" "192.0.2.99" "X-SESSION-ID" "forged" "x-forward-x" "y" "x-proxy-ttl" "9" "x-connected-ip" "192.0.2.98" "x-multiplex" "0")');
	ok($r->ok, 'ID');
	ok($c->login('spoof')->ok, 'LOGIN');
	$site->logs('dovecot', qr/Login: user=<spoof>.*rip=\Q$site->{net}.77\E,/, 'the backend logs its true address');
	unlike($site->log_of('a', 'dovecot') . $site->log_of('b', 'dovecot'), qr/192\.0\.2\.9|forged/, 'and nothing of what it claimed');
};

subtest 'a client says what it is, before and after its login' => sub {
	my $c = BMR::Imap->new($at{gateway});
	ok($c->do('ID ("name" "Early" "version" "1.5")')->ok, 'ID');
	ok($c->login('named')->ok, 'LOGIN');
	$site->logs('dovecot', qr/imap-login: .*ID sent: .*name=Early, version=1\.5/, 'the backend hears it with the login');
	ok($c->do('ID ("name" "Late")')->ok, 'ID once more');
	ok($c->do('NOOP')->ok, 'NOOP');
	$site->logs('dovecot', qr/imap\(named\).*ID sent: .*name=Late/, 'and behind it');
};

# What the gateway says to octets of a client that is logged in or not; whatever it is, it is honest, and others are fine.
sub hurl {
	my ($what, $login, $data, %o) = @_;
	my $c = BMR::Imap->new($at{gateway});
	$c->login('hostile')->ok or die if $login;
	my $pid = fork() // die;
	if ($pid == 0) {
		$SIG{PIPE} = 'IGNORE';
		eval { for (ref $data eq 'CODE' ? $data->() : $data) { $c->send($_) or last } };
		POSIX::_exit(0);
	}
	my $said = '';
	# a tag of any kind may come back
	eval {
		local $BMR::Client::patience = $o{wait} // 5;
		while ((my $l = $c->line) ne '') {
			$said .= $l if length $said < 1 << 20;
			last if $l =~ /^\* BYE/ || ($o{until} && $l =~ $o{until});
		}
	};
	kill 'KILL', $pid;
	waitpid($pid, 0);
	$c->close;
	like($said, $o{re} // qr/ BAD |^\* BYE|^\* BAD/m, "$what: BAD or BYE") or diag(substr($said, 0, 300));
	fine($what);
	return $said;
}
for my $login (0, 1) {
	my $when = $login ? 'after login' : 'before login';
	hurl("a line of 10 MB, $when", $login, sub { return ((map { 'x' x 65536 } 1 .. 160), "\r\n") }, wait => 20);
	hurl("a line of $_ octets behind a tag, $when", $login, 'a LOGIN ' . 'x' x ($_ - 8) . "\r\n", re => qr/^a BAD /m, until => qr/^a /) for 40_000, 70_000, 300_000;
	hurl("a tag of 10 kB, $when", $login, 'x' x 10_000 . " NOOP\r\n");
	hurl("a list a million deep, $when", $login, 'a FETCH 1 ' . '(' x 1_000_000 . "\r\n");
	hurl("and closed again, $when", $login, 'a SEARCH ' . '(' x 500_000 . 'ALL' . ')' x 500_000 . "\r\n");
	hurl("2^32 in a literal, $when", $login, "a LOGIN {4294967296}\r\n", re => qr/ (?:BAD|NO) |^\* BYE/m);
	hurl("2^32 in a literal that does not wait, $when", $login, "a LOGIN {4294967296+}\r\n");
	hurl("2^64 in a literal, $when", $login, "a LOGIN {18446744073709551616+}\r\n");
	hurl("a literal of twenty digits and more, $when", $login, 'a LOGIN {' . '9' x 40 . "}\r\n", re => qr/ (?:BAD|NO) |^\* BYE/m);
	hurl("a literal of 200 MB where none is due, $when", $login, "a LOGIN {200000000+}\r\n", re => qr/ (?:BAD|NO) |^\* BYE/m);
	hurl("a literal of 20 MB where none is due, $when", $login, sub { return ("a LOGIN {20000000+}\r\n", ('y' x 1_000_000) x 20, "\r\n") },
		re => qr/ (?:BAD|NO) |^\* BYE/m, wait => 20);
	hurl("noise, $when", $login, sub { srand 7; return map { join '', map { chr int rand 256 } 1 .. 4096 } 1 .. 50 });
	hurl("NUL, $when", $login, "a NOOP \0\r\n");
	hurl("bare CR, $when", $login, "a NOOP\rb NOOP\r\n");
	hurl("no tag, $when", $login, " NOOP\r\n");
	hurl("a plus for a tag, $when", $login, "+ NOOP\r\n");
	hurl("an empty line, $when", $login, "\r\n\r\na BOGUS\r\n");
	hurl("HTTP, $when", $login, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
	hurl("errors without end, $when", $login, sub { return map { "a$_ BOGUS\r\n" } 1 .. 1000 }, until => qr/^\* BYE/, re => qr/^\* BYE/m);
	hurl("a quoted string without its end, $when", $login, "a LOGIN \"x\r\n");
	hurl("quotes and escapes, $when", $login, 'a LOGIN "' . '\\\\' x 40_000 . "\r\n");
}
hurl('a sequence set of a million', 1, 'a SELECT INBOX' . "\r\n" . 'b FETCH ' . join(',', map { $_ * 2 } 1 .. 200_000) . " (UID)\r\n", re => qr/^b (?:BAD|NO|OK) |^\* BYE/m, until => qr/^b /);
hurl('a literal in the middle of nowhere', 1, "a APPEND {5}\r\n", re => qr/^a (?:BAD|NO)|^\+ |^\* BYE/m, until => qr/^[a+] /);
hurl('an APPEND that waits for ever, and one like it', 1, "a APPEND INBOX {5000000000}\r\n", re => qr/^a (?:BAD|NO)|^\* BYE/m, until => qr/^a /);
hurl('ID of 10,000 pairs', 1, 'a ID (' . join(' ', map { "\"k$_\" \"v\"" } 1 .. 10_000) . ")\r\n", until => qr/^a /);
hurl('DONE without IDLE', 1, "DONE\r\n");
hurl('IDLE and then something else', 1, "a IDLE\r\nb NOOP\r\n", until => qr/^a (?:BAD|OK)/, re => qr/^a BAD|^\* BYE/m);

# unterminated: the client stops within a literal, or within a line, and goes
for my $data ("a APPEND INBOX {1000+}\r\nhalf", 'a FETCH 1 (BODY[', "a LOGIN {5}\r\n", "a APPEND INBOX {1000+}\r\n" . 'x' x 1000) {
	my $c = BMR::Imap->new($at{gateway});
	$c->login('hostile');
	$c->send($data);
	$c->close;
}
my $left = BMR::Imap->new($at{server});
$left->login('hostile');
like($left->do('STATUS INBOX (MESSAGES)')->raw, qr/MESSAGES 0\)/, 'what was not finished was not appended');
fine('unterminated');
cmp_ok(memory() - $before, '<', 40_000, 'the memory is what it was, nearly');
unlike($gw->log, qr/signal \d+|exited with [1-9]|secret|mastersecret/, 'nothing crashed, and no secret is in the log');
$gw->stop;
is_deeply($gw->{left}, [], 'nothing is left');
$site->stop;
done_testing();
