/* imap4 - what is rare: answers too long to be held, messages that go while their UIDs are learned, commands that are refused */
/* LINK: imap4/append.c imap4/backend.c imap4/caps.c imap4/client.c imap4/commands.c imap4/doubt.c imap4/fetch.c imap4/login.c imap4/next.c imap4/say.c imap4/set.c imap4/sync.c imap4/tagged.c imap4/token.c imap4/untagged.c imap4/view.c workers/arena.c workers/relayed.c workers/sasl.c workers/journal.c workers/pack.c supervisor/buf.c supervisor/log.c */
#define NO_MAIN
#include <unistd.h>

#include "imap4/imap4.c"	/* its table, without its main */
#include "t/lib/script.h"
#include "t/lib/tap.h"

#define HELLO "* OK [CAPABILITY IMAP4rev1 AUTH=CRAM-MD5] hello\r\n"
#define LOGIN "a1 LOGIN u p\r\n"
#define CAPS "IMAP4rev1 ENABLE UIDPLUS MOVE ESEARCH SEARCHRES IDLE UNSELECT CONDSTORE QRESYNC MULTIAPPEND AUTH=CRAM-MD5"

static struct caps offer;

/* Tag of the gateway's last command. */
static inline const char *
own(const struct rig *r)
{
	static char tag[64];
	const char *at = memrchr(r->bout.p, '~', r->bout.n);

	snprintf(tag, sizeof(tag), "%.*s", at == NULL ? 0 : (int)strcspn(at, " "), at == NULL ? "" : at);
	return (tag);
}

static inline const char *
number(uint32_t n)
{
	static char text[16];

	snprintf(text, sizeof(text), "%u", n);
	return (text);
}

static inline void
greeting(struct rig *r)
{
	server(r, HELLO);
	serverf(r, "%s OK [CAPABILITY " CAPS "] in\r\n", own(r));
}

/* A session that is logged in. */
static inline struct rig *
begin(void)
{
	struct rig *r = script_begin(&imap4, &offer);

	client(r, LOGIN);
	greeting(r);
	return (r);
}

/* A login by CRAM-MD5, up to the challenge. */
static inline struct rig *
challenged(void)
{
	static const struct master master = { .user = "m", .password = "p" };
	struct rig *r = rig_new(&imap4, &offer);

	r->t.master = &master;
	script_start(r);
	client(r, "a1 AUTHENTICATE CRAM-MD5\r\n");
	server(r, HELLO);
	server(r, "+ PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+\r\n");
	return (r);
}

/* The server has a mailbox; tag: of the command that selects it. */
static inline void
mailbox(struct rig *r, const char *tag, uint32_t exists, uint32_t uidnext, const char *uids)
{
	serverf(r, "* FLAGS (\\Seen)\r\n* %u EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT %u] n\r\n"
	    "* OK [HIGHESTMODSEQ 9] m\r\n%s OK [READ-WRITE] Select completed\r\n", exists, uidnext, tag);
	serverf(r, "* ESEARCH (TAG \"%s\") UID%s%s\r\n%s OK Search completed\r\n", own(r), *uids != '\0' ? " ALL " : "", uids, own(r));
}

static inline struct rig *
select_box(const char *params, uint32_t exists, uint32_t uidnext, const char *uids)
{
	struct rig *r = begin();
	char line[200];

	snprintf(line, sizeof(line), "a2 SELECT INBOX%s\r\n", params);
	client(r, line);
	mailbox(r, "a2", exists, uidnext, uids);
	return (r);
}

static inline void
again(struct rig *r, uint32_t exists, uint32_t uidnext, const char *uids)
{
	greeting(r);
	mailbox(r, own(r), exists, uidnext, uids);
}

/* As many messages in one APPEND as there may be, and one more. */
static void
many_messages(uint32_t n, const char *end)
{
	struct rig *r = begin();

	client(r, "a2 APPEND box {1+}\r\nx");
	for (uint32_t i = 1; i < n; i++)
		client(r, " {1+}\r\nx");
	client(r, "\r\n");
	if (r->up)
		serverf(r, "* STATUS box (UIDVALIDITY 7 UIDNEXT 3)\r\n%s OK done\r\n", own(r));
	for (uint32_t i = 0; i < n && r->up; i++)
		server(r, "+ OK\r\n");
	if (r->up)
		server(r, "a2 OK Append completed\r\n");
	ok(has(heard(r), end), "%u messages in one APPEND: %s", n, end);
	rig_free(r);
}

/* What has gone since the client was here last, in a line that is not held whole. */
static void
long_vanished(void)
{
	struct rig *r = begin();
	static char text[40000];
	struct out o = { (uint8_t *)text, 0, sizeof(text) - 1, false };
	uint32_t next = 1, n = 0;
	struct bytes h;

	client(r, "a2 ENABLE QRESYNC\r\n");
	server(r, "* ENABLED QRESYNC\r\na2 OK\r\n");
	client(r, "a3 SELECT INBOX (QRESYNC (7 1))\r\n");
	out_str(&o, "* VANISHED (EARLIER) 1");
	for (uint32_t i = 3; i < 6000; i += 2)
		out_fmt(&o, ",%u", i);
	(void)heard(r);
	for (size_t i = 0; i < o.len; i += 997)
		serverf(r, "%.*s", (int)(o.len - i < 997 ? o.len - i : 997), text + i);
	server(r, "\r\n");
	mailbox(r, "a3", 1, 7000, "6500");
	for (h = heard(r); bytes_casestart(h, BYTES("* VANISHED (EARLIER) ")); n++) {
		struct bytes l = bytes_token(&h, '\n'), set = bytes_cut(bytes(l.p, l.n - 1), 21);

		while (set.n > 0 && bytes_eq(bytes_token(&set, ','), bytes_str(number(next))))
			next += 2;
	}
	ok(next == 6001 && has(h, "* 1 EXISTS") && has(h, "a3 OK"), "VANISHED (EARLIER) too long for one line is told with SELECT, in %u", n);
	rig_free(r);
}

/*
 * The client knows of 4,000 messages, of which some have gone while no server was there: numbers in the result of its search are
 * its own, wherever what comes at a time ends.
 */
static void
translated(const char *what, const char *cmd, const char *uids, uint32_t exists, struct bytes says, size_t cut, struct bytes golden)
{
	struct rig *r = select_box("", 4000, 4001, "1:4000");

	rig_die(r);
	client(r, cmd);
	again(r, exists, 4001, uids);
	(void)heard(r);
	for (size_t i = 0; i < says.n; i += cut)
		serverf(r, "%.*s", (int)(says.n - i < cut ? says.n - i : cut), (const char *)says.p + i);
	server(r, "a3 OK done\r\n");
	ok(bytes_eq(heard(r), golden), "%s, in pieces of %zu", what, cut);
	rig_free(r);
}

static void
long_results(void)
{
	static char text[2][40000], golden[2][40000];
	struct out o[2], w[2];

	for (int k = 0; k < 2; k++) {
		o[k] = (struct out){ (uint8_t *)text[k], 0, sizeof(text[k]), false };
		w[k] = (struct out){ (uint8_t *)golden[k], 0, sizeof(golden[k]), false };
		out_str(&o[k], k == 0 ? "* SEARCH" : "* ESEARCH (TAG \"a3\") MIN 1 COUNT 3999 ALL 2");
		out_str(&w[k], k == 0 ? "* SEARCH" : "* ESEARCH (TAG \"a3\") MIN 2 COUNT 3999 ALL 3");
		for (uint32_t i = k == 0 ? 1 : 3; i < 4000; i++) {
			out_fmt(&o[k], k == 0 ? " %u" : ",%u", i);
			out_fmt(&w[k], k == 0 ? " %u" : ",%u", i + 1);
		}
		out_str(&o[k], "\r\n");
		out_str(&w[k], "\r\na3 OK [EXPUNGEISSUED] Search completed\r\n");
	}
	for (size_t cut = 1; cut < 2000; cut += 498) {
		translated("a long result", "a3 SEARCH UNSEEN\r\n", "2:4000", 3999, bytes(text[0], o[0].len), cut, bytes(golden[0], w[0].len));
		translated("another", "a3 SEARCH RETURN (MIN COUNT ALL) UNSEEN\r\n", "2:4000", 3999, bytes(text[1], o[1].len), cut,
		    bytes(golden[1], w[1].len));
	}
	translated("ranges without what is gone", "a3 SEARCH RETURN (ALL COUNT) ALL\r\n", "2,5:6,8:4000", 3996,
	    BYTES("* ESEARCH (TAG \"a3\") ALL 1:3,4:3996 COUNT 3996\r\n"), 20,
	    BYTES("* ESEARCH (TAG \"a3\") ALL 2,5:6,8:4000 COUNT 3996\r\na3 OK [EXPUNGEISSUED] Search completed\r\n"));
}

/* A SELECT that is not understood leaves what was selected, with the client's numbers. */
static void
bad_select(void)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	rig_die(r);
	client(r, "a3 FETCH 3 (UID)\r\n");
	again(r, 3, 7, "3,5:6");
	server(r, "* 2 FETCH (UID 5)\r\na3 OK done\r\n");
	client(r, "a4 SELECT INBOX (FOO)\r\n");
	server(r, "a4 BAD unknown parameter\r\n");
	if (r->up)
		serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3,5:6\r\n%s OK Search completed\r\n", own(r), own(r));
	ok(has(heard(r), "a4 BAD "), "a SELECT is not understood");
	client(r, "a5 FETCH 3 (UID)\r\n");
	if (r->connects > 2)
		again(r, 3, 7, "3,5:6");
	ok(has(got(r), "a5 FETCH 2 (UID)"), "numbers are what they were");
	rig_free(r);
}

/* Lines of the answer to SELECT: n octets of flags that have changed. */
static void
changed(struct rig *r, size_t n)
{
	static char text[4096];

	for (size_t len = n < 1000 ? n : 1000; n > 0 && r->up; n -= len, len = n < 1000 ? n : 1000) {
		len = n - len < 60 ? n : len;		/* no line is too short to be one */
		snprintf(text, sizeof(text), "* 1 FETCH (UID 1 FLAGS (%0*d) MODSEQ (5))\r\n", (int)len - 39, 0);
		rig_must(strlen(text) == len, "as long as it should be");
		serverf(r, "%s", text);
	}
}

