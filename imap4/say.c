/*
 * say - commands towards the backend: composed in S_TEXT with the client's numbers translated and its literals written
 * anew, then written piece by piece; pure
 *
 * A contiguous range of the client's numbers is a contiguous range of the backend's, and of UIDs: no set grows by
 * translation.
 */
#include <stdio.h>

#include "imap4/imap4.h"
#include "imap4/token.h"

/* --- composing ---------------------------------------------------------------------------------------------------- */

void
imap4_say_begin(struct turn *t)
{
	struct have *h = H(t);

	h->text_len = h->text_at = h->npause = 0;
	h->text_out = 1;
}

static bool
put(struct turn *t, struct bytes b)
{
	struct have *h = H(t);

	if (b.n > S_TEXT_SIZE - h->text_len)
		return (false);
	if (b.n > 0)
		memcpy(S(t, S_TEXT + h->text_len), b.p, b.n);
	h->text_len += (uint32_t)b.n;
	return (true);
}

bool
imap4_sayf(struct turn *t, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return (n >= 0 && (size_t)n < sizeof(text) && put(t, bytes(text, (size_t)n)));
}

static bool
quote(struct turn *t, struct bytes b)
{
	bool good = put(t, BYTES("\""));

	for (size_t i = 0; i < b.n && good; i++)
		good = (b.p[i] != '"' && b.p[i] != '\\') || put(t, BYTES("\\")) ? put(t, bytes(b.p + i, 1)) : false;
	return (good && put(t, BYTES("\"")));
}

static bool
literal(struct turn *t, struct bytes b, bool binary)
{
	struct have *h = H(t);
	bool plus = caps_has(t, "LITERAL+") || (caps_has(t, "LITERAL-") && b.n <= 4096);

	/* of a command that the backend may not know: Dovecot 2.3 refuses it and takes the literal for commands */
	plus = plus && P(t)->command != CMD_UNKNOWN && P(t)->command != CMD_RELAY && P(t)->command != CMD_SEARCH &&
	    P(t)->command != CMD_MOVE;
	if (!binary && token_quotable(b))
		return (quote(t, b));
	if (!imap4_sayf(t, "%s{%zu%s}\r\n", binary ? "~" : "", b.n, plus ? "+" : ""))
		return (false);
	if (!plus) {
		if (h->npause == PAUSES)
			return (false);
		h->pause[h->npause++] = h->text_len;
	}
	return (put(t, b));
}

bool
imap4_say_literal(struct turn *t, struct bytes text)
{
	return (literal(t, text, false));
}

bool
imap4_say(struct turn *t, struct bytes raw)
{
	uint64_t n;
	bool sync, binary;

	while (raw.n > 0) {
		const uint8_t *open = memchr(raw.p, '{', raw.n), *lf,
		    *q = memchr(raw.p, '"', open != NULL ? (size_t)(open - raw.p) : raw.n);
		struct bytes rest, v;

		if (q != NULL) {		/* a string first: what is in it is no literal */
			rest = bytes_cut(raw, (size_t)(q - raw.p));
			if (!token_value(&rest, &v) || !put(t, bytes(raw.p, (size_t)(rest.p - raw.p))))
				return (false);
			raw = rest;
			continue;
		}
		if (open == NULL)
			return (put(t, raw));
		if ((lf = memchr(open, '\n', raw.n - (size_t)(open - raw.p))) == NULL ||
		    !token_literal(bytes(raw.p, (size_t)(lf - 1 - raw.p)), &n, &sync, &binary))
			return (false);
		rest = bytes_cut(raw, (size_t)(lf + 1 - raw.p));
		if (n > rest.n || !put(t, bytes(raw.p, (size_t)(open - raw.p) - binary)) ||
		    !literal(t, bytes(rest.p, n), binary))
			return (false);
		raw = bytes_cut(rest, n);
	}
	return (true);
}

