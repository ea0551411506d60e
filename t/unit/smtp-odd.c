/* smtp - what is rare: chunks that are refused, late replies, exchanges given up, hosts that can do less */
/* LINK: smtp/client.c smtp/auth.c smtp/relay.c smtp/content.c smtp/scan.c smtp/path.c smtp/caps.c smtp/refuse.c smtp/backend.c smtp/next.c workers/arena.c workers/relayed.c workers/sasl.c supervisor/buf.c supervisor/log.c workers/journal.c workers/pack.c */
#define NO_MAIN
#include "smtp/smtp.c"	/* its table, without its main */
#include "t/lib/script.h"
#include "t/lib/tap.h"

#define OK_ "250 2.1.0 ok\r\n"
#define GO_ "354 End data with <CR><LF>.<CR><LF>\r\n"

static struct caps offer;
static const struct master master = { .user = "boss", .password = "secret" };
static char large[65536 + 1];

static inline void
hello_is(struct rig *r, const char *size, const char *xclient)
{
	char text[300];

	server(r, "220 mx\r\n");
	snprintf(text, sizeof(text), "250-mx\r\n250-SIZE %s\r\n250-8BITMIME\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250-AUTH PLAIN CRAM-MD5\r\n"
	    "%s250 PIPELINING\r\n", size, xclient);
	server(r, text);
}

static inline void
hello_mx(struct rig *r)
{
	hello_is(r, "1000000", "");
}

static struct rig *
begin(const char *name)
{
	struct rig *r = script_begin(&smtp, &offer);
	char line[400];

	r->t.master = &master;
	snprintf(line, sizeof(line), "EHLO %s\r\n", name);
	client(r, line);
	(void)heard(r);
	return (r);
}

/* A transaction of one recipient is open. */
static inline struct rig *
open_txn(void)
{
	struct rig *r = begin("c.test");

	client(r, "MAIL FROM:<a@b>\r\n");
	hello_mx(r);
	server(r, OK_);
	client(r, "RCPT TO:<c@d>\r\n");
	server(r, OK_);
	(void)heard(r);
	(void)got(r);
	return (r);
}

static inline void
envelope_again(struct rig *r)
{
	hello_mx(r);
	server(r, OK_ OK_);
}

static void
no_recipient(void)
{
	struct rig *r = begin("c.test");

	client(r, "MAIL FROM:<a@b>\r\n");
	hello_mx(r);
	server(r, OK_);
	client(r, "RCPT TO:<no@d>\r\n");
	server(r, "550 5.1.1 no\r\n");
	(void)heard(r);
	client(r, "BDAT 3 LAST\r\nabc");
	client(r, "MAIL FROM:<x@y>\r\n");
	server(r, OK_);
	server(r, OK_);		/* RSET, MAIL */
	ok(is(heard(r), "554 5.5.1 no valid recipients\r\n" OK_), "BDAT LAST without a recipient ends the transaction");
	client(r, "BDAT 3\r\nabcRCPT TO:<c@d>\r\n");
	ok(is(heard(r), "503 5.5.1 bad sequence of commands, RSET first\r\n503 5.5.1 not after BDAT\r\n"),
	    "a recipient does not come behind a chunk that was refused");
	client(r, "BDAT 3 LAST\r\nabcDATA\r\n");
	ok(is(heard(r), "503 5.5.1 bad sequence of commands, RSET first\r\n503 5.5.1 need RCPT command\r\n"), "the last one ends it all the same");
	rig_free(r);
}

static void
ill_chunk(const char *reply, bool other)
{
	struct rig *r = open_txn();

	client(r, "BDAT 65536\r\n");
	client(r, large);
	ok(has(got(r), "BDAT 65"), "a chunk goes out");
	server(r, reply);
	client(r, "BDAT 1 LAST\r\nx");
	(void)got(r);
	if (other) {
		envelope_again(r);
		ok(has(got(r), "RCPT TO:<c@d>\r\nBDAT 65"), "%.9s to a chunk: another host is asked", reply);
		server(r, "250 2.0.0 chunk\r\n250 2.0.0 queued\r\n");
		ok(is(heard(r), "250 2.0.0 chunk received\r\n250 2.0.0 queued\r\n"), "and the client hears of nothing");
	} else
		ok(has(heard(r), reply), "%.9s to a chunk: told at the next one", reply);
	rig_free(r);
}

