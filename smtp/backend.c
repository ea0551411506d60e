/*
 * backend - what a backend says: whole replies, matched by counting (RFC 2920 section 3.1), never by text; pure
 *
 * A reply is handled when its last line is there, except for one octet: the first of the answer to the end of content
 * decides what became of the message (protocols.md 1.1.4).
 */
#include "smtp/smtp.h"

enum { LINE_MAX_ = 2048, RELAY_LINES = 20, RELAY_LINE = 500, TOLD_MAX = 2000 };

void
smtp_connected(struct turn *t, const struct backendinfo *info)
{
	H(t)->expect = E_GREETING;
	H(t)->info_xclient = info->xclient;
	H(t)->starttls = info->starttls;
}

static void
expect(struct turn *t, enum expect e)
{
	H(t)->expect = (uint8_t)e;
}

/* --- to the client ------------------------------------------------------------------------------------------------- */

static bool
digit(uint8_t c)
{
	return (c >= '0' && c <= '9');
}

/* Octets of an enhanced status code at the start of text, 0: there is none (RFC 2034). */
static size_t
enhanced(struct bytes text)
{
	size_t i = 2, from;

	if (text.n < 5 || !digit(text.p[0]) || text.p[1] != '.')
		return (0);
	for (int part = 0; part < 2; part++) {
		for (from = i; i < text.n && i - from < 3 && digit(text.p[i]); i++)
			;
		if (i == from || (part == 0 && (i >= text.n || text.p[i++] != '.')))
			return (0);
	}
	return (i == text.n || text.p[i] == ' ' ? i : 0);
}

static void
relay_line(struct turn *t, struct bytes line, bool last)
{
	uint8_t code = line.p[0];
	struct bytes text = bytes_cut(line, 4);
	char clean[LINE_MAX_];
	size_t n = code == '3' ? 0 : enhanced(text);

	out_fmt(t->client, "%.3s%c", (const char *)line.p, last ? ' ' : '-');
	if (n > 0) {
		out_fmt(t->client, "%c", code);
		text = bytes_cut(text, 1);
	} else if (code != '3')
		out_fmt(t->client, "%c.0.0 ", code);
	bytes_text(text, clean, code == '3' ? sizeof(clean) : RELAY_LINE);	/* a challenge is nothing without its end */
	out_fmt(t->client, "%s\r\n", clean);
}

void
smtp_relay(struct turn *t, struct bytes reply)
{
	for (int i = 1; reply.n > 0; i++) {
		struct bytes line = bytes_token(&reply, '\n');

		if (line.n > 0 && line.p[line.n - 1] == '\r')
			line.n--;
		relay_line(t, line, reply.n == 0 || i == RELAY_LINES);
		if (i == RELAY_LINES)
			return;
	}
}

static bool
code_is(struct bytes reply, const char *code)
{
	return (bytes_casestart(reply, bytes_str(code)));
}

/* The pending command is answered with this reply; a client that causes too many refusals is sent away. */
static enum took
answer(struct turn *t, struct bytes reply)
{
	struct pst *p = P(t);

	smtp_relay(t, reply);
	expect(t, E_NONE);
	p->lost = 0;
	/* 4yz too, as backends do; not 452, which says that no more recipients fit (RFC 5321 section 4.5.3.1.10) */
	if (reply.p[0] < '4' || code_is(reply, "452") || ++p->errors < t->limits->errors)
		return (TOOK_ANSWERED);
	out_fmt(t->client, "421 4.7.0 %s too many errors\r\n", t->peer->banner);
	return (TOOK_CLOSE);
}

/*
 * A backend that cannot take it now for reasons of its own host (RFC 3463: X.3, mail system status): not done, and
 * another host may well do it. What it said is kept for the client, should all of them say so.
 */
static bool
ill(struct turn *t, struct bytes reply)
{
	struct pst *p = P(t);
	struct bytes text = bytes_cut(reply, 4);

	if (reply.p[0] != '4' || enhanced(bytes_token(&text, '\r')) == 0 || reply.n < 9 || reply.p[6] != '3')
		return (false);
	p->fence = p->first = 0;
	if (reply.n < TOLD_MAX && p->told_len == 0 && (p->told = arena_put(t->log, reply)) != UINT32_MAX)
		p->told_len = (uint32_t)reply.n;
	return (true);
}

