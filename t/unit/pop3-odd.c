/* pop3 - what is rare: logins that a second host refuses, maildrops that changed, deletions done by half */
/* LINK: pop3/client.c pop3/relay.c pop3/backend.c pop3/next.c pop3/snapshot.c workers/arena.c workers/relayed.c workers/sasl.c supervisor/buf.c supervisor/log.c workers/journal.c workers/pack.c */
#define NO_MAIN
#include "pop3/pop3.c"	/* its table, without its main */
#include "t/lib/script.h"
#include "t/lib/tap.h"

#define THREE "+OK\r\n1 40\r\n2 30\r\n3 20\r\n.\r\n"
#define UIDS "+OK\r\n1 aaa\r\n2 bbb\r\n3 ccc\r\n.\r\n"

static struct caps offer;
static const struct master master = { .user = "boss", .password = "secret" };

static inline struct rig *
begin(void)
{
	struct rig *r = script_begin(&pop3, &offer);

	r->t.master = &master;
	return (r);
}

/* The client says who it is, and a host takes it. */
static inline void
enter(struct rig *r)
{
	client(r, "USER u\r\nPASS p\r\n");
	server(r, "+OK hi\r\n");
	server(r, "+OK\r\n+OK\r\n");
}

/* A session that is logged in. */
static inline struct rig *
logged(const char *list, const char *uidl)
{
	struct rig *r = begin();

	enter(r);
	server(r, list);
	server(r, uidl);
	(void)heard(r);
	(void)got(r);
	return (r);
}

/* Another host, up to its UIDL. */
static inline void
again(struct rig *r, const char *uidl)
{
	server(r, "+OK hi\r\n");
	server(r, "+OK\r\n+OK\r\n");
	server(r, uidl);
}

static void
half_snapshot(void)
{
	struct rig *r = begin();

	enter(r);
	server(r, "+OK\r\n1 40\r\n2 30\r\n");
	rig_die(r);
	rig_run(r);
	server(r, "+OK hi\r\n");
	server(r, "-ERR [AUTH] no\r\n");
	ok(has(heard(r), "-ERR [AUTH] no\r\n"), "the first host dies amid its listing, the second refuses the login");
	rig_run(r);
	enter(r);
	server(r, THREE UIDS);
	ok(is(heard(r), "+OK\r\n+OK logged in, 3 messages\r\n"), "the next login finds all messages, once");
	rig_free(r);

	r = begin();
	r->max_deaths = 0;
	enter(r);
	server(r, "+OK\r\n1 40\r\n2 30\r\n");
	rig_die(r);
	rig_run(r);
	(void)heard(r);
	client(r, "PASS p\r\nAUTH PLAIN AGEAYg==\r\n");
	server(r, "+OK hi\r\n");
	server(r, "+OK\r\n");
	server(r, THREE UIDS);
	ok(is(heard(r), "-ERR USER first\r\n+OK logged in, 3 messages\r\n"), "so does one behind a login that no host could take");
	rig_free(r);
}

static void
given_up(void)
{
	struct rig *r = begin();

	r->max_deaths = 0;
	client(r, "AUTH CRAM-MD5\r\n");
	server(r, "+OK hi\r\n");
	server(r, "+ PDEyMz4=\r\n");
	rig_die(r);
	rig_run(r);
	r->max_deaths = 8;
	(void)heard(r);
	client(r, "AUTH PLAIN AGEAYg==\r\n");
	server(r, "+OK hi\r\n");
	r->bin.start = r->bin.n = 0;
	rig_put(&r->bin, "-ERR [AUTH] no\r\n", 16);
	ok(rig_input(r) && r->refused, "a login behind a challenge that was lost: a refusal is not believed before its time");
	rig_run(r);
	ok(is(heard(r), "-ERR [AUTH] no\r\n"), "then it is");
	rig_free(r);
}

static void
challenge(void)
{
	struct rig *r = begin();
	char want[1000], text[1000];

	snprintf(want, sizeof(want), "+ %0800d\r\n", 0);
	snprintf(text, sizeof(text), "%s", want);
	client(r, "AUTH CRAM-MD5\r\n");
	(void)heard(r);
	server(r, "+OK hi\r\n");
	server(r, text);
	ok(is(heard(r), want), "a challenge of 800 octets is passed on whole");
	client(r, "bcO8IDEyMw==\r\n");		/* "mü 123" */
	server(r, "+OK in\r\n");
	server(r, THREE UIDS);
	rig_die(r);
	(void)got(r);
	client(r, "RETR 1\r\n");
	server(r, "+OK hi\r\n");
	ok(has(got(r), "AUTH PLAIN bcO8AGJvc3MAc2VjcmV0\r\n"), "another host is entered as the same user, whatever letters");
	rig_free(r);
}