static void
long_refusal(void)
{
	struct rig *r = open_txn();

	client(r, "BDAT 65536\r\n");
	client(r, large);
	for (int i = 0; i < 30; i++)
		serverf(r, "450-4.2.0 %080d\r\n", i);
	server(r, "450 4.2.0 later\r\n");
	client(r, "BDAT 1\r\nxBDAT 1 LAST\r\nx");
	ok(is(heard(r), "250 2.0.0 chunk received\r\n451 4.3.0 mail server lost, try again later\r\n"
	    "503 5.5.1 bad sequence of commands, RSET first\r\n"), "a refusal of a chunk that is too long to be kept: for now, not for good");
	rig_free(r);
}

static void
ill_everywhere(void)
{
	struct rig *r = open_txn();

	r->max_deaths = 2;
	client(r, "BDAT 65536 LAST\r\n");
	client(r, large);
	server(r, "452 4.3.1 full\r\n");
	for (int i = 0; i < 3; i++) {
		envelope_again(r);
		server(r, "452 4.3.1 full\r\n");
	}
	ok(is(heard(r), "452 4.3.1 full\r\n"), "all hosts say so: so does the gateway");
	rig_free(r);
}

/* The refusal of a chunk comes when its transaction is over and another is open. */
static void
late_chunk(void)
{
	struct rig *r = open_txn();

	client(r, "BDAT 65536\r\n");
	client(r, large);
	client(r, "RSET\r\nMAIL FROM:<x@y>\r\n");
	(void)heard(r);
	server(r, "552 5.3.4 too big\r\n");
	hello_mx(r);
	server(r, OK_);
	client(r, "RCPT TO:<c@d>\r\n");
	server(r, OK_);
	ok(is(heard(r), OK_ OK_), "a chunk's refusal that comes late: another transaction is open");
	client(r, "DATA\r\n");
	server(r, "354 go\r\n");
	client(r, "x\r\n.\r\n");
	server(r, "250 2.0.0 queued\r\n");
	ok(is(heard(r), GO_ "250 2.0.0 queued\r\n"), "and is not concerned");
	rig_free(r);
}

static void
given_up(void)
{
	struct rig *r = begin("c.test");
	char line[AUTH_LINE + 2];

	client(r, "AUTH CRAM-MD5\r\n");
	hello_mx(r);
	server(r, "334 PDEyMz4=\r\n");
	r->max_deaths = 0;
	rig_die(r);
	rig_run(r);
	r->max_deaths = 8;
	ok(is(heard(r), "334 PDEyMz4=\r\n454 4.7.0 temporary authentication failure\r\n"), "the host dies after its challenge");
	client(r, "AUTH PLAIN AGEAYg==\r\n");
	hello_mx(r);
	r->bin.start = r->bin.n = 0;
	rig_put(&r->bin, "535 5.7.8 no\r\n", 14);
	ok(rig_input(r) && r->refused && r->out.n == script_told, "a login after it is refused: not believed before its time");
	rig_run(r);
	ok(is(heard(r), "535 5.7.8 no\r\n"), "then it is");

	client(r, "AUTH CRAM-MD5\r\n");
	server(r, "334 PDEyMz4=\r\n");
	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = '\0';
	client(r, line);
	server(r, "334 PDEyMz4=\r\n");		/* it ought to refuse */
	client(r, "xxx\r\n");
	ok(r->kept.n == 0 && r->spool.len == 0, "the rest of an overlong answer to a challenge is no content");
	rig_free(r);
}

static void
long_challenge(void)
{
	struct rig *r = begin("c.test");
	char text[1000], want[1000];

	snprintf(want, sizeof(want), "334 %0800d\r\n", 0);
	snprintf(text, sizeof(text), "%s", want);
	client(r, "AUTH CRAM-MD5\r\n");
	hello_mx(r);
	server(r, text);
	ok(is(heard(r), want), "a challenge of 800 octets is passed on whole");
	rig_free(r);
}

