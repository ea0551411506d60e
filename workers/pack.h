/*
 * pack - the journal of a parked session in as few octets as it has, in a file of its own
 *
 * A journal has its parts at fixed places, each on pages of its own, most of them all but empty. While nobody is there it is
 * kept packed: the numbers of its core, then runs of what is not zero. Input, output and content are empty then.
 */
#ifndef WORKERS_PACK_H
#define WORKERS_PACK_H

#include "workers/journal.h"

/* A memfd with the committed state of this journal; -1 and errno. */
int	pack_make(const struct journal *);
/* Whether fd is such a one; numbers (may be NULL): those of the core, as journal_peek. */
bool	pack_is(int fd, struct core *numbers);
/* A journal as it was before pack_make, for journal_open: a new memfd; -1: it makes no sense, or errno. */
int	pack_undo(int fd);

#endif