/* RFC 4616: the password is u's, the mailbox z's. */
static void
for_another(void)
{
	struct rig *r = begin();

	client(r, "AUTH PLAIN egB1AHA=\r\n");
	ok(proves(r, PROOF_PLAIN, "u"), "who logs in for another proves who he is himself");
	server(r, "+OK hi\r\n");
	server(r, "+OK in\r\n");
	server(r, THREE UIDS);
	ok(whose(r, "z"), "and the session is the other's");
	rig_die(r);
	(void)got(r);
	client(r, "RETR 1\r\n");
	server(r, "+OK hi\r\n");
	ok(has(got(r), "AUTH PLAIN egB1AHA=\r\n"), "at another host it is said as it was");
	rig_free(r);

	r = begin();
	client(r, "AUTH SCRAM-SHA-1 bixhPXosbj11LHI9eA==\r\n");
	ok(proves(r, PROOF_ONCE, "u"), "the same with SCRAM");
	server(r, "+OK hi\r\n");
	server(r, "+ eA==\r\n");
	client(r, "Yz1iaXdzLHI9eHkscD1x\r\n");
	ok(proves(r, PROOF_ONCE, "u"), "to its end");
	server(r, "+OK in\r\n");
	server(r, THREE UIDS);
	rig_die(r);
	(void)got(r);
	client(r, "RETR 1\r\n");
	server(r, "+OK hi\r\n");
	ok(whose(r, "z") && has(got(r), "AUTH PLAIN egBib3NzAHNlY3JldA==\r\n"), "the master user goes on for the other");
	rig_free(r);
}

static void
named_late(const char *answer, const char *who)
{
	struct rig *r = begin();

	client(r, "AUTH CRAM-MD5\r\n");
	ok(proves(r, PROOF_ONCE, ""), "nobody has said yet who he is");
	server(r, "+OK hi\r\n");
	server(r, "+ PDEyMz4=\r\n");
	client(r, answer);
	ok(proves(r, PROOF_ONCE, who), "the answer to the challenge does, if it does");
	rig_free(r);
}

static void
gone(void)
{
	struct rig *r = logged(THREE, UIDS);

	rig_die(r);
	client(r, "RETR 1\r\n");
	again(r, "+OK\r\n1 new\r\n2 aaa\r\n3 ccc\r\n.\r\n");
	server(r, "+OK\r\nx\r\n.\r\n");
	ok(has(got(r), "RETR 2\r\n") && is(heard(r), "+OK 40 octets\r\nx\r\n.\r\n"), "a message that has another number there");
	client(r, "RETR 2\r\nTOP 2 1\r\n");
	ok(!has(got(r), " 0") && is(heard(r), "-ERR [SYS/TEMP] message no longer available\r\n-ERR [SYS/TEMP] message no longer available\r\n"),
	    "one that is not there is not asked for");
	client(r, "DELE 2\r\nDELE 3\r\nQUIT\r\n");
	ok(is(got(r), "DELE 3\r\n"), "nor deleted");
	rig_free(r);
}

/* Of four messages, of which three have one UIDL, 1, 3 and 4 are deleted; QUIT is out when the host dies. */
static void
half_deleted(const char *uidl, const char *want, const char *what)
{
	struct rig *r = logged("+OK\r\n1 1\r\n2 2\r\n3 3\r\n4 4\r\n.\r\n", "+OK\r\n1 same\r\n2 same\r\n3 ccc\r\n4 same\r\n.\r\n");
	size_t n = 0;

	client(r, "DELE 1\r\nDELE 3\r\nDELE 4\r\nQUIT\r\n");
	server(r, "+OK\r\n+OK\r\n+OK\r\n");
	(void)heard(r);
	rig_die(r);
	rig_run(r);
	server(r, "+OK hi\r\n");
	server(r, "+OK\r\n+OK\r\n");
	(void)got(r);
	server(r, uidl);
	for (const char *at = want; (at = strstr(at, "DELE")) != NULL; at++, n++)
		server(r, "+OK\r\n");
	ok(is(got(r), want), "QUIT in doubt, %s", what);
	server(r, "+OK\r\n");
	ok(is(heard(r), "+OK bye\r\n"), "%s: and the client hears that it is done", what);
	rig_free(r);
}