/* How many lines are no lines of that answer; the last one. */
static uint32_t
broken(struct bytes b, struct bytes *last)
{
	uint32_t n = 0;

	while (b.n > 0) {
		*last = bytes_token(&b, '\n');
		n += last->n == 0 || last->p[last->n - 1] != '\r' || has(bytes_cut(*last, 1), "* ") ||
		    (last->p[0] != '*' && !bytes_casestart(*last, BYTES("a3 OK")));
	}
	return (n);
}

#define SELECTED_ "* 5000 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 5001] n\r\n* OK [HIGHESTMODSEQ 9] m\r\n"

/* The answer to SELECT is more than can be held, all but so many octets; die: the server dies when the client has a part. */
static void
large_answer(size_t left, bool die)
{
	struct rig *r = begin();
	struct bytes l = { 0 };
	uint32_t bad;

	client(r, "a2 ENABLE QRESYNC\r\n");
	server(r, "* ENABLED QRESYNC\r\na2 OK\r\n");
	client(r, "a3 SELECT INBOX (QRESYNC (7 1))\r\n");
	script_told = r->out.n = 0;			/* it has room for that answer */
	server(r, SELECTED_);
	changed(r, S_BUF_SIZE - strlen(SELECTED_) - left);
	if (die) {
		for (int i = 0; i < 3 && r->out.n == script_told; i++)
			changed(r, 1000);
		ok(r->out.n > script_told, "the client has a part of a large answer to SELECT");
		rig_die(r);
		rig_run(r);
		greeting(r);
		serverf(r, "* ENABLED QRESYNC\r\n%s OK\r\n", own(r));
		server(r, SELECTED_);
	}
	server(r, "a3 OK Selected\r\n");
	ok(r->b->pending(&r->t), "a large answer to SELECT waits for the UIDs");
	bad = broken(heard(r), &l);
	serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 1:5000\r\n", own(r));
	serverf(r, "%s OK Searched\r\n", own(r));
	bad += broken(heard(r), &l);
	ok(bad == 0 && bytes_eq(l, BYTES("a3 OK Selected\r")), "it comes in whole lines");
	rig_free(r);
}

static struct rig *
resyncing(const char *cmd, uint32_t exists, uint32_t uidnext, const char *uids)
{
	struct rig *r = begin();

	client(r, "a2 ENABLE QRESYNC\r\n");
	server(r, "* ENABLED QRESYNC\r\na2 OK\r\n");
	client(r, "a3 SELECT INBOX\r\n");
	mailbox(r, "a3", exists, uidnext, uids);
	client(r, cmd);
	(void)heard(r);
	return (r);
}

/* Messages go from a mailbox with so many holes that only their number is known. */
static void
vanish_uncounted(void)
{
	static char uids[80000];
	struct out o = { (uint8_t *)uids, 0, sizeof(uids) - 1, false };
	struct rig *r;

	for (uint32_t i = 1; i <= 18000; i += 2)
		out_fmt(&o, "%s%u", i > 1 ? "," : "", i);
	r = resyncing("a4 NOOP\r\n", 9000, 18001, uids);
	server(r, "* VANISHED 5,9\r\n");
	ok(r->connects == 1 && r->up && ((struct pst *)(void *)r->pst)->box.exists == 8998, "two messages of 9,000 that are not kept apart go");
	server(r, "* 8999 EXISTS\r\na4 OK\r\n");
	ok(bytes_eq(heard(r), BYTES("* VANISHED 5,9\r\n* 8999 EXISTS\r\na4 OK\r\n")), "the client hears which, and of the one that came");
	rig_free(r);
}

/* No set of UIDs takes longer than the mailbox is large. */
static void
vanish_all(void)
{
	struct rig *r = resyncing("a4 NOOP\r\n", 4, 7, "3:6");

	(void)alarm(60);
	server(r, "* VANISHED 1:4,6:4294967295\r\na4 OK\r\n");
	(void)alarm(0);
	ok(((struct pst *)(void *)r->pst)->box.exists == 1 && bytes_eq(heard(r), BYTES("* VANISHED 1:4,6:4294967295\r\na4 OK\r\n")), "all but one go");
	rig_free(r);
}

/* While the copies of a COPY in doubt are looked for, messages go. */
static void
vanish_in_doubt(void)
{
	static const char *const sign = "INTERNALDATE \"24-Nov-2026 10:00:00 +0000\" RFC822.SIZE %u BODY[HEADER.FIELDS (MESSAGE-ID)] {2}\r\n\r\n)\r\n";
	struct rig *r = resyncing("a4 COPY 1:2 box\r\n", 4, 7, "3:6");
	char line[200];

	serverf(r, "* STATUS box (UIDVALIDITY 7 UIDNEXT 10)\r\n%s OK done\r\n", own(r));
	rig_die(r);
	rig_run(r);
	greeting(r);
	serverf(r, "* ENABLED QRESYNC\r\n%s OK done\r\n", own(r));
	serverf(r, "* STATUS box (UIDVALIDITY 7 UIDNEXT 12)\r\n%s OK done\r\n", own(r));
	for (uint32_t at = 3; at < 17; at += 7) {
		serverf(r, "* OK [UIDVALIDITY 7]\r\n%s OK done\r\n", own(r));
		if (at > 3)
			server(r, "* VANISHED 1,4\r\n");
		for (uint32_t i = 0; i < 2; i++) {
			snprintf(line, sizeof(line), sign, 100 + i);
			serverf(r, "* %u FETCH (UID %u %s", i + 1, at + i, line);
		}
		serverf(r, "%s OK done\r\n", own(r));
	}
	ok(bytes_eq(heard(r), BYTES("a4 OK [COPYUID 7 3:4 10:11] Copy completed\r\n")), "messages go while it is looked what was copied");
	rig_free(r);
}

/* A list of UIDs is without a message that has gone, and the server tells so later: by whose number is another one copied? */
static void
gone_from_list(bool told_at_once)
{
	struct rig *r = begin();

	client(r, "a2 SELECT INBOX\r\n");
	server(r, "* 4 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 7] n\r\na2 OK [READ-WRITE] Select completed\r\n");
	serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3,5:6\r\n%s%s OK Search completed\r\n", own(r), told_at_once ? "* 2 EXPUNGE\r\n" : "", own(r));
	for (int i = 0; i < 2 && !told_at_once && has(got(r), "UID SEARCH"); i++)
		serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3,5:6\r\n%s%s OK Search completed\r\n", own(r), i > 0 ? "* 2 EXPUNGE\r\n" : "", own(r));
	client(r, "a3 NOOP\r\n");
	server(r, "a3 OK\r\n");
	ok(has(heard(r), "* 2 EXPUNGE\r\na3 OK\r\n"), "a message goes while UIDs are learned");
	client(r, "a4 COPY 2 box\r\n");
	if (has(got(r), "UID SEARCH"))
		serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3,5:6\r\n%s OK Search completed\r\n", own(r), own(r));
	serverf(r, "* STATUS box (UIDVALIDITY 7 UIDNEXT 3)\r\n%s OK done\r\n", own(r));
	ok(has(got(r), "a4 UID COPY 5 box"), "numbers are those of the others");
	rig_free(r);
}

/* It says so never; or another backend does not. */
static void
gone_for_good(void)
{
	struct rig *r = begin();
	struct bytes g;
	int n = 0;

	client(r, "a2 SELECT INBOX\r\n");
	server(r, "* 4 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 7] n\r\na2 OK [READ-WRITE] Select completed\r\n");
	for (; n < 20 && has(got(r), "UID SEARCH"); n++)
		serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3,5:6\r\n%s OK Search completed\r\n", own(r), own(r));
	client(r, "a4 COPY 3 box\r\n");
	serverf(r, "* STATUS box (UIDVALIDITY 7 UIDNEXT 3)\r\n%s OK done\r\n", own(r));
	g = got(r);
	ok(n < 20 && has(g, "a4 COPY 3 box"), "a list that is always too short is not believed, after %d", n);
	rig_free(r);
}

/* Another backend's. */
static void
gone_when_compared(void)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	rig_die(r);
	client(r, "a3 FETCH 3 (UID)\r\n");
	greeting(r);
	serverf(r, "* 4 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 7] n\r\n* OK [HIGHESTMODSEQ 9] m\r\n%s OK [READ-WRITE] Select completed\r\n", own(r));
	serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3,5:6\r\n%s OK Search completed\r\n", own(r), own(r));
	(void)heard(r);
	(void)got(r);
	serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3,5:6\r\n* 2 EXPUNGE\r\n%s OK Search completed\r\n", own(r), own(r));
	serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3,5:6\r\n%s OK Search completed\r\n", own(r), own(r));
	ok(has(got(r), "a3 FETCH 2 (UID)") && heard(r).n == 0, "a message goes while another backend's are compared");
	rig_free(r);
}

/* The last message is one whose UID is not known yet. */
static void
last_message(void)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	rig_die(r);
	client(r, "a3 FETCH 3 (UID)\r\n");
	again(r, 3, 7, "3,5:6");
	server(r, "* 2 FETCH (UID 5)\r\n* 4 EXISTS\r\na3 OK done\r\n");
	client(r, "a4 UID MOVE * box\r\n");
	serverf(r, "* STATUS box (UIDVALIDITY 7 UIDNEXT 3)\r\n%s OK done\r\n", own(r));
	ok(has(got(r), "a4 UID MOVE * box"), "* is the last message");
	rig_free(r);
}

