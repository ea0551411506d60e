/*
 * imap4 - the session as the gateway keeps it (RFC 3501, 9051 and the extensions in caps.c)
 *
 *	caps.c      capabilities: learned from backends, shown to clients
 *	token.c     tokens of commands and responses; pure
 *	set.c       arrays of ranges: sequence sets, UID sets; pure
 *	view.c      the mailbox as the client knows it: message numbers and UIDs, messages gone that it was not told of yet
 *	client.c    lines and literals of the client become commands; commands.c: what each command is and does
 *	login.c     LOGIN and AUTHENTICATE
 *	append.c    APPEND's content on the client's side
 *	say.c       commands towards the backend: translated, literals written anew
 *	next.c      what brings a backend nearer to the session: login, selection, the pending command
 *	backend.c   responses: split, dispatch; untagged.c, tagged.c: their effect; fetch.c: FETCH and all that is streamed
 *	sync.c      another backend's mailbox is compared with the client's view
 *	doubt.c     commands of class N in doubt: what to look at, and what follows (protocols.md 1.4.7)
 *
 * No history of commands is kept: what a session is stands in pst (protocols.md 1.4.1). Parts of variable length lie in
 * zones of the log at fixed places. What changes while a command runs has two places and is written to the one that the
 * last commit does not name.
 *
 * Numbers: the client's are those of the view. A backend's differ by the ghosts, messages gone at the backend of which the
 * client could not be told yet; client number = server number + ghosts below it. So commands are kept as the client gave
 * them and translated when they are sent.
 *
 * Invariants, checked by imap4_check:
 *  1  a mailbox is selected only after login
 *  2  the view holds at most `exists` messages, its ranges lie within their zone
 *  3  the fence is set only while a command is pending
 *  4  octets of a reply are half way at the client only while a command is pending
 *  5  the command lies whole within its zone
 */
#ifndef IMAP4_IMAP4_H
#define IMAP4_IMAP4_H

#include "imap4/set.h"
#include "workers/behaviour.h"

enum phase { NOTAUTH, AUTH, SELECTED, LOGGEDOUT };
enum cmd { CMD_NONE, CMD_PROBE, CMD_LOGIN, CMD_RELAY, CMD_UNKNOWN, CMD_ENABLE, CMD_SELECT, CMD_UNSELECT, CMD_CLOSE, CMD_IDLE, CMD_APPEND,
	CMD_FETCH, CMD_STORE, CMD_SEARCH, CMD_COPY, CMD_MOVE, CMD_EXPUNGE, CMD_CREATE, CMD_DELETE, CMD_RENAME };
/* What the client's next octets are. LATE: of a command whose refusal is known, told when it is complete. */
enum gather { G_LINE, G_LITERAL, G_CONTENT, G_TAIL, G_SKIP_LITERAL, G_SKIP_LINE, G_SASL };
enum sasl { SASL_NONE, SASL_PLAIN, SASL_LOGIN_USER, SASL_LOGIN_PASS, SASL_XOAUTH2, SASL_OAUTHBEARER, SASL_EXTERNAL, SASL_RELAY };

/* of struct command */
enum {
	F_SEQ = 1,		/* names message numbers: no EXPUNGE may be told while it runs (RFC 9051 section 7.5.1) */
	F_QUERY = 2,		/* changes nothing: NO [UNAVAILABLE] is honest */
	F_RESULT = 4,		/* has one line of result */
	F_BASE = 8,		/* wants a baseline of its target first */
	F_BASE2 = 16,		/* and of a second name */
	F_DOUBT = 32		/* class N: behind its fence it is decided by looking */
};