bool
imap4_can_say(struct bytes raw)
{
	struct bytes v, text;
	uint32_t n = 0;

	while (raw.n > 0) {
		bool binary = raw.p[0] == '~' && raw.n > 1 && raw.p[1] == '{';

		if (raw.p[0] != '"' && raw.p[0] != '{' && !binary) {
			raw = bytes_cut(raw, 1);
			continue;
		}
		if (!token_value(&raw, &v))
			return (true);		/* no literal, whatever it is */
		if (v.p[0] != '"' && token_string(v, NULL, 0, &text) && (binary || !token_quotable(text)))
			n++;
	}
	return (n <= PAUSES);
}

bool
imap4_say_set(struct turn *t, const struct range *r, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (!(r[i].n == 1 ? imap4_sayf(t, "%s%u", i > 0 ? "," : "", r[i].lo) :
		    imap4_sayf(t, "%s%u:%u", i > 0 ? "," : "", r[i].lo, r[i].lo + (r[i].n - 1))))
			return (false);
	return (true);
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

enum next
imap4_say_more(struct turn *t)
{
	struct have *h = H(t);

	while (h->text_at < h->text_len) {
		uint32_t to = h->text_len, room = (uint32_t)out_room(t->backend);

		for (uint32_t i = h->npause; i > 0; i--)
			if (h->pause[i - 1] > h->text_at)
				to = h->pause[i - 1];
		if (to - h->text_at > room)
			to = h->text_at + room;
		if (to == h->text_at)
			return (NEXT_SAY);
		(void)out_put(t->backend, bytes(S(t, S_TEXT + h->text_at), to - h->text_at));
		h->text_at = to;
		for (uint32_t i = 0; i < h->npause; i++)
			if (h->pause[i] == to) {
				h->plus_wait = 1;
				return (NEXT_SAY);
			}
	}
	h->text_out = 0;
	if (h->own == OWN_NONE && h->said)
		h->sent = 1;
	return (NEXT_SAY);
}

void
imap4_own_begin(struct turn *t, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	if (vsnprintf(text, sizeof(text), fmt, ap) < 0)
		text[0] = '\0';
	va_end(ap);
	imap4_say_begin(t);
	(void)imap4_sayf(t, "~%s.%u ", t->peer->session, ++H(t)->own_no);
	(void)put(t, bytes_str(text));
}

enum next
imap4_own_end(struct turn *t, enum own own)
{
	H(t)->own = (uint8_t)own;
	(void)put(t, BYTES("\r\n"));
	return (imap4_say_more(t));
}

enum next
imap4_own(struct turn *t, enum own own, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	if (vsnprintf(text, sizeof(text), fmt, ap) < 0)
		text[0] = '\0';
	va_end(ap);
	imap4_own_begin(t, "%s", text);
	return (imap4_own_end(t, own));
}

/* --- the client's command ----------------------------------------------------------------------------------------- */

static struct bytes
part(const struct turn *t, uint32_t from, uint32_t to)
{
	return (bytes(Z(t, Z_CMD + from), to - from));
}

static struct range *
cand(const struct turn *t)
{
	return ((struct range *)(void *)S(t, S_CAND));
}

static const struct range *
ghosts(const struct turn *t)
{
	return ((const struct range *)(const void *)S(t, S_GHOST));
}

static struct bytes
set_text(const struct turn *t)
{
	return (part(t, P(t)->set_at, P(t)->set_at + P(t)->set_len));
}

/* A set of client's numbers in S_CAND; false: $, too many, or no set. */
static bool
numbers(const struct turn *t, struct bytes text, uint32_t *n)
{
	return (set_parse(text, P(t)->box.exists > 0 ? P(t)->box.exists : 1, cand(t), n, CAND_MAX));
}

bool
imap4_names_ghost(const struct turn *t)
{
	uint32_t n;

	if (P(t)->uid || H(t)->nghost == 0 || P(t)->set_len == 0 || !numbers(t, set_text(t), &n))
		return (false);
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t k = 0; k < H(t)->nghost; k++) {
			const struct range *a = &cand(t)[i], *b = &ghosts(t)[k];

			if (a->lo < (uint64_t)b->lo + b->n && b->lo < (uint64_t)a->lo + a->n)
				return (true);
		}
	return (false);
}

