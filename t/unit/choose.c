/* choose - fewest sessions for the weight; limits, drains, avoidance, slow start; and what makes a backend up or down */
/* LINK: workers/choose.c workers/health.c */
#include <stdlib.h>

#include "t/lib/tap.h"
#include "workers/choose.h"
#include "workers/health.h"

#define UP(s, m, w) { .usable = true, .sessions = (s), .max_sessions = (m), .weight = (w), .up_ms = 1000000 }

/* One only may be chosen: it is found at any turn, where the turn's number starts again too. */
static void
turns(void)
{
	struct candidate c[5] = { UP(0, 0, 1), UP(0, 0, 1), UP(0, 0, 1), UP(0, 0, 1), UP(0, 0, 1) };
	int bad = 0;

	for (uint32_t t = UINT32_MAX - 20; t != 20; t++)
		for (int32_t i = 0; i < 5; i++)
			bad += choose(c, 5, ~(UINT64_C(1) << i), t) != i;
	ok(bad == 0, "the only one is found at every turn, of a turn that wraps too");
}

/* Slowly: no other usable one has less load, counted in rational numbers. */
static bool
fair(const struct candidate *c, uint32_t n, uint64_t avoid, int32_t got)
{
	double least = 1e300, mine = 1e300;

	for (uint32_t i = 0; i < n; i++) {
		double up = c[i].up_ms < SLOW_START_MS ? (double)c[i].up_ms / SLOW_START_MS : 1.;
		double load = (c[i].sessions + 1.) / (c[i].weight > 0 ? c[i].weight : 1) * (2. - up);

		if (!c[i].usable || (avoid >> (i % 64) & 1) != 0 || (c[i].max_sessions != 0 && c[i].sessions >= c[i].max_sessions)) {
			if ((int32_t)i == got)
				return (false);
			continue;
		}
		if (load < least)
			least = load;
		if ((int32_t)i == got)
			mine = load;
	}
	/* thousandths are kept, rounded down twice */
	return (got == -1 ? least > 1e299 : mine <= least + .003);
}

static void
random_ones(void)
{
	struct candidate c[70];
	int bad = 0, none = 0, rounds = 20000;

	for (int r = 0; r < rounds; r++) {
		uint32_t n = (uint32_t)(rand() % 70) + 1;
		uint64_t avoid = rand() % 3 == 0 ? (uint64_t)rand() << 32 | (uint64_t)rand() : 0;
		int32_t got;

		for (uint32_t i = 0; i < n; i++)
			c[i] = (struct candidate){ .usable = rand() % 4 != 0, .sessions = (uint32_t)(rand() % 50),
			    .max_sessions = rand() % 3 == 0 ? (uint32_t)(rand() % 50) : 0, .weight = (uint32_t)(rand() % 10),
			    .up_ms = (uint64_t)(rand() % 20000) };
		got = choose(c, n, avoid, (uint32_t)rand());
		bad += !fair(c, n, avoid, got);
		none += got == -1;
	}
	ok(bad == 0, "%d random choices as the model's (%d without one)", rounds, none);
}

int
main(void)
{
	struct candidate even[3] = { UP(2, 0, 1), UP(1, 0, 1), UP(2, 0, 1) }, weighted[2] = { UP(5, 0, 3), UP(2, 0, 1) };
	struct candidate full[2] = { UP(3, 3, 1), UP(9, 0, 1) }, equal[3] = { UP(4, 0, 1), UP(4, 0, 1), UP(4, 0, 1) };
	struct candidate none[2] = { UP(0, 0, 1), UP(0, 0, 1) }, fresh[2] = { UP(50, 0, 1), UP(0, 0, 1) };
	struct health h = { 0 };
	uint32_t seen = 0, to_fresh = 0;

	ok(choose(even, 3, 0, 0) == 1, "the one with the fewest sessions");
	ok(choose(weighted, 2, 0, 0) == 0, "for its weight");
	ok(choose(full, 2, 0, 0) == 1, "not one at its limit");
	ok(choose(even, 3, 2, 0) != 1, "not one that is to be avoided");
	ok(choose(even, 3, 7, 0) == -1, "none when all are");
	none[0].usable = none[1].usable = false;
	ok(choose(none, 2, 0, 0) == -1 && choose(none, 0, 0, 0) == -1, "none when none is up");
	for (uint32_t turn = 0; turn < 3; turn++)
		seen |= 1u << choose(equal, 3, 0, turn);
	ok(seen == 7, "equal ones take turns");
	fresh[1].up_ms = 100;
	for (uint32_t turn = 0; turn < 100; turn++) {
		int32_t c = choose(fresh, 2, 0, turn);

		to_fresh += c == 1;
		fresh[c].sessions++;
	}
	ok(to_fresh < 100 && to_fresh > 0, "one that has just come up is not flooded (%u of 100)", to_fresh);

	ok(health_probe(&h, true, 3, 2, 1000) && h.state == HEALTH_UP, "a first good probe: up at once");
	ok(!health_probe(&h, false, 3, 2, 2000) && !health_probe(&h, false, 3, 2, 3000) && h.state == HEALTH_UP,
	    "two failures of three: still up");
	ok(health_probe(&h, false, 3, 2, 4000) && h.state == HEALTH_DOWN, "the third: down");
	ok(!health_probe(&h, true, 3, 2, 5000) && h.state == HEALTH_DOWN, "one success of two: still down");
	ok(health_probe(&h, true, 3, 2, 6000) && h.state == HEALTH_UP, "the second: up");
	ok(!health_report(&h, 0, 2, 7000) && h.next_probe_ms <= 7000, "a session's report asks for a probe now");
	ok(health_report(&h, 0, 2, 7001) && h.state == HEALTH_DOWN, "and the second takes it down");
	turns();
	random_ones();
	return (done_testing());
}
