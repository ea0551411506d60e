/*
 * behaviour - what a protocol is to the session engine: one table of callbacks over plain data
 *
 * A callback does no I/O, reads no clock, allocates nothing and logs nothing. What it knows of the session lies in
 * `pst` (plain data of the behaviour, no pointers, no credentials) and in `log` (an arena of variable length); both are in the
 * journal and survive every death. What it knows of the backend now connected lies in `have` and `scratch`, which
 * start as zeros with every connection and die with it. Replay is not a step list: `next` compares pst with have and says
 * what brings the backend nearer to the session; live traffic and replay are the same code.
 *
 * One client command at a time is *pending*: client() notes it in pst and answers PENDING; the engine then drives
 * next()/backend() until the command is answered, and only then offers the next client input. When the backend
 * dies: have := 0, another backend, and on from there; if a command of class N was behind its fence, doubt() first.
 */
#ifndef WORKERS_BEHAVIOUR_H
#define WORKERS_BEHAVIOUR_H

#include <stdbool.h>
#include <stdint.h>

#include "supervisor/buf.h"

struct limits {					/* octets, counts; from bmr.conf */
	uint32_t	line;			/* client's command line (2048 SMTP, 512 POP3) */
	uint32_t	reply;			/* a whole backend reply (64 KiB) */
	uint32_t	recipients;		/* per transaction */
	uint32_t	errors;			/* bad commands before the session is ended */
	uint64_t	message;		/* octets, 0: the backends' own limit */
	uint32_t	spool_memory;		/* content above this is in an unlinked file (1 MiB) */
	uint32_t	log;			/* octets of the journal's arena (16 MiB) */
	uint32_t	maildrop;		/* messages in a POP3 snapshot (200,000) */
};

struct times {					/* milliseconds; protocols.md 6.1, 6.3 */
	uint32_t	connect, greeting, command, data_init, bulk, eod, login;	/* towards a backend */
	uint32_t	idle, client_bulk;	/* towards the client: between commands, inside content */
	uint32_t	hold;			/* the client is held silently at most this long */
	uint32_t	queue;			/* waiting for the first backend */
	uint32_t	unauth;			/* as idle, before login; 0: as idle */
	uint32_t	hold_idle;		/* as hold, for a client that itself waits (listens()); 0: as hold */
	uint32_t	keep_client, keep_backend;	/* a waiting client, an idle backend gets a word; 0: never */
	uint32_t	park;			/* a session that is idle so long gives its process back */
	uint32_t	login_failure;		/* a refused login is told so much later */
	uint32_t	spare;
};

enum { CAPS_MAX = 192, NAME_MAX_ = 256 };
struct caps { uint8_t known; uint8_t b[CAPS_MAX - 1]; };	/* the behaviour's own plain data; known 0: never learned */

/* A part of memory that grows: the journal's log or a backend's scratch. Offsets, not pointers, are kept in pst. */
struct arena {
	uint8_t		*p;
	uint32_t	 len, cap;
	uint32_t	 floor;		/* octets below are published: the engine's to move, see arena_add */
};
/* Room for n octets, 8-aligned, zeroed: its offset, or UINT32_MAX when the arena's limit is reached.
 * A behaviour cuts the log by setting len, and adds with these two alone. What was published is never written over, here
 * or in place: a process that is killed leaves a core that refers to it. What is cut off is wiped once that is so. */
uint32_t	arena_add(struct arena *, uint32_t n);
uint32_t	arena_put(struct arena *, struct bytes);	/* a copy of them (not aligned) */
void		arena_clear(struct arena *, uint32_t at, uint32_t n);	/* zeros there, without a write to pages that have them */

/* A part of pst, by its offset. */
struct place { uint16_t at, size; };

/* Message content on its way: written once, kept until the transaction ends, read again in a replay. */
struct spool_state {
	uint64_t	len;			/* octets kept */
	bool		whole;			/* nothing more will come */
};