/* A command that is full, but for a few octets, and goes on with a line for which there is no room. */
static void
too_long(uint32_t left)
{
	struct rig *r = begin();
	static char text[70000];
	struct bytes h;
	uint32_t room = CMD_MAX - 512 - left, n = 9;

	client(r, "a2 SEARCH");
	while (n < room) {
		uint32_t take = room - n > 60000 ? 50000 : room - n, digits = take > 9999 + 16 ? 5 : take > 999 + 15 ? 4 : 3;

		snprintf(text, sizeof(text), " TEXT {%u+}\r\n%0*d", take - 11 - digits, (int)(take - 11 - digits), 0);
		rig_must(strlen(text) == take, "as long as it should be");
		client(r, text);
		n += take;
	}
	client(r, " TEXT 01234567890123456789012345678901234567890123456789012345678901234567890123456789 {5+}\r\n");
	client(r, "x LOG\r\n");
	h = heard(r);
	ok(has(h, "a2 BAD [TOOBIG]") && !has(h, "x "), "a command that is too long, at a line that has room for %u octets", left);
	client(r, "a3 CAPABILITY\r\n");
	ok(has(heard(r), "a3 OK"), "and another one");
	rig_free(r);
}

/* An answer to a backend's challenge that is no line, or too long for one. */
static void
bad_answer(const char *answer, size_t zeros)
{
	static char text[40000];
	struct rig *r = challenged();

	(void)heard(r);
	(void)got(r);
	snprintf(text, sizeof(text), "%s%0*d\r\n", answer, (int)zeros, 0);
	client(r, text);
	ok(bytes_casestart(got(r), BYTES("*\r\n")) && r->b->pending(&r->t), "an answer to a challenge that is not good ends the login at the backend");
	serverf(r, "%s BAD cancelled\r\n", own(r));
	client(r, "a2 CAPABILITY\r\n");
	ok(!r->b->pending(&r->t) && has(heard(r), "a1 NO ") , "and with the client");
	rig_free(r);
}

/* RFC 4616: the password is u's, the mailbox z's. */
static void
for_another(void)
{
	struct rig *r = script_begin(&imap4, &offer);

	client(r, "a1 AUTHENTICATE PLAIN egB1AHA=\r\n");
	ok(proves(r, PROOF_PLAIN, "u"), "who logs in for another proves who he is himself");
	greeting(r);
	ok(whose(r, "z"), "and the session is the other's");
	rig_die(r);
	(void)got(r);
	client(r, "a2 STATUS x (MESSAGES)\r\n");
	server(r, HELLO);
	server(r, "+ \r\n");
	ok(has(got(r), "egB1AHA="), "at another host it is said as it was");
	rig_free(r);
}

/* A mechanism that is passed on: the command, what is said to the challenge, who is to prove himself then. */
static void
passed_on(const char *command, const char *first, const char *answer, const char *who)
{
	static const struct master master = { .user = "boss", .password = "secret" };
	struct rig *r = rig_new(&imap4, &offer);

	r->t.master = &master;
	script_start(r);
	client(r, command);
	ok(proves(r, PROOF_ONCE, first), "who proves himself by a mechanism that is passed on: %s", *first != '\0' ? first : "not known yet");
	server(r, HELLO);
	server(r, "+ PDEyMz4=\r\n");
	client(r, answer);
	ok(proves(r, PROOF_ONCE, who), "nor a bit later than with his answer: %s", who);
	rig_free(r);
}

static void
master_for_another(void)
{
	static const struct master master = { .user = "boss", .password = "secret" };
	struct rig *r = rig_new(&imap4, &offer);

	r->t.master = &master;
	script_start(r);
	client(r, "a1 AUTHENTICATE SCRAM-SHA-1 bixhPXosbj11LHI9eA==\r\n");
	server(r, HELLO);
	ok(has(got(r), "AUTHENTICATE SCRAM-SHA-1 bixhPXosbj11LHI9eA==\r\n"), "a first message is passed on as it is");
	server(r, "+ eA==\r\n");
	client(r, "Yz1iaXdzLHI9eHkscD1x\r\n");
	ok(has(got(r), "Yz1iaXdzLHI9eHkscD1x\r\n"), "so is the second");
	serverf(r, "%s OK [CAPABILITY " CAPS "] in\r\n", own(r));
	rig_die(r);
	(void)got(r);
	client(r, "a2 STATUS x (MESSAGES)\r\n");
	server(r, HELLO);
	server(r, "+ \r\n");
	ok(whose(r, "z") && has(got(r), "egBib3NzAHNlY3JldA=="), "the master user goes on for the other");
	rig_free(r);
}

/* CLOSE in doubt where it is not known which messages it was about. */
static void
close_again(const char *verb)
{
	struct rig *r = rig_new(&imap4, &offer);
	bool rw = strcmp(verb, "SELECT") == 0;
	char line[100];

	((struct caps_imap4 *)(void *)&r->offer)->cap = 0;
	script_start(r);
	client(r, LOGIN);
	for (int i = 0; i < 2; i++) {
		server(r, "* OK [CAPABILITY IMAP4rev1] hello\r\n");
		serverf(r, "%s OK [CAPABILITY IMAP4rev1] in\r\n", own(r));
		if (i == 0) {
			snprintf(line, sizeof(line), "a2 %s INBOX\r\n", verb);
			client(r, line);
		}
		if (i == 0 || rw) {
			serverf(r, "* 4 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 7] n\r\n%s OK [READ-%s] done\r\n", i == 0 ? "a2" : own(r),
			    rw ? "WRITE" : "ONLY");
			serverf(r, "* SEARCH 3 4 5 6\r\n%s OK done\r\n", own(r));
		}
		(void)heard(r);
		if (i == 0) {
			client(r, "a3 CLOSE\r\n");
			(void)got(r);
			rig_die(r);
			rig_run(r);
		}
	}
	ok(has(got(r), rw ? "a3 CLOSE\r\n" : "a3 NOOP\r\n"), "CLOSE in doubt after %s, without UIDPLUS", verb);
	server(r, "a3 OK done\r\n");
	ok(has(heard(r), rw ? "a3 OK done\r\n" : "a3 OK Completed\r\n") && ((struct pst *)(void *)r->pst)->phase == AUTH, "is answered");
	rig_free(r);
}

/* The gateway's LIST of a name, which is there if it is given, perhaps with flags before it. */
static inline void
list(struct rig *r, const char *name)
{
	const char *flags = name != NULL && name[0] == '(' ? name : "() ";

	if (name != NULL)
		serverf(r, "* LIST %.*s\"/\" %s\r\n", (int)strcspn(flags, ")") + 2, flags, name == flags ? strchr(name, ')') + 2 : name);
	serverf(r, "%s OK done\r\n", own(r));
}

/* RENAME of INBOX in doubt leaves an INBOX, however it was written. */
static void
rename_inbox(const char *name)
{
	struct rig *r = begin();
	char line[100];

	snprintf(line, sizeof(line), "a2 RENAME %s old\r\n", name);
	client(r, line);
	list(r, "INBOX");
	list(r, NULL);
	rig_die(r);
	rig_run(r);
	greeting(r);
	list(r, "INBOX");
	(void)heard(r);
	list(r, "old");
	ok(bytes_eq(heard(r), BYTES("a2 OK Rename completed\r\n")), "RENAME %.4s was done", name);
	rig_free(r);
}

/* Flags have changed meanwhile in a mailbox whose UIDs are not kept. */
static void
flags_uncounted(void)
{
	static char uids[80000];
	struct out o = { (uint8_t *)uids, 0, sizeof(uids) - 1, false };
	struct rig *r;

	for (uint32_t i = 1; i <= 18000; i += 2)
		out_fmt(&o, "%s%u", i > 1 ? "," : "", i);
	r = select_box("", 9000, 18001, uids);
	rig_die(r);
	client(r, "a3 NOOP\r\n");
	greeting(r);
	(void)heard(r);
	serverf(r, "* 9000 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 18001] n\r\n* OK [HIGHESTMODSEQ 10] m\r\n%s OK [READ-WRITE] done\r\n", own(r));
	serverf(r, "* 3 FETCH (UID 5 FLAGS (\\Seen) MODSEQ (10))\r\n%s OK done\r\n", own(r));
	server(r, "a3 OK done\r\n");
	ok(bytes_eq(heard(r), BYTES("* 3 FETCH (UID 5 FLAGS (\\Seen))\r\na3 OK done\r\n")), "flags that have changed are told of a message that is only counted");
	rig_free(r);
}

/* The end of a command may be long. */
static void
long_end(void)
{
	struct rig *r = select_box("", 4, 7, "3:6");
	static char text[60000];
	struct out o = { (uint8_t *)text, 0, sizeof(text) - 1, false };

	client(r, "a3 COPY 1:2 box\r\n");
	serverf(r, "* STATUS box (UIDVALIDITY 7 UIDNEXT 10)\r\n%s OK done\r\n", own(r));
	(void)heard(r);
	out_str(&o, "a3 OK [COPYUID 7 1");
	for (uint32_t i = 3; i < 18000; i += 2)
		out_fmt(&o, ",%u", i);
	out_str(&o, " 10:9009] Copied\r\n");
	for (size_t i = 0; i < o.len; i += 997)
		serverf(r, "%.*s", (int)(o.len - i < 997 ? o.len - i : 997), text + i);
	ok(r->connects == 1 && bytes_eq(heard(r), bytes(text, o.len)), "a long COPYUID comes to the client");
	rig_free(r);
}

/*
 * It is longer than what can be held: UIDs of copies are not told then, and that it was done is, even if the server dies within.
 * move: they stand in a line of their own.
 */
