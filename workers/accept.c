/*
 * accept - clients come in when they can be served (listener.h)
 *
 * One for whom there is no process, or no backend yet, stays in the accept queue, where the successor of a listener that dies
 * finds him; not for longer than he may be kept waiting. One who is to be served by others first comes in at once.
 */
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <errno.h>
#include <stdlib.h>

#include "supervisor/clock.h"
#include "supervisor/log.h"
#include "workers/listener.h"

enum { ACCEPTS = 64 };		/* a turn, so that other sockets and channels get theirs */

ev_tstamp
listener_clock(void)
{
	return ((ev_tstamp)clock_ms() / 1000.);
}

/* A session takes up to four descriptors here (content above what the journal holds is one) and, once it is kept, in the fdstore that
 * the listeners of a share have in common. */
bool
accept_room(struct listener *l)
{
	const rlim_t spare = 64 + l->files / 16;
	rlim_t used = KEEP_FDS * (rlim_t)counts_of_share(&l->counts) + l->nwaiting + l->ndelayed + l->nproxied + 2 * l->nhandshakes;
	bool room = used + spare < l->files;

	if (!room && l->counts.mine->full == 0)
		log_warnx("%u sessions: no more are taken, since a process may have %llu descriptors", l->nactive,
		    (unsigned long long)l->files);
	counts_full(&l->counts, !room);
	return (room);
}

static bool
servable(struct listener *l, const struct lsock *k)
{
	const struct conf_listen *c = &l->conf->service[k->service].listen[k->index];

	return (accept_room(l) &&
	    ((l->nwarm > 0 && l->service[k->service].offer.known) || c->tls == MODE_IMPLICIT || c->nproxy > 0));
}

/* Who was kept waiting for too long comes in to be told so, unless another listener may still have room for him. */
static bool
may_accept(struct listener *l, const struct lsock *k)
{
	if (servable(l, k))
		return (true);
	return (k->held_since != 0 && listener_clock() - k->held_since > l->service[k->service].times.queue / 1000.0 &&
	    (accept_room(l) || counts_all_full(&l->counts)));
}

static void
hold(struct listener *l, struct lsock *k)
{
	if (k->held_since == 0)
		k->held_since = listener_clock();
	ev_io_stop(l->w->loop, &k->io);
	counts_watching(&l->counts, false);
	sessions_top_up(l);
}

void
accept_unhold(struct listener *l)
{
	struct lsock *k;

	TAILQ_FOREACH(k, &l->socks, link)
		if (k->held_since != 0 && may_accept(l, k)) {
			if (servable(l, k))
				k->held_since = 0;
			ev_io_start(l->w->loop, &k->io);	/* who rests holds nobody: accept_tick */
			counts_watching(&l->counts, true);
		}
}

void
accept_tick(struct listener *l)
{
	bool watching = false, rest;
	struct lsock *k;

	TAILQ_FOREACH(k, &l->socks, link)
		watching = watching || ev_is_active(&k->io);
	rest = !counts_turn(&l->counts, (uint64_t)listener_clock(), l->came, watching);
	l->came = 0;
	if (rest == l->resting)
		return;
	l->resting = rest;
	counts_watching(&l->counts, !rest);
	TAILQ_FOREACH(k, &l->socks, link)
		if (rest) {
			ev_io_stop(l->w->loop, &k->io);
			k->held_since = 0;	/* it is others' now, how long a client waits */
		} else
			ev_io_start(l->w->loop, &k->io);
}

/* How many are in the accept queues of sockets that are held off. */
uint32_t
accept_queued(const struct listener *l)
{
	const struct lsock *k;
	uint32_t n = 0;

	TAILQ_FOREACH(k, &l->socks, link) {
		struct tcp_info t = { 0 };
		socklen_t size = sizeof(t);

		if (k->held_since != 0 && getsockopt(k->fd, IPPROTO_TCP, TCP_INFO, &t, &size) == 0)
			n += t.tcpi_unacked;	/* of a listening socket: this (tcp(7) does not say so) */
	}
	return (n);
}

/* What a client is, as its listening socket is configured; takes fd. */
static void
arrived(struct listener *l, const struct lsock *k, int fd, const struct sockaddr_storage *from)
{
	const struct conf_listen *c = &l->conf->service[k->service].listen[k->index];
	struct sockaddr_storage local = { 0 };
	socklen_t n = sizeof(local);
	struct waiting *w = calloc(1, sizeof(*w));
	bool v6;

	l->service[k->service].accepted++;
	l->came++;
	if (w == NULL) {
		sessions_refuse(l, k->service, fd, WHY_BUSY, false);
		return;
	}
	*w = (struct waiting){ .l = l, .fd = fd, .service = k->service, .auth_plaintext = c->auth_plaintext, .mode = c->tls,
	    .since = ev_now(l->w->loop), .came = listener_clock() };
	sessions_address(from, w->ends.addr, sizeof(w->ends.addr), &w->ends.port, &w->ends.v6);
	if (getsockname(fd, (struct sockaddr *)&local, &n) == 0)
		sessions_address(&local, w->ends.local, sizeof(w->ends.local), &w->ends.local_port, &v6);
	if (conf_in_nets(c->proxy, c->nproxy, w->ends.addr))
		proxied_wait(w);
	else
		sessions_arrived(w);
}

void
accept_clients(struct listener *l, struct lsock *k)
{
	for (int i = 0; i < ACCEPTS && !l->stopping; i++) {
		struct sockaddr_storage from = { 0 };
		socklen_t n = sizeof(from);
		int fd;

		if (!may_accept(l, k)) {
			hold(l, k);
			break;
		}
		fd = accept4(k->fd, (struct sockaddr *)&from, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd == -1) {
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
				log_warn("accept");
				hold(l, k);	/* the client stays in the queue: in a second again */
			}
			break;
		}
		arrived(l, k, fd, &from);
	}
}
