/*
 * backend - a backend's octets become responses, and responses are told apart: untagged, +, of the gateway's own
 * commands, of the client's; pure
 *
 * A response that is small is looked at whole, with its literals; a large one is passed on as it comes, and what of it
 * the client has is hashed, so that another backend can go on with it (protocols.md 0.3, 1.4.6).
 */
#include "imap4/imap4.h"
#include "imap4/token.h"

enum { SMALL = 12288, COPYUID = 61440 };	/* that may be long, and cannot be passed on before its end */

void
imap4_connected(struct turn *t, const struct backendinfo *info)
{
	struct have *h = H(t);

	h->info_xclient = info->xclient;
	h->starttls = info->starttls;
	t->scratch->len = t->scratch->cap < S_TOTAL ? t->scratch->cap : S_TOTAL;
	h->never = t->scratch->cap < S_TOTAL;
	if (P(t)->key == 0)		/* of the hash; no backend knows it */
		memcpy(&P(t)->key, t->peer->session, sizeof(P(t)->key));
}

void
imap4_relay(struct turn *t, struct bytes line)
{
	out_put(t->client, line);
	out_str(t->client, "\r\n");
}

bool
imap4_expunge_legal(const struct turn *t)
{
	const struct pst *p = P(t);

	/* its numbers are those of when it came (protocols.md 1.4.8) */
	if (!H(t)->said && !p->set_known && (p->command == CMD_SEARCH || (p->set_len > 0 && !p->uid)))
		return (false);
	/* CLOSE tells of none (RFC 9051 section 6.4.1) */
	return (p->command != CMD_NONE && p->command != CMD_SELECT && p->command != CMD_CLOSE &&
	    p->command != CMD_UNSELECT && !(p->flags & F_SEQ) && !p->streaming &&
	    !imap4_waits_plus(t));
}

bool
imap4_tell_ghosts(struct turn *t)
{
	struct have *h = H(t);
	struct range *g = (struct range *)(void *)S(t, S_GHOST);
	bool vanished = (P(t)->enabled & 2) != 0;

	while (h->nghost > 0) {
		struct range *last = &g[h->nghost - 1];
		uint32_t seq = last->lo + (last->n - 1), uid = view_uid(t, seq);

		if (out_room(t->client) < 1024) {
			h->full = 1;
			return (false);
		}
		if (vanished && uid != 0)
			out_fmt(t->client, "* VANISHED %u\r\n", uid);
		else
			out_fmt(t->client, "* %u EXPUNGE\r\n", seq);
		view_expunge(t, seq);
		h->ghosts--;
		if (--last->n == 0)
			h->nghost--;
	}
	return (true);
}

/* --- + ------------------------------------------------------------------------------------------------------------ */

static enum took
plus(struct turn *t, struct bytes resp)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	if (h->plus_wait) {
		h->plus_wait = 0;
		if (p->command != CMD_APPEND || h->own != OWN_NONE || h->text_at < h->text_len)
			return (TOOK_ONE);
		h->text_out = 0;
		h->lit_done++;
		if (p->app_told < h->lit_done) {	/* the client waits for it */
			p->app_told = h->lit_done;
			out_str(t->client, "+ OK\r\n");
			imap4_tell_exists(t);
		}
		return (TOOK_ONE);
	}
	if (h->own == OWN_LOGIN && p->mech == SASL_RELAY) {
		imap4_relay(t, resp);
		p->challenged = 1;
		p->sasl = SASL_RELAY;
		p->gather = G_SASL;
		p->line_at = p->cmd_len;
		return (TOOK_ONE);
	}
	if (h->own == OWN_LOGIN) { /* a bearer's error wants an answer before the refusal (RFC 7628 section 3.2.3) */
		out_str(t->backend, P(t)->mech == SASL_XOAUTH2 ? "\r\n" : "AQ==\r\n");
		return (TOOK_ONE);
	}
	if (p->command == CMD_IDLE && h->said && !h->idling && h->own == OWN_NONE) {
		h->idling = 1;
		if (!p->idle_told)
			imap4_relay(t, resp.n > 2 ? resp : BYTES("+ idling"));
		p->idle_told = 1;
		return (TOOK_ONE);
	}
	return (TOOK_NONSENSE);
}

/* --- whole responses ---------------------------------------------------------------------------------------------- */

