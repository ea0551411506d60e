package BMR::Imap;
# A strict IMAP client (RFC 3501, 9051): every octet that comes must be grammar, every untagged response is checked
# against the view (BMR::View), literals are kept byte for byte. What breaks a rule dies.
#
#	$c = BMR::Imap->new($addr); $c->login('user');
#	$r = $c->do('FETCH 1 (FLAGS UID)');		$r->{status} OK|NO|BAD|'' (closed)  {line}  {code}  {untagged} [units]
#	$r = $c->do('APPEND box ', \$message);		a reference is a synchronising literal, [$text] one that is not
#	$t = $c->begin('NOOP'); $r = $c->finish($t);	several commands under way
#	$t = $c->idle; $u = $c->await(qr/EXISTS/); $r = $c->done;
# A unit: {raw}, {name} (FETCH, EXISTS, OK, ...), {num}, {args} (parsed values: scalars, array references for lists).
use strict;
use warnings;
use BMR::Client;
use BMR::View;
our @ISA = ('BMR::Client');

my %known = map { $_ => 1 } qw(OK NO BAD BYE PREAUTH CAPABILITY ENABLED ID NAMESPACE LIST LSUB STATUS SEARCH ESEARCH SORT
	THREAD FLAGS VANISHED ACL MYRIGHTS LISTRIGHTS QUOTA QUOTAROOT METADATA EXISTS RECENT EXPUNGE FETCH);
my %status = map { $_ => 1 } qw(OK NO BAD BYE PREAUTH);
# during these alone no message number may be taken away (RFC 9051 section 7.5.1)
my %still = map { $_ => 1 } qw(FETCH STORE SEARCH);

