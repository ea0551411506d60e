/*
 * untagged - the effect of untagged responses on the session, and which of them the client sees; pure
 *
 * The client's view follows what it was told. EXPUNGE is told where the protocol lets a server do so, and otherwise
 * becomes a ghost (RFC 9051 section 7.5.1). What belongs to the gateway's own commands is never told.
 */
#include "imap4/imap4.h"
#include "imap4/token.h"

enum { FLUSH_WHOLE = 98304,	/* of the 128 KiB that the client may be owed */
	PART = 8192, UNIT = 64, STRING = 320 /* a tag */ };

bool
imap4_ours(const struct turn *t)
{
	const struct have *h = H(t);

	if (h->own == OWN_NONE)
		return (false);
	return (!(P(t)->command == CMD_SELECT && h->said && !h->tagged_seen));	/* learning goes out behind SELECT */
}

bool
imap4_selecting(const struct turn *t)
{
	return (P(t)->command == CMD_SELECT && H(t)->said && !H(t)->tagged_seen);
}

/* The numbers of both sides agree, over the ghosts. */
static bool
live(const struct turn *t)
{
	return (P(t)->phase == SELECTED && H(t)->stage >= AT_COMPARED);
}

bool
imap4_flush_buf(struct turn *t)
{
	struct have *h = H(t);
	uint32_t n = h->buf_len - h->buf_at, room = (uint32_t)out_room(t->client);
	const uint8_t *text = S(t, S_BUF + h->buf_at), *lf;

	room = room > 4096 ? room - 4096 : 0;
	if (n > room) {		/* a small one at once, so that no death falls within it, and none within a line */
		lf = n <= FLUSH_WHOLE ? NULL : memrchr(text, '\n', room);
		n = lf == NULL ? 0 : (uint32_t)(lf + 1 - text);
	}
	(void)out_put(t->client, bytes(text, n));
	h->buf_at += n;
	h->full = h->buf_at < h->buf_len;
	if (!h->full)
		h->buf_at = h->buf_len = 0;
	return (!h->full);
}

/* To the client; the answer to SELECT only when it is whole, so that a death within it is not seen. */
static enum took
tell(struct turn *t, struct bytes rest)
{
	struct have *h = H(t);

	if (P(t)->streaming)		/* the client is within a response: nothing may come between */
		return (TOOK_ONE);
	if (!imap4_selecting(t)) {
		out_str(t->client, "* ");
		imap4_relay(t, rest);
		return (TOOK_ONE);
	}
	if (rest.n + 4 > S_BUF_SIZE - h->buf_len && !imap4_flush_buf(t))
		return (TOOK_MORE);
	memcpy(S(t, S_BUF + h->buf_len), "* ", 2);
	memcpy(S(t, S_BUF + h->buf_len + 2), rest.p, rest.n);
	memcpy(S(t, S_BUF + h->buf_len + 2 + (uint32_t)rest.n), "\r\n", 2);
	h->buf_len += (uint32_t)rest.n + 4;
	return (TOOK_ONE);
}

/* Between the answers of one mailbox and of the next (RFC 7162 section 3.2.11); a backend says so only if it had the first. */
void
imap4_tell_closed(struct turn *t)
{
	const struct pst *p = P(t);
	bool before = p->untold ? p->untold == 2 : p->phase == SELECTED;

	if (before && H(t)->stage == AT_AUTH && (caps_has(t, "QRESYNC") || caps_has(t, "IMAP4rev2")))
		(void)tell(t, BYTES("OK [CLOSED] Previous mailbox closed"));
}

/* --- numbers ------------------------------------------------------------------------------------------------------ */

static enum took
exists(struct turn *t, uint32_t n, struct bytes rest)
{
	struct mbox *m = &P(t)->box;
	struct have *h = H(t);
	uint64_t c;

	h->exists = n;
	if (imap4_selecting(t))
		return (tell(t, rest));
	if (!live(t))
		return (TOOK_ONE);
	c = (uint64_t)n + h->ghosts;
	if (c < m->exists || c > UINT32_MAX)
		return (TOOK_NONSENSE);		/* a mailbox shrinks by EXPUNGE alone */
	imap4_tell_exists(t);
	return (TOOK_ONE);
}

/*
 * Where \Recent is the gateway's to show (protocols.md 1.4.4) the backend's count adds to what the client was told
 * before.
 */