/* Zones of the log. */
enum {
	Z_AUTH = 0, Z_AUTH_SIZE = 20480,	/* whose session it is, secret; of a mechanism that is passed on: its name and first message, */
	Z_ANSWER = 8192, Z_ANSWER_SIZE = 8192, Z_WHO = 16384, Z_WHO_SIZE = 1024,	/* the client's answer; who proves, if another */
	Z_ID = 20480, Z_ID_SIZE = 8192,		/* what the client said of itself: the inside of its list */
	Z_SEL = 28672, Z_SEL_SIZE = 8192,	/* the selected mailbox, as the client named it */
	Z_VIEW = 36864, Z_VIEW_SIZE = 65536,	/* two of them */
	Z_SAVE = 167936, Z_SAVE_SIZE = 16384,	/* $, two of them */
	Z_SET = 200704, Z_SET_SIZE = 32768,	/* UIDs that the command is about */
	Z_REST = 233472, Z_REST_SIZE = 16384,	/* of those: still to be moved */
	Z_KILL = 249856, Z_KILL_SIZE = 16384,	/* and: copied, still to be expunged */
	Z_APP = 266240, Z_APP_SIZE = 16384,	/* literals of APPEND */
	Z_CMD = 282624, Z_CMD_MIN = 16384,	/* the command; the rest of the log */
	CMD_MAX = 229376, TAG_MAX = 256, DONE_MAX = 16, RECENT_MAX = 8, LATE_MAX = 512, LITERALS_MAX = 200
};
/* Zones of the scratch arena. */
enum {
	S_TEXT = 0, S_TEXT_SIZE = 262144,	/* the command being said to the backend */
	S_GHOST = 262144, S_GHOST_SIZE = 131072,
	S_BUF = 393216, S_BUF_SIZE = 262144,	/* what SELECT, and a SEARCH that saves, has answered until its end */
	S_CAND = 655360, S_CAND_SIZE = 262144,	/* candidates of a search for a command in doubt */
	S_TOTAL = 917504,
	PAUSES = 32, SHORT_MAX = 3, CAND_MAX = S_CAND_SIZE / 8
};

struct caps_imap4 {
	uint8_t		known, post;		/* post: the part after login is known */
	uint8_t		spare[6];
	uint64_t	pre, cap;		/* bits of caps.c, before and after login */
	uint64_t	append_limit;		/* 0: none said */
	char		rights[32];		/* RIGHTS=... */
};

struct literal {				/* of APPEND */
	uint64_t	at, len;		/* in the spool */
	uint64_t	id;			/* of its Message-ID, 0: it has none */
	struct relayed	hash;			/* without what a store may take for something else */
	uint32_t	args, args_len;		/* flags and date, in the command */
	uint8_t		sync, binary, content, spare[5];	/* sync: the client waits for +; content: enum content */
};
/* OLD: hashed by a release that did it in another way; ODD: a store may alter it in more than its line ends. */
enum content { CONTENT_OLD, CONTENT_PLAIN, CONTENT_ODD };
_Static_assert(LITERALS_MAX * sizeof(struct literal) <= Z_APP_SIZE, "they fit their zone");

struct mbox {					/* the selected mailbox, as the client knows it */
	uint32_t	name_len, exists;
	uint32_t	uidvalidity, uidnext;
	uint64_t	modseq, seen;		/* HIGHESTMODSEQ at the selection, 0: none; the highest seen since */
	uint32_t	n, known;		/* ranges of the view, messages in them; then a tail of unknown UIDs */
	uint32_t	epoch;			/* in which this copy of the view was begun */
	uint32_t	base_exists, expunged;	/* at the selection; since then */
	uint32_t	recents, nrecent;	/* told count; ranges of UIDs shown as \Recent */
	struct range	recent[RECENT_MAX];
	uint8_t		which, examine, read_only, coarse;	/* coarse: too many ranges, only the count is kept */
	uint8_t		learned, nomodseq, notsticky, spare;
};

