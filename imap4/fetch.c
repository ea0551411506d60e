/*
 * fetch - FETCH responses, and all that is streamed: literals and lines too long to be held; pure
 *
 * What the client has of a literal is hashed. Another backend's literal of the same message, the same number in the
 * response and the same size is skipped up to that point if it hashes alike, and goes on (protocols.md 1.4.6). A
 * response that the client has whole is dropped when a repeated command brings it again.
 */
#include "imap4/imap4.h"
#include "imap4/token.h"

enum { TAIL = 64, LONG_TAIL = 12288, ROOM = 512 };

static void
mark_done(struct turn *t, uint32_t c)
{
	struct pst *p = P(t);

	/* too scattered to keep: it may be fetched again, and comes twice, which is allowed */
	if (p->command == CMD_FETCH && H(t)->said)
		(void)set_add(p->done_seq, &p->ndone, DONE_MAX, c, 1);
}

static bool
asked(const struct turn *t)
{
	return (P(t)->command == CMD_FETCH && H(t)->said && !imap4_ours(t));
}

/* Another backend told it. This one may say what it has of a message in several responses. */
static bool
had(const struct turn *t, uint32_t c)
{
	return (H(t)->told_before && set_has(P(t)->done_seq, P(t)->ndone, c));
}

/* Flags alone may come unasked, and do no harm twice. */
static bool
has_substance(struct bytes items)
{
	struct bytes name, value;

	while (token_item(&items, &name, &value))
		if (!bytes_caseeq(name, BYTES("FLAGS")) && !bytes_caseeq(name, BYTES("UID")) &&
		    !bytes_caseeq(name, BYTES("MODSEQ")))
			return (true);
	return (items.n > 1);
}

static void
tell_flags(struct turn *t, uint32_t c, struct bytes value)
{
	bool is = view_is_recent(t, view_uid(t, c)) && value.n >= 2 && memmem(value.p, value.n, "\\Recent", 7) == NULL;

	out_str(t->client, "FLAGS (");
	if (is)
		out_str(t->client, value.n > 2 ? "\\Recent " : "\\Recent");
	out_put(t->client, bytes_cut(value, 1));
}

/*
 * Items, or a part of them that ends before a literal: MODSEQ only for who knows it, \Recent where it was shown before.
 */
static void
tell_items(struct turn *t, struct bytes items)
{
	bool strip = !P(t)->condstore && memmem(items.p, items.n, "MODSEQ", 6) != NULL, first = true;
	struct bytes name, value, rest = items;

	if (!strip && !H(t)->fake_recent) {
		out_put(t->client, items);
		return;
	}
	while (token_item(&rest, &name, &value)) {
		struct bytes before = bytes(items.p, (size_t)(name.p - items.p));

		items = rest;
		if (strip && bytes_caseeq(name, BYTES("MODSEQ"))) {
			if (first)
				token_space(&items);
			continue;
		}
		out_put(t->client, before);
		first = false;
		if (H(t)->fake_recent && bytes_caseeq(name, BYTES("FLAGS"))) {
			tell_flags(t, H(t)->fetch_seq, value);
			continue;
		}
		out_put(t->client, name);
		out_str(t->client, " ");
		out_put(t->client, value);
	}
	out_put(t->client, items);
}

/* What is left when MODSEQ is taken away: nothing. */
static bool
modseq_alone(const struct turn *t, struct bytes items)
{
	struct bytes name, value;

	if (P(t)->condstore || memmem(items.p, items.n, "MODSEQ", 6) == NULL)
		return (false);
	while (token_item(&items, &name, &value))
		if (!bytes_caseeq(name, BYTES("MODSEQ")))
			return (false);
	return (true);
}

static void
tell(struct turn *t, uint32_t c, struct bytes items)
{
	if (modseq_alone(t, items))
		return;
	H(t)->fetch_seq = c;
	out_fmt(t->client, "* %u FETCH (", c);
	tell_items(t, items);
	out_str(t->client, "\r\n");
}

