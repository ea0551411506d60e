/* choose - which backend a session gets: the one with the fewest sessions for its weight (pure) */
#ifndef WORKERS_CHOOSE_H
#define WORKERS_CHOOSE_H

#include <stdbool.h>
#include <stdint.h>

struct candidate {
	bool		usable;			/* up, not drained */
	uint32_t	sessions, max_sessions, weight;	/* max 0: no limit */
	uint64_t	up_ms;			/* how long it is up: slow start */
};

enum { SLOW_START_MS = 10000 };

/* The number of the chosen one, -1 when there is none. avoid: bit set of numbers modulo 64. turn: breaks ties. */
int32_t	choose(const struct candidate *, uint32_t n, uint64_t avoid, uint32_t turn);

#endif
