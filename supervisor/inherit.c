/* inherit - see inherit.h; touches one Unix socket */
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/inherit.h"

/* One message. 1, 0: the last one, or -1. */
static int
receive(int s, char *key, size_t size, int *fd)
{
	union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(int))]; } u;
	struct iovec iov = { key, size - 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.b, .msg_controllen = sizeof(u.b) };
	struct cmsghdr *c;
	ssize_t n = recvmsg(s, &m, MSG_CMSG_CLOEXEC);

	*fd = -1;
	if (n <= 0)
		return (n == 0 ? 0 : -1);
	key[n] = '\0';
	for (c = CMSG_FIRSTHDR(&m); c != NULL; c = CMSG_NXTHDR(&m, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
			memcpy(fd, CMSG_DATA(c), sizeof(int));
	return (*fd != -1);
}

int
inherit_sockets(const char *path, void (*take)(void *, const char *, int), void *arg)
{
	const struct timeval patience = { .tv_sec = 5 };
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int s, n = 0, r = -1, fd;
	char key[128];

	if (strlen(path) >= sizeof(a.sun_path)) {
		errno = ENAMETOOLONG;
		return (-1);
	}
	memcpy(a.sun_path, path, strlen(path));
	if ((s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) == -1)
		return (-1);
	(void)setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(s, (const struct sockaddr *)&a, sizeof(a)) == 0)
		while ((r = receive(s, key, sizeof(key), &fd)) == 1) {
			take(arg, key, fd);
			n++;
		}
	close(s);
	return (n > 0 ? n : r);
}
