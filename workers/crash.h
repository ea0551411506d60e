/*
 * crash - a report of a session that was given up: state-dir/crashes/SESSION.json, the newest CRASH_REPORTS of them
 *
 * Made for a developer from the journal that the dead process left. No octet of a client's or a backend's is in it: of the
 * input and of what was owed only the shape is told (lines, control octets, octets above 127); log and content not at all.
 * The behaviour's pst is told with zeros where it says that such octets lie (behaviour.text), in the format that this release has.
 */
#ifndef WORKERS_CRASH_H
#define WORKERS_CRASH_H

#include <stdint.h>

#include "workers/behaviour.h"

#define CRASH_DIR	"crashes"

enum { CRASH_REPORTS = 32, CRASH_SHAPE = 2048 };

struct crash {
	const struct behaviour *b;
	const char	*session, *service, *client;	/* plain text of the gateway's own */
	uint32_t	 pid, times;
	int		 status;		/* of waitpid, -1: not known */
};

/* Writes the report of what lies in this journal (lent). 0, or -1 and errno. */
int	crash_report(const char *state_dir, const struct crash *, int journal);

#endif
