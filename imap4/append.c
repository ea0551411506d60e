/*
 * append - APPEND on the client's side: literals go to the spool; their hash, and that of their Message-ID, are kept for a
 * look at the store; pure
 *
 * A synchronising literal is asked for only when the backend has asked for it (protocols.md 1.4.6), so that a refusal
 * costs the client nothing. A refusal that comes when the client is sending already is told at the command's end; till
 * then its octets are swallowed.
 */
#include "imap4/imap4.h"
#include "imap4/token.h"

struct literal *
imap4_literal(const struct turn *t, uint32_t i)
{
	return ((struct literal *)(void *)Z(t, Z_APP) + i);
}

static void
begin_literal(struct turn *t, uint64_t n, bool sync, bool binary, uint32_t args, uint32_t args_len)
{
	struct pst *p = P(t);

	*imap4_literal(t, p->nlit++) = (struct literal){ .at = t->spool->len, .len = n, .args = args,
	    .args_len = args_len, .sync = sync, .binary = binary,
	    .content = binary ? CONTENT_ODD : CONTENT_PLAIN };
	if (!sync)
		p->app_told = p->nlit;
	p->left = n;
	p->gather = G_CONTENT;
	p->cr = p->header = 0;
	p->lit_size = 0;
	relayed_start(&p->body, p->key);
}

/* The place of the {n} that ends the text. */
static uint32_t
marker(const struct turn *t, uint32_t from)
{
	uint32_t at = P(t)->cmd_len;

	while (at > from && *Z(t, Z_CMD + at - 1) != '{')
		at--;
	at = at > from ? at - 1 : from;
	return (at > from && *Z(t, Z_CMD + at - 1) == '~' ? at - 1 : at);
}

static bool
too_large(const struct turn *t, uint64_t n)
{
	uint64_t all = t->spool->len;

	return ((t->limits->message != 0 && (n > t->limits->message || all > t->limits->message - n)) ||
	    (P(t)->caps.append_limit != 0 && n > P(t)->caps.append_limit));
}

/* Flags and date: lists and strings on one line. */
static bool
args_good(const struct turn *t, uint32_t at, uint32_t len)
{
	return (token_check(bytes(Z(t, Z_CMD + at), len)) == NULL);
}

enum act
imap4_append_begin(struct turn *t, uint64_t n, bool sync, bool binary, uint32_t args)
{
	struct pst *p = P(t);
	uint32_t end = marker(t, args);

	p->command = CMD_APPEND;
	p->flags = F_BASE | F_DOUBT;
	p->cmd_len = end;
	begin_literal(t, n, sync, binary, args, end - args);
	if (!args_good(t, args, end - args) || too_large(t, n)) {
		imap4_append_refused(t, args_good(t, args, end - args) ? BYTES("NO [TOOBIG] message too large") :
		    BYTES("BAD malformed APPEND"));
		return (ACT_DONE);
	}
	return (ACT_PENDING);
}

/* Stores write line ends in their own way, and NUL as 0x80 or not at all (Dovecot, in part: a CR before CR LF, or at the end). */
static bool
is_dropped(uint8_t c)
{
	return (c == '\r' || c == '\0' || c == 0x80);
}

void
imap4_hash_content(struct relayed *r, struct bytes b)
{
	while (b.n > 0) {
		size_t k = 0;

		while (k < b.n && !is_dropped(b.p[k]))
			k++;
		relayed_add(r, bytes(b.p, k));
		b = bytes_cut(b, k < b.n ? k + 1 : k);
	}
}

enum { ID_VALUE = 32, ID_FOLD, ID_SKIP, ID_OVER };	/* less: so many octets of the name are there */

static uint8_t
id_next(uint8_t at, uint8_t c)
{
	static const char name[] = "message-id:";

	switch (at) {
	case ID_VALUE:
		return (c == '\n' ? ID_FOLD : ID_VALUE);
	case ID_FOLD:
		return (c == ' ' || c == '\t' ? ID_VALUE : ID_OVER);
	case ID_SKIP:
		return (c == '\n' ? 0 : ID_SKIP);
	default:
		if (c == '\n')
			return (at == 0 ? ID_OVER : 0);
		if ((c >= 'A' && c <= 'Z' ? c + 32 : c) != name[at])
			return (ID_SKIP);
		return (at + 1u == sizeof(name) - 1 ? ID_VALUE : (uint8_t)(at + 1));
	}
}

void
imap4_find_id(uint8_t *at, uint64_t *id, struct bytes b)
{
	for (size_t i = 0; i < b.n && *at != ID_OVER; i++) {
		if (is_dropped(b.p[i]))
			continue;
		*at = id_next(*at, b.p[i]);
		if (*at == ID_VALUE && b.p[i] > ' ' && b.p[i] != ':')
			*id = (*id + b.p[i]) * UINT64_C(0x100000001b3);
	}
}

