/* imap4 - a golden dialogue: cut anywhere, and with a server that dies at any octet, client and mailboxes come to the same */
/* LINK: imap4/append.c imap4/backend.c imap4/caps.c imap4/client.c imap4/commands.c imap4/doubt.c imap4/fetch.c imap4/login.c imap4/next.c imap4/say.c imap4/set.c imap4/sync.c imap4/tagged.c imap4/token.c imap4/untagged.c imap4/view.c workers/arena.c workers/relayed.c workers/sasl.c workers/journal.c workers/pack.c supervisor/buf.c supervisor/log.c */
#define NO_MAIN
#include "imap4/imap4.c"	/* its table, without its main */
#include "t/lib/dialogue.h"
#include "t/lib/imapd.h"
#include "t/lib/seed.h"
#include "t/lib/tap.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))
#define HELLO_ "* OK [CAPABILITY IMAP4rev1 ID SASL-IR LITERAL+] gw.test IMAP4 server ready\r\n"
#define LOGIN_ "a1 OK [CAPABILITY IMAP4rev1 IDLE UNSELECT UIDPLUS MOVE ESEARCH SEARCHRES ID SASL-IR LITERAL+] Logged in\r\n"
#define SELECT_ "* FLAGS (\\Deleted \\Flagged \\Seen)\r\n* 4 EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 7] n\r\n" \
	"a2 OK [READ-WRITE] Select completed\r\n"
#define APPENDED_ "Message-ID: <new@test>\r\n\r\n.\r\na OK\r\n"

enum { LARGE = 20000 };

/* What the client says, what it hears (honest: or this), what is left in the mailboxes; large: octets of message 4. */
struct test { const char *name; const char *const *piece; size_t n; const char *golden, *honest, *left; int large; };

static struct caps offer;
static uint32_t honestly;		/* runs with the honest answer */

static const char *const whole[] = { "a1 LOGIN u p\r\n", "a2 SELECT INBOX\r\n", "a3 FETCH 2:3 (UID BODY.PEEK[])\r\n",
	"a4 STORE 2 +FLAGS (\\Deleted)\r\n", "a5 COPY 1:2 box\r\n", "a6 APPEND box {35}\r\n", APPENDED_ "\r\n",
	"a7 UID STORE 6 +FLAGS.SILENT (\\Deleted)\r\n", "a8 EXPUNGE\r\n", "b1 IDLE\r\n", "DONE\r\n", "b2 SEARCH RETURN (SAVE COUNT) 1:2\r\n",
	"b3 FETCH $ (UID RFC822.SIZE)\r\n", "b4 STORE 1 FLAGS.SILENT (\\Seen)\r\n", "b5 MOVE $ box\r\n", "b6 UID SEARCH RETURN (ALL) ALL\r\n", "b7 LOGOUT\r\n" };
static const char whole_golden[] = HELLO_ LOGIN_ SELECT_
	"* 2 FETCH (UID 4 BODY[] {32}\r\nMessage-ID: <4@test>\r\n\r\n000000\r\n)\r\n"
	"* 3 FETCH (UID 5 BODY[] {32}\r\nMessage-ID: <5@test>\r\n\r\n000000\r\n)\r\na3 OK Fetch completed\r\n"
	"* 2 FETCH (FLAGS (\\Deleted))\r\na4 OK Store completed\r\n"
	"a5 OK [COPYUID 7 3:4 10:11] Copy completed\r\n"
	"+ OK\r\na6 OK [APPENDUID 7 12] Append completed\r\n"
	"a7 OK Store completed\r\n"
	"* 4 EXPUNGE\r\n* 2 EXPUNGE\r\na8 OK Completed\r\n"
	"+ idling\r\nb1 OK Idle completed\r\n"
	"* ESEARCH (TAG \"b2\") COUNT 2\r\nb2 OK Search completed\r\n"
	"* 1 FETCH (UID 3 RFC822.SIZE 32)\r\n* 2 FETCH (UID 5 RFC822.SIZE 32)\r\nb3 OK Fetch completed\r\n"
	"b4 OK Store completed\r\n"
	"* OK [COPYUID 7 3,5 13:14] Moved UIDs.\r\n* 2 EXPUNGE\r\n* 1 EXPUNGE\r\nb5 OK Completed\r\n"
	"* ESEARCH (TAG \"b6\") UID\r\nb6 OK Search completed\r\n"
	"* BYE Logging out\r\nb7 OK Logout completed\r\n";
static const char whole_left[] = "INBOX:\nbox: 10(0) Message-ID: <3@test> 11(1) Message-ID: <4@test> 12(0) Message-ID: <new@test> 13(4) Message-ID: <3@test> "
	"14(0) Message-ID: <5@test>\n";

static const char as_it_was[] = "INBOX: 3(0) Message-ID: <3@test> 4(0) Message-ID: <4@test> 5(0) Message-ID: <5@test> 6(0) Message-ID: <6@test>\nbox:\n";