static void
longer_end(bool move, uint32_t last, bool die)
{
	struct rig *r = select_box("", 4, 7, "3:6");
	static char text[90000];
	struct out o = { (uint8_t *)text, 0, sizeof(text) - 1, false };
	struct bytes h;

	client(r, move ? "a3 UID MOVE 3 box\r\n" : "a3 COPY 1 box\r\n");
	serverf(r, "* STATUS box (UIDVALIDITY 7 UIDNEXT 10)\r\n%s OK done\r\n", own(r));
	(void)heard(r);
	out_fmt(&o, "%s OK [COPYUID 7 1", move ? "*" : "a3");
	for (uint32_t i = 3; i < last; i += 2)
		out_fmt(&o, ",%u", i);
	out_str(&o, die ? "," : " 10:9009] Copied\r\n");
	for (size_t i = 0; i < o.len; i += 997)
		serverf(r, "%.*s", (int)(o.len - i < 997 ? o.len - i : 997), text + i);
	if (die)
		rig_die(r);
	else if (move) {
		ok(bytes_eq(heard(r), bytes(text, o.len <= 61440 ? o.len : 0)), "a COPYUID of %zu octets by itself", o.len);
		server(r, "a3 OK Completed\r\n");
	}
	h = heard(r);
	ok(bytes_eq(h, BYTES("a3 OK Completed\r\n")), "the client hears that it was done");
	client(r, "a4 NOOP\r\n");
	if (die)
		again(r, 4, 7, "3:6");
	server(r, "a4 OK done\r\n");
	ok(r->connects == 1u + die && bytes_eq(heard(r), BYTES("a4 OK done\r\n")), "and the session goes on");
	rig_free(r);
}

/* Numbers in the end of a STORE are the client's too; set: of which message 2 has gone. */
static void
modified(const char *set)
{
	struct rig *r = select_box("", 4, 7, "3:6");
	char line[100];

	rig_die(r);
	snprintf(line, sizeof(line), "a3 STORE %s (UNCHANGEDSINCE 5) +FLAGS (\\Seen)\r\n", set);
	client(r, line);
	again(r, 3, 7, "3,5:6");
	(void)heard(r);
	server(r, "a3 OK [MODIFIED 1:3] Conditional STORE failed\r\n");
	ok(bytes_eq(heard(r), BYTES("a3 OK [MODIFIED 1,3:4] Conditional STORE failed\r\n")), "what a STORE of %s left alone", set);
	rig_free(r);
}

/* A mailbox is left for another one after the death of a backend, and perhaps of a second one. */
static void
closed(int deaths, const char *end)
{
	struct rig *r = select_box("", 4, 7, "3:6");
	struct bytes h;

	rig_die(r);
	(void)heard(r);
	client(r, "a3 SELECT box\r\n");
	for (int i = 0; i <= deaths; i++) {
		greeting(r);
		if (i < deaths) {
			server(r, "* 2 EXISTS\r\n* OK [UIDVALIDITY 8] v\r\n* OK [UIDNEXT 7] n\r\na3 OK done\r\n");
			rig_die(r);
			rig_run(r);
		}
	}
	serverf(r, "a3 %s\r\n", end);
	h = heard(r);
	ok(has(h, "* OK [CLOSED]") == !bytes_casestart(bytes_str(end), BYTES("BAD")) && !r->b->pending(&r->t),
	    "a mailbox is closed by the SELECT of another, after %d deaths: %s", deaths + 1, end);
	rig_free(r);
}

/* A backend dies before the client's answer to its challenge; the client then logs in in another way. */
static void
late_answer(void)
{
	struct rig *r = challenged();

	rig_die(r);
	client(r, "dSBhYmNk\r\n");
	for (int i = 0; i < 20 && r->b->pending(&r->t); i++)
		server(r, HELLO);
	ok(has(heard(r), "a1 NO [UNAVAILABLE]"), "no other backend can go on with a challenge");
	client(r, "a2 LOGIN u p\r\n");
	(void)got(r);
	server(r, HELLO);
	ok(bytes_eq(got(r), BYTES("~4f2a.1 LOGIN \"u\" \"p\"\r\n")), "and its answer is not for a later login");
	rig_free(r);
}

/* A message goes during a UID SEARCH by numbers, then the backend. */
static void
search_again(void)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	(void)heard(r);
	client(r, "a3 UID SEARCH 3 UNSEEN\r\n");
	server(r, "* 1 EXPUNGE\r\n");
	rig_die(r);
	rig_run(r);
	again(r, 3, 7, "4:6");
	ok(has(got(r), "a3 UID SEARCH 2 UNSEEN\r\n"), "the numbers of a UID SEARCH are those of when it came");
	server(r, "* SEARCH 5\r\na3 OK Search completed\r\n");
	ok(bytes_eq(heard(r), BYTES("* SEARCH 5\r\n* 1 EXPUNGE\r\na3 OK Search completed\r\n")), "and what went is told with its end");
	rig_free(r);
}

/* The client hears the UID of a message that came; then the backend goes, that message too, and another comes. */
static void
known_from_fetch(void)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	client(r, "a3 IDLE\r\n");
	server(r, "+ idling\r\n");
	server(r, "* 5 EXISTS\r\n* 5 FETCH (UID 7 FLAGS (\\Seen))\r\n");
	(void)heard(r);
	rig_die(r);
	rig_run(r);
	again(r, 5, 9, "3:6,8");
	server(r, "+ idling\r\n");
	ok(bytes_eq(heard(r), BYTES("* 6 EXISTS\r\n* 5 EXPUNGE\r\n")), "what the client knows of is told when it has gone");
	rig_free(r);
}

/* Flags change while another backend's mailbox is compared, which had not changed when it was selected. */
static void
flags_when_compared(void)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	rig_die(r);
	client(r, "a3 NOOP\r\n");
	greeting(r);
	serverf(r, "* 4 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 7] n\r\n* OK [HIGHESTMODSEQ 9] m\r\n%s OK [READ-WRITE] done\r\n", own(r));
	(void)got(r);
	serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3:6\r\n* 2 FETCH (FLAGS (\\Seen) MODSEQ (10))\r\n%s OK done\r\n", own(r), own(r));
	ok(has(got(r), "(FLAGS) (CHANGEDSINCE 9)"), "flags that change while UIDs are compared are asked for");
	rig_free(r);
}

/* A session whose mailbox is only counted: its UIDs could not be had. */
static inline struct rig *
counted_box(void)
{
	struct rig *r = begin();

	client(r, "a2 SELECT INBOX\r\n");
	server(r, "* 4 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 7] n\r\n* OK [HIGHESTMODSEQ 9] m\r\na2 OK [READ-WRITE] done\r\n");
	serverf(r, "%s NO not now\r\n", own(r));
	return (r);
}

static inline void
counted_again(struct rig *r, uint32_t modseq)
{
	greeting(r);
	serverf(r, "* 4 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 7] n\r\n* OK [HIGHESTMODSEQ %u] m\r\n%s OK [READ-WRITE] done\r\n", modseq, own(r));
}

/* What happens in the mailbox while the client waits for + is told behind it, or behind the refusal. */
static void
waits_for_plus(bool good)
{
	struct rig *r = select_box(" (CONDSTORE)", 4, 7, "3:6");

	(void)heard(r);
	client(r, "a3 APPEND box {5}\r\n");
	serverf(r, "* FLAGS (\\Seen $New)\r\n* 5 EXISTS\r\n* 2 RECENT\r\n* 1 EXPUNGE\r\n* 2 FETCH (FLAGS (\\Seen) MODSEQ (12))\r\n"
	    "* STATUS box (UIDVALIDITY 7 UIDNEXT 3)\r\n%s OK done\r\n", own(r));
	ok(is(heard(r), ""), "a client that waits for + hears nothing else");
	if (!good) {
		server(r, "a3 NO [OVERQUOTA] full\r\n");
		ok(is(heard(r), "a3 NO [OVERQUOTA] full\r\n* 5 EXISTS\r\n"), "then the refusal, and how many there are");
	} else {
		server(r, "+ OK\r\n");
		ok(is(heard(r), "+ OK\r\n* 5 EXISTS\r\n"), "then +, and how many there are");
		client(r, "12345\r\n");
		server(r, "a3 OK done\r\n");
		ok(is(heard(r), "* 1 EXPUNGE\r\na3 OK done\r\n"), "what went is told at its end");
	}
	client(r, "a4 UID FETCH 3:* (UID)\r\n");
	ok(has(got(r), "UID FETCH 1:* (FLAGS) (CHANGEDSINCE 9)"), "the flags are asked for with the next command");
	rig_free(r);
}

/* Flags that changed while the client was within a literal. */
static void
flags_owed(void)
{
	struct rig *r = counted_box();

	client(r, "a3 FETCH 2 (BODY.PEEK[])\r\n");
	serverf(r, "* 2 FETCH (BODY[] {20000}\r\n%010000d", 0);
	rig_die(r);
	rig_run(r);
	counted_again(r, 10);
	serverf(r, "* 2 FETCH (BODY[] {20000}\r\n%020000d)\r\na3 OK done\r\n", 0);
	ok(has(heard(r), "a3 OK done") && has(got(r), "(FLAGS) (CHANGEDSINCE 9)"), "flags owed by a literal are asked for where messages are only counted");
	rig_free(r);
}

/* What the client has of a FETCH comes again, with other flags. */
static void
flags_dropped(void)
{
	struct rig *r = counted_box();

	client(r, "a3 UID FETCH 3:6 (FLAGS RFC822.SIZE)\r\n");
	server(r, "* 1 FETCH (UID 3 FLAGS () RFC822.SIZE 5 MODSEQ (2))\r\n");
	rig_die(r);
	rig_run(r);
	counted_again(r, 9);
	(void)heard(r);
	(void)got(r);
	server(r, "* 1 FETCH (UID 3 FLAGS (\\Seen) RFC822.SIZE 5 MODSEQ (10))\r\n* 2 FETCH (UID 4 FLAGS () RFC822.SIZE 5 MODSEQ (2))\r\na3 OK done\r\n");
	ok(has(heard(r), "\r\na3 OK done\r\n") && has(got(r), "(FLAGS) (CHANGEDSINCE 9)"), "flags are asked for that came with what the client has");
	rig_free(r);
}

