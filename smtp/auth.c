/*
 * auth - AUTH towards the client (RFC 4954): the exchange ends here, its result goes to the backend; pure
 *
 * Kept for replays: one base64 line, PLAIN's or a bearer token's. LOGIN's two answers become PLAIN's one.
 */
#include "smtp/smtp.h"
#include "workers/sasl.h"

void
smtp_auth_forget(struct turn *t)
{
	struct pst *p = P(t);

	t->log->len = 0;
	p->user = p->user_len = p->secret = p->secret_len = p->mark = 0;
	p->by_master = 0;
	p->sasl = SASL_NONE;
}

bool
smtp_auth_drop(struct turn *t)
{
	bool open = P(t)->sasl != SASL_NONE;

	if (open)
		smtp_auth_forget(t);
	return (open);
}

static enum act
malformed(struct turn *t)
{
	smtp_auth_forget(t);
	return (smtp_error(t, "501 5.5.2 malformed authentication data"));
}

/* The log holds nothing else yet: AUTH comes before any transaction and succeeds once. */
enum act
smtp_credentials(struct turn *t, uint8_t mech, struct bytes user, struct bytes prover, struct bytes secret)
{
	struct pst *p = P(t);
	uint8_t names[2 * USER_MAX];

	if (user.n > USER_MAX)
		return (malformed(t));
	prover.n = prover.n < USER_MAX ? prover.n : USER_MAX;	/* its failures are counted: as much of it does */
	memcpy(names, user.p, user.n);	/* they may point into what is now free */
	memcpy(names + user.n, prover.p, prover.n);
	smtp_auth_forget(t);
	p->user = arena_put(t->log, bytes(names, user.n + prover.n));
	p->user_len = (uint32_t)user.n;
	p->secret = arena_put(t->log, secret);
	if (p->secret == UINT32_MAX)
		return (malformed(t));
	p->secret_len = (uint32_t)secret.n;
	p->mark = t->log->len;
	p->mech = mech;
	p->command = CMD_AUTH;
	return (ACT_PENDING);
}

static bool
printable(struct bytes b)
{
	for (size_t i = 0; i < b.n; i++)
		if (b.p[i] == '\0' || b.p[i] == '\r' || b.p[i] == '\n')
			return (false);
	return (true);
}

static enum act
login_password(struct turn *t, struct bytes password)
{
	uint8_t plain[2 * USER_MAX + 1024], line[4096];
	struct bytes user = smtp_user(t);
	int n;

	if (!printable(password) || user.n + password.n + 2 > sizeof(plain))
		return (malformed(t));
	plain[0] = 0;
	memcpy(plain + 1, user.p, user.n);
	plain[1 + user.n] = 0;
	memcpy(plain + 2 + user.n, password.p, password.n);
	n = sasl_encode(bytes(plain, user.n + password.n + 2), line, sizeof(line));
	explicit_bzero(plain, sizeof(plain));
	if (n == -1)
		return (malformed(t));
	return (smtp_credentials(t, SASL_PLAIN, user, bytes("", 0), bytes(line, (size_t)n)));
}

