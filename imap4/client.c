/*
 * client - the client's octets become commands: lines, literals, the end of IDLE, refusals of the gateway; pure
 *
 * Every line is looked at for a literal at its end, those of a command in error too (RFC 7888 section 3): what is
 * inside a literal is never taken for a command.
 */
#include "imap4/imap4.h"
#include "imap4/token.h"

enum { CHUNK = 8192, UNAUTH_LINE = 32768 /* ID's 30 pairs */, UNAUTH_LITERAL = 8192, LITERAL_MAX = 65536,
	SKIP_MAX = 1 << 27, IDLE_LINE = 1024, LINE_END = 512 /* of an overlong line, see keep_end */ };
enum { BAD_LONG = 1, BAD_NEWLINE, BAD_LITERAL };

void
imap4_greet(struct turn *t)
{
	t->log->len = t->log->cap;	/* zones at fixed places: all of it is in use */
	out_str(t->client, "* OK [");
	caps_line(t, t->client);
	out_fmt(t->client, "] %s IMAP4 server ready\r\n", t->peer->banner);
}

void
imap4_tagged(struct turn *t, const char *text)
{
	out_put(t->client, cmd_tag(t));
	out_fmt(t->client, " %s\r\n", text);
}

void
imap4_answered(struct turn *t)
{
	struct pst *p = P(t);

	p->command = CMD_NONE;
	p->flags = p->fence = p->redo = p->idle_told = p->done = p->result_told = 0;
	p->probing = p->probed = p->rounds = p->move_rest = p->set_known = p->untold = p->stumbled = 0;
	p->base_known = p->base2_known = p->streaming = 0;
	p->ndone = p->lit_seq = p->nlit = p->late_len = p->nset = 0;
	p->body = (struct relayed){ 0 };
	t->spool->len = 0;
	t->spool->whole = false;
	p->gather = G_LINE;
	p->sasl = SASL_NONE;
	p->cmd_len = p->line_at = p->tag_len = p->bad = 0;
	p->app_told = 0;
}

void
imap4_forget_command(struct turn *t)
{
	struct pst *p = P(t);

	if (p->cmd_len > p->tag_len)
		explicit_bzero(Z(t, Z_CMD + p->tag_len), p->cmd_len - p->tag_len);
	p->cmd_len = p->tag_len;
}

static void
next_command(struct turn *t)
{
	struct pst *p = P(t);

	if (p->phase == NOTAUTH)	/* it may have been a password */
		imap4_forget_command(t);
	p->gather = G_LINE;
	p->cmd_len = p->line_at = p->tag_len = p->bad = 0;
}

enum act
imap4_bad(struct turn *t, const char *text)
{
	struct pst *p = P(t);

	if (p->tag_len > 0)
		out_put(t->client, cmd_tag(t));
	else
		out_str(t->client, "*");
	out_fmt(t->client, " BAD %s\r\n", text);
	next_command(t);
	if (++p->errors < t->limits->errors)
		return (ACT_DONE);
	out_str(t->client, "* BYE Too many bad commands\r\n");
	return (ACT_CLOSE);
}

/* --- refusals ----------------------------------------------------------------------------------------------------- */

static enum refused
bye(struct turn *t, const char *text)
{
	if (P(t)->streaming)
		return (REFUSED_RESET);		/* nothing can be said inside a literal (protocols.md 1.4.6) */
	out_fmt(t->client, "* BYE %s\r\n", text);
	imap4_answered(t);
	return (REFUSED_CLOSE);
}

static enum refused
no(struct turn *t, const char *text)
{
	struct pst *p = P(t);

	if (p->command == CMD_APPEND && (p->gather == G_CONTENT || p->gather == G_TAIL)) {
		imap4_append_refused(t, bytes_str(text));
		return (REFUSED_STAY);
	}
	imap4_tagged(t, text);
	if (p->command == CMD_LOGIN)
		imap4_forget_login(t);
	if (p->command == CMD_SELECT) { /* a SELECT that fails leaves nothing selected (RFC 9051 section 6.3.2) */
		p->phase = AUTH;
		p->box.name_len = 0;
	}
	imap4_answered(t);
	return (REFUSED_STAY);
}

static enum refused
lost(struct turn *t)
{
	const struct pst *p = P(t);

	if (p->streaming || p->command == CMD_IDLE || p->command == CMD_NONE)
		return (bye(t, "[UNAVAILABLE] connection to mail store lost"));
	/* known not to be done, or nothing to be done */
	if (p->command == CMD_LOGIN || (!p->fence && !p->redo) || p->flags & F_QUERY || p->command == CMD_SELECT)
		return (no(t, "NO [UNAVAILABLE] mail store not available now, try again later"));
	return (bye(t, "[UNAVAILABLE] connection to mail store lost"));
}

