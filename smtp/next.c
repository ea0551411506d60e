/*
 * next - what brings a backend nearer to the session: greeting, EHLO, XCLIENT, EHLO, AUTH, the envelope, content
 *
 * Live traffic and replay differ in one thing: what was answered before goes out in one group.
 */
#include "smtp/smtp.h"

enum { CHUNK_MIN = 65536, IR_MAX = 400, XCLIENT_LINE = 480 };

static enum next
say(struct turn *t, enum expect e)
{
	H(t)->expect = (uint8_t)e;
	return (NEXT_SAY);
}

static enum next
wait_for_reply(struct turn *t)
{
	switch ((enum expect)H(t)->expect) {
	case E_GREETING:
		t->wait = t->times->greeting;
		break;
	case E_AUTH:
	case E_AUTH_END:
	case E_AUTH_RELAY:
		t->wait = t->times->login;
		break;
	case E_DATA:
		t->wait = t->times->data_init;
		break;
	case E_BDAT:
		t->wait = t->times->bulk;
		break;
	case E_END:
		t->wait = t->times->eod;
		break;
	default:
		break;
	}
	return (NEXT_WAIT);
}

static enum next
name(struct turn *t)
{
	const char *who = P(t)->helo != HELO_NONE ? P(t)->name : t->peer->banner;

	out_fmt(t->backend, "%s %s\r\n", H(t)->named == 2 ? "HELO" : "EHLO", who);
	return (say(t, H(t)->named == 2 ? E_HELO : E_EHLO));
}

/* Tells the backend who the client is; ADDR comes last, since after it the peer has no more rights (2.5). */
static enum next
identify(struct turn *t)
{
	const struct peerinfo *c = t->peer;
	struct have *h = H(t);
	uint8_t space[3 * HELO_MAX + 16];
	struct out helo = { space, 0, sizeof(space), false };

	out_str(&helo, " HELO=");
	(void)smtp_put_xtext(&helo, P(t)->name);
	out_str(t->backend, "XCLIENT");
	if (h->xattrs & XC_HELO && h->xclient == 0)
		out_put(t->backend, bytes(helo.p, helo.len));
	if (h->xattrs & XC_PROTO && h->xclient == 0)
		out_str(t->backend, P(t)->helo == HELO_HELO ? " PROTO=SMTP" : " PROTO=ESMTP");
	if (h->xclient == 0 && helo.len > XCLIENT_LINE - 200 && h->xattrs & XC_HELO) {
		out_str(t->backend, "\r\n");
		return (say(t, E_XCLIENT_PART));
	}
	if (h->xattrs & XC_NAME)
		out_str(t->backend, " NAME=[UNAVAILABLE]");
	if (h->xattrs & XC_PORT)
		out_fmt(t->backend, " PORT=%u", c->port);
	if (h->xattrs & XC_DESTADDR && c->local[0] != '\0')
		out_fmt(t->backend, " DESTADDR=%s%s", strchr(c->local, ':') != NULL ? "IPV6:" : "", c->local);
	if (h->xattrs & XC_DESTPORT && c->local_port != 0)
		out_fmt(t->backend, " DESTPORT=%u", c->local_port);
	out_fmt(t->backend, " ADDR=%s%s\r\n", c->v6 ? "IPV6:" : "", c->addr);
	return (say(t, E_XCLIENT));
}

static enum next
login(struct turn *t)
{
	static const struct { const char *name; uint32_t cap; } mech[] = { [SASL_PLAIN] = { "PLAIN", CAP_AUTH_PLAIN },
		[SASL_XOAUTH2] = { "XOAUTH2", CAP_AUTH_XOAUTH2 }, [SASL_OAUTHBEARER] = { "OAUTHBEARER", CAP_AUTH_OAUTHBEARER } };
	const struct pst *p = P(t);
	uint8_t how = p->by_master ? SASL_PLAIN : p->mech, space[1024];
	struct bytes secret = smtp_secret(t, space, sizeof(space));
	bool whole;

	t->wait = t->times->login;
	if (how == SASL_RELAY)
		return (smtp_relay_next(t));
	if ((H(t)->caps & mech[how].cap) == 0)
		return (NEXT_NEVER);
	out_fmt(t->backend, "AUTH %s", mech[how].name);
	whole = secret.n > 0 && secret.n <= IR_MAX;
	if (whole) {
		out_str(t->backend, " ");
		out_put(t->backend, secret);
	}
	out_str(t->backend, "\r\n");
	explicit_bzero(space, sizeof(space));
	return (say(t, whole ? E_AUTH_END : E_AUTH));
}