/* Without the ghosts, in the backend's numbers. Neighbours melt together. */
static void
to_server(const struct turn *t, struct range *r, uint32_t *n)
{
	uint32_t k = 0;

	(void)set_subtract(r, n, CAND_MAX, ghosts(t), H(t)->nghost);
	for (uint32_t i = 0; i < *n; i++) {
		bool ghost;
		uint32_t lo = view_server(t, r[i].lo, &ghost);

		if (k > 0 && r[k - 1].lo + r[k - 1].n == lo)
			r[k - 1].n += r[i].n;
		else
			r[k++] = (struct range){ lo, r[i].n };
	}
	*n = k;
}

/*
 * The set of FETCH, STORE without ghosts and what the client has already; 1 said, 0 nothing is left of it, -1 no room.
 */
static int
say_numbers(struct turn *t, bool minus_done)
{
	const struct pst *p = P(t);
	uint32_t n;

	if ((H(t)->nghost == 0 && (!minus_done || p->ndone == 0)) || !numbers(t, set_text(t), &n))
		return (imap4_say(t, set_text(t)) ? 1 : -1);
	if (minus_done)
		(void)set_subtract(cand(t), &n, CAND_MAX, p->done_seq, p->ndone);
	to_server(t, cand(t), &n);
	if (n == 0)
		return (0);
	return (imap4_say_set(t, cand(t), n) ? 1 : -1);
}

/* The UIDs of UID FETCH without those the client has already. */
static int
say_uids(struct turn *t)
{
	const struct pst *p = P(t);
	uint32_t n;

	if (p->ndone == 0 || p->box.coarse || view_last(t) == 0 ||
	    !set_parse(set_text(t), view_last(t), cand(t), &n, CAND_MAX))
		return (imap4_say(t, set_text(t)) ? 1 : -1);
	for (uint32_t i = 0; i < p->ndone; i++) {
		uint32_t a = view_uid(t, p->done_seq[i].lo),
		    b = view_uid(t, p->done_seq[i].lo + (p->done_seq[i].n - 1));

		if (a != 0 && b != 0 && !set_subtract(cand(t), &n, CAND_MAX, &(struct range){ a, b - a + 1 }, 1))
			break;		/* what comes again is dropped */
	}
	if (n == 0)
		return (0);
	return (imap4_say_set(t, cand(t), n) ? 1 : -1);
}

bool
imap4_resolve(struct turn *t)
{
	struct pst *p = P(t);
	struct range *r = cand(t), *to = (struct range *)(void *)Z(t, Z_SET);
	uint32_t n, last = 0;

	p->nset = 0;
	if (bytes_eq(set_text(t), BYTES("$")) && p->nsave > 0) {
		memcpy(to, Z(t, Z_SAVE + p->save_which * Z_SAVE_SIZE), p->nsave * sizeof(*to));
		p->nset = p->nsave;
		p->set_known = 1;
		return (true);
	}
	if (p->box.known == p->box.exists)	/* else * is one of the tail */
		last = view_last(t);
	if (p->box.coarse || !p->box.learned || (p->uid ? !set_parse(set_text(t), last, r, &n, CAND_MAX) :
	    !numbers(t, set_text(t), &n)))
		return (false);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t a = p->uid ? r[i].lo : view_uid(t, r[i].lo);
		uint32_t b = p->uid ? r[i].lo + (r[i].n - 1) : view_uid(t, r[i].lo + (r[i].n - 1));

		if (a == 0 || b == 0 || !set_add(to, &p->nset, Z_SET_SIZE / sizeof(*to), a, b - a + 1))
			return (false);
	}
	p->set_known = 1;
	return (true);
}

/* --- SEARCH, SORT, THREAD ----------------------------------------------------------------------------------------- */

