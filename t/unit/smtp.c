/* smtp - golden dialogues, cut anywhere and with a backend that dies before every step, give the client the same octets */
/* LINK: smtp/client.c smtp/auth.c smtp/relay.c smtp/content.c smtp/scan.c smtp/path.c smtp/caps.c smtp/refuse.c smtp/backend.c smtp/next.c workers/arena.c workers/relayed.c workers/sasl.c supervisor/buf.c supervisor/log.c workers/journal.c workers/pack.c */
#define NO_MAIN
#include "smtp/smtp.c"	/* its table, without its main */
#include "t/lib/dialogue.h"
#include "t/lib/seed.h"
#include "t/lib/tap.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))

static const char *const plain[] = { "EHLO c.test\r\n", "MAIL FROM:<a@b> SIZE=10 BODY=8BITMIME\r\nRCPT TO:<c@d>\r\nRCPT TO:<no@d>\r\n"
	"RCPT TO:<e@f> NOTIFY=NEVER\r\n", "DATA\r\n", "Subject: x\r\n\r\nline\r\n..dots\r\n.one\r\n.\r\n", "NOOP\r\nRSET\r\nQUIT\r\n" };
static const char *const twice[] = { "EHLO c.test\r\n", "AUTH PLAIN AGEAYg==\r\n", "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", "DATA\r\n",
	"one\r\n.\r\nMAIL FROM:<a@b>\r\nRCPT TO:<e@f>\r\n", "DATA\r\n", "two\r\n.\r\n", "QUIT\r\n" };
static const char *const chunks[] = { "EHLO c.test\r\n", "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", "BDAT 7\r\nSubject", "BDAT 4\r\n: x\r",
	"BDAT 12 LAST\r\n\n\r\n.\r\nline\r\n", "MAIL FROM:<a@b>\r\n", "RSET\r\nQUIT\r\n" };
static const char *const login[] = { "EHLO c.test\r\n", "AUTH LOGIN\r\n", "YQ==\r\n", "Yg==\r\n", "MAIL FROM:<\"q \\\"x\"@b> AUTH=<>\r\n",
	"RCPT TO:<@r,@s:c@d>\r\n", "DATA\r\n", ".\r\n", "QUIT\r\n" };

static struct caps offer;

static size_t
commits(const struct rig *r)
{
	size_t n = 0;

	for (size_t i = 0; i + 5 <= r->bout.n; i++)
		n += memcmp(r->bout.p + i, "\r\n.\r\n", 5) == 0;
	return (n);
}

static void
golden(const char *name, const char *const *piece, size_t n, const char *want)
{
	struct dialogue d = { &smtp, &offer, piece, n, smtp_server };
	struct rig *ref = dialogue_run(&d, 0, 0), *r;
	bool cuts = true, deaths = true, dups = true;
	uint32_t steps = ref->calls, died = 0;
	size_t usual = commits(ref);

	ok(ref->out.n == strlen(want) && memcmp(ref->out.p, want, ref->out.n) == 0, "%s: the dialogue as it should be", name);
	if (ref->out.n != strlen(want) || memcmp(ref->out.p, want, ref->out.n) != 0)
		printf("# got:\n%.*s# from the gateway:\n%.*s", (int)ref->out.n, (char *)ref->out.p, (int)ref->bout.n, (char *)ref->bout.p);
	for (size_t cut = 1; cut < 40; cut++) {
		r = dialogue_run(&d, cut, 0);
		cuts = cuts && r->out.n == ref->out.n && memcmp(r->out.p, ref->out.p, r->out.n) == 0 && r->connects == 1;
		rig_free(r);
	}
	ok(cuts, "%s: cut into pieces of 1 to 39 octets, the same", name);
	for (uint32_t k = 1; k <= steps; k++) {
		r = dialogue_run(&d, 0, k);
		if (!(r->out.n == ref->out.n && memcmp(r->out.p, ref->out.p, r->out.n) == 0)) {
			printf("# death before step %u of %u:\n%.*s", k, steps, (int)r->out.n, (char *)r->out.p);
			deaths = false;
		}
		died += r->connects > 1;
		dups = dups && commits(r) <= usual + 1;
		rig_free(r);
	}
	ok(deaths && died > 5, "%s: the backend dies before each of %u steps, the same (%u failovers)", name, steps, died);
	ok(dups, "%s: at most one message went out twice", name);
	rig_free(ref);
}

#define EHLO_ "220 gw.test ESMTP\r\n250-gw.test\r\n250-PIPELINING\r\n250-SIZE 100000\r\n250-AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER\r\n" \
	"250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250 ENHANCEDSTATUSCODES\r\n"
