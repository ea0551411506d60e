/* counts - see counts.h */
#include <sys/mman.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "workers/counts.h"

#define TABLE	(COUNTS_ROWS * sizeof(struct counts_row))

void
counts_init(struct counts *c)
{
	*c = (struct counts){ .protocol = 1, .share = 1 };
	c->mine = &c->own;
}

int
counts_create(void)
{
	int fd = memfd_create("counts", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd == -1)
		return (-1);
	if (ftruncate(fd, TABLE) == -1 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == -1) {
		close(fd);
		return (-1);
	}
	return (fd);
}

int
counts_table(struct counts *c, const struct msg_counts *m, int fd)
{
	struct counts_row *all;
	struct stat st;

	if (m->row >= COUNTS_ROWS || fstat(fd, &st) == -1 || (size_t)st.st_size != TABLE || (fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK) == 0)
		return (-1);
	if ((all = mmap(NULL, TABLE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED)
		return (-1);
	all[m->row] = *c->mine;
	if (c->all != NULL)
		(void)munmap(c->all, TABLE);
	c->all = all;
	c->row = m->row;
	c->mine = &all[m->row];
	c->protocol = m->protocol | 1u << m->row;
	c->share = m->share | 1u << m->row;
	return (0);
}

uint32_t
counts_slot(const char *address)
{
	uint32_t h = 2166136261u;

	for (; *address != '\0'; address++)
		h = (h ^ (uint8_t)*address) * 16777619u;
	return (h % COUNTS_ADDRESSES);
}

static void
put(uint32_t *p, uint32_t n)
{
	__atomic_store_n(p, n, __ATOMIC_RELAXED);
}

static uint32_t
get(const uint32_t *p)
{
	return (__atomic_load_n(p, __ATOMIC_RELAXED));
}

void
counts_came(struct counts *c, uint32_t slot)
{
	put(&c->mine->address[slot], c->mine->address[slot] + 1);
}

void
counts_went(struct counts *c, uint32_t slot)
{
	put(&c->mine->address[slot], c->mine->address[slot] - 1);
}

void
counts_service(struct counts *c, uint32_t service, uint32_t n)
{
	put(&c->mine->sessions, c->mine->sessions + n - c->mine->service[service]);
	put(&c->mine->service[service], n);
}

/* The sum of one number, at that offset of a row, over a set of rows. */
static uint32_t
sum(const struct counts *c, uint32_t rows, size_t offset)
{
	uint32_t n = 0;

	if (c->all == NULL)
		return (get((const uint32_t *)(const void *)((const char *)c->mine + offset)));
	for (uint32_t i = 0; i < COUNTS_ROWS; i++)
		if (rows & 1u << i)
			n += get((const uint32_t *)(const void *)((const char *)&c->all[i] + offset));
	return (n);
}

uint32_t
counts_of_address(const struct counts *c, uint32_t slot)
{
	return (sum(c, c->protocol, offsetof(struct counts_row, address) + slot * sizeof(uint32_t)));
}

uint32_t
counts_of_service(const struct counts *c, uint32_t service)
{
	return (sum(c, c->protocol, offsetof(struct counts_row, service) + service * sizeof(uint32_t)));
}

uint32_t
counts_of_share(const struct counts *c)
{
	return (sum(c, c->share, offsetof(struct counts_row, sessions)));
}

void
counts_full(struct counts *c, bool full)
{
	if (c->mine->full != full)
		put(&c->mine->full, full);
}

bool
counts_all_full(const struct counts *c)
{
	return (sum(c, c->protocol, offsetof(struct counts_row, full)) == (uint32_t)__builtin_popcount(c->protocol));
}

void
counts_watching(struct counts *c, bool watching)
{
	put(&c->mine->watching, watching);
}

enum { RATE = 1000, ALIVE_S = 3, STEP = 8 };	/* clients a second of one listener; sessions by which they take turns */

bool
counts_turn(struct counts *c, uint64_t now_s, uint32_t rate, bool watching)
{
	uint32_t all = rate, before = 0;

	c->mine->beat_s = now_s;
	put(&c->mine->rate, rate);
	counts_watching(c, watching);
	for (uint32_t i = 0; c->all != NULL && i < COUNTS_ROWS; i++) {
		const struct counts_row *r = &c->all[i];
		uint32_t theirs = get(&r->sessions) / STEP, ours = c->mine->sessions / STEP;

		if ((c->protocol & 1u << i) == 0 || i == c->row || r->beat_s + ALIVE_S < now_s)
			continue;
		all += get(&r->rate);
		before += get(&r->watching) && !get(&r->full) && (theirs < ours || (theirs == ours && i < c->row));
	}
	return (before < 1 + all / RATE);
}
