/* intensity - see intensity.h; pure */
#include "supervisor/intensity.h"

uint32_t
intensity_count(const struct intensity *r, uint32_t period_s, uint64_t now_s)
{
	uint32_t in = 0;

	for (uint32_t i = 0; i < r->n; i++)
		if (now_s - r->t[i] <= period_s)
			in++;
	return (in);
}

bool
intensity_add(struct intensity *r, uint32_t limit, uint32_t period_s, uint64_t now_s)
{
	if (limit > INTENSITY_MAX)
		limit = INTENSITY_MAX;
	r->t[r->next] = now_s;
	r->next = (r->next + 1) % (INTENSITY_MAX + 1);
	if (r->n <= INTENSITY_MAX)
		r->n++;
	return (intensity_count(r, period_s, now_s) > limit);
}

void
intensity_clear(struct intensity *r)
{
	r->n = r->next = 0;
}
