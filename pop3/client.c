/*
 * client - the client's side of POP3: one function a command; pure
 *
 * What the gateway can answer itself it answers here; LOGIN, RETR, TOP and QUIT become pending.
 */
#include "pop3/pop3.h"
#include "workers/sasl.h"

enum { AUTH_LINE = 12288, FAILURES_MAX = 3 };

void
pop3_greet(struct turn *t)
{
	/* no timestamp: APOP needs the backend's, and none is chosen yet (protocols.md 2.1) */
	out_fmt(t->client, "+OK %s POP3 server ready\r\n", t->peer->banner);
}

static void
err(struct turn *t, const char *text)
{
	out_fmt(t->client, "-ERR %s\r\n", text);
}

static enum act
bad(struct turn *t, const char *text)
{
	err(t, text);
	if (++P(t)->errors < t->limits->errors)
		return (ACT_DONE);
	err(t, "too many errors, good-bye");
	return (ACT_CLOSE);
}

static struct caps_pop3
offer(const struct turn *t)
{
	struct caps_pop3 c;

	memcpy(&c, t->offer, sizeof(c));
	return (c);
}

/* --- AUTHORIZATION --------------------------------------------------------------------------------------------- */

enum act
pop3_login(struct turn *t, uint8_t mech, struct bytes user, struct bytes prover, struct bytes secret)
{
	struct pst *p = P(t);
	uint8_t names[2 * USER_MAX];

	p->sasl = SASL_NONE;		/* whatever comes of it, the exchange is over */
	p->mark = p->named ? p->mark : t->log->len;
	t->log->len = p->mark;
	if (user.n > USER_MAX)
		return (bad(t, "[AUTH] user name too long"));
	prover.n = prover.n < USER_MAX ? prover.n : USER_MAX;	/* its failures are counted: as much of it does */
	memcpy(names, user.p, user.n);	/* they may point into what is now free */
	memcpy(names + user.n, prover.p, prover.n);
	p->user = arena_put(t->log, bytes(names, user.n + prover.n));
	p->secret = arena_put(t->log, secret);
	if (p->user == UINT32_MAX || p->secret == UINT32_MAX) {
		pop3_forget_login(t);
		return (bad(t, "[SYS/TEMP] out of memory"));
	}
	p->user_len = (uint32_t)user.n;
	p->secret_len = (uint32_t)secret.n;
	p->mech = mech;
	p->by_master = 0;
	p->command = CMD_LOGIN;
	return (ACT_PENDING);
}

void
pop3_try_login(struct turn *t, struct bytes user, struct bytes password)
{
	P(t)->probed = 1;
	(void)pop3_login(t, SASL_NONE, user, bytes("", 0), password);
}

static enum act
cmd_user(struct turn *t, struct bytes arg)
{
	struct pst *p = P(t);

	if (!t->peer->auth_ok)
		return (bad(t, "[AUTH] plain-text login is not allowed here"));
	if (arg.n == 0 || arg.n > USER_MAX)
		return (bad(t, "user name expected"));
	pop3_forget_login(t);
	p->mark = t->log->len;
	p->user = arena_put(t->log, arg);
	if (p->user == UINT32_MAX)
		return (bad(t, "[SYS/TEMP] out of memory"));
	p->user_len = (uint32_t)arg.n;
	p->named = 1;
	out_str(t->client, "+OK\r\n");
	return (ACT_DONE);
}

static enum act
cmd_pass(struct turn *t, struct bytes arg)
{
	struct pst *p = P(t);

	if (!p->named)
		return (bad(t, "USER first"));
	p->named = 1;
	return (pop3_login(t, SASL_NONE, pop3_user(t), bytes("", 0), arg));
}

/* An exchange under way ends without a result. */
static void
sasl_drop(struct turn *t)
{
	if (P(t)->sasl != SASL_NONE)
		pop3_forget_login(t);
	P(t)->sasl = SASL_NONE;
}