/* Two have one UIDL, of which a client elsewhere removes one: the other is the one that is kept, whatever was marked when. */
static void
twins(void)
{
	struct rig *r = logged("+OK\r\n1 1\r\n2 1\r\n3 3\r\n.\r\n", "+OK\r\n1 same\r\n2 same\r\n3 ccc\r\n.\r\n");

	rig_die(r);
	client(r, "RETR 3\r\n");
	again(r, "+OK\r\n1 same\r\n2 ccc\r\n.\r\n");
	server(r, "+OK\r\nx\r\n.\r\n");
	(void)got(r);
	client(r, "DELE 1\r\nDELE 3\r\nQUIT\r\n");
	ok(is(got(r), "UIDL\r\n"), "marks came after the map, and UIDs repeat: it is made again");
	server(r, "+OK\r\n1 same\r\n2 ccc\r\n.\r\n");
	ok(is(got(r), "DELE 2\r\n"), "and the one that was not marked is kept");
	server(r, "+OK\r\n");
	server(r, "+OK\r\n");
	ok(has(heard(r), "+OK bye\r\n"), "QUIT is done");
	rig_free(r);
}

/* All that was marked is gone, and as much has come. */
static void
done_and_new(void)
{
	struct rig *r = logged("+OK\r\n1 40\r\n.\r\n", "+OK\r\n1 aaa\r\n.\r\n");

	client(r, "DELE 1\r\nQUIT\r\n");
	server(r, "+OK\r\n");
	rig_die(r);
	rig_run(r);
	(void)heard(r);
	again(r, "+OK\r\n1 new\r\n.\r\n");
	ok(has(got(r), "UIDL\r\nQUIT\r\n"), "QUIT was done when the host died, and new mail came: it ends all the same");
	server(r, "+OK\r\n");
	ok(has(heard(r), "+OK bye\r\n"), "and the client hears so");
	rig_free(r);

	r = logged("+OK\r\n1 40\r\n.\r\n", "+OK\r\n1 aaa\r\n.\r\n");
	client(r, "DELE 1\r\n");
	rig_die(r);
	client(r, "QUIT\r\n");
	again(r, "+OK\r\n1 x\r\n2 y\r\n.\r\n");
	ok(!has(got(r), "QUIT"), "a store that is another one before QUIT was said anywhere is none to end it in");
	rig_free(r);
}

static void
quit_refused(void)
{
	struct rig *r = logged(THREE, UIDS);

	client(r, "DELE 2\r\nQUIT\r\n");
	server(r, "+OK\r\n");
	(void)heard(r);
	server(r, "-ERR [SYS/TEMP] Server shutting down.\r\n");
	again(r, "+OK\r\n1 aaa\r\n2 bbb\r\n3 ccc\r\n.\r\n");
	server(r, "+OK\r\n");
	server(r, "+OK\r\n");
	ok(is(heard(r), "+OK bye\r\n"), "a host that goes instead of QUIT: the deletions are finished at another");
	rig_free(r);

	r = logged(THREE, UIDS);
	r->max_deaths = 1;
	client(r, "DELE 2\r\nQUIT\r\n");
	server(r, "+OK\r\n");
	(void)heard(r);
	server(r, "-ERR [SYS/TEMP] no\r\n");
	again(r, UIDS);
	server(r, "+OK\r\n");
	server(r, "-ERR [SYS/TEMP] no\r\n");
	ok(is(heard(r), "-ERR [SYS/TEMP] some deleted messages not removed\r\n") && r->over, "all refuse it: the client hears so, and the session ends");
	rig_free(r);
}