/* What the gateway does not offer it does not miss at another backend, nor is it enabled. */
static void
not_offered(void)
{
	struct caps before = offer;
	struct rig *r;

	((struct caps_imap4 *)(void *)&before)->post = 0;
	((struct caps_imap4 *)(void *)&before)->cap = 0;
	r = script_begin(&imap4, &before);
	client(r, LOGIN);
	server(r, HELLO);
	serverf(r, "%s OK [CAPABILITY " CAPS " ID SASL-IR LITERAL+ LITERAL- UTF8=ACCEPT] in\r\n", own(r));
	(void)heard(r);
	client(r, "a2 ENABLE UTF8=ACCEPT\r\n");
	ok(bytes_eq(heard(r), BYTES("* ENABLED\r\na2 OK Enable completed\r\n")), "what is not offered is not enabled");
	rig_die(r);
	client(r, "a3 NOOP\r\n");
	greeting(r);
	ok(has(got(r), "a3 NOOP"), "nor is it missed at another backend");
	rig_free(r);
}

/* Message 2 has gone. */
static void
silent(const char *args, const char *end)
{
	struct rig *r = select_box("", 4, 7, "3:6");
	char line[100];

	rig_die(r);
	snprintf(line, sizeof(line), "a3 STORE %s\r\n", args);
	client(r, line);
	again(r, 3, 7, "3,5:6");
	(void)heard(r);
	server(r, "a3 OK Store completed\r\n");
	ok(has(heard(r), end), "STORE %s", args);
	rig_free(r);
}

/* Strings that are literals to the backend as well. */
static void
many_literals(uint32_t n, bool good)
{
	struct rig *r = select_box("", 4, 7, "3:6");
	struct bytes h;

	(void)heard(r);
	client(r, "a3 SEARCH");
	for (uint32_t i = 0; i < n; i++)
		client(r, " TEXT {1+}\r\n\xe9");
	client(r, "\r\n");
	for (uint32_t i = 0; i < n && good; i++)
		server(r, "+ OK\r\n");
	if (good)
		server(r, "* SEARCH\r\na3 OK done\r\n");
	h = heard(r);
	ok(has(h, good ? "a3 OK done\r\n" : "a3 BAD ") && !has(h, "BYE"), "%u literals", n);
	client(r, "a4 CAPABILITY\r\n");
	ok(has(heard(r), "a4 OK"), "and another command");
	rig_free(r);
}

/* The selected mailbox has another name now, which is perhaps found out at another backend. */
static void
rename_selected(const char *from, const char *name, bool doubt, const char *golden)
{
	struct rig *r = begin();
	char line[100];

	snprintf(line, sizeof(line), "a2 SELECT %s\r\n", from);
	client(r, line);
	mailbox(r, "a2", 4, 7, "3:6");
	snprintf(line, sizeof(line), "a3 RENAME %s {3+}\r\nnew\r\n", name);
	client(r, line);
	list(r, "box");
	list(r, NULL);
	if (doubt) {
		rig_die(r);
		rig_run(r);
		greeting(r);
		list(r, NULL);
		list(r, "new");
	} else
		server(r, "a3 OK Rename completed\r\n");
	ok(has(heard(r), "a3 OK Rename completed\r\n"), "RENAME of %.5s is done%s", name, doubt ? ", which was in doubt" : "");
	rig_die(r);
	client(r, "a4 NOOP\r\n");
	greeting(r);
	ok(has(got(r), golden), "%s is selected afterwards", golden);
	rig_free(r);
}

/* Of two messages that come during a UID SEARCH one goes again, and one that was there before. */
static void
came_and_went(void)
{
	struct rig *r = begin();

	client(r, "a2 ENABLE QRESYNC\r\n");
	server(r, "* ENABLED QRESYNC\r\na2 OK\r\n");
	client(r, "a3 SELECT INBOX\r\n");
	mailbox(r, "a3", 4, 7, "3:6");
	client(r, "a4 UID SEARCH UNSEEN\r\n");
	(void)heard(r);
	server(r, "* 6 EXISTS\r\n* VANISHED 4\r\n* VANISHED 8\r\n* SEARCH 7\r\na4 OK Search completed\r\n");
	ok(bytes_eq(heard(r), BYTES("* 6 EXISTS\r\n* VANISHED 8\r\n* SEARCH 7\r\n* VANISHED 4\r\na4 OK Search completed\r\n")),
	    "what comes and goes during a UID SEARCH does not end the session");
	client(r, "a5 FETCH 4 (FLAGS)\r\n");
	serverf(r, "* SEARCH 7\r\n%s OK done\r\n", own(r));
	ok(r->connects == 1 && has(got(r), "a5 FETCH 4 (FLAGS)"), "and the numbers are right");
	rig_free(r);
}

/* What has gone is known from a FETCH; the client hears of it when it waits for no + any more. */
static void
gone_before_idle(void)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	rig_die(r);
	client(r, "a3 FETCH 3 (UID)\r\n");
	again(r, 3, 7, "3,5:6");
	server(r, "* 2 FETCH (UID 5)\r\na3 OK done\r\n");
	(void)heard(r);
	client(r, "a4 IDLE\r\n");
	server(r, "+ idling\r\n");
	ok(bytes_eq(heard(r), BYTES("+ idling\r\n* 2 EXPUNGE\r\n")), "a client in IDLE hears + before what has gone");
	rig_free(r);
}

/* CREATE was done, and the answer that named the new mailbox was lost. */
static void
create_again(const char *says, const char *golden)
{
	struct caps more = offer;
	struct rig *r;

	((struct caps_imap4 *)(void *)&more)->cap |= caps_parse(BYTES("OBJECTID"), (struct caps_imap4 *)(void *)&more);
	r = script_begin(&imap4, &more);
	client(r, LOGIN);
	for (int i = 0; i < 2; i++) {
		server(r, HELLO);
		serverf(r, "%s OK [CAPABILITY " CAPS " OBJECTID] in\r\n", own(r));
		if (i == 1)
			break;
		client(r, "a2 CREATE box\r\n");
		list(r, NULL);
		(void)heard(r);
		rig_die(r);
		rig_run(r);
	}
	list(r, "box");
	ok(has(got(r), "STATUS box (MAILBOXID)\r\n"), "the new mailbox's name is asked for");
	serverf(r, says, own(r));
	ok(bytes_eq(heard(r), bytes_str(golden)), "and told: %.*s", (int)strcspn(golden, "\r"), golden);
	client(r, "a3 NOOP\r\n");
	ok(r->connects == 2 && has(got(r), "a3 NOOP\r\n"), "and the session goes on");
	rig_free(r);
}

/* A server may tell of a message in several responses (RFC 9051 section 7.5.2), and is asked twice for what is named twice. */
static void
in_parts(void)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	(void)heard(r);
	client(r, "a3 FETCH 2,2 (RFC822.SIZE BODY.PEEK[1])\r\n");
	serverf(r, "* 2 FETCH (RFC822.SIZE 100)\r\n* 2 FETCH (BODY[1] {3}\r\nabc)\r\n* 2 FETCH (BODY[1] {20000}\r\n%020000d)\r\na3 OK done\r\n", 0);
	ok(heard(r).n > 20000 + 100, "what comes in parts is told");
	rig_free(r);
}

/* Flags change while the gateway asks for those that have: not every server names the UID of a message unasked. */
static void
flags_when_asked(void)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	rig_die(r);
	client(r, "a3 NOOP\r\n");
	greeting(r);
	serverf(r, "* 4 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 7] n\r\n* OK [HIGHESTMODSEQ 10] m\r\n%s OK [READ-WRITE] done\r\n", own(r));
	serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3:6\r\n%s OK done\r\n", own(r), own(r));
	(void)heard(r);
	serverf(r, "* 1 FETCH (UID 3 FLAGS (\\Draft) MODSEQ (10))\r\n* 2 FETCH (FLAGS (\\Seen) MODSEQ (11))\r\n%s OK done\r\n", own(r));
	ok(bytes_eq(heard(r), BYTES("* 1 FETCH (UID 3 FLAGS (\\Draft))\r\n* 2 FETCH (FLAGS (\\Seen))\r\n")), "flags that change while they are asked for are told");
	rig_free(r);
}

/* EXAMINE leaves messages \Recent (RFC 3501 section 6.3.2): another server counts the same ones. */
static void
recent_twice(void)
{
	struct rig *r = begin();
	const char *tag = "a2";

	client(r, "a2 EXAMINE INBOX\r\n");
	for (int i = 0; i < 2; i++) {
		serverf(r, "* FLAGS (\\Seen)\r\n* 4 EXISTS\r\n* 2 RECENT\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 7] n\r\n"
		    "* OK [HIGHESTMODSEQ 9] m\r\n%s OK [READ-ONLY] done\r\n", tag);
		serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3:6\r\n%s OK done\r\n", own(r), own(r));
		if (i == 1)
			break;
		client(r, "a3 NOOP\r\n");
		serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 5:6\r\n%s OK done\r\na3 OK done\r\n", own(r), own(r));
		(void)heard(r);
		rig_die(r);
		client(r, "a4 NOOP\r\n");
		greeting(r);
		tag = own(r);
	}
	ok(!has(heard(r), "RECENT"), "what EXAMINE left is not counted twice");
	rig_free(r);
}

/* What a login had to say that came to nothing is not kept. */
static void
not_kept(const char *cmd, bool clear, const char *golden)
{
	struct rig *r = *cmd != '\0' ? rig_new(&imap4, &offer) : challenged();
	struct bytes log = bytes(r->log.p, r->log.cap);

	if (*cmd != '\0') {
		r->peer.auth_ok = clear;
		script_start(r);
		client(r, cmd);
	} else {
		client(r, "dSBodW50ZXIy\r\n");
		serverf(r, "%s NO [AUTHENTICATIONFAILED] no\r\n", own(r));
	}
	ok(has(heard(r), golden), "refused: %s", golden);
	ok(!has(log, "hunter2") && !has(log, "dSBodW50ZXIy"), "and not kept");
	rig_free(r);
}

/* Blanks behind a command are nobody's, those at the end of its last literal are the client's. */
static void
blank_literal(const char *cmd, const char *golden)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	(void)got(r);
	client(r, cmd);
	ok(has(got(r), golden), "a blank: %.*s", (int)strcspn(golden, "\r"), golden);
	rig_free(r);
}

