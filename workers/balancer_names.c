/*
 * balancer_names - addresses of the backends: numeric ones at once, names by child processes
 *
 * getaddrinfo(3) blocks as long as the name server is silent, so for each name a child asks and writes what it learned to
 * a pipe; it is given a minute. Nobody waits for another's name; an old address is kept until a new one comes. Of several
 * the one that is in use stays in use, and a probe that fails goes on to the next.
 */
#include <sys/prctl.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/balancer.h"

struct answer { uint32_t service, backend, n; int32_t error; struct sockaddr_in6 addr[NAME_ADDRS]; };

static bool
numeric(struct backend *b)
{
	struct sockaddr_in *four = (void *)&b->addr;
	struct sockaddr_in6 *six = (void *)&b->addr;

	memset(&b->addr, 0, sizeof(b->addr));
	if (inet_pton(AF_INET, b->host, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(b->port);
		b->addrlen = sizeof(*four);
	} else if (inet_pton(AF_INET6, b->host, &six->sin6_addr) == 1) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(b->port);
		b->addrlen = sizeof(*six);
	} else
		return (false);
	return (true);
}

/* In a process of its own. */
static void
look_up(const struct backend *be, uint32_t service, uint32_t backend, int out)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *ai;
	struct answer a;
	char port[8];

	snprintf(port, sizeof(port), "%u", be->port);
	memset(&a, 0, sizeof(a));
	a.service = service;
	a.backend = backend;
	if ((a.error = getaddrinfo(be->host, port, &hints, &ai)) == 0) {
		for (const struct addrinfo *p = ai; p != NULL && a.n < NAME_ADDRS; p = p->ai_next)
			if (p->ai_addrlen <= sizeof(a.addr[0]))
				memcpy(&a.addr[a.n++], p->ai_addr, p->ai_addrlen);
		freeaddrinfo(ai);
	}
	(void)!write(out, &a, sizeof(a));
}

static void
stop(struct balancer *b)
{
	if (b->names_fd == -1)
		return;
	ev_io_stop(b->loop, &b->names_io);
	close(b->names_fd);
	b->names_fd = -1;
}

static void
use(struct backend *be, const struct sockaddr_in6 *a)
{
	be->addrlen = a->sin6_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(*a);
	memset(&be->addr, 0, sizeof(be->addr));
	memcpy(&be->addr, a, be->addrlen);
}

static uint32_t
in_use(const struct backend *be)
{
	uint32_t i = 0;

	while (i < be->nothers && memcmp(&be->others[i], &be->addr, sizeof(be->others[0])) != 0)
		i++;
	return (i);
}

void
names_next(struct backend *be)
{
	if (be->nothers > 1)
		use(be, &be->others[(in_use(be) + 1) % be->nothers]);
}

static void
on_answer(struct ev_loop *loop, ev_io *io, int events)
{
	struct balancer *b = io->data;
	struct answer a;
	struct backend *be;
	ssize_t n = read(b->names_fd, &a, sizeof(a));

	(void)loop, (void)events;
	if (n == -1 && errno == EAGAIN)
		return;
	if (n != sizeof(a)) {
		stop(b);
		return;
	}
	if (a.service >= b->conf->nservice || a.backend >= b->service[a.service].n || a.n > NAME_ADDRS)
		return;
	be = &b->service[a.service].backend[a.backend];
	if (a.n == 0) {
		if (!be->nameless)
			log_warnx("backend %s/%s: %s: %s", b->service[a.service].name, be->name, be->host,
			    a.error != 0 ? gai_strerror(a.error) : "no address");
		be->nameless = true;
		return;
	}
	be->nameless = false;
	memcpy(be->others, a.addr, sizeof(be->others));
	be->nothers = a.n;
	if (in_use(be) == a.n)
		use(be, &a.addr[0]);
}

void
names_refresh(struct balancer *b)
{
	int fd[2];

	stop(b);		/* those that wait since the last time get SIGPIPE or their alarm */
	if (pipe2(fd, O_CLOEXEC | O_NONBLOCK) == -1)
		return;
	for (uint32_t i = 0; i < b->conf->nservice; i++)
		for (uint32_t k = 0; k < b->service[i].n; k++) {
			struct backend *be = &b->service[i].backend[k], probe = *be;

			if (numeric(&probe)) {
				be->addr = probe.addr;
				be->addrlen = probe.addrlen;
				be->nothers = 0;
			} else if (fork() == 0) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				alarm(60);
				look_up(be, i, k, fd[1]);
				_exit(0);
			}
		}
	close(fd[1]);
	b->names_fd = fd[0];
	ev_io_init(&b->names_io, on_answer, fd[0], EV_READ);
	b->names_io.data = b;
	ev_io_start(b->loop, &b->names_io);
}

void
names_start(struct balancer *b)
{
	b->names_fd = -1;
	names_refresh(b);
}