static enum took
greeting(struct turn *t, struct bytes resp)
{
	struct have *h = H(t);

	if (!bytes_casestart(resp, BYTES("* OK")))
		return (bytes_casestart(resp, BYTES("* BYE")) ? TOOK_LEAVING : TOOK_NONSENSE);
	h->stage = AT_GREETED;
	return (imap4_code(t, bytes_cut(resp, 5)));
}

/* Before TLS nothing is believed but the way there: anybody may have said it (RFC 9051 section 11.1). */
static enum took
in_clear(struct bytes rest)
{
	return (bytes_caseeq(bytes_token(&rest, ' '), BYTES("BYE")) ? TOOK_LEAVING : TOOK_ONE);
}

/* The own command's number, if the tag is one of ours. */
static bool
own_tag(const struct turn *t, struct bytes tag)
{
	char text[64];
	struct out o = { (uint8_t *)text, 0, sizeof(text), false };

	out_fmt(&o, "~%s.%u", t->peer->session, H(t)->own_no);
	return (H(t)->own != OWN_NONE && bytes_eq(tag, bytes(text, o.len)));
}

enum took
imap4_line(struct turn *t, struct bytes resp)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	struct bytes rest = resp, tag = bytes_token(&rest, ' '), text = rest, status = bytes_token(&text, ' ');
	bool hold = false;
	enum took k;

	if (h->stage == AT_GREETING)
		return (greeting(t, resp));
	if (bytes_eq(tag, BYTES("*")))
		return (h->starttls ? in_clear(rest) : imap4_untagged(t, rest));
	if (resp.n > 0 && resp.p[0] == '+')
		return (plus(t, resp));
	if (!bytes_caseeq(status, BYTES("OK")) && !bytes_caseeq(status, BYTES("NO")) &&
	    !bytes_caseeq(status, BYTES("BAD")))
		return (TOOK_NONSENSE);
	if (own_tag(t, tag)) {
		h->text_out = h->plus_wait = 0;
		return (imap4_own_reply(t, status, text));
	}
	if (p->command == CMD_NONE || !h->said || h->saving != SAVING_NONE || !bytes_eq(tag, cmd_tag(t)))
		return (TOOK_NONSENSE);
	k = imap4_tagged_reply(t, resp, &hold);
	return (hold ? TOOK_MORE : k);
}

/* --- splitting ---------------------------------------------------------------------------------------------------- */

/* Free text may end in braces; only these have literals. */
static bool
has_literals(struct bytes resp)
{
	static const char *const text[] = { "OK", "NO", "BAD", "BYE", "PREAUTH", "CAPABILITY" };
	struct bytes word;

	if (resp.n < 2 || resp.p[0] != '*')
		return (false);
	resp = bytes_cut(resp, 2);
	word = token_word(&resp);
	for (size_t i = 0; i < sizeof(text) / sizeof(text[0]); i++)
		if (bytes_caseeq(word, bytes_str(text[i])))
			return (false);
	return (true);
}

/* The answer to an own search: its numbers are read as they come. */
static bool
begin_set(struct turn *t, struct bytes in, size_t *used)
{
	struct have *h = H(t);
	char tag[80];
	struct out o = { (uint8_t *)tag, 0, sizeof(tag), false };
	const uint8_t *at;
	size_t n = in.n < 256 ? in.n : 256;

	if (h->own < OWN_COMPARE || h->own > OWN_DELETED || h->own == OWN_FLAGS || h->own == OWN_SAVE ||
	    h->own == OWN_BASE || h->own == OWN_BASE2)
		return (false);
	if (bytes_casestart(in, BYTES("* SEARCH"))) {
		h->esearch = 0;
		*used = 8;
	} else if (bytes_casestart(in, BYTES("* ESEARCH"))) {
		out_fmt(&o, "(TAG \"~%s.%u\")", t->peer->session, h->own_no);
		if (memmem(in.p, n, tag, o.len) == NULL)
			return (false);
		h->esearch = 1;
		at = memmem(in.p, n, " ALL ", 5);
		*used = at != NULL ? (size_t)(at - in.p) + 5 : 9;
		h->set_end = at == NULL;
	} else
		return (false);
	h->walk = (struct setwalk){ 0 };
	h->in_stream = STREAM_SET;
	return (true);
}