void
imap4_recents(struct turn *t, uint32_t n)
{
	struct mbox *m = &P(t)->box;
	struct have *h = H(t);
	uint64_t sum = (uint64_t)h->recent_base + n;

	h->recents = n;
	if (sum <= m->recents || sum > UINT32_MAX || P(t)->streaming || imap4_waits_plus(t))
		return;
	m->recents = (uint32_t)sum;
	h->recent_asked = 0;
	out_fmt(t->client, "* %u RECENT\r\n", m->recents);
}

static enum took
recent(struct turn *t, uint32_t n, struct bytes rest)
{
	struct mbox *m = &P(t)->box;
	struct have *h = H(t);

	if (live(t) && h->fake_recent) {
		imap4_recents(t, n);
		return (TOOK_ONE);
	}
	h->recents = n;
	if (imap4_selecting(t))
		return (tell(t, rest));
	if (!live(t) || imap4_waits_plus(t))
		return (TOOK_ONE);
	if (n != m->recents) {
		m->recents = n;
		m->nrecent = 0;
		h->recent_asked = 0;
	}
	return (tell(t, rest));
}

/*
 * Not while UIDs are learned: their list counts by what was there before. Nor within UID SEARCH, whose keys may be numbers:
 * another backend is asked for the same ones.
 */
static bool
may_tell_expunge(const struct turn *t)
{
	const struct have *h = H(t);

	return (imap4_expunge_legal(t) && P(t)->command != CMD_SEARCH && h->nghost == 0 && h->own != OWN_LEARN &&
	    h->own != OWN_TAIL);
}

static enum took
expunge_one(struct turn *t, uint32_t client, bool vanished)
{
	struct have *h = H(t);

	if (!may_tell_expunge(t)) {
		if ((h->own == OWN_LEARN || h->own == OWN_TAIL) && client > P(t)->box.known) {
			h->tail_for = 0;	/* its UID is not known; nor which those after it have, if their list is still to come */
			h->learning_ghost = h->learning_ghost || !h->got_set;
		}
		if (h->own == OWN_LEARN && P(t)->box.known < P(t)->box.exists)
			h->learning_ghost = 1;	/* the list was without it */
		return (view_ghost(t, client, 1) ? TOOK_ONE : TOOK_NEVER);
	}
	if (!vanished)
		out_fmt(t->client, "* %u EXPUNGE\r\n", client);
	view_expunge(t, client);
	return (TOOK_ONE);
}

static enum took
expunge(struct turn *t, uint32_t n, struct bytes rest)
{
	struct have *h = H(t);

	if (imap4_selecting(t))
		return (tell(t, rest));		/* of the mailbox left behind */
	if (n > h->exists)
		return (TOOK_NONSENSE);
	h->exists--;
	if (live(t))
		return (expunge_one(t, view_client(t, n), false));
	h->resync = 1;
	return (TOOK_ONE);
}

/*
 * Which messages of the tail they are is not known, so they cannot be kept for the end of a UID SEARCH. They came while it ran:
 * none of its keys means one of them by number, and they are told at once.
 */
static bool
tail_goes(struct turn *t, uint32_t lo, uint32_t last, uint32_t n)
{
	const struct mbox *m = &P(t)->box;
	struct have *h = H(t);
	bool ghost;
	uint32_t below = m->known + 1 - view_server(t, m->known + 1, &ghost);

	if (!imap4_expunge_legal(t) || P(t)->command != CMD_SEARCH || ghost || below != h->ghosts || out_room(t->client) < 1024)
		return (false);
	out_fmt(t->client, lo == last ? "* VANISHED %u\r\n" : "* VANISHED %u:%u\r\n", lo, last);
	h->exists -= n < h->exists ? n : h->exists;
	for (uint32_t k = 0; k < n; k++)
		view_expunge(t, m->exists);
	return (true);
}

