/* rows - see rows.h; pure */
#include "workers/rows.h"

void
row_begin(struct row *r)
{
	r->o = (struct out){ r->space, 0, sizeof(r->space) - 2, false };
	r->first = true;
	out_str(&r->o, "{");
}

static void
key(struct row *r, const char *k)
{
	out_fmt(&r->o, "%s\"%s\":", r->first ? "" : ",", k);
}

/* A pair is whole, or it was never there. */
static void
pair_end(struct row *r, size_t mark)
{
	if (r->o.full)
		r->o.len = mark;
	else
		r->first = false;
	r->o.full = false;
}

void
row_str(struct row *r, const char *k, const char *v)
{
	size_t mark = r->o.len;

	key(r, k);
	out_str(&r->o, "\"");
	for (; *v != '\0'; v++) {
		unsigned char c = (unsigned char)*v;

		if (c == '"' || c == '\\')
			out_fmt(&r->o, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			out_fmt(&r->o, "\\u%04x", c);
		else
			out_put(&r->o, bytes(&c, 1));
	}
	out_str(&r->o, "\"");
	pair_end(r, mark);
}

void
row_num(struct row *r, const char *k, uint64_t v)
{
	size_t mark = r->o.len;

	key(r, k);
	out_fmt(&r->o, "%llu", (unsigned long long)v);
	pair_end(r, mark);
}

void
row_bool(struct row *r, const char *k, bool v)
{
	size_t mark = r->o.len;

	key(r, k);
	out_str(&r->o, v ? "true" : "false");
	pair_end(r, mark);
}

void
row_end(struct row *r)
{
	r->o.cap = sizeof(r->space);
	out_str(&r->o, "}");
}

struct bytes
row_bytes(const struct row *r)
{
	return (bytes(r->o.p, r->o.len));
}
