/*
 * listener - the table of one protocol's clients, shared by the files of the listener's process
 *
 *	listener.c   the process: peers, configuration, stop, questions of admin
 *	sessions.c   accept, admission, warm processes, each session's messages and end
 *	keep.c       what a session is kept by when its process dies: its client's socket, its journal, a fresh process
 *	park.c       sessions without a process, woken when somebody speaks
 *	deposit.c    what the fdstore is given of sessions, and gives back to a successor
 *	connector.c  a backend for a session: asks the balancer, connects
 *	secure.c     TLS for clients and backends, by tls processes
 *	proxied.c    clients that come through a trusted proxy
 *	logins.c     penalties for logins that fail, and for crashes
 *	probes.c     health checks on the balancer's behalf; what backends can do (the offer)
 */
#ifndef WORKERS_LISTENER_H
#define WORKERS_LISTENER_H

#include <sys/resource.h>
#include <sys/socket.h>
#include <bsd/sys/queue.h>
#include <ev.h>

#include "supervisor/worker.h"
#include "workers/behaviour.h"
#include "workers/conf.h"
#include "workers/counts.h"
#include "workers/gw_msg.h"
#include "workers/penalty.h"
#include "workers/proxy.h"
#include "workers/share.h"

struct listener;

struct patience {			/* with who was asked for processes: what fails there is not told */
	uint32_t	 ticks, limit;		/* without one since; after how many it is asked anew, each time twice as many */
};

struct lsock {				/* a listening socket */
	struct listener	*l;
	ev_io		 io;
	uint32_t	 service, index;
	int		 fd;
	ev_tstamp	 held_since;		/* clients are left in its queue, since there is no process for them; 0: no */
	TAILQ_ENTRY(lsock) link;
};

struct connect {			/* a connection to a backend under way */
	ev_timer	 timer;
	int		 fd;
	bool		 watched;
};

enum { HANDSHAKE_HASH = 256 };
struct handshake;
struct tlsproc;

/* From SESS_CLIENT on a client is there; RESUMING: he waits for a process. */
enum sess_state { SESS_WARM, SESS_PROBE, SESS_ENDED, SESS_CLIENT, SESS_RESUMING, SESS_PARKED };

struct sess {
	struct listener	*l;
	struct chan	 chan;
	enum sess_state	 state;
	uint64_t	 serial, sid, zygote;		/* zygote: generation of the one that forked its process */
	uint32_t	 pid, service;
	struct peerinfo	 peer;
	struct tlsinfo	 tls;			/* with the client */
	struct handshake *handshake[2];		/* under way, by enum side */
	/* its backend */
	uint64_t	 route_id, pick_id, avoid;	/* pick_id: of the question to the balancer under way */
	int32_t		 backend;		/* number the balancer counts for it; -1 none, or gone from the configuration */
	uint32_t	 backend_told;		/* the number that the session knows it by */
	char		 backend_name[32];
	ev_tstamp	 lacked;		/* when it was told last that there is no backend: it asks again and again */
	bool		 picking, xclient, told;	/* picking: in by_route; told: a probe's result */
	struct connect	 conn;
	uint8_t		 proxied;		/* the version of the PROXY header that its connection began with, 0: none */
	/* a probe's */
	struct msg_probe probe;
	uint64_t	 check;			/* the question of admin that it answers, 0: a health check */
	struct tlsinfo	 backend_tls;
	ev_timer	 deadline;
	/* who */
	char		 user[64];
	uint32_t	 failovers, phase;
	ev_tstamp	 since;
	uint32_t	 address_slot;
	/* what outlives its process (keep.c) */
	int		 client, journal, file;		/* -1: none; file: content above what the journal holds */
	uint32_t	 resumed, dead_pid;
	uint32_t	 crashes, quick;		/* one after the other at the same point; at short intervals */
	int32_t		 dead_status;			/* of waitpid, -1: not told */
	struct { uint64_t in, out, content; } point;	/* how far it was when its process died last */
	ev_tstamp	 crashed_at;
	bool		 deposited, to_deposit;
	int		 kept_backend;			/* of a parked one; -1: none */
	uint64_t	 wake_ms;			/* CLOCK_MONOTONIC, 0: never */
	ev_tstamp	 idle_since;
	uint32_t	 kick_why;			/* enum why */
	bool		 rezygote;			/* to go on in a process of another zygote */
	bool		 kicked, moved_off, resuming, had_work, give_up;	/* resuming: in the list of those that wait for a process */
	TAILQ_ENTRY(sess) link;
	TAILQ_ENTRY(sess) hash;
	TAILQ_ENTRY(sess) wait;				/* SESS_RESUMING */
	TAILQ_ENTRY(sess) deposit;
};
TAILQ_HEAD(sesslist, sess);