#define OK_ "250 2.1.0 ok\r\n"
#define GO_ "354 End data with <CR><LF>.<CR><LF>\r\n"
#define BYE_ "221 2.0.0 gw.test Bye\r\n"
#define QUEUED_ "250 2.0.0 queued\r\n"

static void
scan(const char *name, const char *in, const char *want, bool end, uint8_t bad)
{
	size_t n = strlen(in);
	bool good = true;

	for (size_t cut = 1; cut <= n; cut++) {
		uint8_t space[512];
		struct out o = { space, 0, sizeof(space), false };
		struct pst p = { 0 };
		bool e = false;

		for (size_t at = 0; at < n && !e; at += cut)
			(void)smtp_scan(&p, bytes(in + at, cut < n - at ? cut : n - at), &o, true, &e);
		good = good && e == end && o.len == strlen(want) && memcmp(space, want, o.len) == 0 && p.bad == bad;
	}
	ok(good, "content: %s", name);
}

/* What the client gets for one piece of input after the greeting and EHLO. */
static bool
said_as(const char *piece, const char *want, bool normalize)
{
	const char *const pieces[] = { "EHLO c.test\r\n", piece };
	struct dialogue d = { &smtp, &offer, pieces, 2, smtp_server };
	size_t skip = strlen(EHLO_);
	struct rig *r;
	bool good;

	dialogue_normalize = normalize;
	r = dialogue_run(&d, 0, 0);
	dialogue_normalize = false;
	good = r->out.n == skip + strlen(want) && memcmp(r->out.p + skip, want, strlen(want)) == 0;
	if (!good)
		printf("# got%s:\n%.*s", r->over ? " (and closed)" : "", (int)r->out.n, (char *)r->out.p);
	rig_free(r);
	return (good);
}

static bool
said(const char *piece, const char *want)
{
	return (said_as(piece, want, false));
}

static bool
sent(const char *piece, const char *to_backend)
{
	const char *const pieces[] = { "EHLO c.test\r\n", piece };
	struct dialogue d = { &smtp, &offer, pieces, 2, smtp_server };
	struct rig *r = dialogue_run(&d, 0, 0);
	bool good = memmem(r->bout.p, r->bout.n, to_backend, strlen(to_backend)) != NULL;

	if (!good)
		printf("# sent:\n%.*s", (int)r->bout.n, (char *)r->bout.p);
	rig_free(r);
	return (good);
}

/* The same so many times, at most what fits. */
static void
many(char *line, size_t size, const char *what, int times)
{
	size_t n = strlen(what);

	for (line[0] = '\0'; times > 0 && size > n; times--, size -= n, line += n)
		memcpy(line, what, n + 1);
}

/* The last that the client gets. */
static bool
ends(const char *piece, const char *want)
{
	const char *const pieces[] = { "EHLO c.test\r\n", piece };
	struct dialogue d = { &smtp, &offer, pieces, 2, smtp_server };
	struct rig *r = dialogue_run(&d, 0, 0);
	size_t n = strlen(want);
	bool good = r->out.n >= n && memcmp(r->out.p + r->out.n - n, want, n) == 0;

	if (!good)
		printf("# got:\n%.*s", (int)r->out.n, (char *)r->out.p);
	rig_free(r);
	return (good);
}

/* A message of n lines, each a dot alone. */
static bool
dots(size_t n, const char *want)
{
	static char content[200000];
	const char *const pieces[] = { "EHLO c.test\r\n", "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", "DATA\r\n", content };
	struct dialogue d = { &smtp, &offer, pieces, N(pieces), smtp_server };
	struct rig *r;
	bool good;

	many(content, sizeof(content), "..\r\n", (int)n);
	memcpy(content + 4 * n, ".\r\n", 4);
	r = dialogue_run(&d, 0, 0);
	good = r->out.n >= strlen(want) && memcmp(r->out.p + r->out.n - strlen(want), want, strlen(want)) == 0;
	if (!good)
		printf("# got:\n%.*s", (int)r->out.n, (char *)r->out.p);
	rig_free(r);
	return (good);
}

