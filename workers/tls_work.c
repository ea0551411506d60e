/*
 * tls_work - a tls process: TLS of some connections of one listener's (tls.h)
 *
 * IN     TLSSERVE TLSDIAL     from its listener, its only channel
 * OUT    TLSUP TLSDOWN TLSEND
 * HOLDS  the sockets and clear ends of its connections; certificates and private keys, by its keeper's fork
 * LOSES  when it dies: its own connections, no other
 *
 * It goes on without its listener and its keeper until its last connection has ended. A loop around epoll: edge-triggered
 * sockets cost no call but their own.
 */
#include <sys/epoll.h>
#include <errno.h>
#include <unistd.h>

#include "supervisor/clock.h"
#include "supervisor/log.h"
#include "workers/tls.h"

enum { EVENTS = 128, MESSAGES = 16 };

static struct work self;

static void
refuse(struct work *w, uint64_t id, const char *why)
{
	struct msg_tlsdown m = { .id = id };

	(void)msg_send_tlsdown(&w->listener, &m, bytes_str(why), NULL);
}

static int
on_serve(void *self_, struct chan *c, const struct msg_tlsserve *m, struct bytes tail, int fd[])
{
	struct work *w = self_;
	char name[CONF_NAME], alpn[16];
	struct tls_service *s;

	(void)c, (void)tail;
	bytes_text(bytes(m->service, strnlen(m->service, sizeof(m->service))), name, sizeof(name));
	bytes_text(bytes(m->alpn, strnlen(m->alpn, sizeof(m->alpn))), alpn, sizeof(alpn));
	if ((s = tls_service(w->set, name)) == NULL) {
		refuse(w, m->id, "no usable certificate");
		return (0);
	}
	(void)pump_start(w, m->id, s, NULL, alpn, fd[0], fd[1], m->tell != 0);
	fd[0] = fd[1] = -1;
	return (0);
}

static int
on_dial(void *self_, struct chan *c, const struct msg_tlsdial *m, struct bytes tail, int fd[])
{
	struct work *w = self_;
	char service[CONF_NAME], name[CONF_NAME];
	struct tls_backend *b;

	(void)c, (void)tail;
	bytes_text(bytes(m->service, strnlen(m->service, sizeof(m->service))), service, sizeof(service));
	bytes_text(bytes(m->backend, strnlen(m->backend, sizeof(m->backend))), name, sizeof(name));
	if ((b = tls_backend(w->set, service, name)) == NULL) {
		refuse(w, m->id, "TLS to this backend is not configured");
		return (0);
	}
	(void)pump_start(w, m->id, NULL, b, "", fd[0], fd[1], false);
	fd[0] = fd[1] = -1;
	return (0);
}

static const struct gw_inbox inbox = { .tlsserve = on_serve, .tlsdial = on_dial };

static int
on_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&inbox, self_, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_gone(void *self_, struct chan *c, const char *why)
{
	(void)self_, (void)why;
	chan_close(c);
}

/* The channel is level-triggered: it may have more than is read in a turn. */
static void
watch_channel(struct work *w, bool want_write)
{
	static bool now;
	struct epoll_event e = { .events = EPOLLIN | (want_write ? EPOLLOUT : 0u), .data.ptr = NULL };

	if (w->listener.fd == -1 || now == want_write)
		return;
	now = want_write;
	(void)epoll_ctl(w->epoll, EPOLL_CTL_MOD, w->listener.fd, &e);
}

static void
turn(struct work *w)
{
	struct epoll_event e[EVENTS];
	int n = epoll_wait(w->epoll, e, EVENTS, pump_timeout(w));
	bool spoke = false;

	if (n == -1 && errno != EINTR)
		_exit(1);
	w->now = clock_ms();
	for (int i = 0; i < n; i++)
		if (e[i].data.ptr != NULL)
			pump_event(w, e[i].data.ptr, e[i].events);
		else
			spoke = true;
	pump_ready(w);
	for (int i = 0; spoke && i < MESSAGES && chan_poll(&w->listener) == 1; i++)
		;
	pump_deadlines(w);
	watch_channel(w, w->listener.queued > 0);
}

_Noreturn void
tls_work(struct tls_set *set, int chan_fd)
{
	struct work *w = &self;
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL };

	*w = (struct work){ .set = set, .epoll = epoll_create1(EPOLL_CLOEXEC), .now = clock_ms() };
	TAILQ_INIT(&w->ready);
	for (int i = 0; i < WAITING; i++)
		TAILQ_INIT(&w->waiting[i]);
	w->listener = (struct chan){ .me = R_PUMP, .peer = R_LISTENER, .name = "listener", .self = w, .read = on_message,
	    .gone = on_gone, .queue_max = 65536 };
	chan_open(&w->listener, NULL, chan_fd);
	if (w->epoll == -1 || epoll_ctl(w->epoll, EPOLL_CTL_ADD, chan_fd, &e) == -1)
		_exit(1);
	while (w->listener.fd != -1 || w->npumps > 0)
		turn(w);
	_exit(0);
}
