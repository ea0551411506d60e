/* counted - see counted.h; touches the client's socket */
#include <sys/socket.h>
#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

#include "workers/counted.h"
#include "workers/pack.h"

/* From here on a count belongs to the octets that follow total; none is there yet. */
static void
arm(struct passage *p, uint64_t total)
{
	p->octets.msg_len = 0;
	atomic_signal_fence(memory_order_seq_cst);
	*(volatile uint64_t *)&p->after = total;
	atomic_signal_fence(memory_order_seq_cst);
}

static void
aim(struct passage *p, void *at, size_t n)
{
	p->part = (struct iovec){ at, n };
	p->octets.msg_hdr = (struct msghdr){ .msg_iov = &p->part, .msg_iovlen = 1 };
}

ssize_t
counted_recv(struct journal *j, const struct core *w, int sock, size_t n)
{
	struct passage *p = &j->head->taken;
	ssize_t r;
	int e;

	aim(p, j->in + w->in_end, n);
	arm(p, w->client_in);
	if (recvmmsg(sock, &p->octets, 1, MSG_DONTWAIT, NULL) == 1)
		return ((ssize_t)p->octets.msg_len);
	if ((e = errno) == EAGAIN || e == EINTR)
		return (-1);
	/* this call tells of an error of the connection before it gives what came before the error; recv(2) does not */
	r = recv(sock, j->in + w->in_end, n, MSG_DONTWAIT);
	errno = e;
	return (r > 0 ? r : -1);
}

ssize_t
counted_send(struct journal *j, const struct core *w, int sock)
{
	struct passage *p = &j->head->given;

	aim(p, j->out + w->out_start, w->out_end - w->out_start);
	arm(p, w->client_out);
	if (sendmmsg(sock, &p->octets, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
		return ((ssize_t)p->octets.msg_len);
	return (-1);
}

static int
adopt(const struct journal_head *h, struct core *w)
{
	const struct passage *in = &h->taken, *out = &h->given;

	if (in->after == w->client_in) {
		if (in->octets.msg_len > JOURNAL_IN_ROOM - w->in_end)
			return (-1);
		w->in_end += in->octets.msg_len;
		w->client_in += in->octets.msg_len;
	}
	if (out->after == w->client_out) {
		if (out->octets.msg_len > w->out_end - w->out_start)
			return (-1);
		w->out_start += out->octets.msg_len;
		w->client_out += out->octets.msg_len;
	}
	return (0);
}

int
counted_adopt(const struct journal *j, struct core *w)
{
	return (adopt(j->head, w));
}

int
counted_peek(int fd, struct core *w)
{
	struct journal_head h;

	if (journal_peek(fd, w) == -1)
		return (-1);
	if (pack_is(fd, NULL))		/* nothing was under way */
		return (0);
	return (pread(fd, &h, sizeof(h), 0) == sizeof(h) ? adopt(&h, w) : -1);
}
