/* health - whether a backend is up: probe results and what sessions report (pure) */
#ifndef WORKERS_HEALTH_H
#define WORKERS_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

enum { HEALTH_BY = 8 };
enum health_state { HEALTH_UNKNOWN, HEALTH_UP, HEALTH_DOWN };

struct health {
	enum health_state state;
	uint32_t	 good, bad;		/* in a row */
	uint32_t	 reports;		/* failures told by sessions since the last good probe */
	uint64_t	 by[HEALTH_BY];		/* whose the last ones were */
	uint64_t	 next_probe_ms, since_ms;
};

/* True when the state changed. A first good probe brings an unknown backend up at once. */
bool	health_probe(struct health *, bool good, uint32_t fall, uint32_t rise, uint64_t now_ms);
/*
 * A session lost it: an immediate probe; `fall` such reports without a good probe between take it down. Those `by` the same
 * user, or address without one, count once, for it may be what he sends that kills a server; 0 counts each time.
 */
bool	health_report(struct health *, uint64_t by, uint32_t fall, uint64_t now_ms);
const char *health_name(enum health_state);

#endif
