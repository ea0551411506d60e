/*
 * login - LOGIN and AUTHENTICATE, what is kept of them for another backend (protocols.md 2), and what backends say to them;
 * pure
 *
 * Passwords and tokens are kept and said again. A mechanism with a challenge is passed on to the backend, since no
 * proof can be said twice; another backend is then entered by the master user in the user's name, and without one such
 * are not offered.
 */
#include "imap4/imap4.h"
#include "workers/sasl.h"

enum { LINE = 16384, USER_MAX = 1024 };

bool
imap4_has_master(const struct turn *t)
{
	return (t->master != NULL && t->master->user[0] != '\0');
}

bool
imap4_master(struct turn *t, struct bytes user)
{
	struct pst *p = P(t);
	uint8_t secret[1024];
	char name[256];
	int n;

	if (!imap4_has_master(t) || p->by_master || user.n == 0 || user.n >= sizeof(name) ||
	    memchr(user.p, 0, user.n) != NULL)
		return (false);
	memcpy(name, user.p, user.n);
	name[user.n] = '\0';
	n = sasl_external(bytes("", 0), name, t->master->user, t->master->password, secret, sizeof(secret));
	if (n == -1)
		return (false);
	explicit_bzero(Z(t, Z_AUTH), Z_AUTH_SIZE);
	memcpy(Z(t, Z_AUTH), name, user.n);
	memcpy(Z(t, Z_AUTH + (uint32_t)user.n), secret, (size_t)n);
	p->user_len = (uint32_t)user.n;
	p->secret_len = (uint32_t)n;
	p->mech = SASL_PLAIN;
	p->by_master = 1;
	explicit_bzero(secret, sizeof(secret));
	return (true);
}

static enum act
sasl_end(struct turn *t, const char *text)
{
	P(t)->sasl = SASL_NONE;
	imap4_forget_login(t);
	return (imap4_bad(t, text));
}

enum act
imap4_login(struct turn *t, uint8_t mech, struct bytes user, struct bytes prover, struct bytes secret)
{
	struct pst *p = P(t);

	if (user.n > USER_MAX || user.n + secret.n > (prover.n > 0 ? Z_WHO : Z_AUTH_SIZE))
		return (sasl_end(t, "credentials too long"));
	p->who_len = prover.n < Z_WHO_SIZE ? (uint32_t)prover.n : Z_WHO_SIZE;	/* its failures are counted: as much of it does */
	memcpy(Z(t, Z_WHO), prover.p, p->who_len);
	memmove(Z(t, Z_AUTH), user.p, user.n);
	memcpy(Z(t, Z_AUTH + (uint32_t)user.n), secret.p, secret.n);
	p->user_len = (uint32_t)user.n;
	p->secret_len = (uint32_t)secret.n;
	p->mech = mech;
	p->sasl = SASL_NONE;
	p->challenged = p->answer_due = 0;
	imap4_forget_command(t);
	p->line_at = 0;
	p->gather = G_LINE;
	p->command = CMD_LOGIN;
	return (ACT_PENDING);
}

static bool
plain_text(struct bytes b)
{
	return (b.n > 0 && b.n <= 1024 && memchr(b.p, 0, b.n) == NULL && memchr(b.p, '\r', b.n) == NULL &&
	    memchr(b.p, '\n', b.n) == NULL);
}

/* The login by a mechanism that is passed on, message: the client's first that names anybody. */
static void
named(struct turn *t, struct bytes mech, struct bytes message)
{
	struct bytes prover, user = sasl_relayed_user(mech, message, &prover);

	user.n = user.n <= USER_MAX ? user.n : 0;
	(void)imap4_login(t, SASL_RELAY, user, prover, mech);
}

enum act
imap4_relay_login(struct turn *t, struct bytes name, struct bytes initial)
{
	struct pst *p = P(t);
	uint8_t raw[LINE];
	int n = bytes_eq(initial, BYTES("=")) ? 0 : sasl_decode(initial, raw, sizeof(raw));
	uint32_t end;

	if (name.n + initial.n + 1 > Z_ANSWER - USER_MAX)
		return (imap4_bad(t, "initial response too long"));
	if (n == -1)
		return (imap4_bad(t, "malformed base64"));
	memcpy(Z(t, Z_ANSWER), initial.p, initial.n);	/* login() wipes the command */
	if (n > 0)
		named(t, name, bytes(raw, (size_t)n));
	else
		(void)imap4_login(t, SASL_RELAY, bytes("", 0), bytes("", 0), name);
	if (initial.n > 0) {
		end = Z_AUTH + p->user_len + p->secret_len;
		*Z(t, end) = ' ';
		memcpy(Z(t, end + 1), Z(t, Z_ANSWER), initial.n);
		p->secret_len += (uint32_t)initial.n + 1;
	}
	return (ACT_PENDING);
}