/* The backend refuses content before its end: the client is told at the end, where it listens. */
static enum took
refused_content(struct turn *t, struct bytes reply)
{
	struct pst *p = P(t);

	H(t)->partial = 1;
	if (!p->open || H(t)->txn != p->txn) {		/* of a transaction that the client has left */
		expect(t, E_NONE);
		return (TOOK_ONE);
	}
	if (ill(t, reply))
		return (TOOK_NEVER);
	p->fence = 0;
	if (t->spool->whole) {
		smtp_end_transaction(t);
		return (answer(t, reply));
	}
	expect(t, E_NONE);
	p->told = arena_put(t->log, bytes(reply.p, reply.n < TOLD_MAX ? reply.n : 0));
	p->told_len = reply.n < TOLD_MAX && p->told != UINT32_MAX ? (uint32_t)reply.n : 0;
	p->bad = p->told_len > 0 ? BAD_TOLD : BAD_LOST;
	if (p->command == CMD_CONTENT)
		p->command = CMD_SWALLOW;
	else if (p->command == CMD_BDAT)
		p->command = CMD_SWALLOW_CHUNK;
	return (TOOK_ONE);
}

/* --- one function for what can be expected -------------------------------------------------------------------------- */

static enum took
greeting(struct turn *t, struct bytes reply)
{
	if (reply.p[0] != '2')
		return (TOOK_LEAVING);
	H(t)->greeted = 1;
	expect(t, E_NONE);
	return (TOOK_ONE);
}

static enum took
ehlo(struct turn *t, struct bytes reply)
{
	struct have *h = H(t);
	struct bytes line;

	expect(t, E_NONE);
	h->caps = h->xattrs = 0;
	h->size = 0;
	if (reply.p[0] != '2') {
		h->named = 2;		/* a server of RFC 821 alone */
		return (h->starttls ? TOOK_INSECURE : TOOK_ONE);
	}
	h->named = 1;
	h->open = 0;
	h->helo_seq = P(t)->helo_seq;
	(void)bytes_token(&reply, '\n');
	while (reply.n > 0) {
		line = bytes_token(&reply, '\n');
		if (line.n > 0 && line.p[line.n - 1] == '\r')
			line.n--;
		smtp_learn(h, bytes_cut(line, 4));
	}
	return (h->starttls && (h->caps & CAP_STARTTLS) == 0 ? TOOK_INSECURE : TOOK_ONE);
}

static enum took
helo(struct turn *t, struct bytes reply)
{
	struct have *h = H(t);

	expect(t, E_NONE);
	if (reply.p[0] == '2') {
		h->named = 1;
		h->open = 0;
		h->helo_seq = P(t)->helo_seq;
		return (TOOK_ONE);
	}
	h->named = 0;
	/* the name itself displeases: that is for the client to know */
	if (P(t)->command != CMD_MAIL || reply.p[0] != '5')
		return (TOOK_LEAVING);
	smtp_end_transaction(t);
	return (answer(t, reply));
}

static enum took
auth_refused(struct turn *t, struct bytes reply)
{
	struct pst *p = P(t);

	if (p->command != CMD_AUTH && reply.p[0] != '4' && smtp_by_master(t)) {
		expect(t, E_NONE);	/* a token that has expired, say: in another way */
		return (TOOK_ONE);
	}
	if (p->command != CMD_AUTH) {	/* another backend had let him in: no 535 now (protocols.md 2.2) */
		p->auth_lost = 1;
		return (reply.p[0] == '4' ? TOOK_LATER : TOOK_NEVER);
	}
	if (reply.p[0] == '4')
		return (TOOK_NEVER);	/* it cannot tell; another may */
	/* 534, 538: not in this way, and nothing of the password (RFC 4954 section 6) */
	t->excused = bytes_casestart(reply, BYTES("534")) || bytes_casestart(reply, BYTES("538"));
	if (!t->excused && !t->believe && !p->challenged)
		return (TOOK_REFUSED);
	p->command = CMD_NONE;
	p->relay = p->challenged = 0;
	H(t)->relaying = 0;
	smtp_auth_forget(t);
	return (answer(t, reply));
}

static enum took
authenticated(struct turn *t, struct bytes reply)
{
	struct pst *p = P(t);

	H(t)->authenticated = 1;
	p->auth_lost = 0;
	expect(t, E_NONE);
	if (p->command != CMD_AUTH)
		return (TOOK_ONE);
	p->command = CMD_NONE;
	p->authenticated = 1;
	return (answer(t, reply));
}

