/* counts - what each listener counts is in the sum of all, before and after there is a table, and after a successor; shares' names */
/* LINK: workers/counts.c workers/share.c */
#include <string.h>
#include <unistd.h>

#include "t/lib/tap.h"
#include "workers/counts.h"
#include "workers/share.h"

static struct counts a, b, other, again;

static void
names(void)
{
	char id[32];

	for (uint32_t i = 0; i < SHARES; i++) {
		share_id(id, sizeof(id), "pop3/listener", i);
		ok(share_of(id) == i && share_base(id) == strlen("pop3/listener"), "%s is of share %u", id, i);
	}
	ok(share_of("pop3/listener") == 0 && share_of("x-9999") == 0 && share_of("a-b") == 0 && share_base("a-b") == 3, "other names are of the first");
}

/* again is of row 0, b of row 1, other is another protocol's. */
static void
turns(void)
{
	counts_full(&b, false);
	counts_service(&again, 2, 0);
	counts_service(&b, 2, 0);
	ok(counts_turn(&again, 100, 0, true), "the first has the turn");
	ok(!counts_turn(&b, 100, 0, true), "the second rests then");
	counts_watching(&b, false);
	counts_service(&again, 2, 50);
	ok(counts_turn(&again, 101, 0, true), "one that has more goes on");
	ok(counts_turn(&b, 101, 0, false), "until the other has begun");
	counts_watching(&b, true);
	ok(!counts_turn(&again, 102, 0, true), "and rests then");
	ok(counts_turn(&again, 102, 5000, true), "but not when there are too many clients for one");
	counts_full(&b, true);
	ok(counts_turn(&again, 103, 0, false), "nor when the other is full");
	counts_full(&b, false);
	ok(!counts_turn(&again, 103, 0, false) && counts_turn(&again, 110, 0, false), "nor when it has not been heard of for long");
}

int
main(void)
{
	uint32_t slot = counts_slot("192.0.2.7");
	int fd = counts_create(), bad[2];
	struct msg_counts m = { .row = 0, .protocol = 3, .share = 5 };

	names();
	counts_init(&a);
	counts_init(&b);
	counts_init(&other);
	counts_came(&a, slot);
	counts_service(&a, 2, 7);
	ok(counts_of_address(&a, slot) == 1 && counts_of_service(&a, 2) == 7 && counts_of_share(&a) == 7, "alone it counts its own");
	ok(!counts_all_full(&a) && (counts_full(&a, true), counts_all_full(&a)), "and is full when it is");
	counts_full(&a, false);
	ok(pipe(bad) == 0 && counts_table(&a, &m, bad[0]) == -1, "not every descriptor is a table");
	m.row = COUNTS_ROWS;
	ok(counts_table(&a, &m, fd) == -1, "nor every row");
	m.row = 0;
	ok(counts_table(&a, &m, fd) == 0 && counts_of_address(&a, slot) == 1, "a table takes over what was counted");
	m.row = 1;
	ok(counts_table(&b, &m, fd) == 0 && counts_of_address(&b, slot) == 1 && counts_of_service(&b, 2) == 7, "the next one sees it");
	m = (struct msg_counts){ .row = 2, .protocol = 4, .share = 5 };
	ok(counts_table(&other, &m, fd) == 0 && counts_of_address(&other, slot) == 0, "another protocol does not");
	counts_service(&other, 1, 3);
	ok(counts_of_share(&a) == 10 && counts_of_service(&a, 1) == 0, "but it shares an fdstore");
	counts_came(&b, slot);
	counts_service(&b, 2, 1);
	ok(counts_of_address(&a, slot) == 2 && counts_of_service(&a, 2) == 8, "both are counted");
	counts_full(&a, true);
	ok(!counts_all_full(&b), "one is full");
	counts_full(&b, true);
	ok(counts_all_full(&a), "both are");
	counts_init(&again);
	m = (struct msg_counts){ .row = 0, .protocol = 3, .share = 5 };
	ok(counts_table(&again, &m, fd) == 0 && counts_of_address(&b, slot) == 1 && !counts_all_full(&b), "a successor begins anew");
	counts_went(&b, slot);
	ok(counts_of_address(&again, slot) == 0, "who goes is counted no more");
	turns();
	ok(ftruncate(fd, 0) == -1, "nobody can cut the table short");
	return (done_testing());
}
