/*
 * imapd - a little IMAP server with a store that outlives its connections, for rig.h: so much of RFC 9051 that what a client
 * does in its mailboxes is done, and can be looked at
 *
 * One connection at a time. Two mailboxes: INBOX and box. What is done is done at once; answers are what a client sees, so they
 * are in the words that the gateway uses where it answers for a server that died.
 */
#ifndef T_LIB_IMAPD_H
#define T_LIB_IMAPD_H

#include "imap4/set.h"
#include "imap4/token.h"
#include "t/lib/servers.h"

enum { IMAPD_MAX = 12, IMAPD_TEXT = 24576, IMAPD_PAD = 14000, IMAPD_DELETED = 1, IMAPD_FLAGGED = 2, IMAPD_SEEN = 4 };

struct imapd_msg { uint32_t uid, flags; size_t n; const uint8_t *text; };
struct imapd_box { const char *name; uint32_t uidnext, n; struct imapd_msg m[IMAPD_MAX]; };

static struct {
	struct imapd_box box[2];
	uint8_t	 text[IMAPD_MAX * 2][IMAPD_TEXT];	/* of all messages ever */
	uint32_t texts;
} imapd;
/* The connection: what it has been told, and the command that is coming. */
static struct {
	struct imapd_box *sel;
	uint32_t uid[IMAPD_MAX], n, saved[IMAPD_MAX], nsaved;
	uint8_t	 cmd[IMAPD_TEXT * 2], idle[64];
	size_t	 len, literal, nidle;
} imapd_conn;

static inline void
imapd_add(struct imapd_box *b, struct bytes text, uint32_t flags)
{
	rig_must(b->n < IMAPD_MAX && imapd.texts < IMAPD_MAX * 2 && text.n < IMAPD_TEXT, "imapd is full");
	memcpy(imapd.text[imapd.texts], text.p, text.n);
	memset(imapd.text[imapd.texts] + text.n, 0, IMAPD_TEXT - text.n);
	b->m[b->n++] = (struct imapd_msg){ b->uidnext++, flags, text.n, imapd.text[imapd.texts++] };
}

/* Empty mailboxes. */
static inline void
imapd_start(void)
{
	imapd.box[0] = (struct imapd_box){ .name = "INBOX", .uidnext = 3 };
	imapd.box[1] = (struct imapd_box){ .name = "box", .uidnext = 10 };
	imapd.texts = 0;
}

/* The store as text: what two runs must agree in. */
static inline size_t
imapd_dump(char *dst, size_t size)
{
	struct out o = { (uint8_t *)dst, 0, size - 1, false };

	for (size_t i = 0; i < 2; i++) {
		out_fmt(&o, "%s:", imapd.box[i].name);
		for (uint32_t k = 0; k < imapd.box[i].n; k++)
			out_fmt(&o, " %u(%u) %.*s", imapd.box[i].m[k].uid, imapd.box[i].m[k].flags,
			    (int)strcspn((const char *)imapd.box[i].m[k].text, "\r"), (const char *)imapd.box[i].m[k].text);
		out_str(&o, "\n");
	}
	dst[o.len] = '\0';
	return (o.len);
}

static inline void
imapd_say(struct rig *r, const char *fmt, ...)
{
	static char text[IMAPD_TEXT];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	(void)rig_put(&r->bin, text, (size_t)n);
}

static inline bool
imapd_names(struct bytes args, const char *what)
{
	return (memmem(args.p, args.n, what, strlen(what)) != NULL);
}

static inline struct imapd_box *
imapd_box(struct bytes *args)
{
	struct bytes v;

	token_space(args);
	rig_must(token_value(args, &v), "imapd: a mailbox was expected");
	for (size_t i = 0; i < 2; i++)
		if (bytes_caseeq(v, bytes_str(imapd.box[i].name)))
			return (&imapd.box[i]);
	return (NULL);
}

/* The message behind a number of the connection; NULL: gone. */
static inline struct imapd_msg *
imapd_msg(uint32_t i)
{
	for (uint32_t k = 0; k < imapd_conn.sel->n; k++)
		if (imapd_conn.sel->m[k].uid == imapd_conn.uid[i])
			return (&imapd_conn.sel->m[k]);
	return (NULL);
}

