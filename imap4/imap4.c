/* imap4 - the behaviour's table, what is asked of it between commands, and a three-line main */
#include "imap4/imap4.h"
#include "workers/gateway.h"

enum { HELD_MS = 15000 }; /* a client that waits for an answer hears something at this interval (protocols.md 6.3) */

_Static_assert(sizeof(struct pst) <= 4096 && sizeof(struct have) <= 4096, "they fit the journal");
_Static_assert(sizeof(struct caps_imap4) <= sizeof(struct caps), "caps fit");

static bool
pending(const struct turn *t)
{
	return (P(t)->command != CMD_NONE && !(P(t)->command == CMD_PROBE && P(t)->probed));
}

static bool
wants_content(const struct turn *t)
{
	const struct pst *p = P(t);

	return (p->command == CMD_APPEND && !t->spool->whole && p->app_told >= p->nlit);
}

static bool
listens(const struct turn *t)
{
	return ((P(t)->command == CMD_IDLE && !P(t)->done) || P(t)->sasl == SASL_RELAY);
}

static bool
in_doubt(const struct turn *t)
{
	const struct pst *p = P(t);

	return (p->fence && p->command != CMD_NONE && !(p->flags & F_QUERY) && p->command != CMD_SELECT &&
	    p->command != CMD_ENABLE && p->command != CMD_IDLE);
}

/* CLOSE would expunge (protocols.md 6.2); within a command or a literal the end of the connection says it all. */
static void
leave(struct turn *t)
{
	const struct have *h = H(t);

	if (h->stage > AT_GREETING && h->own == OWN_NONE && !h->text_out && h->said && h->idling && !h->done_out)
		out_fmt(t->backend, "DONE\r\n~%s.%u LOGOUT\r\n", t->peer->session, h->own_no + 1);
	else if (h->stage > AT_GREETING && h->own == OWN_NONE && !h->text_out && !h->said && !h->drop)
		out_fmt(t->backend, "~%s.%u LOGOUT\r\n", t->peer->session, h->own_no + 1);
}

static enum proof
pending_login(const struct turn *t, struct bytes *who, struct bytes *secret)
{
	const struct pst *p = P(t);

	*who = p->who_len > 0 ? bytes(Z(t, Z_WHO), p->who_len) : bytes(Z(t, Z_AUTH), p->user_len);
	*secret = bytes(Z(t, Z_AUTH + p->user_len), p->secret_len);
	if (p->command != CMD_LOGIN || p->phase != NOTAUTH)
		return (PROOF_NONE);
	return (p->mech == SASL_RELAY ? PROOF_ONCE : p->mech == SASL_PLAIN ? PROOF_PLAIN : PROOF_SECRET);
}

static enum told
forwarded(const struct turn *t, const char **how)
{
	static const struct { enum told told; const char *how; } is[] = {
		[ID_NOT_SENT] = { TOLD_NO, "ID is not offered" }, [ID_REFUSED] = { TOLD_NO, "ID is refused" },
		[ID_BELIEVED] = { TOLD_YES, "ID is believed" },
		[ID_SENT] = { TOLD_UNPROVEN, "ID is sent, and no answer shows whether it is believed" } };
	const struct have *h = H(t);

	*how = h->info_xclient ? is[h->id].how : "the address in ID (xclient) is off for this backend";
	return (h->info_xclient ? is[h->id].told : TOLD_OFF);
}

static enum safe
safe(const struct turn *t)
{
	const struct pst *p = P(t);

	if (p->opaque || p->gather != G_LINE || p->cmd_len > 0 + (p->command == CMD_IDLE ? p->cmd_len : 0) ||
	    p->streaming || p->late_len > 0)
		return (SAFE_BUSY);
	if (p->command == CMD_IDLE)
		return (p->done || !p->idle_told ? SAFE_BUSY : SAFE_PARK);
	return (p->command == CMD_NONE ? SAFE_PARK : SAFE_BUSY);
}

static void
tidy(struct turn *t)
{
	const struct have *h = H(t);
	const uint32_t ghosts = h->nghost * (uint32_t)sizeof(struct range);

	arena_clear(t->scratch, S_GHOST + ghosts, S_GHOST_SIZE - ghosts);
	if (h->text_at == h->text_len)
		arena_clear(t->scratch, S_TEXT, S_TEXT_SIZE);
	if (h->buf_len == 0 && h->saving == SAVING_NONE)
		arena_clear(t->scratch, S_BUF, S_BUF_SIZE);
	if (h->own == OWN_NONE)
		arena_clear(t->scratch, S_CAND, S_CAND_SIZE);
}

