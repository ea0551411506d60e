/* journal - maps, checks and commits the journal of one session (journal.h) */
#include <sys/mman.h>
#include <sys/stat.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/journal.h"
#include "workers/pack.h"

#define MAGIC		UINT64_C(0x4c4e4a2d524d42ff)
/* head and cores lie close: with a usual pst all three are one page, and a session touches no other before it must */
#define CORE_AT		1280u
#define CORE_ROOM	(JOURNAL_PAGE + 512u)
#define IN_AT		(3u * JOURNAL_PAGE)
#define OUT_AT		(IN_AT + JOURNAL_IN_ROOM)
#define LOG_AT		(OUT_AT + JOURNAL_OUT)

_Static_assert(sizeof(struct core) <= CORE_ROOM, "a core fits its slot");
_Static_assert(sizeof(struct journal_head) <= CORE_AT, "the head fits its place");
_Static_assert(CORE_AT + 2 * CORE_ROOM <= IN_AT, "the cores fit before the input");

static uint32_t
slot_size(uint32_t pst_size)
{
	return ((uint32_t)((offsetof(struct core, pst) + pst_size + 63) / 64 * 64));
}

static uint64_t
pages(uint64_t n)
{
	return ((n + JOURNAL_PAGE - 1) / JOURNAL_PAGE * JOURNAL_PAGE);
}

uint64_t
journal_size(const struct limits *l)
{
	return (LOG_AT + pages(l->log) + pages(l->spool_memory));
}

int
journal_create(const struct limits *l)
{
	int fd = memfd_create("bmr-journal", MFD_CLOEXEC | MFD_ALLOW_SEALING), e;

	if (fd != -1 && ftruncate(fd, (off_t)journal_size(l)) == -1) {
		e = errno;
		close(fd);
		errno = e;
		fd = -1;
	}
	return (fd);
}

static bool
knows(const struct behaviour *b, uint16_t format)
{
	return (format == b->format || (b->convert != NULL && format + 1 == b->format));
}

static uint16_t
size_in(const struct behaviour *b, uint16_t format)
{
	return (format == b->format ? b->pst_size : b->older_size);
}

uint16_t
journal_format(const struct behaviour *b, uint16_t wanted)
{
	return (wanted == 0 || wanted >= b->format || b->convert == NULL ? b->format : (uint16_t)(b->format - 1));
}

static void
fresh_head(struct journal *j, const struct behaviour *b, const struct limits *l, uint16_t format)
{
	*j->head = (struct journal_head){ .format = JOURNAL_FORMAT, .pst_format = format,
	    .pst_size = size_in(b, format), .log_cap = (uint32_t)pages(l->log), .spool_cap = (uint32_t)pages(l->spool_memory) };
	memccpy(j->head->protocol, b->name, 0, sizeof(j->head->protocol) - 1);
	atomic_store((_Atomic uint64_t *)&j->head->magic, MAGIC);
}

static bool
head_good(const struct journal *j, const struct behaviour *b, uint64_t size)
{
	const struct journal_head *h = j->head;

	return (h->magic == MAGIC && h->format == JOURNAL_FORMAT && knows(b, h->pst_format) &&
	    h->pst_size == size_in(b, h->pst_format) && h->active < 2 &&
	    memcmp(h->protocol, b->name, strnlen(b->name, sizeof(h->protocol) - 1) + 1) == 0 &&
	    h->log_cap < size && h->spool_cap < size && (uint64_t)LOG_AT + h->log_cap + h->spool_cap <= size);
}

