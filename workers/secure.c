/*
 * secure - TLS for clients and backends of this listener's, done by tls processes (listener.h)
 *
 * A socket that is to speak TLS goes to a tls process together with one end of a pair; when the handshake is done the other
 * end, the clear one, takes the socket's place: in what waits to be served, or as a session's backend. A session whose client
 * begins TLS has made the pair itself and learns on its clear end how it goes, so that it does not need us. Nobody here
 * holds the socket from then on. Who ends meanwhile forgets the handshake, and its result is closed.
 *
 * The processes are forked by the keeper of keys; each listener spreads its connections over as many as there are CPUs,
 * or over as many as sessions-per-process wants. One whose certificates are old gets no more and ends with its last connection.
 */
#include <sys/socket.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/listener.h"

enum { DEADLINE_S = 40, SPARE = 2, WANT_MAX = 64, CPUS_MAX = 64 };

struct tlsproc {
	struct listener	*l;
	struct chan	 chan;
	uint64_t	 serial;
	uint32_t	 pid, sessions, handshakes, served;
	bool		 retired;
	TAILQ_ENTRY(tlsproc) link;
};

enum whose { WHOSE_WAITING, WHOSE_CLIENT, WHOSE_CONNECT, WHOSE_BACKEND };

struct handshake {
	struct listener	*l;
	uint64_t	 id, asked;		/* asked: the session's own number of its question */
	enum whose	 whose;
	void		*who;			/* NULL: ended meanwhile */
	struct tlsproc	*proc;			/* NULL: waits for one */
	int		 net, far, clear;	/* net, far: -1 once sent; far: of a pair that a session made; clear: of ours */
	ev_tstamp	 deadline;
	char		 service[CONF_NAME], backend[CONF_NAME];
	TAILQ_ENTRY(handshake) link;
};

/* --- results ---------------------------------------------------------------------------------------------------------- */

static void
forget(struct handshake *h)
{
	struct listener *l = h->l;

	TAILQ_REMOVE(&l->handshakes[h->id % HANDSHAKE_HASH], h, link);
	l->nhandshakes--;
	if (h->proc != NULL)
		h->proc->handshakes--;
	if (h->whose != WHOSE_WAITING && h->who != NULL) {
		struct sess *s = h->who;

		s->handshake[h->whose != WHOSE_CLIENT] = NULL;
	}
	if (h->net != -1)
		close(h->net);
	if (h->far != -1)
		close(h->far);
	if (h->clear != -1)
		close(h->clear);
	free(h);
}

static void
up(struct handshake *h, const struct tlsinfo *tls)
{
	struct msg_secured m = { .id = h->asked };
	struct sess *s = h->who;
	struct waiting *w = h->who;
	int fd = h->clear;

	switch (h->who == NULL ? WHOSE_CLIENT : h->whose) {
	case WHOSE_WAITING:
		h->clear = -1;
		forget(h);
		w->fd = fd;
		w->tls = *tls;
		sessions_wait(w);
		return;
	case WHOSE_CONNECT:
		s->backend_tls = *tls;
		h->clear = -1;
		forget(h);
		connector_secured(s, fd, NULL);
		return;
	case WHOSE_BACKEND:
		s->backend_tls = *tls;
		(void)msg_send_secured(&s->chan, &m, bytes("", 0), &fd);
		/* FALLTHROUGH */
	case WHOSE_CLIENT:		/* the session has heard it from the tls process */
		forget(h);
		return;
	}
}

static void
down(struct handshake *h, const char *why)
{
	struct msg_insecure m = { .id = h->asked, .side = h->whose == WHOSE_CLIENT ? SIDE_CLIENT : SIDE_BACKEND };
	enum whose whose = h->whose;
	struct listener *l = h->l;
	struct sess *s = h->who;
	struct waiting *w = h->who;

	forget(h);
	if (s == NULL)
		return;
	if (whose == WHOSE_WAITING) {
		log_info("%s: TLS handshake with %s failed: %s", l->b->name, w->ends.addr, why);
		l->service[w->service].tls_failed++;
		sessions_forget(w);
	} else if (whose == WHOSE_CONNECT)
		connector_secured(s, -1, why);
	else
		(void)msg_send_insecure(&s->chan, &m, bytes_str(why), NULL);
}

