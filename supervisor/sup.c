/* sup - see sup.h; pure */
#include <string.h>

#include "supervisor/sup.h"

static void settle(struct sup *, int32_t sup, uint64_t now);
static void ended(struct sup *, uint32_t i, bool abnormal, uint64_t now);

static const char *const state_name[] = { [SUP_DOWN] = "down", [SUP_STARTING] = "starting", [SUP_UP] = "up",
	[SUP_STOPPING] = "stopping", [SUP_TERMING] = "stopping", [SUP_KILLING] = "killing",
	[SUP_WAITING] = "waiting" };

const char *
sup_state_name(enum sup_state s)
{
	return (s < SUP_STATES ? state_name[s] : "?");
}

/* --- small things -------------------------------------------------------------------------------------------- */

static void
deed(struct sup *s, enum sup_do act, enum sup_why why, uint32_t i, uint32_t in_period)
{
	if (s->ndeed < SUP_DEEDS)
		s->deed[s->ndeed++] = (struct sup_deed){ act, why, i, i < SPEC_MAX ? s->child[i].generation : 0,
		    in_period };
}

static struct sup_child *
record(struct sup *s, int32_t sup)
{
	return (sup < 0 ? &s->root : &s->child[sup]);
}

static enum strategy
strategy(const struct sup *s, int32_t sup)
{
	return (sup < 0 ? s->tree.strategy : s->tree.spec[sup].strategy);
}

static bool
is_child(const struct sup *s, uint32_t i, int32_t sup)
{
	return (s->tree.spec[i].parent == sup);
}

static void
enter(struct sup *s, uint32_t i, enum sup_state state, uint64_t due)
{
	s->child[i].state = state;
	s->child[i].due_ms = due;
}

/* --- starting and stopping one child -------------------------------------------------------------------------- */

static void
begin_start(struct sup *s, uint32_t i, uint64_t now)
{
	const struct spec *sp = &s->tree.spec[i];
	struct sup_child *c = &s->child[i];

	c->generation = ++s->next_generation;
	c->giving_up = false;
	if (!sp->supervisor) {
		enter(s, i, SUP_STARTING, now + (uint64_t)(sp->start_ms > 0 ? sp->start_ms : 30000));
		deed(s, DO_SPAWN, SAY_STARTED, i, 0);
		return;
	}
	enter(s, i, SUP_STARTING, 0);
	c->booted = false;		/* again in order */
	intensity_clear(&c->intensity);
	for (uint32_t k = i + 1; k < s->tree.n; k++)
		if (is_child(s, k, (int32_t)i) && !s->child[k].lost)
			s->child[k].want = true;
	settle(s, (int32_t)i, now);
}

static void
begin_stop(struct sup *s, uint32_t i, uint64_t now)
{
	const struct spec *sp = &s->tree.spec[i];

	if (sp->supervisor) {
		enter(s, i, SUP_STOPPING, 0);
		for (uint32_t k = i + 1; k < s->tree.n; k++)
			if (is_child(s, k, (int32_t)i))
				s->child[k].want = false;
		settle(s, (int32_t)i, now);
	} else if (s->child[i].state == SUP_WAITING) {
		enter(s, i, SUP_DOWN, 0);
	} else if (sp->shutdown_ms == SHUTDOWN_KILL) {
		enter(s, i, SUP_KILLING, 0);
		deed(s, DO_KILL, SAY_STARTED, i, 0);
	} else {
		enter(s, i, SUP_STOPPING, sp->shutdown_ms < 0 ? 0 : now + (uint64_t)sp->shutdown_ms);
		deed(s, DO_ASK, SAY_STARTED, i, 0);
	}
}

static bool
on_its_way_down(enum sup_state st)
{
	return (st == SUP_STOPPING || st == SUP_TERMING || st == SUP_KILLING);
}

/* Stops, in reverse, what must go down. True when nothing of that is left. */
static bool
settle_down(struct sup *s, int32_t sup, uint64_t now)
{
	for (uint32_t i = s->tree.n; i-- > 0;) {
		struct sup_child *c = &s->child[i];

		if (!is_child(s, i, sup) || c->state == SUP_DOWN || (c->want && !c->cycle))
			continue;
		if (!on_its_way_down(c->state))
			begin_stop(s, i, now);
		if (c->state != SUP_DOWN)
			return (false);
	}
	return (true);
}

