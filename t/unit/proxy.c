/* proxy - headers of both versions read at every cut, written and read again; all that is none is refused */
/* LINK: workers/proxy.c supervisor/buf.c */
#include <stdlib.h>

#include "t/lib/tap.h"
#include "workers/proxy.h"

static struct ends e;
static struct tlsinfo t;

static int
parse(const void *p, size_t n, size_t *used)
{
	uint8_t *exact = malloc(n + 1);		/* so that a sanitizer sees a read beyond it */
	int r;

	*used = 0;
	e = (struct ends){ .addr = "own", .port = 1 };
	t = (struct tlsinfo){ 0 };
	memcpy(exact, p, n);
	r = proxy_parse(bytes(exact, n), used, &e, &t);
	free(exact);
	return (r);
}

/* Whole it is taken, cut anywhere it wants more, and octets behind it are left. */
static void
whole(const void *p, size_t n, const char *addr, uint16_t port, const char *name)
{
	uint8_t more[2048];
	size_t used, cuts = 0;

	for (size_t i = 0; i < n; i++)
		cuts += parse(p, i, &used) == 0;
	ok(cuts == n, "%s: every cut wants more", name);
	memcpy(more, p, n);
	memcpy(more + n, "\x16\x03", 2);
	ok(parse(more, n + 2, &used) == 1 && used == n, "%s: exactly the header is taken", name);
	ok(strcmp(e.addr, addr) == 0 && e.port == port, "%s: %s port %u", name, e.addr, e.port);
}

static void
written(int version, bool v6)
{
	struct peerinfo p = { .addr = "192.0.2.7", .local = "192.0.2.1", .port = 4711, .local_port = 993 };
	struct tlsinfo tls = { .version = "TLSv1.3", .cipher = "TLS_AES_128_GCM_SHA256", .name = "mail.test", .user = "alice",
	    .subject = "/CN=alice" };
	uint8_t space[1024];
	struct out o = { space, 0, sizeof(space), false };

	if (v6) {
		p.v6 = true;
		memcpy(p.addr, "2001:db8::7", 12);
		memcpy(p.local, "2001:db8::1", 12);
	}
	proxy_compose(&o, version, &p, &tls);
	whole(o.p, o.len, p.addr, 4711, v6 ? "IPv6" : "IPv4");
	ok(strcmp(e.local, p.local) == 0 && e.local_port == 993 && e.v6 == v6, "the other end too");
	if (version == 2)
		ok(strcmp(t.version, "TLSv1.3") == 0 && strcmp(t.cipher, tls.cipher) == 0 && strcmp(t.name, "mail.test") == 0,
		    "and what TLS came to");
	o.len = 0;
	proxy_compose(&o, version, &(struct peerinfo){ .banner = "x" }, &(struct tlsinfo){ .spare = { 0 } });
	whole(o.p, o.len, "own", 1, "a connection of our own");
}

int
main(void)
{
	static const struct { const char *p; size_t n; } none[] = {
#define S(s) { s, sizeof(s) - 1 }
		S("EHLO x\r\n"), S("\x16\x03\x01"), S("PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n"), S("PROXY TCP4 a b 1 2\r\n"),
		S("PROXY TCP4 192.0.2.7 192.0.2.1 1 65536\r\n"), S("PROXY TCP6 192.0.2.7 192.0.2.1 1 2\r\n"), S("PROXY UDP4 1 2 3 4\r\n"),
		S("PROXY UNKNOWN\n"), S("PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n"), S("PROXY \n"),
		S("\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c............"), S("\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0c............"),
		S("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0b..........."), S("\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"),
	};
	char longest[200];
	size_t used;
	static const char mapped[] = "\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\2\7"
	    "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\2\1\x12\x67\0\x6e";

	whole("PROXY TCP4 192.0.2.7 192.0.2.1 56324 110\r\n", 42, "192.0.2.7", 56324, "version 1");
	whole("PROXY UNKNOWN\r\n", 15, "own", 1, "unknown");
	whole("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:c000:201 4711 110\r\n", 54, "192.0.2.7", 4711, "version 1, IPv4 mapped");
	ok(!e.v6 && strcmp(e.local, "192.0.2.1") == 0, "both ends are IPv4");
	whole(mapped, sizeof(mapped) - 1, "192.0.2.7", 4711, "version 2, IPv4 mapped");
	ok(!e.v6 && strcmp(e.local, "192.0.2.1") == 0, "both ends are IPv4");
	whole("PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 4711 110\r\n", 50, "::ffff:192.0.2.7", 4711, "one end mapped");
	ok(e.v6, "stays IPv6, since both ends are of one family");
	written(1, false);
	written(1, true);
	written(2, false);
	written(2, true);
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
		ok(parse(none[i].p, none[i].n, &used) == -1 && strcmp(e.addr, "own") == 0, "none: case %zu", i);
	memset(longest, 'x', sizeof(longest));
	memcpy(longest, "PROXY ", 6);
	ok(parse(longest, 106, &used) == 0 && parse(longest, 107, &used) == -1, "a line without end is no header");
	return (done_testing());
}
