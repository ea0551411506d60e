/*
 * content - message content from the client into the spool: DATA and BDAT (RFC 5321 4.1.1.4, RFC 3030); pure
 *
 * What makes a message unacceptable is noted in `bad`; from there on the content is for nobody, and the answer comes
 * at its end, as the RFC wants it. A chunk that is not the last carries no responsibility and is answered here.
 */
#include "smtp/smtp.h"

static bool
starts(struct bytes b, const char *s)
{
	return (b.n >= strlen(s) && memcmp(b.p, s, strlen(s)) == 0);
}

/*
 * They stand before the content's first octets: a line that begins with a space must not become a part of them, nor a
 * mailbox's "From " line, which backends know as the first one alone, end the header.
 */
static void
trace_lines(struct turn *t, struct bytes first)
{
	struct pst *p = P(t);
	const struct peerinfo *c = t->peer;
	char id[300];

	smtp_txn_id(t, id, sizeof(id));
	out_fmt(t->content, "X-Gw-Txn: %s\r\n", id);
	/* a backend that learns the client's address by XCLIENT writes the trace line itself (protocols.md 4.3) */
	if ((smtp_offer(t).bits & CAP_XCLIENT) == 0 || p->no_xclient)
		out_fmt(t->content, "Received: from %s ([%s%s])\r\n\tby %s with %sSMTP%s%s id %s;\r\n\t%s\r\n", p->name,
		    c->v6 ? "IPv6:" : "", c->addr, c->banner, p->utf8 ? "UTF8" : p->helo == HELO_EHLO ? "E" : "", c->tls ? "S" : "",
		    p->authenticated ? "A" : "", id, t->date);
	if (starts(first, " ") || starts(first, "\t"))
		out_str(t->content, "\r\n");
	else if (starts(first, "From ") || starts(first, ">From "))
		out_str(t->content, "X-Mailbox-Line: ");	/* as Postfix has it */
	p->trace = (uint16_t)t->content->len;
}

/* More is needed to know what goes before it. */
static bool
undecided(struct bytes first)
{
	return (first.n == 0 || (first.n < 5 && memcmp(first.p, "From ", first.n) == 0) ||
	    (first.n < 6 && memcmp(first.p, ">From ", first.n) == 0));
}

/* The rest is for nobody. What the spool holds goes when the transaction ends. */
static void
spoiled(struct turn *t)
{
	struct pst *p = P(t);

	p->command = p->command == CMD_BDAT ? CMD_SWALLOW_CHUNK : CMD_SWALLOW;
	t->content->len = 0;
}

static bool
acceptable(struct turn *t)
{
	struct pst *p = P(t);

	if (p->bad == BAD_BARE && t->peer->normalize)
		p->bad = BAD_NONE;
	if (p->bad == BAD_NONE && smtp_too_big(t))
		p->bad = BAD_SIZE;
	return (p->bad == BAD_NONE);
}

/* At the end of content that is refused: the answer, and the transaction is over. */
static enum act
refuse(struct turn *t)
{
	uint8_t bad = P(t)->bad;

	smtp_say_bad(t);
	smtp_end_transaction(t);
	if (bad == BAD_LOST || bad == BAD_TOLD || bad == BAD_SPACE)
		return (ACT_DONE);		/* not the client's fault */
	return (smtp_count_error(t));
}

static enum act
data(struct turn *t, struct bytes in, size_t *used)
{
	struct pst *p = P(t);
	bool end, swallow = p->command == CMD_SWALLOW;
	struct bytes first = bytes_cut(in, in.n > 0 && in.p[0] == '.');	/* which goes, or is doubled (RFC 5321 section 4.5.2) */

	if (!swallow && t->spool->len == 0) {
		if (undecided(first))
			return (ACT_MORE);
		trace_lines(t, first);
	}
	*used = smtp_scan(p, in, t->content, true, &end);
	if (!swallow && !acceptable(t))
		spoiled(t);
	if (p->command == CMD_SWALLOW)
		t->content->len = 0;
	if (!end)
		return (ACT_CONTENT);
	if (p->command == CMD_SWALLOW)
		return (refuse(t));
	t->spool->whole = true;
	return (ACT_CONTENT);
}