static void
foreign_user(void)
{
	struct rig *r = begin("c.test");

	client(r, "AUTH CRAM-MD5\r\n");
	hello_mx(r);
	server(r, "334 PDEyMz4=\r\n");
	client(r, "bcO8IDEyMw==\r\n");		/* "mü 123" */
	server(r, "235 2.7.0 in\r\n");
	rig_die(r);
	(void)got(r);
	client(r, "MAIL FROM:<a@b>\r\n");
	hello_mx(r);
	ok(has(got(r), "AUTH PLAIN bcO8AGJvc3MAc2VjcmV0\r\n"), "another host is entered as the same user, whatever letters");
	rig_free(r);
}

/* RFC 4616: the password is u's, the session z's. */
static void
for_another(void)
{
	struct rig *r = begin("c.test");

	client(r, "AUTH PLAIN egB1AHA=\r\n");
	ok(proves(r, PROOF_PLAIN, "u"), "who logs in for another proves who he is himself");
	hello_mx(r);
	server(r, "235 2.7.0 in\r\n");
	ok(whose(r, "z"), "and the session is the other's");
	rig_die(r);
	(void)got(r);
	client(r, "MAIL FROM:<a@b>\r\n");
	hello_mx(r);
	ok(has(got(r), "AUTH PLAIN egB1AHA=\r\n"), "at another host it is said as it was");
	rig_free(r);

	r = begin("c.test");
	client(r, "AUTH SCRAM-SHA-1 bixhPXosbj11LHI9eA==\r\n");
	ok(proves(r, PROOF_ONCE, "u"), "the same with SCRAM");
	hello_is(r, "1000000", "250-AUTH SCRAM-SHA-1\r\n");
	server(r, "334 eA==\r\n");
	client(r, "Yz1iaXdzLHI9eHkscD1x\r\n");
	ok(proves(r, PROOF_ONCE, "u"), "to its end");
	server(r, "235 2.7.0 in\r\n");
	rig_die(r);
	(void)got(r);
	client(r, "MAIL FROM:<a@b>\r\n");
	hello_mx(r);
	ok(whose(r, "z") && has(got(r), "AUTH PLAIN egBib3NzAHNlY3JldA==\r\n"), "the master user goes on for the other");
	rig_free(r);
}

static void
named_late(const char *answer, const char *who)
{
	struct rig *r = begin("c.test");

	client(r, "AUTH CRAM-MD5\r\n");
	ok(proves(r, PROOF_ONCE, ""), "nobody has said yet who he is");
	hello_mx(r);
	server(r, "334 PDEyMz4=\r\n");
	client(r, answer);
	ok(proves(r, PROOF_ONCE, who), "the answer to the challenge does, if it does");
	rig_free(r);
}

static void
xclient(void)
{
	char name[256];
	struct rig *r;

	memset(name, '=', 255);
	name[255] = '\0';
	r = begin(name);
	client(r, "MAIL FROM:<a@b>\r\n");
	hello_is(r, "1000000", "250-XCLIENT NAME ADDR HELO\r\n");
	server(r, "550 5.7.0 no\r\n");
	server(r, OK_);
	client(r, "RCPT TO:<c@d>\r\n");
	server(r, OK_);
	(void)got(r);
	client(r, "BDAT 1 LAST\r\nx");
	ok(has(got(r), "Received: from "), "XCLIENT refused at its first part: the trace line is the gateway's");
	rig_free(r);
	r = open_txn();
	client(r, "BDAT 1 LAST\r\nx");
	ok(has(got(r), "Received: from "), "nor does a backend that has come to offer no XCLIENT write it");
	rig_free(r);
	{
		struct have h = { 0 };

		smtp_learn(&h, BYTES("XCLIENT NAME PROTO"));
		ok((h.caps & CAP_XCLIENT) == 0, "XCLIENT without ADDR tells nobody's address");
	}
}

