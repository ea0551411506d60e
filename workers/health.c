/* health - see health.h; pure */
#include "workers/health.h"

static const char *const name[] = { [HEALTH_UNKNOWN] = "unknown", [HEALTH_UP] = "up", [HEALTH_DOWN] = "down" };

const char *
health_name(enum health_state s)
{
	return (name[s]);
}

static bool
enter(struct health *h, enum health_state s, uint64_t now)
{
	if (h->state == s)
		return (false);
	h->state = s;
	h->since_ms = now;
	return (true);
}

bool
health_probe(struct health *h, bool good, uint32_t fall, uint32_t rise, uint64_t now)
{
	if (good) {
		h->good++;
		h->bad = h->reports = 0;
		if (h->state == HEALTH_UNKNOWN || h->good >= rise)
			return (enter(h, HEALTH_UP, now));
		return (false);
	}
	h->bad++;
	h->good = 0;
	return (h->state == HEALTH_UNKNOWN || h->bad >= fall ? enter(h, HEALTH_DOWN, now) : false);
}

static bool
heard(struct health *h, uint64_t by)
{
	for (uint32_t i = 0; i < h->reports && i < HEALTH_BY; i++)
		if (h->by[i] == by)
			return (true);
	h->by[h->reports % HEALTH_BY] = by;
	return (false);
}

bool
health_report(struct health *h, uint64_t by, uint32_t fall, uint64_t now)
{
	h->next_probe_ms = now;
	h->good = 0;
	if (heard(h, by) && by != 0)
		return (false);
	return (++h->reports >= fall && h->state == HEALTH_UP ? enter(h, HEALTH_DOWN, now) : false);
}