/* A run, with INBOX as it is at first; large: of message 4. */
static struct rig *
run(const struct test *c, size_t cut, uint32_t die_at, size_t die_said)
{
	struct dialogue d = { &imap4, &offer, c->piece, c->n, imapd_server };
	static char text[IMAPD_TEXT];

	imapd_start();
	for (uint32_t i = 3; i < 7; i++) {
		snprintf(text, sizeof(text), "Message-ID: <%u@test>\r\n\r\n%0*d\r\n", i, i == 4 ? c->large : 6, 0);
		imapd_add(&imapd.box[0], bytes_str(text), 0);
	}
	dialogue_die_said = die_said;
	return (dialogue_run(&d, cut, die_at));
}

/* The same octets, but that a line of flags may come twice. */
static bool
same(const struct rig *r, const char *golden)
{
	struct bytes got = bytes(r->out.p, r->out.n), should = bytes_str(golden), a, b = { 0 };

	while (should.n > 0) {
		a = bytes_token(&got, '\n');
		if (bytes_eq(a, b) && memmem(a.p, a.n, "FETCH (FLAGS", 12) != NULL)
			continue;
		b = bytes_token(&should, '\n');
		if (!bytes_eq(a, b))
			return (false);
	}
	return (got.n == 0);
}

/* One run has ended; whether it was as it should be. */
static bool
good(struct rig *r, const struct test *c, uint32_t *died)
{
	bool honest = c->honest != NULL && same(r, c->honest), is;
	char dump[1000];

	imapd_dump(dump, sizeof(dump));
	is = (honest || same(r, c->golden)) && strcmp(dump, c->left) == 0;
	honestly += honest;
	if (!is)
		printf("# to the client:\n%.*s\n# to the server:\n%.*s\n# left:\n%s", (int)r->out.n, (char *)r->out.p, (int)r->bout.n,
		    (char *)r->bout.p, dump);
	*died += r->connects > 1;
	rig_free(r);
	return (is);
}

/* The server dies before each step of a dialogue in pieces of `cut` octets, so with as many of what it says on their way. */
static void
walk(const struct test *c, size_t cut)
{
	struct rig *r = run(c, cut, 0, 0);
	uint32_t steps = r->calls, bad = 0, died = 0;

	ok(good(r, c, &died) && died == 0, "%s: as it should be (%zu)", c->name, cut);
	for (uint32_t k = 1; k <= steps && bad < 3; k++)
		if (!good(run(c, cut, k, 0), c, &died)) {
			printf("# the server died before step %u of %u\n", k, steps);
			bad++;
		}
	ok(bad == 0 && died > steps / 2, "%s: the server dies before each of %u steps, the same (%u failovers)", c->name, steps, died);
}

/* It dies with each octet that it is sent. */
static void
walk_said(const struct test *c)
{
	struct rig *r = run(c, 0, 0, 0);
	size_t said = r->bout.n;
	uint32_t bad = 0, died = 0;

	rig_free(r);
	for (size_t k = 1; k <= said && bad < 3; k++)
		if (!good(run(c, 0, 0, k), c, &died)) {
			printf("# the server died at octet %zu of %zu\n", k, said);
			bad++;
		}
	ok(bad == 0 && died == said, "%s: it dies with each of %zu octets that it is sent, the same (%u failovers)", c->name, said, died);
}

/* The client takes nothing for a while: a line for which there is no room is looked at again, and nothing of it is lost. */
static void
long_line(void)
{
	static const char *const piece[] = { "a1 LOGIN u p\r\n", "a2 SELECT INBOX\r\n" };
	struct test c = { "a long line", piece, N(piece), NULL, NULL, NULL, 6 };
	struct rig *r = run(&c, 0, 0, 0);
	static char line[40000];
	size_t used = 0, scanned = 0, had;
	enum took k;

	snprintf(line, sizeof(line), "* OK %0*d\r\n", LARGE, 0);
	(void)rig_put(&r->in, "a3 NOOP\r\n", 9);
	rig_run(r);
	had = r->out.n;
	(void)rig_turn(r);
	r->client.cap = LARGE;
	k = r->b->backend(&r->t, bytes_str(line), &used, &scanned);
	ok(k == TOOK_MORE && used == 0 && r->client.len == 0 && !r->client.full, "a long line waits until the client has taken some");
	rig_done(r);
	(void)rig_put(&r->bin, line, strlen(line));
	rig_run(r);
	ok(r->out.n == had + strlen(line) && memcmp(r->out.p + had, line, strlen(line)) == 0, "and comes then, whole");
	rig_free(r);
}

/*
 * The client has the answer to SELECT when the UIDs are known, or cannot be, or what happens in the mailbox is to be told. The server
 * says `says`, with the tag that it was given and `more` behind it if there is more.
 */