static enum act
sasl_step(struct turn *t, struct bytes line)
{
	struct pst *p = P(t);
	uint8_t raw[AUTH_LINE];
	struct bytes zid, cid, pw;
	int n;

	if (bytes_eq(line, BYTES("*"))) {
		sasl_drop(t);
		return (bad(t, "authentication cancelled"));
	}
	if (bytes_eq(line, BYTES("=")))
		line.n = 0;
	n = sasl_decode(line, raw, sizeof(raw));
	if (n == -1)
		goto malformed;
	switch (p->sasl) {
	case SASL_PLAIN:
		if (sasl_plain(bytes(raw, (size_t)n), &zid, &cid, &pw) == -1)
			goto malformed;
		p->named = 0;
		return (pop3_login(t, SASL_PLAIN, zid.n > 0 ? zid : cid, zid.n > 0 ? cid : zid, line));
	case SASL_XOAUTH2:
	case SASL_OAUTHBEARER:
		p->named = 0;
		return (pop3_login(t, p->sasl, sasl_bearer_user(bytes(raw, (size_t)n)), bytes("", 0), line));
	case SASL_EXTERNAL:
		p->named = 0;
		n = sasl_external(bytes(raw, (size_t)n), t->tls->user, t->master->user, t->master->password, raw, sizeof(raw));
		if (n == -1) {
			sasl_drop(t);
			return (bad(t, "[AUTH] that is not who your certificate says"));
		}
		return (pop3_login(t, SASL_PLAIN, bytes_str(t->tls->user), bytes("", 0), bytes(raw, (size_t)n)));
	case SASL_LOGIN_USER:
		if (n == 0 || n > USER_MAX || memchr(raw, 0, (size_t)n) != NULL || memchr(raw, '\n', (size_t)n) != NULL ||
		    memchr(raw, '\r', (size_t)n) != NULL)
			goto malformed;
		pop3_forget_login(t);
		p->mark = t->log->len;
		p->user = arena_put(t->log, bytes(raw, (size_t)n));
		p->user_len = (uint32_t)n;
		if (p->user == UINT32_MAX)
			goto malformed;
		p->named = 1;
		p->sasl = SASL_LOGIN_PASS;
		out_str(t->client, "+ UGFzc3dvcmQ6\r\n");
		return (ACT_DONE);
	case SASL_LOGIN_PASS:
		if (memchr(raw, 0, (size_t)n) != NULL || memchr(raw, '\n', (size_t)n) != NULL || memchr(raw, '\r', (size_t)n) != NULL)
			goto malformed;
		return (pop3_login(t, SASL_NONE, pop3_user(t), bytes("", 0), bytes(raw, (size_t)n)));
	default:
		break;
	}
malformed:
	sasl_drop(t);
	return (bad(t, "malformed authentication exchange"));
}

static enum act
cmd_auth(struct turn *t, struct bytes arg)
{
	static const struct { const char *name; uint8_t sasl; uint32_t cap; const char *challenge; } mechs[] = {
		{ "PLAIN", SASL_PLAIN, CAP_PLAIN, "+ \r\n" },
		{ "LOGIN", SASL_LOGIN_USER, CAP_LOGIN, "+ VXNlcm5hbWU6\r\n" },
		{ "XOAUTH2", SASL_XOAUTH2, CAP_XOAUTH2, "+ \r\n" },
		{ "OAUTHBEARER", SASL_OAUTHBEARER, CAP_OAUTHBEARER, "+ \r\n" }, { "EXTERNAL", SASL_EXTERNAL, 0, "+ \r\n" },
	};
	struct bytes name = bytes_token(&arg, ' ');
	uint8_t relayed;
	size_t i;

	if (pop3_relays(t, name, &relayed))
		return (arg.n > RELAY_INITIAL ? bad(t, "initial response too long") : pop3_relay_begin(t, relayed, arg));
	if (!t->peer->auth_ok)
		return (bad(t, "[AUTH] plain-text login is not allowed here"));
	for (i = 0; i < sizeof(mechs) / sizeof(mechs[0]); i++)
		if (bytes_caseeq(name, bytes_str(mechs[i].name)) && (mechs[i].cap == 0 ? external_ok(t) : (offer(t).bits & mechs[i].cap) != 0))
			break;
	if (i == sizeof(mechs) / sizeof(mechs[0]))
		return (bad(t, "unsupported authentication mechanism"));
	P(t)->sasl = mechs[i].sasl;
	if (arg.n > 0)
		return (sasl_step(t, arg));
	out_str(t->client, mechs[i].challenge);
	return (ACT_DONE);
}