/* Flags that changed between two backends (protocols.md 1.4.4). */
static void
tell_change(struct turn *t, uint32_t c, struct bytes items)
{
	struct bytes name, value, all = items, uid = { 0 }, flags = { 0 }, modseq = { 0 };
	uint64_t n;

	while (token_item(&items, &name, &value)) {
		if (bytes_caseeq(name, BYTES("UID")))
			uid = value;
		else if (bytes_caseeq(name, BYTES("FLAGS")))
			flags = value;
		else if (bytes_caseeq(name, BYTES("MODSEQ")))
			modseq = value;
	}
	if (flags.n < 2 || c > P(t)->box.exists)
		return;
	if (uid.n == 0) {		/* it is no answer, but changed now */
		tell(t, c, all);
		return;
	}
	if (bytes_num(uid, 1, UINT32_MAX, &n) == -1 || n > H(t)->old_last)
		return;		/* of a new message the client asks by itself */
	out_fmt(t->client, "* %u FETCH (UID ", c);
	out_put(t->client, uid);
	out_str(t->client, " ");
	tell_flags(t, c, flags);
	if (P(t)->condstore && modseq.n > 0) {
		out_str(t->client, " MODSEQ ");
		out_put(t->client, modseq);
	}
	out_str(t->client, ")\r\n");
}

static bool
modseq(struct bytes items, uint64_t *n)
{
	struct bytes name, value;

	if (memmem(items.p, items.n, "MODSEQ (", 8) == NULL)
		return (false);
	while (token_item(&items, &name, &value))
		if (bytes_caseeq(name, BYTES("MODSEQ")) && value.n > 2 &&
		    bytes_num(bytes(value.p + 1, value.n - 2), 1, INT64_MAX, n) == 0)
			return (true);
	return (false);
}

static void
note_modseq(struct turn *t, struct bytes items)
{
	uint64_t n;

	if (modseq(items, &n) && n > P(t)->box.seen)
		P(t)->box.seen = n;
}

/* The client learns the UID of a message that came: so does the view. */
static void
note_uid(struct turn *t, uint32_t c, struct bytes items)
{
	const struct mbox *m = &P(t)->box;
	struct bytes name, value;
	uint64_t uid;

	if (!m->learned || m->coarse || c != m->known + 1 || c > m->exists)
		return;
	while (token_item(&items, &name, &value))
		if (bytes_caseeq(name, BYTES("UID")) && bytes_num(value, 1, UINT32_MAX, &uid) == 0)
			(void)view_append(t, (uint32_t)uid, 1);
}

enum took
imap4_fetch(struct turn *t, uint32_t seq, struct bytes items)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	uint32_t c = view_client(t, seq);
	uint64_t n;
	bool substance;

	if (h->own >= OWN_LOOK) {
		imap4_look_fetch(t, items);
		return (TOOK_ONE);
	}
	if (h->own == OWN_FLAGS) {
		note_modseq(t, items);
		tell_change(t, c, items);
		return (TOOK_ONE);
	}
	if (p->phase != SELECTED || h->stage != AT_SAVED) {
		if (modseq(items, &n) && n > h->modseq && h->stage >= AT_SELECTED)
			h->modseq = n;		/* while it is compared: the flags are asked for behind that */
		return (TOOK_ONE);
	}
	if (h->own == OWN_STORED)
		imap4_note_flags(t, items);
	note_modseq(t, items);
	substance = asked(t) && has_substance(items);
	if (substance && had(t, c)) {
		h->flags_owed |= modseq(items, &n) && n > p->box.modseq;	/* they may be others by now */
		return (TOOK_ONE);
	}
	if (p->streaming) {		/* the one half told comes first */
		h->missed |= substance;
		h->flags_owed |= !substance;
		return (TOOK_ONE);
	}
	if (imap4_waits_plus(t) && p->box.modseq != 0) {	/* else nobody could ask for them again */
		h->flags_owed = 1;
		return (TOOK_ONE);
	}
	tell(t, c, items);
	note_uid(t, c, items);
	if (substance)
		mark_done(t, c);
	return (TOOK_ONE);
}

