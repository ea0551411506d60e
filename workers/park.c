/*
 * park - sessions without a process: the listener watches both their sockets and wakes them (listener.h)
 *
 * What a parked session is stands in its journal. When its client or its backend says something, when a time is up that its
 * process named, or when there is something to tell it, it waits for a process as one does whose process died. Of those
 * that speak at once no more are woken than WAKES in a period: the others are heard in the next one.
 *
 * The sockets are in an epoll set of our own, inside libev's, each for one event: what is never read here stays readable.
 */
#include <sys/epoll.h>
#include <errno.h>
#include <unistd.h>

#include "supervisor/clock.h"
#include "supervisor/log.h"
#include "workers/listener.h"
#include "workers/reason.h"

enum { WAKES = 100 };
static const ev_tstamp period = 0.05;

static int
watch(struct sess *s, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, .data.ptr = s };

	return (fd == -1 ? 0 : epoll_ctl(s->l->parked, EPOLL_CTL_ADD, fd, &ev));
}

static void
ignore(struct sess *s)
{
	if (s->client != -1)
		(void)epoll_ctl(s->l->parked, EPOLL_CTL_DEL, s->client, NULL);
	if (s->kept_backend != -1)
		(void)epoll_ctl(s->l->parked, EPOLL_CTL_DEL, s->kept_backend, NULL);
	ev_timer_stop(s->l->w->loop, &s->deadline);
}

void
park_wake(struct sess *s)
{
	if (s->state != SESS_PARKED)
		return;
	ignore(s);
	s->l->nparked--;
	s->state = SESS_RESUMING;
	keep_want(s);
}

static void
on_time(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop, (void)events;
	park_wake(t->data);
}

void
park_begin(struct sess *s, int backend, uint64_t wake_ms)
{
	struct listener *l = s->l;
	uint64_t now = clock_ms();

	s->state = SESS_PARKED;
	s->kept_backend = backend;
	s->wake_ms = wake_ms;
	s->pid = 0;
	s->idle_since = ev_now(l->w->loop);
	l->nparked++;
	if (watch(s, s->client) == -1 || watch(s, s->kept_backend) == -1) {
		log_warn("session %s: cannot be watched", s->peer.session);
		park_wake(s);
		return;
	}
	if (wake_ms == 0)
		return;
	ev_timer_stop(l->w->loop, &s->deadline);
	ev_timer_init(&s->deadline, on_time, wake_ms > now ? (double)(wake_ms - now) / 1000. : 0., 0.);
	s->deadline.data = s;
	ev_timer_start(l->w->loop, &s->deadline);
}

void
park_free(struct sess *s)
{
	if (s->state == SESS_PARKED) {
		ignore(s);
		s->l->nparked--;
	}
	if (s->kept_backend != -1)
		close(s->kept_backend);
	s->kept_backend = -1;
}

/* Its process has said PARK: nothing more comes from it. */
void
park_said(struct sess *s, int backend, uint64_t wake_ms, bool moving)
{
	chan_close(&s->chan);
	connector_cancel(s);
	if (backend == -1)
		connector_release(s);
	park_begin(s, backend, wake_ms);
	deposit_changed(s);
	if (moving || s->kicked || s->moved_off)
		park_wake(s);
}

void
park_stop(struct listener *l)
{
	struct sess *s, *next;

	for (s = TAILQ_FIRST(&l->active); s != NULL; s = next) {
		next = TAILQ_NEXT(s, link);
		if (s->state == SESS_PARKED)
			sessions_goodbye(s);
	}
}

static void
on_period(struct ev_loop *loop, ev_timer *t, int events)
{
	struct listener *l = t->data;

	(void)loop, (void)events;
	ev_io_start(l->w->loop, &l->parked_io);
}

static void
on_speaks(struct ev_loop *loop, ev_io *io, int events)
{
	struct listener *l = io->data;
	struct epoll_event ev;

	(void)loop, (void)events;
	for (int n = 0; n < WAKES; n++) {
		if (epoll_wait(l->parked, &ev, 1, 0) != 1)
			return;
		park_wake(ev.data.ptr);
	}
	ev_io_stop(l->w->loop, &l->parked_io);
	ev_timer_stop(l->w->loop, &l->parked_timer);
	ev_timer_set(&l->parked_timer, period, 0.);
	ev_timer_start(l->w->loop, &l->parked_timer);
}

int
park_start(struct listener *l)
{
	if ((l->parked = epoll_create1(EPOLL_CLOEXEC)) == -1)
		return (-1);
	ev_io_init(&l->parked_io, on_speaks, l->parked, EV_READ);
	ev_timer_init(&l->parked_timer, on_period, period, 0.);
	l->parked_io.data = l->parked_timer.data = l;
	ev_io_start(l->w->loop, &l->parked_io);
	return (0);
}
