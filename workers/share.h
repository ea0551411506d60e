/*
 * share - the sessions of a protocol are spread over shares, each with a listener, a zygote and an fdstore of its own
 *
 * A process can hold only so many descriptors, and one listener runs on one core. The first share's processes are called
 * "pop3/listener", "pop3/zygote", "fdstore", the second's "pop3/listener-2" and so on.
 */
#ifndef WORKERS_SHARE_H
#define WORKERS_SHARE_H

#include <stddef.h>
#include <stdint.h>

enum { SHARES = 8, LISTENERS_MAX = 32 };	/* listeners: of all protocols and shares together */

/* The id of a share's process: share 0 is the first. */
void	share_id(char *dst, size_t size, const char *base, uint32_t share);
/* Of which share a process of this id is; 0 for one that knows no shares. */
uint32_t share_of(const char *id);
/* Its id without the share: the length of it. */
size_t	share_base(const char *id);

#endif