/* --- streams ------------------------------------------------------------------------------------------------------ */

static enum took
start(struct turn *t, enum stream what, size_t used)
{
	H(t)->in_stream = (uint8_t)what;
	H(t)->stream_used = (uint32_t)used;
	return (TOOK_ONE);
}

/* The response is nobody's, or the client has it: it is read to its end. */
static enum took
skip(struct turn *t, uint64_t size, size_t used)
{
	H(t)->skipping = 1;
	H(t)->lit_seq = 0;
	H(t)->lit_left = size;
	return (start(t, STREAM_LINE, used));
}

static bool
fetch_number(const struct turn *t, struct bytes head, uint32_t *c, size_t *text)
{
	struct bytes rest = bytes_cut(head, 2), num = bytes_token(&rest, ' ');
	uint64_t n;

	if (bytes_num(num, 1, UINT32_MAX, &n) == -1 || !bytes_casestart(rest, BYTES("FETCH (")))
		return (false);
	*c = view_client(t, (uint32_t)n);
	*text = (size_t)(rest.p - head.p);
	return (true);
}

/* What follows is the literal of which the client has a part, or one before it. */
static bool
resume_literal(struct turn *t, uint64_t size)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	h->lit_left = size;
	h->skipping = h->lit_no != p->lit_no;
	if (h->skipping)
		return (true);
	relayed_start(&h->body, p->key);
	h->catching = p->body.k > 0;
	return (size == p->lit_size);
}

static void
fresh_literal(struct turn *t, uint64_t size)
{
	struct pst *p = P(t);

	p->lit_no = (uint8_t)H(t)->lit_no;
	p->lit_size = size;
	relayed_start(&p->body, p->key);
	H(t)->lit_left = size;
	H(t)->catching = 0;
}

/* A response without a large literal that is passed on as it comes. */
static enum took
begin_line(struct turn *t, struct bytes head)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	uint32_t c = 0;
	size_t text = 0;
	bool fetch = fetch_number(t, head, &c, &text);

	h->missed |= fetch && asked(t) && p->streaming && p->lit_seq != c;
	if (fetch &&
	    (!asked(t) || h->stage != AT_SAVED || had(t, c) ||
		(p->streaming && p->lit_seq != c)))
		return (skip(t, 0, 0));
	h->lit_seq = c;
	h->skipping = imap4_ours(t) || p->command == CMD_NONE || !h->said || p->command == CMD_SELECT ||
	    (p->flags & F_RESULT && p->result_told && p->streaming != STREAM_LINE);
	h->translate = p->flags & F_RESULT && !p->uid && h->nghost > 0;
	h->lit_left = 0;
	relayed_start(&h->body, p->key);
	h->catching = p->streaming == STREAM_LINE && p->body.k > 0;
	if (!h->skipping && p->streaming != STREAM_LINE) {
		p->streaming = STREAM_LINE;
		p->lit_seq = c;
		relayed_start(&p->body, p->key);
		if (fetch)
			out_fmt(t->client, "* %u ", c);
	}
	if (!h->skipping && p->flags & F_RESULT) {
		p->result_told = 1;
		h->told_before = 0;	/* or begun there, and this one's is compared with it */
	}
	return (start(t, STREAM_LINE, text));
}