static enum took
auth(struct turn *t, struct bytes reply)
{
	struct have *h = H(t);
	uint8_t space[1024];

	if (reply.p[0] == '2')
		return (h->expect == E_AUTH_END ? authenticated(t, reply) : TOOK_NONSENSE);
	if (reply.p[0] != '3')
		return (auth_refused(t, reply));
	if (h->expect == E_AUTH_END) {
		/* a bearer's error wants an answer first (RFC 7628 section 3.2.3) */
		out_str(t->backend, P(t)->mech == SASL_OAUTHBEARER ? "AQ==\r\n" : "\r\n");
		return (TOOK_ONE);
	}
	out_put(t->backend, smtp_secret(t, space, sizeof(space)));
	out_str(t->backend, "\r\n");
	explicit_bzero(space, sizeof(space));
	expect(t, E_AUTH_END);
	return (TOOK_ONE);
}

static enum took
auth_relayed(struct turn *t, struct bytes reply)
{
	if (reply.p[0] == '2') {
		smtp_relay_done(t);
		return (authenticated(t, reply));
	}
	if (reply.p[0] != '3')
		return (auth_refused(t, reply));
	smtp_relay(t, reply);
	P(t)->relay = RELAY_CLIENT;
	P(t)->challenged = 1;
	expect(t, E_NONE);
	return (TOOK_ONE);
}

static enum took
mail(struct turn *t, struct bytes reply)
{
	if (reply.p[0] == '3')
		return (TOOK_NONSENSE);
	if (ill(t, reply))
		return (TOOK_NEVER);
	P(t)->command = CMD_NONE;
	t->log->len = P(t)->rcpts;	/* without what an ill one said before */
	P(t)->told_len = 0;
	if (reply.p[0] != '2') {
		H(t)->open = 0;
		smtp_end_transaction(t);
	}
	return (answer(t, reply));
}

static enum took
rcpt(struct turn *t, struct bytes reply)
{
	struct pst *p = P(t);

	if (reply.p[0] == '3')
		return (TOOK_NONSENSE);
	p->command = CMD_NONE;
	if (reply.p[0] == '2') {
		p->nrcpt++;
		p->rcpt_len = t->log->len - p->rcpts;
		H(t)->nrcpt = p->nrcpt;
		H(t)->rcpt_at = p->rcpt_len;
	} else		/* what was refused is not replayed */
		t->log->len = p->rcpts + p->rcpt_len;
	return (answer(t, reply));
}

static enum took
data(struct turn *t, struct bytes reply)
{
	struct pst *p = P(t);

	if (reply.p[0] == '3') {
		H(t)->content = 1;
		expect(t, E_NONE);
		if (p->command != CMD_DATA)
			return (TOOK_ONE);
		p->command = CMD_CONTENT;
		p->scan = SCAN_BOL;
		p->in_header = 1;
		p->line_len = p->hops = p->hmatch = 0;
		p->lost = 0;
		out_str(t->client, "354 End data with <CR><LF>.<CR><LF>\r\n");
		return (TOOK_ANSWERED);
	}
	if (reply.p[0] == '2')
		return (TOOK_NONSENSE);
	if (p->command != CMD_DATA)
		return (TOOK_NEVER);
	p->command = CMD_NONE;
	return (answer(t, reply));
}

static enum took
chunk(struct turn *t, struct bytes reply)
{
	struct have *h = H(t);

	if (reply.p[0] != '2')
		return (reply.p[0] == '3' ? TOOK_NONSENSE : refused_content(t, reply));
	if (--h->owed == 0 && h->expect == E_BDAT)
		expect(t, E_NONE);
	return (TOOK_ONE);
}

static enum took
end(struct turn *t, struct bytes reply)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	if (h->owed > 0)
		return (chunk(t, reply));
	if (reply.p[0] == '3')
		return (TOOK_NONSENSE);
	if (ill(t, reply))
		return (TOOK_NEVER);
	if (reply.p[0] == '2') {
		p->errors = p->junk = 0;
		t->messages++;
	}
	h->open = h->content = 0;
	smtp_end_transaction(t);
	return (answer(t, reply));
}

