/*
 * spool - a session's message content: its first part in the journal, the rest in an unlinked file
 *
 * Written once in order, read by offset as often as a replay needs. Promises that the process's memory
 * does not grow with the message. No durability is owed: the client has no 2yz yet.
 */
#ifndef WORKERS_SPOOL_H
#define WORKERS_SPOOL_H

#include <stdint.h>
#include <sys/types.h>

#include "supervisor/buf.h"

struct spool {
	int		mem, file;	/* lent: the journal's; owned: -1 until spool_file */
	uint64_t	base, cap;	/* where the part in the journal begins, and its size */
	uint64_t	high;		/* octets the file holds */
};

void	spool_init(struct spool *, int mem, uint64_t base, uint64_t cap);
/* Takes the unlinked file. */
void	spool_file(struct spool *, int fd);
/* Whether octets up to end need the file that is not there yet. */
bool	spool_needs_file(const struct spool *, uint64_t end);
/* Writes b at offset at. 0, or -1 and errno (ENOSPC). */
int	spool_write(struct spool *, uint64_t at, struct bytes b);
/* Sends octets from `at`, at most n, to a socket. As write(2). */
ssize_t	spool_send(struct spool *, int sock, uint64_t at, uint64_t n);
/* Gives memory and disk back; offsets start at 0 again. */
void	spool_reset(struct spool *, uint64_t len);
void	spool_close(struct spool *);

#endif
