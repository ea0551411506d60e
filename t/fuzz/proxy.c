/* proxy - a PROXY header is taken whole, wanted more of, or refused; never more is used than there is; what is written is read */
/* LINK: workers/proxy.c supervisor/buf.c */
#include <stdlib.h>

#include "workers/proxy.h"

int	LLVMFuzzerTestOneInput(const uint8_t *, size_t);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct ends e = { .addr = "own" }, again = { .addr = "" };
	struct tlsinfo t = { .resumed = 0 }, u = { .resumed = 0 };
	struct peerinfo p = { .port = 0 };
	uint8_t space[1024];
	struct out o = { space, 0, sizeof(space), false };
	size_t used = 0;
	int r = proxy_parse(bytes(data, n), &used, &e, &t);

	if (r == 1 && (used == 0 || used > n))
		abort();
	if (r == 0 && n >= PROXY_MAX)
		abort();
	if (r != 1 || strcmp(e.addr, "own") == 0)
		return (0);
	memcpy(p.addr, e.addr, sizeof(p.addr));
	memcpy(p.local, e.local, sizeof(p.local));
	p.port = e.port;
	p.local_port = e.local_port;
	p.v6 = e.v6;
	proxy_compose(&o, n % 2 == 0 ? 1 : 2, &p, &t);
	if (o.full || proxy_parse(bytes(space, o.len), &used, &again, &u) != 1 || used != o.len || strcmp(again.addr, e.addr) != 0 ||
	    again.port != e.port)
		abort();
	return (0);
}
