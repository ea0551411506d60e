/* proxy - see proxy.h; pure */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "workers/proxy.h"

enum { V1_MAX = 107, V2_HEAD = 16, TLV_ALPN = 1, TLV_AUTHORITY = 2, TLV_SSL = 0x20, TLV_SSL_VERSION = 0x21, TLV_SSL_CN = 0x22,
	TLV_SSL_CIPHER = 0x23, CLIENT_SSL = 1, CLIENT_CERT_CONN = 2 };
static const uint8_t signature[12] = "\r\n\r\n\0\r\nQUIT\n";

/* --- reading ---------------------------------------------------------------------------------------------------------- */

static bool
take_address(struct bytes text, int family, char dst[46])
{
	uint8_t a[16];

	bytes_text(text, dst, 46);
	return (text.n < 46 && inet_pton(family, dst, a) == 1 && inet_ntop(family, a, dst, 46) != NULL);
}

/* An IPv4 client of a proxy that listens on an IPv6 socket may come as ::ffff:192.0.2.1. He is the one who comes as 192.0.2.1. */
static void
unmap(struct ends *e)
{
	char *text[2] = { e->addr, e->local };
	struct in6_addr a[2];

	if (!e->v6)
		return;
	for (int i = 0; i < 2; i++)
		if (inet_pton(AF_INET6, text[i], &a[i]) != 1 || !IN6_IS_ADDR_V4MAPPED(&a[i]))
			return;
	for (int i = 0; i < 2; i++)
		inet_ntop(AF_INET, &a[i].s6_addr[12], text[i], sizeof(e->addr));
	e->v6 = false;
}

static int
parse_v1(struct bytes in, size_t *used, struct ends *e)
{
	const uint8_t *lf = memchr(in.p, '\n', in.n < V1_MAX ? in.n : V1_MAX);
	struct bytes line, word, src, dst;
	struct ends n = { .v6 = false };
	uint64_t port, local;

	if (lf == NULL)
		return (in.n >= V1_MAX ? -1 : 0);
	*used = (size_t)(lf - in.p) + 1;
	if (*used < 2 || lf[-1] != '\r')
		return (-1);
	line = bytes(in.p, *used - 2);
	(void)bytes_token(&line, ' ');
	word = bytes_token(&line, ' ');
	if (bytes_eq(word, BYTES("UNKNOWN")))
		return (1);
	n.v6 = bytes_eq(word, BYTES("TCP6"));
	if (!n.v6 && !bytes_eq(word, BYTES("TCP4")))
		return (-1);
	src = bytes_token(&line, ' ');
	dst = bytes_token(&line, ' ');
	word = bytes_token(&line, ' ');
	if (!take_address(src, n.v6 ? AF_INET6 : AF_INET, n.addr) || !take_address(dst, n.v6 ? AF_INET6 : AF_INET, n.local) ||
	    bytes_num(word, 0, 65535, &port) == -1 || bytes_num(line, 0, 65535, &local) == -1)
		return (-1);
	n.port = (uint16_t)port;
	n.local_port = (uint16_t)local;
	unmap(&n);
	*e = n;
	return (1);
}

static uint16_t
be16(const uint8_t *p)
{
	return ((uint16_t)(p[0] << 8 | p[1]));
}

/* One type-length-value from the front; false: no whole one is left. */
static bool
tlv(struct bytes *in, uint8_t *type, struct bytes *value)
{
	size_t n;

	if (in->n < 3 || in->n - 3 < (n = be16(in->p + 1)))
		return (false);
	*type = in->p[0];
	*value = bytes(in->p + 3, n);
	*in = bytes_cut(*in, n + 3);
	return (true);
}

/* What a trusted proxy says of the TLS that it has ended itself. */
static void
take_ssl(struct bytes v, struct tlsinfo *t)
{
	struct bytes value;
	uint8_t type;

	if (v.n < 5 || (v.p[0] & CLIENT_SSL) == 0)
		return;
	memccpy(t->version, "TLS", 0, sizeof(t->version));
	v = bytes_cut(v, 5);
	while (tlv(&v, &type, &value)) {
		if (type == TLV_SSL_VERSION && value.n > 0)
			bytes_text(value, t->version, sizeof(t->version));
		else if (type == TLV_SSL_CIPHER)
			bytes_text(value, t->cipher, sizeof(t->cipher));
	}
}