static void
not_now(void)
{
	struct rig *r = logged(THREE, UIDS);

	client(r, "RETR 2\r\n");
	server(r, "-ERR [SYS/TEMP] Server shutting down.\r\n");
	again(r, UIDS);
	server(r, "+OK\r\nx\r\n.\r\n");
	ok(is(heard(r), "+OK 30 octets\r\nx\r\n.\r\n"), "a host that goes instead of RETR: another gives the message");
	client(r, "TOP 3 0\r\n");
	server(r, "-ERR [SYS/TEMP] no\r\n");
	ok(is(heard(r), "-ERR [SYS/TEMP] no\r\n") && r->up, "what is said after a failover is told");
	rig_free(r);

	r = logged(THREE, UIDS);
	client(r, "RETR 2\r\n");
	server(r, "-ERR [SYS/TEMP] no\r\n");
	again(r, UIDS);
	server(r, "-ERR [SYS/TEMP] no\r\n");
	client(r, "RETR 3\r\n");
	server(r, "+OK\r\ny\r\n.\r\n");
	ok(is(heard(r), "-ERR [SYS/TEMP] no\r\n+OK 20 octets\r\ny\r\n.\r\n"), "two say so: the client hears it, and goes on with the next");
	rig_free(r);
}

static void
long_uidl(void)
{
	char uidl[600];
	struct rig *r;

	snprintf(uidl, sizeof(uidl), "+OK\r\n1 %0200d\r\n2 m\303\274ll er\r\n3 ccc\r\n.\r\n", 7);
	r = begin();
	enter(r);
	server(r, THREE);
	server(r, uidl);
	ok(has(heard(r), "+OK logged in, 3 messages\r\n"), "UIDLs that are longer or odder than they may be shut nobody out");
	client(r, "UIDL\r\nDELE 1\r\n");
	ok(has(heard(r), strchr(uidl, '1')), "and are told as they are");
	rig_die(r);
	(void)got(r);
	client(r, "QUIT\r\n");
	again(r, uidl);
	ok(has(got(r), "DELE 1\r\n"), "and known at another host");
	rig_free(r);
}

static void
busy(const char *reply)
{
	struct rig *r = logged(THREE, UIDS);

	rig_die(r);
	client(r, "RETR 3\r\n");
	for (int i = 0; i < 3; i++) {
		server(r, "+OK hi\r\n");
		server(r, "+OK\r\n");
		server(r, reply);
	}
	ok(is(heard(r), ""), "%.12s at a failover is waited for", reply + 5);
	again(r, UIDS);
	server(r, "+OK\r\nx\r\n.\r\n");
	ok(is(heard(r), "+OK 20 octets\r\nx\r\n.\r\n"), "until it is over");
	rig_free(r);
}

/* A host that goes, or cannot just now, when it is asked for its UIDs: to be without UIDL is for one that has none. */
static void
no_uidl_now(const char *reply)
{
	struct rig *r = begin();

	enter(r);
	server(r, THREE);
	server(r, reply);
	(void)heard(r);
	again(r, THREE);
	server(r, UIDS);
	client(r, "UIDL 2\r\n");
	ok(is(heard(r), "+OK logged in, 3 messages\r\n+OK 2 bbb\r\n"), "%.30s for UIDs at a login: another host is asked", reply);
	rig_die(r);
	client(r, "RETR 3\r\n");
	again(r, reply);
	ok(r->never == 0 && is(heard(r), ""), "and at a failover, where it may stand in later");
	again(r, UIDS);
	server(r, "+OK\r\nx\r\n.\r\n");
	ok(is(heard(r), "+OK 20 octets\r\nx\r\n.\r\n"), "the session goes on");
	rig_free(r);
}

static void
no_uidl(void)
{
	struct caps_pop3 caps = { .known = 1, .bits = CAP_USER | CAP_TOP | CAP_UIDL };
	struct rig *r = begin();

	memcpy(&r->offer, &caps, sizeof(caps));
	(void)heard(r);
	client(r, "USER u\r\nPASS p\r\n");
	server(r, "+OK hi\r\n");
	server(r, "+OK\r\n");
	server(r, "+OK\r\n");
	server(r, THREE);
	server(r, "-ERR what?\r\n");
	client(r, "UIDL\r\n");
	ok(is(heard(r), "+OK\r\n+OK logged in, 3 messages\r\n-ERR UIDL is not supported here\r\n"), "a server without CAPA may lack UIDL");
	rig_free(r);
}

