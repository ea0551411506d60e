/* zygote - forks the session processes of one protocol ahead of demand (zygote.c) */
#ifndef WORKERS_ZYGOTE_H
#define WORKERS_ZYGOTE_H

#include <stddef.h>

#include "workers/behaviour.h"

/* In a session's process: where an orphan is taken in, a channel to its zygote that it shares with its siblings. */
enum { ORPHAN_FD = 5 };

int	zygote_main(int argc, char **argv, const struct behaviour *);
int	listener_main(int argc, char **argv, const struct behaviour *);

/* The system calls that the filter leaves to a zygote and its sessions (zygote_calls.c). */
extern const int	zygote_calls[];
extern const size_t zygote_ncalls;

#endif
