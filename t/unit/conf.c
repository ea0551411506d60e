/* conf - every fault of bmr.conf is one line "file:line: what", with the fitting exit code; defaults; nothing of a bad file stays */
/* LINK: workers/conf.c workers/conf_value.c workers/conf_text.c workers/conf_tls.c workers/conf_image.c supervisor/buf.c */
#include <sys/mman.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

#include "t/lib/tap.h"
#include "workers/conf.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))
#define LISTEN "  listen = {\"127.0.0.1:2525\"}\n"
#define BACKEND "  backend a { address = \"127.0.0.2:25\" }\n"
#define LONG "/abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghi"
#define WITH(more) "service smtp {\n" LISTEN BACKEND more "}\n"

static struct conf c;
static char dir[] = "/tmp/bmr-conf-XXXXXX", said[4096];
static int lines, malformed;

static void
say(void *arg, const char *line)
{
	unsigned int at;
	char file[256];

	(void)arg;
	lines++;
	malformed += sscanf(line, "%255[^:]:%u: ", file, &at) != 2 || strchr(line, '\n') != NULL;
	snprintf(said + strlen(said), sizeof(said) - strlen(said), "%s\n", line);
}

static const char *
write_file(const char *name, const char *text)
{
	static char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd == -1 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		exit(1);
	close(fd);
	return (path);
}

static int
parse(const char *path, int *code)
{
	said[0] = '\0';
	lines = malformed = 0;
	*code = -1;
	memset(&c, 0x55, sizeof(c));
	return (conf_parse(path, &c, say, NULL, code));
}

