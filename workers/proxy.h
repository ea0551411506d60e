/* proxy - the header of the PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt); pure */
#ifndef WORKERS_PROXY_H
#define WORKERS_PROXY_H

#include "supervisor/buf.h"
#include "workers/behaviour.h"

enum { PROXY_MAX = 2048 };	/* octets of a header that is accepted */

struct ends {				/* of a client's connection; numeric, IPv4 as a.b.c.d */
	char		 addr[46], local[46];
	uint16_t	 port, local_port;
	bool		 v6;
};

/* Reads a header from the front of in: 1 and its length in *used, 0 more is needed, -1 there is none. ends and tls are
 * changed only by what the header says: a LOCAL or UNKNOWN one leaves them as they are. */
int	proxy_parse(struct bytes in, size_t *used, struct ends *, struct tlsinfo *);
/* Writes one of that version; peer.addr empty: a connection of the gateway's own. */
void	proxy_compose(struct out *, int version, const struct peerinfo *, const struct tlsinfo *);

#endif