/* --- tls processes ------------------------------------------------------------------------------------------------------ */

static bool
uses_tls(const struct listener *l)
{
	for (uint32_t i = 0; i < l->conf->nservice; i++) {
		const struct conf_service *c = &l->conf->service[i];

		if (!l->service[i].mine)
			continue;
		if (c->tls.ncertificate != 0)
			return (true);
		for (uint32_t k = 0; k < c->nbackend; k++)
			if (c->backend[k].tls.mode != MODE_NONE)
				return (true);
	}
	return (false);
}

static uint32_t
cpus(void)
{
	static long n;

	if (n == 0 && ((n = sysconf(_SC_NPROCESSORS_ONLN)) < 1 || n > CPUS_MAX))
		n = n < 1 ? 1 : CPUS_MAX;
	return ((uint32_t)n);
}

/* Asks the keeper for as many as are missing. */
static void
want(struct listener *l)
{
	uint32_t limit = l->conf->tls_sessions, have = l->tls_coming, room = l->tls_coming * limit, need;
	struct msg_tlswant m = { 0 };
	struct tlsproc *p;

	if (l->tls.fd == -1 || l->stopping || !uses_tls(l))
		return;
	TAILQ_FOREACH(p, &l->tlsprocs, link)
		if (!p->retired) {
			have++;
			room += p->sessions < limit ? limit - p->sessions : 0;
		}
	need = l->nunsent + SPARE;
	if (limit == 0)
		m.n = have < cpus() ? cpus() - have : 0;
	else
		m.n = room < need ? (need - room + limit - 1) / limit : 0;
	if (m.n > WANT_MAX)
		m.n = WANT_MAX;
	if (m.n > 0 && msg_send_tlswant(&l->tls, &m, bytes("", 0), NULL) == 0)
		l->tls_coming += m.n;
}

static void
drop(struct tlsproc *p)
{
	struct handshake *h, *next;

	TAILQ_REMOVE(&p->l->tlsprocs, p, link);
	chan_close(&p->chan);
	for (uint32_t i = 0; i < HANDSHAKE_HASH && p->handshakes > 0; i++)
		for (h = TAILQ_FIRST(&p->l->handshakes[i]); h != NULL; h = next) {
			next = TAILQ_NEXT(h, link);
			if (h->proc == p)
				down(h, "the tls process has ended");
		}
	free(p);
}

/* No more for this one; without its channel it ends when its last connection has. */
static void
retire(struct tlsproc *p)
{
	p->retired = true;
	if (p->handshakes == 0)
		drop(p);
}

static struct tlsproc *
choose(struct listener *l)
{
	uint32_t limit = l->conf->tls_sessions;
	struct tlsproc *p, *best = NULL;

	TAILQ_FOREACH(p, &l->tlsprocs, link)
		if (!p->retired && (limit == 0 || p->sessions < limit) && (limit != 1 || p->served == 0) &&
		    (best == NULL || p->sessions < best->sessions))
			best = p;
	return (best);
}

static void
hand_over(struct handshake *h, struct tlsproc *p)
{
	int pair[2], fd[2], r;

	h->proc = p;
	p->handshakes++;
	p->sessions++;
	p->served++;
	h->l->nunsent--;
	if (h->far == -1) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == -1) {
			p->sessions--;
			down(h, strerror(errno));
			return;
		}
		h->clear = pair[0];
		h->far = pair[1];
	}
	fd[0] = h->net;
	fd[1] = h->far;
	if (h->whose == WHOSE_WAITING || h->whose == WHOSE_CLIENT) {
		struct msg_tlsserve m = { .id = h->id, .tell = h->whose == WHOSE_CLIENT };

		memcpy(m.service, h->service, sizeof(m.service));
		memccpy(m.alpn, h->l->b->alpn, 0, sizeof(m.alpn) - 1);
		r = msg_send_tlsserve(&p->chan, &m, bytes("", 0), fd);
	} else {
		struct msg_tlsdial m = { .id = h->id };

		memcpy(m.service, h->service, sizeof(m.service));
		memcpy(m.backend, h->backend, sizeof(m.backend));
		r = msg_send_tlsdial(&p->chan, &m, bytes("", 0), fd);
	}
	close(h->far);
	close(h->net);
	h->far = h->net = -1;
	if (r == -1) {
		p->sessions--;
		down(h, "the tls process does not listen");
	}
}

