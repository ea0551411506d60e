/*
 * admin - what the files of the admin process share
 *
 *	admin.c  the process: peers, questions to them and their answers
 *	http.c   HTTP on the control socket; nothing in it knows what is asked
 *	api.c    what may be asked, and the answers as JSON
 */
#ifndef WORKERS_ADMIN_ADMIN_H
#define WORKERS_ADMIN_ADMIN_H

#include <bsd/sys/queue.h>
#include <ev.h>
#include <jansson.h>

#include "supervisor/worker.h"
#include "workers/conf.h"
#include "workers/gw_msg.h"

struct admin;
struct http_request;			/* http.c */

/* A question put to other processes. Answered when all have ended their answers, or at the deadline. */
struct ask {
	struct admin	*a;
	uint64_t	 id;
	uint32_t	 waiting;		/* peers that have not ended */
	uint32_t	 ended_well;
	int		 code;			/* of sysexits.h: the worst that was said */
	bool		 timed_out;
	char		 why[512];
	json_t		*rows;
	ev_timer	 deadline;
	void		(*done)(struct ask *);	/* api.c; the ask is freed behind it */
	struct http_request *req;
	TAILQ_ENTRY(ask) link;
};

enum { ADMIN_PEERS = 20, ASK_SECONDS = 2 };
struct peer { struct admin *a; struct chan chan; uint8_t role; char id[64]; };

struct admin {
	struct worker	*w;
	const struct conf *conf;
	struct peer	 peer[ADMIN_PEERS];
	uint64_t	 next_id;
	TAILQ_HEAD(, ask) asks;
	struct http	*http;
};

/* admin.c */
struct ask *ask_new(struct admin *, struct http_request *, void (*done)(struct ask *));
/* To every peer of this role; what: QUERY_*. */
void	ask_peers(struct ask *, uint8_t role, uint32_t what, struct bytes tail);
void	ask_tree(struct ask *);
void	ask_ctl(struct ask *, uint32_t deed, const char *child);
void	ask_go(struct ask *);			/* everything is asked: answers at once if nobody was there to ask */
void	ask_forget(struct admin *, struct http_request *);	/* the client is gone */

/* http.c. path and body are lent and end with a zero octet. */
struct http *http_start(struct admin *, const char *socket, void (*handle)(struct admin *, struct http_request *,
	    const char *method, const char *path, const char *body));
void	http_answer(struct http_request *, unsigned status, json_t *);	/* takes the JSON */
void	http_stop(struct http *);

/* api.c */
void	api_handle(struct admin *, struct http_request *, const char *method, const char *path, const char *body);

#endif