/* RFC 2595 section 4. A user name that was said in clear is forgotten. */
static enum act
cmd_stls(struct turn *t, struct bytes arg)
{
	if (!t->peer->starttls || arg.n > 0)
		return (bad(t, t->peer->tls ? "TLS is on already" : "STLS is not offered here"));
	pop3_forget_login(t);
	out_str(t->client, "+OK begin TLS\r\n");
	return (ACT_TLS);
}

static enum act
cmd_capa(struct turn *t, struct bytes arg)
{
	uint32_t b = offer(t).bits;
	char sasl[128];
	struct out list = { (uint8_t *)sasl, 0, sizeof(sasl), false };

	(void)arg;
	out_str(t->client, "+OK capability list follows\r\n");
	if (b & CAP_TOP)
		out_str(t->client, "TOP\r\n");
	if (b & CAP_UIDL)
		out_str(t->client, "UIDL\r\n");
	out_str(t->client, "RESP-CODES\r\n");
	if (b & CAP_AUTH_RESP)
		out_str(t->client, "AUTH-RESP-CODE\r\n");
	out_str(t->client, "PIPELINING\r\n");
	if (t->peer->starttls && P(t)->phase == AUTHORIZATION)
		out_str(t->client, "STLS\r\n");
	if (P(t)->phase == AUTHORIZATION) {
		if (t->peer->auth_ok && b & CAP_USER)
			out_str(t->client, "USER\r\n");
		if (t->peer->auth_ok)
			out_fmt(&list, "%s%s%s%s%s", external_ok(t) ? " EXTERNAL" : "", b & CAP_PLAIN ? " PLAIN" : "",
			    b & CAP_LOGIN ? " LOGIN" : "", b & CAP_XOAUTH2 ? " XOAUTH2" : "", b & CAP_OAUTHBEARER ? " OAUTHBEARER" : "");
		pop3_relay_list(t, &list);
		if (list.len > 0)
			out_fmt(t->client, "SASL%.*s\r\n", (int)list.len, sasl);
	}
	out_str(t->client, "IMPLEMENTATION BMR\r\n.\r\n");
	return (ACT_DONE);
}

/* --- TRANSACTION ------------------------------------------------------------------------------------------------ */

/* A message number that exists and is not marked; NULL after an answer, of which wrong says how to go on. */
static struct entry *
message(struct turn *t, struct bytes arg, uint32_t *num, enum act *wrong)
{
	struct entry *e = NULL;
	uint64_t n;

	if (bytes_num(arg, 1, UINT32_MAX, &n) == 0)
		e = pop3_entry(t, (uint32_t)n);
	if (e == NULL || pop3_deleted(t, e)) {
		*wrong = bad(t, e != NULL ? "message is deleted" : "no such message");
		return (NULL);
	}
	*num = (uint32_t)n;
	return (e);
}

static enum act
cmd_stat(struct turn *t, struct bytes arg)
{
	const struct pst *p = P(t);
	uint64_t octets = p->octets;

	(void)arg;
	for (uint32_t i = 1; p->ndeleted > 0 && i <= p->n; i++)
		if (pop3_deleted(t, pop3_entry(t, i)))
			octets -= pop3_entry(t, i)->size;
	out_fmt(t->client, "+OK %u %llu\r\n", p->n - p->ndeleted, (unsigned long long)octets);
	return (ACT_DONE);
}