struct waiting {			/* an accepted client for which there is no process or no backend yet */
	struct listener	*l;
	int		 fd;
	uint32_t	 service;
	uint8_t		 mode;			/* of its listening socket: enum conf_mode */
	bool		 auth_plaintext;
	bool		 delayed;		/* its time has not come yet (logins_delay) */
	ev_tstamp	 since, came;		/* by the clock; by listener_clock: not served before that, nor kept waiting for long after */
	struct ends	 ends;
	struct tlsinfo	 tls;			/* version "": none */
	TAILQ_ENTRY(waiting) link;
};

enum { HASH = 4096 };

struct service {			/* of this protocol; the index is the one in the image */
	bool		 mine;
	char		 name[CONF_NAME];
	struct limits	 limits;	/* with the behaviour's defaults filled in */
	struct times	 times;
	struct msg_probe last[CONF_BACKENDS];	/* how the balancer last asked for a probe: the address */
	struct caps	 caps[CONF_BACKENDS];
	char		 caps_name[CONF_BACKENDS][CONF_NAME];
	struct caps	 offer;
	uint32_t	 sessions;
	uint64_t	 accepted, refused, ended, tls_failed, logins_failed;
};

struct listener {
	const struct behaviour *b;
	struct worker	*w;
	const struct conf *conf;
	struct service	 service[CONF_SERVICES];
	TAILQ_HEAD(, lsock) socks;
	struct sesslist	 warm, active, resuming, undeposited;
	TAILQ_HEAD(, waiting) waiting;
	uint32_t	 nwarm, coming, nactive, nwaiting, ndelayed, nresuming, warm_target;	/* nwaiting: without the delayed */
	uint64_t	 last_sid, next_route, zygote_now;	/* zygote_now: its generation */
	struct chan	 zygote, balancer, admin, tls, fdstore;
	struct patience	 zygote_patience, tls_patience;
	int		 parked;		/* epoll set of the sockets of parked sessions */
	ev_io		 parked_io;
	ev_timer	 parked_timer, deposit_timer;
	uint32_t	 nparked;
	bool		 inherited;		/* the fdstore was asked for a predecessor's sessions */
	bool		 kept_lost, asked_anew;	/* one came without its descriptors; for that it was asked again, for all */
	uint32_t	 ninherited;
	TAILQ_HEAD(, tlsproc) tlsprocs;
	TAILQ_HEAD(, handshake) handshakes[HANDSHAKE_HASH];	/* by id */
	uint32_t	 nhandshakes, nunsent, tls_coming;	/* nunsent: of them, those that wait for a tls process */
	TAILQ_HEAD(, waiting) proxied;		/* their PROXY header is not whole yet */
	uint32_t	 nproxied;
	int		 proxied_set;
	ev_io		 proxied_io;
	uint64_t	 next_handshake, tls_serial;	/* serial: of the certificates in use */
	ev_timer	 tick;
	struct sesslist	 by_route[HASH];	/* sessions that wait for PICKED, by route_id */
	struct penalties penalties;		/* of addresses and users whose logins have failed */
	struct penalties crashed;		/* of addresses whose sessions have */
	uint64_t	 crashes;
	struct counts	 counts;		/* clients of each address and service, with those of the other listeners */
	rlim_t		 files;			/* descriptors that we may have */
	uint32_t	 share;
	struct msg_probe probes[64];		/* asked for while no process was warm */
	uint32_t	 nprobes;
	bool		 stopping, leaving;
	bool		 resting;		/* others accept */
	uint32_t	 came;			/* clients since the last tick */
	uint32_t	 tell_held;		/* seconds for which the balancer is told the counts anew */
	int		 connecting;		/* epoll set of the sockets that connect */
	ev_io		 connecting_io;
};

