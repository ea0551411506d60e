/* chan - whatever comes on a channel is handled, or refused as the sender's fault, without harm to the reader */
/* LINK: supervisor/chan.c supervisor/msg.c supervisor/sup_msg.c supervisor/buf.c supervisor/log.c workers/gw_msg.c */
#include <sys/socket.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "supervisor/chan.h"
#include "supervisor/sup_msg.h"
#include "workers/gw_msg.h"

int	LLVMFuzzerTestOneInput(const uint8_t *, size_t);

static uint64_t sum;

/* Every handler reads all that it is promised. */
#define HANDLER(name) \
	static int on_##name(void *self, struct chan *c, const struct msg_##name *m, struct bytes tail, int fd[]) \
	{ \
		(void)self, (void)c, (void)fd; \
		for (size_t i = 0; i < sizeof(*m); i++) \
			sum += ((const uint8_t *)m)[i]; \
		for (size_t i = 0; i < tail.n; i++) \
			sum += tail.p[i]; \
		return (0); \
	}
#define MSG(NAME, name, num, from, to, fds, base) HANDLER(name)
#include "supervisor/sup.def"
#include "workers/gw.def"
#undef MSG

#define MSG(NAME, name, num, from, to, fds, base) .name = on_##name,
static const struct sup_inbox sup_inbox = {
#include "supervisor/sup.def"
};
static const struct gw_inbox gw_inbox = {
#include "workers/gw.def"
};
#undef MSG

static int
on_message(void *self, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	if (h->type < 32)
		return (sup_dispatch(&sup_inbox, self, c, h, body, fd, nfds) == 1 ? 0 : -1);
	return (gw_dispatch(&gw_inbox, self, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
ended(void *self, struct chan *c, const char *why)
{
	(void)self, (void)why;
	chan_close(c);
}

/* Three octets: my role, the sender's, descriptors with it; the rest is the datagram. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	union { struct cmsghdr align; char b[CMSG_SPACE(8 * sizeof(int))]; } ctl = { 0 };
	struct iovec iov;
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct chan c = { .read = on_message, .gone = ended, .bad = ended, .name = "fuzz" };
	int fd[2], pass[8], n;

	if (size < 3 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) == -1)
		return (0);
	c.me = data[0] % 12;
	c.peer = data[1] % 12;
	n = data[2] % 7;
	iov = (struct iovec){ (void *)(uintptr_t)(data + 3), size - 3 };
	for (int i = 0; i < n; i++)
		pass[i] = fd[1];
	if (n > 0) {
		m.msg_control = ctl.b;
		m.msg_controllen = CMSG_SPACE((size_t)n * sizeof(int));
		CMSG_FIRSTHDR(&m)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&m)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&m)->cmsg_len = CMSG_LEN((size_t)n * sizeof(int));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), pass, (size_t)n * sizeof(int));
	}
	(void)!sendmsg(fd[1], &m, MSG_NOSIGNAL);
	close(fd[1]);
	chan_open(&c, NULL, fd[0]);
	for (int i = 0; i < 3 && c.fd != -1; i++)
		(void)chan_poll(&c);
	chan_close(&c);
	/* a descriptor that leaked would fill the table long before the end of a run */
	if ((n = open("/dev/null", O_RDONLY)) > 200)
		abort();
	close(n);
	return (0);
}
