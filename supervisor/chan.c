/*
 * chan - see chan.h; touches its socket and the descriptors that pass through it
 *
 * Invariants: a message is sent whole or not at all; descriptors that come with a message which is refused are
 * closed here; after chan_close no callback of this channel runs.
 */
#include <sys/socket.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "supervisor/chan.h"

struct chan_msg {
	struct chan_msg	*next;
	size_t		 n;
	int		 nfds, fd[CHAN_FDS];
	uint8_t		 data[];
};

int
chan_pair(int fd[2])
{
	return (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd));
}

static ssize_t
put(int sock, struct iovec *iov, size_t n, const int fd[], int nfds)
{
	union { struct cmsghdr h; uint8_t b[CMSG_SPACE(sizeof(int) * CHAN_FDS)]; } u = { 0 };
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = n };
	ssize_t r;

	if (nfds > 0) {
		struct cmsghdr *c = &u.h;

		m.msg_control = u.b;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nfds);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nfds);
		memcpy(CMSG_DATA(c), fd, sizeof(int) * (size_t)nfds);
	}
	do
		r = sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (r == -1 && errno == EINTR);
	return (r);
}

static void
free_msg(struct chan_msg *q)
{
	for (int i = 0; i < q->nfds; i++)
		close(q->fd[i]);
	explicit_bzero(q->data, q->n);
	free(q);
}

/* Writes what waits. 0 all or as much as goes, -1 the peer is gone. */
static int
flush(struct chan *c)
{
	struct chan_msg *q;

	while ((q = c->head) != NULL) {
		struct iovec iov = { q->data, q->n };

		if (put(c->fd, &iov, 1, q->fd, q->nfds) == -1)
			return (errno == EAGAIN || errno == ENOBUFS || errno == ETOOMANYREFS ? 0 : -1);
		if ((c->head = q->next) == NULL)
			c->last = &c->head;
		c->queued--;
		free_msg(q);
	}
	return (0);
}

static void
on_writable(struct ev_loop *loop, ev_io *io, int events)
{
	struct chan *c = io->data;

	(void)loop, (void)events;
	if (flush(c) == -1)
		ev_io_stop(c->loop, &c->wr);	/* the reading side learns the end */
	else if (c->head == NULL)
		ev_io_stop(c->loop, &c->wr);
}

static int
enqueue(struct chan *c, const struct iovec iov[], size_t n, const int fd[], int nfds)
{
	size_t total = 0, at = 0;
	struct chan_msg *q;

	if (c->queued >= c->queue_max) {
		errno = ENOBUFS;
		return (-1);
	}
	for (size_t i = 0; i < n; i++)
		total += iov[i].iov_len;
	if ((q = malloc(sizeof(*q) + total)) == NULL)
		return (-1);
	*q = (struct chan_msg){ .n = total };
	for (size_t i = 0; i < n; at += iov[i++].iov_len)
		if (iov[i].iov_len > 0)
			memcpy(q->data + at, iov[i].iov_base, iov[i].iov_len);
	for (int i = 0; i < nfds; i++) {
		if ((q->fd[i] = fcntl(fd[i], F_DUPFD_CLOEXEC, 0)) == -1) {
			free_msg(q);
			return (-1);
		}
		q->nfds++;
	}
	*c->last = q;
	c->last = &q->next;
	c->queued++;
	if (c->loop != NULL)
		ev_io_start(c->loop, &c->wr);
	return (0);
}

int
chan_send(struct chan *c, uint16_t type, const void *body, size_t fixed, struct bytes tail, const int fd[], int nfds)
{
	struct msg_head h = { .type = type, .fixed = (uint16_t)fixed, .tail = (uint32_t)tail.n };
	struct iovec iov[3] = { { &h, sizeof(h) }, { (void *)(uintptr_t)body, fixed },
		{ (void *)(uintptr_t)tail.p, tail.n } };

	if (c->fd == -1) {
		errno = EPIPE;
		return (-1);
	}
	if (fixed > UINT16_MAX || tail.n > CHAN_MAX || sizeof(h) + fixed + tail.n > CHAN_MAX || nfds > CHAN_FDS) {
		errno = EMSGSIZE;
		return (-1);
	}
	if (c->head == NULL) {
		if (put(c->fd, iov, 3, fd, nfds) != -1)
			return (0);
		if (errno != EAGAIN && errno != ENOBUFS && errno != ETOOMANYREFS)
			return (-1);
	}
	return (enqueue(c, iov, 3, fd, nfds));
}

