/*
 * caps - what backends can do, learned before and after login, and what of it a client is shown (protocols.md 4.1);
 * pure
 *
 * A name that is not in the table is never shown: RFC 2971 section 5. Shown is what all known backends have and the
 * gateway keeps right in a replay, and what it does by itself.
 */
#include "imap4/imap4.h"

enum { PASS, AUTHMECH, RELAYED, OURS, HOP, NUMBER, RIGHTS };	/* HOP: between gateway and backend, not shown */

static const struct { const char *name; uint8_t kind; } table[] = {
	{ "IMAP4rev1", PASS }, { "IMAP4rev2", PASS }, { "ENABLE", PASS }, { "IDLE", PASS }, { "NAMESPACE", PASS },
	{ "CHILDREN", PASS }, { "UNSELECT", PASS }, { "UIDPLUS", PASS }, { "MOVE", PASS }, { "MULTIAPPEND", PASS },
	{ "BINARY", PASS }, { "CONDSTORE", PASS }, { "QRESYNC", PASS }, { "ESEARCH", PASS }, { "ESORT", PASS },
	{ "SEARCHRES", PASS }, { "WITHIN", PASS }, { "SORT", PASS }, { "SORT=DISPLAY", PASS },
	{ "THREAD=REFERENCES", PASS }, { "THREAD=REFS", PASS }, { "THREAD=ORDEREDSUBJECT", PASS },
	{ "LIST-EXTENDED", PASS }, { "LIST-STATUS", PASS }, { "LIST-MYRIGHTS", PASS }, { "LIST-METADATA", PASS },
	{ "SPECIAL-USE", PASS }, { "CREATE-SPECIAL-USE", PASS }, { "STATUS=SIZE", PASS }, { "SAVEDATE", PASS },
	{ "OBJECTID", PASS }, { "PREVIEW", PASS }, { "PREVIEW=FUZZY", PASS }, { "SNIPPET=FUZZY", PASS },
	{ "SEARCH=FUZZY", PASS }, { "I18NLEVEL=1", PASS }, { "METADATA", PASS }, { "METADATA-SERVER", PASS },
	{ "QUOTA", PASS }, { "QUOTASET", PASS }, { "QUOTA=RES-STORAGE", PASS }, { "QUOTA=RES-MESSAGE", PASS },
	{ "QUOTA=RES-MAILBOX", PASS }, { "ACL", PASS },
	{ "UTF8=ACCEPT", HOP },		/* its APPEND, UTF8 (~{n} ...), is not parsed (RFC 6855 section 4) */
	{ "AUTH=PLAIN", AUTHMECH }, { "AUTH=LOGIN", AUTHMECH }, { "AUTH=XOAUTH2", AUTHMECH },
	{ "AUTH=OAUTHBEARER", AUTHMECH }, { "AUTH=CRAM-MD5", RELAYED }, { "AUTH=SCRAM-SHA-1", RELAYED },
	{ "AUTH=SCRAM-SHA-256", RELAYED },
	{ "ID", OURS }, { "SASL-IR", OURS }, { "LITERAL+", OURS }, { "LITERAL-", HOP }, { "LOGINDISABLED", HOP },
	{ "APPENDLIMIT", NUMBER }, { "RIGHTS", RIGHTS },
};
enum { NAMES = sizeof(table) / sizeof(table[0]) };
_Static_assert(NAMES <= 64, "a bit each");

static uint64_t
bit(struct bytes name)
{
	for (size_t i = 0; i < NAMES; i++)
		if (bytes_caseeq(name, bytes_str(table[i].name)))
			return (UINT64_C(1) << i);
	return (0);
}

uint64_t
caps_parse(struct bytes list, struct caps_imap4 *c)
{
	uint64_t bits = 0, n;

	while (list.n > 0) {
		struct bytes w = bytes_token(&list, ' ');

		if (bytes_casestart(w, BYTES("APPENDLIMIT=")) && bytes_num(bytes_cut(w, 12), 0, INT64_MAX, &n) == 0) {
			c->append_limit = n;
			bits |= bit(BYTES("APPENDLIMIT"));
		} else if (bytes_casestart(w, BYTES("RIGHTS=")) && w.n - 7 < sizeof(c->rights)) {
			bytes_text(bytes_cut(w, 7), c->rights, sizeof(c->rights));
			bits |= bit(BYTES("RIGHTS"));
		} else
			bits |= bit(w);
	}
	return (bits);
}

static struct caps_imap4
offer(const struct turn *t)
{
	struct caps_imap4 c;

	memcpy(&c, t->offer, sizeof(c));
	return (c);
}