/* What one call may read and write. */
struct turn {
	void			*pst;		/* the session (journal) */
	void			*have;		/* the backend connected now; zeros at connect */
	struct arena		*log;		/* journal */
	struct arena		*scratch;	/* with have */
	struct out		*client;	/* to the client */
	struct out		*backend;	/* to the backend */
	struct out		*content;	/* to the spool: client() only */
	struct spool_state	*spool;
	const struct limits	*limits;
	const struct times	*times;
	const struct caps	*offer;		/* what the gateway offers to this client: fixed for the session */
	const struct peerinfo	*peer;
	const struct tlsinfo	*tls;		/* with the client */
	const struct master	*master;
	uint32_t		 wait;		/* out: next/backend: ms the backend may be silent from now on */
	uint64_t		 spool_to;	/* out: with NEXT_SPOOL, absolute */
	struct caps		 learned;	/* out: backend(): what this backend can do, if that is news */
	uint32_t		 messages;	/* out: messages that found their way, added up by the engine */
	const char		*date;		/* in: now, as RFC 5322 writes it */
	bool			 client_gone;	/* in: the client's side is closed */
	bool			 up;		/* in: a backend is connected, have is its state */
	bool			 believe;	/* in: backend(): a login that it refuses is to be told so, else TOOK_REFUSED */
	bool			 excused;	/* out: backend(): the login it refuses may be right: no failure to be counted */
	uint32_t		 epoch;		/* in: changes with each commit of the journal. What was written into log in
						 * this epoch may be changed in place; older parts belong to the last commit */
};

struct peerinfo {				/* fixed at the start of a session, but for what TLS changes */
	char		addr[46], local[46];	/* numeric; IPv4 as a.b.c.d */
	uint16_t	port, local_port;
	bool		v6, tls, auth_ok;	/* auth_ok: plain-text mechanisms may be offered */
	bool		tempfail;		/* class N in doubt: answer, don't replay */
	bool		normalize;		/* bare newlines: normalise, not reject */
	bool		starttls;		/* it may begin TLS: offered, and not begun */
	bool		watch;			/* logins have failed lately: the listener is asked before each */
	uint8_t		spare;
	char		banner[256];		/* the gateway's host name */
	char		session[24];		/* id, hexadecimal; the store's transaction ids begin with it */
};

/* What TLS with the client came to; zeros without it. */
struct tlsinfo {
	char		version[8], cipher[32];	/* "TLSv1.3" */
	char		name[96];		/* the host that the client named (SNI) */
	char		subject[104];		/* of its certificate, if it gave one that was verified */
	char		user[72];		/* who that is, for EXTERNAL */
	uint8_t		resumed, spare[7];
};

/* Who may log in as anybody at the backends; given to sessions whose client has shown a certificate. */
struct master { char user[64], password[128]; };

struct backendinfo {				/* fixed at each connection; given to connected() */
	char		name[32];
	bool		xclient, starttls;	/* starttls: TLS must be begun before anything else is said */
};