enum took
imap4_fetch_begin(struct turn *t, struct bytes head, uint64_t size)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	uint32_t c;
	size_t text;

	if (!fetch_number(t, head, &c, &text))
		return (begin_line(t, head));
	if (h->own == OWN_LOOK_BODY) {
		imap4_look_fetch(t, bytes_cut(head, text + 7));
		relayed_start(&h->look_hash, p->key);
		h->hashing = 1;
		h->lit_left = size;
		return (start(t, STREAM_LITERAL, head.n));
	}
	h->never |= h->own >= OWN_LOOK;		/* what would tell messages apart is too long to be looked at */
	if (!asked(t) || h->stage != AT_SAVED || had(t, c))
		return (skip(t, size, head.n));
	if (p->streaming == STREAM_LINE || (p->streaming == STREAM_LITERAL && p->lit_seq != c)) {
		h->missed = 1;
		return (skip(t, size, head.n));
	}
	h->lit_seq = c;
	if (p->streaming == STREAM_LITERAL)
		return (resume_literal(t, size) ? start(t, STREAM_LITERAL, head.n) : TOOK_DIFFERS);
	h->fetch_seq = c;
	out_fmt(t->client, "* %u FETCH (", c);
	tell_items(t, bytes_cut(head, text + 7));
	p->streaming = STREAM_LITERAL;
	p->lit_seq = c;
	fresh_literal(t, size);
	return (start(t, STREAM_LITERAL, head.n));
}

/*
 * The end of a command is a line, and so is +. One too long to be held names the UIDs of copies, which a server may leave
 * out (RFC 4315 section 3): the client hears at once that it was done, and no death within the rest matters.
 */
static enum took
long_end(struct turn *t, struct bytes in)
{
	uint8_t text[TAG_MAX + 32];
	struct out o = { text, 0, sizeof(text), false };
	struct bytes rest = in, tag = bytes_token(&rest, ' ');
	enum took k;

	if (tag.n > TAG_MAX || !bytes_casestart(rest, BYTES("OK [COPYUID ")))
		return (TOOK_NONSENSE);
	out_put(&o, tag);
	out_str(&o, " OK Completed");
	k = imap4_line(t, bytes(text, o.len));
	if (k == TOOK_ONE || k == TOOK_ANSWERED)
		(void)skip(t, 0, 0);
	return (k);
}

enum took
imap4_line_begin(struct turn *t, struct bytes in)
{
	struct have *h = H(t);

	if (in.p[0] != '*')
		return (long_end(t, in));
	if (bytes_casestart(in, BYTES("* OK [COPYUID ")))	/* MOVE's: a part of it could not be mended */
		return (skip(t, 0, 0));
	if (bytes_casestart(in, BYTES("* VANISHED ")) && in.n > 11 && in.p[11] != '(') {
		if (!imap4_tell_selected(t))
			return (TOOK_MORE);
		h->walk = (struct setwalk){ 0 };
		h->set_end = h->esearch = 0;
		return (start(t, STREAM_VANISHED, 11));
	}
	if (imap4_selecting(t) && bytes_casestart(in, BYTES("* VANISHED (EARLIER) ")))
		return (start(t, STREAM_EARLIER, 21));
	return (begin_line(t, in));
}

/* Octets on their way; 0 went, -1 they differ from what the client has. n: how many were taken. */
static int
pass(struct turn *t, struct bytes b, size_t *n)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	*n = b.n;
	if (h->hashing) {
		imap4_hash_content(&h->look_hash, b);
		return (0);
	}
	if (h->skipping)
		return (0);
	if (h->catching) {
		if (*n > p->body.k - h->body.k)
			*n = (size_t)(p->body.k - h->body.k);
		relayed_add(&h->body, bytes(b.p, *n));
		if (h->body.k < p->body.k)
			return (0);
		h->catching = 0;
		return (relayed_same(&h->body, &p->body) ? 0 : -1);
	}
	if (*n > out_room(t->client) - ROOM)
		*n = out_room(t->client) - ROOM;
	out_put(t->client, bytes(b.p, *n));
	relayed_add(&p->body, bytes(b.p, *n));
	return (0);
}

/* As pass, with the numbers of messages translated; what the hash covers is what the client sees. */
static int
pass_numbers(struct turn *t, struct bytes b, size_t *n, bool ends)
{
	uint8_t text[8192];
	struct out o = { text, 0, sizeof(text), false };
	size_t went;

	*n = imap4_numbers(t, bytes(b.p, b.n < 2000 ? b.n : 2000), ends && b.n <= 2000, &o);
	for (struct bytes rest = bytes(text, o.len); rest.n > 0; rest = bytes_cut(rest, went))
		if (pass(t, rest, &went) == -1 || went == 0)
			return (-1);
	return (0);
}

