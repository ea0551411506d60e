/* memory - what a process takes, from /proc */
#ifndef WORKERS_ADMIN_MEMORY_H
#define WORKERS_ADMIN_MEMORY_H

#include <stdint.h>
#include <sys/types.h>

/* KiB; 0 where the kernel does not tell (another user's process). pss: shared pages divided among who maps them. */
void	memory_of(pid_t, uint64_t *rss_kb, uint64_t *pss_kb);

#endif