/* These have gone, the last ones first. Of the tail only how many is known. */
static enum took
vanish(struct turn *t, struct range u)
{
	struct mbox *m = &P(t)->box;
	struct have *h = H(t);
	uint32_t last = view_last(t), nr, seq;
	uint64_t end = (uint64_t)u.lo + u.n, tail, k;

	tail = end > (uint64_t)last + 1 ? end - (u.lo > last ? u.lo : last + 1) : 0;
	if (tail > m->exists - m->known)
		tail = m->exists - m->known;
	if (tail > 0 && tail < m->exists - m->known && !may_tell_expunge(t)) {
		if (!tail_goes(t, u.lo > last ? u.lo : last + 1, (uint32_t)(end - 1), (uint32_t)tail))
			return (TOOK_NEVER);		/* which of those that are not known they are */
		tail = 0;
	}
	h->exists -= tail < h->exists ? (uint32_t)tail : h->exists;
	for (k = 0; k < tail; k++)
		if (expunge_one(t, may_tell_expunge(t) ? m->exists : m->exists - (uint32_t)k, true) == TOOK_NEVER)
			return (TOOK_NEVER);
	for (uint32_t i = m->n; i > 0; i--) {
		struct range v = view_ranges(t, &nr)[i - 1];	/* a change may be made in the other copy */

		for (k = (uint64_t)v.lo + v.n < end ? (uint64_t)v.lo + v.n : end; k > v.lo && k > u.lo; k--) {
			if (h->exists > 0)
				h->exists--;
			seq = m->coarse ? m->exists : view_seq(t, (uint32_t)k - 1);	/* it may have become that */
			if (expunge_one(t, seq, true) == TOOK_NEVER)
				return (TOOK_NEVER);
		}
	}
	return (TOOK_ONE);
}

/* QRESYNC's way (RFC 7162 section 3.2.10). */
static enum took
vanished(struct turn *t, struct bytes rest)
{
	struct bytes uids = bytes_cut(rest, 9);
	struct have *h = H(t);
	struct setwalk w = { 0 };
	struct range u;
	int k;

	if (uids.n > 0 && uids.p[0] == '(')		/* EARLIER: the answer to a command, about no number */
		return (imap4_ours(t) ? TOOK_ONE : tell(t, rest));
	if (imap4_selecting(t))
		return (tell(t, rest));
	for (size_t i = 0; i <= uids.n; i++) {
		if ((k = setwalk_step(&w, i < uids.n ? uids.p[i] : ',', &u)) == -1)
			return (TOOK_NONSENSE);
		if (k == 1 && live(t)) {
			if (vanish(t, u) == TOOK_NEVER)
				return (TOOK_NEVER);
		} else if (k == 1) {
			h->resync = 1;
			h->exists -= u.n < h->exists ? u.n : h->exists;
		}
	}
	return (live(t) && may_tell_expunge(t) ? tell(t, rest) : TOOK_ONE);
}

/* One that is long is told in parts, each whole; the comma between two goes. */
enum took
imap4_earlier(struct turn *t, struct bytes in, size_t *used)
{
	uint8_t text[PART + 64];
	struct out o = { text, 0, sizeof(text), false };
	const uint8_t *lf = memchr(in.p, '\n', in.n < PART ? in.n : PART), *end = lf;
	struct bytes set;

	if (lf == NULL && in.n < PART)
		return (TOOK_MORE);
	if (lf == NULL && (end = memrchr(in.p, ',', PART)) == NULL)
		return (TOOK_NONSENSE);
	set = bytes(in.p, (size_t)(end - in.p));
	if (set.n > 0 && set.p[set.n - 1] == '\r')
		set.n--;
	out_str(&o, "VANISHED (EARLIER) ");
	out_put(&o, set);
	if (tell(t, bytes(text, o.len)) == TOOK_MORE)
		return (TOOK_MORE);
	*used = (size_t)(end - in.p) + 1;
	if (lf != NULL)
		H(t)->in_stream = STREAM_NONE;
	return (TOOK_ONE);
}

/* --- flags of the mailbox ----------------------------------------------------------------------------------------- */

/* The same for the same ones in any order, as servers have their own. */
static uint32_t
flags_hash(struct bytes list)
{
	uint32_t sum = 1, word = 0;

	for (size_t i = 0; i < list.n && list.p[i] != ')'; i++) {
		uint8_t c = list.p[i];

		if (c == ' ' || c == '(') {
			sum += word;
			word = 0;
		} else
			word = (word ^ (c >= 'A' && c <= 'Z' ? c | 32 : c)) * 16777619u + 1;
	}
	return (sum + word);
}

/* Another backend's are told if they are not those that the client heard last (protocols.md 1.4.3). */
static enum took
mailbox_flags(struct turn *t, uint32_t *told, struct bytes list, struct bytes rest)
{
	const struct have *h = H(t);
	uint32_t hash = flags_hash(list);
	bool news = (h->own == OWN_SELECT || h->own == OWN_COMPARE) && hash != *told,
	    own = imap4_ours(t) || P(t)->command == CMD_NONE || !h->said;

	if (P(t)->streaming || imap4_waits_plus(t) || (own && !live(t) && !news))
		return (TOOK_ONE);
	*told = hash;
	return (tell(t, rest));
}