static uint32_t
quiet(const struct turn *t, enum side side)
{
	const struct pst *p = P(t);

	if (side == SIDE_BACKEND)
		return (t->up && H(t)->idling ? t->times->keep_backend : 0);
	if (p->streaming || p->sasl == SASL_RELAY || p->command == CMD_PROBE || wants_content(t) ||
	    (t->up && H(t)->in_stream != STREAM_NONE))
		return (0);
	if (imap4_waits_plus(t) || (p->command == CMD_IDLE && !p->idle_told))
		return (0);	/* a + comes first */
	return (p->command == CMD_IDLE ? t->times->keep_client : HELD_MS);
}

static void
keep(struct turn *t, enum side side)
{
	if (side == SIDE_BACKEND)
		H(t)->renew = 1;
	else
		out_str(t->client, "* OK Still here\r\n");
}

static void
user(const struct turn *t, char *dst, size_t size)
{
	const struct pst *p = P(t);
	/* a token need not name anybody */
	struct bytes name = p->user_len > 0 ? bytes(t->log->p + Z_AUTH, p->user_len) : BYTES("?");

	bytes_text(p->phase != NOTAUTH ? name : bytes("", 0), dst, size);
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
	memcpy(c, &P(t)->caps, sizeof(P(t)->caps));
	return (P(t)->caps.known != 0);
}

static int
check(const struct turn *t)
{
	const struct pst *p = P(t);

	if ((p->phase == SELECTED && p->user_len == 0 && p->secret_len == 0) || p->phase > LOGGEDOUT)
		return (1);
	if (p->box.known > p->box.exists || p->box.n > Z_VIEW_SIZE / sizeof(struct range) || p->box.which > 1)
		return (2);
	if (p->fence && p->command == CMD_NONE)
		return (3);
	if (p->streaming && p->command == CMD_NONE)
		return (4);
	if (p->cmd_len > CMD_MAX || p->line_at > p->cmd_len || p->tag_len > p->cmd_len)
		return (5);
	return (0);
}

static const struct place words_at[] = {
	{ offsetof(struct pst, body.tail), sizeof(((struct relayed *)0)->tail) },
	{ offsetof(struct pst, caps.rights), sizeof(((struct caps_imap4 *)0)->rights) },
	{ offsetof(struct pst, late), sizeof(((struct pst *)0)->late) }, { 0, 0 }
};

const struct behaviour imap4 = {
	.name = "imap4", .format = 1, .text = words_at, .pst_size = sizeof(struct pst), .have_size = sizeof(struct have),
	.port = 143, .alpn = "imap",
	.limits = { .line = 65536, .reply = 65536, .recipients = 0, .errors = 20, .spool_memory = 65536, .log = 1 << 19,
	    .maildrop = 0 },
	.times = { .connect = 3000, .greeting = 10000, .command = 60000, .data_init = 30000, .bulk = 60000,
	    .eod = 120000, .login = 30000, .idle = 1800000, .client_bulk = 180000, .hold = 60000, .queue = 20000,
	    .login_failure = 2000, .unauth = 180000, .park = 60000, .hold_idle = 600000, .keep_client = 240000,
	    .keep_backend = 1200000 },
	.greet = imap4_greet, .client = imap4_client, .refuse = imap4_refuse, .pending = pending,
	.wants_content = wants_content, .listens = listens, .login = pending_login, .in_doubt = in_doubt,
	.connected = imap4_connected, .next = imap4_next, .writing = imap4_writing, .backend = imap4_backend,
	.doubt = imap4_doubt, .leave = leave, .safe = safe, .tidy = tidy, .quiet = quiet, .keep = keep, .user = user,
	.probe = probe, .probed = probed, .meet = caps_meet, .learn = caps_learn, .show = caps_show,
	.try_login = imap4_try_login, .forwarded = forwarded, .check = check,
};

#ifndef NO_MAIN
int
main(int argc, char **argv)
{
	return (gateway_main(argc, argv, &imap4));
}
#endif
