/*
 * smtp - the session as the gateway keeps it (RFC 5321, 1870, 2034, 2920, 3030, 3461, 4954, 6152, 6531)
 *
 * EHLO, NOOP, RSET, HELP, VRFY and QUIT are answered here; MAIL, RCPT, DATA and AUTH go to the backend, one at a time.
 * What a fresh backend must hear lies in the log as the very lines to send: AUTH's secret, MAIL, the RCPTs that were
 * accepted (protocols.md 1.1). Content lies in the spool in the form in which it is sent: dot-stuffed for DATA, raw for
 * BDAT. Each transaction has an id, <session>.<number>@<gateway>, in the first line of its content, the same in
 * every replay, by which a store can recognise a second copy.
 *
 * Invariants, checked by smtp_check:
 *  1  a command other than AUTH and PROBE is pending only in an open transaction
 *  2  mail and recipients lie whole within the log
 *  3  the fence is set only while content that is whole waits for its answer
 *  4  a recipient is counted only if its line is in the log
 */
#ifndef SMTP_SMTP_H
#define SMTP_SMTP_H

#include "workers/behaviour.h"

enum command {
	CMD_NONE,
	CMD_AUTH, CMD_MAIL, CMD_RCPT, CMD_DATA,		/* wait for the backend's reply */
	CMD_CONTENT,					/* after 354: up to the answer to the dot */
	CMD_BDAT,					/* a chunk comes in; the last one: up to the answer */
	CMD_SWALLOW, CMD_SWALLOW_CHUNK,			/* content for nobody: `bad` is the answer at its end */
	CMD_PROBE
};
enum helo { HELO_NONE, HELO_HELO, HELO_EHLO };
enum sasl { SASL_NONE, SASL_PLAIN, SASL_LOGIN_USER, SASL_LOGIN_PASS, SASL_XOAUTH2, SASL_OAUTHBEARER, SASL_EXTERNAL, SASL_RELAY };
enum relay { RELAY_NONE, RELAY_CLIENT, RELAY_SAY };	/* the client is to answer a challenge; its answer is to be said */
enum scan { SCAN_BOL, SCAN_MID, SCAN_CR, SCAN_DOT, SCAN_DOTCR, SCAN_BARE, SCAN_BAREDOT, SCAN_BAREDOTCR };
enum bad {				/* why content is refused at its end */
	BAD_NONE, BAD_BARE, BAD_SIZE, BAD_LINE, BAD_LOOP, BAD_SPACE, BAD_LOST, BAD_SEQUENCE, BAD_NO_RCPT, BAD_TOLD
};
enum body { BODY_7BIT, BODY_8BIT, BODY_BINARY };

enum {
	CAP_PIPELINING = 1, CAP_SIZE = 2, CAP_8BITMIME = 4, CAP_SMTPUTF8 = 8, CAP_DSN = 16, CAP_ENHANCED = 32,
	CAP_CHUNKING = 64, CAP_BINARYMIME = 128, CAP_AUTH_PLAIN = 256, CAP_AUTH_LOGIN = 512, CAP_AUTH_XOAUTH2 = 1024,
	CAP_AUTH_OAUTHBEARER = 2048, CAP_XCLIENT = 4096, CAP_STARTTLS = 8192,
	CAP_AUTH_CRAM_MD5 = 1 << 20, CAP_AUTH_SCRAM_SHA_1 = 1 << 21, CAP_AUTH_SCRAM_SHA_256 = 1 << 22,
	CAP_AUTH_RELAYED = CAP_AUTH_CRAM_MD5 | CAP_AUTH_SCRAM_SHA_1 | CAP_AUTH_SCRAM_SHA_256,
	CAP_AUTH_ANY = CAP_AUTH_PLAIN | CAP_AUTH_LOGIN | CAP_AUTH_XOAUTH2 | CAP_AUTH_OAUTHBEARER
};
/* The attributes that a backend's XCLIENT knows. */
enum { XC_NAME = 1, XC_ADDR = 2, XC_PORT = 4, XC_PROTO = 8, XC_HELO = 16, XC_DESTADDR = 32, XC_DESTPORT = 64 };

