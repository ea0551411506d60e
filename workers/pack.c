/* pack - see pack.h; touches the two files */
#include <sys/mman.h>
#include <sys/stat.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "workers/pack.h"

#define PACK_MAGIC	UINT64_C(0x4b4341504d5242ff)

enum { BLOCK = 32, ROOM = 65536, CORE_NUMBERS = offsetof(struct core, pst) };

struct pack_head {
	uint64_t	magic, size;		/* size: of the journal */
	uint8_t		numbers[CORE_NUMBERS];
};
struct run { uint64_t at; uint32_t n, spare; };	/* offset in the journal, octets; n 0: the end */

struct sink { int fd; off_t at; size_t n; bool bad; };
static uint8_t room[ROOM];

static void
flush(struct sink *s)
{
	if (s->n > 0 && pwrite(s->fd, room, s->n, s->at) != (ssize_t)s->n)
		s->bad = true;
	s->at += (off_t)s->n;
	s->n = 0;
}

static void
put(struct sink *s, const void *p, size_t n)
{
	if (n > ROOM - s->n)
		flush(s);
	memcpy(room + s->n, p, n);
	s->n += n;
}

static bool
zero(const uint8_t *p)
{
	static const uint8_t zeros[BLOCK];

	return (memcmp(p, zeros, BLOCK) == 0);
}

/* What lies between two offsets, both multiples of BLOCK. */
static void
put_runs(struct sink *s, const uint8_t *map, uint64_t from, uint64_t to)
{
	while (from < to) {
		struct run r = { .at = from };

		while (from < to && zero(map + from))
			from += BLOCK;
		for (r.at = from; from < to && r.n < ROOM / 2 && !zero(map + from); from += BLOCK)
			r.n += BLOCK;
		if (r.n > 0) {
			put(s, &r, sizeof(r));
			put(s, map + r.at, r.n);
		}
	}
}

int
pack_make(const struct journal *j)
{
	const struct journal_head *h = j->head;
	struct pack_head head = { .magic = PACK_MAGIC, .size = j->size };
	struct sink s = { .fd = memfd_create("bmr-journal", MFD_CLOEXEC) };
	struct run end = { .n = 0 };
	struct journal_places at;
	off_t from = 0, to;

	if (s.fd == -1)
		return (-1);
	if (journal_places(j->fd, &at) == -1)
		goto bad;
	memcpy(head.numbers, j->slot[h->active & 1], CORE_NUMBERS);
	put(&s, &head, sizeof(head));
	/* only what has pages: to look at a hole would fill it */
	while ((from = lseek(j->fd, from, SEEK_DATA)) != -1 && (to = lseek(j->fd, from, SEEK_HOLE)) != -1) {
		uint64_t a = (uint64_t)from, b = (uint64_t)to < j->spool_at ? (uint64_t)to : j->spool_at;

		for (; a < b; a += JOURNAL_PAGE)
			put_runs(&s, j->map, a, a + JOURNAL_PAGE < b ? a + JOURNAL_PAGE : b);
		from = to;
	}
	put(&s, &end, sizeof(end));
	flush(&s);
	if (!s.bad)
		return (s.fd);
bad:
	close(s.fd);
	return (-1);
}

bool
pack_is(int fd, struct core *numbers)
{
	struct pack_head head;

	if (pread(fd, &head, sizeof(head), 0) != sizeof(head) || head.magic != PACK_MAGIC)
		return (false);
	if (numbers != NULL) {
		*numbers = (struct core){ 0 };
		memcpy(numbers, head.numbers, CORE_NUMBERS);
	}
	return (true);
}

int
pack_undo(int fd)
{
	struct pack_head head;
	off_t at = sizeof(head);
	struct run r;
	int out;

	if (pread(fd, &head, sizeof(head), 0) != sizeof(head) || head.magic != PACK_MAGIC || head.size > UINT64_C(1) << 40 ||
	    (out = memfd_create("bmr-journal", MFD_CLOEXEC | MFD_ALLOW_SEALING)) == -1)
		return (-1);
	if (ftruncate(out, (off_t)head.size) == -1)
		goto bad;
	for (;;) {
		if (pread(fd, &r, sizeof(r), at) != sizeof(r))
			goto bad;
		if (r.n == 0)
			return (out);
		at += (off_t)sizeof(r);
		if (r.n > ROOM || r.at > head.size || r.n > head.size - r.at || pread(fd, room, r.n, at) != (ssize_t)r.n ||
		    pwrite(out, room, r.n, (off_t)r.at) != (ssize_t)r.n)
			goto bad;
		at += (off_t)r.n;
	}
bad:
	close(out);
	return (-1);
}