static void
faults(void)
{
	static const struct { const char *name, *text; unsigned int line; const char *what; } t[] = {
		{ "an unknown key", "foo = 1\n" WITH(""), 1, "foo" },
		{ "an unknown key in a service", WITH("  baner = \"x\"\n"), 4, "baner" },
		{ "an unknown key in a section", WITH("  limit {\n    lines = 5\n  }\n"), 5, "lines" },
		{ "a time without a unit", WITH("  timeout { idle = 30 }\n"), 4, "30\": expected a time" },
		{ "a time in an unknown unit", WITH("  timeout {\n    idle = \"5 parsecs\"\n  }\n"), 5, "parsecs\": expected a time" },
		{ "a time that is too long", WITH("  timeout { idle = \"2000h\" }\n"), 4, "expected a time" },
		{ "a size in an unknown unit", WITH("  limit { line = \"5T\" }\n"), 4, "5T\": expected a number" },
		{ "a negative number", WITH("  warm = -1\n"), 4, "-1\": expected a number" },
		{ "an empty number", WITH("  limit { errors = \"\" }\n"), 4, "expected a number" },
		{ "a number beyond all", WITH("  warm = 99999999999999999999999\n"), 4, "expected a number" },
		{ "no truth value", WITH("  auth-plaintext = maybe\n"), 4, "boolean" },
		{ "an unknown policy", WITH("  in-doubt = guess\n"), 4, "guess\": expected replay or tempfail" },
		{ "an unknown policy for newlines", WITH("  bare-newline = keep\n"), 4, "keep\": expected reject or normalize" },
		{ "an interval that is too short", WITH("  health { interval = \"99ms\" }\n"), 4, "expected 100ms or more" },
		{ "a banner that is no host name", WITH("  banner = \"a b\"\n"), 4, "expected a host name" },
		{ "a banner of two lines", WITH("  banner = \"a\nb\"\n"), 5, "expected a host name" },
		{ "a state directory without a name", "\nstate-dir = \"${BMR_NOT_SET}\"\n" WITH(""), 2, "state-dir = \"\": expected a path" },
		{ "a run directory without a name", "run-dir = \"\"\n" WITH(""), 1, "run-dir = \"\": expected a path" },
		{ "a socket without a name", "\nsocket = \"\"\n" WITH(""), 2, "expected a path" },
		{ "too many listeners", "\nlisteners = 9\n" WITH(""), 2, "expected a number from 1 to 8" },
		{ "a user without a name", "\nuser = \"\"\n" WITH(""), 2, "no such user" },
		{ "a group that there is none of", "\n\ngroup = \"no-group-at-all\"\n" WITH(""), 3, "no such group" },
		{ "a group without a user", "\ngroup = \"root\"\n" WITH(""), 2, "expected together with user" },
		{ "a key of a ticket that lives for no time", "tls { ticket-life = \"0s\" }\n" WITH(""), 1, "expected 1s or more" },
		{ "a master user alone", WITH("  master-user = \"x\"\n"), 5, "together" },
		{ "two blocks of TLS", "tls { }\ntls { }\n" WITH(""), 2, "expected once" },
		{ "a word that is no protocol", WITH("  protocol = \"imap\"\n"), 4, "expected smtp, pop3 or imap4" },
		{ "a release directory that is not there", "release-dir = \"/nonexistent\"\n" WITH(""), 1, "expected the directory with" },
		{ "a socket in a directory that is not there", "\nsocket = \"/nonexistent/s\"\n" WITH(""), 2, "expected a directory" },
		{ "a service without listen", "service smtp {\n" BACKEND "}\n", 3, "expected listen" },
		{ "a service without backend", "service smtp {\n" LISTEN "}\n", 3, "expected backend" },
		{ "a listen that is a name", "service smtp {\n  listen = {\"localhost:25\"}\n" BACKEND "}\n", 2, "expected address:port" },
		{ "a listen without a port", "service smtp {\n  listen = {\"127.0.0.1\"}\n" BACKEND "}\n", 2, "expected address:port" },
		{ "port 0", "service smtp {\n  listen = {\"127.0.0.1:0\"}\n" BACKEND "}\n", 2, "expected address:port" },
		{ "port 65536", "service smtp {\n  listen = {\n\"127.0.0.1:65536\"}\n" BACKEND "}\n", 3, "expected address:port" },
		{ "IPv6 without brackets", "service smtp {\n  listen = {\"::1:25\"}\n" BACKEND "}\n", 2, "expected address:port" },
		{ "the same listen twice", WITH("") "service b {\n  protocol = smtp\n" LISTEN BACKEND "}\n", 7, "twice" },
		{ "a backend without an address", "service smtp {\n" LISTEN "  backend a { }\n}\n", 3, "expected address" },
		{ "a backend's address without a port", "service smtp {\n" LISTEN "  backend a { address = mx }\n}\n", 3, "expected host:port" },
		{ "weight 0", "service smtp {\n" LISTEN "  backend a {\n    address = \"mx:25\"\n    weight = 0\n  }\n}\n", 5, "weight = \"0\": expected 1 or more" },
		{ "a backend twice", WITH(BACKEND), 4, "duplicate title 'a'" },
		{ "a backend's name that is too long", WITH("  backend abcdefghijabcdefghijabcdefghijab { address = \"mx:25\" }\n"), 4,
		    "at most 31 octets" },
		{ "a service twice", WITH("") WITH(""), 5, "duplicate title 'smtp'" },
		{ "no service", "state-dir = \"/x\"\n", 0, "expected service" },
		{ "a service without a name", "service {\n" LISTEN BACKEND "}\n", 1, "title" },
		{ "an empty protocol", "service \"\" {\n" LISTEN BACKEND "}\n", 4, "protocol \"\"" },
		{ "a protocol that leaves the directory", "service \"../x\" {\n" LISTEN BACKEND "}\n", 4, "protocol \"../x\"" },
		{ "a protocol that is another worker", "service admin {\n" LISTEN BACKEND "}\n", 4, "protocol \"admin\"" },
		{ "a protocol that there is none of", "service imap {\n" LISTEN BACKEND "}\n", 4, "protocol \"imap\": expected smtp, pop3 or imap4" },
		{ "a service's name with a slash", "service \"a/b\" {\n  protocol = smtp\n" LISTEN BACKEND "}\n", 5, "without blanks and slashes" },
		{ "a backend's name with a blank", WITH("  backend \"a b\" { address = \"mx:25\" }\n"), 4, "without blanks and slashes" },
		{ "a backend without a name", WITH("  backend \"\" { address = \"mx:25\" }\n"), 4, "without blanks and slashes" },
		{ "a journal that cannot be mapped", WITH("  limit { journal = \"4G\" }\n"), 4, "at most 1G" },
		{ "a journal that holds no IMAP4", "service imap4 {\n" LISTEN BACKEND "  limit { journal = \"291k\" }\n}\n", 4, "at least 292k" },
		{ "a socket whose path is too long", "socket = \"" LONG "\"\n" WITH(""), 0, "at most 107 octets" },
		{ "a run-dir whose path is too long", "run-dir = \"" LONG "\"\n" WITH(""), 0, "at most 107 octets" },
		{ "an unknown user", "user = \"nobody-at-all\"\n" WITH(""), 1, "no such user" },
		{ "no listeners", "listeners = 0\n" WITH(""), 0, "expected a number from 1 to 8" },
		{ "too many listeners", "listeners = 9\n" WITH(""), 0, "expected a number from 1 to 8" },
		{ "listeners that are no number", "listeners = many\n" WITH(""), 0, "expected a number from 1 to 8" },
		{ "a group alone", "group = root\n" WITH(""), 0, "expected together with user" },
		{ "a file cut short in a service", "service smtp {\n" LISTEN BACKEND, 0, "end of file" },
		{ "a file cut short in a section", WITH("  limit {\n    line = 512\n"), 0, "end of file" },
		{ "a file cut short in a comment", WITH("") "/* more\n", 0, "end of file" },
		{ "a file cut short in a string", WITH("  banner = \"x\n"), 0, "end of file" },
		{ "a brace too many", WITH("") "}\n", 5, "brace" },
		{ "an unknown policy for TLS", WITH("  tls {\n    policy = \"old\"\n  }\n"), 5, "old\": expected intermediate or modern" },
		{ "a certificate that is nowhere", WITH("  tls {\n    certificates = {\"x\"}\n  }\n"), 0, "expected the name of a certificate" },
		{ "a certificate without files", "certificate x { }\n" WITH(""), 1, "expected chain" },
		{ "a certificate whose file is missing", "certificate x {\n  chain = \"/nonexistent\"\n  key = \"/nonexistent\"\n}\n" WITH(""), 0,
		    "No such file" },
		{ "TLS without a certificate", WITH("  listen-tls = {\"127.0.0.1:995\"}\n"), 4, "expected tls { certificates" },
		{ "a listener without an address", WITH("  listener x { }\n"), 4, "expected address" },
		{ "a listener of an unknown kind", WITH("  listener x {\n    address = \"127.0.0.1:1\"\n    tls = \"yes\"\n  }\n"), 6,
		    "expected none, starttls or implicit" },
		{ "a network that is none", WITH("  listener x {\n    address = \"127.0.0.1:1\"\n    proxy-from = {\"10.0.0.0/33\"}\n  }\n"), 6,
		    "expected a network" },
		{ "client certificates without their issuers", WITH("  tls {\n    client-certificates = \"required\"\n  }\n"), 0, "expected client-ca" },
		{ "a pin that is too short", WITH("  backend b {\n    address = \"mx:25\"\n    tls {\n      pin = \"00ff\"\n    }\n  }\n"), 7,
		    "expected the SHA-256" },
		{ "a backend's TLS of an unknown kind", WITH("  backend b {\n    address = \"mx:25\"\n    tls {\n      mode = \"on\"\n    }\n  }\n"), 7,
		    "expected none, starttls or implicit" },
		{ "a backend's TLS for no name", WITH("  backend b {\n    address = \"mx:25\"\n    tls {\n      name = \"\"\n    }\n  }\n"), 8, "expected a host name" },
		{ "an unknown version of PROXY", WITH("  backend b {\n    address = \"mx:25\"\n    proxy = \"v3\"\n  }\n"), 6, "expected none, v1 or v2" },
		{ "a master user without a password", WITH("  master-user = \"gw\"\n"), 0, "together" },
		{ "a fault after comments", "# x\n// y # z\n/* \" */ # '\n/*\n # */\nfoo = 1\n" WITH(""), 6, "foo" },
		{ "a fault after what only looks like comments", "state-dir = \"# // \\\" /* \"\nrun-dir = '# \\' /* '\nsocket = /a//b/*\n"
		    "journal-format = \"newest${#}\" # x\nfoo = 1\n" WITH(""), 5, "foo" },
		{ "a fault after comments in a section", WITH("  # x\n  limit { # y\n    line = 1 # z\n    lines = 5 /* a */\n  }\n"), 7, "lines" },
		{ "an include without a name", "include()\n" WITH(""), 1, "one argument" },
		{ "an include of two", "\ninclude(\"a\", \"b\")\n" WITH(""), 2, "one argument" },
	};
	int code;

	for (size_t i = 0; i < N(t); i++) {
		const char *path = write_file("bmr.conf", t[i].text);
		char at[100];
		int r = parse(path, &code);

		snprintf(at, sizeof(at), "%s:%u: ", path, t[i].line);
		if (!ok(r == -1 && code == EX_CONFIG && lines > 0 && malformed == 0 && strstr(said, t[i].what) != NULL &&
		    (t[i].line == 0 || strstr(said, at) != NULL), "%s", t[i].name))
			printf("# result %d, code %d, %d malformed, wanted line %u:\n# %s\n", r, code, malformed, t[i].line, said);
	}
}

