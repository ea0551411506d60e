/*
 * relay - mechanisms with a challenge: passed on between client and backend, line by line (RFC 5034); pure
 *
 * No proof can be said twice. So the exchange cannot go on at another backend once the client has seen a challenge; and when it
 * is over, what is kept for another one is the master user's password in this user's name. Without one none is offered.
 */
#include "pop3/pop3.h"
#include "workers/sasl.h"

enum { LINE = 12288 };

static const struct { const char *name; uint32_t cap; } mechs[] = {
	{ "CRAM-MD5", CAP_CRAM_MD5 }, { "SCRAM-SHA-1", CAP_SCRAM_SHA_1 }, { "SCRAM-SHA-256", CAP_SCRAM_SHA_256 },
};
#define N (sizeof(mechs) / sizeof(mechs[0]))

static bool
offered(const struct turn *t, size_t i)
{
	struct caps_pop3 c;

	memcpy(&c, t->offer, sizeof(c));
	return ((c.bits & mechs[i].cap) != 0 && t->master != NULL && t->master->user[0] != '\0');
}

uint32_t
pop3_relay_cap(struct bytes mech)
{
	for (size_t i = 0; i < N; i++)
		if (bytes_caseeq(mech, bytes_str(mechs[i].name)))
			return (mechs[i].cap);
	return (0);
}

bool
pop3_relays(const struct turn *t, struct bytes mech, uint8_t *number)
{
	for (size_t i = 0; i < N; i++)
		if (bytes_caseeq(mech, bytes_str(mechs[i].name)) && offered(t, i)) {
			*number = (uint8_t)i;
			return (true);
		}
	return (false);
}

void
pop3_relay_list(const struct turn *t, struct out *o)
{
	for (size_t i = 0; i < N; i++)
		if (offered(t, i))
			out_fmt(o, " %s", mechs[i].name);
}

/* The login as it stands: who, once the client has said it, and the line to be said. */
static enum act
keep(struct turn *t, struct bytes line, struct bytes message)
{
	uint8_t raw[LINE];
	struct bytes user = pop3_user(t), prover = pop3_prover(t);
	int n = bytes_eq(message, BYTES("=")) ? 0 : sasl_decode(message, raw, sizeof(raw));

	if (prover.n == 0 && n != 0 && !bytes_eq(message, BYTES("*")))
		user = sasl_relayed_user(bytes_str(mechs[P(t)->relayed].name), bytes(raw, n > 0 ? (size_t)n : 0), &prover);
	user.n = user.n <= USER_MAX ? user.n : 0;
	return (pop3_login(t, SASL_RELAY, user, prover, line));
}

enum act
pop3_relay_begin(struct turn *t, uint8_t number, struct bytes initial)
{
	struct pst *p = P(t);
	char line[RELAY_INITIAL + 32];
	struct out o = { (uint8_t *)line, 0, sizeof(line), false };

	pop3_forget_login(t);
	p->mark = t->log->len;
	p->named = 1;			/* mark is where the login begins */
	p->relayed = number;
	out_str(&o, mechs[number].name);
	if (initial.n > 0) {
		out_str(&o, " ");
		out_put(&o, initial);
	}
	return (keep(t, bytes(line, o.len), initial));
}

enum act
pop3_relay_answer(struct turn *t, struct bytes line)
{
	P(t)->relay = RELAY_SAY;
	return (keep(t, line, line));
}

enum next
pop3_relay_next(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	if (h->relaying && p->relay == RELAY_CLIENT)
		return (NEXT_MORE);
	if (!h->relaying && p->challenged)
		return (NEXT_NEVER);
	out_str(t->backend, h->relaying ? "" : "AUTH ");
	out_put(t->backend, bytes(t->log->p + p->secret, p->secret_len));
	out_str(t->backend, "\r\n");
	h->relaying = true;
	p->relay = RELAY_NONE;
	h->expect = E_RELAY;
	return (NEXT_SAY);
}

/* Of PLAIN by the master user in this user's name; it is made when it is said, since the log cannot be changed in its midst. */
static int
proxy_plain(const struct turn *t, uint8_t *space, size_t size)
{
	return (t->master == NULL ? -1 : sasl_master(pop3_user(t), t->master->user, t->master->password, space, size));
}

bool
pop3_by_master(struct turn *t)
{
	struct pst *p = P(t);
	uint8_t space[1024];

	if (p->by_master || (p->mech != SASL_XOAUTH2 && p->mech != SASL_OAUTHBEARER) || proxy_plain(t, space, sizeof(space)) == -1)
		return (false);
	explicit_bzero(space, sizeof(space));
	p->by_master = 1;
	return (true);
}

struct bytes
pop3_secret(const struct turn *t, uint8_t *space, size_t size)
{
	const struct pst *p = P(t);
	int n = p->by_master ? proxy_plain(t, space, size) : -1;

	return (n == -1 ? bytes(t->log->p + p->secret, p->secret_len) : bytes(space, (size_t)n));
}

void
pop3_relay_done(struct turn *t)
{
	struct pst *p = P(t);
	uint8_t secret[1024];
	int n = proxy_plain(t, secret, sizeof(secret));

	p->challenged = n == -1;	/* then no other backend can be entered */
	if (n == -1)
		return;
	(void)pop3_login(t, SASL_PLAIN, pop3_user(t), pop3_prover(t), bytes(secret, (size_t)n));
	explicit_bzero(secret, sizeof(secret));
}
