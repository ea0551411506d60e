/*
 * connector - finds a session its backend: asks the balancer, connects, hands the socket over (listener.h)
 *
 * A session has no right to open sockets. What cannot be connected is told to the balancer and tried elsewhere;
 * when nothing is left the session hears NOBACKEND and decides itself how long it goes on asking.
 *
 * Sockets that connect are watched by an epoll set of our own, inside libev's: libev leaves a descriptor in its set
 * until it is closed everywhere, and these live on in a session; the stray events made it rebuild the set each time.
 */
#include <sys/epoll.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/listener.h"

#define LACKING	5.	/* a session that wants a backend has asked again by then (backend.c) */

static void
say_none(struct sess *s, uint32_t why)
{
	struct msg_nobackend m = { .id = s->route_id, .why = why };

	s->lacked = listener_clock();
	(void)msg_send_nobackend(&s->chan, &m, bytes("", 0), NULL);
}

uint64_t
connector_lacking(const struct listener *l)
{
	const struct sess *s;
	uint64_t n = 0;

	TAILQ_FOREACH(s, &l->active, link)
		n += s->lacked != 0 && listener_clock() - s->lacked < LACKING;
	return (n);
}

static void
pick(struct sess *s)
{
	struct listener *l = s->l;
	struct msg_pick m = { .id = ++l->next_route, .avoid = s->avoid, .service = s->service };

	if (l->balancer.fd == -1 || msg_send_pick(&l->balancer, &m, bytes("", 0), NULL) == -1) {
		say_none(s, 1);
		return;
	}
	s->chan.self = s;
	s->pick_id = m.id;
	TAILQ_INSERT_TAIL(&l->by_route[m.id % HASH], s, hash);
	s->picking = true;
}

static void
unhash(struct sess *s)
{
	if (s->picking)
		TAILQ_REMOVE(&s->l->by_route[s->pick_id % HASH], s, hash);
	s->picking = false;
}

void
connector_release(struct sess *s)
{
	struct msg_free m = { .service = s->service, .backend = (uint32_t)s->backend };

	if (s->backend == -1 || s->state == SESS_PROBE)
		return;
	if (s->l->balancer.fd != -1)
		(void)msg_send_free(&s->l->balancer, &m, bytes("", 0), NULL);
	s->backend = -1;
	s->backend_name[0] = '\0';
}

void
connector_route(struct sess *s, const struct msg_route *m)
{
	connector_cancel(s);
	connector_release(s);
	s->route_id = m->id;
	s->avoid = m->avoid;
	pick(s);
}

/* The balancer may know another image than we do: the name decides. */
static int32_t
pick_number(const struct listener *l, const struct sess *s, const struct msg_picked *m)
{
	const struct conf_service *c = &l->conf->service[s->service];

	for (uint32_t i = 0; i < c->nbackend; i++)
		if (strncmp(c->backend[i].name, m->name, sizeof(m->name)) == 0)
			return ((int32_t)i);
	return ((int32_t)m->backend < (int32_t)c->nbackend ? (int32_t)m->backend : -1);
}

void
connector_picked(struct listener *l, const struct msg_picked *m)
{
	struct sess *s;

	TAILQ_FOREACH(s, &l->by_route[m->id % HASH], hash)
		if (s->pick_id == m->id)
			break;
	if (s == NULL) {	/* its session ended meanwhile */
		struct msg_free f = { .service = m->service, .backend = m->backend };

		if (m->why == 0)
			(void)msg_send_free(&l->balancer, &f, bytes("", 0), NULL);
		return;
	}
	unhash(s);
	if (m->why != 0) {
		say_none(s, m->why);
		return;
	}
	s->backend = pick_number(l, s, m);
	s->xclient = (m->flags & 1) != 0;
	memccpy(s->backend_name, m->name, 0, sizeof(s->backend_name) - 1);
	connector_to(s, (const struct sockaddr *)(const void *)m->addr, m->addrlen);
}

static void
stop_connect(struct sess *s, bool keep)
{
	if (s->conn.watched)
		(void)epoll_ctl(s->l->connecting, EPOLL_CTL_DEL, s->conn.fd, NULL);
	s->conn.watched = false;
	ev_timer_stop(s->l->w->loop, &s->conn.timer);
	if (!keep && s->conn.fd != -1)
		close(s->conn.fd);
	s->conn.fd = -1;
}

/* What we have too little of says nothing of a backend. */
static bool
ours(int e)
{
	return (e == EMFILE || e == ENFILE || e == ENOMEM || e == ENOBUFS || e == EADDRNOTAVAIL || e == EAGAIN);
}

/* e: errno, 0: none. */
static void
failed(struct sess *s, const char *why, int e)
{
	struct msg_bfail m = { .service = s->service, .backend = (uint32_t)s->backend, .how = BFAIL_CONNECT };

	stop_connect(s, false);
	if (s->state == SESS_PROBE) {
		struct msg_nobackend n = { .id = s->route_id, .why = 1 };

		snprintf(s->user, sizeof(s->user), "%s", why);	/* for the probe's result */
		(void)msg_send_nobackend(&s->chan, &n, bytes("", 0), NULL);
		return;
	}
	log_info("session %s: backend %s: connect: %s", s->peer.session, s->backend_name, why);
	if (s->l->balancer.fd != -1 && !ours(e))
		(void)msg_send_bfail(&s->l->balancer, &m, bytes("", 0), NULL);
	if (s->backend >= 0)
		s->avoid |= UINT64_C(1) << (s->backend % 64);
	connector_release(s);
	pick(s);
}