static void
codes(void)
{
	char path[64];
	int code;

	snprintf(path, sizeof(path), "%s/none.conf", dir);
	ok(parse(path, &code) == -1 && code == EX_NOINPUT && lines == 1, "a missing file: one line, exit 66");
	ok(parse(dir, &code) == -1 && code == EX_NOINPUT && lines == 1, "a directory: one line, exit 66");
	if (geteuid() != 0) {
		const char *p = write_file("secret.conf", WITH(""));

		(void)chmod(p, 0);
		ok(parse(p, &code) == -1 && code == EX_NOPERM && lines == 1, "an unreadable file: one line, exit 77");
	}
	ok(parse(write_file("bmr.conf", "foo = 1\n" WITH("  warm = x\n  in-doubt = y\n")), &code) == -1 && code == EX_CONFIG,
	    "a bad file: exit 78");
}

static void
good(void)
{
	const struct conf_service *s;
	int code, fd;
	void *p;

	ok(parse(write_file("bmr.conf", WITH("")), &code) == 0 && lines == 0, "the shortest good file");
	s = conf_service(&c, "smtp");
	ok(c.nservice == 1 && s != NULL && strcmp(s->protocol, "smtp") == 0 && s->nlisten == 1 && s->nbackend == 1 && s->listen[0].line == 2 &&
	    s->backend[0].line == 3 && s->listen[0].port == 2525 && strcmp(s->backend[0].host, "127.0.0.2") == 0,
	    "its service, with lines");
	ok(s->backend[0].xclient && !s->backend[0].drained && s->backend[0].weight == 1 && s->fall == 3 && s->rise == 2 &&
	    s->probe_ms == 5000 && !s->doubt_tempfail && s->limits.line == 0 && s->times.idle == 0, "and defaults");
	ok(strcmp(c.socket, "/run/bmr/bmr.sock") == 0 && !c.drop && conf_service(&c, "pop3") == NULL, "of the whole");
	fd = conf_seal(&c);
	p = mmap(NULL, sizeof(c), PROT_READ, MAP_SHARED, fd, 0);
	ok(fd != -1 && p != MAP_FAILED && conf_image(p, sizeof(c)) != NULL && memcmp(p, &c, sizeof(c)) == 0 &&
	    write(fd, "x", 1) == -1 && ftruncate(fd, 0) == -1, "the image is the same, and sealed");
	ok(conf_image(p, sizeof(c) - 1) == NULL && conf_image(NULL, sizeof(c)) == NULL, "a short image is none");
	if (p != MAP_FAILED)
		munmap(p, sizeof(c));
	close(fd);
	ok(parse(write_file("bmr.conf", "run-dir = \"/r\" # comment {\n// { \"\n/* { ' */\nservice mail {\n  protocol = pop3\n"
	    "  listen = { \"[::1]:110\", \"*:111\" }\n  backend b {\n    address = \"[2001:db8::1]:110\"\n    drained = true\n    xclient = no\n"
	    "    max-sessions = 2k\n  }\n  timeout { idle = \"2h\" hold = 1500ms }\n  limit { message = 3G maildrop = 64K }\n"
	    "  in-doubt = tempfail\n}\n"), &code) == 0 && lines == 0, "one with everything");
	s = conf_service(&c, "mail");
	ok(s != NULL && strcmp(s->protocol, "pop3") == 0 && strcmp(s->listen[0].address, "::1") == 0 && s->listen[1].port == 111 &&
	    s->backend[0].drained && !s->backend[0].xclient && s->backend[0].max_sessions == 2048 && s->times.idle == 7200000 &&
	    s->times.hold == 1500 && s->limits.message == UINT64_C(3) << 30 && s->limits.maildrop == 65536 && s->doubt_tempfail &&
	    strcmp(c.socket, "/r/bmr.sock") == 0 && strcmp(s->backend[0].host, "2001:db8::1") == 0, "units, addresses, policies");
}