enum act {			/* of client() */
	ACT_MORE,		/* needs more input; used may be > 0 all the same */
	ACT_DONE,		/* one unit was consumed and answered; more may follow */
	ACT_PENDING,		/* a command now waits for the backend */
	ACT_CONTENT,		/* content was consumed into t->content (spool); more may follow */
	ACT_TLS,		/* the go-ahead is in t->client: the rest of the input is dropped, TLS begins, peer->tls is true then */
	ACT_CLOSE		/* say what is in t->client, then end the session (politely to the backend) */
};
enum next {
	NEXT_SAY,		/* t->backend got octets; call again when they are flushed or a reply came */
	NEXT_WAIT,		/* waits for the backend (t->wait) */
	NEXT_SPOOL,		/* send the spool from the octet on that the backend has up to t->spool_to; then call again */
	NEXT_MORE,		/* content: waits for the client; the command's answer is not due yet */
	NEXT_FULL,		/* no room in t->client: when the client has taken some, call again */
	NEXT_TLS,		/* the backend has given its go-ahead: TLS, then call again */
	NEXT_DROP,		/* close this connection without a word; a fresh one if one is needed */
	NEXT_READY,		/* the backend is where the session is; nothing is pending */
	NEXT_LATER,		/* refused for now (lock, throttle): give this one up, try again later */
	NEXT_NEVER		/* this backend cannot be made equivalent: try another */
};
enum proof {			/* of login() */
	PROOF_NONE,		/* no login is pending */
	PROOF_SECRET,		/* a password or a token */
	PROOF_PLAIN,		/* the same in PLAIN's message, in base64 */
	PROOF_ONCE		/* an answer to a challenge, never the same again */
};
enum took {			/* of backend() */
	TOOK_MORE,		/* needs more input (used may be > 0) */
	TOOK_ONE,		/* a reply or a part of a body was consumed */
	TOOK_ANSWERED,		/* the pending command is answered: the client's reply is in t->client, pst is past it */
	TOOK_LEAVING,		/* the backend says good-bye (421, unsolicited -ERR, BYE): fail over */
	TOOK_LATER,		/* as NEXT_LATER */
	TOOK_NEVER,		/* as NEXT_NEVER */
	TOOK_REFUSED,		/* the pending login is refused, turn.believe not set, and another backend could take it: nothing was
				 * changed, and the same input comes again */
	TOOK_INSECURE,		/* it does not begin the TLS that it must have: fail over, never in clear */
	TOOK_NONSENSE,		/* not this protocol's grammar: the backend is marked bad, fail over */
	TOOK_DIFFERS,		/* a body already relayed in part goes on differently: cannot be masked */
	TOOK_CLOSE		/* answered, and the session ends (QUIT) */
};
enum doubt {
	DOUBT_REDO,		/* replay: it may exist twice afterwards */
	DOUBT_REDO_SAFE,	/* replay: known not done, or idempotent */
	DOUBT_DONE,		/* decided: the answer is in t->client, pst is past it */
	DOUBT_REFUSE,		/* the honest refusal is in t->client */
	DOUBT_CLOSE		/* so it is, and the session ends with it */
};
enum why {			/* why the gateway itself must say something; texts are the behaviour's */
	WHY_BUSY,		/* no backend for a new session: overload, all down */
	WHY_LOST,		/* backend lost and the pending command cannot be masked in time */
	WHY_DIFFERS,		/* no equivalent backend, mid-reply */
	WHY_IDLE,		/* client idle too long */
	WHY_SLOW,		/* client makes no progress inside content or takes no output */
	WHY_SHUTDOWN,		/* the gateway stops */
	WHY_KICKED,		/* an operator ended it */
	WHY_CRASH,		/* crashed twice at the same point */
	WHY_SPOOL		/* no room for content (disk full) */
};
enum refused { REFUSED_STAY, REFUSED_CLOSE, REFUSED_RESET };	/* RESET: close without a word or terminator */
enum side { SIDE_CLIENT, SIDE_BACKEND };
enum told { TOLD_NO, TOLD_YES, TOLD_OFF, TOLD_UNPROVEN };	/* OFF: by the configuration; UNPROVEN: told, and no answer shows more */
enum safe { SAFE_BUSY, SAFE_MOVE, SAFE_PARK };

/* The client is known by its certificate, and there is a way to log it in: EXTERNAL may be offered. */
static inline bool
external_ok(const struct turn *t)
{
	return (t->tls != NULL && t->master != NULL && t->tls->user[0] != '\0' && t->master->user[0] != '\0');
}

struct behaviour {
	const char	*name;			/* "smtp" */
	uint16_t	 format;		/* of pst in the journal, and of have: another one whenever either's meaning changes */
	uint16_t	 pst_size, have_size;	/* octets, at most 4096 each */
	const struct place *text;		/* where in pst octets of a client's or a backend's may lie, up to a size of 0; NULL: nowhere */
	uint16_t	 port;
	const char	*alpn;			/* its name in TLS (RFC 7301), at most 15 octets */
	struct limits	 limits;		/* defaults */
	struct times	 times;

