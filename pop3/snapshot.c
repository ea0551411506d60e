/*
 * snapshot - the maildrop as it was at login, and its map onto another backend's numbers; pure
 *
 * Linear in the number of messages. Identical UIDs (RFC 1939 section 7 allows them) are a multiset: of the instances
 * that the backend has, the lowest stand for those kept, the others for those marked as deleted (1.2.3).
 */
#include "pop3/pop3.h"

struct entry *
pop3_entry(const struct turn *t, uint32_t num)
{
	if (num == 0 || num > P(t)->n)
		return (NULL);
	return ((struct entry *)(void *)(t->log->p + P(t)->entries) + (num - 1));
}

bool
pop3_deleted(const struct turn *t, const struct entry *e)
{
	return (e->marked > P(t)->unmarked && e->marked <= P(t)->marks);
}

struct bytes
pop3_uid(const struct turn *t, const struct entry *e)
{
	return (bytes(t->log->p + e->uid, e->uid_len));
}

void
pop3_snapshot_begin(struct turn *t)
{
	struct pst *p = P(t);

	t->log->len = p->secret + p->secret_len;
	p->n = p->entries = 0;
	p->octets = 0;
}

bool
pop3_add_size(struct turn *t, uint64_t size)
{
	struct pst *p = P(t);
	uint32_t at;

	/* entries lie one behind the other; the UIDs come after all of them */
	if (p->n >= t->limits->maildrop || (at = arena_add(t->log, sizeof(struct entry))) == UINT32_MAX)
		return (false);
	if (p->n == 0)
		p->entries = at;
	p->n++;
	pop3_entry(t, p->n)->size = size;
	p->octets += size;
	return (true);
}

bool
pop3_set_uid(struct turn *t, uint32_t num, struct bytes uid)
{
	struct entry *e = pop3_entry(t, num);
	uint32_t at;

	if (e == NULL || uid.n == 0 || uid.n > UID_MAX || (at = arena_put(t->log, uid)) == UINT32_MAX)
		return (false);
	e->uid = at;
	e->uid_len = (uint8_t)uid.n;
	return (true);
}

static uint32_t *
words(const struct turn *t, uint32_t at)
{
	return ((uint32_t *)(void *)(t->scratch->p + at));
}

static uint32_t
hash(struct bytes b)
{
	uint64_t h = bytes_hash(b);

	return ((uint32_t)(h ^ h >> 32));
}

/* The slot of a uid: that of an equal one, or the first free one. A slot holds a message number of its chain. */
static uint32_t
slot(const struct turn *t, struct bytes uid)
{
	const struct have *h = H(t);
	uint32_t *table = words(t, h->table), i = hash(uid) & h->mask;

	while (table[2 * i] != 0 && !bytes_eq(pop3_uid(t, pop3_entry(t, table[2 * i])), uid))
		i = (i + 1) & h->mask;
	return (i);
}

/* Pushes entries of one kind in front of their chains, from the last to the first. */
static void
push(struct turn *t, bool deleted)
{
	struct have *h = H(t);
	uint32_t *table = words(t, h->table), *chain = words(t, h->chain);

	for (uint32_t num = P(t)->n; num > 0; num--) {
		struct entry *e = pop3_entry(t, num);
		uint32_t i;

		if (pop3_deleted(t, e) != deleted || e->uid_len == 0)
			continue;
		i = slot(t, pop3_uid(t, e));
		h->twins |= table[2 * i] != 0;
		chain[num] = table[2 * i + 1];
		table[2 * i] = num;		/* for comparison; never empties */
		table[2 * i + 1] = num;		/* head of those not yet found */
	}
}

bool
pop3_map_begin(struct turn *t)
{
	struct have *h = H(t);
	uint32_t n = P(t)->n, size = 8;

	while (size < 2 * n)
		size *= 2;
	t->scratch->len = 0;		/* of one that was made before */
	h->common = h->twins = 0;
	h->for_quit = P(t)->command == CMD_QUIT;
	h->mask = size - 1;
	h->map = arena_add(t->scratch, (n + 1) * 4);
	h->chain = arena_add(t->scratch, (n + 1) * 4);
	h->table = arena_add(t->scratch, size * 8);
	if (h->map == UINT32_MAX || h->chain == UINT32_MAX || h->table == UINT32_MAX)
		return (false);
	push(t, true);
	push(t, false);
	return (true);
}

void
pop3_map_uid(struct turn *t, uint32_t num, struct bytes uid)
{
	struct have *h = H(t);
	uint32_t i = slot(t, uid), *table = words(t, h->table), mine = table[2 * i + 1];

	if (table[2 * i] == 0 || mine == 0)
		return;		/* new mail: invisible in this session */
	table[2 * i + 1] = words(t, h->chain)[mine];
	words(t, h->map)[mine] = num;
	h->common++;
}

uint32_t
pop3_map(const struct turn *t, uint32_t num)
{
	const struct have *h = H(t);

	if (h->identity)
		return (num);
	return (num == 0 || num > P(t)->n ? 0 : words(t, h->map)[num]);
}

bool
pop3_map_common(const struct turn *t)
{
	const struct have *h = H(t);
	uint32_t n = P(t)->n;

	/* QUIT may be done: what it was to remove is not missed, as much new mail as may have come */
	if (P(t)->command == CMD_QUIT && P(t)->line_sent)
		n -= P(t)->ndeleted;
	/* almost nothing in common though the counts are alike: another store, or another format of UIDs (1.2.4) */
	return (n == 0 || h->common * 10 >= n || h->count * 2 < n);
}