static inline bool
imapd_in_set(struct bytes set, bool uid, uint32_t i)
{
	struct range r[64];
	uint32_t n, last = imapd_conn.n == 0 ? 1 : uid ? imapd_conn.uid[imapd_conn.n - 1] : imapd_conn.n;

	if (bytes_eq(set, BYTES("$"))) {
		for (n = 0; n < imapd_conn.nsaved && imapd_conn.saved[n] != imapd_conn.uid[i]; n++)
			;
		return (n < imapd_conn.nsaved);
	}
	rig_must(set_parse(set, last, r, &n, 64), "imapd: a set was expected");
	return (set_has(r, n, uid ? imapd_conn.uid[i] : i + 1));
}

/* --- what can be told at the end of a command -------------------------------------------------------------------------- */

static inline void
imapd_sync(struct rig *r, bool expunge)
{
	struct imapd_box *b = imapd_conn.sel;

	for (uint32_t i = imapd_conn.n; expunge && i > 0; i--)
		if (imapd_msg(i - 1) == NULL) {
			imapd_say(r, "* %u EXPUNGE\r\n", i);
			memmove(&imapd_conn.uid[i - 1], &imapd_conn.uid[i], (--imapd_conn.n - (i - 1)) * sizeof(imapd_conn.uid[0]));
		}
	for (uint32_t k = 0; k < b->n; k++)
		if (imapd_conn.n == 0 || b->m[k].uid > imapd_conn.uid[imapd_conn.n - 1]) {
			imapd_conn.uid[imapd_conn.n++] = b->m[k].uid;
			imapd_say(r, "* %u EXISTS\r\n", imapd_conn.n);
		}
}

/* --- commands ------------------------------------------------------------------------------------------------------------ */

static inline const char *
imapd_flags(uint32_t flags)
{
	static char text[64];

	snprintf(text, sizeof(text), "FLAGS (%s%s%s)", flags & IMAPD_DELETED ? "\\Deleted " : "", flags & IMAPD_FLAGGED ? "\\Flagged " : "",
	    flags & IMAPD_SEEN ? "\\Seen " : "");
	if (flags != 0)
		memcpy(text + strlen(text) - 2, ")", 2);
	return (text);
}

static inline const char *
imapd_select(struct rig *r, struct bytes args)
{
	struct imapd_box *b = imapd_box(&args);

	if (b == NULL)
		return ("NO [NONEXISTENT] No such mailbox");
	imapd_conn.sel = b;
	imapd_conn.nsaved = 0;
	for (imapd_conn.n = 0; imapd_conn.n < b->n; imapd_conn.n++)
		imapd_conn.uid[imapd_conn.n] = b->m[imapd_conn.n].uid;
	imapd_say(r, "* FLAGS (\\Deleted \\Flagged \\Seen)\r\n* %u EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT %u] n\r\n",
	    b->n, b->uidnext);
	return ("OK [READ-WRITE] Select completed");
}

static inline void
imapd_fetch_one(struct rig *r, uint32_t i, bool uid, struct bytes what)
{
	const struct imapd_msg *m = imapd_msg(i);
	const char *between = "";
	const uint8_t *id;
	size_t n = 0;

	if (m == NULL)
		return;
	imapd_say(r, "* %u FETCH (", i + 1);
	if (uid || imapd_names(what, "UID")) {
		imapd_say(r, "UID %u", m->uid);
		between = " ";
	}
	if (imapd_names(what, "FLAGS"))
		imapd_say(r, "%s%s", between, imapd_flags(m->flags));
	if (imapd_names(what, "INTERNALDATE"))
		imapd_say(r, "%sINTERNALDATE \"24-Nov-2026 10:00:00 +0000\"", between);
	if (imapd_names(what, "RFC822.SIZE"))
		imapd_say(r, "%sRFC822.SIZE %zu", between, m->n);
	if (imapd_names(what, "BODY.PEEK[]")) {
		imapd_say(r, "%sBODY[] {%zu}\r\n", between, m->n);
		(void)rig_put(&r->bin, m->text, m->n);
	}
	if (imapd_names(what, "BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)]")) {
		id = memmem(m->text, m->n, "Message-ID: ", 12);
		if (id != NULL)
			n = (size_t)((const uint8_t *)memchr(id, '\n', m->n - (size_t)(id - m->text)) - id) + 1;
		imapd_say(r, "%sBODY[HEADER.FIELDS (MESSAGE-ID)] {%zu}\r\n%.*s\r\n", between, n + 2, (int)n, id == NULL ? "" : (const char *)id);
	}
	imapd_say(r, ")\r\n");
}