/* As a bmrd that is reloaded again and again: what was wrong with a file is forgotten with it. */
static void
again(void)
{
	char inc[64], text[200];
	int code, bad = 0;

	snprintf(inc, sizeof(inc), "%s", write_file("inc.conf", "foo = 1\n"));
	snprintf(text, sizeof(text), "include(\"%s\")\n" WITH(""), inc);
	for (int i = 0; i < 30; i++)
		bad += parse(write_file("bmr.conf", text), &code) != -1 || strncmp(said, inc, strlen(inc)) != 0;
	ok(bad == 0, "a fault in an included file is told with that file's name, 30 times");
	bad += parse(write_file("bmr.conf", WITH("  banner = \"x\n")), &code) != -1;
	bad += parse(write_file("bmr.conf", WITH("") "/* x\n"), &code) != -1;
	(void)write_file("inc.conf", "state-dir = \"/included\"\n");
	ok(bad == 0 && parse(write_file("bmr.conf", text), &code) == 0 && strcmp(c.state_dir, "/included") == 0,
	    "and when that is mended, all is good");
}

/* What is wrong with an include is told where it stands, in whichever file that is, and nothing waits or loops. */
static void
included(const char *name, const char *what, const char *in, unsigned int line, int want)
{
	char at[100], path[64];
	int code, r;

	snprintf(at, sizeof(at), "%s/%s:%u: include ", dir, in, line);
	snprintf(path, sizeof(path), "%s/bmr.conf", dir);
	r = parse(path, &code);
	if (!ok(r == -1 && code == want && lines == 1 && strncmp(said, at, strlen(at)) == 0 && strstr(said, what) != NULL,
	    "an include that %s", name))
		printf("# result %d, code %d, wanted %d and %s:\n# %s\n", r, code, want, at, said);
}

