/*
 * relayed - a keyed running hash of the octets of a reply that the client already has (behaviour.h)
 *
 * Both bodies come from servers that are meant to hold the same message, so the question is equality, not
 * collision resistance against one who knows the key, which is random for each session. 128 bits, eight octets a
 * step, independent of how the octets are cut.
 */
#include "workers/behaviour.h"

#define K0 UINT64_C(0x9e3779b97f4a7c15)
#define K1 UINT64_C(0xc2b2ae3d27d4eb4f)

static uint64_t
fold(uint64_t a, uint64_t b)
{
	unsigned __int128 m = (unsigned __int128)a * b;

	return ((uint64_t)m ^ (uint64_t)(m >> 64));
}

static void
step(struct relayed *r, uint64_t w)
{
	r->h[0] = fold(r->h[0] ^ w ^ K0, r->key | 1);
	r->h[1] = fold(r->h[1] + w, K1 ^ (r->key << 1 | 1)) + w;
}

void
relayed_start(struct relayed *r, uint64_t key)
{
	*r = (struct relayed){ .key = key, .h = { key, ~key } };
}

void
relayed_add(struct relayed *r, struct bytes b)
{
	size_t have = r->k % 8, n;
	uint64_t w;

	r->k += b.n;
	if (have > 0) {
		n = b.n < 8 - have ? b.n : 8 - have;
		memcpy(r->tail + have, b.p, n);
		b = bytes_cut(b, n);
		if (have + n < 8)
			return;
		memcpy(&w, r->tail, 8);
		step(r, w);
	}
	for (; b.n >= 8; b = bytes(b.p + 8, b.n - 8)) {
		memcpy(&w, b.p, 8);
		step(r, w);
	}
	if (b.n > 0)
		memcpy(r->tail, b.p, b.n);
}

bool
relayed_same(const struct relayed *a, const struct relayed *b)
{
	return (a->k == b->k && a->h[0] == b->h[0] && a->h[1] == b->h[1] && a->key == b->key &&
	    memcmp(a->tail, b->tail, a->k % 8) == 0);
}
