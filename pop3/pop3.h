/*
 * pop3 - the session as the gateway keeps it (RFC 1939, 2449, 3206, 5034, 6186)
 *
 * The gateway owns the numbering: STAT, LIST, UIDL, LAST, NOOP, RSET, DELE are answered from the snapshot taken right
 * after login; only RETR and TOP need the backend; the DELEs go at QUIT, by UIDL (protocols.md 1.2).
 *
 * Invariants, checked by pop3_check:
 *  1  a command other than LOGIN and PROBE is pending only in TRANSACTION
 *  2  the snapshot lies whole within the log, deleted <= n
 *  3  the fence of QUIT is set only while QUIT is pending
 *  4  body.k > 0 only while RETR or TOP is pending
 */
#ifndef POP3_POP3_H
#define POP3_POP3_H

#include "workers/behaviour.h"

enum phase { AUTHORIZATION, TRANSACTION, ENDED };	/* ENDED: by the client's QUIT, in no other way */
enum command { CMD_NONE, CMD_LOGIN, CMD_RETR, CMD_TOP, CMD_QUIT, CMD_PROBE };
enum sasl { SASL_NONE, SASL_PLAIN, SASL_LOGIN_USER, SASL_LOGIN_PASS, SASL_XOAUTH2, SASL_OAUTHBEARER, SASL_EXTERNAL, SASL_RELAY };
enum relay { RELAY_NONE, RELAY_CLIENT, RELAY_SAY };	/* the client is to answer a challenge; its answer is to be said */
enum listing { LISTING_NONE, LISTING_LIST, LISTING_UIDL };

enum { UID_MAX = 255, USER_MAX = 320, CAP_TOP = 1, CAP_UIDL = 2, CAP_RESP = 4, CAP_AUTH_RESP = 8, CAP_PIPE = 16, CAP_USER = 32,
	CAP_PLAIN = 64, CAP_LOGIN = 128, CAP_XOAUTH2 = 256, CAP_OAUTHBEARER = 512, CAP_CRAM_MD5 = 1024, CAP_SCRAM_SHA_1 = 2048, CAP_SCRAM_SHA_256 = 4096 };

struct caps_pop3 { uint8_t known, spare[3]; uint32_t bits; };

/* Published entries are not written over but for `marked`, which means something only in the range that pst names: a DELE
 * that was not published leaves no trace, and RSET touches no entry. */
struct entry { uint64_t size; uint32_t uid, marked; uint8_t uid_len, spare[7]; };

struct pst {
#ifdef POP3_NEXT			/* the image of t/sys/formats.t: as if a release had changed it */
	uint64_t	next[6];
#endif
	uint8_t		phase, command, sasl, mech;	/* mech: how the login is replayed, SASL_NONE: USER and PASS */
	uint8_t		swallow, named, line_sent, fence;	/* swallow: rest of an overlong line */
	uint8_t		no_uidl, listing, logged_in, probed;	/* probed: a probe's work is done, or a login on trial */
	uint8_t		relay, challenged, relayed, by_master;	/* challenged: no other backend can go on; relayed: number of the mechanism */
	uint32_t	arg, lines;			/* of RETR, TOP */
	uint32_t	errors, failures;
	/* in the log: whose session it is; what proves it. Between them: who proves it, if he is another */
	uint32_t	user, user_len, secret, secret_len;
	uint32_t	mark;				/* log length before the credentials */
	uint32_t	entries, n, ndeleted, last, list_next;
	uint32_t	marks, unmarked;		/* DELEs ever, and how many of them RSET took back */
	uint64_t	octets;				/* of all messages */
	struct relayed	body;				/* what the client has of RETR's or TOP's body */
	uint32_t	caps;				/* learned by a probe */
};

enum expect { E_GREETING, E_NONE, E_STLS, E_XCLIENT, E_CAPA, E_CAPA_BODY, E_USER, E_PASS, E_AUTH, E_AUTH_END, E_RELAY, E_LIST, E_LIST_BODY, E_UIDL,
	E_UIDL_BODY, E_BODY_LINE, E_BODY, E_DELE, E_QUIT };
enum stage { AT_CONNECT, AT_GREETED, AT_NAMED, AT_USER, AT_LOGGED_IN, AT_LISTED, AT_UP, AT_QUITTING };