/* NUL, and CR that ends no line; cr: the octet before was one. */
static bool
is_odd(struct bytes b, bool cr)
{
	if (b.n == 0)
		return (false);
	if (memchr(b.p, '\0', b.n) != NULL || (cr && b.p[0] != '\n'))
		return (true);
	for (const uint8_t *p = b.p, *last = b.p + (b.n - 1); (p = memchr(p, '\r', (size_t)(last - p))) != NULL; p++)
		if (p[1] != '\n')
			return (true);
	return (false);
}

static void
look_at(struct pst *p, struct literal *l, struct bytes b)
{
	imap4_hash_content(&p->body, b);
	imap4_find_id(&p->header, &p->lit_size, b);
	if (l->content == CONTENT_PLAIN && is_odd(b, p->cr))
		l->content = CONTENT_ODD;
	if (b.n > 0)
		p->cr = b.p[b.n - 1] == '\r';
	if (b.n < p->left)
		return;
	l->hash = p->body;
	l->id = p->lit_size;
	if (l->content == CONTENT_PLAIN && p->cr)
		l->content = CONTENT_ODD;
}

enum act
imap4_append_content(struct turn *t, struct bytes in, size_t *used)
{
	struct pst *p = P(t);
	struct literal *l = imap4_literal(t, p->nlit - 1);
	size_t n = in.n < p->left ? in.n : (size_t)p->left;

	if (p->app_told < p->nlit)
		return (ACT_MORE);		/* it was not asked for yet */
	if (n > out_room(t->content))
		n = out_room(t->content);
	(void)out_put(t->content, bytes(in.p, n));
	look_at(p, l, bytes(in.p, n));
	p->left -= n;
	*used = n;
	if (p->left == 0) {
		p->gather = G_TAIL;
		p->line_at = p->cmd_len;
		p->bad = 0;
	}
	return (ACT_CONTENT);
}

static void
tell_late(struct turn *t)
{
	struct pst *p = P(t);

	out_put(t->client, cmd_tag(t));
	out_str(t->client, " ");
	out_put(t->client, bytes(p->late, p->late_len));
	out_str(t->client, "\r\n");
	imap4_answered(t);
}

void
imap4_append_refused(struct turn *t, struct bytes answer)
{
	struct pst *p = P(t);
	bool waits = p->app_told < p->nlit, whole = t->spool->whole;

	if (t->up && H(t)->said && !H(t)->tagged_seen)
		H(t)->drop = 1;		/* it has half a command */
	if (answer.n > LATE_MAX)
		answer.n = LATE_MAX;
	memcpy(p->late, answer.p, answer.n);
	p->late_len = (uint32_t)answer.n;
	t->spool->len = 0;
	t->spool->whole = false;
	p->command = CMD_NONE;
	p->flags = p->fence = p->probing = p->redo = 0;
	if (waits || whole)
		tell_late(t);
	else if (p->gather == G_CONTENT)
		p->gather = G_SKIP_LITERAL;
}

/* What comes behind a literal of a command whose answer is known. */
static enum act
late_tail(struct turn *t, bool more, uint64_t n, bool sync)
{
	struct pst *p = P(t);

	if (more && !sync) {
		p->cmd_len = p->line_at;
		p->left = n;
		p->gather = G_SKIP_LITERAL;
		return (ACT_MORE);
	}
	tell_late(t);
	return (ACT_DONE);
}

enum act
imap4_append_tail(struct turn *t)
{
	struct pst *p = P(t);
	struct bytes line = bytes(Z(t, Z_CMD + p->line_at), p->cmd_len - p->line_at);
	uint32_t args = p->line_at + 1, end;
	bool sync = false, binary, more;
	uint64_t n = 0;

	more = token_literal(line, &n, &sync, &binary);
	if (p->late_len > 0)
		return (late_tail(t, more, n, sync));
	if (!more && line.n == 0 && !p->bad) {
		t->spool->whole = true;
		p->gather = G_LINE;
		return (ACT_CONTENT);
	}
	end = marker(t, p->line_at);
	if (!more || p->bad || line.p[0] != ' ' || end < args || !args_good(t, args, end - args) ||
	    p->nlit == LITERALS_MAX || too_large(t, n)) {
		p->gather = G_TAIL;
		imap4_append_refused(t, more && line.p[0] == ' ' && !p->bad ?
		    BYTES("NO [TOOBIG] too much in one command") : BYTES("BAD malformed APPEND"));
		return (p->late_len > 0 ? late_tail(t, more, n, sync) : ACT_DONE);
	}
	p->cmd_len = end;
	begin_literal(t, n, sync, binary, args, end - args);
	return (ACT_CONTENT);
}