int
journal_open(struct journal *j, int fd, const struct behaviour *b, const struct limits *l, bool fresh, uint16_t format)
{
	struct stat st;
	uint64_t size;

	*j = (struct journal){ .fd = fd };
	if (fstat(fd, &st) == -1 || st.st_size < (off_t)LOG_AT ||
	    (fresh && (uint64_t)st.st_size < journal_size(l)))
		goto err0;
	size = (uint64_t)st.st_size;
	/* the content behind the log is read and written by offset, not through the mapping */
	j->size = size;
	j->map = mmap(NULL, j->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (j->map == MAP_FAILED)
		goto err0;
	madvise(j->map, j->size, MADV_DONTDUMP);
	j->head = (struct journal_head *)(void *)j->map;
	if (fresh)
		fresh_head(j, b, l, journal_format(b, format));
	else if (!head_good(j, b, size))
		goto err1;
	j->convert = j->head->pst_format == b->format ? NULL : b;
	for (uint32_t i = 0; i < 2; i++)
		j->slot[i] = (struct core *)(void *)(j->map + CORE_AT + i * slot_size(j->head->pst_size));
	j->spare_at = CORE_AT + 2 * slot_size(j->head->pst_size);
	j->in = j->map + IN_AT;
	j->out = j->map + OUT_AT;
	j->log = j->map + LOG_AT;
	j->spool_at = (uint64_t)LOG_AT + j->head->log_cap;
	j->core_size = (uint32_t)offsetof(struct core, pst) + j->head->pst_size;
	return (0);
err1:
	munmap(j->map, j->size);
err0:
	close(fd);
	*j = (struct journal){ .fd = -1 };
	return (-1);
}

int
journal_load(const struct journal *j, struct core *w)
{
	uint32_t active = atomic_load((_Atomic uint32_t *)&j->head->active);

	if (active > 1)
		return (-1);
	*w = (struct core){ 0 };
	memcpy(w, j->slot[active], j->core_size);
	if (w->in_start > w->in_end || w->in_end > JOURNAL_IN_ROOM || w->in_end - w->in_start > JOURNAL_IN || w->out_start > w->out_end ||
	    w->out_end > JOURNAL_OUT || w->log_len > j->head->log_cap || w->scanned > w->in_end - w->in_start)
		return (-1);
	return (j->convert == NULL ? 0 : j->convert->convert(w->pst, j->head->pst_format, j->convert->format));
}

/* What cannot be said in the format before is a fault of the behaviour: its session ends as one that crashed. */
static void
commit_older(struct journal *j, struct core *slot, const struct core *w)
{
	static struct core older;

	older = *w;
	if (j->convert->convert(older.pst, j->convert->format, j->head->pst_format) == -1)
		bug("%s: its state cannot be written in format %u", j->convert->name, j->head->pst_format);
	memcpy(slot, &older, j->core_size);
	explicit_bzero(&older, sizeof(older));
}

void
journal_commit(struct journal *j, const struct core *w)
{
	uint32_t next = 1 - (j->head->active & 1);

	if (j->convert == NULL)
		memcpy(j->slot[next], w, j->core_size);
	else
		commit_older(j, j->slot[next], w);
	atomic_store_explicit((_Atomic uint32_t *)&j->head->active, next, memory_order_release);
}

int
journal_reformat(int fd, const struct behaviour *b, uint16_t format)
{
	static const uint8_t zeros[IN_AT - CORE_AT];
	struct journal_head h;
	struct core w = { 0 };
	const size_t numbers = offsetof(struct core, pst);

	if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.magic != MAGIC || h.active > 1 || !knows(b, h.pst_format) || !knows(b, format) ||
	    h.pst_size != size_in(b, h.pst_format))
		return (-1);
	if (h.pst_format == format)
		return (0);
	if (pread(fd, &w, numbers + h.pst_size, (off_t)(CORE_AT + h.active * slot_size(h.pst_size))) != (ssize_t)(numbers + h.pst_size) ||
	    b->convert(w.pst, h.pst_format, format) == -1)
		return (-1);
	w.have_at = w.scratch_len = 0;
	h.pst_format = format;
	h.pst_size = size_in(b, format);
	h.active = 0;
	if (pwrite(fd, zeros, sizeof(zeros), CORE_AT) != sizeof(zeros) || pwrite(fd, &h, sizeof(h), 0) != sizeof(h) ||
	    pwrite(fd, &w, numbers + h.pst_size, CORE_AT) != (ssize_t)(numbers + h.pst_size))
		return (-1);
	explicit_bzero(&w, sizeof(w));
	return (0);
}

int
journal_peek(int fd, struct core *w)
{
	const size_t n = offsetof(struct core, pst);
	struct journal_head h;

	*w = (struct core){ 0 };
	if (!pack_is(fd, w) && (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.magic != MAGIC || h.active > 1 ||
	    h.pst_size > JOURNAL_PST || pread(fd, w, n, (off_t)(CORE_AT + h.active * slot_size(h.pst_size))) != (ssize_t)n))
		return (-1);
	return (w->greeted && w->in_start <= w->in_end && w->out_start <= w->out_end ? 0 : -1);
}

int
journal_places(int fd, struct journal_places *at)
{
	struct journal_head h;

	if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.magic != MAGIC || h.active > 1 || h.pst_size > JOURNAL_PST)
		return (-1);
	*at = (struct journal_places){ .in = IN_AT, .out = OUT_AT, .log = LOG_AT, .pst_size = h.pst_size, .log_cap = h.log_cap, .pst_format = h.pst_format,
	    .pst = CORE_AT + h.active * slot_size(h.pst_size) + offsetof(struct core, pst) };
	return (0);
}

uint32_t
journal_spare(const struct journal *j, size_t n)
{
	if (n <= IN_AT - j->spare_at)
		return (j->spare_at);
	return (n <= JOURNAL_OUT ? OUT_AT : 0);
}

void
journal_thin(const struct journal *j, uint32_t at, size_t kept)
{
	const off_t from = at == OUT_AT ? (off_t)pages(OUT_AT + kept) : IN_AT;

	if (from > IN_AT)
		(void)fallocate(j->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, IN_AT, JOURNAL_IN_ROOM);
	(void)fallocate(j->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, LOG_AT - from);
	(void)fallocate(j->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)j->spool_at, j->head->spool_cap);
}

void
journal_close(struct journal *j)
{
	if (j->map != NULL) {
		/* credentials lie in the core and the log: nobody may find them in a descriptor that lives on (J5) */
		explicit_bzero(j->slot[0], j->core_size);
		explicit_bzero(j->slot[1], j->core_size);
		munmap(j->map, j->size);
	}
	if (j->fd != -1)
		close(j->fd);
	*j = (struct journal){ .fd = -1 };
}
