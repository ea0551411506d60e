/*
 * engine - one session in one process: between a client's socket, a backend's and the channel to the listener
 *
 *	session.c  the process: messages, poll, deadlines
 *	client.c   the client's socket and the behaviour's client side
 *	backend.c  the backend's socket, its life and death, the behaviour's backend side
 *	resume.c   going on where another process stopped
 *	counted.c  reads and writes of the client's socket that are counted through any death
 *	check.c    an operator's check of a backend
 *	login.c    logins that wait; failures that are told late
 *	starttls.c TLS that begins in mid-session
 *	orphan.c   a listener that died too early
 *	spool.c    content; journal.c  what survives
 *
 * Order for each command: state into the journal, fence marked, octets written, reply into the journal, client's
 * socket takes it, counted (J1, J2). Every wait has a deadline on the monotonic clock.
 */
#ifndef WORKERS_ENGINE_H
#define WORKERS_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "workers/behaviour.h"
#include "workers/gw_msg.h"
#include "workers/journal.h"
#include "workers/reason.h"
#include "workers/spool.h"

enum { BACKEND_IN = 65536, BACKEND_OUT = 32768, CONTENT_CAP = 139264, REPLY_ROOM = 16384 };

enum login { LOGIN_NONE, LOGIN_ASKED, LOGIN_WAITS, LOGIN_GOES };	/* a pending login */
enum link { LINK_NONE, LINK_ASKED, LINK_UP, LINK_SECURING };	/* the backend's side; SECURING: a tls process has it */

struct session {
	const struct behaviour *b;
	struct chan	 chan;
	struct journal	 j;
	struct core	 w;			/* private; journal_commit publishes it */
	struct spool	 spool;
	struct turn	 t;
	struct out	 to_client, to_backend, content;
	struct arena	 log, scratch;
	struct peerinfo	 peer;
	struct tlsinfo	 tls;			/* with the client */
	struct master	 master;
	struct caps	 offer;
	struct limits	 limits;
	struct times	 times;
	uint64_t	 sid;
	char		 service[32];
	uint64_t	 began_ms;		/* CLOCK_REALTIME */
	uint32_t	 max_replays, fence_ms;

	int		 client;		/* -1: a probe, or closed */
	int		 net;			/* the socket under client while nobody has begun TLS on it; -1: none */
	bool		 cut, asked_another;	/* client has ended before TLS was up; another listener was asked for it */
	bool		 probe, started, resumed, client_gone, over, moving, yielding;
	bool		 shrunk;		/* by the last turn: log or content */
	uint64_t	 window_at, window_in, taking_at;	/* client's deadlines, 0: none */

	enum login	 login;
	uint64_t	 login_id, login_at, mute_until;	/* mute: nothing is written to the client before */
	uint64_t	 refused_at;		/* the backend has refused the pending login, and has to stand by that; 0: it has not */
	enum link	 link;
	int		 backend;		/* socket, -1 */
	uint32_t	 backend_id;
	struct backendinfo info;
	struct buf	 bin, bout;
	uint32_t	 bin_scanned, bin_got;	/* got: since the wait for an answer began */
	bool		 fed;			/* the client was given some of the answer since the last death */
	bool		 settled;		/* NEXT_READY was the last that next() said */
	bool		 sending, content_turn, bin_stalled;	/* NEXT_SPOOL under way; NEXT_MORE; no room for the reply */
	uint64_t	 spool_sent, spool_to, spool_was;
	uint64_t	 wait_until, not_before, hold_until, ask_until;	/* 0: none */
	uint64_t	 avoid, never;		/* bit sets of backend numbers */
	uint32_t	 deaths, tries, wait_ms;
	uint64_t	 ask_id;
	struct msg_note	 noted;			/* what the listener was told last */
	uint64_t	 note_at;		/* when to tell it news, 0: there are none */
	bool		 check, checking;	/* an operator's; checking: a probe that goes on to log in */
	bool		 nonsense;		/* the backend has said to a probe what nobody asked: all that it said counts for nothing */
	struct caps	 checked;		/* what it has learned before */
	char		 how[128];		/* the last failure, for a probe's result */

	uint64_t	 active_at;		/* when either side said or took something */
	uint64_t	 now;			/* ms, monotonic, once a loop turn */
};