static inline void
imapd_store_one(struct rig *r, uint32_t i, bool uid, struct bytes how)
{
	struct imapd_msg *m = imapd_msg(i);
	uint32_t f = (imapd_names(how, "\\Deleted") ? IMAPD_DELETED : 0u) | (imapd_names(how, "\\Flagged") ? IMAPD_FLAGGED : 0u) |
	    (imapd_names(how, "\\Seen") ? IMAPD_SEEN : 0u);

	token_space(&how);
	if (m == NULL)
		return;
	m->flags = how.p[0] == '+' ? m->flags | f : how.p[0] == '-' ? m->flags & ~f : f;
	if (imapd_names(how, "SILENT"))
		return;
	imapd_say(r, uid ? "* %u FETCH (UID %u %s)\r\n" : "* %u FETCH (", i + 1, m->uid, imapd_flags(m->flags));
	if (!uid)
		imapd_say(r, "%s)\r\n", imapd_flags(m->flags));
}

static inline void
imapd_remove(struct imapd_box *b, const struct imapd_msg *m)
{
	size_t i = (size_t)(m - b->m);

	memmove(&b->m[i], &b->m[i + 1], (--b->n - i) * sizeof(b->m[0]));
}

/* COPY and MOVE; the code that says what went where. */
static inline const char *
imapd_copy(struct rig *r, struct bytes set, bool uid, bool move, struct bytes args)
{
	static char text[300];
	struct range from[IMAPD_MAX], to[IMAPD_MAX];
	struct out o = { (uint8_t *)text, 0, sizeof(text) - 1, false };
	struct imapd_box *b = imapd_box(&args);
	uint32_t nf = 0, nt = 0;
	struct imapd_msg *m;

	if (b == NULL)
		return ("NO [TRYCREATE] No such mailbox");
	for (uint32_t i = 0; i < imapd_conn.n; i++)
		if (imapd_in_set(set, uid, i) && (m = imapd_msg(i)) != NULL) {
			(void)set_add(from, &nf, IMAPD_MAX, m->uid, 1);
			(void)set_add(to, &nt, IMAPD_MAX, b->uidnext, 1);
			imapd_add(b, bytes(m->text, m->n), m->flags);
			if (move)
				imapd_remove(imapd_conn.sel, m);
		}
	if (nf == 0)
		return ("OK No messages found");
	out_str(&o, "OK [COPYUID 7 ");
	(void)(set_print(&o, from, nf) && out_str(&o, " ") && set_print(&o, to, nt) && out_str(&o, move ? "] Moved UIDs." : "] Copy completed"));
	text[o.len] = '\0';
	if (!move)
		return (text);
	imapd_say(r, "* %s\r\n", text);
	return ("OK Completed");
}

static inline void
imapd_expunge(struct bytes set, bool uid)
{
	struct imapd_msg *m;

	for (uint32_t i = 0; i < imapd_conn.n; i++)
		if ((m = imapd_msg(i)) != NULL && m->flags & IMAPD_DELETED && (!uid || imapd_in_set(set, true, i)))
			imapd_remove(imapd_conn.sel, m);
}