void
caps_line(const struct turn *t, struct out *o)
{
	bool before = P(t)->phase == NOTAUTH;
	struct caps_imap4 c = before ? offer(t) : P(t)->caps;
	uint64_t have = before ? c.pre : c.cap;

	out_str(o, "CAPABILITY IMAP4rev1");
	for (size_t i = 1; i < NAMES; i++) {
		bool has = (have & UINT64_C(1) << i) != 0;

		if ((table[i].kind == RELAYED && before && has && imap4_has_master(t)) ||
		    (table[i].kind == PASS && has) || table[i].kind == OURS ||
		    (table[i].kind == AUTHMECH && before && has && t->peer->auth_ok))
			out_fmt(o, " %s", table[i].name);
		else if (table[i].kind == NUMBER && has)
			out_fmt(o, " %s=%llu", table[i].name, (unsigned long long)c.append_limit);
		else if (table[i].kind == RIGHTS && has)
			out_fmt(o, " %s=%s", table[i].name, c.rights);
	}
	if (before && external_ok(t))
		out_str(o, " AUTH=EXTERNAL");
	if (before && t->peer->starttls)
		out_str(o, " STARTTLS");
	if (before && !t->peer->auth_ok)
		out_str(o, " LOGINDISABLED");
}

void
caps_show(const struct caps *caps, char *dst, size_t size)
{
	struct out o = { (uint8_t *)dst, 0, size - 1, false };
	struct caps_imap4 c;

	memcpy(&c, caps, sizeof(c));
	for (size_t i = 0; i < NAMES; i++)
		if ((c.pre | c.cap) & UINT64_C(1) << i && table[i].kind != HOP)
			out_fmt(&o, "%s%s", o.len > 0 ? " " : "", table[i].name);
	if (!c.post)
		out_str(&o, " (rest not known before the first login)");
	dst[o.len] = '\0';
}

static void
meet_post(struct caps_imap4 *a, const struct caps_imap4 *b)
{
	uint64_t limit = bit(BYTES("APPENDLIMIT"));

	/* one that says no limit has none */
	if ((b->cap & limit) != 0 && ((a->cap & limit) == 0 || b->append_limit < a->append_limit)) {
		a->append_limit = b->append_limit;
		a->cap |= limit;
	}
	if (strcmp(a->rights, b->rights) != 0)
		a->cap &= ~bit(BYTES("RIGHTS"));
	a->cap &= b->cap | limit;
}

void
caps_meet(struct caps *caps, const struct caps *other)
{
	struct caps_imap4 a, b;

	memcpy(&a, caps, sizeof(a));
	memcpy(&b, other, sizeof(b));
	a.pre &= b.pre;
	if (a.post && b.post)
		meet_post(&a, &b);
	else if (b.post) {
		a.post = 1;
		a.cap = b.cap;
		a.append_limit = b.append_limit;
		memcpy(a.rights, b.rights, sizeof(a.rights));
	}
	memcpy(caps, &a, sizeof(a));
}

void
caps_learn(struct caps *known, const struct caps *news)
{
	struct caps_imap4 a, b;

	memcpy(&a, known, sizeof(a));
	memcpy(&b, news, sizeof(b));
	if (!b.post && a.known && a.post) {	/* a probe does not log in: it says nothing of what comes after */
		b.post = 1;
		b.cap = a.cap;
		b.append_limit = a.append_limit;
		memcpy(b.rights, a.rights, sizeof(b.rights));
	} else if (b.post && b.pre == 0)
		b.pre = a.pre;
	b.known = 1;
	memcpy(known, &b, sizeof(b));
}

bool
caps_has(const struct turn *t, const char *name)
{
	return ((H(t)->caps & bit(bytes_str(name))) != 0);
}

bool
caps_lacks(const struct turn *t)
{
	uint64_t less = P(t)->caps.cap & ~H(t)->caps;

	/* no limit told is none, which is not less; what is the gateway's, or not shown, was not promised */
	for (size_t i = 0; i < NAMES; i++)
		if ((table[i].kind == PASS || table[i].kind == RIGHTS) && less & UINT64_C(1) << i)
			return (true);
	return (false);
}

bool
caps_offered(const struct turn *t, struct bytes name)
{
	uint64_t have = P(t)->phase == NOTAUTH ? offer(t).pre : P(t)->caps.cap;

	for (size_t i = 0; i < NAMES; i++)
		if (table[i].kind != HOP && bytes_caseeq(name, bytes_str(table[i].name)))
			return ((have & UINT64_C(1) << i) != 0);
	return (false);
}