struct pst {
	uint8_t		phase, command, gather, sasl;
	uint8_t		flags, uid, fence, mech;	/* mech: how the login is replayed; SASL_NONE: LOGIN */
	uint8_t		idle_told, done, result_told, opaque;	/* opaque: an unknown command succeeded: nothing is masked any more */
	uint8_t		enabled, condstore, redo, bad;	/* redo: it may have been done; bad: the line gathered is too long */
	uint8_t		probing, probed, base_known, base2_known, base_there, base2_there, verdict, rounds;
	/* untold: of SELECT, another backend had done it; 2: and there was one selected before. stumbled: a backend that is to stand
	 * in has refused the mailbox without a reason, and is asked once more */
	uint8_t		named, swallow_sync, move_rest, set_known, skip_sync, untold, stumbled, spare;
	uint32_t	errors, failures;
	uint32_t	user_len, secret_len, id_len, answer_len, who_len;
	uint8_t		challenged, answer_due, by_master, id_no;	/* challenged: the client has seen a challenge of a backend */
	/* the command: tag at 0 */
	uint32_t	cmd_len, line_at, tag_len, name_at, args_at, set_at, set_len, target_at, target_len, target2_at, target2_len;
	uint64_t	left;			/* of the literal being gathered */
	uint32_t	nset, nrest, nkill, nsave, save_which, save_epoch;
	/* APPEND */
	uint32_t	nlit, app_told, late_len;	/* app_told: literals that the client may send */
	uint8_t		cr, header, app_spare[2];	/* of the literal: the last octet was CR; where in its header it is */
	uint32_t	permanent_told;			/* what the client heard of the mailbox: PERMANENTFLAGS, hashed */
	/* baseline of the target */
	uint32_t	base_uidvalidity, base_uidnext, base_spare;
	uint32_t	flags_told;			/* as permanent_told: FLAGS */
	/* what of the reply is at the client */
	uint32_t	ndone;
	struct range	done_seq[DONE_MAX];	/* FETCH: answered whole */
	uint8_t		streaming;		/* enum stream */
	uint8_t		lit_no, stream_spare[2];
	uint32_t	lit_seq;		/* client's number */
	uint64_t	lit_size, key;		/* lit_size of APPEND: the id so far */
	struct relayed	body;
	struct mbox	box;
	struct caps_imap4 caps;			/* offered after login; learned by a probe */
	uint8_t		late[LATE_MAX];		/* the refusal to be told later */
};
enum stream { STREAM_NONE, STREAM_LITERAL, STREAM_LINE, STREAM_SET, STREAM_VANISHED, STREAM_EARLIER };	/* the last three: of have alone */
enum verdict { VERDICT_NONE, VERDICT_REDO };
/* A target, by STATUS or LIST: it is not there; it is; the server does not say; its name alone, which is no mailbox's. */
enum there { THERE_NOT, THERE, THERE_UNKNOWN, THERE_NAME };
enum base { BASE_ASK, BASE_KNOWN, BASE_LIST };	/* LIST: STATUS did not say, so that is asked */

enum stage { AT_GREETING, AT_GREETED, AT_NAMED, AT_LOGGED_IN, AT_KNOWN, AT_AUTH, AT_SELECTED, AT_COUNTED, AT_COMPARED, AT_FLAGGED, AT_SAVED };
/* The gateway's own command under way at the backend. */
enum own { OWN_NONE, OWN_STARTTLS, OWN_CAPA, OWN_ID, OWN_LOGIN, OWN_ENABLE, OWN_SELECT, OWN_COMPARE, OWN_FLAGS, OWN_SAVE, OWN_LEARN, OWN_RECENT, OWN_TAIL,
	OWN_SAVED, OWN_BASE, OWN_BASE2, OWN_DELETED, OWN_UNSAVE, OWN_KILL_STORE, OWN_KILL, OWN_CLOSE_D, OWN_LOGOUT, OWN_DONE_IDLE,
	OWN_STORED, OWN_LOOK, OWN_LOOK2, OWN_LOOK_SELECT, OWN_LOOK_IDS, OWN_LOOK_BODY, OWN_LOOK_SOURCE, OWN_LOOK_TARGET };
/* What became of the address that ID names. Dovecot says from 2.4 on whether it believes it, others do not. */
enum id { ID_NOT_SENT, ID_SENT, ID_BELIEVED, ID_REFUSED };
/*
 * Of a SEARCH that saves, once it has ended at the backend: what $ is is asked for; known; to be emptied; empty. FLAGS: of a STORE,
 * the flags of what it left alone are asked for.
 */
enum saving { SAVING_NONE, SAVING_ASK, SAVING_KNOWN, SAVING_UNDO, SAVING_UNDONE, SAVING_FLAGS };