static int
collect(struct msghdr *m, int fd[CHAN_FDS])
{
	int n = 0, k;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		k = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		for (int i = 0; i < k; i++) {
			int f;

			memcpy(&f, CMSG_DATA(c) + sizeof(int) * (size_t)i, sizeof(f));
			if (n < CHAN_FDS)
				fd[n++] = f;
			else
				close(f);
		}
	}
	return (n);
}

static void
end(struct chan *c, chan_end_fn *f, const char *why)
{
	if (c->loop != NULL) {
		ev_io_stop(c->loop, &c->rd);
		ev_io_stop(c->loop, &c->wr);
	}
	if (f == NULL)
		f = c->gone;
	if (f != NULL)
		f(c->self, c, why);
	else
		chan_close(c);
}

/* As chan_poll; after -1 the channel may be freed. */
static int
take(struct chan *c)
{
	static uint8_t data[CHAN_MAX] __attribute__((aligned(8)));
	union { struct cmsghdr h; uint8_t b[CMSG_SPACE(sizeof(int) * (CHAN_FDS + 1))]; } u;
	struct iovec iov = { data, sizeof(data) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.b, .msg_controllen = sizeof(u.b) };
	struct msg_head h;
	int fd[CHAN_FDS], nfds, good = -1;
	ssize_t n = recvmsg(c->fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	/* once: the other end closed before it read all of ours. What it said before that is still to come */
	if (n == -1 && errno == ECONNRESET)
		n = recvmsg(c->fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n == -1 && (errno == EAGAIN || errno == EINTR))
		return (0);
	nfds = n == -1 ? 0 : collect(&m, fd);	/* an empty message may carry some too */
	if (n <= 0) {
		for (int i = 0; i < nfds; i++)
			close(fd[i]);
		end(c, c->gone, n == 0 ? "end of channel" : "channel broken");
		return (-1);
	}
	if (c->lost != NULL && m.msg_flags & MSG_CTRUNC && nfds < CHAN_FDS) {	/* who sends too many fills all of ours */
		for (int i = 0; i < nfds; i++)
			close(fd[i]);
		c->lost(c->self, c, "descriptors lost");
		return (1);
	}
	if ((size_t)n >= sizeof(h) && !(m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
		memcpy(&h, data, sizeof(h));
		if ((size_t)n - sizeof(h) >= h.fixed && (size_t)n - sizeof(h) - h.fixed == h.tail)
			good = c->read(c->self, c, &h, data + sizeof(h), fd, nfds);
	}
	for (int i = 0; i < nfds; i++)
		if (fd[i] != -1)
			close(fd[i]);
	if (good == -1) {
		end(c, c->bad, m.msg_flags & MSG_CTRUNC ? "descriptors lost" : "malformed or unexpected message");
		return (-1);
	}
	return (1);
}

static void
on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	(void)loop, (void)events;
	(void)take(io->data);
}

void
chan_open(struct chan *c, struct ev_loop *loop, int fd)
{
	c->fd = fd;
	c->loop = loop;
	c->head = NULL;
	c->last = &c->head;
	c->queued = 0;
	if (c->queue_max == 0)
		c->queue_max = CHAN_QUEUE;
	ev_io_init(&c->rd, on_readable, fd, EV_READ);
	ev_io_init(&c->wr, on_writable, fd, EV_WRITE);
	c->rd.data = c->wr.data = c;
	if (loop != NULL)
		ev_io_start(loop, &c->rd);
}

int
chan_detach(struct chan *c)
{
	struct chan_msg *q;
	int fd = c->fd;

	if (fd == -1)
		return (-1);
	if (c->loop != NULL) {
		ev_io_stop(c->loop, &c->rd);
		ev_io_stop(c->loop, &c->wr);
	}
	c->fd = -1;
	while ((q = c->head) != NULL) {
		c->head = q->next;
		free_msg(q);
	}
	c->last = &c->head;
	c->queued = 0;
	return (fd);
}

void
chan_close(struct chan *c)
{
	int fd = chan_detach(c);

	if (fd != -1)
		close(fd);
}

int
chan_poll(struct chan *c)
{
	if (c->fd == -1)
		return (-1);
	(void)flush(c);
	return (take(c));
}
