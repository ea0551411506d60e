/*
 * backend - what a backend says: strict status lines, listings, bodies (RFC 1939 section 3); pure
 */
#include "pop3/pop3.h"

enum { LINE_MAX_ = 1024, RELAY_LINE = 500 };

void
pop3_connected(struct turn *t, const struct backendinfo *info)
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

static void
relay_line(struct turn *t, struct bytes line)
{
	char text[LINE_MAX_ + 1];

	bytes_text(line, text, line.n > 0 && line.p[0] == '+' ? sizeof(text) : RELAY_LINE);	/* a challenge is nothing without its end */
	out_fmt(t->client, "%s\r\n", text);
}

static bool
has_code(struct bytes line, const char *code)
{
	return (line.n > 5 && bytes_casestart(bytes_cut(line, 5), bytes_str(code)));
}

/* --- login ------------------------------------------------------------------------------------------------------- */

/* Codes that say nothing of the password (RFC 2449 section 8, RFC 3206). */
static bool
not_the_password(struct bytes line)
{
	return (has_code(line, "[IN-USE]") || has_code(line, "[LOGIN-DELAY]") || has_code(line, "[SYS/PERM]"));
}

static enum took
login_refused(struct turn *t, struct bytes line)
{
	struct pst *p = P(t);

	if (p->logged_in) {
		/* P had accepted him: a lock left behind, or a throttled login, passes; else be honest, never [AUTH] (2.2) */
		if (has_code(line, "[IN-USE]") || has_code(line, "[SYS/TEMP]") || has_code(line, "[LOGIN-DELAY]"))
			return (TOOK_LATER);
		if (!pop3_by_master(t))
			return (TOOK_NEVER);
		expect(t, E_NONE);	/* a token that has expired, say: in another way */
		H(t)->stage = AT_NAMED;
		return (TOOK_ONE);
	}
	if (has_code(line, "[SYS/TEMP]"))
		return (TOOK_LATER);
	t->excused = not_the_password(line);
	if (!t->excused && !t->believe && !p->challenged)
		return (TOOK_REFUSED);
	relay_line(t, line);
	pop3_answered(t);
	pop3_forget_login(t);
	expect(t, E_NONE);
	H(t)->stage = AT_NAMED;
	H(t)->relaying = false;
	p->failures++;
	return (p->failures >= 3 ? TOOK_CLOSE : TOOK_ANSWERED);
}

static enum took
logged_in(struct turn *t)
{
	H(t)->stage = AT_LOGGED_IN;
	expect(t, E_NONE);
	return (TOOK_ONE);
}

/* The backend is where the session is: tell the client of its login, or find what the pending command needs. */
static enum took
up(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	h->stage = AT_UP;
	expect(t, E_NONE);
	if (!p->logged_in) {
		p->logged_in = 1;
		p->phase = TRANSACTION;
		h->identity = 1;
		out_fmt(t->client, "+OK logged in, %u messages\r\n", p->n);
		pop3_answered(t);
		return (TOOK_ANSWERED);
	}
	if (!h->identity && !pop3_map_common(t))
		return (TOOK_NEVER);
	if ((p->command == CMD_RETR || p->command == CMD_TOP) && pop3_map(t, p->arg) == 0) {
		if (p->line_sent)
			return (TOOK_DIFFERS);
		out_str(t->client, "-ERR [SYS/TEMP] message no longer available\r\n");
		pop3_answered(t);
		return (TOOK_ANSWERED);
	}
	return (TOOK_ONE);
}

/* --- listings ----------------------------------------------------------------------------------------------------- */

static enum took
list_end(struct turn *t)
{
	struct have *h = H(t);
	struct pst *p = P(t);

	if (p->logged_in) {	/* without UIDs: the sizes must be the same, message by message */
		if (h->n != p->n || h->common != p->n || p->ndeleted > 0)
			return (TOOK_NEVER);
		h->identity = 1;
		return (up(t));
	}
	h->stage = AT_LISTED;
	h->count = h->n;
	h->n = 0;
	expect(t, h->piped ? E_UIDL : E_NONE);
	return (TOOK_ONE);
}

static enum took
list_line(struct turn *t, struct bytes line)
{
	struct have *h = H(t);
	struct bytes num = bytes_token(&line, ' ');
	uint64_t n, size;

	if (bytes_eq(num, BYTES(".")) && line.n == 0)
		return (list_end(t));
	line = bytes_token(&line, ' ');
	if (bytes_num(num, h->n + 1, h->n + 1, &n) == -1 || bytes_num(line, 0, UINT64_C(1) << 50, &size) == -1)
		return (TOOK_NONSENSE);
	h->n++;
	if (!P(t)->logged_in)
		return (pop3_add_size(t, size) ? TOOK_ONE : TOOK_NEVER);
	if (h->n <= P(t)->n && pop3_entry(t, h->n)->size == size)
		h->common++;
	return (TOOK_ONE);
}