enum act
smtp_auth_line(struct turn *t, struct bytes line)
{
	struct pst *p = P(t);
	uint8_t raw[AUTH_LINE];
	struct bytes zid, cid, pw;
	int n;

	if (bytes_eq(line, BYTES("*"))) {
		smtp_auth_forget(t);
		return (smtp_error(t, "501 5.7.0 authentication cancelled"));
	}
	if (bytes_eq(line, BYTES("=")))
		line.n = 0;
	if ((n = sasl_decode(line, raw, sizeof(raw))) == -1)
		return (malformed(t));
	switch ((enum sasl)p->sasl) {
	case SASL_PLAIN:
		if (sasl_plain(bytes(raw, (size_t)n), &zid, &cid, &pw) == -1)
			return (malformed(t));
		return (smtp_credentials(t, SASL_PLAIN, zid.n > 0 ? zid : cid, zid.n > 0 ? cid : zid, line));
	case SASL_XOAUTH2:
	case SASL_OAUTHBEARER:
		return (smtp_credentials(t, p->sasl, sasl_bearer_user(bytes(raw, (size_t)n)), bytes("", 0), line));
	case SASL_EXTERNAL:
		n = sasl_external(bytes(raw, (size_t)n), t->tls->user, t->master->user, t->master->password, raw, sizeof(raw));
		if (n == -1) {
			smtp_auth_forget(t);
			return (smtp_error(t, "535 5.7.8 that is not who your certificate says"));
		}
		return (smtp_credentials(t, SASL_PLAIN, bytes_str(t->tls->user), bytes("", 0), bytes(raw, (size_t)n)));
	case SASL_LOGIN_USER:
		if (n == 0 || n > USER_MAX || !printable(bytes(raw, (size_t)n)))
			return (malformed(t));
		p->user = arena_put(t->log, bytes(raw, (size_t)n));
		p->user_len = (uint32_t)n;
		p->sasl = SASL_LOGIN_PASS;
		out_str(t->client, "334 UGFzc3dvcmQ6\r\n");
		return (ACT_DONE);
	case SASL_LOGIN_PASS:
		return (login_password(t, bytes(raw, (size_t)n)));
	case SASL_NONE:
	case SASL_RELAY:
		break;
	}
	return (malformed(t));
}

enum act
smtp_auth(struct turn *t, struct bytes arg)
{
	static const struct { const char *name; uint8_t sasl; uint32_t cap; const char *challenge; } mechs[] = {
		{ "PLAIN", SASL_PLAIN, CAP_AUTH_PLAIN, "334 \r\n" },
		{ "LOGIN", SASL_LOGIN_USER, CAP_AUTH_LOGIN, "334 VXNlcm5hbWU6\r\n" },
		{ "XOAUTH2", SASL_XOAUTH2, CAP_AUTH_XOAUTH2, "334 \r\n" },
		{ "OAUTHBEARER", SASL_OAUTHBEARER, CAP_AUTH_OAUTHBEARER, "334 \r\n" }, { "EXTERNAL", SASL_EXTERNAL, 0, "334 \r\n" },
	};
	struct bytes name = bytes_token(&arg, ' ');
	uint32_t offered = smtp_offer(t).bits;
	uint8_t relayed;
	size_t i;

	if (P(t)->helo != HELO_EHLO || (offered & (CAP_AUTH_ANY | CAP_AUTH_RELAYED)) == 0)
		return (smtp_error(t, "503 5.5.1 authentication is not offered here"));
	if (P(t)->authenticated || P(t)->open)
		return (smtp_error(t, P(t)->open ? "503 5.5.1 not in a transaction" : "503 5.5.1 already authenticated"));
	if (name.n == 0)
		return (smtp_error(t, "501 5.5.4 AUTH needs a mechanism"));
	P(t)->relay = P(t)->challenged = 0;	/* of an exchange that was lost with its backend */
	if (smtp_relays(t, name, &relayed))
		return (arg.n > RELAY_INITIAL ? smtp_error(t, "500 5.5.6 authentication line too long") : smtp_relay_begin(t, relayed, arg));
	for (i = 0; i < sizeof(mechs) / sizeof(mechs[0]); i++)
		if (bytes_caseeq(name, bytes_str(mechs[i].name)) && (mechs[i].cap == 0 ? external_ok(t) : (offered & mechs[i].cap) != 0))
			break;
	if (i == sizeof(mechs) / sizeof(mechs[0]))
		return (smtp_error(t, "504 5.5.4 unknown mechanism"));
	smtp_auth_forget(t);
	P(t)->sasl = mechs[i].sasl;
	if (arg.n > 0)
		return (smtp_auth_line(t, arg));
	out_str(t->client, mechs[i].challenge);
	return (ACT_DONE);
}

void
smtp_try_login(struct turn *t, struct bytes user, struct bytes password)
{
	struct pst *p = P(t);

	p->helo = HELO_EHLO;
	memccpy(p->name, t->peer->banner, 0, sizeof(p->name) - 1);
	p->user = arena_put(t->log, user);
	p->user_len = (uint32_t)user.n;
	(void)login_password(t, password);
}