static void
blank_password(void)
{
	struct rig *r = script_begin(&imap4, &offer);

	client(r, "a1 LOGIN joe {7+}\r\nsecret \r\n");
	server(r, HELLO);
	ok(has(got(r), "LOGIN \"joe\" \"secret \"\r\n"), "a password that ends in a blank");
	rig_free(r);
}

/* Before TLS anybody may have said it: nothing comes of it, and what comes with the go-ahead ends the connection. */
static void
said_in_clear(void)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	r->starttls = true;
	rig_die(r);
	client(r, "a3 FETCH 3 (UID)\r\n");
	(void)heard(r);
	server(r, "* OK [ALERT] hello\r\n");
	server(r, "* OK [ALERT] call this number\r\n* 9 EXISTS\r\n* FLAGS (evil)\r\n* ENABLED QRESYNC\r\n");
	ok(heard(r).n == 0 && r->up, "what a backend says before TLS is told to nobody");
	serverf(r, "%s OK go\r\n* CAPABILITY IMAP4rev1\r\n", own(r));
	ok(!has(got(r), "CAPABILITY") && r->connects == 3, "one that speaks behind its go-ahead is left");
	server(r, "* OK hello\r\n");
	serverf(r, "%s OK go\r\n", own(r));
	ok(has(got(r), " CAPABILITY\r\n"), "in TLS it is asked for its capabilities");
	serverf(r, "* OK [ALERT] true\r\n* CAPABILITY " CAPS "\r\n%s OK done\r\n", own(r));
	ok(has(heard(r), "* OK [ALERT] true\r\n"), "and what it says is told");
	rig_free(r);
}

#define BYE "* BYE [UNAVAILABLE] "
/* A look has come to its end: the client hears golden; or the command is said again; or no other backend can say more either. */
static void
ends(struct rig *r, const char *cmd, const char *golden, const char *what)
{
	if (r->connects == 3)
		greeting(r);
	if (strcmp(golden, "again") == 0) {
		ok(has(got(r), cmd), "%s, %s: again", cmd, what);
		return;
	}
	if (strcmp(golden, BYE) == 0 && r->connects == 3 && !has(got(r), cmd))
		rig_refuse(r, WHY_DIFFERS);
	ok(bytes_casestart(heard(r), bytes_str(golden)), "%s, %s: %.*s", cmd, what, (int)strcspn(golden, "\r"), golden);
}

/* A literal of an own FETCH's answer about message 3. */
static inline void
item(struct rig *r, const char *name, struct bytes text)
{
	serverf(r, "* 1 FETCH (UID 3 %s {%zu}\r\n", name, text.n);
	if (r->bin.start == r->bin.n)
		r->bin.start = r->bin.n = 0;
	rig_must(rig_put(&r->bin, text.p, text.n), "no room for what the server says");
	server(r, ")\r\n");
	serverf(r, "%s OK done\r\n", own(r));
}

/* APPEND in doubt, and one message is new: ours, as the store keeps it, or another. golden: what the client hears, or the server. */
static void
append_doubt(const char *what, struct bytes message, const char *id, struct bytes stored, const char *golden)
{
	struct rig *r = begin();

	client(r, what[0] == '~' ? "a2 APPEND box ~{" : "a2 APPEND box {");
	client(r, number((uint32_t)message.n));
	client(r, "+}\r\n");
	rig_must(rig_put(&r->in, message.p, message.n), "no room");
	client(r, "\r\n");
	serverf(r, "* STATUS box (UIDVALIDITY 7 UIDNEXT 3)\r\n%s OK done\r\n", own(r));
	server(r, "+ OK\r\n");
	rig_die(r);
	rig_run(r);
	greeting(r);
	serverf(r, "* STATUS box (UIDVALIDITY 7 UIDNEXT 4)\r\n%s OK done\r\n", own(r));
	serverf(r, "* 1 EXISTS\r\n* OK [UIDNEXT 4] n\r\n%s OK done\r\n", own(r));
	(void)heard(r);
	(void)got(r);
	item(r, "BODY[HEADER.FIELDS (MESSAGE-ID)]", bytes_str(id));
	if (has(bytes(r->bout.p, r->bout.n), "(BODY.PEEK[])"))
		item(r, "BODY[]", stored);
	ends(r, "a2 APPEND", golden, what);
	rig_free(r);
}

#define ID "Message-ID: <1@test>\r\n"
#define DONE "a2 OK [APPENDUID 7 3] "
static void
append_doubts(void)
{
	append_doubt("the same", BYTES("a: b\r\n\r\nx\r\n"), "\r\n", BYTES("a: b\r\n\r\nx\r\n"), DONE);
	append_doubt("line ends of its own", BYTES("a: b\n\nx\n"), "\r\n", BYTES("a: b\r\n\r\nx\r\n"), DONE);
	append_doubt("CR CR LF", BYTES("a: b\r\n\r\nx\r\r\ny\r\n"), "\r\n", BYTES("a: b\r\n\r\nx\r\ny\r\n"), DONE);
	append_doubt("CR at its end", BYTES("a: b\r\n\r\nx\r"), "\r\n", BYTES("a: b\r\n\r\nx"), DONE);
	append_doubt("NUL", BYTES("a: b\r\n\r\nx\0y\r\n"), "\r\n", BYTES("a: b\r\n\r\nx\x80y\r\n"), DONE);
	append_doubt("NUL, which is now ?", BYTES("a: b\r\n\r\nx\0y\r\n"), "\r\n", BYTES("a: b\r\n\r\nx?y\r\n"), BYE);
	append_doubt("~ binary, encoded", BYTES("a: b\r\n\r\nx\0y\r\n"), "\r\n", BYTES("a: b\r\n\r\neAB5DQo="), BYE);
	append_doubt("NUL, and another's", BYTES(ID "\r\nx\0y\r\n"), "Message-ID: <2@test>\r\n\r\n", BYTES(""), "again");
	append_doubt("another's", BYTES(ID "\r\nx\r\n"), "Message-ID: <2@test>\r\n\r\n", BYTES(""), "again");
	append_doubt("another's without an id", BYTES(ID "\r\nx\r\n"), "\r\n", BYTES("a: b\r\n\r\nx\r\n"), "again");
	append_doubt("altered, by its id", BYTES("a: b\r\nmessage-iD:\r\n\t<1@test>\r\n\r\nx\r\n"), ID "\r\n", BYTES(ID "\r\ny\r\n"), BYE);
	append_doubt("altered, without an id", BYTES("a: b\r\n\r\n" ID "x\r\n"), "\r\n", BYTES("a: b\r\n\r\ny\r\n"), BYE);
	append_doubt("a second id", BYTES(ID "Message-ID: <2@test>\r\n\r\n"), ID "\r\n", BYTES(ID "\r\n"), BYE);
}

/* What the server says of a mailbox when it is asked. */
static inline void
says(struct rig *r, char c)
{
	static const char *const line[128] = { ['v'] = "* STATUS box (UIDVALIDITY 7 UIDNEXT 3)\r\n%s OK done\r\n",
		['w'] = "* STATUS box (UIDVALIDITY 8 UIDNEXT 3)\r\n%s OK done\r\n", ['e'] = "* STATUS box (UIDVALIDITY 7 UIDNEXT 1)\r\n%s OK done\r\n",
		['x'] = "%s NO [NONEXISTENT] no such mailbox\r\n", ['t'] = "%s NO [TRYCREATE] no such mailbox\r\n",
		['p'] = "%s NO [NOPERM] not yours\r\n", ['b'] = "%s BAD what?\r\n", ['r'] = "%s NO STATUS failed\r\n",
		['n'] = "%s OK nothing listed\r\n", ['l'] = "* LIST (\\HasChildren) \"/\" box\r\n%s OK done\r\n",
		['s'] = "* LIST (\\Noselect \\HasChildren) \"/\" \"box\"\r\n%s OK done\r\n",
		['g'] = "* LIST (\\NonExistent \\Noselect) \".\" box\r\n%s OK done\r\n",
		['o'] = "* LIST () \"/\" box2\r\n* LIST () \"/\" \"bo*\"\r\n%s OK done\r\n", ['O'] = "* LIST () \"/\" box2\r\n%s OK done\r\n",
		['u'] = "* OK [UIDNEXT 3] n\r\n%s OK done\r\n", ['U'] = "* OK [UIDNEXT 1] n\r\n%s OK done\r\n" };

	serverf(r, line[(int)c], own(r));
}

/* A command is in doubt; what the server said before it, and what another one says then. */
static void
doubt(const char *cmd, const char *before, const char *after, const char *golden)
{
	bool copy = memmem(cmd, strlen(cmd), "COPY", 4) != NULL;
	struct rig *r = copy ? select_box("", 4, 7, "3:6") : begin();
	char name[100];

	client(r, cmd);
	for (; *before != '\0'; before++)
		says(r, *before);
	if (memchr(cmd, '{', strlen(cmd)) != NULL)
		server(r, "+ OK\r\n");
	(void)heard(r);
	rig_die(r);
	rig_run(r);
	if (!r->over)
		greeting(r);
	if (*after != '\0')
		(void)got(r);
	for (const char *c = after; *c != '\0'; c++)
		says(r, *c);
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(cmd, "{\r"), cmd);
	ends(r, name, golden, after);
	rig_free(r);
}