/* Recipients that were accepted before, from where this backend is; as many as fit. */
static uint32_t
recipients(struct turn *t, uint32_t max)
{
	const struct pst *p = P(t);
	struct have *h = H(t);
	uint32_t n = 0;

	while (n < max && h->nrcpt < p->nrcpt) {
		struct bytes rest = bytes(t->log->p + p->rcpts + h->rcpt_at, p->rcpt_len - h->rcpt_at);
		struct bytes line = bytes_token(&rest, '\n');

		line.n++;		/* with its end */
		if (out_room(t->backend) < line.n + 64)
			break;
		out_put(t->backend, line);
		h->rcpt_at += (uint32_t)line.n;
		h->nrcpt++;
		n++;
	}
	return (n);
}

static bool
outgrown(const struct turn *t)
{
	return (H(t)->size != 0 && smtp_size(t) > H(t)->size);
}

/* This backend takes less than the client was told: what it announced, or what has come. */
static bool
too_large(const struct turn *t)
{
	const struct pst *p = P(t);
	struct bytes rest = bytes_cut(bytes(t->log->p + p->mail, p->mail_len - 2), strlen("MAIL FROM:")), key, value;
	uint64_t size, max = H(t)->size;

	if (max == 0 || smtp_path(&rest, &key) == -1)
		return (false);
	while (smtp_param(&rest, &key, &value) == 1)
		if (bytes_caseeq(key, BYTES("SIZE")) && bytes_num(value, 0, UINT64_MAX, &size) == 0 && size > max)
			return (true);
	return (outgrown(t));
}

static enum next
envelope(struct turn *t)
{
	const struct pst *p = P(t);
	struct have *h = H(t);
	uint32_t need = p->need | (p->bdat ? CAP_CHUNKING : 0), batch = h->caps & CAP_PIPELINING ? UINT32_MAX : 1;

	h->owed = 0;
	if (!h->open) {
		if ((need & ~h->caps) != 0 || too_large(t))
			return (NEXT_NEVER);
		out_put(t->backend, bytes(t->log->p + p->mail, p->mail_len));
		h->open = 1;
		h->txn = p->txn;
		h->nrcpt = h->rcpt_at = 0;
		h->bdat_to = 0;
		if (p->command == CMD_MAIL)
			return (say(t, E_MAIL));
		h->owed = 1;
		batch -= batch == 1;
	}
	h->owed += recipients(t, batch);
	return (say(t, E_ENVELOPE));
}

static enum next
end_of_content(struct turn *t, const char *line)
{
	out_str(t->backend, line);
	H(t)->fence_out = 1;
	t->wait = t->times->eod;
	return (say(t, E_END));
}

static enum next
data(struct turn *t)
{
	if (!H(t)->content) {
		out_str(t->backend, "DATA\r\n");
		t->wait = t->times->data_init;
		return (say(t, E_DATA));
	}
	t->wait = t->times->bulk;
	if (t->spool_to < t->spool->len) {
		t->spool_to = t->spool->len;
		return (NEXT_SPOOL);
	}
	return (t->spool->whole ? end_of_content(t, ".\r\n") : NEXT_MORE);
}

