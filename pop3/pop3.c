/* pop3 - the behaviour's table, what is asked of it between commands, and a three-line main */
#include <stddef.h>

#include "pop3/pop3.h"
#include "workers/gateway.h"

void
pop3_answered(struct turn *t)
{
	struct pst *p = P(t);

	p->command = CMD_NONE;
	p->line_sent = p->fence = 0;
	p->body = (struct relayed){ 0 };
}

void
pop3_forget_login(struct turn *t)
{
	struct pst *p = P(t);

	if (p->mark > 0 || p->named || p->user_len > 0 || p->secret_len > 0)
		t->log->len = p->mark;
	p->n = p->entries = 0;		/* what a backend that died at login had told */
	p->octets = 0;
	p->named = p->relay = p->challenged = p->by_master = 0;
	p->user = p->user_len = p->secret = p->secret_len = 0;
}

static bool
pending(const struct turn *t)
{
	return (P(t)->command != CMD_NONE && !(P(t)->command == CMD_PROBE && P(t)->probed));
}

static bool
wants_content(const struct turn *t)
{
	(void)t;
	return (false);
}

static bool
in_doubt(const struct turn *t)
{
	return (P(t)->command == CMD_QUIT && P(t)->fence);
}

/*
 * QUIT enters UPDATE (RFC 1939 section 6), which may do more than to delete what was marked: set flags, or remove what was
 * retrieved (RFC 2449, EXPIRE 0). So once logged in it is said for a client that said it, and for a login on trial.
 */
static void
leave(struct turn *t)
{
	const struct have *h = H(t);

	if (h->expect == E_NONE && h->dele_next == 0 && !h->quit_out &&
	    (h->stage < AT_LOGGED_IN || P(t)->phase == ENDED || P(t)->probed))
		out_str(t->backend, "QUIT\r\n");
}

static enum proof
pending_login(const struct turn *t, struct bytes *user, struct bytes *secret)
{
	const struct pst *p = P(t);

	*user = pop3_prover(t);
	*secret = bytes(t->log->p + p->secret, p->secret_len);
	if (p->command != CMD_LOGIN || p->logged_in)
		return (PROOF_NONE);
	return (p->mech == SASL_RELAY ? PROOF_ONCE : p->mech == SASL_PLAIN ? PROOF_PLAIN : PROOF_SECRET);
}

static enum told
forwarded(const struct turn *t, const char **how)
{
	const struct have *h = H(t);

	*how = !h->info_xclient ? "XCLIENT is off for this backend" : !h->xclient_here ? "XCLIENT is not offered" :
	    h->xclient_ok == 1 ? "XCLIENT is taken" : "XCLIENT is refused or ignored";
	return (!h->info_xclient ? TOLD_OFF : h->xclient_ok == 1 ? TOLD_YES : TOLD_NO);
}

static enum safe
safe(const struct turn *t)
{
	if (P(t)->command != CMD_NONE || P(t)->sasl != SASL_NONE || P(t)->listing != LISTING_NONE)
		return (SAFE_BUSY);
	return (SAFE_PARK);
}

static void
user(const struct turn *t, char *dst, size_t size)
{
	const struct pst *p = P(t);
	struct bytes name = p->user_len > 0 ? pop3_user(t) : BYTES("?");	/* a token need not name anybody */

	bytes_text(p->logged_in ? name : bytes("", 0), dst, size);
}

static void
probe(struct turn *t)
{
	P(t)->command = CMD_PROBE;
}

static bool
probed(const struct turn *t, struct caps *c)
{
	struct caps_pop3 mine = { .known = 1, .bits = P(t)->caps & ~(1u << 31) };

	*c = (struct caps){ 0 };
	memcpy(c, &mine, sizeof(mine));
	return (P(t)->caps != 0);
}

static void
meet(struct caps *c, const struct caps *other)
{
	struct caps_pop3 a, b;

	memcpy(&a, c, sizeof(a));
	memcpy(&b, other, sizeof(b));
	a.bits &= b.bits;
	memcpy(c, &a, sizeof(a));
}

static void
show(const struct caps *c, char *dst, size_t size)
{
	static const char *const name[] = { "TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "USER", "SASL PLAIN",
		"SASL LOGIN", "SASL XOAUTH2", "SASL OAUTHBEARER", "SASL CRAM-MD5", "SASL SCRAM-SHA-1", "SASL SCRAM-SHA-256" };
	struct out o = { (uint8_t *)dst, 0, size - 1, false };
	struct caps_pop3 a;

	memcpy(&a, c, sizeof(a));
	for (size_t i = 0; i < sizeof(name) / sizeof(name[0]); i++)
		if (a.bits & 1u << i)
			out_fmt(&o, "%s%s", o.len > 0 ? ", " : "", name[i]);
	dst[o.len] = '\0';
}

static int
check(const struct turn *t)
{
	const struct pst *p = P(t);

	if (p->command != CMD_NONE && p->command != CMD_LOGIN && p->command != CMD_PROBE && p->phase != TRANSACTION)
		return (1);
	if (p->ndeleted > p->n || (p->n > 0 && (p->entries > t->log->len ||
	    (t->log->len - p->entries) / sizeof(struct entry) < p->n)))
		return (2);
	if (p->fence && p->command != CMD_QUIT)
		return (3);
	if (p->body.k > 0 && p->command != CMD_RETR && p->command != CMD_TOP)
		return (4);
	return (0);
}

static const struct place words_at[] = { { offsetof(struct pst, body.tail), sizeof(((struct relayed *)0)->tail) }, { 0, 0 } };

const struct behaviour pop3 = {
	.name = "pop3", .text = words_at, .pst_size = sizeof(struct pst), .have_size = sizeof(struct have), .port = 110, .alpn = "pop3",
	.limits = { .line = 512, .reply = 65536, .recipients = 0, .errors = 20, .spool_memory = 4096, .log = 16 << 20,
	    .maildrop = 200000 },
	.times = { .connect = 3000, .greeting = 30000, .command = 60000, .data_init = 30000, .bulk = 60000, .eod = 60000,
	    .login = 60000, .idle = 600000, .unauth = 180000, .park = 60000, .client_bulk = 300000, .hold = 60000, .queue = 20000,
	    .login_failure = 2000 },
	.greet = pop3_greet, .client = pop3_client, .refuse = pop3_refuse, .pending = pending,
	.wants_content = wants_content, .login = pending_login, .in_doubt = in_doubt, .connected = pop3_connected, .next = pop3_next,
	.writing = pop3_writing, .backend = pop3_backend, .doubt = pop3_doubt, .leave = leave, .safe = safe, .user = user,
	.probe = probe, .probed = probed, .meet = meet, .show = show, .try_login = pop3_try_login, .forwarded = forwarded,
	.check = check,
#ifdef POP3_NEXT
	.format = 2, .older_size = sizeof(struct pst) - 48, .convert = pop3_next_convert,
#else
	.format = 1,
#endif
};

#ifndef NO_MAIN
int
main(int argc, char **argv)
{
	return (gateway_main(argc, argv, &pop3));
}
#endif