static const struct conf_backend *
conf_of(const struct sess *s)
{
	const struct conf_service *c = &s->l->conf->service[s->service];

	return (s->backend >= 0 && (uint32_t)s->backend < c->nbackend ? &c->backend[s->backend] : NULL);
}

static void
hand_over(struct sess *s)
{
	const struct conf_backend *c = conf_of(s);
	struct msg_backend m = { .id = s->route_id, .backend = (uint32_t)s->backend,
	    .flags = s->xclient | (c != NULL && c->tls.mode == MODE_STARTTLS ? 2u : 0) };
	int fd = s->conn.fd;

	stop_connect(s, true);
	s->backend_told = m.backend;
	s->lacked = 0;
	memcpy(m.name, s->backend_name, sizeof(m.name));
	if (msg_send_backend(&s->chan, &m, bytes("", 0), &fd) == -1)
		log_warn("session %s: backend not handed over", s->peer.session);
	close(fd);
	deposit_news(s);
}

/* The header for a connection of fd. Version 1 cannot say that it is our own: then it has our own ends, as that of a
 * health check of HAProxy, since Postfix takes no UNKNOWN. */
static void
proxy_header(struct out *o, int version, const struct sess *s, int fd)
{
	struct peerinfo p = s->peer;
	struct sockaddr_storage a = { 0 };
	socklen_t n = sizeof(a);
	bool v6;

	if (version == 1 && p.addr[0] == '\0') {
		if (getsockname(fd, (struct sockaddr *)&a, &n) == 0)
			sessions_address(&a, p.addr, sizeof(p.addr), &p.port, &p.v6);
		n = sizeof(a);
		if (getpeername(fd, (struct sockaddr *)&a, &n) == 0)
			sessions_address(&a, p.local, sizeof(p.local), &p.local_port, &v6);
	}
	proxy_compose(o, version, &p, &s->tls);
}

static void
connected(struct sess *s)
{
	const struct conf_backend *c = conf_of(s);
	int fd = s->conn.fd;
	uint8_t space[1024];
	struct out header = { space, 0, sizeof(space), false };

	/* the first octets of a fresh connection: there is room for them (protocols.md 2.5) */
	if (c != NULL && c->proxy != 0) {
		proxy_header(&header, c->proxy, s, fd);
		if (send(fd, space, header.len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)header.len) {
			failed(s, "PROXY header not taken", 0);
			return;
		}
		s->proxied = c->proxy;
	}
	if (c == NULL || c->tls.mode != MODE_IMPLICIT) {
		hand_over(s);
		return;
	}
	stop_connect(s, true);
	secure_connect(s, fd);
}

void
connector_secured(struct sess *s, int fd, const char *why)
{
	char text[160];

	if (fd == -1) {
		snprintf(text, sizeof(text), "TLS: %s", why);
		failed(s, text, 0);
		return;
	}
	s->conn.fd = fd;
	hand_over(s);
}

static void
on_connect(struct sess *s)
{
	int e = 0;
	socklen_t n = sizeof(e);

	if (getsockopt(s->conn.fd, SOL_SOCKET, SO_ERROR, &e, &n) == -1)
		e = errno;
	if (e != 0)
		failed(s, strerror(e), e);
	else
		connected(s);
}

static void
on_connecting(struct ev_loop *loop, ev_io *io, int events)
{
	struct listener *l = io->data;
	struct epoll_event ev;

	(void)loop, (void)events;
	/* one at a time: what is done for one may end another */
	while (epoll_wait(l->connecting, &ev, 1, 0) == 1)
		on_connect(ev.data.ptr);
}

int
connector_start(struct listener *l)
{
	if ((l->connecting = epoll_create1(EPOLL_CLOEXEC)) == -1)
		return (-1);
	ev_io_init(&l->connecting_io, on_connecting, l->connecting, EV_READ);
	l->connecting_io.data = l;
	ev_io_start(l->w->loop, &l->connecting_io);
	return (0);
}

static void
on_connect_timeout(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop, (void)events;
	failed(t->data, strerror(ETIMEDOUT), 0);
}

void
connector_to(struct sess *s, const struct sockaddr *to, socklen_t len)
{
	static const int on = 1, user_timeout = 30000, idle = 60, every = 10;
	const struct times *times = &s->l->service[s->service].times;
	struct epoll_event ev = { .events = EPOLLOUT, .data.ptr = s };
	int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	s->conn.fd = fd;
	if (fd == -1) {
		failed(s, strerror(errno), errno);
		return;
	}
	if (to->sa_family == AF_INET || to->sa_family == AF_INET6) {
		/* a host that vanished without a word is found by these two (protocols.md 0.4) */
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
		setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
		setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
		setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof(user_timeout));
	}
	if (connect(fd, to, len) == 0) {
		connected(s);
		return;
	}
	if (errno != EINPROGRESS) {
		failed(s, strerror(errno), errno);
		return;
	}
	if (epoll_ctl(s->l->connecting, EPOLL_CTL_ADD, fd, &ev) == -1) {
		failed(s, strerror(errno), errno);
		return;
	}
	s->conn.watched = true;
	ev_timer_init(&s->conn.timer, on_connect_timeout, times->connect / 1000.0, 0);
	s->conn.timer.data = s;
	ev_timer_start(s->l->w->loop, &s->conn.timer);
}

void
connector_cancel(struct sess *s)
{
	if (s->conn.fd != -1)
		stop_connect(s, false);
	secure_cancel_backend(s);
	unhash(s);
}
