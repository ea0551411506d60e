/*
 * scan - message content as it comes into the one form in which it leaves; pure
 *
 * The states are those of protocols.md 4.6: only a CRLF seen on the wire may stand before the final dot, and no
 * bare CR or LF ever reaches a backend, so that nobody behind the gateway can see an end where it saw none. Output
 * is dot-stuffed again when `dots` (DATA), and is left alone when not (BDAT). A bare CR or LF sets bad and is normalised
 * all the same; the caller decides whether `bad` counts. Linear: no octet is looked at more than three times.
 */
#include "smtp/smtp.h"

enum { TEXT_LINE_MAX = 65536, HOPS_MAX = 100 };

/* Counts Received fields and finds the end of the header. */
static void
header(struct pst *p, uint8_t c)
{
	static const char name[] = "received:";

	if (p->line_len == 0)
		p->hmatch = 1;
	if (p->hmatch == 0)
		return;
	if ((c >= 'A' && c <= 'Z' ? c | 0x20 : c) != (uint8_t)name[p->hmatch - 1])
		p->hmatch = 0;
	else if (++p->hmatch == sizeof(name)) {
		p->hmatch = 0;
		if (++p->hops > HOPS_MAX)
			p->bad = BAD_LOOP;
	}
}

static void
text(struct pst *p, struct out *o, uint8_t c)
{
	if (p->in_header)
		header(p, c);
	out_put(o, bytes(&c, 1));
	if (++p->line_len > TEXT_LINE_MAX)
		p->bad = BAD_LINE;
	p->scan = SCAN_MID;
}

static void
line_end(struct pst *p, struct out *o, enum scan next)
{
	out_str(o, "\r\n");
	if (p->line_len == 0)
		p->in_header = 0;
	p->line_len = 0;
	p->scan = (uint8_t)next;
}

static void
bare(struct pst *p)
{
	if (p->bad == BAD_NONE)
		p->bad = BAD_BARE;
}

static void
after_cr(struct pst *p, struct out *o, uint8_t c)
{
	bare(p);
	text(p, o, ' ');
	if (c == '\r')
		p->scan = SCAN_CR;
	else
		text(p, o, c);
}

/* A dot more on the wire than in the message. */
static void
extra_dot(struct pst *p, struct out *o)
{
	out_str(o, ".");
	p->doubled++;
}

/* One octet; true: it was the last of the message. */
static bool
octet(struct pst *p, struct out *o, uint8_t c, bool dots)
{
	switch ((enum scan)p->scan) {
	case SCAN_BOL:
	case SCAN_BARE:
	case SCAN_MID:
		if (c == '\r')
			p->scan = SCAN_CR;
		else if (c == '\n') {
			bare(p);
			line_end(p, o, SCAN_BARE);
		} else if (c == '.' && dots && p->scan != SCAN_MID)
			p->scan = p->scan == SCAN_BOL ? SCAN_DOT : SCAN_BAREDOT;
		else
			text(p, o, c);
		return (false);
	case SCAN_CR:
		if (c == '\n')
			line_end(p, o, SCAN_BOL);
		else
			after_cr(p, o, c);
		return (false);
	case SCAN_DOT:
	case SCAN_BAREDOT:
		if (c == '\r')
			p->scan = p->scan == SCAN_DOT ? SCAN_DOTCR : SCAN_BAREDOTCR;
		else if (c == '\n') {
			bare(p);
			extra_dot(p, o);
			out_str(o, ".");
			p->line_len = 1;
			line_end(p, o, SCAN_BARE);
		} else if (c == '.') {
			extra_dot(p, o);
			text(p, o, '.');
		} else
			text(p, o, c);	/* the dot is dropped (RFC 5321 section 4.5.2) */
		return (false);
	case SCAN_DOTCR:
		if (c == '\n')
			return (true);
		after_cr(p, o, c);
		return (false);
	case SCAN_BAREDOTCR:
		if (c == '\n') {
			extra_dot(p, o);
			out_str(o, ".");
			p->line_len = 1;
			line_end(p, o, SCAN_BOL);
		} else
			after_cr(p, o, c);
		return (false);
	}
	return (false);
}

/* As many octets from i on as may leave as they are: whole lines, and a part of one. */
static size_t
plain(struct pst *p, struct bytes in, size_t i, bool dots, size_t *lf)
{
	size_t from = i, stop;
	const uint8_t *f;

	while (i < in.n && !(dots && p->scan == SCAN_BOL && in.p[i] == '.')) {
		if (*lf == SIZE_MAX || *lf < i) {
			f = memchr(in.p + i, '\n', in.n - i);
			*lf = f != NULL ? (size_t)(f - in.p) : in.n;
		}
		f = memchr(in.p + i, '\r', *lf - i);
		stop = f != NULL ? (size_t)(f - in.p) : *lf;
		p->line_len += (uint32_t)(stop - i);
		if (p->line_len > TEXT_LINE_MAX)
			p->bad = BAD_LINE;
		if (stop > i)
			p->scan = SCAN_MID;
		i = stop;
		if (f == NULL || stop + 1 != *lf || *lf == in.n)
			break;		/* a bare one, or cut here: octet by octet */
		i = *lf + 1;
		p->line_len = 0;
		p->scan = SCAN_BOL;
	}
	return (i - from);
}

size_t
smtp_scan(struct pst *p, struct bytes in, struct out *o, bool dots, bool *end)
{
	size_t i = 0, n, lf = SIZE_MAX;

	*end = false;
	while (i < in.n) {
		if (!p->in_header && (p->scan == SCAN_BOL || p->scan == SCAN_MID)) {
			n = plain(p, in, i, dots, &lf);
			out_put(o, bytes(in.p + i, n));
			i += n;
			if (i == in.n)
				break;
		}
		if (octet(p, o, in.p[i++], dots)) {
			*end = true;
			break;
		}
	}
	return (i);
}