struct have {
	uint8_t		stage, own, said, sent;		/* said: the pending command went out; sent: whole, with its end */
	uint8_t		text_out, header_due, plus_wait, info_xclient;	/* text_out: S_TEXT is being written; header_due: of APPEND */
	uint8_t		idling, renew, drop, full;	/* full: waits for the client to take output */
	uint8_t		fake_recent, based, based2, deleted_known;
	uint8_t		in_stream, skipping, got_set, catching;	/* in_stream: enum stream, of the response being read */
	/* the client is in the middle of a response: owed until it has the rest are changed flags, and responses that were missed */
	uint8_t		translate, hashing, flags_owed, missed;
	uint8_t		held, learn_sent, recent_asked, fetch_real;	/* held: SELECT's answer is whole in S_BUF and told when the UIDs are known */
	uint8_t		look, cap_seen, done_out, resync;	/* resync: the mailbox changed while it was compared */
	uint8_t		learning_ghost, saving, killed, tagged_seen, said_noop, never;
	uint8_t		starttls, id;			/* starttls: TLS is to be begun; 2: the backend is ready for it. id: enum id */
	uint32_t	own_no;				/* number in the tag of the own command */
	uint32_t	text_len, text_at;		/* of S_TEXT: composed, written */
	uint32_t	npause, pause[PAUSES];		/* where it waits for + */
	uint32_t	buf_len, buf_at;
	uint32_t	scan, resp_lit;			/* of the response in view: scanned; literal octets left in it */
	/* the mailbox at the backend */
	uint32_t	exists, uidvalidity, uidnext;
	uint64_t	modseq;
	uint32_t	recents, recent_base;	/* as it says; to which that adds, with fake_recent */
	uint8_t		nomodseq, read_only, notsticky, set_end;
	uint32_t	nghost, ghosts;			/* ranges, messages */
	/* a streamed set of numbers */
	struct setwalk	walk;
	uint32_t	cmp_i, cmp_off, cmp_seq, cmp_new;	/* place in the view; ranges beyond it, in S_CAND */
	uint32_t	old_last;		/* the greatest UID that the client may have known */
	uint32_t	kept_len;		/* the end of a SEARCH that saves, or of a STORE, behind buf_len in S_BUF */
	uint32_t	tail_for;		/* EXISTS for which the tail was asked */
	uint32_t	nsaved;
	/* told_before: another backend's result of this command was told, or a part of its FETCH;
	 * short_lists: of UIDs, fewer than messages are there */
	uint8_t		esearch, set_over, told_before, short_lists;
	/* a streamed response */
	uint64_t	lit_left;
	uint32_t	lit_seq, lit_no;		/* literals of the response so far */
	struct relayed	body;
	/* content of APPEND */
	uint32_t	lit_done;			/* literals whose header was said and taken */
	/* looking */
	uint32_t	ncand, cand_at, nsrc, st_uidvalidity, st_uidnext, look_uid;
	uint8_t		st_there, st2_there, listing, stands;	/* st: enum there; listing: it is asked by LIST; stands: see imap4_note_flags */
	uint8_t		id_no, id_spare[3];	/* which of the client's IDs was said */
	struct relayed	look_hash;
	uint64_t	caps;			/* bits of capinfo */
	struct caps_imap4 capinfo;
	uint32_t	stream_used, fetch_seq;	/* octets that the beginning of a stream used */
};

static inline struct pst *P(const struct turn *t) { return (t->pst); }
static inline struct have *H(const struct turn *t) { return (t->have); }
static inline uint8_t *Z(const struct turn *t, uint32_t at) { return (t->log->p + at); }
static inline uint8_t *S(const struct turn *t, uint32_t at) { return (t->scratch->p + at); }
static inline struct bytes cmd_text(const struct turn *t) { return (bytes(Z(t, Z_CMD), P(t)->cmd_len)); }
static inline struct bytes cmd_tag(const struct turn *t) { return (bytes(Z(t, Z_CMD), P(t)->tag_len)); }

/* client.c */
enum act	imap4_client(struct turn *, struct bytes, size_t *, size_t *);
void		imap4_greet(struct turn *);
void		imap4_try_login(struct turn *, struct bytes user, struct bytes password);
enum refused	imap4_refuse(struct turn *, enum why);
void		imap4_tagged(struct turn *, const char *text);		/* "tag text" CR LF to the client */
enum act	imap4_bad(struct turn *, const char *text);		/* tagged BAD, counted */
void		imap4_forget_command(struct turn *);			/* all but its tag is wiped */
void		imap4_answered(struct turn *);				/* nothing is pending any more */
/* A tagged response's text begins with this code, named without its [ and with its end. */
static inline bool
imap4_has_code(struct bytes text, const char *code)
{
	return (text.n > 0 && text.p[0] == '[' && bytes_casestart(bytes_cut(text, 1), bytes_str(code)));
}

/* login.c */
enum took	imap4_login_status(struct turn *, struct bytes status, struct bytes text);	/* of the backend's answer */
enum took	imap4_logged_in(struct turn *);			/* and it has said what it can do */
/* What becomes of a backend after a command that brings it to where the session is. */
enum took	imap4_stands_in(bool good, struct bytes text);
enum act	imap4_sasl(struct turn *, struct bytes line);		/* a line of the client within AUTHENTICATE */
/* A mechanism that is passed on to the backend; name and initial response as the client gave them. */
enum act	imap4_relay_login(struct turn *, struct bytes name, struct bytes initial);
bool		imap4_has_master(const struct turn *);
bool		imap4_master(struct turn *, struct bytes user);	/* from now on logs in as user by the master user; false: cannot */
/* A login becomes pending; prover: who proves it, empty: the user. */
enum act	imap4_login(struct turn *, uint8_t mech, struct bytes user, struct bytes prover, struct bytes secret);
/*
 * APPEND's client waits for +. imaplib2 takes whatever else comes for a refusal, and then waits for a tagged line: it is told nothing
 * that can wait.
 */
