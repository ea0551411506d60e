/* pop3 - golden dialogues, cut anywhere and with a backend that dies before every step, give the client the same octets */
/* LINK: pop3/client.c pop3/relay.c pop3/backend.c pop3/next.c pop3/snapshot.c workers/arena.c workers/relayed.c workers/sasl.c supervisor/buf.c supervisor/log.c workers/journal.c workers/pack.c */
#define NO_MAIN
#include "pop3/pop3.c"	/* its table, without its main */
#include "t/lib/dialogue.h"
#include "t/lib/seed.h"
#include "t/lib/tap.h"
#include "workers/sasl.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))

static const char *const whole[] = { "CAPA\r\n", "USER u\r\n", "PASS p\r\n", "STAT\r\nLIST\r\nUIDL\r\n", "RETR 1\r\nTOP 2 99999999999\r\nLAST\r\n",
	"DELE 2\r\nLIST\r\nRETR 2\r\n", "QUIT\r\n" };
static const char *const wrong[] = { "USER u\r\nPASS wrong\r\n", "AUTH PLAIN AGEAYg==\r\n", "DELE 1\r\nRSET\r\nQUIT\r\n" };
static const char *const all_gone[] = { "AUTH LOGIN\r\n", "YQ==\r\n", "Yg==\r\n", "DELE 1\r\nDELE 2\r\nDELE 3\r\nSTAT\r\n", "QUIT\r\n" };

static struct caps offer;

static void
golden(const char *name, const char *const *piece, size_t n, const char *want)
{
	struct dialogue d = { &pop3, &offer, piece, n, pop3_server };
	struct rig *ref = dialogue_run(&d, 0, 0), *r;
	bool cuts = true, deaths = true;
	uint32_t steps = ref->calls, died = 0;

	ok(ref->out.n == strlen(want) && memcmp(ref->out.p, want, ref->out.n) == 0, "%s: the dialogue as it should be", name);
	if (ref->out.n != strlen(want) || memcmp(ref->out.p, want, ref->out.n) != 0)
		printf("# got:\n%.*s# from the gateway:\n%.*s", (int)ref->out.n, (char *)ref->out.p, (int)ref->bout.n, (char *)ref->bout.p);
	for (size_t cut = 1; cut < 40; cut++) {
		r = dialogue_run(&d, cut, 0);
		cuts = cuts && r->out.n == ref->out.n && memcmp(r->out.p, ref->out.p, r->out.n) == 0 && r->connects == ref->connects;
		rig_free(r);
	}
	ok(cuts, "%s: cut into pieces of 1 to 39 octets, the same", name);
	/* whole replies first, then with bodies cut between any two octets */
	for (size_t cut = 0; cut < 8; cut += 7)
		for (uint32_t k = 1; k <= steps * (cut != 0 ? 8 : 1); k++) {
			r = dialogue_run(&d, cut, k);
			if (!(r->out.n == ref->out.n && memcmp(r->out.p, ref->out.p, r->out.n) == 0)) {
				printf("# cut %zu, death before step %u of %u:\n%.*s", cut, k, steps, (int)r->out.n, (char *)r->out.p);
				deaths = false;
			}
			died += r->connects > ref->connects;
			rig_free(r);
		}
	ok(deaths && died > 5, "%s: the backend dies before each of %u steps, the same (%u failovers)", name, steps, died);
	rig_free(ref);
}

/* What the client gets for one piece of input. */
static bool
said(const char *piece, const char *want, bool over)
{
	struct dialogue d = { &pop3, &offer, &piece, 1, pop3_server };
	struct rig *r = dialogue_run(&d, 0, 0);
	bool good = r->out.n == strlen(want) && memcmp(r->out.p, want, r->out.n) == 0 && r->over == over;

	if (!good)
		printf("# got%s:\n%.*s", r->over ? " (and closed)" : "", (int)r->out.n, (char *)r->out.p);
	rig_free(r);
	return (good);
}

#define HI_ "+OK gw.test POP3 server ready\r\n"
#define BODY_ "Subject: x\r\n\r\n..dots\r\n...\r\nmore\r\n.\r\n"

#define IN_ "+OK\r\n+OK logged in, 3 messages\r\n"

static void
errors(void)
{
	static char piece[2000], want[4000], name[500];
	static const char *const cmd[] = { "DELE 9", "RETR 9", "TOP 9 1", "LIST 9", "UIDL 9" };
	uint8_t raw[500] = { 0 };
	int n;

	for (size_t k = 0; k < N(cmd); k++) {
		snprintf(piece, sizeof(piece), "USER u\r\nPASS p\r\n");
		snprintf(want, sizeof(want), HI_ IN_);
		for (int i = 0; i < 25; i++) {
			snprintf(piece + strlen(piece), sizeof(piece) - strlen(piece), "%s\r\n", cmd[k]);
			if (i < 20)
				snprintf(want + strlen(want), sizeof(want) - strlen(want), "-ERR no such message\r\n");
		}
		snprintf(want + strlen(want), sizeof(want) - strlen(want), "-ERR too many errors, good-bye\r\n");
		ok(said(piece, want, true), "%s, again and again: ended at the limit, with one word more", cmd[k]);
	}
	memset(raw + 1, 'u', USER_MAX + 1);
	raw[USER_MAX + 3] = 'p';
	n = sasl_encode(bytes(raw, USER_MAX + 4), (uint8_t *)name, sizeof(name));
	snprintf(piece, sizeof(piece), "AUTH PLAIN %.*s\r\nQUIT\r\n", n, name);
	ok(n > 0 && said(piece, HI_ "-ERR [AUTH] user name too long\r\n+OK bye\r\n", true),
	    "a user name that is too long ends its AUTH: the next line is a command");
}

