/* sup - the supervision tree: scripted children that die in every way, and random events against the rules of OTP */
/* LINK: supervisor/sup.c supervisor/spec.c supervisor/intensity.c supervisor/buf.c */
#include <stdlib.h>
#include <string.h>

#include "supervisor/sup.h"
#include "t/lib/tap.h"

/* A world in which every child is a record: what the deeds made of it. */
struct world {
	struct sup	 s;
	uint64_t	 now;
	bool		 alive[SPEC_MAX];
	uint64_t	 gen[SPEC_MAX];
	uint32_t	 spawned[SPEC_MAX], reports[8], again, forever;	/* asked to end with another to come, or none */
	bool		 done;
	uint32_t	 order[4096], norder;	/* spawns as i, asks as 1000 + i, kills as 2000 + i */
};

static void
note(struct world *w, uint32_t what)
{
	if (w->norder < 4096)
		w->order[w->norder++] = what;
}

static void
deeds(struct world *w)
{
	struct sup_deed d[SUP_DEEDS];
	uint32_t n = w->s.ndeed;

	memcpy(d, w->s.deed, n * sizeof(d[0]));
	w->s.ndeed = 0;
	for (uint32_t i = 0; i < n; i++)
		switch (d[i].act) {
		case DO_SPAWN:
			w->alive[d[i].child] = true;
			w->gen[d[i].child] = d[i].generation;
			w->spawned[d[i].child]++;
			note(w, d[i].child);
			break;
		case DO_ASK:
			note(w, 1000 + d[i].child);
			sup_again(&w->s, d[i].child) ? w->again++ : w->forever++;
			break;
		case DO_TERM:
			break;
		case DO_KILL:
			note(w, 2000 + d[i].child);
			break;
		case DO_REPORT:
			w->reports[d[i].why]++;
			break;
		case DO_DONE:
			w->done = true;
			break;
		}
}

static void
event(struct world *w, uint32_t i, enum sup_ev e, bool abnormal)
{
	if (e == ON_EXIT)
		w->alive[i] = false;
	sup_event(&w->s, i, e, w->gen[i], abnormal, w->now);
	deeds(w);
}

static void
tick(struct world *w, uint64_t ms)
{
	w->now += ms;
	(void)sup_tick(&w->s, w->now);
	deeds(w);
}

static void
all_ready(struct world *w)
{
	for (int round = 0; round < 20; round++)
		for (uint32_t i = 0; i < w->s.tree.n; i++)
			if (w->alive[i] && w->s.child[i].state == SUP_STARTING)
				event(w, i, ON_READY, false);
}

/* Those that were told to end, do. */
static void
end_asked(struct world *w)
{
	for (uint32_t c = 0; c < w->s.tree.n; c++)
		if (w->alive[c] && (w->s.child[c].state == SUP_STOPPING || w->s.child[c].state == SUP_TERMING ||
		    w->s.child[c].state == SUP_KILLING))
			event(w, c, ON_EXIT, false);
}

static struct world *
world(enum strategy st, enum restart re, uint32_t intensity, uint32_t period)
{
	struct world *w = calloc(1, sizeof(*w));
	struct tree t = { .n = 4, .strategy = ONE_FOR_ONE, .intensity = 3, .period_s = 5 };

	w->now = 1000000;
	t.spec[0] = (struct spec){ .id = "group", .parent = -1, .supervisor = true, .restart = PERMANENT,
	    .shutdown_ms = SHUTDOWN_INFINITY, .strategy = st, .intensity = intensity, .period_s = period };
	for (uint32_t i = 1; i < 4; i++) {
		t.spec[i] = (struct spec){ .parent = 0, .restart = re, .shutdown_ms = 5000, .start_ms = 30000, .image = "x" };
		snprintf(t.spec[i].id, sizeof(t.spec[i].id), "group/%c", (char)('a' + i - 1));
	}
	if (sup_init(&w->s, &t) != NULL)
		abort();
	sup_start(&w->s, w->now);
	deeds(w);
	return (w);
}