struct have {
	uint8_t		expect, stage, xclient_here, xclient_ok;	/* ok: 1 taken, 2 refused or ignored */
	uint8_t		identity, caught, bol, last;	/* body: caught up with the client, line start, last octet */
	uint8_t		piped, no_uidl, quit_out, not_all;
	uint8_t		pass_piped, drop, after, twins;	/* PASS went with USER; a reply is owed to nobody: close; expected after XCLIENT; UIDs repeat */
	uint32_t	n, count;			/* lines of a listing seen; messages there */
	uint32_t	map, table, chain, mask;	/* in the scratch arena, offsets */
	uint32_t	common, dele_next, owed, caps;
	struct relayed	body;
	bool		info_xclient, starttls;		/* starttls: TLS is to be begun */
	bool		go_ahead;			/* the backend is ready for it */
	bool		relaying;			/* a mechanism that is passed on was begun */
	bool		for_quit;			/* the map was made for QUIT: marks are what they were */
};

static inline struct pst *P(const struct turn *t) { return (t->pst); }
static inline struct have *H(const struct turn *t) { return (t->have); }
static inline struct bytes
pop3_user(const struct turn *t)
{
	return (bytes(t->log->p + P(t)->user, P(t)->user_len));
}
static inline struct bytes
pop3_prover(const struct turn *t)
{
	const struct pst *p = P(t);
	uint32_t at = p->user + p->user_len;

	return (p->secret > at ? bytes(t->log->p + at, p->secret - at) : pop3_user(t));
}

/* relay.c: mechanisms with a challenge are passed on; another backend is entered by the master user (protocols.md 2) */
bool		pop3_relays(const struct turn *, struct bytes mech, uint8_t *number);
void		pop3_relay_list(const struct turn *, struct out *);	/* " NAME" for each that is offered */
enum { RELAY_INITIAL = 1024 };					/* of an initial response that is passed on */
enum act	pop3_relay_begin(struct turn *, uint8_t number, struct bytes initial);
enum act	pop3_relay_answer(struct turn *, struct bytes line);
enum next	pop3_relay_next(struct turn *);
void		pop3_relay_done(struct turn *);			/* accepted: what another backend is to be told */
bool		pop3_by_master(struct turn *);			/* a token is refused: from now on as the master user; false: cannot */
struct bytes	pop3_secret(const struct turn *, uint8_t *space, size_t);	/* what the login's mechanism says, perhaps in space */
uint32_t	pop3_relay_cap(struct bytes mech);		/* its bit, 0: none of these */
/* client.c */
/* A login becomes pending; prover: who proves it, empty: the user. The secret may not lie in the log. */
enum act	pop3_login(struct turn *, uint8_t mech, struct bytes user, struct bytes prover, struct bytes secret);
enum act	pop3_client(struct turn *, struct bytes, size_t *, size_t *);
void		pop3_greet(struct turn *);
void		pop3_try_login(struct turn *, struct bytes user, struct bytes password);
enum refused	pop3_refuse(struct turn *, enum why);
/* backend.c */
enum took	pop3_backend(struct turn *, struct bytes, size_t *, size_t *);
void		pop3_connected(struct turn *, const struct backendinfo *);
/* next.c */
enum next	pop3_next(struct turn *);
void		pop3_writing(struct turn *, uint64_t);
enum doubt	pop3_doubt(struct turn *);
/* snapshot.c */
struct entry	*pop3_entry(const struct turn *, uint32_t num);	/* 1..n, NULL outside */
bool		pop3_deleted(const struct turn *, const struct entry *);
struct bytes	pop3_uid(const struct turn *, const struct entry *);
void		pop3_snapshot_begin(struct turn *);		/* forgets what a backend that died at login had told */
bool		pop3_add_size(struct turn *, uint64_t size);	/* the next message; false: no room */
bool		pop3_set_uid(struct turn *, uint32_t num, struct bytes uid);
bool		pop3_map_begin(struct turn *);			/* tables for another backend's numbering; false: no room */
void		pop3_map_uid(struct turn *, uint32_t num, struct bytes uid);
uint32_t	pop3_map(const struct turn *, uint32_t num);	/* the backend's number, 0: not there */
bool		pop3_map_common(const struct turn *);		/* the same store, as far as UIDs tell */
/* pop3.c */
void		pop3_answered(struct turn *);			/* nothing is pending any more */
void		pop3_forget_login(struct turn *);		/* with all that came of it */

#ifdef POP3_NEXT
int		pop3_next_convert(void *, uint16_t from, uint16_t to);
#endif
extern const struct behaviour pop3;

#endif