enum refused
imap4_refuse(struct turn *t, enum why why)
{
	switch (why) {
	case WHY_LOST:
	case WHY_BUSY:
		if (P(t)->command == CMD_NONE)
			return (bye(t, "[UNAVAILABLE] server busy, try again later"));
		return (lost(t));
	case WHY_DIFFERS:
		if (P(t)->command == CMD_LOGIN)
			return (no(t, "NO [UNAVAILABLE] mail store not available now, try again later"));
		return (bye(t, "[UNAVAILABLE] connection to mail store lost"));
	case WHY_SPOOL:
		return (no(t, "NO [LIMIT] no room for this message now"));
	case WHY_IDLE:
		return (bye(t, P(t)->phase == NOTAUTH ? "Autologout" : "Autologout; idle for too long"));
	case WHY_SLOW:
		return (bye(t, "Autologout; no progress"));
	case WHY_SHUTDOWN:
		return (bye(t, "[UNAVAILABLE] server shutting down"));
	case WHY_KICKED:
		return (bye(t, "Disconnected by the operator"));
	case WHY_CRASH:
		return (bye(t, "[SERVERBUG] internal error"));
	}
	return (REFUSED_CLOSE);
}

/* --- lines and literals ------------------------------------------------------------------------------------------- */

static uint32_t
room(const struct turn *t)
{
	uint64_t zone = t->log->cap > Z_CMD ? t->log->cap - Z_CMD : 0;
	uint32_t most = (zone < CMD_MAX ? (uint32_t)zone : CMD_MAX) - LINE_END;

	if (P(t)->phase == NOTAUTH && most > UNAUTH_LINE + 2 * UNAUTH_LITERAL)
		most = UNAUTH_LINE + 2 * UNAUTH_LITERAL;
	return (most > P(t)->cmd_len ? most - P(t)->cmd_len : 0);
}

/* Adds to the command; what does not fit makes it bad. */
static void
keep(struct turn *t, struct bytes b)
{
	struct pst *p = P(t);
	uint32_t line = p->phase == NOTAUTH ? UNAUTH_LINE : t->limits->line;

	if (b.n > room(t) || (p->gather != G_LITERAL && p->cmd_len - p->line_at + b.n > line)) {
		p->bad = BAD_LONG;
		b.n = p->cmd_len > 0 ? 0 : b.n < TAG_MAX + 1 ? b.n : TAG_MAX + 1;	/* the refusal wants its tag */
	}
	memcpy(Z(t, Z_CMD + p->cmd_len), b.p, b.n);
	p->cmd_len += (uint32_t)b.n;
}

/* The tag, as soon as it is there: an answer may be due before the command is whole. False: not a tag. */
static bool
find_tag(struct turn *t)
{
	struct pst *p = P(t);
	uint32_t i;

	if (p->tag_len > 0)
		return (true);
	for (i = 0; i < p->cmd_len && i <= TAG_MAX; i++) {
		uint8_t c = *Z(t, Z_CMD + i);

		if (c == ' ')
			break;
		if (c <= 0x20 || c >= 0x7f || strchr("(){%*\"\\+", c) != NULL)
			return (false);
	}
	if (i == 0 || i > TAG_MAX)
		return (false);
	p->tag_len = i;
	return (true);
}

static const char *
bad_text(const struct pst *p)
{
	return (p->bad == BAD_LONG ? "[TOOBIG] command too long" :
	    p->bad == BAD_LITERAL ? "[TOOBIG] literal too large" : "line end is not CR LF");
}

static enum act
skip_literal(struct turn *t, uint64_t n)
{
	struct pst *p = P(t);

	if (n > SKIP_MAX) {		/* RFC 7888 section 4: the only way out */
		out_str(t->client, "* BYE [TOOBIG] literal too large\r\n");
		return (ACT_CLOSE);
	}
	p->left = n;
	p->gather = G_SKIP_LITERAL;
	return (ACT_MORE);
}

/* A line of a command ended with a literal's size. */
static enum act
literal(struct turn *t, uint64_t n, bool sync, bool binary)
{
	struct pst *p = P(t);
	uint32_t most = p->phase == NOTAUTH ? UNAUTH_LITERAL : LITERAL_MAX, args;

	if (!p->bad && p->phase != NOTAUTH && imap4_is_append(t, &args))
		return (imap4_append_begin(t, n, sync, binary, args));
	if (!p->bad && (n > most || n + 2 > room(t)))
		p->bad = BAD_LITERAL;
	if (p->bad && sync)
		return (imap4_bad(t, bad_text(p)));	/* without a +, it will not come */
	if (p->bad)
		return (skip_literal(t, n));
	p->gather = G_LITERAL;
	keep(t, BYTES("\r\n"));
	p->left = n;
	if (sync)
		out_str(t->client, "+ OK\r\n");
	return (ACT_DONE);
}