/* One line for a message in an answer of many: the listing goes on when the client has taken some of it. */
static enum act
go_on_listing(struct turn *t)
{
	struct pst *p = P(t);

	for (; p->list_next <= p->n; p->list_next++) {
		const struct entry *e = pop3_entry(t, p->list_next);

		if (out_room(t->client) < 1024)
			return (ACT_DONE);
		if (pop3_deleted(t, e))
			continue;
		if (p->listing == LISTING_LIST)
			out_fmt(t->client, "%u %llu\r\n", p->list_next, (unsigned long long)e->size);
		else
			out_fmt(t->client, "%u %.*s\r\n", p->list_next, (int)e->uid_len, (const char *)t->log->p + e->uid);
	}
	out_str(t->client, ".\r\n");
	p->listing = LISTING_NONE;
	return (ACT_DONE);
}

static enum act
list(struct turn *t, struct bytes arg, enum listing kind)
{
	struct pst *p = P(t);
	struct entry *e;
	enum act wrong;
	uint32_t num;

	if (kind == LISTING_UIDL && p->no_uidl)
		return (bad(t, "UIDL is not supported here"));
	if (arg.n > 0) {
		if ((e = message(t, arg, &num, &wrong)) == NULL)
			return (wrong);
		if (kind == LISTING_LIST)
			out_fmt(t->client, "+OK %u %llu\r\n", num, (unsigned long long)e->size);
		else
			out_fmt(t->client, "+OK %u %.*s\r\n", num, (int)e->uid_len, (const char *)t->log->p + e->uid);
		return (ACT_DONE);
	}
	out_fmt(t->client, "+OK %u messages\r\n", p->n - p->ndeleted);
	p->listing = (uint8_t)kind;
	p->list_next = 1;
	return (go_on_listing(t));
}

static enum act
cmd_list(struct turn *t, struct bytes arg)
{
	return (list(t, arg, LISTING_LIST));
}

static enum act
cmd_uidl(struct turn *t, struct bytes arg)
{
	return (list(t, arg, LISTING_UIDL));
}

/* It is not at the backend that took over. Where no map is made yet, this is found out when there is one. */
static bool
not_there(struct turn *t, uint32_t num)
{
	if (!t->up || H(t)->stage != AT_UP || pop3_map(t, num) != 0)
		return (false);
	err(t, "[SYS/TEMP] message no longer available");
	return (true);
}

static enum act
cmd_retr(struct turn *t, struct bytes arg)
{
	struct pst *p = P(t);
	enum act wrong;

	if (message(t, arg, &p->arg, &wrong) == NULL)
		return (wrong);
	if (not_there(t, p->arg))
		return (ACT_DONE);
	p->command = CMD_RETR;
	p->line_sent = 0;
	relayed_start(&p->body, (uint64_t)(uintptr_t)t->log->p ^ p->octets);
	return (ACT_PENDING);
}

/* A number of lines, however large (RFC 1939 sets no limit): no message has as many as the largest that is told on. */
static bool
lines_of(struct bytes arg, uint32_t *lines)
{
	uint64_t n = UINT32_MAX;

	for (size_t i = 0; i < arg.n; i++)
		if (arg.p[i] < '0' || arg.p[i] > '9')
			return (false);
	(void)bytes_num(arg, 0, UINT32_MAX, &n);
	*lines = (uint32_t)n;
	return (arg.n > 0);
}

static enum act
cmd_top(struct turn *t, struct bytes arg)
{
	struct pst *p = P(t);
	struct bytes num = bytes_token(&arg, ' ');
	enum act wrong;

	while (arg.n > 0 && arg.p[0] == ' ')
		arg = bytes_cut(arg, 1);
	if (!lines_of(arg, &p->lines))
		return (bad(t, "TOP needs a message number and a number of lines"));
	if (message(t, num, &p->arg, &wrong) == NULL)
		return (wrong);
	if (not_there(t, p->arg))
		return (ACT_DONE);
	p->command = CMD_TOP;
	p->line_sent = 0;
	relayed_start(&p->body, (uint64_t)(uintptr_t)t->log->p ^ p->octets);
	return (ACT_PENDING);
}