static void
includes(void)
{
	char main_text[300], text[200], path[64], name[16];
	int code;

	snprintf(main_text, sizeof(main_text), "# x\n\ninclude(\"%s/inc.conf\")\n" WITH(""), dir);
	(void)write_file("bmr.conf", main_text);
	snprintf(path, sizeof(path), "%s/inc.conf", dir);
	(void)unlink(path);
	included("is missing", "No such file", "bmr.conf", 3, EX_NOINPUT);
	(void)mkdir(path, 0700);
	included("is a directory", "Is a directory", "bmr.conf", 3, EX_NOINPUT);
	(void)rmdir(path);
	(void)mkfifo(path, 0600);
	included("would never come", "regular file", "bmr.conf", 3, EX_NOINPUT);
	(void)unlink(path);
	if (geteuid() != 0) {
		(void)chmod(write_file("inc.conf", ""), 0);
		included("must not be read", "Permission denied", "bmr.conf", 3, EX_NOPERM);
		(void)unlink(path);
	}
	snprintf(text, sizeof(text), "\ninclude(\"%s/none.conf\")\n", dir);
	(void)write_file("inc.conf", text);
	included("includes what is missing", "none.conf\": No such file", "inc.conf", 2, EX_NOINPUT);
	snprintf(text, sizeof(text), "include(\"%s\")\n", path);
	(void)write_file("inc.conf", text);
	included("includes itself", "loop", "inc.conf", 1, EX_CONFIG);
	snprintf(text, sizeof(text), "include(\"%s/bmr.conf\")\n", dir);
	(void)write_file("inc.conf", text);
	included("includes the first", "loop", "inc.conf", 1, EX_CONFIG);
	(void)unlink(path);
	snprintf(text, sizeof(text), "%s/bmr.conf", dir);
	if (symlink(text, path) == -1)
		exit(1);
	included("is the file itself by another name", "loop", "bmr.conf", 3, EX_CONFIG);
	(void)unlink(path);
	for (int i = 1; i <= 10; i++) {
		snprintf(name, sizeof(name), i == 1 ? "inc.conf" : "%d.conf", i);
		snprintf(text, sizeof(text), i == 10 ? "" : "include(\"%s/%d.conf\")\n", dir, i + 1);
		(void)write_file(name, text);
	}
	included("is the tenth within another", "nested too deeply", "9.conf", 1, EX_CONFIG);
	(void)write_file("9.conf", "");
	snprintf(path, sizeof(path), "%s/bmr.conf", dir);
	ok(parse(path, &code) == 0 && lines == 0, "and nine are good");
	snprintf(main_text, sizeof(main_text), "include(\"%s/9.conf\")\ninclude(\"%s/9.conf\")\n" WITH(""), dir, dir);
	ok(parse(write_file("bmr.conf", main_text), &code) == 0 && lines == 0, "one file twice, one after the other, is no loop");
	for (int i = 2; i <= 10; i++) {
		snprintf(path, sizeof(path), "%s/%d.conf", dir, i);
		(void)unlink(path);
	}
}

int
main(void)
{
	char cmd[64];

	if (mkdtemp(dir) == NULL)
		return (1);
	faults();
	codes();
	good();
	again();
	includes();
	for (size_t i = 0; i < 4; i++) {
		static const char *const name[] = { "bmr.conf", "inc.conf", "secret.conf", "" };

		snprintf(cmd, sizeof(cmd), "%s/%s", dir, name[i]);
		(void)(name[i][0] != '\0' ? unlink(cmd) : rmdir(dir));
	}
	return (done_testing());
}