static inline bool
imap4_waits_plus(const struct turn *t)
{
	return (P(t)->command == CMD_APPEND && P(t)->app_told < P(t)->nlit);
}

/* commands.c */
enum act	imap4_command(struct turn *);				/* the command in Z_CMD is complete */
void		imap4_forget_login(struct turn *);
bool		imap4_saves(const struct turn *);			/* the pending command is to set $ (RFC 5182) */
bool		imap4_is_append(const struct turn *, uint32_t *args);	/* so far it is APPEND up to its first literal */
/* append.c */
enum act	imap4_append_begin(struct turn *, uint64_t n, bool sync, bool binary, uint32_t args);
enum act	imap4_append_content(struct turn *, struct bytes, size_t *);
enum act	imap4_append_tail(struct turn *);			/* a line after a literal is gathered */
struct literal	*imap4_literal(const struct turn *, uint32_t);
void		imap4_hash_content(struct relayed *, struct bytes);	/* of a message, in pieces */
void		imap4_find_id(uint8_t *at, uint64_t *id, struct bytes);	/* in a header, in pieces; both are 0 at first */
void		imap4_append_refused(struct turn *, struct bytes answer);	/* told when the client is ready to hear it */
/* say.c */
void		imap4_say_begin(struct turn *);
bool		imap4_say_literal(struct turn *, struct bytes text);	/* a string, quoted or as a literal */
bool		imap4_say(struct turn *, struct bytes raw);		/* adds to the command in S_TEXT; false: no room */
bool		imap4_can_say(struct bytes cmd);			/* whatever the backend is: it has no more literals than are kept track of */
bool		imap4_sayf(struct turn *, const char *, ...) __attribute__((format(printf, 2, 3)));
bool		imap4_say_set(struct turn *, const struct range *, uint32_t n);
bool		imap4_say_pending(struct turn *);			/* the client's command, translated; false: cannot be */
enum next	imap4_say_more(struct turn *);				/* writes S_TEXT on; NEXT_READY when all is written */
int		imap4_key_arguments(struct bytes key);			/* values that follow a key of SEARCH */
bool		imap4_names_ghost(const struct turn *);			/* its set has one */
bool		imap4_names_only_ghosts(const struct turn *);
bool		imap4_resolve(struct turn *);				/* the command's set as UIDs in Z_SET */
enum next	imap4_own(struct turn *, enum own, const char *, ...) __attribute__((format(printf, 3, 4)));
enum next	imap4_own_end(struct turn *, enum own);			/* S_TEXT holds it but for its end */
void		imap4_own_begin(struct turn *, const char *, ...) __attribute__((format(printf, 2, 3)));
/* next.c */
enum next	imap4_next(struct turn *);
void		imap4_writing(struct turn *, uint64_t);
/* backend.c */
enum took	imap4_backend(struct turn *, struct bytes, size_t *, size_t *);
void		imap4_connected(struct turn *, const struct backendinfo *);
enum took	imap4_line(struct turn *, struct bytes resp);		/* a whole response without its end */
bool		imap4_expunge_legal(const struct turn *);
bool		imap4_tell_ghosts(struct turn *);			/* false: the client has to take some first */
void		imap4_relay(struct turn *, struct bytes line);		/* to the client, with CR LF */
/* untagged.c */
enum took	imap4_untagged(struct turn *, struct bytes resp);
bool		imap4_is_streamed(const struct turn *, struct bytes start);	/* may be of any length */
enum took	imap4_code(struct turn *, struct bytes text);			/* a response code at its start */
bool		imap4_selecting(const struct turn *);		/* they are SELECT's */
enum took	imap4_earlier(struct turn *, struct bytes in, size_t *used);	/* a part of its VANISHED (EARLIER), from a number on */
/*
 * Translates a result of SEARCH, SORT or THREAD, whatever stands between its numbers; a string is the correlator's. Returns
 * how many octets it took: as many as there was room for, and none of a word that may go on when the line does.
 */