static enum took
uidl_line(struct turn *t, struct bytes line)
{
	struct have *h = H(t);
	struct bytes num = bytes_token(&line, ' ');
	uint64_t n;

	if (bytes_eq(num, BYTES(".")) && line.n == 0) {
		h->count = h->n;
		if (!P(t)->logged_in && h->n != P(t)->n)
			return (TOOK_NONSENSE);
		return (up(t));
	}
	if (bytes_num(num, h->n + 1, h->n + 1, &n) == -1 || line.n == 0 || line.n > UID_MAX)
		return (TOOK_NONSENSE);
	for (size_t i = 0; i < line.n; i++)
		if (line.p[i] < ' ' || line.p[i] == 0x7f)
			return (TOOK_NONSENSE);
	h->n++;
	if (P(t)->logged_in) {
		pop3_map_uid(t, h->n, line);
		return (TOOK_ONE);
	}
	/* no room is not the host's fault, and no other one helps */
	return (pop3_set_uid(t, h->n, line) ? TOOK_ONE : pop3_entry(t, h->n) == NULL ? TOOK_NONSENSE : TOOK_NEVER);
}

/* Who tells in CAPA that it has UIDL and then refuses it is going, or cannot just now: to be without it is for a server without. */
static bool
uidl_fails(const struct turn *t, struct bytes line)
{
	const uint32_t told = CAP_UIDL | CAP_RESP;	/* the latter is not assumed of a server without CAPA */
	struct caps_pop3 c;

	memcpy(&c, t->offer, sizeof(c));
	return (has_code(line, "[SYS/TEMP]") || (c.bits & told) == told);
}

static enum took
uidl_status(struct turn *t, struct bytes line, bool good)
{
	if (good) {
		expect(t, E_UIDL_BODY);
		H(t)->n = 0;
		return (!P(t)->logged_in || pop3_map_begin(t) ? TOOK_ONE : TOOK_NEVER);
	}
	if (uidl_fails(t, line))
		return (TOOK_LEAVING);
	if (P(t)->logged_in)
		return (TOOK_NEVER);
	P(t)->no_uidl = 1;
	return (up(t));
}

/* --- bodies ------------------------------------------------------------------------------------------------------- */

/* Content for the client; what it already has is compared instead. False: it differs. */
static bool
emit(struct turn *t, struct bytes b)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	uint64_t skip;

	if (!h->caught) {
		skip = p->body.k - h->body.k < b.n ? p->body.k - h->body.k : b.n;
		relayed_add(&h->body, bytes(b.p, skip));
		b = bytes_cut(b, skip);
		if (h->body.k < p->body.k)
			return (true);
		if (!relayed_same(&h->body, &p->body))
			return (false);
		h->caught = 1;
	}
	if (b.n > 0) {
		out_put(t->client, b);
		relayed_add(&p->body, b);
	}
	return (true);
}

static enum took
body_end(struct turn *t)
{
	struct pst *p = P(t);

	if (!H(t)->caught)
		return (TOOK_DIFFERS);		/* shorter than what the client has */
	out_str(t->client, ".\r\n");
	if (p->command == CMD_RETR && p->arg > p->last)
		p->last = p->arg;
	pop3_answered(t);
	expect(t, E_NONE);
	return (TOOK_ANSWERED);
}

/* As many octets as there is room for. Only CRLF . CRLF ends; a line that begins with a dot leaves stuffed. */
static enum took
body(struct turn *t, struct bytes in, size_t *used)
{
	struct have *h = H(t);
	size_t room = out_room(t->client);
	const uint8_t *dot;
	size_t n;

	room = room > 64 ? room - 64 : 0;
	while (*used < in.n && room > 0) {
		struct bytes rest = bytes_cut(in, *used);

		if (h->bol && rest.p[0] == '.') {
			if (rest.n < 3 && !(rest.n == 2 && rest.p[1] != '\r'))
				return (*used > 0 ? TOOK_ONE : TOOK_MORE);
			if (rest.p[1] == '\r' && rest.p[2] == '\n') {
				*used += 3;
				return (body_end(t));
			}
			/* the backend ought to have stuffed it: nobody behind us may take it for an end */
			if (!emit(t, rest.p[1] == '.' ? BYTES("..") : BYTES(".")))
				return (TOOK_DIFFERS);
			if (rest.p[1] != '.' && !emit(t, BYTES(".")))
				return (TOOK_DIFFERS);
			*used += rest.p[1] == '.' ? 2 : 1;
			h->bol = 0;
			h->last = '.';
			room = out_room(t->client) > 64 ? out_room(t->client) - 64 : 0;
			continue;
		}
		n = rest.n < room ? rest.n : room;
		if (h->last == '\r' && rest.p[0] == '\n')
			n = 1;
		else if ((dot = memmem(rest.p, n, "\r\n.", 3)) != NULL)
			n = (size_t)(dot - rest.p) + 2;
		if (!emit(t, bytes(rest.p, n)))
			return (TOOK_DIFFERS);
		h->bol = rest.p[n - 1] == '\n' && (n > 1 ? rest.p[n - 2] == '\r' : h->last == '\r');
		h->last = rest.p[n - 1];
		*used += n;
		room = room > n ? room - n : 0;
	}
	return (*used > 0 ? TOOK_ONE : TOOK_MORE);
}