/* Starts, in order, what should be up. True when all of that is. */
static bool
settle_up(struct sup *s, int32_t sup, uint64_t now)
{
	bool all = true, parallel = record(s, sup)->booted && strategy(s, sup) == ONE_FOR_ONE;

	for (uint32_t i = 0; i < s->tree.n; i++) {
		struct sup_child *c = &s->child[i];

		if (!is_child(s, i, sup) || !c->want)
			continue;
		c->cycle = false;
		if (c->state == SUP_DOWN)
			begin_start(s, i, now);
		if (c->state == SUP_UP || (c->state == SUP_WAITING && sup < 0))
			continue;
		all = false;
		if (!parallel)
			return (false);
	}
	return (all);
}

static void
supervisor_down(struct sup *s, int32_t sup, uint64_t now)
{
	struct sup_child *r = record(s, sup);

	if (sup < 0) {
		if (s->stopping && !s->done) {
			s->done = true;
			deed(s, DO_DONE, SAY_STARTED, SPEC_MAX, 0);
		}
		return;
	}
	if (r->giving_up || on_its_way_down(r->state))
		ended(s, (uint32_t)sup, false, now);
}

/* Brings a supervisor's children nearer to what is wanted of them. */
static void
settle(struct sup *s, int32_t sup, uint64_t now)
{
	struct sup_child *r = record(s, sup);

	if (!settle_down(s, sup, now))
		return;
	if (r->giving_up || on_its_way_down(r->state) || s->stopping) {	/* then nothing is started */
		supervisor_down(s, sup, now);
		return;
	}
	if (settle_up(s, sup, now) && r->state == SUP_STARTING) {
		r->state = SUP_UP;
		r->booted = true;
		r->since_ms = now;
		if (sup >= 0) {
			deed(s, DO_REPORT, SAY_STARTED, (uint32_t)sup, 0);
			settle(s, s->tree.spec[sup].parent, now);
		}
	}
}

/* --- restarts ------------------------------------------------------------------------------------------------ */

static void
take_along(struct sup *s, int32_t sup, uint32_t dead)
{
	enum strategy st = strategy(s, sup);

	for (uint32_t i = 0; i < s->tree.n && st != ONE_FOR_ONE; i++) {
		struct sup_child *c = &s->child[i];

		if (!is_child(s, i, sup) || i == dead || (st == REST_FOR_ONE && i < dead))
			continue;
		if (c->state == SUP_DOWN) {	/* OTP: a transient one that had ended is started with the others */
			c->want = !c->lost;
			continue;
		}
		c->cycle = true;
		if (s->tree.spec[i].restart == TEMPORARY) {	/* OTP: lost when a sibling's restart takes it down */
			c->want = false;
			c->lost = true;
		}
	}
}

static void
give_up(struct sup *s, int32_t sup, uint32_t i, uint32_t in_period, uint64_t now)
{
	struct sup_child *c = &s->child[i];

	if (sup < 0) {
		c->backoff_ms = c->backoff_ms == 0 ? BACKOFF_MIN :
		    c->backoff_ms * 2 > BACKOFF_MAX ? BACKOFF_MAX : c->backoff_ms * 2;
		enter(s, i, SUP_WAITING, now + c->backoff_ms);
		deed(s, DO_REPORT, SAY_BACKOFF, i, in_period);
		return;
	}
	deed(s, DO_REPORT, SAY_MAX_INTENSITY, (uint32_t)sup, in_period);
	record(s, sup)->giving_up = true;
	for (uint32_t k = 0; k < s->tree.n; k++)
		if (is_child(s, k, sup))
			s->child[k].want = false;
}