/* Whether this FETCH response has a literal of which the client has a part. */
static bool
is_resumed(const struct turn *t, struct bytes resp)
{
	uint64_t n;
	struct bytes rest = bytes_cut(resp, 2), num = bytes_token(&rest, ' ');

	return (P(t)->streaming == STREAM_LITERAL && bytes_casestart(rest, BYTES("FETCH ")) &&
	    bytes_num(num, 1, UINT32_MAX, &n) == 0 && view_client(t, (uint32_t)n) == P(t)->lit_seq);
}

/* Goes on to the end of the response in view. 1: its end is at *end (behind LF); 0: more is needed; -1: *k was set. */
static int
scan(struct turn *t, struct bytes in, size_t *end, enum took *k)
{
	struct have *h = H(t);
	bool sync, binary;
	uint64_t n;

	for (;;) {
		const uint8_t *lf;
		struct bytes line;

		if (h->resp_lit > 0) {
			if (in.n - h->scan < h->resp_lit)
				return (0);
			h->scan += h->resp_lit;
			h->resp_lit = 0;
		}
		lf = h->scan < in.n ? memchr(in.p + h->scan, '\n', in.n - h->scan) : NULL;
		if (lf == NULL) {
			if (in.n < (in.p[0] == '*' && !bytes_casestart(in, BYTES("* OK [COPYUID ")) ? SMALL : COPYUID))
				return (0);
			*k = imap4_line_begin(t, in);
			return (-1);
		}
		*end = (size_t)(lf - in.p) + 1;
		line = bytes(in.p + h->scan, (size_t)(lf - in.p) - h->scan);
		if (line.n > 0 && line.p[line.n - 1] == '\r')
			line.n--;
		if (!has_literals(in) || !token_literal(line, &n, &sync, &binary))
			return (1);
		if (n > SMALL - 4096 || *end + n > SMALL || is_resumed(t, in)) {
			*k = imap4_fetch_begin(t, bytes(in.p, *end), n);
			return (-1);
		}
		h->lit_no++;
		h->scan = (uint32_t)*end;
		h->resp_lit = (uint32_t)n;
	}
}

static enum took
take(struct turn *t, struct bytes in, size_t *used, size_t *scanned)
{
	struct have *h = H(t);
	struct bytes resp;
	size_t end = 0;
	enum took k = TOOK_MORE;
	int r;

	if (h->starttls == 2)		/* it has given its go-ahead: what comes behind that in clear is injected */
		return (TOOK_NONSENSE);
	if (h->in_stream == STREAM_EARLIER)
		return (imap4_earlier(t, in, used));
	if (h->in_stream == STREAM_SET || h->in_stream == STREAM_VANISHED)
		return (imap4_set_stream(t, in, used));
	if (h->in_stream != STREAM_NONE)
		return (imap4_stream(t, in, used));
	if (h->scan == 0 && (in.n > 255 || memchr(in.p, '\n', in.n) != NULL) && begin_set(t, in, used))
		return (TOOK_ONE);
	r = scan(t, in, &end, &k);
	if (r == 0) {
		*scanned = in.n;
		return (TOOK_MORE);
	}
	if (r == -1) {
		if (k == TOOK_ONE || k == TOOK_ANSWERED) {
			*used = h->stream_used;
			h->scan = h->resp_lit = 0;
		}
		return (k);
	}
	resp = bytes(in.p, end - 1);
	if (resp.n > 0 && resp.p[resp.n - 1] == '\r')
		resp.n--;
	/* for a short one there is always room; a long one may grow by other numbers and \Recent; a probe has no client */
	if (end > SMALL && P(t)->command != CMD_PROBE && out_room(t->client) < end + end / 4 + 4096)
		h->full = 1;
	else
		k = imap4_line(t, resp);
	if (h->full)
		return (TOOK_MORE);	/* it is looked at again when the client has taken some */
	h->scan = h->resp_lit = 0;
	h->lit_no = 0;
	*used = end;
	return (k == TOOK_MORE ? TOOK_ONE : k);
}

enum took
imap4_backend(struct turn *t, struct bytes in, size_t *used, size_t *scanned)
{
	struct have *h = H(t);
	bool held = h->held;
	enum took k;

	h->full = 0;
	if (h->never)
		return (TOOK_NEVER);
	k = take(t, in, used, scanned);
	return (held && !h->held && k == TOOK_ONE ? TOOK_ANSWERED : k);
}
