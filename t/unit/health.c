/* health - up by the first good probe or `rise` of them, down by `fall` bad ones or reports; every change is told once */
/* LINK: workers/health.c */
#include <stdlib.h>
#include <string.h>

#include "t/lib/tap.h"
#include "workers/health.h"

enum { FALL = 3, RISE = 2 };

static void
first(void)
{
	struct health h = { 0 };

	ok(h.state == HEALTH_UNKNOWN && strcmp(health_name(h.state), "unknown") == 0, "unknown at first");
	ok(health_probe(&h, true, FALL, RISE, 100) && h.state == HEALTH_UP && h.since_ms == 100, "one good probe: up at once");
	ok(!health_probe(&h, true, FALL, RISE, 200) && h.since_ms == 100, "another one tells nothing new");
	h = (struct health){ 0 };
	ok(health_probe(&h, false, FALL, RISE, 100) && h.state == HEALTH_DOWN, "one bad probe: down at once");
	h = (struct health){ 0 };
	ok(!health_report(&h, 0, 1, 100) && h.state == HEALTH_UNKNOWN && h.next_probe_ms == 100,
	    "a report about an unknown one asks for a probe and nothing else");
}

static void
falls_and_rises(void)
{
	struct health h = { .state = HEALTH_UP };

	ok(!health_probe(&h, false, FALL, RISE, 1) && !health_probe(&h, false, FALL, RISE, 2) && h.state == HEALTH_UP,
	    "fall - 1 bad probes: still up");
	(void)health_probe(&h, true, FALL, RISE, 3);
	ok(!health_probe(&h, false, FALL, RISE, 4) && !health_probe(&h, false, FALL, RISE, 5), "a good one between starts the count again");
	ok(health_probe(&h, false, FALL, RISE, 6) && h.state == HEALTH_DOWN && h.since_ms == 6, "fall in a row: down");
	ok(!health_probe(&h, false, FALL, RISE, 7) && h.since_ms == 6, "told once");
	ok(!health_probe(&h, true, FALL, RISE, 8) && h.state == HEALTH_DOWN, "rise - 1 good ones: still down");
	ok(!health_probe(&h, false, FALL, RISE, 9) && !health_probe(&h, true, FALL, RISE, 10), "a bad one between starts the count again");
	ok(health_probe(&h, true, FALL, RISE, 11) && h.state == HEALTH_UP && h.since_ms == 11, "rise in a row: up");
}

static void
reports(void)
{
	struct health h = { .state = HEALTH_UP, .next_probe_ms = 9000, .good = 5 };

	ok(!health_report(&h, 0, FALL, 50) && h.next_probe_ms == 50, "a report: a probe at once");
	ok(!health_report(&h, 0, FALL, 51), "fall - 1 reports: still up");
	(void)health_probe(&h, true, FALL, RISE, 52);
	ok(h.reports == 0 && !health_report(&h, 0, FALL, 53) && !health_report(&h, 0, FALL, 54), "a good probe between forgets them");
	ok(health_report(&h, 0, FALL, 55) && h.state == HEALTH_DOWN, "fall reports: down");
	ok(!health_report(&h, 0, FALL, 56), "told once");
	(void)health_probe(&h, true, FALL, RISE, 57);
	(void)health_report(&h, 0, FALL, 58);
	ok(!health_probe(&h, true, FALL, RISE, 59) && health_probe(&h, true, FALL, RISE, 60),
	    "a report between good probes starts their count again");
}

static void
one_user(void)
{
	struct health h = { .state = HEALTH_UP };

	for (int i = 0; i < 20; i++)
		if (health_report(&h, 77, FALL, 10))
			break;
	ok(h.state == HEALTH_UP && h.reports == 1, "twenty reports by one user are one");
	ok(!health_report(&h, 78, FALL, 11) && health_report(&h, 79, FALL, 12), "those of others count");
	h = (struct health){ .state = HEALTH_UP };
	(void)health_report(&h, 77, FALL, 10);
	(void)health_probe(&h, true, FALL, RISE, 11);
	(void)health_report(&h, 77, FALL, 12);
	ok(h.reports == 1, "and his next one after a good probe");
	h = (struct health){ .state = HEALTH_UP };
	for (uint64_t i = 1; i < 2 * HEALTH_BY; i++)
		(void)health_report(&h, i, 2 * HEALTH_BY, 10);
	ok(h.state == HEALTH_UP && health_report(&h, 500, 2 * HEALTH_BY, 11), "more users than are remembered");
	(void)health_probe(&h, true, FALL, 1, 12);
	for (uint64_t i = 1; i <= HEALTH_BY + 40; i++)
		(void)health_report(&h, i <= HEALTH_BY ? i : 500, HEALTH_BY + 20, 13);
	ok(h.state == HEALTH_UP && h.reports == HEALTH_BY + 1, "behind so many, one user counts once, too");
}

/* Random events: a change is told exactly when the state is another, and needs what the header says. */
static void
random_ones(void)
{
	int bad = 0;

	for (int r = 0; r < 2000; r++) {
		struct health h = { 0 };
		uint32_t fall = (uint32_t)(rand() % 4) + 1, rise = (uint32_t)(rand() % 4) + 1, good = 0, fails = 0, told = 0;

		for (uint64_t t = 1; t < 60; t++) {
			enum health_state was = h.state, want = was;
			bool changed;

			switch (rand() % 3) {
			case 0:
				good++, fails = told = 0;
				if (was == HEALTH_UNKNOWN || good >= rise)
					want = HEALTH_UP;
				changed = health_probe(&h, true, fall, rise, t);
				break;
			case 1:
				fails++, good = 0;
				if (was == HEALTH_UNKNOWN || fails >= fall)
					want = HEALTH_DOWN;
				changed = health_probe(&h, false, fall, rise, t);
				break;
			default:
				told++, good = 0;
				if (was == HEALTH_UP && told >= fall)
					want = HEALTH_DOWN;
				changed = health_report(&h, 0, fall, t);
			}
			bad += h.state != want || changed != (want != was) || (changed && h.since_ms != t);
		}
	}
	ok(bad == 0, "120,000 random events as the model's");
}

int
main(void)
{
	first();
	falls_and_rises();
	reports();
	one_user();
	random_ones();
	return (done_testing());
}