static void
stream_end(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	if (!h->skipping && !h->hashing) {
		if (h->lit_seq != 0)
			mark_done(t, h->lit_seq);
		p->streaming = STREAM_NONE;
		p->body = (struct relayed){ 0 };
		p->lit_seq = 0;
		imap4_tell_exists(t);
	}
	h->in_stream = STREAM_NONE;
	h->skipping = h->catching = h->translate = h->hashing = 0;
	h->lit_no = h->lit_seq = 0;
}

/* The line behind a literal of FETCH, whole: another literal, or the response's end. */
static enum took
tail(struct turn *t, struct bytes line, bool more, uint64_t size)
{
	struct have *h = H(t);
	bool emit = !h->skipping && !h->hashing;

	if (h->catching)
		return (TOOK_DIFFERS);		/* shorter than what the client has: cannot be, sizes are equal */
	if (h->hashing && !more)
		imap4_look_body(t);
	h->fetch_seq = h->lit_seq;
	if (emit)
		tell_items(t, line);
	if (!more) {
		stream_end(t);
		return (TOOK_ONE);
	}
	h->lit_no++;
	if (emit)
		fresh_literal(t, size);
	else if (h->skipping)
		return (resume_literal(t, size) ? TOOK_ONE : TOOK_DIFFERS);
	else
		h->lit_left = size;
	return (TOOK_ONE);
}

static enum took
literal_octets(struct turn *t, struct bytes in, size_t *used)
{
	struct have *h = H(t);
	size_t n = in.n < h->lit_left ? in.n : (size_t)h->lit_left;

	if (pass(t, bytes(in.p, n), &n) == -1)
		return (TOOK_DIFFERS);
	h->lit_left -= n;
	*used = n;
	return (n > 0 ? TOOK_ONE : TOOK_MORE);
}

static enum took
line_octets(struct turn *t, struct bytes in, size_t *used, bool ends, bool more, uint64_t size)
{
	struct have *h = H(t);
	size_t n = in.n;

	if ((h->translate && !h->skipping ? pass_numbers(t, in, &n, ends) : pass(t, in, &n)) == -1)
		return (TOOK_DIFFERS);
	*used = n;
	if (n < in.n || !ends)
		return (n > 0 ? TOOK_ONE : TOOK_MORE);
	if (more)
		h->lit_left = size;
	else if (h->catching)
		return (TOOK_DIFFERS);
	else
		stream_end(t);
	return (TOOK_ONE);
}

enum took
imap4_stream(struct turn *t, struct bytes in, size_t *used)
{
	struct have *h = H(t);
	const uint8_t *lf;
	struct bytes line;
	bool sync, binary, more;
	uint64_t size = 0;

	if (in.n == 0 && h->lit_left > 0)
		return (TOOK_MORE);
	if (h->lit_left > 0)
		return (literal_octets(t, in, used));
	lf = memchr(in.p, '\n', in.n);
	if (lf == NULL && h->in_stream == STREAM_LITERAL)
		return (in.n < LONG_TAIL ? TOOK_MORE : TOOK_NONSENSE);
	if (lf == NULL) {		/* its end may say that a literal follows */
		if (in.n <= TAIL)
			return (TOOK_MORE);
		return (line_octets(t, bytes(in.p, in.n - TAIL), used, false, false, 0));
	}
	line = bytes(in.p, (size_t)(lf - in.p) + 1);
	more = line.n >= 2 &&
	    token_literal(bytes(line.p, line.n - (line.p[line.n - 2] == '\r' ? 2 : 1)), &size, &sync, &binary);
	if (h->in_stream == STREAM_LITERAL) {
		*used = line.n;
		return (tail(t, line, more, size));
	}
	return (line_octets(t, line, used, true, more, size));
}
