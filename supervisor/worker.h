/*
 * worker - the frame of every process under bmrd: descriptors, hello, stop, peers, loop
 *
 * Descriptors at exec: 0-2 /dev/null (or stderr with -F), 3 channel to bmrd, 4 log, 5 sealed configuration
 * image. argv: image, id, generation, "v" or "-", then the spec's arguments. A worker does not end when channel 3 ends: bmrd may be replaced.
 */
#ifndef SUPERVISOR_WORKER_H
#define SUPERVISOR_WORKER_H

#include <ev.h>
#include <stdbool.h>

#include "supervisor/chan.h"
#include "supervisor/sandbox.h"

enum { SUP_FD = 3, CONF_FD = 5 };

struct worker;
struct worker_ops {
	uint8_t	  role;
	/* Called in order: start (may still be privileged), then privileges drop, then READY. 0, or an exit code. */
	int	(*start)(struct worker *, int argc, char **argv);
	/* A channel to another process. Takes fd: opens a chan on w->loop with it. peer_id is lent. */
	void	(*peer)(struct worker *, uint8_t role, const char *peer_id, uint64_t generation, int fd);
	void	(*listen)(struct worker *, uint32_t index, const char *service, int fd);	/* takes fd */
	void	(*config)(struct worker *, const void *image, size_t);	/* mapped for good; NULL: ignore reloads */
	/* Calls worker_end; NULL: ends at once. again: another process comes in this one's place, and what is left goes to it. */
	void	(*stop)(struct worker *, uint64_t deadline_ms, bool again);
	/* messages from bmrd that are answers (NODE, CTLED); NULL: none expected */
	chan_read_fn *from_root;
};
struct worker {
	const struct worker_ops	*ops;
	const char		*id;		/* child id, "smtp/listener" */
	uint64_t		 generation;
	struct ev_loop		*loop;
	struct chan		 root;
	const void		*conf;		/* sealed image; see workers/conf.h */
	size_t			 conf_size;
	bool			 verbose;
	struct sandbox		 sandbox;	/* start() fills it in; zeros: keep what there is */
	bool			 holds;		/* start() sets it: has what must not be lost, and serves on if bmrd died meanwhile */
	int			 code;
	void			*self;		/* the worker's own */
};

/* Runs a worker to its end; returns the exit code. The sandbox is entered between start and READY. */
int	worker_main(const struct worker_ops *, int argc, char **argv);
void	worker_end(struct worker *, int code);			/* breaks the loop */
void	worker_badpeer(struct worker *, const char *peer_id, uint64_t generation);	/* tells bmrd */
/* Asks bmrd for another process in this one's place, which goes on until it is told to stop. -1: there is no bmrd. */
int	worker_renew(struct worker *);
bool	worker_alone(const struct worker *);	/* bmrd is gone, though we may not have heard of it yet */

#endif