/* --- codes -------------------------------------------------------------------------------------------------------- */

static void
number(struct bytes b, uint32_t *n)
{
	uint64_t v;

	if (bytes_num(b, 0, UINT32_MAX, &v) == 0)
		*n = (uint32_t)v;
}

enum took
imap4_code(struct turn *t, struct bytes text)
{
	struct have *h = H(t);
	struct bytes arg, name;
	const uint8_t *end;

	if (text.n < 2 || text.p[0] != '[' || (end = memchr(text.p, ']', text.n)) == NULL)
		return (TOOK_ONE);
	arg = bytes(text.p + 1, (size_t)(end - text.p) - 1);
	name = bytes_token(&arg, ' ');
	if (bytes_caseeq(name, BYTES("CAPABILITY"))) {
		h->capinfo = (struct caps_imap4){ 0 };
		h->caps = caps_parse(arg, &h->capinfo);
		h->cap_seen = 1;
	} else if (bytes_caseeq(name, BYTES("UIDVALIDITY")))
		number(arg, &h->uidvalidity);
	else if (bytes_caseeq(name, BYTES("UIDNEXT")))
		number(arg, &h->uidnext);
	else if (bytes_caseeq(name, BYTES("HIGHESTMODSEQ"))) {
		if (bytes_num(arg, 0, INT64_MAX, &h->modseq) == -1)
			h->modseq = 0;
	} else if (bytes_caseeq(name, BYTES("NOMODSEQ")))
		h->nomodseq = 1;
	else if (bytes_caseeq(name, BYTES("UIDNOTSTICKY")))
		h->notsticky = 1;
	else if (bytes_caseeq(name, BYTES("READ-ONLY")))
		h->read_only = 1;
	else if (bytes_caseeq(name, BYTES("READ-WRITE")))
		h->read_only = 0;
	return (TOOK_ONE);
}

static enum took
condition(struct turn *t, struct bytes text, struct bytes rest)
{
	const struct have *h = H(t);
	bool ours = imap4_ours(t);

	if (h->own == OWN_SELECT || h->own == OWN_LOOK_SELECT || h->stage < AT_AUTH || imap4_selecting(t) ||
	    bytes_casestart(text, BYTES("[CAPABILITY ")))
		(void)imap4_code(t, text);
	if (bytes_casestart(text, BYTES("[CAPABILITY ")))
		return (TOOK_ONE);
	/* of a mailbox told with SELECT (RFC 7162 section 3.1.2); else it was we who asked */
	if (!P(t)->condstore && !(imap4_selecting(t) && caps_offered(t, BYTES("CONDSTORE"))) &&
	    (bytes_casestart(text, BYTES("[HIGHESTMODSEQ ")) || bytes_casestart(text, BYTES("[NOMODSEQ]"))))
		return (TOOK_ONE);
	if (bytes_casestart(text, BYTES("[ALERT]")) && P(t)->phase != NOTAUTH)
		return (tell(t, rest));
	if (bytes_casestart(text, BYTES("[PERMANENTFLAGS ")))
		return (mailbox_flags(t, &P(t)->permanent_told, bytes_cut(text, 16), rest));
	if (bytes_casestart(text, BYTES("[CLOSED]")) && !imap4_selecting(t))
		return (TOOK_ONE);
	/* a word to keep a connection awake is ours to give, when it is due on this side */
	if (ours || P(t)->command == CMD_NONE || !h->said ||
	    (P(t)->command == CMD_IDLE && !bytes_casestart(text, BYTES("["))))
		return (TOOK_ONE);
	if (P(t)->command == CMD_MOVE && bytes_casestart(text, BYTES("[COPYUID ")))
		P(t)->result_told = 1;
	return (tell(t, rest));
}

static enum took
enabled(struct turn *t, struct bytes list, struct bytes rest)
{
	static const char *const name[] = { "CONDSTORE", "QRESYNC", "UTF8=ACCEPT", "IMAP4rev2", "METADATA",
		"METADATA-SERVER" };

	if (imap4_ours(t) || P(t)->command != CMD_ENABLE)
		return (TOOK_ONE);
	while (list.n > 0) {
		struct bytes w = bytes_token(&list, ' ');

		for (size_t i = 0; i < sizeof(name) / sizeof(name[0]); i++)
			if (bytes_caseeq(w, bytes_str(name[i])))
				P(t)->enabled |= (uint8_t)(1u << i);
	}
	if (P(t)->enabled & 3)
		imap4_condstore(t);
	return (tell(t, rest));
}