static bool
is_order(const struct world *w, uint32_t from, const uint32_t *want, uint32_t n)
{
	return (w->norder - from == n && memcmp(w->order + from, want, n * sizeof(*want)) == 0);
}

static void
start_and_stop(void)
{
	struct world *w = world(ONE_FOR_ONE, PERMANENT, 5, 10);
	uint32_t mark;

	ok(w->alive[1] && !w->alive[2], "the first child is started, the second waits for it");
	event(w, 1, ON_READY, false);
	ok(w->alive[2] && !w->alive[3], "then the second");
	event(w, 2, ON_READY, false);
	event(w, 3, ON_READY, false);
	ok(w->s.child[0].state == SUP_UP, "the supervisor is up when all its children are");
	mark = w->norder;
	sup_stop(&w->s, w->now);
	deeds(w);
	ok(is_order(w, mark, (uint32_t[]){ 1003 }, 1), "stop: the last one is asked first");
	event(w, 3, ON_EXIT, false);
	tick(w, 5001);
	tick(w, TERM_MS + 1);
	ok(w->order[w->norder - 1] == 2002, "one that does not end in its time is killed");
	event(w, 2, ON_EXIT, true);
	ok(w->order[w->norder - 1] == 1001, "then the one before it is asked");
	event(w, 1, ON_EXIT, false);
	ok(w->done, "and all is down");
	ok(w->again == 0 && w->forever == 3, "nobody was told that another comes");
	free(w);
}

static void
renewal(void)
{
	struct world *w = world(ONE_FOR_ONE, PERMANENT, 2, 10);

	all_ready(w);
	for (int i = 0; i < 20; i++) {
		sup_renew(&w->s, 1, w->gen[1], w->now);
		sup_renew(&w->s, 1, w->gen[1], w->now);
		tick(w, RENEW_MS);
		end_asked(w);
		all_ready(w);
	}
	ok(w->spawned[1] == 21 && w->s.child[1].state == SUP_UP, "a child is renewed as often as it wishes");
	ok(w->reports[SAY_MAX_INTENSITY] == 0 && w->s.child[1].restarts == 0, "which counts in no intensity");
	ok(w->spawned[2] == 1 && w->again == 20 && w->forever == 0, "its siblings stay, and it knows that another comes");
	sup_renew(&w->s, 1, w->gen[1], w->now);
	tick(w, RENEW_MS / 2);
	ok(w->s.child[1].state == SUP_UP, "not at once after its start");
	event(w, 1, ON_EXIT, true);
	all_ready(w);
	tick(w, RENEW_MS * 2);
	ok(w->spawned[1] == 22 && w->s.child[1].restarts == 1, "one that dies first is started again once");
	sup_renew(&w->s, 1, w->gen[1] - 1, w->now);
	tick(w, RENEW_MS);
	ok(w->s.child[1].state == SUP_UP, "the wish of one that is dead means nothing");
	free(w);
}

static void
strategies(void)
{
	static const struct { enum strategy st; const char *name; bool a, b, c; } t[] = {
		{ ONE_FOR_ONE, "one_for_one", false, true, false }, { ONE_FOR_ALL, "one_for_all", true, true, true },
		{ REST_FOR_ONE, "rest_for_one", false, true, true },
	};

	for (size_t k = 0; k < 3; k++) {
		struct world *w = world(t[k].st, PERMANENT, 5, 10);

		all_ready(w);
		event(w, 2, ON_EXIT, true);
		for (int i = 0; i < 10; i++) {		/* those that are asked, end */
			end_asked(w);
			all_ready(w);
		}
		ok(w->spawned[1] == 1u + t[k].a && w->spawned[2] == 2 && w->spawned[3] == 1u + t[k].c,
		    "%s: b dies, and %s%s%s start again", t[k].name, t[k].a ? "a " : "", "b ", t[k].c ? "c" : "");
		ok(w->s.child[0].state == SUP_UP && w->s.child[3].state == SUP_UP, "%s: all are up afterwards", t[k].name);
		free(w);
	}
}