static void
odd(void)
{
	static char line[AUTH_LINE + 100];
	struct caps was = offer;
	struct caps_smtp c;

	ok(said("noop\r\nNoOp  \r\n", "250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n"), "lower case, spaces at the end");
	ok(said("\r\nnoop\r\n", "500 5.5.2 unknown command\r\n250 2.0.0 Ok\r\n"), "an empty line is an error");
	ok(said("NOOP\nNOOP\r\n", "500 5.5.2 bare <LF> received, a command ends in <CR><LF>\r\n250 2.0.0 Ok\r\n"),
	    "a command that ends in LF alone is refused");
	ok(said_as("NOOP\nNOOP\r\n", "250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n", true), "or taken, when the site wants that");
	ok(said("AUTH PLAIN\r\nAGEAYg==\nNOOP\r\n", "334 \r\n500 5.5.2 bare <LF> received, a command ends in <CR><LF>\r\n"
	    "250 2.0.0 Ok\r\n"), "in AUTH too, which ends with it");
	ok(said("MAIL FROM:<a@b> SIZE=18446744073709551616\r\nMAIL FROM:<a@b> SIZE=99999999999999999999\r\n"
	    "MAIL FROM:<a@b> SIZE=100001\r\nMAIL FROM:<a@b> SIZE=x\r\nMAIL FROM:<a@b> SIZE=100000000000000000000\r\n",
	    "552 5.3.4 message too big\r\n552 5.3.4 message too big\r\n552 5.3.4 message too big\r\n501 5.5.4 bad SIZE\r\n"
	    "501 5.5.4 bad SIZE\r\n"), "SIZE of up to 20 digits");
	snprintf(line, sizeof(line), "AUTH PLAIN\r\n%0*d\r\nNOOP\r\n", AUTH_LINE + 10, 0);
	ok(said(line, "334 \r\n500 5.5.6 authentication line too long\r\n250 2.0.0 Ok\r\n"), "an AUTH line that is too long");
	ok(said("AUTH PLAIN\r\n*\r\nAUTH plain =\r\nAUTH LOGIN YQ==\r\n*\r\n", "334 \r\n501 5.7.0 authentication cancelled\r\n"
	    "501 5.5.2 malformed authentication data\r\n334 UGFzc3dvcmQ6\r\n501 5.7.0 authentication cancelled\r\n"), "AUTH cancelled");
	ok(said("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3\r\nabcBDAT  0\r\nBDAT 0  last\r\n", OK_ OK_
	    "250 2.0.0 chunk received\r\n250 2.0.0 chunk received\r\n" QUEUED_), "BDAT with more spaces than needed, empty chunks");
	ok(said("MAIL FROM:<a@b>\r\nBDAT 3\r\nabcBDAT 4 LAST\r\nNOOPRSET\r\n", OK_ "503 5.5.1 bad sequence of commands, RSET first\r\n"
	    "503 5.5.1 bad sequence of commands, RSET first\r\n250 2.0.0 Ok\r\n"), "BDAT without a recipient: its octets are no commands");
	ok(said("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3\r\nabcRCPT TO:<e@f>\r\nDATA\r\n", OK_ OK_ "250 2.0.0 chunk received\r\n"
	    "503 5.5.1 not after BDAT\r\n503 5.5.1 use BDAT\r\n"), "no RCPT and no DATA after BDAT");
	dialogue_keeps = 500;
	snprintf(line, sizeof(line), "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 600\r\n%0600dBDAT 3\r\nabcBDAT 3 LAST\r\nabcNOOP\r\n", 0);
	ok(said(line, OK_ OK_ "250 2.0.0 chunk received\r\n452 4.3.1 insufficient storage\r\n"
	    "503 5.5.1 bad sequence of commands, RSET first\r\n250 2.0.0 Ok\r\n"), "a chunk that was not kept: no message without it");
	snprintf(line, sizeof(line), "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 600 LAST\r\n%0600dNOOP\r\n", 0);
	ok(said(line, OK_ OK_ "452 4.3.1 insufficient storage\r\n250 2.0.0 Ok\r\n"), "nor the last one");
	dialogue_keeps = 0;
	ok(sent("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 4 LAST\r\n\tx\r\n", "@gw.test\r\n\r\n\tx"), "a space at the begin continues no line of ours");
	ok(sent("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 12 LAST\r\n>From a b\r\nx", "@gw.test\r\nX-Mailbox-Line: >From a b\r\n"),
	    "nor does a mailbox's line end the header");
	many(line, sizeof(line), "MAIL FROM:<a@b>\r\nBDAT 1 LAST\r\nxRSET\r\n", 20);
	ok(ends(line, "503 5.5.1 bad sequence of commands, RSET first\r\n421 4.7.0 gw.test too many errors\r\n"), "too many refused chunks");
	many(line, sizeof(line), "MAIL FROM:<a@b>\r\nRCPT TO:<grey@d>\r\nRSET\r\n", 20);
	ok(ends(line, "450 4.2.0 later\r\n421 4.7.0 gw.test too many errors\r\n"), "too many refusals for now");
	many(line, sizeof(line), "MAIL FROM:<a@b>\r\nRCPT TO:<full@d>\r\nRSET\r\n", 20);
	ok(ends(line, "452 4.5.3 too many\r\n250 2.0.0 Ok\r\n"), "452 is none");
	ok(!said("MAIL FROM:<a@b>\r\nRCPT TO:<confused@d>\r\n", OK_ "354 go\r\n"), "354 to RCPT is no answer");
	ok(said("RSET x\r\nQUIT x\r\nVRFY\r\nEXPN x\r\nNOOP x y\r\n", "501 5.5.4 no argument expected\r\n"
	    "501 5.5.4 no argument expected\r\n501 5.5.4 VRFY needs an address\r\n"
	    "502 5.5.1 command not available here\r\n250 2.0.0 Ok\r\n"), "arguments that are none, or missing");
	ok(dots(33000, QUEUED_) && dots(33400, "552 5.3.4 message too big\r\n"), "a doubled dot does not count for SIZE");
	ok(sent("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1 LAST\r\nx", "X-Gw-Txn: "), "the transaction's id goes first");
	memcpy(&c, &offer, sizeof(c));
	c.bits &= ~(uint32_t)CAP_XCLIENT;
	memcpy(&offer, &c, sizeof(c));
	ok(sent("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1 LAST\r\nx", " with ESMTP id "), "our trace line");
	ok(sent("MAIL FROM:<a@b> SMTPUTF8\r\nRCPT TO:<c@d>\r\nBDAT 1 LAST\r\nx", " with UTF8SMTP id "), "and that of RFC 6531");
	c.bits &= ~(uint32_t)CAP_8BITMIME;
	memcpy(&offer, &c, sizeof(c));
	{
		struct turn t = { .offer = &offer, .peer = &(struct peerinfo){ .auth_ok = true } };

		ok((smtp_offer(&t).bits & CAP_SMTPUTF8) == 0, "no SMTPUTF8 where 8BITMIME is not in common");
	}
	offer = was;
}

