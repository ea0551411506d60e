/*
 * calls - requests of the API that wait for what other processes say, each with one deadline
 *
 *	admin.c   the process: configuration, socket        api.c    paths, arguments, answers
 *	calls.c   questions to peers and what comes back    http.c   HTTP           memory.c   /proc
 */
#ifndef WORKERS_ADMIN_CALLS_H
#define WORKERS_ADMIN_CALLS_H

#include <bsd/sys/queue.h>
#include <jansson.h>

#include "supervisor/worker.h"
#include "workers/admin/http.h"
#include "workers/conf.h"
#include "workers/share.h"

enum {
	PEERS = LISTENERS_MAX + 2,	/* listeners, the balancer and the keeper of keys */
	ASK_ROOT = PEERS,		/* bmrd's place in call.waits */
	CALL_MS = 2000, CHECK_MS = 25000,
	CALL_OCTETS = 64 << 20		/* of rows kept for one answer */
};

struct admin;
struct call;

struct peer {
	struct admin	*a;
	struct chan	 chan;
	char		 id[64];		/* "smtp/listener"; "": a free place */
	uint64_t	 generation;
	uint8_t		 role;
};

struct admin {
	struct worker	*w;
	const struct conf *conf;
	struct http	*http;
	struct peer	 peer[PEERS];
	uint64_t	 next_id;
	TAILQ_HEAD(, call) calls;
};

struct call {
	struct admin	*a;
	struct http_req	*req;
	uint64_t	 id;
	ev_timer	 deadline;
	void		(*done)(struct call *);	/* answers: all came, or what is lacking is in missing */
	uint8_t		 waits[PEERS + 1];	/* ENDs (or last NODEs) to come from each */
	uint32_t	 nwaits, answered, good;	/* open questions; those answered; those of them with code 0 */
	size_t		 octets;
	/* what came */
	json_t		*rows, *backends, *certificates, *nodes, *missing;
	uint32_t	 code;			/* first that is not 0, of sysexits.h */
	char		 why[512];
	bool		 late;			/* the deadline passed */
	/* the request */
	char		 arg[2][128], reason[200], what[300];
	char		 user[64], password[128];	/* for a check of a backend */
	uid_t		 uid;
	pid_t		 pid;
	TAILQ_ENTRY(call) link;
};

/* NULL: no memory. done may be called as soon as call_ready is. */
struct call *call_new(struct admin *, struct http_req *, void (*done)(struct call *));
/* Each notes in missing who is not there. tail: as the message says. */
void	call_listeners(struct call *, uint32_t what, struct bytes tail);	/* QUERY_*, all of every protocol */
void	call_protocols(struct call *, uint32_t what, struct bytes tail);	/* one of every protocol */
void	call_balancer(struct call *, uint32_t what, struct bytes tail);
void	call_tls(struct call *, uint32_t what);
void	call_tree(struct call *);
void	call_reload(struct call *);
/* All was asked: ends at once if there is nothing to wait for. The call may be gone after it. */
void	call_ready(struct call *);
/* Frees; the request must have been answered. */
void	call_free(struct call *);

/* worker_ops.peer and worker_ops.from_root */
void	calls_peer(struct worker *, uint8_t role, const char *id, uint64_t generation, int fd);
int	calls_from_root(void *worker, struct chan *, const struct msg_head *, const uint8_t *body, int fd[], int nfds);
/* Answers what still waits with what there is. */
void	calls_end(struct admin *);

#endif
