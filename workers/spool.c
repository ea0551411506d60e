/* spool - see spool.h */
#include <sys/sendfile.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "workers/spool.h"

void
spool_init(struct spool *s, int mem, uint64_t base, uint64_t cap)
{
	*s = (struct spool){ .mem = mem, .file = -1, .base = base, .cap = cap };
}

void
spool_file(struct spool *s, int fd)
{
	if (s->file != -1)
		close(s->file);
	s->file = fd;
	s->high = 0;
}

bool
spool_needs_file(const struct spool *s, uint64_t end)
{
	return (end > s->cap && s->file == -1);
}

static int
write_all(int fd, struct bytes b, off_t at)
{
	while (b.n > 0) {
		ssize_t n = pwrite(fd, b.p, b.n, at);

		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			return (-1);
		b = bytes_cut(b, (size_t)n);
		at += n;
	}
	return (0);
}

int
spool_write(struct spool *s, uint64_t at, struct bytes b)
{
	uint64_t mem = at < s->cap ? s->cap - at : 0;

	if (mem > b.n)
		mem = b.n;
	if (mem > 0 && write_all(s->mem, bytes(b.p, mem), (off_t)(s->base + at)) == -1)
		return (-1);
	if (mem == b.n)
		return (0);
	if (s->file == -1) {
		errno = ENOSPC;
		return (-1);
	}
	at += mem;
	s->high = at - s->cap + (b.n - mem);
	return (write_all(s->file, bytes_cut(b, mem), (off_t)(at - s->cap)));
}

ssize_t
spool_send(struct spool *s, int sock, uint64_t at, uint64_t n)
{
	off_t off;

	if (at < s->cap) {
		off = (off_t)(s->base + at);
		if (n > s->cap - at)
			n = s->cap - at;
		return (sendfile(sock, s->mem, &off, n));
	}
	off = (off_t)(at - s->cap);
	return (sendfile(sock, s->file, &off, n));
}

void
spool_reset(struct spool *s, uint64_t len)
{
	if (len > s->cap)
		len = s->cap;
	if (len > 65536)	/* small ones are overwritten by the next message */
		(void)fallocate(s->mem, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)s->base, (off_t)len);
	if (s->file != -1 && s->high > 0 && ftruncate(s->file, 0) == 0)
		s->high = 0;
}

void
spool_close(struct spool *s)
{
	if (s->file != -1)
		close(s->file);
	s->file = -1;
}
