/*
 * sandbox - privileges given up by every worker in one function, in one order
 *
 * Zeros mean: nothing to do. As root: chroot to the empty root, then group, groups, user. Always: no new privileges,
 * no core dump, not traceable by others of the same user, who see neither its memory nor its descriptors. READY is sent after it.
 */
#ifndef SUPERVISOR_SANDBOX_H
#define SUPERVISOR_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sandbox {
	bool		 drop;			/* to the ids below */
	uint32_t	 uid, gid;
	const char	*empty_root;		/* lent; a directory, made when missing, mode 0555 */
	const int	*calls;			/* lent; every other system call kills the process, and such of fcntl(2) as send signals; NULL: any */
	size_t		 ncalls;
};

/* 0, or -1 and a line in the log: the worker must not go on. */
int	sandbox_enter(const struct sandbox *);

#endif