int
imap4_key_arguments(struct bytes key)
{
	static const char *const one[] = { "BCC", "BODY", "CC", "FROM", "SUBJECT", "TEXT", "TO", "KEYWORD", "UNKEYWORD",
		"BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE", "SAVEDBEFORE", "SAVEDON", "SAVEDSINCE",
		"LARGER", "SMALLER", "YOUNGER", "OLDER", "EMAILID", "THREADID", "UID", "CHARSET", "FILTER", "INTHREAD",
		"MODSEQ", "MIMEPART" };

	if (bytes_caseeq(key, BYTES("HEADER")))
		return (2);
	for (size_t i = 0; i < sizeof(one) / sizeof(one[0]); i++)
		if (bytes_caseeq(key, bytes_str(one[i])))
			return (1);
	return (0);
}

static bool
say_recent(struct turn *t, struct bytes key)
{
	const struct mbox *m = &P(t)->box;

	if (m->nrecent == 0)
		return (imap4_sayf(t, bytes_caseeq(key, BYTES("OLD")) ? "ALL" : "NOT ALL"));
	if (bytes_caseeq(key, BYTES("OLD")))
		return (imap4_sayf(t, "NOT UID ") && imap4_say_set(t, m->recent, m->nrecent));
	if (bytes_caseeq(key, BYTES("RECENT")))
		return (imap4_sayf(t, "UID ") && imap4_say_set(t, m->recent, m->nrecent));
	return (imap4_sayf(t, "(UNSEEN UID ") && imap4_say_set(t, m->recent, m->nrecent) && imap4_sayf(t, ")"));
}

static bool
say_key(struct turn *t, struct bytes key, struct bytes *rest)
{
	int args = imap4_key_arguments(key);
	struct bytes v;
	uint32_t n;

	if ((key.p[0] >= '0' && key.p[0] <= '9') || key.p[0] == '*') {
		if (!numbers(t, key, &n))
			return (false);
		to_server(t, cand(t), &n);
		return (n == 0 ? imap4_sayf(t, "NOT ALL") : imap4_say_set(t, cand(t), n));
	}
	if (H(t)->fake_recent &&
	    (bytes_caseeq(key, BYTES("RECENT")) || bytes_caseeq(key, BYTES("NEW")) || bytes_caseeq(key, BYTES("OLD"))))
		return (say_recent(t, key));
	if (!imap4_say(t, key))
		return (false);
	/* MODSEQ may have the name of a flag and a type before its number (RFC 7162 section 3.1.5) */
	if (bytes_caseeq(key, BYTES("MODSEQ")) && rest->n > 1 && rest->p[1] == '"')
		args = 3;
	for (; args > 0; args--) {
		token_space(rest);
		if (rest->n == 0 || !token_value(rest, &v) || !put(t, BYTES(" ")) || !imap4_say(t, v))
			return (false);
	}
	return (true);
}

/* What stands before the keys: RETURN (...), the order and charset of SORT, those of THREAD. */
static bool
say_search_head(struct turn *t, struct bytes *rest)
{
	struct bytes name = part(t, P(t)->name_at, P(t)->args_at), v, look = *rest;
	int values = name.n >= 7 && bytes_caseeq(bytes_cut(name, name.n - 7), BYTES("SEARCH ")) ? 0 : 2;

	if (bytes_caseeq(token_word(&look), BYTES("RETURN")))
		values += 2;
	for (; values > 0; values--) {
		token_space(rest);
		if (!token_value(rest, &v) || !imap4_say(t, v) || !put(t, BYTES(" ")))
			return (false);
	}
	token_space(rest);
	return (true);
}

static bool
say_search(struct turn *t)
{
	struct bytes rest = part(t, P(t)->args_at, P(t)->cmd_len), v;

	H(t)->told_before = P(t)->result_told;
	if (!imap4_say(t, part(t, P(t)->name_at, P(t)->args_at)))
		return (false);
	if (H(t)->nghost == 0 && !H(t)->fake_recent)
		return (imap4_say(t, rest));
	if (!say_search_head(t, &rest))
		return (false);
	while (rest.n > 0) {
		if (rest.p[0] == '(' || rest.p[0] == ')' || rest.p[0] == ' ') {
			if (!put(t, bytes(rest.p, 1)))
				return (false);
			rest = bytes_cut(rest, 1);
		} else if (!token_value(&rest, &v) || !say_key(t, v, &rest))
			return (false);
	}
	return (true);
}

