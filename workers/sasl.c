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

struct bytes
sasl_bearer_user(struct bytes m)
{
	static const char *const key[] = { "user=", "n,a=" };
	static const uint8_t stop[] = { 1, ',' };

	for (int i = 0; i < 2; i++)
		if (bytes_casestart(m, bytes_str(key[i]))) {
			struct bytes rest = bytes_cut(m, strlen(key[i]));

			return (bytes_token(&rest, stop[i]));
		}
	return (bytes("", 0));
}

struct bytes
sasl_relayed_user(struct bytes mech, struct bytes m)
{
	const uint8_t *at;
	struct bytes part, user = bytes("", 0);

	if (bytes_caseeq(mech, BYTES("CRAM-MD5"))) {
		for (at = m.p + m.n; at > m.p && at[-1] != ' '; at--)
			;
		return (at > m.p ? bytes(m.p, (size_t)(at - m.p) - 1) : user);
	}
	for (int i = 0; i < 4 && m.n > 0; i++) {
		part = bytes_token(&m, ',');
		if (part.n > 2 && part.p[1] == '=' && (part.p[0] == 'a' || (part.p[0] == 'n' && user.n == 0)))
			user = bytes_cut(part, 2);
	}
	return (user.n > 0 && memchr(user.p, '=', user.n) != NULL ? bytes("", 0) : user);
}

int
sasl_external(struct bytes m, const char *user, const char *master, const char *password, uint8_t *dst, size_t size)
{
	uint8_t plain[512];
	struct out o = { plain, 0, sizeof(plain), false };
	int n;

	if (m.n > 0 && !bytes_eq(m, bytes_str(user)))
		return (-1);
	out_str(&o, user);
	out_put(&o, bytes("", 1));
	out_str(&o, master);
	out_put(&o, bytes("", 1));
	out_str(&o, password);
	n = o.full ? -1 : sasl_encode(bytes(plain, o.len), dst, size);
	explicit_bzero(plain, sizeof(plain));
	return (n);
}