static enum took
body_line(struct turn *t, struct bytes line, bool good)
{
	struct pst *p = P(t);

	if (!good) {
		if (p->line_sent)
			return (TOOK_DIFFERS);
		/* perhaps its good-bye: another is asked, once, since it may be the message that cannot be read */
		if (has_code(line, "[SYS/TEMP]") && H(t)->identity && !p->no_uidl)
			return (TOOK_LEAVING);
		relay_line(t, line);
		pop3_answered(t);
		expect(t, E_NONE);
		return (TOOK_ANSWERED);
	}
	if (!p->line_sent) {
		if (p->command == CMD_RETR)
			out_fmt(t->client, "+OK %llu octets\r\n", (unsigned long long)pop3_entry(t, p->arg)->size);
		else
			out_str(t->client, "+OK\r\n");
		p->line_sent = 1;
	}
	expect(t, E_BODY);
	return (TOOK_ONE);
}

/* --- the rest ------------------------------------------------------------------------------------------------------ */

static enum took
capa_line(struct turn *t, struct bytes line)
{
	static const struct { const char *name; uint32_t bit; } caps[] = { { "TOP", CAP_TOP }, { "UIDL", CAP_UIDL },
		{ "RESP-CODES", CAP_RESP }, { "AUTH-RESP-CODE", CAP_AUTH_RESP }, { "PIPELINING", CAP_PIPE }, { "USER", CAP_USER } };
	static const struct { const char *name; uint32_t bit; } mechs[] = { { "PLAIN", CAP_PLAIN }, { "LOGIN", CAP_LOGIN },
		{ "XOAUTH2", CAP_XOAUTH2 }, { "OAUTHBEARER", CAP_OAUTHBEARER } };
	struct bytes name = bytes_token(&line, ' ');

	if (bytes_eq(name, BYTES("."))) {
		H(t)->stage = AT_UP;
		P(t)->caps = H(t)->caps | 1u << 31;
		expect(t, E_NONE);
		return (TOOK_ONE);
	}
	for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++)
		if (bytes_caseeq(name, bytes_str(caps[i].name)))
			H(t)->caps |= caps[i].bit;
	while (bytes_caseeq(name, BYTES("SASL")) && line.n > 0) {
		struct bytes m = bytes_token(&line, ' ');

		for (size_t i = 0; i < sizeof(mechs) / sizeof(mechs[0]); i++)
			if (bytes_caseeq(m, bytes_str(mechs[i].name)))
				H(t)->caps |= mechs[i].bit;
		H(t)->caps |= pop3_relay_cap(m);
	}
	return (TOOK_ONE);
}

static enum took
quit_status(struct turn *t, struct bytes line, bool good)
{
	struct pst *p = P(t);

	expect(t, E_NONE);
	if (p->command == CMD_PROBE) {
		p->probed = 1;
		return (good ? TOOK_ONE : TOOK_NONSENSE);	/* it may be of something else that we said */
	}
	if (!good && has_code(line, "[SYS/TEMP]") && !p->no_uidl)	/* perhaps its good-bye; what is left another removes */
		return (TOOK_NEVER);
	out_str(t->client, good && !H(t)->not_all ? "+OK bye\r\n" : "-ERR [SYS/TEMP] some deleted messages not removed\r\n");
	pop3_answered(t);
	p->phase = ENDED;
	return (TOOK_CLOSE);
}

