/*
 * proxied - clients that come through a trusted proxy: their PROXY header is read before anything else (listener.h)
 *
 * Octets behind the header stay in the socket: they are TLS's or the session's. The header is looked at (MSG_PEEK) until it
 * is whole, so that what is taken is exactly the header. Watched by an epoll set of our own, for the same reason as in
 * connector.c; edge-triggered, since octets that are only looked at would wake us again at once.
 */
#include <sys/epoll.h>
#include <sys/socket.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/listener.h"

enum { HEADER_S = 10 };

static void
leave(struct waiting *w)
{
	struct listener *l = w->l;

	TAILQ_REMOVE(&l->proxied, w, link);
	l->nproxied--;
	(void)epoll_ctl(l->proxied_set, EPOLL_CTL_DEL, w->fd, NULL);
}

static void
refuse(struct waiting *w, const char *why)
{
	log_notice("%s: proxy %s: %s", w->l->b->name, w->ends.addr, why);
	leave(w);
	close(w->fd);
	w->l->service[w->service].refused++;
	free(w);
}

static void
look(struct waiting *w)
{
	uint8_t data[PROXY_MAX];
	ssize_t n = recv(w->fd, data, sizeof(data), MSG_PEEK | MSG_DONTWAIT);
	size_t used = 0;
	int r;

	if (n == -1 && (errno == EAGAIN || errno == EINTR))
		return;
	r = n <= 0 ? -1 : proxy_parse(bytes(data, (size_t)n), &used, &w->ends, &w->tls);
	if (r == -1 || (r == 0 && n == (ssize_t)sizeof(data))) {
		refuse(w, n <= 0 ? "ends without a header" : "sends no PROXY header");
		return;
	}
	if (r == 0)
		return;
	if (recv(w->fd, data, used, MSG_DONTWAIT) != (ssize_t)used) {
		refuse(w, "ends within its header");
		return;
	}
	leave(w);
	sessions_arrived(w);
}

static void
on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct listener *l = io->data;
	struct epoll_event e;

	(void)loop, (void)events;
	while (epoll_wait(l->proxied_set, &e, 1, 0) == 1)
		look(e.data.ptr);
}

int
proxied_start(struct listener *l)
{
	TAILQ_INIT(&l->proxied);
	if ((l->proxied_set = epoll_create1(EPOLL_CLOEXEC)) == -1)
		return (-1);
	ev_io_init(&l->proxied_io, on_readable, l->proxied_set, EV_READ);
	l->proxied_io.data = l;
	ev_io_start(l->w->loop, &l->proxied_io);
	return (0);
}

void
proxied_wait(struct waiting *w)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = w };
	struct listener *l = w->l;

	TAILQ_INSERT_TAIL(&l->proxied, w, link);
	l->nproxied++;
	if (epoll_ctl(l->proxied_set, EPOLL_CTL_ADD, w->fd, &e) == -1)
		refuse(w, "cannot be watched");
}

void
proxied_tick(struct listener *l)
{
	struct waiting *w;

	while ((w = TAILQ_FIRST(&l->proxied)) != NULL && listener_clock() - w->came > HEADER_S)
		refuse(w, "sends no header in time");
}