/* --- all of them -------------------------------------------------------------------------------------------------- */

/* In place of a command of which nothing is left to do; its answer is put right when it comes. */
static bool
say_noop(struct turn *t)
{
	imap4_say_begin(t);
	H(t)->said_noop = 1;
	return (put(t, cmd_tag(t)) && put(t, BYTES(" NOOP")));
}

static bool
say_enable(struct turn *t)
{
	struct bytes args = part(t, P(t)->args_at, P(t)->cmd_len);
	bool good = put(t, BYTES("ENABLE"));

	while (args.n > 0 && good) {
		struct bytes w = bytes_token(&args, ' ');

		if (caps_offered(t, w))
			good = put(t, BYTES(" ")) && put(t, w);
	}
	return (good);
}

static bool
say_uid_set(struct turn *t, const char *verb, uint32_t zone, uint32_t n)
{
	const struct pst *p = P(t);

	return (imap4_sayf(t, "UID %s ", verb) && imap4_say_set(t, (const struct range *)(const void *)Z(t, zone), n) &&
	    (p->target_len == 0 ||
		(put(t, BYTES(" ")) && imap4_say(t, part(t, p->target_at, p->target_at + p->target_len)))));
}

static bool
say_with_set(struct turn *t)
{
	const struct pst *p = P(t);
	int r;

	if (!imap4_say(t, part(t, p->name_at, p->set_at)))
		return (false);
	r = p->uid && p->command == CMD_FETCH ? say_uids(t) : p->uid ? (imap4_say(t, set_text(t)) ? 1 : -1) :
	    say_numbers(t, p->command == CMD_FETCH);
	if (r == 0)
		return (say_noop(t));
	return (r == 1 && imap4_say(t, part(t, p->set_at + p->set_len, p->cmd_len)));
}

static bool
say_it(struct turn *t)
{
	const struct pst *p = P(t);
	bool fresh = H(t)->stage == AT_AUTH;

	switch (p->command) {
	case CMD_FETCH:
		H(t)->told_before = p->ndone > 0;
		return (say_with_set(t));
	case CMD_STORE:
		return (say_with_set(t));
	case CMD_SEARCH:
		return (say_search(t));
	case CMD_ENABLE:
		return (say_enable(t));
	case CMD_COPY:
		if (imap4_names_ghost(t))
			return (say_noop(t));
		return (p->set_known ? say_uid_set(t, "COPY", Z_SET, p->nset) : say_with_set(t));
	case CMD_MOVE:
		if (p->move_rest)
			return (p->nrest == 0 ? say_noop(t) : say_uid_set(t, "MOVE", Z_REST, p->nrest));
		return (p->set_known ? say_uid_set(t, "MOVE", Z_SET, p->nset) : say_with_set(t));
	case CMD_EXPUNGE:
		if (!p->redo || !p->set_known)
			return (put(t, BYTES("EXPUNGE")));
		return (p->nset == 0 ? say_noop(t) : say_uid_set(t, "EXPUNGE", Z_SET, p->nset));
	case CMD_CLOSE:
	case CMD_UNSELECT:
		if (fresh)		/* another backend, where nothing is selected */
			return (say_noop(t));
		return (imap4_say(t, part(t, p->name_at, p->cmd_len)));
	case CMD_SELECT:
		/* mod-sequences tell which flags changed when another backend stands in */
		return (imap4_say(t, part(t, p->name_at, p->cmd_len)) &&
		    (p->target_at + p->target_len < p->cmd_len || !caps_has(t, "CONDSTORE") ||
			put(t, BYTES(" (CONDSTORE)"))));
	default:
		return (imap4_say(t, part(t, p->name_at, p->cmd_len)));
	}
}

bool
imap4_say_pending(struct turn *t)
{
	imap4_say_begin(t);
	H(t)->said_noop = 0;
	return (put(t, cmd_tag(t)) && put(t, BYTES(" ")) && say_it(t) && put(t, BYTES("\r\n")));
}
