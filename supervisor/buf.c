/* buf - see buf.h; touches nothing but the memory it is given */
#include <stdio.h>
#include <strings.h>

#include "supervisor/buf.h"

struct bytes
bytes_str(const char *s)
{
	return (bytes(s, strlen(s)));
}

struct bytes
bytes_cut(struct bytes b, size_t off)
{
	if (off > b.n)
		off = b.n;
	return (bytes(b.p + off, b.n - off));
}

bool
bytes_eq(struct bytes a, struct bytes b)
{
	return (a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0));
}

static uint8_t
lower(uint8_t c)
{
	return (c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c);
}

bool
bytes_casestart(struct bytes b, struct bytes prefix)
{
	if (b.n < prefix.n)
		return (false);
	for (size_t i = 0; i < prefix.n; i++)
		if (lower(b.p[i]) != lower(prefix.p[i]))
			return (false);
	return (true);
}

bool
bytes_caseeq(struct bytes a, struct bytes b)
{
	return (a.n == b.n && bytes_casestart(a, b));
}

struct bytes
bytes_token(struct bytes *rest, uint8_t c)
{
	const uint8_t *at = rest->n > 0 ? memchr(rest->p, c, rest->n) : NULL;
	struct bytes t = bytes(rest->p, at == NULL ? rest->n : (size_t)(at - rest->p));

	*rest = bytes_cut(*rest, at == NULL ? rest->n : t.n + 1);
	return (t);
}

uint64_t
bytes_hash(struct bytes b)
{
	uint64_t h = 1469598103934665603u;

	for (size_t i = 0; i < b.n; i++)
		h = (h ^ b.p[i]) * 1099511628211u;
	return (h != 0 ? h : 1);
}

int
bytes_num(struct bytes b, uint64_t min, uint64_t max, uint64_t *n)
{
	uint64_t v = 0;

	if (b.n == 0 || b.n > 19)
		return (-1);
	for (size_t i = 0; i < b.n; i++) {
		if (b.p[i] < '0' || b.p[i] > '9')
			return (-1);
		v = v * 10 + (uint64_t)(b.p[i] - '0');
	}
	if (v < min || v > max)
		return (-1);
	*n = v;
	return (0);
}

void
bytes_text(struct bytes b, char *dst, size_t size)
{
	size_t i;

	for (i = 0; i < b.n && i + 1 < size; i++)
		dst[i] = b.p[i] < 0x20 || b.p[i] >= 0x7f ? '?' : (char)b.p[i];
	if (size > 0)
		dst[i] = '\0';
}

bool
out_put(struct out *o, struct bytes b)
{
	if (b.n > o->cap - o->len) {
		o->full = true;
		return (false);
	}
	if (b.n > 0)
		memcpy(o->p + o->len, b.p, b.n);
	o->len += b.n;
	return (true);
}

bool
out_str(struct out *o, const char *s)
{
	return (out_put(o, bytes_str(s)));
}

bool
out_fmt(struct out *o, const char *fmt, ...)
{
	char text[2048];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof(text)) {
		o->full = true;
		return (false);
	}
	return (out_put(o, bytes(text, (size_t)n)));
}

void
buf_drop(struct buf *b, size_t n)
{
	b->start = n >= buf_len(b) ? b->end : b->start + (uint32_t)n;
	if (b->start == b->end)
		b->start = b->end = 0;
}

void
buf_pack(struct buf *b)
{
	if (b->start == 0)
		return;
	memmove(b->p, b->p + b->start, buf_len(b));
	b->end -= b->start;
	b->start = 0;
}

size_t
buf_room(const struct buf *b)
{
	return (b->cap - b->end);
}