size_t		imap4_numbers(const struct turn *, struct bytes, bool ends, struct out *);
void		imap4_recents(struct turn *, uint32_t n);		/* the backend counts so many \Recent */
/* What is held of SELECT's answer goes to the client, and the command is over; false: it has to take some output first. */
bool		imap4_tell_selected(struct turn *);
void		imap4_tell_closed(struct turn *);	/* where the backend does not know that one was selected before */
bool		imap4_flush_buf(struct turn *);		/* S_BUF to the client; false: it has to take some first */
/* tagged.c */
enum took	imap4_own_reply(struct turn *, struct bytes status, struct bytes text);
enum took	imap4_tagged_reply(struct turn *, struct bytes resp, bool *hold);
void		imap4_renamed(struct turn *);		/* RENAME was done: the selected mailbox may be the one */
enum next	imap4_ask_flags(struct turn *);		/* of what a STORE (UNCHANGEDSINCE) left alone that was in doubt */
void		imap4_note_flags(struct turn *, struct bytes items);	/* they are as that STORE would have them */
enum there	imap4_there(const struct turn *, bool good, struct bytes text);	/* by the end of that STATUS or LIST */
bool		imap4_ours(const struct turn *);		/* untagged data now belong to an own command */
/* fetch.c */
enum took	imap4_fetch(struct turn *, uint32_t seq, struct bytes items);
enum took	imap4_fetch_begin(struct turn *, struct bytes head, uint64_t size);	/* a response with a large literal */
enum took	imap4_stream(struct turn *, struct bytes in, size_t *used);
enum took	imap4_line_begin(struct turn *, struct bytes head);
/* sync.c */
enum took	imap4_set_stream(struct turn *, struct bytes in, size_t *used);	/* the set of an own search */
enum took	imap4_compared(struct turn *);
bool		imap4_equivalent(struct turn *);			/* what SELECT said */
void		imap4_condstore(struct turn *);				/* the client uses mod-sequences from now on */
void		imap4_tell_exists(struct turn *);			/* if there are more than the client knows */
/* doubt.c */
enum doubt	imap4_doubt(struct turn *);
enum next	imap4_ask_base(struct turn *, bool second);		/* what the target is before the command */
enum next	imap4_look(struct turn *);				/* the next thing to look at */
enum took	imap4_looked(struct turn *, enum own, bool good, struct bytes text);	/* that look has ended */
void		imap4_look_fetch(struct turn *, struct bytes items);	/* a FETCH response of it */
void		imap4_look_body(struct turn *);			/* a message whole, hashed in look_hash */
/* view.c */
void		view_reset(struct turn *);			/* another mailbox */
void		view_forget(struct turn *);			/* its UIDs; the count stays */
bool		view_append(struct turn *, uint32_t uid_lo, uint32_t n);	/* greater than all before */
uint32_t	view_uid(const struct turn *, uint32_t seq);		/* 0: not known */
uint32_t	view_seq(const struct turn *, uint32_t uid);		/* 0: not there */
uint32_t	view_last(const struct turn *);				/* the greatest UID known */
void		view_expunge(struct turn *, uint32_t seq);
const struct range *view_ranges(const struct turn *, uint32_t *n);
uint32_t	view_client(const struct turn *, uint32_t server);	/* numbers: over the ghosts */
/* A range of the server's, without the ghosts if that leaves so much room, else as one. */
void		view_print(const struct turn *, uint32_t lo, uint32_t hi, struct out *, size_t room);
uint32_t	view_server(const struct turn *, uint32_t client, bool *ghost);
bool		view_ghost(struct turn *, uint32_t client_lo, uint32_t n);	/* one more, any order; false: too many */
bool		view_is_recent(const struct turn *, uint32_t uid);
/* caps.c */
uint64_t	caps_parse(struct bytes list, struct caps_imap4 *);	/* bits of what is known of it */
void		caps_line(const struct turn *, struct out *);		/* "CAPABILITY ..." for this client, now */
void		caps_show(const struct caps *, char *, size_t);
void		caps_meet(struct caps *, const struct caps *);
void		caps_learn(struct caps *, const struct caps *);
bool		caps_has(const struct turn *, const char *name);	/* the backend has it */
bool		caps_lacks(const struct turn *);			/* it has less than this session was promised */
bool		caps_offered(const struct turn *, struct bytes name);

extern const struct behaviour imap4;

#endif
