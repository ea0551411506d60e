/*
 * child - forks and execs one worker, signals it, reaps
 *
 * Descriptors of the new process: 0-2 /dev/null (stderr kept on request), 3 channel, 4 log, 5 configuration image;
 * nothing else. Signals and mask as at login, a session of its own, an environment built from nothing.
 */
#ifndef SUPERVISOR_CHILD_H
#define SUPERVISOR_CHILD_H

#include <sys/types.h>
#include <stdbool.h>
#include <stdint.h>

#include "supervisor/spec.h"

struct child_env {
	const char	*directory;	/* of the images */
	int		 conf_fd;
	bool		 keep_stderr, verbose;
};

/* The pid, with the parent's end of its channel in *chan_fd; or -1 and errno, that of a failed exec included. */
pid_t	child_spawn(const struct spec *, const struct child_env *, uint64_t generation, int *chan_fd);
/* TERM or KILL, and CONT: a stopped process cannot obey. */
void	child_signal(pid_t, int sig);

#endif