/* More than the journal takes; as many messages as there are, but no more UIDs than that. */
static void
no_room(void)
{
	struct rig *r = begin();

	enter(r);
	server(r, "+OK\r\n");
	for (int i = 1; i <= 5000; i++)
		serverf(r, "%d 1\r\n", i);
	server(r, ".\r\n+OK\r\n");
	for (int i = 1; i <= 5000 && r->up && r->never == 0; i++)
		serverf(r, "%d %0250d\r\n", i, i);
	ok(r->never == 1, "a maildrop that does not fit is no fault of the host");
	rig_free(r);

	r = begin();
	enter(r);
	server(r, THREE "+OK\r\n1 aaa\r\n2 bbb\r\n3 ccc\r\n4 ddd\r\n");
	ok(r->never == 0 && r->deaths == 1, "but more UIDs than messages are");
	rig_free(r);
}

static void
many_lines(void)
{
	struct rig *r = logged(THREE, UIDS);

	client(r, "TOP 1 18446744073709551615\r\n");
	ok(is(got(r), "TOP 1 4294967295\r\n"), "TOP with more lines than any message has");
	server(r, "+OK\r\nx\r\n.\r\n");
	client(r, "TOP 1 007\r\n");
	ok(is(got(r), "TOP 1 7\r\n"), "with zeros before them");
	server(r, "+OK\r\nx\r\n.\r\n");
	(void)heard(r);
	client(r, "TOP 1 -1\r\nTOP 1 \r\nTOP 1\r\nTOP 1 1x\r\n");
	ok(is(got(r), "") && !has(heard(r), "+OK"), "with what is no number");
	rig_free(r);
}

static void
errors(void)
{
	struct rig *r = logged(THREE, UIDS);

	client(r, "DELE 1\r\n");
	for (int i = 0; i < 50; i++)
		client(r, "LIST 1\r\nXTND\r\nLIST 2\r\n");
	ok(!r->over, "errors among good commands end no session, in which something is deleted");
	for (int i = 0; i < 20; i++)
		client(r, "LIST 1\r\n");
	ok(r->over && has(heard(r), "too many errors"), "20 in a row do");
	rig_free(r);
}

static void
patience(void)
{
	struct rig *r = logged(THREE, UIDS);

	r->times.bulk = 7000;
	client(r, "RETR 1\r\n");
	ok(r->t.wait == 7000, "a message is waited for as content is");
	server(r, "+OK\r\nx\r\n");
	ok(r->t.wait == 7000, "and so is its rest");
	rig_free(r);
}

static void
empty(void)
{
	struct rig *r = logged("+OK\r\n.\r\n", "+OK\r\n.\r\n");

	client(r, "STAT\r\nLIST\r\nUIDL\r\nRETR 1\r\nRSET\r\n");
	rig_die(r);
	client(r, "QUIT\r\n");
	ok(is(heard(r), "+OK 0 0\r\n+OK 0 messages\r\n.\r\n+OK 0 messages\r\n.\r\n-ERR no such message\r\n+OK maildrop has 0 messages\r\n+OK bye\r\n"),
	    "an empty maildrop");
	rig_free(r);
}

int
main(void)
{
	struct caps_pop3 caps = { .known = 1, .bits = UINT32_MAX };

	memcpy(&offer, &caps, sizeof(caps));
	half_snapshot();
	given_up();
	challenge();
	for_another();
	named_late("dSAxMjM=\r\n", "u");
	named_late("*\r\n", "");
	named_late("eHh4\r\n", "?");
	named_late("no base64\r\n", "?");
	gone();
	half_deleted("+OK\r\n1 same\r\n2 same\r\n3 ccc\r\n4 same\r\n.\r\n", "DELE 2\r\nDELE 3\r\nDELE 4\r\nQUIT\r\n", "nothing done");
	half_deleted("+OK\r\n1 same\r\n2 same\r\n.\r\n", "DELE 2\r\nQUIT\r\n", "done by half");
	half_deleted("+OK\r\n1 new\r\n2 same\r\n3 ccc\r\n.\r\n", "DELE 3\r\nQUIT\r\n", "done by half, and new mail");
	half_deleted("+OK\r\n1 same\r\n.\r\n", "QUIT\r\n", "all done");
	twins();
	done_and_new();
	quit_refused();
	not_now();
	long_uidl();
	busy("-ERR [IN-USE] locked\r\n");
	busy("-ERR [LOGIN-DELAY] wait\r\n");
	no_uidl_now("-ERR [SYS/TEMP] Server shutting down.\r\n");
	no_uidl_now("-ERR Mailbox is inconsistent, please relogin.\r\n");
	no_uidl();
	many_lines();
	errors();
	patience();
	no_room();
	empty();
	return (done_testing());
}