static void
first_line(const char *a, const char *b, const char *want, const char *what)
{
	struct rig *r = open_txn();

	client(r, "DATA\r\n");
	server(r, "354 go\r\n");
	client(r, a);
	client(r, b);
	ok(has(got(r), want), "%s", what);
	rig_free(r);
}

static void
smaller(void)
{
	struct rig *r = begin("c.test");

	client(r, "MAIL FROM:<a@b> SIZE=60000\r\n");
	hello_mx(r);
	server(r, OK_);
	client(r, "RCPT TO:<c@d>\r\n");
	server(r, OK_);
	client(r, "DATA\r\n");
	server(r, "354 go\r\n");
	client(r, "x\r\n");
	rig_die(r);
	(void)got(r);
	rig_run(r);
	hello_is(r, "50000", "");
	ok(!has(got(r), "MAIL"), "a host that takes less than MAIL announced cannot stand in");
	rig_free(r);

	r = open_txn();
	client(r, "DATA\r\n");
	server(r, "354 go\r\n");
	client(r, "x\r\n");
	rig_die(r);
	rig_run(r);
	hello_is(r, "50000", "");
	server(r, OK_ OK_);
	server(r, "354 go\r\n");
	for (int i = 0; i < 600; i++)
		client(r, "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\r\n");
	client(r, ".\r\n");
	(void)heard(r);
	server(r, "552 5.3.4 too big\r\n");
	ok(is(heard(r), ""), "nor is its word final on what the client was told to be small enough");
	rig_free(r);
}

/* SIZE is what the client may send: the gateway's own lines are not his. */
static void
exactly(bool data, size_t n, const char *want)
{
	static char text[5200], line[5300];
	struct rig *r = begin("c.test");

	r->limits.message = 5000;
	client(r, "EHLO c.test\r\n");
	ok(has(heard(r), "250-SIZE 5000\r\n"), "SIZE 5000 is told");
	snprintf(line, sizeof(line), "MAIL FROM:<a@b> SIZE=%zu\r\n", n < 5000 ? n : 5000);
	client(r, line);
	hello_mx(r);
	server(r, OK_);
	client(r, "RCPT TO:<c@d>\r\n");
	server(r, OK_);
	if (data) {
		client(r, "DATA\r\n");
		server(r, "354 go\r\n");
	}
	(void)heard(r);
	snprintf(text, sizeof(text), "%0*d\r\n", (int)n - 2, 0);
	snprintf(line, sizeof(line), data ? "%s.\r\n" : "BDAT 5000\r\n%.5000sBDAT 0 LAST\r\n", text);
	if (!data && n > 5000)
		snprintf(line, sizeof(line), "BDAT %zu LAST\r\n%s", n, text);
	client(r, line);
	server(r, data ? "250 2.0.0 queued\r\n" : "250 2.0.0 chunk\r\n250 2.0.0 queued\r\n");
	ok(is(heard(r), want), "%zu octets by %s", n, data ? "DATA" : "BDAT");
	rig_free(r);
}

static void
twice(void)
{
	static const char *const lines[] = { "MAIL FROM:<a@b> BODY=BINARYMIME BODY=7BIT\r\n", "MAIL FROM:<a@b> SIZE=1 BODY=7BIT size=2\r\n",
		"MAIL FROM:<a@b> SMTPUTF8 SMTPUTF8\r\n" };
	struct rig *r = begin("c.test");

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		client(r, lines[i]);
		ok(is(heard(r), "501 5.5.4 parameter given twice\r\n"), "a parameter twice: %.*s", (int)strlen(lines[i]) - 2, lines[i]);
	}
	client(r, "MAIL FROM:<a@b> AUTH\r\n");
	ok(is(heard(r), "501 5.5.4 bad AUTH\r\n"), "AUTH without a value");
	rig_free(r);
}