static void
odd(void)
{
	ok(said("noop\r\ncapa \r\n\r\nuser  u \r\npass p\r\nquit \r\n", HI_ "-ERR log in first\r\n"
	    "+OK capability list follows\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nUSER\r\n"
	    "SASL PLAIN LOGIN XOAUTH2 OAUTHBEARER\r\nIMPLEMENTATION BMR\r\n.\r\n-ERR unknown command\r\n" IN_ "+OK bye\r\n", true),
	    "lower case, spaces around arguments, an empty line");
	ok(said("CAPA\nUSER u\r\nPASS p\nQUIT\r\n", HI_ "-ERR bare LF received, a command ends in CR LF\r\n+OK\r\n"
	    "-ERR bare LF received, a command ends in CR LF\r\n+OK bye\r\n", true), "a command that ends in LF alone is refused");
	ok(said("USER u\r\nPASS p\r\nLIST  2 \r\nUIDL 3\r\nLIST 1 2\r\nTOP 1\r\nTOP  9  1\r\nLIST 0\r\nLIST -1\r\nDELE\r\n"
	    "USER u\r\nAUTH PLAIN\r\nCAPA\r\nQUIT\r\n", HI_ IN_ "+OK 2 30\r\n+OK 3 ccc\r\n-ERR no such message\r\n"
	    "-ERR TOP needs a message number and a number of lines\r\n-ERR no such message\r\n-ERR no such message\r\n"
	    "-ERR no such message\r\n-ERR no such message\r\n-ERR not any more in this state\r\n-ERR not any more in this state\r\n"
	    "+OK capability list follows\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nIMPLEMENTATION BMR\r\n.\r\n"
	    "+OK bye\r\n", true), "arguments; what is not for TRANSACTION; CAPA after login");
	ok(said("AUTH LOGIN\r\nYQ==\r\n*\r\nPASS p\r\nAUTH PLAIN\r\n=\r\nAUTH NTLM\r\nAUTH\r\nQUIT\r\n", HI_ "+ VXNlcm5hbWU6\r\n"
	    "+ UGFzc3dvcmQ6\r\n-ERR authentication cancelled\r\n-ERR USER first\r\n+ \r\n-ERR malformed authentication exchange\r\n"
	    "-ERR unsupported authentication mechanism\r\n-ERR unsupported authentication mechanism\r\n+OK bye\r\n", true),
	    "AUTH cancelled, and what it told forgotten");
}

int
main(void)
{
	struct caps_pop3 caps = { .known = 1, .bits = UINT32_MAX };

	memcpy(&offer, &caps, sizeof(caps));
	golden("whole", whole, N(whole), HI_ "+OK capability list follows\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\n"
	    "USER\r\nSASL PLAIN LOGIN XOAUTH2 OAUTHBEARER\r\nIMPLEMENTATION BMR\r\n.\r\n+OK\r\n+OK logged in, 3 messages\r\n+OK 3 90\r\n"
	    "+OK 3 messages\r\n1 40\r\n2 30\r\n3 20\r\n.\r\n+OK 3 messages\r\n1 aaa\r\n2 bbb\r\n3 ccc\r\n.\r\n+OK 40 octets\r\n" BODY_
	    "+OK\r\n" BODY_ "+OK 1\r\n+OK message 2 deleted\r\n+OK 2 messages\r\n1 40\r\n3 20\r\n.\r\n-ERR message is deleted\r\n+OK bye\r\n");
	golden("a wrong password", wrong, N(wrong), HI_ "+OK\r\n-ERR [AUTH] no\r\n+OK logged in, 3 messages\r\n+OK message 1 deleted\r\n"
	    "+OK maildrop has 3 messages\r\n+OK bye\r\n");
	golden("all deleted", all_gone, N(all_gone), HI_ "+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\n+OK logged in, 3 messages\r\n"
	    "+OK message 1 deleted\r\n+OK message 2 deleted\r\n+OK message 3 deleted\r\n+OK 0 0\r\n+OK bye\r\n");
	errors();
	odd();
	ok(pop3.times.idle >= 600000, "P29, RFC 1939 3: 10 minutes for the client's next command");
	seed_check(&pop3, "seed");
	return (done_testing());
}