/* --- results ------------------------------------------------------------------------------------------------------ */

static bool
is_digit(uint8_t c)
{
	return (c >= '0' && c <= '9');
}

/* The octets of what stands first: a string, a number or range, a word, or what else; 0: it may go on behind what is there. */
static size_t
unit(struct bytes b, bool ends)
{
	size_t n = 0, most = b.n < UNIT ? b.n : UNIT;
	const uint8_t *end;

	if (b.p[0] == '"') {
		end = memchr(b.p + 1, '"', (b.n < STRING ? b.n : STRING) - 1);
		return (end != NULL ? (size_t)(end - b.p) + 1 : ends || b.n >= STRING ? 1 : 0);
	}
	while (n < most && (is_digit(b.p[n]) || b.p[n] == ':'))
		n++;
	while (n < most && !is_digit(b.p[0]) && ((b.p[n] | 32) >= 'a' && (b.p[n] | 32) <= 'z'))
		n++;
	/* the number of COUNT counts, and MODSEQ is one of its own */
	if (bytes_caseeq(bytes(b.p, n), BYTES("COUNT")) || bytes_caseeq(bytes(b.p, n), BYTES("MODSEQ")))
		for (n += n < most; n < most && is_digit(b.p[n]);)
			n++;
	return (n == b.n && !ends ? 0 : n == 0 ? 1 : n);
}

size_t
imap4_numbers(const struct turn *t, struct bytes b, bool ends, struct out *o)
{
	size_t at = 0, n;
	uint64_t lo, hi;

	for (; at < b.n && out_room(o) > STRING && (n = unit(bytes_cut(b, at), ends)) > 0; at += n) {
		struct bytes rest = bytes(b.p + at, n), first = bytes_token(&rest, ':');

		if (bytes_num(first, 1, UINT32_MAX, &lo) == -1 || (rest.n > 0 && bytes_num(rest, 1, UINT32_MAX, &hi) == -1))
			out_put(o, bytes(b.p + at, n));
		else if (rest.n == 0)
			out_fmt(o, "%u", view_client(t, (uint32_t)lo));
		else
			view_print(t, (uint32_t)lo, (uint32_t)hi, o, (b.n - at) + (b.n - at) / 4);
	}
	return (at);
}

static enum took
results(struct turn *t, struct bytes rest)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	struct out kept = { S(t, S_BUF + h->buf_len), 0, S_BUF_SIZE - h->buf_len, false },
	    *o = imap4_saves(t) ? &kept : t->client;

	if (p->result_told || p->streaming || h->buf_len > 0)
		return (TOOK_ONE);		/* again, by another backend */
	out_str(o, "* ");
	if (h->nghost == 0 || p->uid)
		out_put(o, rest);
	else
		(void)imap4_numbers(t, rest, true, o);
	out_str(o, "\r\n");
	if (o == &kept)		/* until $ is known: another backend may find something else */
		h->buf_len += (uint32_t)kept.len;
	else
		p->result_told = 1;
	return (kept.full ? TOOK_NONSENSE : TOOK_ONE);
}

/* STATUS of a target: the baseline, or a look. */
static void
status(struct turn *t, struct bytes list)
{
	struct have *h = H(t);
	struct bytes box, name, value;

	token_space(&list);
	if (!token_value(&list, &box))
		return;
	token_space(&list);
	if (list.n == 0 || list.p[0] != '(')
		return;
	h->st_there = THERE;
	for (list = bytes_cut(list, 1); token_item(&list, &name, &value);) {
		if (bytes_caseeq(name, BYTES("UIDVALIDITY")))
			number(value, &h->st_uidvalidity);
		else if (bytes_caseeq(name, BYTES("UIDNEXT")))
			number(value, &h->st_uidnext);
		else if (bytes_caseeq(name, BYTES("MAILBOXID")) && h->own == OWN_LOOK && value.n <= 257) {
			memcpy(S(t, S_BUF), value.p, value.n);
			h->kept_len = (uint32_t)value.n;
		}
	}
}

/* The name that is asked for; one with wildcards may bring others as well. */
static bool
is_target(const struct turn *t, struct bytes name)
{
	const struct pst *p = P(t);
	bool second = H(t)->own == OWN_BASE2 || H(t)->own == OWN_LOOK2;
	uint8_t ab[2048], bb[2048];
	struct bytes a, b, target = second ? bytes(Z(t, Z_CMD + p->target2_at), p->target2_len) :
	    bytes(Z(t, Z_CMD + p->target_at), p->target_len);

	if (!token_string(target, ab, sizeof(ab), &a) || !token_string(name, bb, sizeof(bb), &b))
		return (true);
	return (bytes_eq(a, b) || (memchr(a.p, '*', a.n) == NULL && memchr(a.p, '%', a.n) == NULL));
}