/* No server, however it counts lines, may find an end of content in what it was sent that is not "." between CR LFs. */
static bool
strict(const struct rig *r)
{
	const uint8_t *p = r->bout.p;

	for (size_t i = 0; i < r->bout.n; i++) {
		size_t end = i < r->began ? r->began : r->bout.n;	/* of the connection */

		if (p[i] == '\r' ? i + 1 < end && p[i + 1] != '\n' : p[i] == '\n' && (i == 0 || i == r->began || p[i - 1] != '\r'))
			return (false);
	}
	return (true);
}

/* As the reference has it, or with the answer that is made here once the backend's began with a 2 (S15). */
static bool
same(const struct rig *r, const struct rig *ref)
{
	static const char made[] = "250 2.0.0 Ok: 4f2a.1@gw.test\r\n";
	const uint8_t *q = memmem(ref->out.p, ref->out.n, QUEUED_, strlen(QUEUED_));
	size_t head = q == NULL ? 0 : (size_t)(q - ref->out.p), tail = q == NULL ? 0 : ref->out.n - head - strlen(QUEUED_);

	if (r->out.n == ref->out.n && memcmp(r->out.p, ref->out.p, r->out.n) == 0)
		return (true);
	return (q != NULL && r->out.n == head + strlen(made) + tail && memcmp(r->out.p, ref->out.p, head) == 0 &&
	    memcmp(r->out.p + head, made, strlen(made)) == 0 && memcmp(r->out.p + r->out.n - tail, ref->out.p + ref->out.n - tail, tail) == 0);
}

static bool
smuggles(const struct rig *r, const struct rig *ref, size_t usual)
{
	static const char evil[] = "\r\n.\r\nMAIL FROM:<evil";

	if (same(r, ref) && strict(r) && commits(r) <= usual * 2 &&
	    commits(r) >= usual && memmem(r->bout.p, r->bout.n, evil, strlen(evil)) == NULL)
		return (false);
	printf("# client:\n%.*s# backend:\n%.*s", (int)r->out.n, (char *)r->out.p, (int)r->bout.n, (char *)r->bout.p);
	return (true);
}

