/* choose - fewest sessions for the weight; limits, drains, avoidance, slow start; and what makes a backend up or down */
/* LINK: workers/choose.c workers/health.c */
#include "t/lib/tap.h"
#include "workers/choose.h"
#include "workers/health.h"

#define UP(s, m, w) { .usable = true, .sessions = (s), .max_sessions = (m), .weight = (w), .up_ms = 1000000 }

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
	ok(!health_report(&h, 2, 7000) && h.next_probe_ms <= 7000, "a session's report asks for a probe now");
	ok(health_report(&h, 2, 7001) && h.state == HEALTH_DOWN, "and the second takes it down");
	return (done_testing());
}
