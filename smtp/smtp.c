/* smtp - the behaviour's table, what is asked of it between commands, and a three-line main */
#include <stdio.h>

#include "smtp/smtp.h"
#include "workers/gateway.h"

void
smtp_end_transaction(struct turn *t)
{
	struct pst *p = P(t);

	if (p->open)
		t->log->len = p->mark;
	p->command = CMD_NONE;
	p->open = p->poisoned = p->bad = p->fence = p->first = p->tried = 0;
	p->bdat = p->last = p->body = p->utf8 = 0;
	p->need = p->nrcpt = p->rcpt_len = p->mail_len = p->told_len = p->overshoot = 0;
	p->chunk_left = p->trace = 0;
	*t->spool = (struct spool_state){ 0 };
}

void
smtp_txn_id(const struct turn *t, char *dst, size_t size)
{
	snprintf(dst, size, "%s.%u@%s", t->peer->session, P(t)->txn, t->peer->banner);
}

static bool
pending(const struct turn *t)
{
	switch (P(t)->command) {
	case CMD_NONE:
	case CMD_SWALLOW:
	case CMD_SWALLOW_CHUNK:
		return (false);
	case CMD_PROBE:
		return (!P(t)->probed);
	default:
		return (true);
	}
}

static bool
wants_content(const struct turn *t)
{
	const struct pst *p = P(t);

	return (p->command == CMD_SWALLOW || p->command == CMD_SWALLOW_CHUNK ||
	    ((p->command == CMD_CONTENT || p->command == CMD_BDAT) && !t->spool->whole));
}

static bool
in_doubt(const struct turn *t)
{
	return (P(t)->fence != 0);
}

/* Inside DATA nothing may follow: the connection is closed, never with a dot (protocols.md 6.2). */
static void
leave(struct turn *t)
{
	const struct have *h = H(t);

	if (h->expect == E_NONE && !h->content && !h->quit)
		out_str(t->backend, "QUIT\r\n");
}

static enum proof
pending_login(const struct turn *t, struct bytes *user, struct bytes *secret)
{
	const struct pst *p = P(t);

	*user = smtp_prover(t);
	*secret = bytes(t->log->p + p->secret, p->secret_len);
	if (p->command != CMD_AUTH)
		return (PROOF_NONE);
	return (p->mech == SASL_RELAY ? PROOF_ONCE : p->mech == SASL_PLAIN ? PROOF_PLAIN : PROOF_SECRET);
}

static enum told
forwarded(const struct turn *t, const char **how)
{
	const struct have *h = H(t);

	*how = !h->info_xclient ? "XCLIENT is off for this backend" : h->xclient < 2 ? "XCLIENT is not offered" :
	    P(t)->no_xclient ? "XCLIENT is refused" : "XCLIENT is taken";
	return (!h->info_xclient ? TOLD_OFF : P(t)->no_xclient ? TOLD_NO : TOLD_YES);
}

static enum safe
safe(const struct turn *t)
{
	const struct pst *p = P(t);

	return (p->command != CMD_NONE || p->open || p->sasl != SASL_NONE ? SAFE_BUSY : SAFE_PARK);
}

static void
user(const struct turn *t, char *dst, size_t size)
{
	const struct pst *p = P(t);
	struct bytes name = p->user_len > 0 ? smtp_user(t) : BYTES("?");	/* a token need not name anybody */

	bytes_text(p->authenticated ? name : bytes("", 0), dst, size);
}

static void
probe(struct turn *t)
{
	P(t)->command = CMD_PROBE;
}

static bool
probed(const struct turn *t, struct caps *c)
{
	*c = (struct caps){ 0 };
	memcpy(c, &P(t)->learned, sizeof(P(t)->learned));
	return (P(t)->learned.known != 0);
}

static int
check(const struct turn *t)
{
	const struct pst *p = P(t);

	if (!p->open && p->command != CMD_NONE && p->command != CMD_AUTH && p->command != CMD_PROBE &&
	    p->command != CMD_SWALLOW_CHUNK)
		return (1);
	if (p->open && (p->mail > t->log->len || p->mail_len > t->log->len - p->mail || p->rcpts > t->log->len ||
	    p->rcpt_len > t->log->len - p->rcpts))
		return (2);
	if (p->fence && !((p->command == CMD_CONTENT || p->command == CMD_BDAT) && t->spool->whole))
		return (3);
	if (p->nrcpt > p->rcpt_len)
		return (4);
	return (0);
}

static const struct place words_at[] = { { offsetof(struct pst, name), sizeof(((struct pst *)0)->name) }, { 0, 0 } };

const struct behaviour smtp = {
	.name = "smtp", .format = 1, .text = words_at, .pst_size = sizeof(struct pst), .have_size = sizeof(struct have), .port = 25, .alpn = "smtp",
	.limits = { .line = 2048, .reply = 65536, .recipients = 1000, .errors = 20, .spool_memory = 1 << 20, .log = 4 << 20 },
	.times = { .connect = 3000, .greeting = 30000, .command = 60000, .data_init = 30000, .bulk = 180000, .eod = 540000,
	    .login = 60000, .idle = 300000, .park = 60000, .client_bulk = 180000, .hold = 120000, .queue = 60000, .login_failure = 2000 },
	.greet = smtp_greet, .client = smtp_client, .refuse = smtp_refuse, .pending = pending,
	.wants_content = wants_content, .login = pending_login, .in_doubt = in_doubt, .connected = smtp_connected, .next = smtp_next,
	.writing = smtp_writing, .backend = smtp_backend, .doubt = smtp_doubt, .leave = leave, .safe = safe, .user = user,
	.probe = probe, .probed = probed, .meet = smtp_caps_meet, .show = smtp_caps_show, .try_login = smtp_try_login, .forwarded = forwarded,
	.check = check,
};

#ifndef NO_MAIN
int
main(int argc, char **argv)
{
	return (gateway_main(argc, argv, &smtp));
}
#endif
