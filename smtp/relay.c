/*
 * relay - mechanisms with a challenge: passed on between client and backend, line by line (RFC 4954); pure
 *
 * No proof can be said twice. So the exchange cannot go on at another backend once the client has seen a challenge; and when it
 * is over, what is kept for another one is the master user's password in this user's name. Without one none is offered.
 */
#include "smtp/smtp.h"
#include "workers/sasl.h"

static const struct { const char *name; uint32_t cap; } mechs[] = {
	{ "CRAM-MD5", CAP_AUTH_CRAM_MD5 }, { "SCRAM-SHA-1", CAP_AUTH_SCRAM_SHA_1 }, { "SCRAM-SHA-256", CAP_AUTH_SCRAM_SHA_256 },
};

bool
smtp_relays(const struct turn *t, struct bytes mech, uint8_t *number)
{
	for (uint8_t i = 0; i < sizeof(mechs) / sizeof(mechs[0]); i++)
		if (bytes_caseeq(mech, bytes_str(mechs[i].name)) && (smtp_offer(t).bits & mechs[i].cap) != 0) {
			*number = i;
			return (true);
		}
	return (false);
}

/* The login as it stands: who, once the client has said it, and the line to be said. */
static enum act
keep(struct turn *t, struct bytes line, struct bytes message)
{
	uint8_t raw[AUTH_LINE];
	struct bytes user = smtp_user(t), prover = smtp_prover(t);
	int n = bytes_eq(message, BYTES("=")) ? 0 : sasl_decode(message, raw, sizeof(raw));

	if (prover.n == 0 && n != 0 && !bytes_eq(message, BYTES("*")))
		user = sasl_relayed_user(bytes_str(mechs[P(t)->relayed].name), bytes(raw, n > 0 ? (size_t)n : 0), &prover);
	user.n = user.n <= USER_MAX ? user.n : 0;
	return (smtp_credentials(t, SASL_RELAY, user, prover, line));
}

enum act
smtp_relay_begin(struct turn *t, uint8_t number, struct bytes initial)
{
	struct pst *p = P(t);
	char line[RELAY_INITIAL + 32];
	struct out o = { (uint8_t *)line, 0, sizeof(line), false };

	smtp_auth_forget(t);
	p->relayed = number;
	p->relay = RELAY_NONE;
	p->challenged = 0;
	out_str(&o, mechs[number].name);
	if (initial.n > 0) {
		out_str(&o, " ");
		out_put(&o, initial);
	}
	return (keep(t, bytes(line, o.len), initial));
}

/* The client's answer to a challenge; a line that cannot be one gives the exchange up (RFC 4954 section 4). */
enum act
smtp_relay_answer(struct turn *t, struct bytes in, size_t *used, size_t *scanned)
{
	const uint8_t *lf = in.n > *scanned ? memchr(in.p + *scanned, '\n', in.n - *scanned) : NULL;
	struct bytes line = BYTES("*");

	if (lf == NULL && in.n <= AUTH_LINE) {
		*scanned = in.n;
		return (ACT_MORE);
	}
	*used = lf != NULL ? (size_t)(lf - in.p) + 1 : in.n;
	P(t)->swallow = lf == NULL;
	if (lf != NULL && *used >= 2 && *used <= AUTH_LINE && in.p[*used - 2] == '\r' && memchr(in.p, '\0', *used) == NULL &&
	    memchr(in.p, '\r', *used - 2) == NULL)
		line = bytes(in.p, *used - 2);
	P(t)->relay = RELAY_SAY;
	return (keep(t, line, line));
}

enum next
smtp_relay_next(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	if (h->relaying && p->relay == RELAY_CLIENT)
		return (NEXT_MORE);
	if (!h->relaying && (p->challenged || (h->caps & mechs[p->relayed].cap) == 0))
		return (NEXT_NEVER);
	out_str(t->backend, h->relaying ? "" : "AUTH ");
	out_put(t->backend, bytes(t->log->p + p->secret, p->secret_len));
	out_str(t->backend, "\r\n");
	h->relaying = 1;
	p->relay = RELAY_NONE;
	h->expect = E_AUTH_RELAY;
	return (NEXT_SAY);
}

/* Of PLAIN by the master user in this user's name; it is made when it is said, since the log cannot be changed in its midst. */
static int
proxy_plain(const struct turn *t, uint8_t *space, size_t size)
{
	return (t->master == NULL ? -1 : sasl_master(smtp_user(t), t->master->user, t->master->password, space, size));
}

bool
smtp_by_master(struct turn *t)
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
smtp_secret(const struct turn *t, uint8_t *space, size_t size)
{
	const struct pst *p = P(t);
	int n = p->by_master ? proxy_plain(t, space, size) : -1;

	return (n == -1 ? bytes(t->log->p + p->secret, p->secret_len) : bytes(space, (size_t)n));
}

void
smtp_relay_done(struct turn *t)
{
	struct pst *p = P(t);
	uint8_t secret[1024];
	int n = proxy_plain(t, secret, sizeof(secret));

	p->challenged = n == -1;	/* then no other backend can be entered */
	if (n == -1)
		return;
	(void)smtp_credentials(t, SASL_PLAIN, smtp_user(t), smtp_prover(t), bytes(secret, (size_t)n));
	explicit_bzero(secret, sizeof(secret));
}
