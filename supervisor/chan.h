/*
 * chan - a SEQPACKET socketpair that carries declared messages with descriptors
 *
 * A message on the wire: struct msg_head, the fixed body, a tail of bytes. One read per loop turn; a bounded
 * queue for what the peer does not take yet. An end of the channel (EOF, ECONNRESET) is told once by `gone`.
 * Nonsense from the peer (msg.h says what that is) is told by `bad`: the owner has the *sender* punished.
 */
#ifndef SUPERVISOR_CHAN_H
#define SUPERVISOR_CHAN_H

#include <ev.h>
#include <stdint.h>
#include <sys/types.h>

#include "supervisor/buf.h"

enum {
	CHAN_MAX = 16384,	/* octets of a whole message */
	CHAN_FDS = 4,		/* descriptors with a message */
	CHAN_QUEUE = 512	/* messages waiting for a slow peer, default */
};

struct msg_head {
	uint16_t	type;
	uint16_t	fixed;		/* octets of the fixed body */
	uint32_t	tail;		/* octets behind it */
};

struct chan;
/* One message. fds are the receiver's to close; a handler that keeps one sets its slot to -1. 0, or -1: nonsense. */
typedef int	chan_read_fn(void *self, struct chan *, const struct msg_head *, const uint8_t *body, int fd[],
		    int nfds);
typedef void	chan_end_fn(void *self, struct chan *, const char *why);	/* may free the channel */

struct chan {
	int		 fd;
	uint8_t		 me, peer;		/* roles, for the check of each message */
	const char	*name;			/* of the peer, for the log; lent */
	void		*self;
	chan_read_fn	*read;
	chan_end_fn	*gone;
	chan_end_fn	*bad;			/* NULL: as gone */
	chan_end_fn	*lost;			/* a message for whose descriptors we have no room was passed over; NULL: as bad */
	struct ev_loop	*loop;
	ev_io		 rd, wr;
	struct chan_msg	*head, **last;		/* waiting to be written */
	uint32_t	 queued, queue_max;
};

/* A connected pair, close-on-exec and non-blocking. 0, or -1 and errno. */
int	chan_pair(int fd[2]);
/* Takes fd. The owner sets the callbacks in c before. Starts to read when loop is given. */
void	chan_open(struct chan *c, struct ev_loop *loop, int fd);
/* Closes and frees what is queued; may be called twice, and from a callback. */
void	chan_close(struct chan *c);
/* Gives the descriptor back, whatever was queued is dropped; the channel is as if it were closed. -1: it was. */
int	chan_detach(struct chan *);
/* Sends or queues; descriptors are lent (duplicated when queued). 0, or -1: EPIPE gone, ENOBUFS queue full, EMSGSIZE. */
int	chan_send(struct chan *c, uint16_t type, const void *body, size_t fixed, struct bytes tail, const int fd[],
	    int nfds);
/* For a process without a loop (a session): waits for nothing; reads one message if there is one.
 * 1 a message was handled, 0 none there, -1 the channel ended or was nonsense. */
int	chan_poll(struct chan *c);

#endif