/* Those that wait for a process, as far as there are some. */
static void
serve(struct listener *l)
{
	struct handshake *h, *next;
	struct tlsproc *p;

	for (uint32_t i = 0; i < HANDSHAKE_HASH && l->nunsent > 0; i++)
		for (h = TAILQ_FIRST(&l->handshakes[i]); h != NULL; h = next) {
			next = TAILQ_NEXT(h, link);
			if (h->proc == NULL && (p = choose(l)) != NULL)
				hand_over(h, p);
		}
	want(l);
}

static struct handshake *
find(struct tlsproc *p, uint64_t id)
{
	struct handshake *h;

	TAILQ_FOREACH(h, &p->l->handshakes[id % HANDSHAKE_HASH], link)
		if (h->id == id && h->proc == p)
			return (h);
	return (NULL);
}

static void
one_less(struct tlsproc *p)
{
	if (p->sessions > 0)
		p->sessions--;
	/* one process a connection means one connection a process */
	if ((p->retired || (p->l->conf->tls_sessions == 1 && p->sessions == 0)) && p->handshakes == 0)
		retire(p);
}

static int
on_up(void *self, struct chan *c, const struct msg_tlsup *m, struct bytes tail, int fd[])
{
	struct tlsproc *p = self;
	struct handshake *h = find(p, m->id);

	(void)c, (void)tail, (void)fd;
	if (h == NULL)
		return (-1);
	up(h, &m->tls);
	if (p->retired && p->handshakes == 0)
		drop(p);
	return (0);
}

static int
on_down(void *self, struct chan *c, const struct msg_tlsdown *m, struct bytes tail, int fd[])
{
	struct tlsproc *p = self;
	struct handshake *h = find(p, m->id);
	char why[128];

	(void)c, (void)fd;
	if (h == NULL)
		return (-1);
	bytes_text(tail, why, sizeof(why));
	down(h, why);
	one_less(p);
	return (0);
}

static int
on_end(void *self, struct chan *c, const struct msg_tlsend *m, struct bytes tail, int fd[])
{
	(void)c, (void)m, (void)tail, (void)fd;
	one_less(self);
	return (0);
}

static const struct gw_inbox inbox = { .tlsup = on_up, .tlsdown = on_down, .tlsend = on_end };