/* A child ended by itself, or failed to start. */
static void
died(struct sup *s, uint32_t i, bool abnormal, bool starting, uint64_t now)
{
	const struct spec *sp = &s->tree.spec[i];
	int32_t sup = sp->parent;
	struct sup_child *r = record(s, sup), *c = &s->child[i];
	uint32_t limit = sup < 0 ? s->tree.intensity : s->tree.spec[sup].intensity;
	uint32_t period = sup < 0 ? s->tree.period_s : s->tree.spec[sup].period_s, in;
	bool too_many;

	enter(s, i, SUP_DOWN, 0);
	if (sp->restart == TEMPORARY || (sp->restart == TRANSIENT && !abnormal)) {
		c->want = false;
		c->lost = sp->restart == TEMPORARY;
		if (abnormal)
			deed(s, DO_REPORT, SAY_CHILD_TERMINATED, i, 0);
		return;
	}
	if (s->stopping)
		return;
	if (c->since_ms != 0 && !starting && now - c->since_ms > BACKOFF_MAX)
		c->backoff_ms = 0;		/* a calm time: forgiven */
	too_many = intensity_add(&r->intensity, limit, period, now / 1000);
	in = intensity_count(&r->intensity, period, now / 1000);
	c->restarts++;
	deed(s, DO_REPORT, starting ? SAY_START_ERROR : SAY_CHILD_TERMINATED, i, in);
	if (too_many)
		give_up(s, sup, i, in, now);
	else
		take_along(s, sup, i);
}

static void
ended(struct sup *s, uint32_t i, bool abnormal, uint64_t now)
{
	const struct spec *sp = &s->tree.spec[i];
	struct sup_child *c = &s->child[i];
	enum sup_state was = c->state;

	/* one that waits for its turn to be stopped ends in the course of that, too: no restart of its own */
	if (on_its_way_down(was) || !c->want || c->cycle) {
		enter(s, i, SUP_DOWN, 0);
		if (abnormal && !sp->supervisor && !(was == SUP_KILLING && sp->shutdown_ms == SHUTDOWN_KILL))
			deed(s, DO_REPORT, SAY_SHUTDOWN_ERROR, i, 0);
	} else {
		c->giving_up = false;
		died(s, i, abnormal, was == SUP_STARTING, now);
	}
	settle(s, sp->parent, now);
}

/* --- events: one cell for each state and event ------------------------------------------------------------------ */

typedef void react(struct sup *, uint32_t i, bool abnormal, uint64_t now);

static void
nothing(struct sup *s, uint32_t i, bool abnormal, uint64_t now)
{
	(void)s, (void)i, (void)abnormal, (void)now;
}

static void
ready(struct sup *s, uint32_t i, bool abnormal, uint64_t now)
{
	(void)abnormal;
	enter(s, i, SUP_UP, 0);
	s->child[i].booted = true;
	s->child[i].since_ms = now;
	deed(s, DO_REPORT, SAY_STARTED, i, 0);
	settle(s, s->tree.spec[i].parent, now);
}

static void
too_slow(struct sup *s, uint32_t i, bool abnormal, uint64_t now)
{
	(void)abnormal, (void)now;
	s->child[i].due_ms = 0;
	deed(s, DO_KILL, SAY_START_ERROR, i, 0);	/* its end counts as a failed start */
}

static void
not_asked_twice(struct sup *s, uint32_t i, bool abnormal, uint64_t now)
{
	(void)abnormal;
	enter(s, i, SUP_TERMING, now + TERM_MS);
	deed(s, DO_TERM, SAY_STARTED, i, 0);
}

static void
kill_it(struct sup *s, uint32_t i, bool abnormal, uint64_t now)
{
	(void)abnormal;
	enter(s, i, SUP_KILLING, now + TERM_MS);	/* looked at again, should the signal be lost on a frozen host */
	deed(s, DO_KILL, SAY_STARTED, i, 0);
}

static void
wait_over(struct sup *s, uint32_t i, bool abnormal, uint64_t now)
{
	(void)abnormal;
	enter(s, i, SUP_DOWN, 0);
	settle(s, s->tree.spec[i].parent, now);
}

/* A planned end: it was wished for (sup_renew). */
static void
renew(struct sup *s, uint32_t i, bool abnormal, uint64_t now)
{
	(void)abnormal;
	s->child[i].due_ms = 0;
	(void)sup_restart(s, i, now);
}

