/* penalty - see penalty.h; pure */
#include <arpa/inet.h>
#include <string.h>

#include "workers/penalty.h"

enum { FIRST_MS = 2000 };

uint64_t
penalty_hash(const struct penalties *t, const void *data, uint32_t n)
{
	const uint8_t *p = data;
	uint64_t h = t->secret ^ UINT64_C(0x9e3779b97f4a7c15);

	for (uint32_t i = 0; i < n; i++) {
		h = (h ^ p[i]) * UINT64_C(0xff51afd7ed558ccd);
		h ^= h >> 29;
	}
	return (h != 0 ? h : 1);
}

uint64_t
penalty_address(const struct penalties *t, const char *address)
{
	struct in6_addr a;

	if (inet_pton(AF_INET6, address, &a) == 1)	/* all that are mapped from IPv4 share the first half */
		return (IN6_IS_ADDR_V4MAPPED(&a) ? penalty_hash(t, &a.s6_addr[12], 4) : penalty_hash(t, &a, 8));
	return (penalty_hash(t, address, (uint32_t)strlen(address)));
}

/* Backends take a name in whatever case, mostly: he who guesses is to find no other user there. */
uint64_t
penalty_user(const struct penalties *t, const char user[64])
{
	uint8_t name[1 + 64] = { UINT8_MAX };	/* no address of a client begins so, written or not: none is the user of that name */
	uint32_t n = (uint32_t)strnlen(user, 64);

	for (uint32_t i = 0; i < n; i++)
		name[1 + i] = (uint8_t)(user[i] >= 'A' && user[i] <= 'Z' ? user[i] + ('a' - 'A') : user[i]);
	return (n > 0 ? penalty_hash(t, name, 1 + n) : 0);
}

static const struct penalty *
find(const struct penalties *t, uint64_t key, uint64_t now)
{
	const struct penalty *set = t->set[key % PENALTY_SETS];

	for (int i = 0; i < PENALTY_WAYS; i++)
		if (set[i].key == key && now - set[i].last_ms < PENALTY_FORGET_MS)
			return (&set[i]);
	return (NULL);
}

uint32_t
penalty_ms(const struct penalties *t, uint64_t key, uint32_t free, uint64_t now)
{
	const struct penalty *p = find(t, key, now);
	uint64_t ms = FIRST_MS;

	if (p == NULL || p->failures <= free)
		return (0);
	for (uint32_t i = free + 1; i < p->failures && ms < PENALTY_MAX_MS; i++)
		ms *= 2;
	if (ms > PENALTY_MAX_MS)
		ms = PENALTY_MAX_MS;
	return (now - p->last_ms >= ms ? 0 : (uint32_t)(ms - (now - p->last_ms)));
}

void
penalty_failed(struct penalties *t, uint64_t key, uint64_t credentials, uint64_t now)
{
	struct penalty *set = t->set[key % PENALTY_SETS], *p = (struct penalty *)(uintptr_t)find(t, key, now);

	if (key == 0)
		return;
	t->any_until_ms = now + PENALTY_FORGET_MS;
	if (p == NULL) {	/* a free place, or the one that was quiet longest */
		p = &set[0];
		for (int i = 1; i < PENALTY_WAYS; i++)
			if (p->key != 0 && (set[i].key == 0 || set[i].last_ms < p->last_ms))
				p = &set[i];
		*p = (struct penalty){ .key = key };
	}
	p->last_ms = now;
	for (int i = 0; i < PENALTY_CREDENTIALS && credentials != 0; i++)
		if (p->credentials[i] == credentials)
			return;
	if (credentials != 0)
		p->credentials[p->next++ % PENALTY_CREDENTIALS] = credentials;
	p->failures++;
}

void
penalty_good(struct penalties *t, uint64_t key)
{
	struct penalty *set = t->set[key % PENALTY_SETS];

	for (int i = 0; i < PENALTY_WAYS; i++)
		if (set[i].key == key)
			set[i] = (struct penalty){ .key = 0 };
}

bool
penalty_any(const struct penalties *t, uint64_t now)
{
	return (now < t->any_until_ms);
}
