/* set - see set.h; pure */
#include "imap4/set.h"

static uint64_t
end(const struct range *r)
{
	return ((uint64_t)r->lo + r->n);
}

/* The first range that ends behind num. */
static uint32_t
find(const struct range *r, uint32_t count, uint64_t num)
{
	uint32_t lo = 0, hi = count;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (end(&r[mid]) > num)
			hi = mid;
		else
			lo = mid + 1;
	}
	return (lo);
}

bool
set_has(const struct range *r, uint32_t count, uint32_t num)
{
	uint32_t i = find(r, count, num);

	return (i < count && r[i].lo <= num);
}

bool
set_add(struct range *r, uint32_t *count, uint32_t max, uint32_t lo, uint32_t n)
{
	uint64_t a = lo, b = a + n;
	uint32_t i, k;

	if (n == 0)
		return (true);
	if (*count > 0 && end(&r[*count - 1]) < a)
		i = *count;		/* usual: behind all */
	else
		i = a > 0 ? find(r, *count, a - 1) : 0;
	for (k = i; k < *count && r[k].lo <= b; k++) {
		a = r[k].lo < a ? r[k].lo : a;
		b = end(&r[k]) > b ? end(&r[k]) : b;
	}
	if (k == i && *count == max)
		return (false);
	memmove(&r[i + 1], &r[k], (*count - k) * sizeof(*r));
	r[i] = (struct range){ (uint32_t)a, (uint32_t)(b - a) };
	*count = *count - (k - i) + 1;
	return (true);
}

/* Takes [a, b) away. */
static bool
cut(struct range *r, uint32_t *count, uint32_t max, uint64_t a, uint64_t b)
{
	uint32_t i = find(r, *count, a), k;

	if (i < *count && r[i].lo < a && end(&r[i]) > b) {
		uint64_t e = end(&r[i]);

		if (*count == max)
			return (false);
		memmove(&r[i + 1], &r[i], (*count - i) * sizeof(*r));
		r[i].n = (uint32_t)(a - r[i].lo);
		r[i + 1] = (struct range){ (uint32_t)b, (uint32_t)(e - b) };
		++*count;
		return (true);
	}
	if (i < *count && r[i].lo < a)
		r[i].n = (uint32_t)(a - r[i].lo), i++;
	for (k = i; k < *count && end(&r[k]) <= b; k++)
		;
	if (k < *count && r[k].lo < b) {
		r[k].n = (uint32_t)(end(&r[k]) - b);
		r[k].lo = (uint32_t)b;
	}
	memmove(&r[i], &r[k], (*count - k) * sizeof(*r));
	*count -= k - i;
	return (true);
}

bool
set_subtract(struct range *r, uint32_t *count, uint32_t max, const struct range *b, uint32_t nb)
{
	for (uint32_t i = 0; i < nb; i++)
		if (!cut(r, count, max, b[i].lo, end(&b[i])))
			return (false);
	return (true);
}

uint64_t
set_size(const struct range *r, uint32_t count)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < count; i++)
		n += r[i].n;
	return (n);
}

int
setwalk_step(struct setwalk *w, uint8_t c, struct range *r)
{
	if (c >= '0' && c <= '9') {
		if (w->star || ++w->digits > 10)
			return (-1);
		w->a = w->a * 10 + (uint64_t)(c - '0');
		return (w->a > UINT32_MAX ? -1 : 0);
	}
	if (w->digits == 0 || w->a == 0)
		return (-1);
	if (c == ':' && !w->colon) {
		w->colon = 1;
		w->b = w->a;
		w->a = 0;
		w->digits = 0;
		return (0);
	}
	if (c != ',')
		return (-1);
	if (!w->colon)
		w->b = w->a;
	*r = w->a < w->b ? (struct range){ (uint32_t)w->a, (uint32_t)(w->b - w->a + 1) } :
	    (struct range){ (uint32_t)w->b, (uint32_t)(w->a - w->b + 1) };
	*w = (struct setwalk){ 0 };
	return (1);
}

bool
set_parse(struct bytes text, uint32_t star, struct range *r, uint32_t *count, uint32_t max)
{
	struct setwalk w = { 0 };
	struct range one;

	*count = 0;
	if (text.n == 0)
		return (false);
	for (size_t i = 0; i <= text.n; i++) {
		uint8_t c = i < text.n ? text.p[i] : ',';
		int k;

		if (c == '*') {
			if (w.digits != 0 || star == 0)
				return (false);
			w.a = star;
			w.digits = 11;		/* no digit may follow */
			continue;
		}
		if ((k = setwalk_step(&w, c, &one)) == -1)
			return (false);
		if (k == 1 && !set_add(r, count, max, one.lo, one.n))
			return (false);
	}
	return (true);
}

bool
set_print(struct out *o, const struct range *r, uint32_t count)
{
	bool good = true;

	for (uint32_t i = 0; i < count && good; i++)
		good = r[i].n == 1 ? out_fmt(o, "%s%u", i > 0 ? "," : "", r[i].lo) :
		    out_fmt(o, "%s%u:%u", i > 0 ? "," : "", r[i].lo, r[i].lo + (r[i].n - 1));
	return (good);
}