static void
restart_types(void)
{
	static const struct { enum restart re; bool abnormal, again; const char *name; } t[] = {
		{ PERMANENT, true, true, "permanent, abnormal end" }, { PERMANENT, false, true, "permanent, normal end" },
		{ TRANSIENT, true, true, "transient, abnormal end" }, { TRANSIENT, false, false, "transient, normal end" },
		{ TEMPORARY, true, false, "temporary, abnormal end" }, { TEMPORARY, false, false, "temporary, normal end" },
	};

	for (size_t k = 0; k < 6; k++) {
		struct world *w = world(ONE_FOR_ONE, t[k].re, 5, 10);

		all_ready(w);
		event(w, 1, ON_EXIT, t[k].abnormal);
		tick(w, 10);
		ok((w->spawned[1] == 2) == t[k].again, "%s: %s", t[k].name, t[k].again ? "started again" : "not started again");
		free(w);
	}
}

static void
intensity(void)
{
	struct world *w = world(ONE_FOR_ONE, PERMANENT, 2, 10);
	uint64_t old;

	all_ready(w);
	for (int i = 0; i < 2; i++) {
		event(w, 1, ON_EXIT, true);
		all_ready(w);
	}
	ok(w->s.child[1].state == SUP_UP && w->reports[SAY_MAX_INTENSITY] == 0, "two deaths in the period are in order");
	tick(w, 11000);
	event(w, 1, ON_EXIT, true);
	all_ready(w);
	ok(w->reports[SAY_MAX_INTENSITY] == 0, "after the period they no longer count");
	event(w, 1, ON_EXIT, true);
	all_ready(w);
	event(w, 1, ON_EXIT, true);
	ok(w->reports[SAY_MAX_INTENSITY] == 1, "the third in the period: the supervisor gives up");
	ok(w->again == 1 && w->forever == 0, "its children are told that others come");
	for (int i = 0; i < 10; i++)
		end_asked(w);
	for (int i = 0; i < 100 && w->s.child[0].state != SUP_UP; i++) {
		tick(w, 1000);
		all_ready(w);
	}
	ok(w->s.child[0].state == SUP_UP && w->spawned[3] == 2, "its parent starts it again, with all its children");
	old = w->gen[1];
	event(w, 1, ON_EXIT, true);
	all_ready(w);
	sup_event(&w->s, 1, ON_EXIT, old, true, w->now);
	deeds(w);
	ok(w->s.child[1].state == SUP_UP, "a late exit of an old generation changes nothing");
	free(w);
}

/* Whatever happens in whatever order: children are spawned only when down, and when the events stop all comes up. */
static void
random_events(void)
{
	bool twice = false, up = true, down = true;

	for (unsigned seed = 1; seed <= 300; seed++) {
		struct world *w = world((enum strategy)(seed % 3), PERMANENT, 3, 5);
		bool was[SPEC_MAX];

		srand(seed);
		for (int i = 0; i < 300; i++) {
			uint32_t c = 1 + (uint32_t)rand() % 3;

			memcpy(was, w->alive, sizeof(was));
			w->norder = 0;
			if (rand() % 4 == 0)
				tick(w, (uint64_t)rand() % 3000);
			else if (w->alive[c])
				event(w, c, rand() % 2 ? ON_READY : ON_EXIT, rand() % 2);
			for (uint32_t k = 0; k < w->norder; k++)
				twice = twice || (w->order[k] < 4 && was[w->order[k]] && w->order[k] != c);
		}
		for (int i = 0; i < 300; i++) {
			end_asked(w);
			tick(w, 1000);
			all_ready(w);
		}
		for (uint32_t c = 0; c < 4; c++)
			up = up && w->s.child[c].state == SUP_UP;
		sup_stop(&w->s, w->now);
		deeds(w);
		for (int i = 0; i < 30 && !w->done; i++) {
			end_asked(w);
			tick(w, 3000);
		}
		down = down && w->done;
		free(w);
	}
	ok(!twice, "nobody is started while it lives");
	ok(up, "when the deaths end, all come up");
	ok(down, "and all go down when told");
}

int
main(void)
{
	start_and_stop();
	strategies();
	restart_types();
	intensity();
	renewal();
	random_events();
	return (done_testing());
}