static void
routes(void)
{
	static const struct { const char *said, *means; } to[] = {
		{ "<@r.test:c@d>", "<c@d>" }, { "<@r.test,@[192.0.2.1]:c@d>", "<c@d>" }, { "<@[IPv6:2001:db8::1]:c@d>", "<c@d>" },
		{ "<@r.test,@[IPv6:::1]:c@[IPv6:::2]>", "<c@[IPv6:::2]>" },
	};
	struct rig *r = open_txn();
	char line[100], want[100];

	for (size_t i = 0; i < sizeof(to) / sizeof(to[0]); i++) {
		snprintf(line, sizeof(line), "RCPT TO:%s\r\n", to[i].said);
		snprintf(want, sizeof(want), "RCPT TO:%s\r\n", to[i].means);
		client(r, line);
		ok(is(got(r), want), "a route is left out, its colons too: %s", to[i].said);
		server(r, OK_);
	}
	(void)heard(r);
	client(r, "RCPT TO:<@[IPv6:2001:db8::1]>\r\n");
	ok(is(heard(r), "501 5.1.3 syntax: RCPT TO:<address>\r\n"), "a route to nobody");
	rig_free(r);
}

static void
auth_param(void)
{
	struct caps_smtp c;
	struct caps was = offer;
	struct rig *r;

	memcpy(&c, &offer, sizeof(c));
	c.bits &= ~(uint32_t)CAP_AUTH_ANY;
	memcpy(&offer, &c, sizeof(c));
	r = begin("c.test");
	client(r, "MAIL FROM:<a@b> AUTH=<>\r\n");
	ok(!has(heard(r), "555"), "MAIL takes AUTH= where challenges alone are offered");
	rig_free(r);
	offer = was;
}

/* The backend has taken the message, and says so at length. */
static void
wordy(bool whole)
{
	char text[3100];
	struct rig *r = open_txn();

	snprintf(text, sizeof(text), "250 %03000d\r\n", 0);
	client(r, "BDAT 1 LAST\r\nx");
	server(r, "250 2.0.0 chunk\r\n");
	(void)heard(r);
	(void)got(r);
	if (!whole)
		server(r, "2");
	server(r, text + !whole);
	ok(is(got(r), "") && is(heard(r), "250 2.0.0 Ok: 4f2a.1@gw.test\r\n"), "an answer to the end that is too long, %s: not sent again",
	    whole ? "whole" : "in pieces");
	rig_free(r);
}

int
main(void)
{
	struct caps_smtp caps = { .known = 1, .bits = UINT32_MAX & ~(uint32_t)CAP_DSN, .size = 100000 };

	memcpy(&offer, &caps, sizeof(caps));
	for (int i = 0; i < 1024; i++)
		memcpy(large + 64 * i, "012345678901234567890123456789012345678901234567890123456789..\r\n", 64);
	no_recipient();
	ill_chunk("452 4.3.1 full\r\n", true);
	ill_chunk("552 5.3.4 too big\r\n", false);
	long_refusal();
	ill_everywhere();
	late_chunk();
	given_up();
	long_challenge();
	foreign_user();
	for_another();
	named_late("dSAxMjM=\r\n", "u");
	named_late("*\r\n", "");
	named_late("eHh4\r\n", "?");
	named_late("no base64\r\n", "?");
	xclient();
	first_line("Fr", "om a b\r\nx: y\r\n\r\n.\r\n", "\r\nX-Mailbox-Line: From a b\r\n", "a mailbox's line that comes in pieces");
	first_line(". x\r\n\r\n", ".\r\n", "+0000\r\n\r\n x\r\n", "a space behind a dot that goes");
	first_line(".", " x\r\n\r\n.\r\n", "+0000\r\n\r\n x\r\n", "the same in pieces");
	first_line("From: a\r\n", "\r\n.\r\n", "+0000\r\nFrom: a\r\n", "a field is none");
	first_line(".", "\r\n", "+0000\r\n.\r\n", "nor an empty message");
	smaller();
	exactly(true, 5000, "250 2.0.0 queued\r\n");
	exactly(true, 5001, "552 5.3.4 message too big\r\n");
	exactly(false, 5000, "250 2.0.0 chunk received\r\n250 2.0.0 queued\r\n");
	exactly(false, 5001, "552 5.3.4 message too big\r\n");
	twice();
	routes();
	auth_param();
	wordy(false);
	wordy(true);
	return (done_testing());
}