/* accept.c */
ev_tstamp listener_clock(void);		/* seconds, monotonic: what waits is not to wait longer because the clock was set */
void	accept_clients(struct listener *, struct lsock *);
void	accept_tick(struct listener *);			/* each second */
void	accept_unhold(struct listener *);		/* there may be processes or backends again */
bool	accept_room(struct listener *);			/* for one more session: descriptors, here and in the fdstore */
uint32_t accept_queued(const struct listener *);	/* how many wait in the accept queues of sockets that are held off */

/* sessions.c */
void	sessions_refuse(struct listener *, uint32_t service, int fd, enum why, bool in_words);	/* takes fd */
void	sessions_arrived(struct waiting *);		/* takes it: who it is, is known */
void	sessions_wait(struct waiting *);		/* takes it: it can be served */
void	sessions_forget(struct waiting *);		/* takes it: it has gone */
void	sessions_child(struct listener *, int fd, uint32_t pid, uint64_t serial);
void	sessions_top_up(struct listener *);		/* asks the zygote for warm processes */
bool	sessions_overdue(struct patience *, uint32_t coming);	/* each second: whether those that are to come are to be forgotten */
void	sessions_serve_waiting(struct listener *);	/* gives waiting clients processes, refuses the late */
/* Numeric address and port; an IPv4 address that came over an IPv6 socket is written as IPv4. */
void	sessions_address(const struct sockaddr_storage *, char *dst, size_t size, uint16_t *port, bool *v6);
void	sessions_refuse_all(struct listener *);
struct sess *sessions_warm(struct listener *);		/* takes one, or NULL */
void	sessions_free(struct sess *);
void	sessions_peerinfo(struct listener *, uint32_t service, struct peerinfo *);	/* what the configuration says */
void	sessions_unused_warm(struct listener *);	/* ends the warm ones */
void	sessions_log_end(struct sess *, const struct msg_bye *);
int	sessions_start(struct sess *, uint64_t flags);	/* hands client and journal to its process; as chan_send */

struct sess *sessions_new(struct listener *);		/* in no list, or NULL */
void	sessions_chan(struct sess *, int fd);		/* takes fd: the channel to its process */
void	sessions_count(struct sess *);			/* a client's: into the list and all counts */
void	sessions_goodbye(struct sess *);		/* ends one that has no process: the gateway stops */

/* park.c */
int	park_start(struct listener *);			/* 0, or -1 and errno */
void	park_said(struct sess *, int backend, uint64_t wake_ms, bool moving);	/* takes backend, which may be -1 */
void	park_begin(struct sess *, int backend, uint64_t wake_ms);
void	park_wake(struct sess *);			/* if it is parked */
void	park_free(struct sess *);
void	park_stop(struct listener *);

/* deposit.c */
void	deposit_later(struct sess *);			/* when it is old enough */
void	deposit_now(struct sess *);
void	deposit_changed(struct sess *);			/* its descriptors; at once, if it was given before */
void	deposit_news(struct sess *);			/* user, backend */
void	deposit_drop(struct sess *);
void	deposit_start(struct listener *);
void	deposit_peer(struct listener *);		/* there is an fdstore */
void	deposit_anew(struct listener *);		/* it has lost something */
int	deposit_kept(struct listener *, const struct msg_kept *, int fd[]);	/* as a handler */
int	deposit_orphan(struct listener *, const struct msg_orphan *, int fd[]);	/* as a handler */
void	deposit_given(struct listener *, const struct msg_given *);
void	deposit_leave(struct listener *);		/* gives all away and ends the listener */
void	deposit_tick(struct listener *);		/* each second; ends it when it leaves and all is given */