/* A refusal of STATUS may mean anything; what is a name alone is known by LIST. */
static void
doubts(void)
{
	static const char append[] = "a2 APPEND box {1+}\r\nx\r\n", copy[] = "a3 COPY 1:2 box\r\n";

	for (const char *before = "pbr"; *before != '\0'; before++) {
		char one[2] = { *before, '\0' };

		doubt(append, one, "v", BYE);
		doubt(append, one, "pl", BYE);
		doubt(copy, one, "v", BYE);
		doubt(append, one, "t", "again");
		doubt(append, one, "rn", "again");
		doubt(append, one, "rs", "again");
	}
	doubt(append, "v", "pl", BYE);
	doubt(append, "v", "vu", "again");
	doubt(append, "t", "t", "again");
	doubt(append, "x", "eU", "again");
	doubt("a2 CREATE box\r\n", "n", "l", "a2 OK Create completed\r\n");
	doubt("a2 CREATE box\r\n", "s", "l", "a2 OK Create completed\r\n");
	doubt("a2 CREATE box\r\n", "g", "n", "again");
	doubt("a2 CREATE box\r\n", "n", "p", BYE);
	doubt("a2 CREATE box\r\n", "l", "", "again");
	doubt("a2 CREATE box\r\n", "p", "", BYE);
	doubt("a2 CREATE bo*\r\n", "O", "o", "a2 OK Create completed\r\n");
	doubt("a2 DELETE box\r\n", "v", "v", "again");
	doubt("a2 DELETE box\r\n", "v", "w", "a2 OK Delete completed\r\n");
	doubt("a2 DELETE box\r\n", "v", "rn", "a2 OK Delete completed\r\n");
	doubt("a2 DELETE box\r\n", "v", "xs", "a2 OK Delete completed\r\n");
	doubt("a2 DELETE box\r\n", "v", "pl", BYE);
	doubt("a2 DELETE box\r\n", "rs", "rn", "a2 OK Delete completed\r\n");
	doubt("a2 DELETE box\r\n", "rs", "rs", "again");
	doubt("a2 DELETE box\r\n", "rs", "v", BYE);
	doubt("a2 DELETE box\r\n", "rn", "", "again");
	doubt("a2 DELETE box\r\n", "pl", "", BYE);
	doubt("a2 RENAME box new\r\n", "sn", "ns", "a2 OK Rename completed\r\n");
	doubt("a2 RENAME box new\r\n", "ln", "ln", "again");
	doubt("a2 RENAME box new\r\n", "ln", "ll", BYE);
	doubt("a2 RENAME box new\r\n", "ll", "ll", "again");
	doubt("a2 RENAME box new\r\n", "ll", "nl", BYE);
	doubt("a2 RENAME box new\r\n", "ls", "nl", "a2 OK Rename completed\r\n");
	doubt("a2 RENAME box new\r\n", "ln", "nn", BYE);
	doubt("a2 RENAME box new\r\n", "lp", "", BYE);
}

/* A conditional STORE in doubt: again it leaves message 3 alone, which has such flags now. */
static void
stored(const char *what, const char *flags, const char *golden)
{
	struct rig *r = select_box(" (CONDSTORE)", 4, 7, "3:6");
	char line[200];

	snprintf(line, sizeof(line), "a3 STORE 2:3 (UNCHANGEDSINCE 5) %s\r\n", what);
	client(r, line);
	(void)heard(r);
	rig_die(r);
	rig_run(r);
	again(r, 4, 7, "3:6");
	(void)got(r);
	server(r, "a3 OK [MODIFIED 3] Conditional STORE failed\r\n");
	ok(has(got(r), " FETCH 3 (FLAGS)\r\n") && heard(r).n == 0, "flags are asked for of what a STORE in doubt left alone");
	serverf(r, "* 3 FETCH (FLAGS (%s) MODSEQ (9))\r\n%s OK done\r\n", flags, own(r));
	if (r->connects == 3)
		rig_refuse(r, WHY_DIFFERS);
	ok(has(heard(r), golden), "STORE %s of what has (%s): %s", what, flags, golden);
	rig_free(r);
}

static void
stores(void)
{
	static const char left[] = "a3 OK [MODIFIED 3] ", unknown[] = "* BYE [UNAVAILABLE]";

	stored("+FLAGS ($x)", "\\Recent $X", unknown);
	stored("+FLAGS.SILENT ($x \\Seen)", "$x", left);
	stored("+FLAGS $x", "", left);
	stored("-FLAGS ($x $y)", "\\Seen", unknown);
	stored("-FLAGS ($x $y)", "$y", left);
	stored("FLAGS ($x)", "\\Recent $x", unknown);
	stored("FLAGS ($x)", "$x \\Seen", left);
	stored("FLAGS ()", "\\Seen", left);
}

/*
 * The backend that is to stand in refuses the login, or the mailbox, so often with these words: it is tried again if they may be
 * for now, else given up for good.
 */
static void
refused_to_stand_in(bool mailbox, const char *says, uint32_t later, uint32_t never)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	rig_die(r);
	(void)heard(r);
	client(r, "a3 NOOP\r\n");
	for (uint32_t i = 0; i < later + never; i++) {
		server(r, HELLO);
		if (mailbox)
			serverf(r, "%s OK [CAPABILITY " CAPS "] in\r\n", own(r));
		serverf(r, "%s %s\r\n", own(r), says);
	}
	ok(r->later == later && r->never == never, "%s: %s: %u, %u for good", mailbox ? "SELECT" : "LOGIN", says, r->later, r->never);
	again(r, 4, 7, "3:6");
	server(r, "a3 OK done\r\n");
	ok(bytes_eq(heard(r), BYTES("a3 OK done\r\n")), "and the session goes on");
	rig_free(r);
}

/* What a server says in IDLE by a code the client hears, and not that the server is still there. */
static void
codes_in_idle(void)
{
	struct rig *r = resyncing("a4 IDLE\r\n", 4, 7, "3:6");
	static const char *const says = "* FLAGS (\\Seen $New)\r\n* OK [PERMANENTFLAGS (\\Seen $New)] Flags\r\n* VANISHED 4\r\n* OK [HIGHESTMODSEQ 12] Highest\r\n";

	server(r, "+ idling\r\n");
	(void)heard(r);
	server(r, "* OK Still here\r\n");
	server(r, says);
	ok(is(heard(r), says), "codes come through in IDLE");
	rig_free(r);
}

/* Flags that the mailbox has at the backend that stands in. */
static void
other_flags(const char *live, const char *flags, const char *permanent, const char *golden)
{
	struct rig *r = begin();

	client(r, "a2 SELECT INBOX\r\n");
	serverf(r, "* FLAGS (\\Seen)\r\n* OK [PERMANENTFLAGS (\\Seen \\*)] Flags\r\n* 4 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 7] n\r\n"
	    "* OK [HIGHESTMODSEQ 9] m\r\na2 OK [READ-WRITE] Select completed\r\n");
	serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3:6\r\n%s OK Search completed\r\n", own(r), own(r));
	client(r, "a3 NOOP\r\n");
	serverf(r, "%sa3 OK done\r\n", live);
	rig_die(r);
	(void)heard(r);
	client(r, "a4 NOOP\r\n");
	greeting(r);
	serverf(r, "* FLAGS (%s)\r\n* OK [PERMANENTFLAGS (%s)] Flags\r\n* 4 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 7] n\r\n"
	    "* OK [HIGHESTMODSEQ 9] m\r\n%s OK [READ-WRITE] Select completed\r\n", flags, permanent, own(r));
	serverf(r, "* ESEARCH (TAG \"%s\") UID ALL 3:6\r\n%s OK Search completed\r\n", own(r), own(r));
	server(r, "a4 OK done\r\n");
	ok(is(heard(r), golden), "flags elsewhere: %s; %s", flags, permanent);
	rig_free(r);
}

/* What a server hears of the client; address: of its address as well. */
static void
named(bool address, const char *id, const char *golden)
{
	struct rig *r = rig_new(&imap4, &offer);
	static const char *const addr = "\"x-originating-ip\" \"192.0.2.7\" \"x-originating-port\" \"4711\" \"x-connected-ip\" \"192.0.2.1\" "
	    "\"x-connected-port\" \"25\" \"x-session-id\" \"4f2a\" ";
	static char says[2048];

	r->untold = !address;
	script_start(r);
	client(r, id);
	for (int i = 0; i < 3; i++) {
		if (i == 0)
			client(r, LOGIN);
		else if (i == 1)
			client(r, id);		/* once more, where it is logged in */
		else {
			rig_die(r);
			client(r, "a2 NOOP\r\n");
		}
		if (i != 1)
			server(r, "* OK [CAPABILITY IMAP4rev1 ID] hello\r\n");
		snprintf(says, sizeof(says), "%s ID (%s%s)\r\n", own(r), address ? addr : "", golden);
		ok(is(got(r), says), "the server hears who the client is, %d", i + 1);
		serverf(r, "* ID NIL\r\n%s OK done\r\n", own(r));
		if (i == 0)
			serverf(r, "%s OK [CAPABILITY " CAPS " ID] in\r\n", own(r));
		(void)got(r);
	}
	rig_free(r);
}

static void
many_names(bool address, uint32_t n)
{
	static char id[1024], golden[1024];
	struct out o = { (uint8_t *)id, 0, sizeof(id) - 1, false }, g = { (uint8_t *)golden, 0, sizeof(golden) - 1, false };

	out_str(&o, "i ID (");
	for (uint32_t i = 0; i < 30; i++) {
		out_fmt(&o, "%s\"k%u\" \"v\"", i > 0 ? " " : "", i);
		if (i < n)
			out_fmt(&g, "%s\"k%u\" \"v\"", i > 0 ? " " : "", i);
	}
	out_str(&o, ")\r\n");
	named(address, id, golden);
}

/* A list that is not taken leaves what the client said of itself before as it was. */
static void
named_badly(const char *bad)
{
	struct rig *r = script_begin(&imap4, &offer);

	client(r, "i ID (\"name\" \"Thunderbird x-originating-ip 192.0.2.99\")\r\n");
	(void)heard(r);
	client(r, bad);
	ok(is(heard(r), "i BAD ID wants a list of at most 30 pairs, or NIL\r\n"), "it is not taken: %.20s", bad);
	client(r, LOGIN);
	server(r, "* OK [CAPABILITY IMAP4rev1 ID] hello\r\n");
	ok(has(got(r), " ID (\"x-originating-ip\"") && has(bytes(r->bout.p, r->bout.n), " \"name\" \"Thunderbird x-originating-ip 192.0.2.99\")\r\n"),
	    "the server hears the one before");
	rig_free(r);
}

