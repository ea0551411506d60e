/*
 * sup - the supervision tree as a pure machine: events in, deeds out (OTP's supervisor.erl as the model)
 *
 * No system call, no allocation, no clock. The owner does the deeds of `deed` after each call and clears them.
 * Supervisors are records here, not processes; their children are.
 *
 *	DOWN -> STARTING -> UP -> STOPPING (asked) -> TERMING -> KILLING -> DOWN;   WAITING: back-off before a restart
 *
 * As in OTP: ordered start (the next when the former is READY), reverse stop, one_for_one, one_for_all, rest_for_one,
 * permanent, transient, temporary; a death that leads to a restart counts once, a failed start counts again; more
 * than intensity in period: the supervisor stops its children in reverse and ends `shutdown`, which its parent
 * judges by the restart type. Departures: at the root the limit means WAITING with a doubling back-off (a dead screen
 * must not stop the mail); a supervisor's child that was once up is restarted without waiting for siblings.
 */
#ifndef SUPERVISOR_SUP_H
#define SUPERVISOR_SUP_H

#include "supervisor/intensity.h"
#include "supervisor/spec.h"

enum sup_state { SUP_DOWN, SUP_STARTING, SUP_UP, SUP_STOPPING, SUP_TERMING, SUP_KILLING, SUP_WAITING, SUP_STATES };
enum sup_ev { ON_READY, ON_EXIT, ON_TIMEOUT, SUP_EVENTS };
enum sup_do { DO_SPAWN, DO_ASK, DO_TERM, DO_KILL, DO_REPORT, DO_DONE };	/* DONE: the whole tree is down */
enum sup_why {			/* of a report, OTP's contexts */
	SAY_STARTED, SAY_START_ERROR, SAY_CHILD_TERMINATED, SAY_SHUTDOWN_ERROR, SAY_MAX_INTENSITY, SAY_BACKOFF
};

enum { SUP_DEEDS = SPEC_MAX * 8, BACKOFF_MIN = 1000, BACKOFF_MAX = 60000, TERM_MS = 2000, RENEW_MS = 1000 };

struct sup_deed {
	enum sup_do	act;
	enum sup_why	why;
	uint32_t	child;
	uint64_t	generation;
	uint32_t	in_period;		/* restarts in the period, with reports */
};
struct sup_child {
	enum sup_state	state;
	bool		want, cycle, booted, lost;	/* should be up; must go down first; was up once; temporary and ended */
	bool		giving_up;		/* a supervisor at its limit */
	uint64_t	generation;		/* of the process: with the pid its identity */
	uint64_t	due_ms, since_ms;	/* deadline of the state, 0 none; when it came up */
	uint32_t	restarts, backoff_ms;
	struct intensity intensity;		/* a supervisor's */
};
struct sup {
	struct tree	 tree;
	struct sup_child child[SPEC_MAX];
	struct sup_child root;
	uint64_t	 next_generation;
	struct sup_deed	 deed[SUP_DEEDS];
	uint32_t	 ndeed;
	bool		 stopping, done;
};

/* NULL, or what is wrong with the tree (spec_check). Nothing is started yet. */
const char	*sup_init(struct sup *, const struct tree *);
void		 sup_start(struct sup *, uint64_t now_ms);
void		 sup_stop(struct sup *, uint64_t now_ms);
/* generation: of the process that the event is about; an old one is ignored. abnormal: with ON_EXIT. */
void		 sup_event(struct sup *, uint32_t child, enum sup_ev, uint64_t generation, bool abnormal, uint64_t now_ms);
/* Fires what is due; returns the next deadline, 0 when there is none. */
uint64_t	 sup_tick(struct sup *, uint64_t now_ms);
/* An operator's restart_child: ends it (it comes back, uncounted). -1: unknown or a supervisor. */
int		 sup_restart(struct sup *, uint32_t child, uint64_t now_ms);
/* A child's own wish for that. No child is renewed in the first RENEW_MS of its life, so that uncounted is not unbounded. */
void		 sup_renew(struct sup *, uint32_t child, uint64_t generation, uint64_t now_ms);
/* Whether another process follows one that is told to stop now. */
bool		 sup_again(const struct sup *, uint32_t child);
int32_t		 sup_find(const struct sup *, const char *id);
const char	*sup_state_name(enum sup_state);

#endif