static enum act
cmd_dele(struct turn *t, struct bytes arg)
{
	struct entry *e;
	enum act wrong;
	uint32_t num;

	if ((e = message(t, arg, &num, &wrong)) == NULL)
		return (wrong);
	if (P(t)->marks == UINT32_MAX)
		return (bad(t, "too many deletions"));
	e->marked = ++P(t)->marks;
	P(t)->ndeleted++;
	out_fmt(t->client, "+OK message %u deleted\r\n", num);
	return (ACT_DONE);
}

static enum act
cmd_rset(struct turn *t, struct bytes arg)
{
	struct pst *p = P(t);

	(void)arg;
	p->unmarked = p->marks;
	p->ndeleted = 0;
	p->last = 0;
	out_fmt(t->client, "+OK maildrop has %u messages\r\n", p->n);
	return (ACT_DONE);
}

static enum act
cmd_last(struct turn *t, struct bytes arg)
{
	(void)arg;
	out_fmt(t->client, "+OK %u\r\n", P(t)->last);
	return (ACT_DONE);
}

static enum act
cmd_noop(struct turn *t, struct bytes arg)
{
	(void)arg;
	out_str(t->client, "+OK\r\n");
	return (ACT_DONE);
}

static enum act
cmd_quit(struct turn *t, struct bytes arg)
{
	struct pst *p = P(t);

	(void)arg;
	/* nothing to remove: the backend is left politely and needs not be asked */
	if (p->phase == AUTHORIZATION || p->ndeleted == 0) {
		p->phase = ENDED;
		out_str(t->client, "+OK bye\r\n");
		return (ACT_CLOSE);
	}
	p->command = CMD_QUIT;
	return (ACT_PENDING);
}

/* --- the table -------------------------------------------------------------------------------------------------- */

static const struct {
	const char	*name;
	uint8_t		 in_auth, in_trans, secret;
	enum act	(*run)(struct turn *, struct bytes);
} commands[] = {
	{ "USER", 1, 0, 0, cmd_user }, { "PASS", 1, 0, 1, cmd_pass }, { "AUTH", 1, 0, 1, cmd_auth },
	{ "STLS", 1, 0, 0, cmd_stls }, { "CAPA", 1, 1, 0, cmd_capa }, { "QUIT", 1, 1, 0, cmd_quit }, { "STAT", 0, 1, 0, cmd_stat },
	{ "LIST", 0, 1, 0, cmd_list }, { "UIDL", 0, 1, 0, cmd_uidl }, { "RETR", 0, 1, 0, cmd_retr },
	{ "TOP", 0, 1, 0, cmd_top }, { "DELE", 0, 1, 0, cmd_dele }, { "RSET", 0, 1, 0, cmd_rset },
	{ "LAST", 0, 1, 0, cmd_last }, { "NOOP", 0, 1, 0, cmd_noop },
};

static enum act
command(struct turn *t, struct bytes line)
{
	struct bytes arg = line, name = bytes_token(&arg, ' ');
	bool auth = P(t)->phase == AUTHORIZATION;
	uint32_t errors = P(t)->errors;
	enum act a;

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (bytes_caseeq(name, bytes_str(commands[i].name))) {
			if (!(auth ? commands[i].in_auth : commands[i].in_trans))
				return (bad(t, auth ? "log in first" : "not any more in this state"));
			/* a password may begin or end with spaces; other arguments do not */
			while (!commands[i].secret && arg.n > 0 && arg.p[arg.n - 1] == ' ')
				arg.n--;
			while (!commands[i].secret && arg.n > 0 && arg.p[0] == ' ')
				arg = bytes_cut(arg, 1);
			a = commands[i].run(t, arg);
			/* in a long session a few of them come together: those in a row are counted, as in IMAP4 */
			if (!auth && P(t)->errors == errors)
				P(t)->errors = 0;
			return (a);
		}
	return (bad(t, "unknown command"));
}