/* A refused chunk. Until the client resets, its further chunks are refused too (RFC 3030 section 2). */
static enum act
refused_chunk(struct turn *t)
{
	struct pst *p = P(t);

	if (p->open && p->last)
		return (refuse(t));
	smtp_say_bad(t);
	p->command = CMD_NONE;
	if (p->open)
		p->bad = BAD_SEQUENCE;
	else
		p->bad = p->bdat = 0;		/* nothing has begun */
	return (smtp_count_error(t));
}

static enum act
chunk_end(struct turn *t)
{
	struct pst *p = P(t);

	if (p->command == CMD_SWALLOW_CHUNK)
		return (refused_chunk(t));
	if (!p->last) {
		p->command = CMD_NONE;
		out_str(t->client, "250 2.0.0 chunk received\r\n");
		return (ACT_CONTENT);
	}
	if (t->spool->len == 0 && t->content->len == 0)
		trace_lines(t, bytes("", 0));
	if (p->scan == SCAN_CR && p->body != BODY_BINARY) {
		p->bad = BAD_BARE;
		out_str(t->content, " ");
	}
	if (!acceptable(t)) {
		spoiled(t);
		return (refused_chunk(t));
	}
	t->spool->whole = true;
	return (ACT_CONTENT);
}

static enum act
chunk(struct turn *t, struct bytes in, size_t *used)
{
	struct pst *p = P(t);
	bool end;

	if (in.n > p->chunk_left)
		in.n = p->chunk_left;
	if (p->command == CMD_BDAT && t->spool->len == 0 && in.n < p->chunk_left && undecided(in))
		return (ACT_MORE);
	*used = in.n;
	p->chunk_left -= in.n;
	if (p->command == CMD_BDAT) {
		if (t->spool->len == 0)
			trace_lines(t, in);
		if (p->body == BODY_BINARY)
			out_put(t->content, in);
		else
			(void)smtp_scan(p, in, t->content, false, &end);
		if (!acceptable(t))
			spoiled(t);
	}
	return (p->chunk_left > 0 ? ACT_CONTENT : chunk_end(t));
}

enum act
smtp_content(struct turn *t, struct bytes in, size_t *used)
{
	const struct pst *p = P(t);
	size_t room = (out_room(t->content) - 2048) / 2;	/* a bare LF becomes two octets */
	bool chunked = p->command == CMD_BDAT || p->command == CMD_SWALLOW_CHUNK;

	if (in.n == 0)
		return (ACT_MORE);
	in.n = in.n < room ? in.n : room;
	return (chunked ? chunk(t, in, used) : data(t, in, used));
}

enum act
smtp_bdat(struct turn *t, struct bytes arg)
{
	struct pst *p = P(t);
	struct bytes num = bytes_token(&arg, ' ');
	uint64_t n;

	while (arg.n > 0 && arg.p[0] == ' ')
		arg = bytes_cut(arg, 1);
	/* what follows cannot be told from commands: the only safe way is to end here */
	if (bytes_num(num, 0, UINT64_MAX / 2, &n) == -1 || (arg.n > 0 && !bytes_caseeq(arg, BYTES("LAST")))) {
		out_str(t->client, "501 5.5.4 BDAT needs a size and perhaps LAST\r\n");
		return (ACT_CLOSE);
	}
	if ((smtp_offer(t).bits & CAP_CHUNKING) == 0) {
		out_str(t->client, "502 5.5.1 BDAT is not offered here\r\n");
		return (ACT_CLOSE);
	}
	p->chunk_left = n;
	p->last = arg.n > 0;
	if (!p->open || p->nrcpt == 0)
		p->bad = p->open && p->tried ? BAD_NO_RCPT : BAD_SEQUENCE;
	else if (p->poisoned && p->bad == BAD_NONE)
		p->bad = BAD_LOST;
	else if (p->bdat && p->bad != BAD_NONE && p->bad != BAD_TOLD && p->bad != BAD_LOST && p->bad != BAD_SPACE)
		p->bad = BAD_SEQUENCE;		/* a chunk was refused before */
	if (!p->bdat) {
		p->bdat = 1;
		p->scan = SCAN_BOL;
		p->in_header = p->body != BODY_BINARY;
		p->line_len = p->hops = p->hmatch = 0;
	}
	p->command = p->bad != BAD_NONE ? CMD_SWALLOW_CHUNK : CMD_BDAT;
	if (n > 0)
		return (ACT_PENDING);
	return (chunk_end(t));
}