/* The client's chunks become larger ones of our own; only the empty last one commits (protocols.md 1.1.6). */
static enum next
bdat(struct turn *t)
{
	const struct pst *p = P(t);
	struct have *h = H(t);
	uint64_t ready = t->spool->len - h->bdat_to;

	t->wait = t->times->bulk;
	if (t->spool_to < h->bdat_to) {
		t->spool_to = h->bdat_to;
		return (NEXT_SPOOL);
	}
	if (h->owed > 0 && !(t->spool->whole && ready == 0 && h->caps & CAP_PIPELINING)) {
		h->expect = E_BDAT;
		return (NEXT_WAIT);
	}
	if (t->spool->whole && ready == 0)
		return (end_of_content(t, "BDAT 0 LAST\r\n"));
	if (!t->spool->whole && ready < CHUNK_MIN)
		return (p->command == CMD_BDAT ? NEXT_MORE : NEXT_READY);
	out_fmt(t->backend, "BDAT %llu\r\n", (unsigned long long)ready);
	h->bdat_to = t->spool->len;
	h->owed = 1;
	return (NEXT_SAY);
}

static enum next
probe(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	if (p->probed)
		return (NEXT_READY);
	p->learned = (struct caps_smtp){ .known = 1, .bits = h->info_xclient ? h->caps : h->caps & ~(uint32_t)CAP_XCLIENT,
	    .size = h->size };
	h->quit = 1;
	out_str(t->backend, "QUIT\r\n");
	return (say(t, E_QUIT));
}

/* Whether the session wants anything of a backend now. */
static bool
idle(const struct turn *t)
{
	const struct pst *p = P(t);
	const struct have *h = H(t);

	if (p->command == CMD_SWALLOW || p->command == CMD_SWALLOW_CHUNK)
		return (true);
	return (p->command == CMD_NONE && !(p->open && p->bdat && p->bad == BAD_NONE && h->open));
}

enum next
smtp_next(struct turn *t)
{
	const struct pst *p = P(t);
	struct have *h = H(t);

	t->wait = t->times->command;
	if (h->expect != E_NONE)
		return (wait_for_reply(t));
	/* a transaction that the client has left, or whose content is refused: in DATA only a close ends it */
	if (h->partial || (h->content && (!p->open || h->txn != p->txn || p->command == CMD_SWALLOW)))
		return (NEXT_DROP);
	if (h->open && h->owed > 0 && (!p->open || p->command == CMD_SWALLOW_CHUNK))
		return (NEXT_DROP);
	if (h->open && (!p->open || h->txn != p->txn)) {
		out_str(t->backend, "RSET\r\n");
		return (say(t, E_RSET));
	}
	if (idle(t))
		return (NEXT_READY);
	if (h->starttls == 2) {		/* what was said in clear counts no more (RFC 3207 section 4.2) */
		h->starttls = h->named = 0;
		return (NEXT_TLS);
	}
	if (h->named != 1 || h->helo_seq != p->helo_seq)
		return (name(t));
	if (h->starttls == 1) {
		out_str(t->backend, "STARTTLS\r\n");
		return (say(t, E_STARTTLS));
	}
	if (p->command == CMD_PROBE)
		return (probe(t));
	if (h->info_xclient && h->xclient < 2 && h->caps & CAP_XCLIENT && h->xattrs & XC_ADDR && t->peer->addr[0] != '\0')
		return (identify(t));
	if (h->xclient < 2)
		P(t)->no_xclient = 1;
	if ((p->authenticated || p->command == CMD_AUTH) && !h->authenticated)
		return (login(t));
	if (!h->open || h->nrcpt < p->nrcpt)
		return (envelope(t));
	if (p->command == CMD_RCPT) {
		out_put(t->backend, bytes(t->log->p + p->rcpts + p->rcpt_len, t->log->len - p->rcpts - p->rcpt_len));
		return (say(t, E_RCPT));
	}
	if (outgrown(t))
		return (NEXT_NEVER);
	return (p->bdat ? bdat(t) : data(t));
}

void
smtp_writing(struct turn *t, uint64_t spool_sent)
{
	(void)spool_sent;
	if (H(t)->fence_out && H(t)->expect == E_END && t->spool->whole)
		P(t)->fence = 1;
}