/* Keys: ALL, NOT ALL, DELETED, FLAGGED, RECENT, UID and a set, a set. PAD: an option whose result is long. */
static inline const char *
imapd_search(struct rig *r, struct bytes tag, bool uid, struct bytes args)
{
	char text[400];
	struct bytes look = args, options = bytes("", 0), key;
	struct range found[IMAPD_MAX];
	uint32_t n = 0, hits[IMAPD_MAX], nhits = 0;
	struct out o = { (uint8_t *)text, 0, sizeof(text) - 1, false };
	bool by_uid;

	if (bytes_caseeq(token_word(&look), BYTES("RETURN"))) {
		token_space(&look);
		rig_must(token_value(&look, &options), "imapd: options were expected");
		args = look;
	}
	token_space(&args);
	key = token_word(&args);
	by_uid = bytes_caseeq(key, BYTES("UID"));
	token_space(&args);
	if (by_uid)
		key = args;
	for (uint32_t i = 0; i < imapd_conn.n; i++) {
		const struct imapd_msg *m = imapd_msg(i);

		if (m == NULL || bytes_caseeq(key, BYTES("NOT")) || bytes_caseeq(key, BYTES("RECENT")))
			continue;
		if (bytes_caseeq(key, BYTES("DELETED")) ? (m->flags & IMAPD_DELETED) == 0 : bytes_caseeq(key, BYTES("FLAGGED")) ?
		    (m->flags & IMAPD_FLAGGED) == 0 : !bytes_caseeq(key, BYTES("ALL")) && !imapd_in_set(key, by_uid, i))
			continue;
		hits[nhits++] = m->uid;
		(void)set_add(found, &n, IMAPD_MAX, uid ? m->uid : i + 1, 1);
	}
	if (imapd_names(options, "SAVE")) {
		memcpy(imapd_conn.saved, hits, nhits * sizeof(hits[0]));
		imapd_conn.nsaved = nhits;
	}
	out_fmt(&o, "* ESEARCH (TAG \"%.*s\")%s", (int)tag.n, (const char *)tag.p, uid ? " UID" : "");
	if (imapd_names(options, "COUNT"))
		out_fmt(&o, " COUNT %u", nhits);
	if (imapd_names(options, "PAD"))
		imapd_say(r, "* ESEARCH (TAG \"%.*s\") PAD %0*d\r\n", (int)tag.n, (const char *)tag.p, IMAPD_PAD, 0);
	if (nhits > 0 && imapd_names(options, "ALL"))
		(void)(out_str(&o, " ALL ") && set_print(&o, found, n));
	text[o.len] = '\0';
	if (imapd_names(options, "COUNT") || imapd_names(options, "ALL"))
		imapd_say(r, "%s\r\n", text);
	return ("OK Search completed");
}

static inline const char *
imapd_append(struct bytes args)
{
	static char text[64];
	struct imapd_box *b = imapd_box(&args);
	const uint8_t *lf = memchr(args.p, '\n', args.n);

	if (b == NULL)
		return ("NO [TRYCREATE] No such mailbox");
	rig_must(lf != NULL, "imapd: a literal was expected");
	snprintf(text, sizeof(text), "OK [APPENDUID 7 %u] Append completed", b->uidnext);
	imapd_add(b, bytes_cut(args, (size_t)(lf + 1 - args.p)), 0);
	return (text);
}

static inline const char *
imapd_status(struct rig *r, struct bytes args)
{
	const struct imapd_box *b = imapd_box(&args);

	if (b == NULL)
		return ("NO [NONEXISTENT] No such mailbox");
	imapd_say(r, "* STATUS %s (UIDVALIDITY 7 UIDNEXT %u)\r\n", b->name, b->uidnext);
	return ("OK Status completed");
}

#define IMAPD_CAPS "IMAP4rev1 UIDPLUS MOVE ESEARCH SEARCHRES IDLE UNSELECT"

/* Of the selected mailbox; NULL: no such command. */
static inline const char *
imapd_selected(struct rig *r, struct bytes tag, struct bytes verb, bool uid, struct bytes args)
{
	bool fetch = bytes_caseeq(verb, BYTES("FETCH")), store = bytes_caseeq(verb, BYTES("STORE")), move = bytes_caseeq(verb, BYTES("MOVE"));
	const char *end = NULL;
	struct bytes set;

	if (bytes_caseeq(verb, BYTES("SEARCH")))
		end = imapd_search(r, tag, uid, args);
	else if (bytes_caseeq(verb, BYTES("EXPUNGE"))) {
		imapd_expunge(args, uid);
		end = "OK Completed";
	} else if (bytes_caseeq(verb, BYTES("NOOP")))
		end = "OK NOOP completed";
	else {
		set = token_word(&args);
		if (move || bytes_caseeq(verb, BYTES("COPY")))
			end = imapd_copy(r, set, uid, move, args);
		for (uint32_t i = 0; (fetch || store) && i < imapd_conn.n; i++)
			if (imapd_in_set(set, uid, i) && fetch)
				imapd_fetch_one(r, i, uid, args);
			else if (imapd_in_set(set, uid, i))
				imapd_store_one(r, i, uid, args);
		if (fetch || store)
			end = fetch ? "OK Fetch completed" : "OK Store completed";
	}
	imapd_sync(r, uid || !(fetch || store || bytes_caseeq(verb, BYTES("SEARCH"))));
	return (end);
}