static enum act
line_done(struct turn *t)
{
	struct pst *p = P(t);
	struct bytes line = bytes(Z(t, Z_CMD + p->line_at), p->cmd_len - p->line_at);
	bool sync, binary, tag = find_tag(t);
	uint64_t n;

	if (p->gather == G_SASL) {
		if (p->bad && p->sasl == SASL_RELAY) {	/* the backend waits: it ends the login */
			p->bad = 0;
			line = BYTES("*");
		} else if (p->bad) {
			p->sasl = SASL_NONE;
			return (imap4_bad(t, bad_text(p)));
		}
		return (imap4_sasl(t, line));
	}
	if (p->gather == G_TAIL)
		return (imap4_append_tail(t));
	if (!tag)
		p->tag_len = 0;
	if (token_literal(line, &n, &sync, &binary)) {
		if (!tag && sync)
			return (imap4_bad(t, "invalid tag"));
		if (!tag)
			p->bad = BAD_LITERAL;
		return (literal(t, n, sync, binary));
	}
	if (!tag)
		return (imap4_bad(t, p->cmd_len == 0 && !p->bad ? "empty command line" : "invalid tag"));
	if (p->bad)
		return (imap4_bad(t, bad_text(p)));
	return (imap4_command(t));
}

/* An overlong line keeps its end, so that a literal there is seen. */
static void
keep_end(struct turn *t, struct bytes b)
{
	struct pst *p = P(t);
	uint32_t tail = b.n < 32 ? (uint32_t)b.n : 32, at = p->line_at + p->tag_len + 64;

	if (at + tail > t->log->cap - Z_CMD)
		return;
	memcpy(Z(t, Z_CMD + at), b.p + (b.n - tail), tail);
	p->cmd_len = at + tail;
}

static enum act
take_line(struct turn *t, struct bytes in, size_t *used, size_t *scanned)
{
	struct pst *p = P(t);
	const uint8_t *lf = in.n > *scanned ? memchr(in.p + *scanned, '\n', in.n - *scanned) : NULL;
	struct bytes line;

	if (lf == NULL && in.n < CHUNK) {
		*scanned = in.n;
		return (ACT_MORE);
	}
	if (lf == NULL) {		/* a part of a long line; a CR at its end waits for the LF */
		line = bytes(in.p, in.n - 32);
		*used = line.n;
		if (!p->bad)
			keep(t, line);
		return (ACT_MORE);
	}
	*used = (size_t)(lf - in.p) + 1;
	line = bytes(in.p, *used - 1);
	if (line.n > 0 && line.p[line.n - 1] == '\r')
		line.n--;
	else if (!p->bad)
		p->bad = BAD_NEWLINE;
	if (p->bad != BAD_LONG)
		keep(t, line);
	if (p->bad == BAD_LONG) {
		(void)find_tag(t);
		keep_end(t, line);
	}
	return (line_done(t));
}

static enum act
take_literal(struct turn *t, struct bytes in, size_t *used)
{
	struct pst *p = P(t);
	size_t n = in.n < p->left ? in.n : (size_t)p->left;

	if (p->gather == G_LITERAL)
		keep(t, bytes(in.p, n));	/* its room was looked at before */
	p->left -= n;
	*used = n;
	if (p->left == 0) {
		p->gather = p->gather == G_SKIP_LITERAL && p->late_len > 0 ? G_TAIL : G_LINE;
		p->line_at = p->cmd_len;
	}
	return (ACT_MORE);
}

/* Within IDLE the client says DONE and nothing else (RFC 2177). */
static enum act
idle_line(struct turn *t, struct bytes in, size_t *used, size_t *scanned)
{
	struct pst *p = P(t);
	const uint8_t *lf = in.n > *scanned ? memchr(in.p + *scanned, '\n', in.n - *scanned) : NULL;
	struct bytes line;

	if (lf == NULL) {
		*scanned = in.n;
		if (in.n < IDLE_LINE)
			return (ACT_MORE);
		out_str(t->client, "* BYE Expected DONE\r\n");
		return (ACT_CLOSE);
	}
	*used = (size_t)(lf - in.p) + 1;
	line = bytes(in.p, *used - 1);
	if (line.n > 0 && line.p[line.n - 1] == '\r')
		line.n--;
	p->done = 1;
	p->bad = !bytes_caseeq(line, BYTES("DONE"));
	if (t->up && H(t)->said)
		return (ACT_DONE); /* its end at the backend comes first: what it has to tell belongs before ours */
	imap4_tagged(t, p->bad ? "BAD Expected DONE" : "OK Idle completed");
	p->bad = 0;
	imap4_answered(t);
	return (ACT_DONE);
}

enum act
imap4_client(struct turn *t, struct bytes in, size_t *used, size_t *scanned)
{
	struct pst *p = P(t);

	if (t->log->cap < Z_CMD + Z_CMD_MIN) {
		out_str(t->client, "* BYE [SERVERBUG] the limit \"journal\" is too small\r\n");
		return (ACT_CLOSE);
	}
	if (in.n == 0 &&
	    !(p->left == 0 && (p->gather == G_LITERAL || p->gather == G_SKIP_LITERAL || p->gather == G_CONTENT)))
		return (ACT_MORE);
	if (p->sasl == SASL_RELAY)
		return (take_line(t, in, used, scanned));
	if (p->command == CMD_IDLE)
		return (p->done ? ACT_MORE : idle_line(t, in, used, scanned));
	switch (p->gather) {
	case G_LITERAL:
	case G_SKIP_LITERAL:
		return (take_literal(t, in, used));
	case G_CONTENT:
		return (imap4_append_content(t, in, used));
	default:
		return (take_line(t, in, used, scanned));
	}
}