static react *const matrix[SUP_STATES][SUP_EVENTS] = {
	[SUP_DOWN] =	 { [ON_READY] = nothing, [ON_EXIT] = nothing, [ON_TIMEOUT] = nothing },
	[SUP_STARTING] = { [ON_READY] = ready,	 [ON_EXIT] = ended,   [ON_TIMEOUT] = too_slow },
	[SUP_UP] =	 { [ON_READY] = nothing, [ON_EXIT] = ended,   [ON_TIMEOUT] = renew },
	[SUP_STOPPING] = { [ON_READY] = nothing, [ON_EXIT] = ended,   [ON_TIMEOUT] = not_asked_twice },
	[SUP_TERMING] =	 { [ON_READY] = nothing, [ON_EXIT] = ended,   [ON_TIMEOUT] = kill_it },
	[SUP_KILLING] =	 { [ON_READY] = nothing, [ON_EXIT] = ended,   [ON_TIMEOUT] = kill_it },
	[SUP_WAITING] =	 { [ON_READY] = nothing, [ON_EXIT] = nothing, [ON_TIMEOUT] = wait_over },
};

void
sup_event(struct sup *s, uint32_t i, enum sup_ev ev, uint64_t generation, bool abnormal, uint64_t now)
{
	if (i >= s->tree.n || s->tree.spec[i].supervisor || generation != s->child[i].generation)
		return;
	matrix[s->child[i].state][ev](s, i, abnormal, now);
}

uint64_t
sup_tick(struct sup *s, uint64_t now)
{
	uint64_t next = 0;

	for (uint32_t i = 0; i < s->tree.n; i++)
		if (s->child[i].due_ms != 0 && s->child[i].due_ms <= now)
			matrix[s->child[i].state][ON_TIMEOUT](s, i, false, now);
	for (uint32_t i = 0; i < s->tree.n; i++)
		if (s->child[i].due_ms != 0 && (next == 0 || s->child[i].due_ms < next))
			next = s->child[i].due_ms;
	return (next);
}

/* --- the whole ----------------------------------------------------------------------------------------------- */

const char *
sup_init(struct sup *s, const struct tree *t)
{
	const char *wrong = spec_check(t);

	if (wrong != NULL)
		return (wrong);
	memset(s, 0, sizeof(*s));
	s->tree = *t;
	return (NULL);
}

void
sup_start(struct sup *s, uint64_t now)
{
	s->root.state = SUP_STARTING;
	for (uint32_t i = 0; i < s->tree.n; i++)
		if (s->tree.spec[i].parent < 0)
			s->child[i].want = true;
	settle(s, -1, now);
}

void
sup_stop(struct sup *s, uint64_t now)
{
	s->stopping = true;
	for (uint32_t i = 0; i < s->tree.n; i++)
		if (s->tree.spec[i].parent < 0)
			s->child[i].want = false;
	settle(s, -1, now);
}

int
sup_restart(struct sup *s, uint32_t i, uint64_t now)
{
	if (i >= s->tree.n || s->tree.spec[i].supervisor || s->stopping)
		return (-1);
	s->child[i].cycle = s->child[i].state != SUP_DOWN;
	s->child[i].want = true;
	settle(s, s->tree.spec[i].parent, now);
	return (0);
}

void
sup_renew(struct sup *s, uint32_t i, uint64_t generation, uint64_t now)
{
	struct sup_child *c = &s->child[i];

	if (i >= s->tree.n || generation != c->generation || c->state != SUP_UP)
		return;
	c->due_ms = now - c->since_ms < RENEW_MS ? c->since_ms + RENEW_MS : now;
}

bool
sup_again(const struct sup *s, uint32_t i)
{
	return (!s->stopping && !s->child[i].lost);
}

int32_t
sup_find(const struct sup *s, const char *id)
{
	for (uint32_t i = 0; i < s->tree.n; i++)
		if (strcmp(s->tree.spec[i].id, id) == 0)
			return ((int32_t)i);
	return (-1);
}