static enum took
reply(struct turn *t, struct bytes r)
{
	struct have *h = H(t);
	struct pst *p = P(t);

	/* it leaves, and says so: the command was not done (RFC 5321 sections 3.8 and 4.2.5) */
	if (code_is(r, "421") || (h->expect == E_END && code_is(r, "451 4.3.2"))) {
		p->fence = p->first = 0;
		return (TOOK_LEAVING);
	}
	switch ((enum expect)h->expect) {
	case E_GREETING:
		return (greeting(t, r));
	case E_EHLO:
		return (ehlo(t, r));
	case E_HELO:
		return (helo(t, r));
	case E_STARTTLS:
		h->starttls = 2;
		expect(t, E_NONE);
		return (r.p[0] == '2' ? TOOK_ONE : TOOK_INSECURE);
	case E_XCLIENT_PART:
		h->xclient = r.p[0] == '2' ? 1 : 2;
		p->no_xclient = r.p[0] != '2';
		expect(t, E_NONE);
		return (TOOK_ONE);
	case E_XCLIENT:		/* a refusal concerns the backend's log and rules, not the session */
		h->xclient = 2;
		p->no_xclient = r.p[0] != '2';
		h->named = r.p[0] == '2' ? 0 : h->named;
		expect(t, E_NONE);
		return (TOOK_ONE);
	case E_AUTH:
	case E_AUTH_END:
		return (auth(t, r));
	case E_AUTH_RELAY:
		return (auth_relayed(t, r));
	case E_RSET:
		h->open = 0;
		expect(t, E_NONE);
		return (r.p[0] == '2' ? TOOK_ONE : TOOK_LEAVING);
	case E_ENVELOPE:
		if (r.p[0] != '2')
			return (TOOK_NEVER);	/* what was promised with 250 it does not take: not equivalent */
		if (--h->owed == 0)
			expect(t, E_NONE);
		return (TOOK_ONE);
	case E_MAIL:
		return (mail(t, r));
	case E_RCPT:
		return (rcpt(t, r));
	case E_DATA:
		return (data(t, r));
	case E_BDAT:
		return (chunk(t, r));
	case E_END:
		return (end(t, r));
	case E_QUIT:
		p->probed = 1;
		expect(t, E_NONE);
		return (TOOK_ONE);
	case E_NONE:
		break;
	}
	if (h->owed > 0)
		return (chunk(t, r));
	if (h->content && (r.p[0] == '4' || r.p[0] == '5') && p->command == CMD_CONTENT)
		return (refused_content(t, r));
	return (TOOK_NONSENSE);
}

/* A line of a reply: three digits, the same on all lines, and what may follow them. */
static bool
well_formed(struct bytes line, struct bytes first)
{
	if (line.n < 3 || line.n > LINE_MAX_ || line.p[0] < '2' || line.p[0] > '5' || !digit(line.p[1]) || !digit(line.p[2]))
		return (false);
	if (memcmp(line.p, first.p, 3) != 0)
		return (false);
	return (line.n == 3 || line.p[3] == ' ' || line.p[3] == '-');
}

enum took
smtp_backend(struct turn *t, struct bytes in, size_t *used, size_t *scanned)
{
	struct have *h = H(t);
	const uint8_t *lf;
	struct bytes line;

	while (in.n > *scanned && (lf = memchr(in.p + *scanned, '\n', in.n - *scanned)) != NULL) {
		line = bytes(in.p + h->line_at, (size_t)(lf - in.p) - h->line_at);
		if (line.n > 0 && line.p[line.n - 1] == '\r')
			line.n--;
		*scanned = (size_t)(lf - in.p) + 1;
		if (!well_formed(line, in)) {
			if (h->expect == E_END && h->owed == 0 && in.p[0] == '2')
				P(t)->first = '2';
			return (TOOK_NONSENSE);
		}
		if (line.n > 3 && line.p[3] == '-') {
			h->line_at = (uint32_t)*scanned;
			continue;
		}
		*used = *scanned;
		h->line_at = 0;
		return (reply(t, bytes(in.p, *used)));
	}
	*scanned = in.n;
	if (h->expect == E_END && h->owed == 0 && in.n > 0)
		P(t)->first = in.p[0];
	return (in.n > t->limits->reply || in.n - h->line_at > LINE_MAX_ + 2 ? TOOK_NONSENSE : TOOK_MORE);
}