/* A command that is not known here is the server's to judge, also one by UIDs. */
static void
not_known(const char *cmd, const char *golden)
{
	struct rig *r = select_box("", 4, 7, "3:6");
	struct bytes h;

	(void)heard(r);
	(void)got(r);
	client(r, cmd);
	if (*golden == '\0')
		ok(is(got(r), cmd), "%.*s is passed on", (int)strcspn(cmd, "\r"), cmd);
	server(r, r->b->pending(&r->t) ? "a3 BAD what?\r\n" : "");
	h = heard(r);
	ok(is(h, *golden == '\0' ? "a3 BAD what?\r\n" : golden), "and answered");
	rig_free(r);
}

/* How long a server may be over a command and say nothing. */
static void
waits(const char *cmd, bool base, uint32_t ms)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	client(r, cmd);
	if (base) {
		ok(r->t.wait == r->times.eod, "%.*s waits %u s for what is there before", (int)strcspn(cmd, "\r"), cmd, r->t.wait / 1000);
		serverf(r, "* STATUS box (UIDVALIDITY 7 UIDNEXT 7)\r\n%s OK done\r\n", own(r));
	}
	ok(r->t.wait == ms, "%.*s waits %u s", (int)strcspn(cmd, "\r"), cmd, r->t.wait / 1000);
	rig_free(r);
}

/* The same of the server that is to stand in, and within a literal. */
static void
waits_elsewhere(void)
{
	struct rig *r = select_box("", 4, 7, "3:6");

	rig_die(r);
	client(r, "a3 FETCH 2 (BODY.PEEK[])\r\n");
	greeting(r);
	ok(r->t.wait == r->times.eod, "another server has as long for its SELECT");
	mailbox(r, own(r), 4, 7, "3:6");
	serverf(r, "* 2 FETCH (BODY[] {20000}\r\n%010000d", 0);
	ok(r->t.wait == r->times.bulk, "within a literal there is progress");
	serverf(r, "%010000d)\r\n", 0);
	ok(r->t.wait == r->times.eod, "and none behind it, if the next is large");
	r->times.command = r->times.eod + 1;
	server(r, "a3 OK done\r\n");
	client(r, "a4 FETCH 2 (BODY.PEEK[])\r\n");
	ok(r->t.wait == r->times.command, "no server has less than for any command");
	rig_free(r);
}

int
main(void)
{
	struct caps_imap4 caps = { .known = 1, .post = 1 };

	caps.pre = caps_parse(BYTES("IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=CRAM-MD5 AUTH=SCRAM-SHA-1"), &caps);
	caps.cap = caps_parse(BYTES(CAPS), &caps);
	memcpy(&offer, &caps, sizeof(caps));
	many_messages(LITERALS_MAX, "a2 OK Append completed");
	many_messages(LITERALS_MAX + 1, "a2 NO [TOOBIG] too much in one command");
	long_vanished();
	long_results();
	bad_select();
	large_answer(0, false);
	large_answer(10, false);
	large_answer(10, true);
	vanish_uncounted();
	vanish_all();
	vanish_in_doubt();
	gone_from_list(true);
	gone_from_list(false);
	gone_for_good();
	gone_when_compared();
	last_message();
	too_long(0);
	too_long(10);
	bad_answer("abcd\n", 1);
	bad_answer("", 35000);
	for_another();
	passed_on("a1 AUTHENTICATE CRAM-MD5\r\n", "", "dSAxMjM=\r\n", "u");
	passed_on("a1 AUTHENTICATE CRAM-MD5\r\n", "", "*\r\n", "");
	passed_on("a1 AUTHENTICATE CRAM-MD5\r\n", "", "eHh4\r\n", "?");
	passed_on("a1 AUTHENTICATE SCRAM-SHA-1\r\n", "", "bixhPXosbj11LHI9eA==\r\n", "u");
	passed_on("a1 AUTHENTICATE SCRAM-SHA-1 bixhPXosbj11LHI9eA==\r\n", "u", "Yz1iaXdzLHI9eHkscD1x\r\n", "u");
	master_for_another();
	close_again("SELECT");
	close_again("EXAMINE");
	rename_inbox("Inbox");
	rename_inbox("\"INBOX\"");
	rename_inbox("{5+}\r\ninbox");
	flags_uncounted();
	long_end();
	longer_end(false, 24000, false);
	longer_end(false, 24000, true);
	longer_end(true, 9000, false);
	longer_end(true, 24000, false);
	modified("1,3:4");
	modified("1:4");
	closed(0, "OK Selected");
	closed(1, "OK Selected");
	closed(0, "NO none");
	closed(1, "NO none");
	closed(0, "BAD what?");
	late_answer();
	search_again();
	known_from_fetch();
	flags_when_compared();
	flags_owed();
	flags_dropped();
	not_offered();
	silent("2 +FLAGS.Silent (\\Seen)", "a3 OK ");
	silent("1:2 (UNCHANGEDSINCE 7) -flags.silent \\Seen", "a3 OK ");
	silent("1:2 +FLAGS (x.silent)", "a3 NO [EXPUNGEISSUED]");
	many_literals(32, true);
	many_literals(33, false);
	rename_selected("box", "\"box\"", false, "SELECT \"new\" ");
	rename_selected("{3+}\r\nbox", "box", true, "SELECT \"new\" ");
	rename_selected("Inbox", "INBOX", false, "SELECT Inbox ");
	rename_selected("box", "BOX", false, "SELECT box ");
	came_and_went();
	gone_before_idle();
	create_again("* STATUS box (MAILBOXID (F22-a))\r\n%s OK done\r\n", "a2 OK [MAILBOXID (F22-a)] Create completed\r\n");
	create_again("%s NO not yours\r\n", "a2 OK Create completed\r\n");
	in_parts();
	flags_when_asked();
	blank_literal("a3 SEARCH SUBJECT {6+}\r\nthere \r\n", "SEARCH SUBJECT \"there \"\r\n");
	blank_literal("a3 SEARCH SUBJECT {6+}\r\nthere  \r\n", "SEARCH SUBJECT \"there \"\r\n");
	blank_literal("a3 SEARCH SUBJECT there  \r\n", "SEARCH SUBJECT there\r\n");
	blank_password();
	recent_twice();
	not_kept("a1 LOGIN u hunter2 x\r\n", true, "a1 BAD LOGIN wants");
	not_kept("a1 LOGIN u {7+}\r\nhunter2 x\r\n", true, "a1 BAD LOGIN wants");
	not_kept("a1 LOGIN u hunter2\r\n", false, "a1 NO [PRIVACYREQUIRED]");
	not_kept("", true, "a1 NO [AUTHENTICATIONFAILED]");
	said_in_clear();
	append_doubts();
	doubts();
	stores();
	codes_in_idle();
	not_known("a3 XFOO bar\r\n", "");
	not_known("a3 UID XFOO 3:4 bar\r\n", "");
	not_known("a3 UID REPLACE 3 box bar\r\n", "a3 BAD command not offered here\r\n");
	not_known("a3 UID\r\n", "a3 BAD a command was expected\r\n");
	named(true, "i ID (\"name\" \"Thunderbird\" version \"115\" \"os\" NIL \"x-originating-ip\" \"192.0.2.99\" \"NAME\" \"again\")\r\n",
	    "\"name\" \"Thunderbird\" \"version\" \"115\" \"os\" NIL");
	named(false, "i ID (\"name\" \"Thunder\\\"bird\")\r\n", "\"name\" \"Thunder\\\"bird\"");
	waits_for_plus(true);
	waits_for_plus(false);
	named_badly("i ID (\"n\" \"v\" \"name\")\r\n");
	named_badly("i ID (\"vendor\" \"Mozilla\" \"a\" NIL name)\r\n");
	many_names(true, 25);
	many_names(false, 30);
	other_flags("", "\\Seen", "\\* \\seen", "a4 OK done\r\n");
	other_flags("", "\\Seen $New", "\\Seen $New \\*", "* FLAGS (\\Seen $New)\r\n* OK [PERMANENTFLAGS (\\Seen $New \\*)] Flags\r\na4 OK done\r\n");
	other_flags("* FLAGS (\\Seen $New)\r\n* OK [PERMANENTFLAGS (\\Seen $New \\*)] Flags\r\n", "$New \\Seen", "$New \\Seen", "* OK [PERMANENTFLAGS ($New \\Seen)] Flags\r\na4 OK done\r\n");
	for (size_t i = 0; i < 8; i++)
		waits((const char *const[]){ "a3 SELECT box\r\n", "a3 FETCH 1:* (BODY[])\r\n", "a3 STORE 1 +FLAGS (\\Seen)\r\n", "a3 STATUS box (MESSAGES)\r\n",
		    "a3 LIST \"\" *\r\n", "a3 UID SORT (ARRIVAL) US-ASCII ALL\r\n", "a3 UID EXPUNGE 1:*\r\n", "a3 CHECK\r\n" }[i], false, imap4.times.eod);
	waits("a3 DELETE box\r\n", true, imap4.times.eod);
	waits("a3 COPY 1 box\r\n", true, imap4.times.eod);
	waits("a3 NOOP\r\n", false, imap4.times.command);
	waits_elsewhere();
	refused_to_stand_in(false, "NO [UNAVAILABLE] Temporary authentication failure", 3, 0);
	refused_to_stand_in(false, "NO [LIMIT] too many connections", 3, 0);
	refused_to_stand_in(false, "NO [AUTHENTICATIONFAILED] no", 0, 1);
	refused_to_stand_in(true, "NO [SERVERBUG] Internal error", 3, 0);
	refused_to_stand_in(true, "NO [INUSE] mailbox is locked", 3, 0);
	refused_to_stand_in(true, "NO [UNAVAILABLE] not now", 3, 0);
	refused_to_stand_in(true, "NO [LIMIT] not now", 3, 0);
	refused_to_stand_in(true, "NO [NONEXISTENT] gone", 0, 1);
	refused_to_stand_in(true, "NO [NOPERM] not yours", 0, 1);
	refused_to_stand_in(true, "NO something is wrong", 1, 1);
	refused_to_stand_in(true, "BAD what?", 0, 1);
	return (done_testing());
}
