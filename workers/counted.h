/*
 * counted - the client's socket read and written with counts that survive a kill at any point
 *
 * recvmmsg(2) and sendmmsg(2) store the number of octets into memory of the caller's before they return. That memory is
 * the journal's: a process that is killed between such a call and the commit that counts it has told its successor
 * what the kernel took or gave. This works on any stream: TCP, or a socketpair to a process that does TLS.
 */
#ifndef WORKERS_COUNTED_H
#define WORKERS_COUNTED_H

#include <sys/types.h>

#include "workers/journal.h"

/* As recv(2) to the end of the input, at most n octets. The core must be committed with its in_end and client_in. */
ssize_t	counted_recv(struct journal *, const struct core *, int sock, size_t n);
/* As send(2) of the octets owed. The core must be committed with its out_start and client_out. */
ssize_t	counted_send(struct journal *, const struct core *, int sock);
/* Takes over into a core just loaded what was read and written after its commit. 0, or -1: the numbers are nonsense. */
int	counted_adopt(const struct journal *, struct core *);
/* As journal_peek, of one whose process is dead: with the same taken over. */
int	counted_peek(int fd, struct core *numbers);

#endif