static int
on_message(void *self, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&inbox, self, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_gone(void *self, struct chan *c, const char *why)
{
	struct tlsproc *p = self;
	struct listener *l = p->l;

	(void)c, (void)why;
	drop(p);
	serve(l);
}

void
secure_news(struct listener *l, uint64_t serial)
{
	struct tlsproc *p, *next;

	l->tls_serial = serial;
	l->tls_coming = 0;
	for (p = TAILQ_FIRST(&l->tlsprocs); p != NULL; p = next) {
		next = TAILQ_NEXT(p, link);
		if (p->serial < serial)
			retire(p);
	}
	want(l);
}

void
secure_child(struct listener *l, int fd, const struct msg_tlschild *m)
{
	struct tlsproc *p = calloc(1, sizeof(*p));

	if (l->tls_coming > 0)
		l->tls_coming--;
	l->tls_patience = (struct patience){ 0 };
	if (p == NULL || m->serial < l->tls_serial) {
		close(fd);
		free(p);
		want(l);
		return;
	}
	*p = (struct tlsproc){ .l = l, .serial = m->serial, .pid = m->pid };
	p->chan = (struct chan){ .me = R_LISTENER, .peer = R_PUMP, .name = "tls process", .self = p, .read = on_message,
	    .gone = on_gone, .queue_max = 4096 };
	chan_open(&p->chan, l->w->loop, fd);
	TAILQ_INSERT_TAIL(&l->tlsprocs, p, link);
	serve(l);
}

/* --- what the others ask for ----------------------------------------------------------------------------------------------- */

static struct handshake *
start(struct listener *l, enum whose whose, void *who, uint64_t asked, int net, int far, uint32_t service, const char *backend)
{
	struct handshake *h = calloc(1, sizeof(*h));
	struct tlsproc *p;

	if (h == NULL) {
		close(net);
		if (far != -1)
			close(far);
		return (NULL);
	}
	*h = (struct handshake){ .l = l, .id = ++l->next_handshake, .asked = asked, .whose = whose, .who = who, .net = net, .far = far, .clear = -1,
	    .deadline = listener_clock() + DEADLINE_S };
	memccpy(h->service, l->service[service].name, 0, sizeof(h->service) - 1);
	memccpy(h->backend, backend, 0, sizeof(h->backend) - 1);
	TAILQ_INSERT_TAIL(&l->handshakes[h->id % HANDSHAKE_HASH], h, link);
	l->nhandshakes++;
	l->nunsent++;
	if (whose != WHOSE_WAITING)
		((struct sess *)who)->handshake[whose != WHOSE_CLIENT] = h;
	if ((p = choose(l)) != NULL)
		hand_over(h, p);
	want(l);
	return (h);
}

void
secure_waiting(struct listener *l, struct waiting *w)
{
	int net = w->fd;

	w->fd = -1;
	if (start(l, WHOSE_WAITING, w, 0, net, -1, w->service, "") == NULL)
		sessions_forget(w);
}

void
secure_connect(struct sess *s, int net)
{
	if (start(s->l, WHOSE_CONNECT, s, 0, net, -1, s->service, s->backend_name) == NULL)
		connector_secured(s, -1, "out of memory");
}

int
secure_client(struct sess *s, int net, int far)
{
	if (s->handshake[SIDE_CLIENT] != NULL) {
		close(net);
		close(far);
		return (-1);
	}
	return (start(s->l, WHOSE_CLIENT, s, 0, net, far, s->service, "") != NULL ? 0 : -1);
}

int
secure_backend(struct sess *s, uint64_t id, int net)
{
	if (s->handshake[SIDE_BACKEND] != NULL) {
		close(net);
		return (-1);
	}
	return (start(s->l, WHOSE_BACKEND, s, id, net, -1, s->service, s->backend_name) != NULL ? 0 : -1);
}

static void
cancel(struct handshake **at)
{
	if (*at != NULL)
		(*at)->who = NULL;
	*at = NULL;
}

void
secure_cancel_backend(struct sess *s)
{
	cancel(&s->handshake[SIDE_BACKEND]);
}

void
secure_cancel(struct sess *s)
{
	cancel(&s->handshake[SIDE_CLIENT]);
	cancel(&s->handshake[SIDE_BACKEND]);
}

void
secure_tick(struct listener *l)
{
	struct handshake *h, *next;

	for (uint32_t i = 0; i < HANDSHAKE_HASH && l->nhandshakes > 0; i++)
		for (h = TAILQ_FIRST(&l->handshakes[i]); h != NULL; h = next) {
			next = TAILQ_NEXT(h, link);
			if (listener_clock() < h->deadline)
				continue;
			if (h->proc == NULL)
				l->nunsent--;
			down(h, "timed out");
		}
	if (sessions_overdue(&l->tls_patience, l->tls_coming))
		l->tls_coming = 0;
	want(l);
}

void
secure_refuse_all(struct listener *l)
{
	struct handshake *h, *next;

	for (uint32_t i = 0; i < HANDSHAKE_HASH && l->nhandshakes > 0; i++)
		for (h = TAILQ_FIRST(&l->handshakes[i]); h != NULL; h = next) {
			next = TAILQ_NEXT(h, link);
			if (h->whose != WHOSE_WAITING)
				continue;
			if (h->proc == NULL)
				l->nunsent--;
			down(h, "the gateway stops");
		}
}

void
secure_start(struct listener *l)
{
	TAILQ_INIT(&l->tlsprocs);
	for (uint32_t i = 0; i < HANDSHAKE_HASH; i++)
		TAILQ_INIT(&l->handshakes[i]);
	l->tls.fd = -1;
}
