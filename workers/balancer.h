/*
 * balancer - the backends of all services, shared by the files of the balancer's process
 *
 *	balancer.c        the process: peers, picks, probes, questions of admin
 *	balancer_names.c  addresses of backends given by name
 *	balancer_peers.c  what listeners tell each other
 *	balancer_drain.c  what an operator drained, kept over a restart
 */
#ifndef WORKERS_BALANCER_H
#define WORKERS_BALANCER_H

#include <sys/socket.h>
#include <netinet/in.h>
#include <ev.h>

#include "supervisor/worker.h"
#include "workers/conf.h"
#include "workers/counts.h"
#include "workers/gw_msg.h"
#include "workers/health.h"
#include "workers/share.h"

enum { NAME_ADDRS = 8 };
struct backend {
	char		 name[CONF_NAME], host[CONF_HOST];
	uint16_t	 port;
	struct sockaddr_storage addr;
	socklen_t	 addrlen;		/* 0: not known yet */
	struct sockaddr_in6 others[NAME_ADDRS];	/* all that its name has, in IPv4 a sockaddr_in */
	uint32_t	 nothers;
	bool		 nameless;		/* and that was said */
	struct health	 health;
	bool		 drained, probing, operators;	/* operators: an operator drained it, or made ready what its file has drained */
	bool		 known;			/* what the file of drains says of it is known */
	uint32_t	 sessions;
	uint64_t	 total, failures, probe_id, probe_deadline_ms, last_probe_ms;
	char		 last_error[128];
	struct caps	 caps;			/* as a listener last told it; known 0: not yet */
};
struct bservice {
	char		 name[CONF_NAME];
	uint32_t	 n, turn;
	struct backend	 backend[CONF_BACKENDS];
};
struct blistener {			/* one of a protocol's listeners */
	struct balancer	*b;
	struct chan	 chan;
	char		 id[64], protocol[16];	/* "pop3/listener-2", "pop3"; "": a free place */
	uint32_t	 held[CONF_SERVICES][CONF_BACKENDS];	/* sessions it holds where */
};
enum { BLISTENERS = LISTENERS_MAX };
struct balancer {
	struct worker	*w;
	const struct conf *conf;
	struct bservice	 service[CONF_SERVICES];
	struct blistener listener[BLISTENERS];
	struct chan	 admin;
	ev_timer	 tick;
	uint64_t	 next_probe;
	struct ev_loop	*loop;
	ev_io		 names_io;
	int		 names_fd, counts_fd;	/* counts_fd: the table of listeners' counts; a listener's place is its row */
};

/* balancer_names.c */
void	names_start(struct balancer *);		/* numeric ones at once, others by a child that asks the resolver */
void	names_refresh(struct balancer *);
void	names_next(struct backend *);		/* another address of its name, if there is one */

/* balancer_peers.c */
void	peers_listener(struct balancer *, const char *id, int fd, int (*read)(void *, struct chan *, const struct msg_head *,
	    const uint8_t *, int[], int), void (*gone)(void *, struct chan *, const char *));	/* takes fd */
int	peers_caps(struct blistener *, const struct msg_caps *);	/* as handlers */
int	peers_logged(struct blistener *, const struct msg_logged *);

/* balancer_drain.c */
void	drain_learn(struct balancer *);			/* of backends that are new: whether an operator has drained them */
int	drain_save(struct balancer *);		/* 0, or -1 and errno */

#endif