/* The client's answer to a backend's challenge. What was said before it is not said again: of that the mechanism's name is kept. */
static enum act
relayed_answer(struct turn *t, struct bytes line)
{
	struct pst *p = P(t);
	uint8_t raw[LINE], mech[32];
	struct bytes secret = bytes(Z(t, Z_AUTH + p->user_len), p->secret_len), name = bytes_token(&secret, ' ');
	int n = sasl_decode(line, raw, sizeof(raw));

	if (line.n > Z_ANSWER_SIZE || (n == -1 && !bytes_eq(line, BYTES("*")) && !bytes_eq(line, BYTES("=")))) {
		line = BYTES("*");		/* the backend says what it thinks of it */
		n = -1;
	}
	memcpy(Z(t, Z_ANSWER), line.p, line.n);
	if (p->who_len == 0 && n > 0 && name.n <= sizeof(mech)) {
		memcpy(mech, name.p, name.n);
		named(t, bytes(mech, name.n), bytes(raw, (size_t)n));
		p->challenged = 1;
	}
	p->answer_len = (uint32_t)line.n;
	p->answer_due = 1;
	p->sasl = SASL_NONE;
	p->gather = G_LINE;
	p->cmd_len = p->tag_len;
	p->line_at = 0;
	return (ACT_DONE);
}

enum act
imap4_sasl(struct turn *t, struct bytes line)
{
	struct pst *p = P(t);
	uint8_t raw[LINE];
	struct bytes zid, cid, pw;
	int n;

	if (p->sasl == SASL_RELAY)
		return (relayed_answer(t, line));
	if (bytes_eq(line, BYTES("*")))
		return (sasl_end(t, "authentication cancelled"));
	if (bytes_eq(line, BYTES("=")))
		line.n = 0;
	if ((n = sasl_decode(line, raw, sizeof(raw))) == -1)
		return (sasl_end(t, "malformed base64"));
	switch (p->sasl) {
	case SASL_PLAIN:
		if (sasl_plain(bytes(raw, (size_t)n), &zid, &cid, &pw) == -1)
			return (sasl_end(t, "malformed PLAIN message"));
		return (imap4_login(t, SASL_PLAIN, zid.n > 0 ? zid : cid, zid.n > 0 ? cid : zid, line));
	case SASL_XOAUTH2:
	case SASL_OAUTHBEARER:
		return (imap4_login(t, p->sasl, sasl_bearer_user(bytes(raw, (size_t)n)), bytes("", 0), line));
	case SASL_EXTERNAL:
		n = sasl_external(
		    bytes(raw, (size_t)n), t->tls->user, t->master->user, t->master->password, raw, sizeof(raw));
		if (n == -1)
			return (sasl_end(t, "that is not who your certificate says"));
		return (imap4_login(t, SASL_PLAIN, bytes_str(t->tls->user), bytes("", 0), bytes(raw, (size_t)n)));
	case SASL_LOGIN_USER:
		if (!plain_text(bytes(raw, (size_t)n)))
			return (sasl_end(t, "malformed user name"));
		memcpy(Z(t, Z_AUTH), raw, (size_t)n);
		p->user_len = (uint32_t)n;
		p->sasl = SASL_LOGIN_PASS;
		p->cmd_len = p->line_at;
		out_str(t->client, "+ UGFzc3dvcmQ6\r\n");
		return (ACT_DONE);
	case SASL_LOGIN_PASS:
		if (!plain_text(bytes(raw, (size_t)n)))
			return (sasl_end(t, "malformed password"));
		return (imap4_login(t, SASL_NONE, bytes(Z(t, Z_AUTH), p->user_len), bytes("", 0), bytes(raw, (size_t)n)));
	default:
		return (sasl_end(t, "malformed authentication exchange"));
	}
}

void
imap4_try_login(struct turn *t, struct bytes user, struct bytes password)
{
	struct pst *p = P(t);

	imap4_greet(t);
	*Z(t, Z_CMD) = 'c';
	p->tag_len = p->cmd_len = 1;
	(void)imap4_login(t, SASL_NONE, user, bytes("", 0), password);
}

