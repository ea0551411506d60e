/*
 * spec - child specifications as data, in OTP's words
 */
#ifndef SUPERVISOR_SPEC_H
#define SUPERVISOR_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum restart { PERMANENT, TRANSIENT, TEMPORARY };
enum strategy { ONE_FOR_ONE, ONE_FOR_ALL, REST_FOR_ONE };

enum {
	SPEC_ID_MAX = 48,
	SPEC_ARGS = 6,
	SPEC_PEERS = 8,
	SPEC_MAX = 64,			/* children in a tree, supervisors included */
	SHUTDOWN_KILL = 0,		/* brutal_kill */
	SHUTDOWN_INFINITY = -1
};

/* One node. A supervisor has children that name it as parent and stand behind it in the array. */
struct spec {
	char		 id[SPEC_ID_MAX];	/* unique in the tree: "smtp", "smtp/listener" */
	int32_t		 parent;		/* index in the array; -1: the root supervisor */
	bool		 supervisor;
	enum restart	 restart;
	int32_t		 shutdown_ms, start_ms;	/* default 5000 and 30000 */
	/* a supervisor's flags */
	enum strategy	 strategy;
	uint32_t	 intensity, period_s;
	/* a worker's */
	uint8_t		 role;
	char		 image[64];		/* file name in the directory of the release's binaries */
	char		 args[SPEC_ARGS][32];	/* after image and id; empty ends */
	char		 peers[SPEC_PEERS][SPEC_ID_MAX];	/* gets a channel to each of these when both are up */
	char		 listens[SPEC_ID_MAX];	/* group whose listening sockets it is given; empty: none, "*": all */
};

struct tree {
	struct spec	 spec[SPEC_MAX];
	uint32_t	 n;
	enum strategy	 strategy;		/* of the root */
	uint32_t	 intensity, period_s;
};

/* NULL, or what is wrong (duplicate id, parent behind child, unknown peer, bad number): nothing was started. */
const char *spec_check(const struct tree *);

#endif