/* S44: the backend dies at every octet that it is sent, and with every octet that the client sends. */
static void
smuggle(const char *name, const char *end, bool normalize)
{
	char content[200];
	const char *const piece[] = { "EHLO c.test\r\n", "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", "DATA\r\n", content, "QUIT\r\n" };
	struct dialogue d = { &smtp, &offer, piece, N(piece), smtp_server };
	size_t usual = normalize ? 1 : 0, said_all;
	uint32_t steps, died = 0;
	struct rig *ref, *r;
	bool bad;

	snprintf(content, sizeof(content), "body%sMAIL FROM:<evil@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nevil\r\n.\r\n", end);
	dialogue_normalize = normalize;
	ref = dialogue_run(&d, 0, 0);
	r = dialogue_run(&d, 1, 0);	/* octet by octet, so that content flows before its end is there */
	steps = r->calls;
	said_all = r->bout.n;
	bad = smuggles(r, ref, usual);
	rig_free(r);
	bad = bad || memmem(ref->out.p, ref->out.n, normalize ? "\n250 2.0.0 queued" : "\n550 5.5.2 bare <CR>", 16) == NULL;
	for (size_t k = 1; k <= said_all; k++, rig_free(r)) {
		dialogue_die_said = k;
		r = dialogue_run(&d, 1, 0);
		bad = smuggles(r, ref, usual) || bad;
		died += r->connects > 1;
	}
	dialogue_die_said = 0;
	for (uint32_t k = 1; k <= steps; k++, rig_free(r)) {
		r = dialogue_run(&d, 1, k);
		bad = smuggles(r, ref, usual) || bad;
		died += r->connects > 1;
	}
	dialogue_normalize = false;
	ok(!bad && died > strlen(content), "%s is %s, the backend dies at each of %zu octets and %u steps (%u failovers)", name,
	    normalize ? "mended" : "refused", said_all, steps, died);
	rig_free(ref);
}

int
main(void)
{
	static const char *const ends[][2] = { { "LF.LF", "\n.\n" }, { "LF.CRLF", "\n.\r\n" }, { "CRLF.LF", "\r\n.\n" },
		{ "CR.CR", "\r.\r" }, { "CRLF.CR", "\r\n.\r" }, { "CR.CRLF", "\r.\r\n" }, { "CR.LF", "\r.\n" }, { "LF.CR", "\n.\r" } };
	struct caps_smtp caps = { .known = 1, .bits = UINT32_MAX, .size = 100000 };

	memcpy(&offer, &caps, sizeof(caps));
	golden("DATA", plain, N(plain), EHLO_ OK_ OK_ "550 5.1.1 no\r\n" OK_ GO_ QUEUED_ "250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n" BYE_);
	golden("two messages", twice, N(twice), EHLO_ "235 2.7.0 in\r\n" OK_ OK_ GO_ QUEUED_ OK_ OK_ GO_ QUEUED_ BYE_);
	golden("BDAT", chunks, N(chunks), EHLO_ OK_ OK_ "250 2.0.0 chunk received\r\n250 2.0.0 chunk received\r\n" QUEUED_ OK_
	    "250 2.0.0 Ok\r\n" BYE_);
	golden("LOGIN", login, N(login), EHLO_ "334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n235 2.7.0 in\r\n" OK_ OK_ GO_ QUEUED_ BYE_);
	scan("lines", "a\r\nb\r\n.\r\n", "a\r\nb\r\n", true, BAD_NONE);
	scan("empty", ".\r\n", "", true, BAD_NONE);
	scan("stuffing", "..\r\n...x\r\n.y\r\n.\r\n", "..\r\n...x\r\ny\r\n", true, BAD_NONE);
	scan("LF.LF", "a\n.\nb\r\n.\r\n", "a\r\n..\r\nb\r\n", true, BAD_BARE);
	scan("LF.CRLF", "a\n.\r\nb\r\n.\r\n", "a\r\n..\r\nb\r\n", true, BAD_BARE);
	scan("CRLF.LF", "a\r\n.\nb\r\n.\r\n", "a\r\n..\r\nb\r\n", true, BAD_BARE);
	scan("CRLF.CR", "a\r\n.\rb\r\n.\r\n", "a\r\n b\r\n", true, BAD_BARE);
	scan("CR.CR", "a\r.\rb\r\n.\r\n", "a . b\r\n", true, BAD_BARE);
	scan("CR.CRLF", "a\r.\r\nb\r\n.\r\n", "a .\r\nb\r\n", true, BAD_BARE);
	scan("CRCRLF.CRLF", "a\r\r\n.\r\n", "a \r\n", true, BAD_BARE);
	scan("no end", "a\r\n.\r", "a\r\n", false, BAD_NONE);
	for (size_t i = 0; i < 2 * N(ends); i++)
		smuggle(ends[i / 2][0], ends[i / 2][1], i % 2 == 1);
	odd();
	ok(smtp.times.eod >= 500000 && smtp.times.eod < 600000, "S20: an answer to the dot may take 8 minutes, and less than a client's 10");
	ok(smtp.times.idle >= 300000, "RFC 5321 4.5.3.2.7: 5 minutes for the client's next command");
	seed_check(&smtp, "");
	return (done_testing());
}
