/* choose - see choose.h; pure */
#include "workers/choose.h"

/* Sessions for a unit of weight, in thousandths. One that has just come back counts as fuller than it is. */
static uint64_t
load(const struct candidate *c)
{
	uint64_t l = ((uint64_t)c->sessions + 1) * 1000 / (c->weight > 0 ? c->weight : 1);

	if (c->up_ms < SLOW_START_MS)
		l += l * (SLOW_START_MS - c->up_ms) / SLOW_START_MS;
	return (l);
}

int32_t
choose(const struct candidate *c, uint32_t n, uint64_t avoid, uint32_t turn)
{
	int32_t best = -1;
	uint64_t least = 0;

	for (uint32_t k = 0; k < n; k++) {
		uint32_t i = (k + turn % n) % n;	/* k + turn alone would skip some where it wraps */

		if (!c[i].usable || (avoid & (UINT64_C(1) << (i % 64))) != 0 ||
		    (c[i].max_sessions != 0 && c[i].sessions >= c[i].max_sessions))
			continue;
		if (best == -1 || load(&c[i]) < least) {
			best = (int32_t)i;
			least = load(&c[i]);
		}
	}
	return (best);
}