enum { HELO_MAX = 255, USER_MAX = 320, PATH_MAX_ = 512, AUTH_LINE = 12288 };

struct caps_smtp { uint8_t known, spare[3]; uint32_t bits; uint64_t size; };	/* size: the octets of SIZE, 0: no limit told */

struct pst {
	uint8_t		command, helo, sasl, mech;	/* sasl: exchange with the client; mech: how it is replayed */
	uint8_t		authenticated, auth_lost, swallow, fence;
	uint8_t		first;				/* first octet of the answer to the end of content, 0: none */
	uint8_t		open, poisoned, bad, body;	/* the transaction */
	uint8_t		utf8, bdat, last, scan;
	uint8_t		in_header, hmatch, probed, lost;	/* lost: refused once because no backend could be had */
	uint8_t		tried, no_xclient;		/* no_xclient: a backend would not hear who the client is */
	uint16_t	trace;				/* octets of the content that are the gateway's own lines */
	uint32_t	errors, junk, overshoot, hops;
	uint32_t	helo_seq, txn;			/* count the EHLOs and the transactions */
	/* in the log: whose session it is; what proves it. Between them: who proves it, if he is another */
	uint32_t	user, user_len, secret, secret_len;
	uint32_t	mark;				/* log length outside a transaction */
	uint32_t	mail, mail_len, rcpts, nrcpt, rcpt_len;	/* rcpt_len: octets of the accepted lines */
	uint32_t	told, told_len;			/* the backend's own refusal, in the log */
	uint8_t		relay, challenged, relayed, by_master;	/* challenged: no other backend can go on; relayed: number of it */
	uint32_t	need;				/* capabilities that this transaction uses */
	uint32_t	line_len;
	union {
		uint64_t chunk_left;		/* of BDAT: octets of the chunk that are still to come */
		uint64_t doubled;		/* of DATA: dots that the spool has only for the wire */
	};
	struct caps_smtp learned;			/* by a probe */
	char		name[HELO_MAX + 1];		/* of HELO or EHLO */
};

enum expect {
	E_GREETING, E_NONE, E_EHLO, E_HELO, E_STARTTLS, E_XCLIENT, E_XCLIENT_PART, E_AUTH, E_AUTH_END, E_AUTH_RELAY, E_RSET, E_ENVELOPE,
	E_MAIL, E_RCPT, E_DATA, E_BDAT, E_END, E_QUIT
};

struct have {
	uint8_t		expect, greeted, named, xclient;	/* xclient: 0 not yet, 1 first part sent, 2 done */
	uint8_t		authenticated, open, content, fence_out;
	uint8_t		info_xclient, partial, quit, starttls;	/* starttls: TLS is to be begun; 2: the backend is ready for it */
	uint32_t	helo_seq, txn;			/* what the backend was told last */
	uint32_t	caps, xattrs;
	uint64_t	size;
	uint32_t	owed;				/* replies of a replayed envelope, or of BDAT */
	uint32_t	nrcpt, rcpt_at;			/* recipients told; octets of their lines */
	uint32_t	line_at;			/* where the line being read begins in the reply */
	uint8_t		relaying, have_spare[7];	/* a mechanism that is passed on was begun */
	uint64_t	bdat_to;			/* content announced by BDAT, up to this octet */
};

static inline struct pst *P(const struct turn *t) { return (t->pst); }
static inline struct have *H(const struct turn *t) { return (t->have); }
static inline struct bytes
smtp_user(const struct turn *t)
{
	return (bytes(t->log->p + P(t)->user, P(t)->user_len));
}
static inline struct bytes
smtp_prover(const struct turn *t)
{
	const struct pst *p = P(t);
	uint32_t at = p->user + p->user_len;

	return (p->secret > at ? bytes(t->log->p + at, p->secret - at) : smtp_user(t));
}