static int
parse_v2(struct bytes in, size_t *used, struct ends *e, struct tlsinfo *t)
{
	struct ends n = { .v6 = false };
	struct bytes rest, value;
	size_t len, alen;
	uint8_t type;

	if (in.n < V2_HEAD)
		return (0);
	len = be16(in.p + 14);
	if (in.p[12] >> 4 != 2 || (in.p[12] & 15) > 1 || len > PROXY_MAX - V2_HEAD)
		return (-1);
	if (in.n < V2_HEAD + len)
		return (0);
	*used = V2_HEAD + len;
	if ((in.p[12] & 15) == 0 || (in.p[13] != 0x11 && in.p[13] != 0x21))
		return (1);		/* LOCAL, or no TCP that we know: the connection's own addresses count */
	n.v6 = in.p[13] == 0x21;
	alen = n.v6 ? 16 : 4;
	if (len < 2 * alen + 4)
		return (-1);
	rest = bytes(in.p + V2_HEAD, len);
	inet_ntop(n.v6 ? AF_INET6 : AF_INET, rest.p, n.addr, sizeof(n.addr));
	inet_ntop(n.v6 ? AF_INET6 : AF_INET, rest.p + alen, n.local, sizeof(n.local));
	n.port = be16(rest.p + 2 * alen);
	n.local_port = be16(rest.p + 2 * alen + 2);
	rest = bytes_cut(rest, 2 * alen + 4);
	while (tlv(&rest, &type, &value)) {
		if (type == TLV_AUTHORITY)
			bytes_text(value, t->name, sizeof(t->name));
		else if (type == TLV_SSL)
			take_ssl(value, t);
	}
	unmap(&n);
	*e = n;
	return (1);
}

int
proxy_parse(struct bytes in, size_t *used, struct ends *e, struct tlsinfo *t)
{
	size_t n = in.n < sizeof(signature) ? in.n : sizeof(signature);

	if (in.n == 0)
		return (0);
	if (memcmp(in.p, signature, n) == 0)
		return (n < sizeof(signature) ? 0 : parse_v2(in, used, e, t));
	if (memcmp(in.p, "PROXY ", n < 6 ? n : 6) == 0)
		return (n < 6 ? 0 : parse_v1(in, used, e));
	return (-1);
}

/* --- writing ---------------------------------------------------------------------------------------------------------- */

static void
put16(struct out *o, size_t n)
{
	uint8_t b[2] = { (uint8_t)(n >> 8), (uint8_t)n };

	out_put(o, bytes(b, 2));
}

static void
put_tlv(struct out *o, uint8_t type, struct bytes value)
{
	out_put(o, bytes(&type, 1));
	put16(o, value.n);
	out_put(o, value);
}

static void
put_ssl(struct out *o, const struct tlsinfo *t)
{
	uint8_t space[512] = { (uint8_t)(CLIENT_SSL | (t->subject[0] != '\0' ? CLIENT_CERT_CONN : 0)), 0, 0, 0, 0 };
	struct out v = { space, 5, sizeof(space), false };	/* verify 0: none was given, or it was good */

	put_tlv(&v, TLV_SSL_VERSION, bytes_str(t->version));
	if (t->user[0] != '\0')
		put_tlv(&v, TLV_SSL_CN, bytes_str(t->user));
	put_tlv(&v, TLV_SSL_CIPHER, bytes_str(t->cipher));
	put_tlv(o, TLV_SSL, bytes(v.p, v.len));
}

static bool
same_family(const struct peerinfo *p, uint8_t a[2][16])
{
	int f = p->v6 ? AF_INET6 : AF_INET;

	return (p->addr[0] != '\0' && inet_pton(f, p->addr, a[0]) == 1 && inet_pton(f, p->local, a[1]) == 1);
}

static void
compose_v2(struct out *o, const struct peerinfo *p, const struct tlsinfo *t)
{
	uint8_t space[1024], a[2][16], head[2] = { 0x20, 0 };
	struct out body = { space, 0, sizeof(space), false };
	bool known = same_family(p, a);

	if (known) {
		head[0] = 0x21;
		head[1] = p->v6 ? 0x21 : 0x11;
		out_put(&body, bytes(a[0], p->v6 ? 16 : 4));
		out_put(&body, bytes(a[1], p->v6 ? 16 : 4));
		put16(&body, p->port);
		put16(&body, p->local_port);
		if (t->name[0] != '\0')
			put_tlv(&body, TLV_AUTHORITY, bytes_str(t->name));
		if (t->version[0] != '\0')
			put_ssl(&body, t);
	}
	out_put(o, bytes(signature, sizeof(signature)));
	out_put(o, bytes(head, 2));
	put16(o, body.len);
	out_put(o, bytes(body.p, body.len));
}

void
proxy_compose(struct out *o, int version, const struct peerinfo *p, const struct tlsinfo *t)
{
	uint8_t a[2][16];

	if (version == 2)
		compose_v2(o, p, t);
	else if (same_family(p, a))
		out_fmt(o, "PROXY TCP%c %s %s %u %u\r\n", p->v6 ? '6' : '4', p->addr, p->local, p->port, p->local_port);
	else
		out_str(o, "PROXY UNKNOWN\r\n");
}