/* --- what a backend says to it ------------------------------------------------------------------------------------ */

/* RFC 5530: it may do later what it refuses now; a reason that says nothing of the password. */
static const char *const for_now[] = { "UNAVAILABLE]", "SERVERBUG]", "INUSE]", "LIMIT]", NULL };
static const char *const other_reason[] = { "INUSE]", "LIMIT]", "CONTACTADMIN]", "PRIVACYREQUIRED]", "EXPIRED]", NULL };

static bool
one_of(struct bytes text, const char *const code[])
{
	for (; *code != NULL; code++)
		if (imap4_has_code(text, *code))
			return (true);
	return (false);
}

enum took
imap4_stands_in(bool good, struct bytes text)
{
	return (good ? TOOK_ONE : one_of(text, for_now) ? TOOK_LATER : TOOK_NEVER);
}

enum took
imap4_logged_in(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	struct caps_imap4 offer;

	h->stage = AT_KNOWN;
	memcpy(&offer, t->offer, sizeof(offer));
	h->capinfo.post = h->capinfo.known = 1;
	h->capinfo.cap = h->caps;
	if (!offer.post || offer.cap != h->caps) {
		t->learned = (struct caps){ .known = 1 };
		memcpy(&t->learned, &h->capinfo, sizeof(h->capinfo));
	}
	if (p->phase != NOTAUTH) {	/* it has to do what was promised */
		h->never = caps_lacks(t);
		return (h->never ? TOOK_NEVER : TOOK_ONE);
	}
	p->caps = h->capinfo;
	if (offer.post) {
		struct caps a, b;

		a = b = (struct caps){ .known = 1 };
		memcpy(&a, &p->caps, sizeof(p->caps));
		memcpy(&b, &offer, sizeof(offer));
		caps_meet(&a, &b);
		memcpy(&p->caps, &a, sizeof(p->caps));
	}
	p->phase = AUTH;
	out_put(t->client, cmd_tag(t));
	out_str(t->client, " OK [");
	caps_line(t, t->client);
	out_str(t->client, "] Logged in\r\n");
	imap4_answered(t);
	return (TOOK_ANSWERED);
}

static enum took
login_refused(struct turn *t, struct bytes status, struct bytes text)
{
	struct pst *p = P(t);

	if (p->phase != NOTAUTH && one_of(text, for_now))
		return (TOOK_LATER);
	if (p->phase != NOTAUTH && (p->mech == SASL_XOAUTH2 || p->mech == SASL_OAUTHBEARER) &&
	    imap4_master(t, bytes(Z(t, Z_AUTH), p->user_len)))
		return (TOOK_ONE);	/* a token that has expired, say: in another way */
	if (p->phase != NOTAUTH)
		return (TOOK_NEVER);	/* the client learns the truth when it comes again (protocols.md 2.2) */
	if (imap4_has_code(text, "UNAVAILABLE]") || imap4_has_code(text, "SERVERBUG]"))
		return (TOOK_LEAVING);
	t->excused = one_of(text, other_reason);
	if (!t->excused && !t->believe && !p->challenged) {
		H(t)->own = OWN_LOGIN;
		return (TOOK_REFUSED);
	}
	out_put(t->client, cmd_tag(t));
	out_str(t->client, " NO ");
	imap4_relay(t, bytes_caseeq(status, BYTES("BAD")) ? BYTES("login not accepted") : text);
	imap4_forget_login(t);
	imap4_answered(t);
	if (++p->failures < t->limits->errors)
		return (TOOK_ANSWERED);
	out_str(t->client, "* BYE Too many failed logins\r\n");
	return (TOOK_CLOSE);
}

enum took
imap4_login_status(struct turn *t, struct bytes status, struct bytes text)
{
	struct have *h = H(t);

	if (!bytes_caseeq(status, BYTES("OK")))
		return (login_refused(t, status, text));
	if (P(t)->mech == SASL_RELAY && !imap4_master(t, bytes(Z(t, Z_AUTH), P(t)->user_len)))
		P(t)->opaque = 1;	/* nobody knows whose session this is: no other backend can have it */
	h->cap_seen = 0;
	(void)imap4_code(t, text);
	h->stage = AT_LOGGED_IN;
	return (h->cap_seen ? imap4_logged_in(t) : TOOK_ONE);
}
