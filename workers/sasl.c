/* sasl - see sasl.h; pure */
#include "workers/sasl.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int
value(uint8_t c)
{
	const char *at = c != '\0' ? strchr(alphabet, c) : NULL;

	return (at == NULL ? -1 : (int)(at - alphabet));
}

int
sasl_decode(struct bytes b, uint8_t *dst, size_t size)
{
	size_t n = 0, pad = 0;
	uint32_t acc = 0;

	if (b.n % 4 != 0 || b.n / 4 * 3 > size + 2)
		return (-1);
	for (size_t i = 0; i < b.n; i++) {
		int v = value(b.p[i]);

		if (b.p[i] == '=' && i + 2 >= b.n)
			pad++, v = 0;
		else if (v == -1 || pad > 0)
			return (-1);
		acc = acc << 6 | (uint32_t)v;
		if (i % 4 != 3)
			continue;
		for (size_t k = 0; k < 3 - pad; k++) {
			if (n == size)
				return (-1);
			dst[n++] = (uint8_t)(acc >> (16 - 8 * k));
		}
		acc = 0;
	}
	return ((int)n);
}

int
sasl_encode(struct bytes b, uint8_t *dst, size_t size)
{
	size_t n = 0;

	if ((b.n + 2) / 3 * 4 > size)
		return (-1);
	for (size_t i = 0; i < b.n; i += 3) {
		size_t k = b.n - i < 3 ? b.n - i : 3;
		uint32_t acc = (uint32_t)b.p[i] << 16;

		if (k > 1)
			acc |= (uint32_t)b.p[i + 1] << 8;
		if (k > 2)
			acc |= b.p[i + 2];
		dst[n++] = (uint8_t)alphabet[acc >> 18];
		dst[n++] = (uint8_t)alphabet[acc >> 12 & 63];
		dst[n++] = k > 1 ? (uint8_t)alphabet[acc >> 6 & 63] : '=';
		dst[n++] = k > 2 ? (uint8_t)alphabet[acc & 63] : '=';
	}
	return ((int)n);
}

int
sasl_plain(struct bytes m, struct bytes *authzid, struct bytes *authcid, struct bytes *password)
{
	const uint8_t *a = m.n > 0 ? memchr(m.p, 0, m.n) : NULL, *b;
	size_t left;

	if (a == NULL)
		return (-1);
	left = m.n - (size_t)(a + 1 - m.p);
	b = left > 0 ? memchr(a + 1, 0, left) : NULL;
	if (b == NULL)
		return (-1);
	*authzid = bytes(m.p, (size_t)(a - m.p));
	*authcid = bytes(a + 1, (size_t)(b - a - 1));
	*password = bytes(b + 1, m.n - (size_t)(b + 1 - m.p));
	return (authcid->n == 0 || password->n == 0 || memchr(password->p, 0, password->n) != NULL ? -1 : 0);
}

/* How often key begins a part of the message; parts end with stop. */
static int
count_parts(struct bytes m, uint8_t stop, struct bytes key)
{
	int n = 0;

	while (m.n > 0) {
		struct bytes part = bytes_token(&m, stop);

		n += part.n >= key.n && bytes_caseeq(bytes(part.p, key.n), key);
	}
	return (n);
}

struct bytes
sasl_bearer_user(struct bytes m)
{
	const struct bytes none = bytes("", 0);
	struct bytes rest, user;

	if (bytes_casestart(m, BYTES("user="))) {
		rest = bytes_cut(m, 5);
		user = bytes_token(&rest, 1);
		return (count_parts(m, 1, BYTES("user=")) == 1 ? user : none);
	}
	if (!bytes_casestart(m, BYTES("n,a=")))
		return (none);
	rest = bytes_cut(m, 4);
	user = bytes_token(&rest, ',');
	if (rest.n == 0 || rest.p[0] != 1 || memchr(user.p, 1, user.n) != NULL || memchr(user.p, '=', user.n) != NULL)
		return (none);
	return (count_parts(rest, ',', BYTES("a=")) == 0 && count_parts(rest, 1, BYTES("a=")) == 0 ? user : none);
}

struct bytes
sasl_relayed_user(struct bytes mech, struct bytes m, struct bytes *prover)
{
	const struct bytes none = bytes("", 0);
	const uint8_t *at;
	struct bytes zid, cid;

	*prover = BYTES("?");
	if (bytes_caseeq(mech, BYTES("CRAM-MD5"))) {
		for (at = m.p + m.n; at > m.p && at[-1] != ' '; at--)
			;
		if (at <= m.p + 1)
			return (none);
		return (*prover = bytes(m.p, (size_t)(at - m.p) - 1));
	}
	(void)bytes_token(&m, ',');
	zid = bytes_token(&m, ',');
	cid = bytes_token(&m, ',');
	if (cid.n <= 2 || memcmp(cid.p, "n=", 2) != 0 || (zid.n > 0 && (zid.n <= 2 || memcmp(zid.p, "a=", 2) != 0)))
		return (none);
	*prover = bytes_cut(cid, 2);
	zid = zid.n > 0 ? bytes_cut(zid, 2) : *prover;
	return (memchr(zid.p, '=', zid.n) != NULL ? none : zid);
}

int
sasl_external(struct bytes m, const char *user, const char *master, const char *password, uint8_t *dst, size_t size)
{
	if (m.n > 0 && !bytes_eq(m, bytes_str(user)))
		return (-1);
	return (sasl_master(bytes_str(user), master, password, dst, size));
}

int
sasl_master(struct bytes user, const char *master, const char *password, uint8_t *dst, size_t size)
{
	uint8_t plain[512];
	struct out o = { plain, 0, sizeof(plain), false };
	int n;

	if (user.n == 0 || memchr(user.p, 0, user.n) != NULL || master[0] == '\0')
		return (-1);
	out_put(&o, user);
	out_put(&o, bytes("", 1));
	out_str(&o, master);
	out_put(&o, bytes("", 1));
	out_str(&o, password);
	n = o.full ? -1 : sasl_encode(bytes(plain, o.len), dst, size);
	explicit_bzero(plain, sizeof(plain));
	return (n);
}
