/* arena - growing memory of a behaviour, addressed by offsets; promises never to pass its limit (behaviour.h) */
#include "workers/behaviour.h"

static uint32_t
begin(const struct arena *a)
{
	return (a->len > a->floor ? a->len : a->floor);
}

static uint32_t
take(struct arena *a, uint32_t at, uint32_t n)
{
	if (at > a->cap || n > a->cap - at)
		return (UINT32_MAX);
	a->len = at + n;
	return (at);
}

uint32_t
arena_add(struct arena *a, uint32_t n)
{
	uint32_t at = take(a, (begin(a) + 7u) & ~7u, n);

	if (at != UINT32_MAX)
		memset(a->p + at, 0, n);
	return (at);
}

void
arena_clear(struct arena *a, uint32_t at, uint32_t n)
{
	static const uint8_t zeros[4096];

	for (uint32_t part; n > 0; at += part, n -= part) {
		part = n < sizeof(zeros) ? n : (uint32_t)sizeof(zeros);
		if (memcmp(a->p + at, zeros, part) != 0)
			memset(a->p + at, 0, part);
	}
}

uint32_t
arena_put(struct arena *a, struct bytes b)
{
	uint32_t at = b.n > UINT32_MAX / 2 ? UINT32_MAX : take(a, begin(a), (uint32_t)b.n);

	if (at != UINT32_MAX && b.n > 0)
		memcpy(a->p + at, b.p, b.n);
	return (at);
}