static inline void
imapd_command(struct rig *r, struct bytes line)
{
	struct bytes tag = token_word(&line), verb;
	const char *end = NULL;
	bool uid;

	token_space(&line);
	verb = token_word(&line);
	token_space(&line);
	uid = bytes_caseeq(verb, BYTES("UID"));
	if (uid) {
		verb = token_word(&line);
		token_space(&line);
	}
	if (bytes_caseeq(verb, BYTES("LOGIN")))
		end = "OK [CAPABILITY " IMAPD_CAPS "] Logged in";
	else if (bytes_caseeq(verb, BYTES("SELECT")) || bytes_caseeq(verb, BYTES("EXAMINE")))
		end = imapd_select(r, line);
	else if (bytes_caseeq(verb, BYTES("LOGOUT"))) {
		imapd_say(r, "* BYE\r\n");
		end = "OK Logout completed";
	} else if (bytes_caseeq(verb, BYTES("STATUS")))
		end = imapd_status(r, line);
	else if (bytes_caseeq(verb, BYTES("APPEND")))
		end = imapd_append(line);
	else if (bytes_caseeq(verb, BYTES("IDLE"))) {
		imapd_say(r, "+ idling\r\n");
		imapd_conn.nidle = tag.n < sizeof(imapd_conn.idle) ? tag.n : sizeof(imapd_conn.idle);
		memcpy(imapd_conn.idle, tag.p, imapd_conn.nidle);
		return;
	} else if (imapd_conn.sel != NULL)
		end = imapd_selected(r, tag, verb, uid, line);
	imapd_say(r, "%.*s %s\r\n", (int)tag.n, (const char *)tag.p, end != NULL ? end : "BAD What?");
}

/* A line is there; what is a literal at its end is waited for. */
static inline void
imapd_line(struct rig *r)
{
	struct bytes line = bytes(imapd_conn.cmd, imapd_conn.len);
	bool sync, binary;
	uint64_t n;

	if (imapd_conn.nidle > 0) {		/* DONE */
		imapd_say(r, "%.*s OK Idle completed\r\n", (int)imapd_conn.nidle, (const char *)imapd_conn.idle);
		imapd_conn.nidle = imapd_conn.len = 0;
		return;
	}
	if (token_literal(line, &n, &sync, &binary)) {
		imapd_conn.literal = n;
		memcpy(imapd_conn.cmd + imapd_conn.len, "\r\n", 2);
		imapd_conn.len += 2;
		imapd_say(r, "+ OK\r\n");
		return;
	}
	imapd_command(r, line);
	imapd_conn.len = 0;
}

static inline void
imapd_server(struct rig *r, struct server *s)
{
	struct bytes line;

	if (s->connect != r->connects)
		memset(&imapd_conn, 0, sizeof(imapd_conn));
	server_connect(r, s, "* OK [CAPABILITY IMAP4rev1] imapd\r\n");
	for (;;) {
		size_t n = r->bout.n - s->at < imapd_conn.literal ? r->bout.n - s->at : imapd_conn.literal;

		if (n > 0) {
			memcpy(imapd_conn.cmd + imapd_conn.len, r->bout.p + s->at, n);
			imapd_conn.len += n;
			imapd_conn.literal -= n;
			s->at += n;
		}
		if (imapd_conn.literal > 0 || !server_line(r, s, &line))
			return;
		memcpy(imapd_conn.cmd + imapd_conn.len, line.p, line.n);
		imapd_conn.len += line.n;
		imapd_line(r);
	}
}

#endif