/* LIST of a target. */
static void
listed(struct turn *t, struct bytes list)
{
	struct bytes flags, delimiter, name, f;

	token_space(&list);
	if (!token_value(&list, &flags) || flags.p[0] != '(')
		return;
	token_space(&list);
	if (!token_value(&list, &delimiter))
		return;
	token_space(&list);
	if (!token_value(&list, &name) || !is_target(t, name))
		return;
	H(t)->st_there = THERE;
	for (flags = bytes(flags.p + 1, flags.n - 2); flags.n > 0;) {
		f = bytes_token(&flags, ' ');
		if (bytes_caseeq(f, BYTES("\\Noselect")))
			H(t)->st_there = THERE_NAME;
		if (bytes_caseeq(f, BYTES("\\NonExistent"))) {
			H(t)->st_there = THERE_NOT;
			return;
		}
	}
}

static enum took
numbered(struct turn *t, uint32_t n, struct bytes word, struct bytes args, struct bytes rest)
{
	if (bytes_caseeq(word, BYTES("EXISTS")))
		return (exists(t, n, rest));
	if (bytes_caseeq(word, BYTES("RECENT")))
		return (recent(t, n, rest));
	if (n == 0)
		return (TOOK_NONSENSE);
	if (bytes_caseeq(word, BYTES("EXPUNGE")))
		return (expunge(t, n, rest));
	if (!bytes_caseeq(word, BYTES("FETCH")) || args.n < 2 || args.p[0] != '(')
		return (TOOK_NONSENSE);
	return (imap4_selecting(t) ? tell(t, rest) : imap4_fetch(t, n, bytes_cut(args, 1)));
}

enum took
imap4_untagged(struct turn *t, struct bytes rest)
{
	struct have *h = H(t);
	struct bytes args = rest, word = bytes_token(&args, ' ');
	uint64_t n;

	/* what happens in the mailbox is told behind the answer to SELECT */
	if (h->held && (bytes_num(word, 0, UINT32_MAX, &n) == 0 || bytes_caseeq(word, BYTES("VANISHED")) ||
	    bytes_caseeq(word, BYTES("FLAGS"))) && !imap4_tell_selected(t))
		return (TOOK_MORE);
	if (bytes_num(word, 0, UINT32_MAX, &n) == 0) {
		word = bytes_token(&args, ' ');
		return (numbered(t, (uint32_t)n, word, args, rest));
	}
	if (bytes_caseeq(word, BYTES("BYE")))
		return (h->own == OWN_LOGOUT ? TOOK_ONE : TOOK_LEAVING);
	if (bytes_caseeq(word, BYTES("OK")) || bytes_caseeq(word, BYTES("NO")) || bytes_caseeq(word, BYTES("BAD")))
		return (condition(t, args, rest));
	if (bytes_caseeq(word, BYTES("CAPABILITY"))) {
		h->capinfo = (struct caps_imap4){ 0 };
		h->caps = caps_parse(args, &h->capinfo);
		h->cap_seen = 1;
		return (TOOK_ONE);
	}
	if (bytes_caseeq(word, BYTES("VANISHED")))
		return (vanished(t, rest));
	if (bytes_caseeq(word, BYTES("ENABLED")))
		return (enabled(t, args, rest));
	if (bytes_caseeq(word, BYTES("STATUS")) && imap4_ours(t)) {
		status(t, args);
		return (TOOK_ONE);
	}
	if (bytes_caseeq(word, BYTES("LIST")) && imap4_ours(t)) {
		listed(t, args);
		return (TOOK_ONE);
	}
	if (bytes_caseeq(word, BYTES("FLAGS")))
		return (mailbox_flags(t, &P(t)->flags_told, args, rest));
	if (imap4_ours(t) || P(t)->command == CMD_NONE || !h->said)
		return (TOOK_ONE);
	if (P(t)->flags & F_RESULT && (bytes_caseeq(word, BYTES("SEARCH")) || bytes_caseeq(word, BYTES("ESEARCH")) ||
	    bytes_caseeq(word, BYTES("SORT")) || bytes_caseeq(word, BYTES("THREAD"))))
		return (results(t, rest));
	return (tell(t, rest));
}