	/* towards the client */
	void		(*greet)(struct turn *);
	/* Consumes at most one unit of in. scanned: octets of in searched in vain before (0 after any use); the callee
	 * keeps it, so that scanning is linear. Not called while a command is pending, except when next() said MORE. */
	enum act	(*client)(struct turn *, struct bytes in, size_t *used, size_t *scanned);
	enum refused	(*refuse)(struct turn *, enum why);	/* the line into t->client; pst made ready to go on if STAY */
	bool		(*pending)(const struct turn *);	/* a command waits for the backend */
	bool		(*wants_content)(const struct turn *);	/* client input is content: the times.client_bulk deadline */
	/* Client input is wanted although a command is pending (IDLE), whatever next() said last. NULL: never. */
	bool		(*listens)(const struct turn *);
	/* A login is pending that no backend has accepted yet: who is to prove himself, which need not be whose session it is to be,
	 * and with what. user is empty while it has to be seen yet, with PROOF_ONCE, or unknown. NULL: there are none. */
	enum proof	(*login)(const struct turn *, struct bytes *user, struct bytes *secret);
	bool		(*in_doubt)(const struct turn *);	/* a command of class N is pending and its fence was written */

	/* towards the backend */
	void		(*connected)(struct turn *, const struct backendinfo *);
	enum next	(*next)(struct turn *);
	/* The engine has handed these many octets of NEXT_SAY/NEXT_SPOOL to write(2): called before, so that the fence
	 * is marked in pst before the octet goes (invariant 2). spool_sent: octets of the spool this backend has. */
	void		(*writing)(struct turn *, uint64_t spool_sent);
	enum took	(*backend)(struct turn *, struct bytes in, size_t *used, size_t *scanned);
	enum doubt	(*doubt)(struct turn *);		/* the backend died while in_doubt() */
	void		(*leave)(struct turn *);		/* a polite end towards the backend, or nothing (never a dot) */
	enum safe	(*safe)(const struct turn *);
	/* Zeros in all of scratch that means nothing any more: a session that is safe is put away with what is not zero. NULL: there
	 * is hardly any. */
	void		(*tidy)(struct turn *);
	/* How long (ms) that side may be left without an octet from us before keep() is due; 0: for ever. NULL: never.
	 * Of the client's side the engine counts only while a command is pending. */
	uint32_t	(*quiet)(const struct turn *, enum side);
	void		(*keep)(struct turn *, enum side);	/* a word to t->client, or have made to want one from next() */
	void		(*user)(const struct turn *, char *dst, size_t size);	/* who is logged in, for who and log; "" */

	/* capabilities and health: a probe is a session without a client */
	void		(*probe)(struct turn *);		/* makes pst want: greeting, capabilities, polite end */
	bool		(*probed)(const struct turn *, struct caps *);	/* true when all was learned */
	void		(*meet)(struct caps *, const struct caps *);	/* intersection */
	void		(*learn)(struct caps *known, const struct caps *news);	/* news may be a part. NULL: they replace it */
	void		(*show)(const struct caps *, char *dst, size_t size);	/* for people */

	/* For an operator's check of a backend: makes a login pending in an empty pst; says how the backend has taken what it was
	 * told of the client's address, and in how what shows that. */
	void		(*try_login)(struct turn *, struct bytes user, struct bytes password);
	enum told	(*forwarded)(const struct turn *, const char **how);

	int		(*check)(const struct turn *);		/* 0, or the number of the broken invariant (in the header) */

	/* The format before this one (format - 1), which is read always and written until an upgrade is permanent (J4): the size
	 * of its pst, and pst made from one into the other, in place, in either direction; there is room for 4096 octets, zeros
	 * behind what is used. The log is the same in both. 0, or -1: it cannot be. NULL: there is none before. */
	uint16_t	 older_size;
	int		(*convert)(void *pst, uint16_t from, uint16_t to);
};

/* A keyed running hash of the octets of a reply already relayed, to compare on resume (invariant 4). */
struct relayed {
	uint64_t	k;			/* octets of the reply put before the client */
	uint64_t	h[2], key;		/* of those */
	uint8_t		tail[8];		/* of an unfinished word */
};
void	relayed_start(struct relayed *, uint64_t key);
void	relayed_add(struct relayed *, struct bytes);
bool	relayed_same(const struct relayed *, const struct relayed *);

#endif