/* session.c */
_Noreturn void session_main(const struct behaviour *, int chan_fd);
void	session_listen(struct session *, int fd);	/* takes fd: the channel to a listener */
void	session_end(struct session *, enum reason);	/* once; the loop ends when the client has what it is owed */
void	session_commit(struct session *);
/* Publishes at once that log or content became shorter, before anything is put in the place; after each turn whose input
 * is counted. */
void	session_settle(struct session *);
void	session_note(struct session *);			/* tells the listener who and where, now */
void	session_news(struct session *);			/* the same soon, if the session lives that long */
void	session_title(struct session *);
int	session_need_file(struct session *);		/* waits for the listener's answer; 0, or -1 */
/* Ends the pending command with the honest answer; may end the session. */
void	session_refuse(struct session *, enum why, enum reason);
/* Prepares the turn for a callback and takes its output over afterwards. */
struct turn *turn_begin(struct session *);
void	turn_end(struct session *);

/* resume.c */
void	resume_backend(struct session *, int fd, const struct msg_backend *);	/* takes fd: one that was kept, before START */
/* Parking: the state goes into the journal, the sockets to the listener, and the process ends. */
uint64_t park_due(const struct session *);	/* ms; 0: it cannot be parked now */
void	park_if_due(struct session *);
int	resume(struct session *, bool give_up);	/* the journal is open and loaded; 0, or -1: it cannot be gone on with */

/* client.c */
void	client_read(struct session *);
void	client_write(struct session *);
bool	client_step(struct session *);			/* one unit of input; true if anything changed */
bool	client_may_step(const struct session *);
void	client_deadlines(struct session *);		/* ends the session when one has passed */
uint64_t client_due(const struct session *);
void	client_idle_from_now(struct session *);		/* the client's next command is due from now on */
bool	client_listens(const struct session *);		/* behaviour.listens */

/* backend.c */
void	backend_read(struct session *);
void	backend_write(struct session *);
bool	backend_step(struct session *);
bool	backend_wants_write(const struct session *);
void	backend_up(struct session *, int fd, const struct msg_backend *);	/* takes fd */
void	backend_none(struct session *, const struct msg_nobackend *);
void	backend_lost(struct session *, enum bfail, const char *how);
void	backend_close(struct session *, bool polite);
/* The connection died with a command behind its fence: what now? True when it is to be sent again. */
bool	backend_doubt(struct session *);
void	backend_deadlines(struct session *);
uint64_t backend_due(const struct session *);

/* check.c */
void	check_begin(struct session *, struct bytes tail);	/* of GO: user and password, each with a zero octet */
bool	check_next(struct session *);			/* the probe is done: true when it goes on to log in */
void	check_answered(struct session *);		/* the login is */
struct bytes check_report(struct session *);		/* for PROBED's tail: forwarding, login, fault, enum told in a word */

/* login.c */
bool	login_holds(struct session *);			/* a login is pending that must not go to a backend yet */
void	login_go(struct session *, const struct msg_authgo *);
uint64_t login_due(const struct session *);
bool	login_begin(struct session *, struct msg_authed *);	/* before a reply: true, and of whom it may be */
void	login_end(struct session *, struct msg_authed *);	/* after it */
bool	login_doubts(const struct session *);		/* a refusal is in the input and not to be believed yet */

/* orphan.c */
int	orphan(struct session *);			/* its listener is gone: 0 another will come; -1: nobody knows of it */

/* starttls.c */
void	starttls_client(struct session *);		/* the go-ahead is in the output: what came behind it is dropped */
bool	starttls_deaf(const struct session *);		/* the client neither hears nor says a word until TLS is up */
void	starttls_go(struct session *);			/* gives the client's socket away once the go-ahead is out */
uint32_t starttls_room(const struct session *);		/* SECURE_ASKED: octets to be read of the client's side */
void	starttls_heard(struct session *);		/* there are some; does nothing in any other state */
void	starttls_cut(struct session *);			/* the client's side has ended, SECURE_ASKED */
void	starttls_resume(struct session *);		/* what the journal says, and the socket that we were given */
void	starttls_backend(struct session *);		/* NEXT_TLS */
int	starttls_secured(struct session *, const struct msg_secured *, int fd[]);	/* a backend; takes fd[0] if it is wanted */
void	starttls_insecure(struct session *, const struct msg_insecure *, struct bytes why);
void	starttls_orphan(struct session *);		/* another listener: what its predecessor was asked will not come */

#endif