/* keep.c */
void	keep_want(struct sess *);			/* a process, please: SESS_RESUMING */
void	keep_move(struct sess *);			/* leave your backend; a parked one is woken for it */
void	keep_kick(struct sess *, enum why);
void	keep_rezygote(struct sess *);			/* go on in a process of another zygote, at the next safe point */
void	keep_zygote(struct listener *, uint64_t generation);	/* there is a zygote */
void	keep_lost(struct sess *);			/* its process is gone without BYE: another goes on */
void	keep_serve(struct listener *);			/* gives processes to those that wait for one */
void	keep_died(struct listener *, const struct msg_died *);
void	keep_stop(struct listener *);			/* ends those that have no process */
void	keep_free(struct sess *);			/* its end: client's socket and journal are closed */

/* connector.c */
int	connector_start(struct listener *);		/* 0, or -1 and errno */
void	connector_route(struct sess *, const struct msg_route *);
uint64_t connector_lacking(const struct listener *);	/* sessions that wait for a backend */
void	connector_picked(struct listener *, const struct msg_picked *);
void	connector_to(struct sess *, const struct sockaddr *, socklen_t);	/* answers BACKEND or NOBACKEND */
void	connector_release(struct sess *);		/* tells the balancer that its backend is free */
void	connector_cancel(struct sess *);		/* nothing more comes for a session that ends */

void	connector_secured(struct sess *, int fd, const char *why);	/* secure_connect: takes fd; -1 and why it failed */

/* logins.c */
void	logins_start(struct listener *, uint64_t secret);
bool	logins_watch(const struct listener *, const char *addr);	/* whether a session is to ask before a login */
int	logins_ask(struct sess *, const struct msg_authask *);
int	logins_ended(struct sess *, const struct msg_authed *);
void	logins_count(struct listener *, const struct msg_logged *);	/* a login went well or failed, here or with another listener */
void	logins_crashed(struct sess *);
uint32_t logins_delay(const struct listener *, const char *addr);	/* milliseconds that a client from there has to wait */

/* proxied.c */
int	proxied_start(struct listener *);		/* 0, or -1 and errno */
void	proxied_wait(struct waiting *);			/* takes it; sessions_arrived when its header is there */
void	proxied_tick(struct listener *);

/* secure.c: each takes the socket and closes it. Of a backend a session learns the result by SECURED or INSECURE, of its client on
 * the clear end, of which the far one is given here, or by INSECURE. */
void	secure_start(struct listener *);
void	secure_child(struct listener *, int fd, const struct msg_tlschild *);
void	secure_news(struct listener *, uint64_t serial);	/* those of before get no more */
void	secure_waiting(struct listener *, struct waiting *);	/* takes it; sessions_wait when done */
void	secure_connect(struct sess *, int net);		/* connector_secured when done */
int	secure_client(struct sess *, int net, int far);	/* STARTTLS: takes both; 0, or -1: one is under way or no memory */
int	secure_backend(struct sess *, uint64_t id, int net);	/* id: of the question; 0, or -1 */
void	secure_cancel_backend(struct sess *);
void	secure_cancel(struct sess *);			/* its session ends */
void	secure_refuse_all(struct listener *);		/* clients in handshakes */
void	secure_tick(struct listener *);

/* probes.c */
void	probes_start(struct listener *, const struct msg_probe *);
/* A check for admin, answered by ROW and END. tail: service, backend, user, password, each with a zero octet. 0, or a code of
 * sysexits.h: it cannot be begun. */
int	probes_check(struct listener *, uint64_t id, struct bytes tail);
void	probes_pending(struct listener *);		/* a process is warm: those that had to wait */
void	probes_route(struct sess *, const struct msg_route *);
void	probes_result(struct sess *, const struct msg_probed *, struct bytes why);
/* What a backend can do, from a probe or a session. */
void	probes_learned(struct listener *, uint32_t service, uint32_t backend, const char *name, const struct caps *);
bool	probes_told(struct listener *, uint32_t service, uint32_t backend, const char *name, const struct caps *);	/* by another listener; whether it is news */
void	probes_lost(struct sess *);			/* the probe's process ended without a result */
void	probes_offer(struct listener *, uint32_t service);	/* recomputes what is offered */

#endif
