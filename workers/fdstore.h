/* fdstore - what the files of the fdstore's process share (fdstore.c) */
#ifndef WORKERS_FDSTORE_H
#define WORKERS_FDSTORE_H

#include <bsd/sys/queue.h>

#include "supervisor/worker.h"
#include "workers/conf.h"
#include "workers/gw_msg.h"

enum { LISTENERS = 16, FDSTORE_HASH = 8192, FDSTORE_SOCKETS = 128 };

struct kept {
	struct msg_keep	 info;
	int		 fd[KEEP_FDS];		/* -1: none */
	TAILQ_ENTRY(kept) link, hash;
};
TAILQ_HEAD(keptlist, kept);

struct owner {					/* a listener, dead or alive */
	char		 id[64];
	uint64_t	 generation;
	struct chan	 chan;
	ev_timer	 anew;			/* something that it gave was lost */
	struct keptlist	 all;
	struct kept	*next;			/* to give */
	struct keptlist	 by_sid[FDSTORE_HASH];
};

struct fdstore {
	struct worker	*w;
	const struct conf *conf;
	uint32_t	 share;
	struct owner	 owner[LISTENERS];
	struct { char key[96]; int fd; } socket[FDSTORE_SOCKETS];	/* that bmrd listens on */
	uint32_t	 nsocket;
};

/* fdstore.c */
void	fdstore_socket(struct fdstore *, const char *key, int fd);	/* takes fd: a listening socket, kept if it is configured */
struct owner *fdstore_owner(struct fdstore *, const char *id);		/* NULL: too many */
void	fdstore_put(struct owner *, const struct msg_keep *, int fd[]);	/* takes those that are there */
/* Sends some from o->next on, with that tail; how many. */
uint32_t fdstore_send(struct owner *, struct chan *, struct bytes tail);

/* fdstore_heir.c: the succession of a bmrd that was killed */
int	heir_start(struct fdstore *);		/* takes over from another fdstore, if there is one; 0, or -1 and errno */
void	heir_gone(struct fdstore *);		/* a listener is gone */

#endif
