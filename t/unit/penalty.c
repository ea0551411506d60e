/* penalty - doubles to its limit, fades, forgets, does not count the same password twice, spares users at first */
/* LINK: workers/penalty.c */
#include "t/lib/tap.h"
#include "workers/penalty.h"

static struct penalties t = { .secret = 42 };

int
main(void)
{
	uint64_t a = penalty_address(&t, "192.0.2.7"), b = penalty_address(&t, "192.0.2.8"), now = 1000000;
	static const uint32_t want[] = { 2000, 4000, 8000, 15000, 15000 };
	uint32_t worst = 0;

	ok(!penalty_any(&t, now) && penalty_ms(&t, a, 0, now) == 0, "nobody has one at first");
	for (uint64_t i = 0; i < 5; i++) {
		penalty_failed(&t, a, 100 + i, now);
		ok(penalty_ms(&t, a, 0, now) == want[i], "failure %d costs %u ms", (int)i + 1, penalty_ms(&t, a, 0, now));
	}
	ok(penalty_any(&t, now) && penalty_ms(&t, b, 0, now) == 0, "others have none");
	ok(penalty_ms(&t, a, 0, now + 5000) == 10000, "time that has passed counts");
	ok(penalty_ms(&t, a, 0, now + 15000) == 0, "all of it");
	penalty_failed(&t, a, 104, now + 20000);
	penalty_good(&t, a);
	ok(penalty_ms(&t, a, 0, now + 20000) == 0, "a success forgets it");
	for (int i = 0; i < 10; i++)
		penalty_failed(&t, b, 7, now);
	ok(penalty_ms(&t, b, 0, now) == 2000, "the same password again costs no more");
	ok(penalty_ms(&t, b, 0, now + PENALTY_FORGET_MS) == 0 && !penalty_any(&t, now + PENALTY_FORGET_MS), "two quiet minutes end it");
	for (int i = 0; i < 3; i++)
		penalty_failed(&t, b, 0, now);
	ok(penalty_ms(&t, b, 0, now) == 15000, "but a proof is never the same");
	penalty_failed(&t, 0, 7, now);
	ok(penalty_ms(&t, 0, 0, now) == 0, "nobody has none");
	a = penalty_user(&t, (const char[64]){ "alice" });
	ok(a == penalty_user(&t, (const char[64]){ "Alice" }) && penalty_user(&t, (const char[64]){ "" }) == 0, "a user in whatever case; nobody");
	ok(penalty_user(&t, (const char[64]){ "192.0.2.7" }) != penalty_address(&t, "192.0.2.7") &&
	    penalty_user(&t, (const char[64]){ "2AAAAAAA" }) != penalty_address(&t, "3261:6161:6161:6161::1"), "whose name is an address is not that");
	for (uint64_t i = 0; i < 5; i++)
		penalty_failed(&t, a, i, now);
	ok(penalty_ms(&t, a, PENALTY_FREE_USER, now) == 0, "a user is not delayed at once");
	penalty_failed(&t, a, 99, now);
	ok(penalty_ms(&t, a, PENALTY_FREE_USER, now) == 2000, "but later");
	ok(penalty_address(&t, "2001:db8:0:1::7") == penalty_address(&t, "2001:db8:0:1:ffff::1") &&
	    penalty_address(&t, "2001:db8:0:1::7") != penalty_address(&t, "2001:db8:0:2::7"), "IPv6 by its /64");
	ok(penalty_address(&t, "::ffff:192.0.2.7") != penalty_address(&t, "::ffff:192.0.2.8"), "mapped IPv4 by the whole address");
	for (uint64_t i = 1; i < 100000; i++)
		penalty_failed(&t, i * 2654435761u, i, now + 1 + i / 1000);
	for (uint64_t i = 1; i < 100000; i++) {
		uint32_t ms = penalty_ms(&t, i * 2654435761u, 0, now + 200);

		worst = ms > worst ? ms : worst;
	}
	ok(worst <= 2000, "a flood of addresses displaces, it does not mix up");
	return (done_testing());
}