/* client.c */
enum act	smtp_client(struct turn *, struct bytes, size_t *, size_t *);
void		smtp_greet(struct turn *);
/* refuse.c */
enum refused	smtp_refuse(struct turn *, enum why);
void		smtp_say_bad(struct turn *);			/* the answer that `bad` stands for */
enum doubt	smtp_doubt(struct turn *);
/* auth.c */
enum act	smtp_auth(struct turn *, struct bytes arg);
void		smtp_try_login(struct turn *, struct bytes user, struct bytes password);
enum act	smtp_auth_line(struct turn *, struct bytes line);
void		smtp_auth_forget(struct turn *);
bool		smtp_auth_drop(struct turn *);			/* an exchange under way ends without a result; true: there was one */
enum act	smtp_error(struct turn *, const char *line);	/* client.c: answers, counts, ends after too many */
enum act	smtp_count_error(struct turn *);			/* the same for what is answered */
/* A login becomes pending; prover: who proves it, empty: the user. The secret may not lie in the log. */
enum act	smtp_credentials(struct turn *, uint8_t mech, struct bytes user, struct bytes prover, struct bytes secret);
/* relay.c: mechanisms with a challenge are passed on; another backend is entered by the master user (protocols.md 2) */
bool		smtp_relays(const struct turn *, struct bytes mech, uint8_t *number);
enum { RELAY_INITIAL = 1024 };					/* of an initial response that is passed on */
enum act	smtp_relay_begin(struct turn *, uint8_t number, struct bytes initial);
enum act	smtp_relay_answer(struct turn *, struct bytes in, size_t *used, size_t *scanned);
enum next	smtp_relay_next(struct turn *);
void		smtp_relay_done(struct turn *);			/* accepted: what another backend is to be told */
bool		smtp_by_master(struct turn *);			/* a token is refused: from now on as the master user; false: cannot */
struct bytes	smtp_secret(const struct turn *, uint8_t *space, size_t);	/* what the login's mechanism says, perhaps in space */
/* content.c */
enum act	smtp_content(struct turn *, struct bytes, size_t *used);
enum act	smtp_bdat(struct turn *, struct bytes arg);
/* scan.c, pure: octets of content into canonical form (protocols.md 4.6). Returns octets used; *end: the dot was seen */
size_t		smtp_scan(struct pst *, struct bytes, struct out *, bool dots, bool *end);
/* path.c, pure */
int		smtp_path(struct bytes *rest, struct bytes *path);	/* 0, or -1; path without brackets and source route */
int		smtp_param(struct bytes *rest, struct bytes *key, struct bytes *value);	/* 1, 0: no more, or -1 */
bool		smtp_ascii(struct bytes);
bool		smtp_xtext(struct bytes);			/* RFC 3461 section 4 */
bool		smtp_put_xtext(struct out *, const char *);
/* caps.c, pure */
void		smtp_learn(struct have *, struct bytes line);	/* one line of a reply to EHLO, without its code */
void		smtp_caps_meet(struct caps *, const struct caps *);
void		smtp_caps_show(const struct caps *, char *, size_t);
struct caps_smtp smtp_offer(const struct turn *);
uint64_t	smtp_size_limit(const struct turn *);		/* octets a message may have, 0: no limit */
uint64_t	smtp_size(const struct turn *);			/* that it has so far, without doubled dots (RFC 1870 section 3) */
bool		smtp_too_big(const struct turn *);		/* for the gateway as the client sent it, for backends as it leaves */
void		smtp_offer_lines(struct turn *);		/* the answer to EHLO */
/* backend.c */
enum took	smtp_backend(struct turn *, struct bytes, size_t *, size_t *);
void		smtp_connected(struct turn *, const struct backendinfo *);
void		smtp_relay(struct turn *, struct bytes reply);	/* a whole reply to the client, enhanced code made right */
/* next.c */
enum next	smtp_next(struct turn *);
void		smtp_writing(struct turn *, uint64_t);
/* smtp.c */
void		smtp_end_transaction(struct turn *);		/* nothing is pending, nothing is open */
void		smtp_txn_id(const struct turn *, char *, size_t);

extern const struct behaviour smtp;

#endif
