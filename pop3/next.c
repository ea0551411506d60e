/*
 * next - what brings a backend nearer to the session: greeting, identity, login, snapshot or map, the pending command
 */
#include "pop3/pop3.h"

enum { BATCH = 100 };

/* All backends do, or it is not offered. */
static bool
pipelines(const struct turn *t)
{
	struct caps_pop3 c;

	memcpy(&c, t->offer, sizeof(c));
	return ((c.bits & CAP_PIPE) != 0);
}

static enum next
say(struct turn *t, enum expect e)
{
	H(t)->expect = (uint8_t)e;
	return (NEXT_SAY);
}

static enum next
login(struct turn *t)
{
	static const char *const mech[] = { [SASL_PLAIN] = "PLAIN", [SASL_XOAUTH2] = "XOAUTH2",
		[SASL_OAUTHBEARER] = "OAUTHBEARER" };
	const struct pst *p = P(t);
	uint8_t space[1024];
	struct bytes secret = pop3_secret(t, space, sizeof(space));

	t->wait = t->times->login;
	if (p->mech == SASL_RELAY)
		return (pop3_relay_next(t));
	if (p->mech != SASL_NONE) {
		/* the initial response goes with the command when the line stays below 255 octets (RFC 5034 section 4) */
		out_fmt(t->backend, "AUTH %s", p->by_master ? "PLAIN" : mech[p->mech]);
		if (secret.n < 230) {
			out_str(t->backend, " ");
			out_put(t->backend, secret.n > 0 ? secret : BYTES("="));
			H(t)->stage = AT_USER;
		}
		out_str(t->backend, "\r\n");
		explicit_bzero(space, sizeof(space));
		return (say(t, H(t)->stage == AT_USER ? E_AUTH_END : E_AUTH));
	}
	if (H(t)->stage == AT_NAMED) {
		out_str(t->backend, "USER ");
		out_put(t->backend, pop3_user(t));
		out_str(t->backend, "\r\n");
		if ((H(t)->pass_piped = pipelines(t)) == 0)
			return (say(t, E_USER));
	}
	out_str(t->backend, "PASS ");
	out_put(t->backend, secret);
	out_str(t->backend, "\r\n");
	return (say(t, H(t)->pass_piped ? E_USER : E_PASS));
}

static enum next
snapshot(struct turn *t)
{
	const struct pst *p = P(t);
	struct have *h = H(t);
	bool list = !p->logged_in || p->no_uidl, uidl = !p->no_uidl;

	if (h->stage == AT_LOGGED_IN && list) {
		h->piped = uidl && pipelines(t);
		out_str(t->backend, h->piped ? "LIST\r\nUIDL\r\n" : "LIST\r\n");
		return (say(t, E_LIST));
	}
	out_str(t->backend, "UIDL\r\n");
	return (say(t, E_UIDL));
}

static enum next
fetch(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	uint32_t num = pop3_map(t, p->arg);

	/* gone meanwhile was dealt with when the map was made; here it is there */
	relayed_start(&h->body, p->body.key);
	h->caught = p->body.k == 0;
	h->bol = 1;
	h->last = '\n';
	t->wait = t->times->bulk;
	if (p->command == CMD_TOP)
		out_fmt(t->backend, "TOP %u %u\r\n", num, p->lines);
	else
		out_fmt(t->backend, "RETR %u\r\n", num);
	return (say(t, E_BODY_LINE));
}

static enum next
deletions(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	bool pipe = pipelines(t);
	uint32_t batch = pipe ? BATCH : 1, num;

	if (h->owed > 0)
		return (NEXT_WAIT);
	/* which of the same UID is to be kept was another question when the map was made: marks have come and gone */
	if (h->twins && !h->identity && !h->for_quit)
		return (snapshot(t));
	for (; h->dele_next < p->n && h->owed < batch && out_room(t->backend) > 64; h->dele_next++) {
		if (!pop3_deleted(t, pop3_entry(t, h->dele_next + 1)) || (num = pop3_map(t, h->dele_next + 1)) == 0)
			continue;		/* gone already: the goal holds */
		out_fmt(t->backend, "DELE %u\r\n", num);
		h->owed++;
	}
	if (h->owed > 0)
		return (say(t, E_DELE));
	out_str(t->backend, "QUIT\r\n");
	h->quit_out = 1;
	h->stage = AT_QUITTING;
	return (say(t, E_QUIT));
}

/* Who the client is; the login goes with it where commands may be pipelined, which saves a turn of both sides. */
static enum next
identify(struct turn *t)
{
	const struct peerinfo *c = t->peer;
	struct have *h = H(t);

	h->stage = AT_NAMED;
	out_fmt(t->backend, "XCLIENT ADDR=%s PORT=%u SESSION=%s\r\n", c->addr, c->port, c->session);
	h->after = E_NONE;
	if (pipelines(t)) {
		(void)login(t);
		h->after = h->expect;
	}
	return (say(t, E_XCLIENT));
}

enum next
pop3_next(struct turn *t)
{
	const struct pst *p = P(t);
	struct have *h = H(t);

	t->wait = t->times->command;
	if (h->expect == E_GREETING) {
		t->wait = t->times->greeting;
		return (NEXT_WAIT);
	}
	if (h->drop)
		return (NEXT_DROP);
	if (h->expect != E_NONE) {
		if ((h->expect == E_XCLIENT && h->after != E_NONE) || h->expect == E_USER || h->expect == E_PASS ||
		    h->expect == E_AUTH || h->expect == E_AUTH_END ||
		    h->expect == E_RELAY)
			t->wait = t->times->login;
		else if (h->expect == E_BODY_LINE || h->expect == E_BODY)
			t->wait = t->times->bulk;
		return (NEXT_WAIT);
	}
	if (h->starttls) {
		if (!h->go_ahead) {
			out_str(t->backend, "STLS\r\n");
			return (say(t, E_STLS));
		}
		h->starttls = false;
		return (NEXT_TLS);
	}
	if (p->command == CMD_PROBE) {
		if (p->probed)
			return (NEXT_READY);
		h->quit_out = h->stage == AT_UP;
		out_str(t->backend, h->stage == AT_UP ? "QUIT\r\n" : "CAPA\r\n");
		return (say(t, h->stage == AT_UP ? E_QUIT : E_CAPA));
	}
	if (p->command == CMD_NONE)
		return (NEXT_READY);
	switch (h->stage) {
	case AT_GREETED:
		if (h->info_xclient && h->xclient_here && t->peer->addr[0] != '\0')
			return (identify(t));
		h->stage = AT_NAMED;
		return (login(t));
	case AT_NAMED:
	case AT_USER:
		return (login(t));
	case AT_LOGGED_IN:
	case AT_LISTED:
		return (snapshot(t));
	default:
		break;
	}
	return (p->command == CMD_QUIT ? deletions(t) : fetch(t));
}

void
pop3_writing(struct turn *t, uint64_t spool_sent)
{
	(void)spool_sent;
	if (H(t)->quit_out && P(t)->command == CMD_QUIT)
		P(t)->fence = 1;
}

enum doubt
pop3_doubt(struct turn *t)
{
	struct pst *p = P(t);

	/* idempotent by UID: what is gone is not asked for again, what is kept is never touched (1.2.3) */
	if (!p->no_uidl) {
		p->fence = 0;
		p->line_sent = 1;	/* of QUIT: a host has had it */
		return (DOUBT_REDO_SAFE);
	}
	(void)pop3_refuse(t, WHY_LOST);
	return (DOUBT_CLOSE);
}
