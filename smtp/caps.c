/*
 * caps - what backends can do, and what the client is told (protocols.md 4.1); pure
 *
 * A keyword is offered when every backend has it and the gateway parses what it brings; ENHANCEDSTATUSCODES and
 * PIPELINING are the gateway's own.
 */
#include "smtp/smtp.h"

static const struct { const char *name; uint32_t bit; } keywords[] = {
	{ "PIPELINING", CAP_PIPELINING }, { "SIZE", CAP_SIZE }, { "8BITMIME", CAP_8BITMIME }, { "SMTPUTF8", CAP_SMTPUTF8 },
	{ "DSN", CAP_DSN }, { "ENHANCEDSTATUSCODES", CAP_ENHANCED }, { "CHUNKING", CAP_CHUNKING },
	{ "BINARYMIME", CAP_BINARYMIME }, { "XCLIENT", CAP_XCLIENT },
	{ "STARTTLS", CAP_STARTTLS },
}, mechanisms[] = {
	{ "PLAIN", CAP_AUTH_PLAIN }, { "LOGIN", CAP_AUTH_LOGIN }, { "XOAUTH2", CAP_AUTH_XOAUTH2 },
	{ "OAUTHBEARER", CAP_AUTH_OAUTHBEARER }, { "CRAM-MD5", CAP_AUTH_CRAM_MD5 }, { "SCRAM-SHA-1", CAP_AUTH_SCRAM_SHA_1 },
	{ "SCRAM-SHA-256", CAP_AUTH_SCRAM_SHA_256 },
}, attributes[] = {
	{ "NAME", XC_NAME }, { "ADDR", XC_ADDR }, { "PORT", XC_PORT }, { "PROTO", XC_PROTO }, { "HELO", XC_HELO },
	{ "DESTADDR", XC_DESTADDR }, { "DESTPORT", XC_DESTPORT },
};

#define N(a) (sizeof(a) / sizeof((a)[0]))

void
smtp_learn(struct have *h, struct bytes line)
{
	struct bytes word = bytes_token(&line, ' ');
	uint64_t size;

	/* "AUTH=LOGIN" is what servers said before RFC 2554; some still do */
	if (bytes_casestart(word, BYTES("AUTH="))) {
		line = bytes_cut(word, 5);
		word = BYTES("AUTH");
	}
	for (size_t i = 0; i < N(keywords); i++)
		if (bytes_caseeq(word, bytes_str(keywords[i].name)))
			h->caps |= keywords[i].bit;
	if (bytes_caseeq(word, BYTES("SIZE")) && bytes_num(line, 0, UINT64_MAX / 2, &size) == 0)
		h->size = size;
	while (bytes_caseeq(word, BYTES("AUTH")) && line.n > 0) {
		struct bytes m = bytes_token(&line, ' ');

		for (size_t i = 0; i < N(mechanisms); i++)
			if (bytes_caseeq(m, bytes_str(mechanisms[i].name)))
				h->caps |= mechanisms[i].bit;
	}
	while (bytes_caseeq(word, BYTES("XCLIENT")) && line.n > 0) {
		struct bytes a = bytes_token(&line, ' ');

		for (size_t i = 0; i < N(attributes); i++)
			if (bytes_caseeq(a, bytes_str(attributes[i].name)))
				h->xattrs |= attributes[i].bit;
	}
	if ((h->xattrs & XC_ADDR) == 0)		/* the client's address cannot be told with it */
		h->caps &= ~(uint32_t)CAP_XCLIENT;
}

void
smtp_caps_meet(struct caps *c, const struct caps *other)
{
	struct caps_smtp a, b;

	memcpy(&a, c, sizeof(a));
	memcpy(&b, other, sizeof(b));
	a.bits &= b.bits;
	if (a.size == 0 || (b.size != 0 && b.size < a.size))
		a.size = b.size;
	memcpy(c, &a, sizeof(a));
}

struct caps_smtp
smtp_offer(const struct turn *t)
{
	struct caps_smtp a;

	memcpy(&a, t->offer, sizeof(a));
	if (!t->peer->auth_ok)
		a.bits &= ~(uint32_t)CAP_AUTH_ANY;
	if (t->master == NULL || t->master->user[0] == '\0')
		a.bits &= ~(uint32_t)CAP_AUTH_RELAYED;
	if (a.bits & CAP_AUTH_PLAIN)		/* made of PLAIN here: old clients know nothing else */
		a.bits |= CAP_AUTH_LOGIN;
	if ((a.bits & CAP_CHUNKING) == 0)
		a.bits &= ~(uint32_t)CAP_BINARYMIME;
	if ((a.bits & CAP_8BITMIME) == 0)	/* which it requires (RFC 6531 section 3.1) */
		a.bits &= ~(uint32_t)CAP_SMTPUTF8;
	return (a);
}

uint64_t
smtp_size_limit(const struct turn *t)
{
	uint64_t theirs = smtp_offer(t).size, ours = t->limits->message;

	return (ours == 0 || (theirs != 0 && theirs < ours) ? theirs : ours);
}

uint64_t
smtp_size(const struct turn *t)
{
	return (t->spool->len + t->content->len - (P(t)->bdat ? 0 : P(t)->doubled));
}

bool
smtp_too_big(const struct turn *t)
{
	uint64_t theirs = smtp_offer(t).size, ours = t->limits->message, size = smtp_size(t);

	return ((ours != 0 && size - P(t)->trace > ours) || (theirs != 0 && size > theirs));
}

void
smtp_offer_lines(struct turn *t)
{
	struct caps_smtp a = smtp_offer(t);
	uint64_t limit = smtp_size_limit(t);

	out_fmt(t->client, "250-%s\r\n250-PIPELINING\r\n", t->peer->banner);
	if (a.bits & CAP_SIZE)
		out_fmt(t->client, "250-SIZE %llu\r\n", (unsigned long long)limit);
	if (t->peer->starttls)
		out_str(t->client, "250-STARTTLS\r\n");
	if (a.bits & (CAP_AUTH_ANY | CAP_AUTH_RELAYED)) {
		out_str(t->client, "250-AUTH");
		if (external_ok(t))
			out_str(t->client, " EXTERNAL");
		for (size_t i = 0; i < N(mechanisms); i++)
			if (a.bits & mechanisms[i].bit)
				out_fmt(t->client, " %s", mechanisms[i].name);
		out_str(t->client, "\r\n");
	}
	for (size_t i = 0; i < N(keywords); i++)
		if (a.bits & keywords[i].bit & (CAP_8BITMIME | CAP_SMTPUTF8 | CAP_DSN | CAP_CHUNKING | CAP_BINARYMIME))
			out_fmt(t->client, "250-%s\r\n", keywords[i].name);
	out_str(t->client, "250 ENHANCEDSTATUSCODES\r\n");
}

void
smtp_caps_show(const struct caps *c, char *dst, size_t size)
{
	struct out o = { (uint8_t *)dst, 0, size - 1, false };
	struct caps_smtp a;

	memcpy(&a, c, sizeof(a));
	for (size_t i = 0; i < N(keywords); i++) {
		if ((a.bits & keywords[i].bit) == 0)
			continue;
		out_fmt(&o, "%s%s", o.len > 0 ? ", " : "", keywords[i].name);
		if (keywords[i].bit == CAP_SIZE)
			out_fmt(&o, " %llu", (unsigned long long)a.size);
	}
	for (size_t i = 0; i < N(mechanisms); i++)
		if (a.bits & mechanisms[i].bit)
			out_fmt(&o, "%sAUTH %s", o.len > 0 ? ", " : "", mechanisms[i].name);
	dst[o.len] = '\0';
}