static void
selecting(const char *what, const char *says, const char *more, const char *golden)
{
	static const char *const piece[] = { "a1 LOGIN u p\r\n" };
	struct test c = { "selecting", piece, N(piece), NULL, NULL, NULL, 6 };
	struct rig *r = run(&c, 0, 0, 0);
	size_t had = r->out.n;
	const char *tag;
	char line[200];

	(void)rig_put(&r->in, "a2 SELECT INBOX\r\n", 17);
	rig_run(r);
	(void)rig_put(&r->bin, SELECT_, strlen(SELECT_));
	rig_run(r);
	ok(r->out.n == had && r->b->pending(&r->t), "the answer to SELECT waits for the UIDs");
	tag = memrchr(r->bout.p, '~', r->bout.n);
	snprintf(line, sizeof(line), "%s%.*s%s", says, more == NULL ? 0 : (int)strcspn(tag, " "), tag, more == NULL ? "" : more);
	(void)rig_put(&r->bin, line, strlen(line));
	rig_run(r);
	ok(bytes_eq(bytes(r->out.p + had, r->out.n - had), bytes_str(golden)) && !r->b->pending(&r->t), "and comes %s", what);
	rig_free(r);
}

/* A probe, whose client is nobody. */
static void
probing(void)
{
	struct rig *r = rig_new(&imap4, &offer);
	struct server s = { 0 };
	struct caps learned = { 0 };

	r->probe = true;
	r->b->probe(rig_turn(r));
	rig_done(r);
	for (int i = 0; i < 5; i++) {
		rig_run(r);
		if (r->up)
			imapd_server(r, &s);
	}
	ok(r->b->probed(&r->t, &learned) && r->connects == 1, "a probe comes to its end");
	rig_free(r);
}

int
main(void)
{
	static const char *const read[] = { "a1 LOGIN u p\r\n", "a2 SELECT INBOX\r\n", "a3 FETCH 1:3 (UID BODY.PEEK[])\r\n", "a4 LOGOUT\r\n" };
	static const char *const save[] = { "a1 LOGIN u p\r\n", "a2 SELECT INBOX\r\n", "a3 SEARCH RETURN (SAVE PAD) 2:3\r\n",
		"a4 FETCH $ (UID RFC822.SIZE)\r\n", "a5 LOGOUT\r\n" };
	static char text[3][IMAPD_TEXT * 2];
	struct test all = { "a whole session", whole, N(whole), whole_golden, NULL, whole_left, 6 };
	struct test large = { "a literal in pieces", read, N(read), text[0], NULL, as_it_was, LARGE };
	struct test late = { "a long result and $", save, N(save), text[1], text[2], as_it_was, 6 };
	struct caps_imap4 caps = { .known = 1, .post = 1 };

	caps.pre = caps_parse(BYTES("IMAP4rev1"), &caps);
	caps.cap = caps_parse(BYTES(IMAPD_CAPS), &caps);
	memcpy(&offer, &caps, sizeof(caps));
	snprintf(text[0], sizeof(text[0]), HELLO_ LOGIN_ SELECT_ "* 1 FETCH (UID 3 BODY[] {32}\r\nMessage-ID: <3@test>\r\n\r\n000000\r\n)\r\n"
	    "* 2 FETCH (UID 4 BODY[] {%d}\r\nMessage-ID: <4@test>\r\n\r\n%0*d\r\n)\r\n"
	    "* 3 FETCH (UID 5 BODY[] {32}\r\nMessage-ID: <5@test>\r\n\r\n000000\r\n)\r\na3 OK Fetch completed\r\n"
	    "* BYE Logging out\r\na4 OK Logout completed\r\n", LARGE + 26, LARGE, 0);
	snprintf(text[1], sizeof(text[1]), HELLO_ LOGIN_ SELECT_ "* ESEARCH (TAG \"a3\") PAD %0*d\r\na3 OK Search completed\r\n"
	    "* 2 FETCH (UID 4 RFC822.SIZE 32)\r\n* 3 FETCH (UID 5 RFC822.SIZE 32)\r\na4 OK Fetch completed\r\n"
	    "* BYE Logging out\r\na5 OK Logout completed\r\n", IMAPD_PAD, 0);
	snprintf(text[2], sizeof(text[2]), HELLO_ LOGIN_ SELECT_ "* ESEARCH (TAG \"a3\") PAD %0*d\r\na3 NO [NOTSAVED] Search result could not be saved\r\n"
	    "a4 OK Fetch completed\r\n* BYE Logging out\r\na5 OK Logout completed\r\n", IMAPD_PAD, 0);
	walk(&all, 0);
	walk(&all, 1);
	walk_said(&all);
	walk(&large, 0);
	walk(&large, 61);
	walk_said(&large);
	walk(&late, 0);
	ok(honestly == 0, "what arrives whole is held back until $ is known");
	walk(&late, 61);
	ok(honestly > 0, "else, in %u runs, nobody knows whether both found the same: NO [NOTSAVED], $ empty", honestly);
	long_line();
	selecting("with them", "* ESEARCH (TAG \"", "\") UID ALL 3:6\r\n", SELECT_);
	selecting("without, if the server does not search", "", " NO [SERVERBUG] not now\r\n", SELECT_);
	selecting("before what happens", "* 5 EXISTS\r\n", NULL, SELECT_ "* 5 EXISTS\r\n");
	probing();
	seed_check(&imap4, "seed");
	return (done_testing());
}