static enum took
status(struct turn *t, struct bytes line)
{
	struct have *h = H(t);
	uint8_t space[1024];
	bool good = bytes_casestart(line, BYTES("+OK")), challenge = line.n > 0 && line.p[0] == '+' && !good;

	if (!good && !bytes_casestart(line, BYTES("-ERR")) && !(challenge && (h->expect == E_AUTH ||
	    h->expect == E_AUTH_END || h->expect == E_RELAY)))
		return (TOOK_NONSENSE);
	switch (h->expect) {
	case E_GREETING:
		if (!good)
			return (TOOK_LEAVING);
		h->xclient_here = memmem(line.p, line.n, "[XCLIENT]", 9) != NULL;
		h->stage = AT_GREETED;
		expect(t, E_NONE);
		return (TOOK_ONE);
	case E_STLS:
		h->go_ahead = good;
		expect(t, E_NONE);
		return (good ? TOOK_ONE : TOOK_INSECURE);
	case E_XCLIENT:
		h->xclient_ok = good && memmem(line.p, line.n, "ignor", 5) == NULL ? 1 : 2;	/* Dovecot: "+OK ... ignoring" */
		expect(t, h->after);	/* a refusal concerns the log of the backend, not the session */
		return (TOOK_ONE);
	case E_CAPA:
		if (!good) {		/* a server without CAPA: RFC 1939 alone */
			h->caps = CAP_USER | CAP_TOP | CAP_UIDL;
			return (capa_line(t, BYTES(".")));
		}
		expect(t, E_CAPA_BODY);
		return (TOOK_ONE);
	case E_USER:
		if (!good) {
			enum took k = login_refused(t, line);

			h->drop = h->pass_piped && k != TOOK_REFUSED;	/* the answer to PASS is still to come */
			return (k);
		}
		h->stage = AT_USER;
		expect(t, h->pass_piped ? E_PASS : E_NONE);
		return (TOOK_ONE);
	case E_AUTH:
		if (!challenge)
			return (good ? TOOK_NONSENSE : login_refused(t, line));
		out_put(t->backend, pop3_secret(t, space, sizeof(space)));
		out_str(t->backend, "\r\n");
		explicit_bzero(space, sizeof(space));
		expect(t, E_AUTH_END);
		return (TOOK_ONE);
	case E_AUTH_END:
		if (challenge) {	/* a bearer's error: it wants an answer before the final refusal (RFC 7628 section 3.2.3) */
			out_str(t->backend, P(t)->mech == SASL_OAUTHBEARER ? "AQ==\r\n" : "\r\n");
			return (TOOK_ONE);
		}
		return (good ? logged_in(t) : login_refused(t, line));
	case E_RELAY:
		if (challenge) {
			relay_line(t, line);
			P(t)->relay = RELAY_CLIENT;
			P(t)->challenged = 1;
			expect(t, E_NONE);
			return (TOOK_ONE);
		}
		if (!good)
			return (login_refused(t, line));
		pop3_relay_done(t);
		return (logged_in(t));
	case E_PASS:
		return (good ? logged_in(t) : login_refused(t, line));
	case E_LIST:
		if (!good)
			return (TOOK_LATER);
		h->n = 0;
		if (!P(t)->logged_in)
			pop3_snapshot_begin(t);
		expect(t, E_LIST_BODY);
		return (TOOK_ONE);
	case E_UIDL:
		return (uidl_status(t, line, good));
	case E_BODY_LINE:
		return (body_line(t, line, good));
	case E_DELE:
		h->not_all |= !good;
		if (--h->owed == 0)
			expect(t, E_NONE);
		return (TOOK_ONE);
	case E_QUIT:
		return (quit_status(t, line, good));
	default:
		break;
	}
	return (good ? TOOK_NONSENSE : TOOK_LEAVING);	/* nobody asked: it goes away (invariant 11) */
}

enum took
pop3_backend(struct turn *t, struct bytes in, size_t *used, size_t *scanned)
{
	struct have *h = H(t);
	const uint8_t *lf;
	struct bytes line;

	if (h->expect == E_BODY)
		return (body(t, in, used));
	lf = in.n > *scanned ? memchr(in.p + *scanned, '\n', in.n - *scanned) : NULL;
	if (lf == NULL) {
		*scanned = in.n;
		return (in.n > LINE_MAX_ ? TOOK_NONSENSE : TOOK_MORE);
	}
	*used = (size_t)(lf - in.p) + 1;
	line = bytes(in.p, *used - 1);
	if (line.n > 0 && line.p[line.n - 1] == '\r')
		line.n--;
	if (line.n > LINE_MAX_)
		return (TOOK_NONSENSE);
	if (h->expect == E_LIST_BODY)
		return (list_line(t, line));
	if (h->expect == E_UIDL_BODY)
		return (uidl_line(t, line));
	if (h->expect == E_CAPA_BODY)
		return (capa_line(t, line));
	return (status(t, line));
}
