/*
 * balancer - the backends of all services, shared by the files of the balancer's process
 *
 *	balancer.c        the process: peers, picks, probes, questions of admin
 *	balancer_names.c  addresses of backends given by name
 *	balancer_drain.c  what an operator drained, kept over a restart
 */
#ifndef WORKERS_BALANCER_H
#define WORKERS_BALANCER_H

#include <sys/socket.h>
#include <ev.h>

#include "supervisor/worker.h"
#include "workers/conf.h"
#include "workers/gw_msg.h"
#include "workers/health.h"

struct backend {
	char		 name[CONF_NAME], host[CONF_HOST];
	uint16_t	 port;
	struct sockaddr_storage addr;
	socklen_t	 addrlen;		/* 0: not known yet */
	struct health	 health;
	bool		 drained, probing;
	uint32_t	 sessions;
	uint64_t	 total, failures, probe_id, probe_deadline_ms, last_probe_ms;
	char		 last_error[128];
};
struct bservice {
	char		 name[CONF_NAME];
	uint32_t	 n, turn;
	struct backend	 backend[CONF_BACKENDS];
};
struct blistener {			/* a protocol's listener */
	struct balancer	*b;
	struct chan	 chan;
	char		 protocol[16];
	uint32_t	 held[CONF_SERVICES][CONF_BACKENDS];	/* sessions it holds where */
};
enum { BLISTENERS = 16 };
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
	int		 names_fd;
};

/* balancer_names.c */
void	names_start(struct balancer *);		/* numeric ones at once, others by a child that asks the resolver */
void	names_refresh(struct balancer *);

/* balancer_drain.c */
void	drain_load(struct balancer *);
int	drain_save(struct balancer *);		/* 0, or -1 and errno */

#endif