static bool
clean(struct bytes line)
{
	for (size_t i = 0; i < line.n; i++)
		if (line.p[i] == '\r' || line.p[i] == '\0')
			return (false);
	return (true);
}

/* The rest of an overlong line costs no memory: it is thrown away as it comes, and was answered before. */
static enum act
swallow(struct turn *t, struct bytes in, size_t *used)
{
	const uint8_t *lf = in.n > 0 ? memchr(in.p, '\n', in.n) : NULL;

	*used = lf != NULL ? (size_t)(lf - in.p) + 1 : in.n;
	P(t)->swallow = lf == NULL;
	return (ACT_MORE);
}

enum act
pop3_client(struct turn *t, struct bytes in, size_t *used, size_t *scanned)
{
	struct pst *p = P(t);
	bool relay = p->command == CMD_LOGIN && p->relay == RELAY_CLIENT;
	size_t max = relay || p->sasl != SASL_NONE || (in.n > 4 && bytes_casestart(in, BYTES("AUTH"))) ? AUTH_LINE : t->limits->line;
	const uint8_t *lf;
	struct bytes line;

	if (p->listing != LISTING_NONE)
		return (out_room(t->client) < 2048 ? ACT_MORE : go_on_listing(t));
	if (p->swallow)
		return (swallow(t, in, used));
	lf = in.n > *scanned ? memchr(in.p + *scanned, '\n', in.n - *scanned) : NULL;
	if (lf == NULL && in.n <= max) {
		*scanned = in.n;
		return (ACT_MORE);
	}
	*used = lf != NULL ? (size_t)(lf - in.p) + 1 : in.n;
	if (relay && (lf == NULL || *used > max + 1 || !clean(bytes(in.p, *used > 1 ? *used - 2 : 0)))) {
		p->swallow = lf == NULL;
		return (pop3_relay_answer(t, BYTES("*")));	/* the client gives up (RFC 5034 section 4) */
	}
	if (lf == NULL || *used > max + 1) {
		p->swallow = lf == NULL;
		sasl_drop(t);
		return (bad(t, "line too long"));
	}
	line = bytes(in.p, *used - 1);
	if (line.n > 0 && line.p[line.n - 1] == '\r')
		line.n--;
	else if (!t->peer->normalize && !relay) {
		sasl_drop(t);
		return (bad(t, "bare LF received, a command ends in CR LF"));
	}
	if (!clean(line)) {
		sasl_drop(t);
		return (bad(t, "invalid characters"));
	}
	if (relay)
		return (pop3_relay_answer(t, line));
	return (p->sasl != SASL_NONE ? sasl_step(t, line) : command(t, line));
}

enum refused
pop3_refuse(struct turn *t, enum why why)
{
	struct pst *p = P(t);
	uint8_t cmd = p->command;

	if ((cmd == CMD_RETR || cmd == CMD_TOP) && p->line_sent)
		return (REFUSED_RESET);		/* never a faked terminator (protocols.md 0.3, invariant 5) */
	if (why == WHY_IDLE || why == WHY_SLOW)
		return (REFUSED_CLOSE);		/* closes without a response, and without UPDATE (RFC 1939 section 3) */
	if (cmd == CMD_QUIT)
		err(t, "[SYS/TEMP] some deleted messages not removed");
	else
		err(t, why == WHY_SHUTDOWN || why == WHY_KICKED ? "[SYS/TEMP] server shutting down" :
		    why == WHY_BUSY ? "[SYS/TEMP] service unavailable, try later" :
		    "[SYS/TEMP] mail store not available, try later");
	pop3_answered(t);
	if (cmd == CMD_LOGIN)
		pop3_forget_login(t);
	if (cmd == CMD_QUIT || why == WHY_SHUTDOWN || why == WHY_KICKED || why == WHY_CRASH || why == WHY_BUSY ||
	    why == WHY_DIFFERS)
		return (REFUSED_CLOSE);
	return (REFUSED_STAY);
}