sub new {
	my ($class, $addr, %o) = @_;
	my $c = BMR::Client::new($class, $addr, %o);
	@$c{qw(tags prefix view flight done waiting stray)} = (0, $o{prefix} // 'a', BMR::View->new, [], {}, [], []);
	return $c if $o{raw};
	my $g = $c->unit or die "closed before the greeting\n";
	die "no greeting: $g->{raw}" if !$g->{untagged} || $g->{name} !~ /^(?:OK|PREAUTH|BYE)$/;
	$c->{greeting} = $g->{raw};
	return $c;
}

# --- reading ------------------------------------------------------------------------------------------------------

sub octets {
	my ($c, $n) = @_;
	while (length $c->{buf} < $n) {
		return if !$c->fill;
	}
	return substr($c->{buf}, 0, $n, '');
}

# One response with all its literals; nothing at the end of the stream, which may come only between responses.
sub unit {
	my ($c) = @_;
	my $raw = $c->line;
	return if $raw eq '' && $c->{buf} eq '';
	die "the stream ends inside a line: $c->{buf}" if $raw eq '';
	my $u = {};
	my ($tag, $name) = $raw =~ /^(\S+)(?: (?:\d+ )?(\S+))?/ or die "not a response: $raw";
	my $text = $tag eq '+' || $status{ uc($name // '') };
	while (!$text && $raw =~ /\{(\d+)\}\r\n\z/) {
		my $lit = $c->octets($1);
		my $more = defined $lit ? $c->line : '';
		if ($more eq '') {
			$c->{cut} = $raw . ($lit // $c->{buf});
			die "the stream ends inside a literal\n";
		}
		$raw .= $lit . $more;
	}
	$u->{raw} = $raw;
	if ($tag eq '+') {
		$u->{plus} = 1;
		die "continuation: $raw" if $raw !~ /^\+ [^\r\n\0]*\r\n\z/;
	} elsif ($tag eq '*') {
		$u->{untagged} = 1;
		untagged($u);
		$c->learn($u);
	} else {
		@$u{qw(tag)} = $tag;
		$raw =~ /^\S+ (OK|NO|BAD) ([^\r\n\0]*)\r\n\z/ or die "tagged line: $raw";
		@$u{qw(name text)} = ($1, $2);
		$u->{code} = resp_code($2);
		die "a tag that nobody waits for: $raw" if !grep { $_->{tag} eq $tag } @{ $c->{flight} };
	}
	return $u;
}

# The code in brackets, if there is one.
sub resp_code {
	my ($text) = @_;
	return '' if $text !~ /^\[/;
	my ($code) = $text =~ /^\[([^\]\r\n]*(?:\((?:[^()"]|"[^"]*")*\)[^\]\r\n]*)*)\](?: |$)/ or die "response code: $text\n";
	return $code;
}

sub untagged {
	my ($u) = @_;
	my $s = substr($u->{raw}, 0, -2);
	pos($s) = 2;
	$u->{num} = $1 if $s =~ /\G(\d+) /gc;
	$s =~ /\G([A-Z]+)/gc or die "untagged: $u->{raw}";
	$u->{name} = $1;
	die "an untagged response that nobody knows: $u->{raw}" if !$known{$1};
	if ($status{$1}) {
		$s =~ /\G ([^\r\n\0]*)\z/gc or die "untagged: $u->{raw}";
		$u->{text} = $1;
		$u->{code} = resp_code($1);
		return;
	}
	die "a number is missing or too many: $u->{raw}"
	    if defined $u->{num} xor $u->{name} =~ /^(?:EXISTS|RECENT|EXPUNGE|FETCH)$/;
	if ($u->{name} eq 'THREAD') {	# lists that follow each other
		$s =~ /\G /gc;
		push @{ $u->{args} }, value(\$s) while pos($s) < length $s;
	} else {
		$s =~ /\G /gc and $u->{args} = values_(\$s, '');
	}
	die 'left over: ' . substr($s, pos($s)) . "\n" if pos($s) != length $s;
	fetched($u) if $u->{name} eq 'FETCH';
	return;
}

# Values up to $end, one space between them; none where two lists meet.
sub values_ {
	my ($s, $end) = @_;
	my @v;
	while (1) {
		last if $end ne '' && substr($$s, pos $$s, 1) eq $end;
		last if $end eq '' && pos $$s == length $$s;
		if (@v && !(ref $v[-1] && substr($$s, pos $$s, 1) eq '(')) {
			$$s =~ /\G /gc or die 'no space at: ' . substr($$s, pos $$s, 60) . "\n";
			last if $end eq '' && pos $$s == length $$s;	# "* SEARCH " of some servers
		}
		push @v, value($s);
	}
	return \@v;
}

sub value {
	my ($s) = @_;
	if ($$s =~ /\G\(/gc) {
		my $v = values_($s, ')');
		$$s =~ /\G\)/gc or die "a list without an end\n";
		return $v;
	}
	if ($$s =~ /\G"((?:[^"\\\r\n\0]|\\["\\])*)"/gc) {
		my $q = $1;
		$q =~ s/\\(.)/$1/g;
		return $q;
	}
	if ($$s =~ /\G~?\{(\d+)\}\r\n/gc) {
		my $at = pos $$s;
		my $lit = substr($$s, $at, $1);
		die "a literal is short\n" if length $lit != $1;
		pos($$s) = $at + $1;
		return $lit;
	}
	# BODY[HEADER.FIELDS (A "B")]<0>
	if ($$s =~ /\G((?:BODY|BINARY|BINARY\.SIZE)\[(?:[^\[\]()"\r\n]|"[^"\r\n]*"|\([^()\r\n]*\))*\](?:<\d+>)?)/gc) { return $1 }
	if ($$s =~ /\G([^\s(){"\0-\x1f\x7f]+)/gc) { return $1 eq 'NIL' ? undef : $1 }
	die 'not a value: ' . substr($$s, pos $$s, 60) . "\n";
}

sub fetched {
	my ($u) = @_;
	my $list = $u->{args}[0];
	die "FETCH: $u->{raw}" if @{ $u->{args} } != 1 || ref $list ne 'ARRAY' || @$list % 2;
	my @l = @$list;
	while (my ($k, $v) = splice(@l, 0, 2)) {
		die "FETCH item twice: $u->{raw}" if exists $u->{item}{ uc $k };
		$u->{item}{ uc $k } = $v;
	}
	return;
}

# May a number be taken away now? Only if a command is in progress, and not only such that forbid it.
sub may_expunge { my ($c) = @_; return grep { !$still{ $_->{name} } } @{ $c->{flight} } }

sub learn {
	my ($c, $u) = @_;
	my ($v, $name) = ($c->{view}, $u->{name});
	$c->{bye} = $u->{raw} if $name eq 'BYE';
	$v->exists_($u->{num}) if $name eq 'EXISTS';
	$v->expunge($u->{num}, scalar $c->may_expunge) if $name eq 'EXPUNGE';
	$v->fetch($u->{num}, $u->{item}) if $name eq 'FETCH';
	$v->{recent} = $u->{num} if $name eq 'RECENT';
	$v->{qresync} = 1 if $name eq 'ENABLED' && grep { uc eq 'QRESYNC' } @{ $u->{args} };
	if ($name eq 'VANISHED') {
		my @a = @{ $u->{args} };
		my $earlier = ref $a[0] ? uc shift(@a)->[0] eq 'EARLIER' : 0;
		$v->vanished($a[0], $earlier, scalar $c->may_expunge);
	}
	return;
}

# --- commands -----------------------------------------------------------------------------------------------------

sub name_of { my ($cmd) = @_; return uc($cmd =~ /^(UID \S+|\S+)/i ? $1 : $cmd) }

# Sends a command, as far as a literal lets it; returns its tag.
sub begin {
	my ($c, @piece) = @_;
	my $o = ref $piece[0] eq 'HASH' ? shift @piece : {};
	my $tag = $o->{tag} // $c->{prefix} . ++$c->{tags};
	my $name = name_of($piece[0]);
	push @{ $c->{flight} }, { tag => $tag, name => $name, untagged => [] };
	$c->{view}->reset_to($name =~ /^(?:SELECT|EXAMINE)$/) if $name =~ /^(?:SELECT|EXAMINE)$/;
	my $out = "$tag ";
	for my $p (@piece) {
		if (ref $p eq 'SCALAR' || ref $p eq 'REF') {
			my $l = ref $p eq 'REF' ? $$$p : $$p;
			$c->send($out . (ref $p eq 'REF' ? '~{' : '{') . length($l) . "}\r\n");
			my $u = $c->upto(sub { $_[0]{plus} || ($_[0]{tag} // '') eq $tag });
			return $tag if !$u || !$u->{plus};
			$out = $l;
		} elsif (ref $p eq 'ARRAY') {
			$out .= '{' . length($p->[0]) . "+}\r\n$p->[0]";
		} else {
			$out .= $p;
		}
	}
	$c->send("$out\r\n");
	return $tag;
}

# Reads units until one suits, which is returned; files the others.
sub upto {
	my ($c, $want) = @_;
	while (1) {
		my $u = $c->unit or return;
		$c->file($u);
		return $u if $want->($u);
	}
}

sub file {
	my ($c, $u) = @_;
	if ($u->{untagged}) {
		push @{ $c->{flight}[0] ? $c->{flight}[0]{untagged} : $c->{stray} }, $u;
	} elsif (defined $u->{tag}) {
		my ($i) = grep { $c->{flight}[$_]{tag} eq $u->{tag} } 0 .. $#{ $c->{flight} };
		my $f = splice(@{ $c->{flight} }, $i, 1);
		push @{ $c->{done}{ $u->{tag} } }, reply_of($f, $u);
		$c->after($f, $u);
	}
	return;
}

sub after {
	my ($c, $f, $u) = @_;
	my $selects = $f->{name} =~ /^(?:SELECT|EXAMINE)$/;
	$c->{view}->reset_to(0) if ($selects && $u->{name} ne 'OK') || ($f->{name} =~ /^(?:CLOSE|UNSELECT)$/ && $u->{name} eq 'OK');
	return;
}

sub reply_of {
	my ($f, $u) = @_;
	return bless { tag => $f->{tag}, cmd => $f->{name}, untagged => $f->{untagged}, status => $u ? $u->{name} : '',
		line => $u ? $u->{raw} : '', text => $u ? $u->{text} : '', code => $u ? $u->{code} : '' }, 'BMR::Imap::Reply';
}

sub finish {
	my ($c, $tag) = @_;
	while (!@{ $c->{done}{$tag} // [] }) {
		my ($f) = grep { $_->{tag} eq $tag } @{ $c->{flight} } or die "no command $tag\n";
		$c->upto(sub { ($_[0]{tag} // '') eq $tag }) or return reply_of($f);
	}
	return shift @{ $c->{done}{$tag} };
}

sub do { my ($c, @piece) = @_; return $c->finish($c->begin(@piece)) }

# An untagged response that suits, of those not looked at by await yet; waits for it.
sub await {
	my ($c, $re) = @_;
	while (1) {
		my $all = $c->{flight}[0] ? $c->{flight}[0]{untagged} : $c->{stray};
		for my $i (0 .. $#$all) {
			next if $all->[$i]{awaited} || $all->[$i]{raw} !~ $re;
			$all->[$i]{awaited} = 1;
			return $all->[$i];
		}
		$c->upto(sub { 1 }) or die "closed, waiting for $re\n";
	}
}

sub login { my ($c, $user, $password) = @_; return $c->do("LOGIN $user " . ($password // 'secret')) }

sub idle {
	my ($c) = @_;
	my $t = $c->begin('IDLE');
	my $u = $c->upto(sub { $_[0]{plus} || $_[0]{tag} }) or die "closed in IDLE\n";
	die "IDLE: $u->{raw}" if !$u->{plus};
	return $c->{idle} = $t;
}

sub done { my ($c) = @_; $c->send("DONE\r\n"); return $c->finish(delete $c->{idle}) }

# Nothing more comes, apart from what is untagged: the rest of the stream, parsed.
sub end {
	my ($c) = @_;
	1 while $c->upto(sub { 0 });
	return $c->{bye} // '';
}

# A message's octets by UID.
sub body {
	my ($c, $uid) = @_;
	my ($f) = $c->do("UID FETCH $uid (UID BODY.PEEK[])")->fetches or return;
	return $f->{item}{'BODY[]'};
}

package BMR::Imap::Reply;

sub ok { return $_[0]{status} eq 'OK' }
sub of { my ($r, $name) = @_; return grep { $_->{name} eq $name } @{ $r->{untagged} } }
sub fetches { my ($r) = @_; return $r->of('FETCH') }
sub raw { my ($r) = @_; return join '', map { $_->{raw} } @{ $r->{untagged} } }
# untagged lines and the tagged one without its tag
sub whole { my ($r) = @_; return $r->raw . ($r->{line} =~ s/^\S+ //r) }
sub search { my ($r) = @_; return map { @{ $_->{args} // [] } } $r->of('SEARCH') }
# {UID}{flag} of all FETCHes
sub flags {
	my ($r) = @_;
	return { map { ($_->{item}{UID} // "#$_->{num}") => join(' ', sort @{ $_->{item}{FLAGS} }) } grep { $_->{item}{FLAGS} } $r->fetches };
}

1;
