/*
 * intensity - OTP's restart intensity: more than `limit` restarts within `period` seconds mean giving up
 *
 * Pure. Both t and t + period count as within the period (supervisor.erl, add_restart); limit 0 allows none.
 */
#ifndef SUPERVISOR_INTENSITY_H
#define SUPERVISOR_INTENSITY_H

#include <stdbool.h>
#include <stdint.h>

enum { INTENSITY_MAX = 64 };

struct intensity {
	uint64_t	t[INTENSITY_MAX + 1];	/* seconds, a ring */
	uint32_t	n, next;
};

/* Notes a restart at second now; true when it is one too many. limit is at most INTENSITY_MAX. */
bool		intensity_add(struct intensity *, uint32_t limit, uint32_t period_s, uint64_t now_s);
/* How many lie within the period. */
uint32_t	intensity_count(const struct intensity *, uint32_t period_s, uint64_t now_s);
void		intensity_clear(struct intensity *);

#endif
