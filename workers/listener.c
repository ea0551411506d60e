/*
 * listener - accepts the clients of one protocol and gives each to a session process
 *
 * IN     STOP PEER LISTEN CONFIG from bmrd;  CHILD DIED ORPHAN from the zygote;  PICKED PROBE DRAIN from the balancer;
 *        ROUTE FAILED NEEDFILE NOTE BYE PROBED SECURE STARTTLS TLSON PARK PARKUP JOURNAL from sessions;  TLSCHILD TLSNEWS from the keeper
 *        of keys;  TLSUP TLSDOWN TLSEND from tls processes;  KEPT GIVEN ANEW LEAVE from the fdstore;  QUERY from admin
 * OUT    READY;  WANT RENEW;  PICK FREE BFAIL PROBERES HELD;  START GO BACKEND NOBACKEND FILE NOFILE MOVE KICK AGAIN YIELD
 *        SECURED INSECURE;  TLSWANT;  TLSSERVE TLSDIAL;  KEEP NEWS DROP GIVE;  ROW END
 * HOLDS  the listening sockets, clients that wait; of each session a channel, its client's socket and its journal
 * LOSES  when it dies: handshakes of implicit TLS, clients whose PROXY header is not whole. Its successor serves the accept queue, since the
 *        sockets are bmrd's, in which clients wait for a process, and gets from the fdstore all sessions older than a moment; younger
 *        ones come by way of the zygote
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "supervisor/clock.h"
#include "supervisor/log.h"
#include "workers/journal.h"
#include "workers/listener.h"
#include "workers/rows.h"
#include "workers/zygote.h"

static struct listener self;

/* --- configuration ------------------------------------------------------------------------------------------- */

#define FILL(field)	(to->field = to->field != 0 ? to->field : from->field)

static void
fill_limits(struct limits *to, const struct limits *from)
{
	FILL(line), FILL(reply), FILL(recipients), FILL(errors), FILL(message), FILL(spool_memory), FILL(log),
	    FILL(maildrop);
}

static void
fill_times(struct times *to, const struct times *from)
{
	FILL(connect), FILL(greeting), FILL(command), FILL(data_init), FILL(bulk), FILL(eod), FILL(login), FILL(idle),
	    FILL(client_bulk), FILL(hold), FILL(queue), FILL(unauth), FILL(hold_idle), FILL(keep_client),
	    FILL(keep_backend), FILL(login_failure), FILL(park);
	if (to->park == 0)
		to->park = 60000;
}

static void
take_conf(struct listener *l, const struct conf *c)
{
	l->conf = c;
	l->warm_target = 0;
	for (uint32_t i = 0; i < CONF_SERVICES; i++) {
		struct service *sv = &l->service[i];
		const struct conf_service *cs = &c->service[i];

		sv->mine = i < c->nservice && strcmp(cs->protocol, l->b->name) == 0;
		if (!sv->mine)
			continue;
		memcpy(sv->name, cs->name, sizeof(sv->name));
		sv->limits = cs->limits;
		sv->times = cs->times;
		fill_limits(&sv->limits, &l->b->limits);
		fill_times(&sv->times, &l->b->times);
		if (cs->warm > l->warm_target)
			l->warm_target = cs->warm;
	}
	if (l->warm_target == 0)
		l->warm_target = 4;
}

/* Its number now, -1: it is there no more. */
static int32_t
still_listens(const struct conf *now, const struct conf_service *was, uint32_t index)
{
	const struct conf_service *c = conf_service(now, was->name);

	if (c == NULL || strcmp(c->protocol, was->protocol) != 0)
		return (-1);
	for (uint32_t i = 0; i < c->nlisten; i++)
		if (c->listen[i].port == was->listen[index].port &&
		    strcmp(c->listen[i].address, was->listen[index].address) == 0)
			return ((int32_t)i);
	return (-1);
}

static void
drop_socket(struct listener *l, struct lsock *s)
{
	ev_io_stop(l->w->loop, &s->io);
	TAILQ_REMOVE(&l->socks, s, link);
	close(s->fd);
	free(s);
}

static int32_t
backend_named(const struct conf_service *c, const char *name)
{
	for (uint32_t i = 0; i < c->nbackend; i++)
		if (strcmp(c->backend[i].name, name) == 0)
			return ((int32_t)i);
	return (-1);
}

/* Sessions keep their service and backend by name. One whose backend is gone moves when it can; one whose service
 * is gone is told so. */
static void
renumber(struct listener *l, const struct conf *was, const struct conf *now)
{
	struct sess *s;

	for (uint32_t i = 0; i < CONF_SERVICES; i++)
		l->service[i].sessions = 0;
	TAILQ_FOREACH(s, &l->active, link) {
		const struct conf_service *c = conf_service(now, was->service[s->service].name);

		if (c == NULL || strcmp(c->protocol, l->b->name) != 0) {
			keep_kick(s, WHY_SHUTDOWN);
			s->backend = -1;
			s->service = 0;		/* any: it only ends */
		} else {
			s->service = (uint32_t)(c - now->service);
			if (s->backend != -1 && (s->backend = backend_named(c, s->backend_name)) == -1)
				keep_move(s);
		}
		if (s->state >= SESS_CLIENT)
			l->service[s->service].sessions++;
	}
	for (uint32_t i = 0; i < CONF_SERVICES; i++)
		counts_service(&l->counts, i, l->service[i].sessions);
}

/* Clients' sockets inherit it: the kernel sees that a client is there, and a NAT that the connection is in use. */
static void
tcp_keepalive(int fd, const struct times *t)
{
	const int on = t->keep_client != 0, idle = t->keep_client < 10000 ? 10 : (int)(t->keep_client / 1000), every = 30, times = 4;

	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	if (!on)
		return;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
}

/* A reload: sockets that the new image has no more are closed; services are matched by name. */
static void
on_config(struct worker *w, const void *image, size_t size)
{
	struct listener *l = w->self;
	const struct conf *now = conf_image(image, size), *was = l->conf;
	struct lsock *s, *next;

	if (now == NULL)
		return;
	for (s = TAILQ_FIRST(&l->socks); s != NULL; s = next) {
		int32_t index = still_listens(now, &was->service[s->service], s->index);

		next = TAILQ_NEXT(s, link);
		if (index == -1) {
			drop_socket(l, s);
			continue;
		}
		s->index = (uint32_t)index;
		s->service = (uint32_t)(conf_service(now, was->service[s->service].name) - now->service);
	}
	renumber(l, was, now);
	take_conf(l, now);
	TAILQ_FOREACH(s, &l->socks, link)
		tcp_keepalive(s->fd, &l->service[s->service].times);
	l->tell_held = 3;	/* the balancer may take the same image sooner or later than we do */
	for (uint32_t i = 0; i < now->nservice; i++)
		if (l->service[i].mine)
			probes_offer(l, i);
}

/* --- sockets ------------------------------------------------------------------------------------------------- */

static void
on_client(struct ev_loop *loop, ev_io *io, int events)
{
	struct lsock *s = io->data;

	(void)loop, (void)events;
	accept_clients(s->l, s);
}

static void
on_listen(struct worker *w, uint32_t index, const char *service, int fd)
{
	struct listener *l = w->self;
	const struct conf_service *c = conf_service(l->conf, service);
	struct lsock *s = c == NULL ? NULL : calloc(1, sizeof(*s));

	if (s == NULL) {
		close(fd);
		return;
	}
	*s = (struct lsock){ .l = l, .service = (uint32_t)(c - l->conf->service), .index = index, .fd = fd };
	ev_io_init(&s->io, on_client, fd, EV_READ);
	s->io.data = s;
	tcp_keepalive(fd, &l->service[s->service].times);
	TAILQ_INSERT_TAIL(&l->socks, s, link);
	if (!l->resting)
		ev_io_start(w->loop, &s->io);
}

/* --- the zygote ---------------------------------------------------------------------------------------------- */

static int
on_child(void *self_, struct chan *c, const struct msg_child *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail;
	sessions_child(self_, fd[0], m->pid, m->serial);
	fd[0] = -1;
	return (0);
}

static int
on_orphan(void *self_, struct chan *c, const struct msg_orphan *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail;
	return (deposit_orphan(self_, m, fd));
}

static int
on_died(void *self_, struct chan *c, const struct msg_died *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail, (void)fd;
	keep_died(self_, m);
	return (0);
}

/* --- the balancer -------------------------------------------------------------------------------------------- */

static int
on_picked(void *self_, struct chan *c, const struct msg_picked *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail, (void)fd;
	if (m->addrlen > sizeof(m->addr))
		return (-1);
	connector_picked(self_, m);
	return (0);
}

static int
on_probe(void *self_, struct chan *c, const struct msg_probe *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail, (void)fd;
	probes_start(self_, m);
	return (0);
}

static int
on_counts(void *self_, struct chan *c, const struct msg_counts *m, struct bytes tail, int fd[])
{
	struct listener *l = self_;

	(void)c, (void)tail;
	if (counts_table(&l->counts, m, fd[0]) == -1)
		log_warn("the counts of all listeners: limits are kept by each for itself");
	return (0);
}

static int
on_caps(void *self_, struct chan *c, const struct msg_caps *m, struct bytes tail, int fd[])
{
	struct listener *l = self_;

	(void)c, (void)tail, (void)fd;
	if (m->service >= l->conf->nservice || !l->service[m->service].mine ||
	    m->backend >= l->conf->service[m->service].nbackend ||
	    strncmp(l->conf->service[m->service].backend[m->backend].name, m->name, CONF_NAME) != 0)
		return (0);		/* of an image that one of us does not know yet, or any more */
	(void)probes_told(l, m->service, m->backend, m->name, &m->caps);
	return (0);
}

static int
on_logged(void *self_, struct chan *c, const struct msg_logged *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail, (void)fd;
	logins_count(self_, m);
	return (0);
}

static int
on_drain(void *self_, struct chan *c, const struct msg_drain *m, struct bytes tail, int fd[])
{
	struct listener *l = self_;
	struct sess *s;

	(void)c, (void)tail, (void)fd;
	if (!m->on)
		return (0);
	TAILQ_FOREACH(s, &l->active, link)
		if (s->state >= SESS_CLIENT && s->service == m->service && s->backend == (int32_t)m->backend)
			keep_move(s);
	return (0);
}

/* --- the keeper of keys ------------------------------------------------------------------------------------------ */

static int
on_tlschild(void *self_, struct chan *c, const struct msg_tlschild *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail;
	secure_child(self_, fd[0], m);
	fd[0] = -1;
	return (0);
}

static int
on_tlsnews(void *self_, struct chan *c, const struct msg_tlsnews *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail, (void)fd;
	secure_news(self_, m->serial);
	return (0);
}

/* --- admin --------------------------------------------------------------------------------------------------- */

/* Milliseconds since the client last got or sent something. */
static uint64_t
idle_ms(const struct sess *s)
{
	uint64_t now = clock_ms();
	struct core w;

	return (journal_peek(s->journal, &w) == -1 || w.told_at == 0 || w.told_at > now ? 0 : now - w.told_at);
}

static void
row_who(struct listener *l, struct sess *s, struct row *r)
{
	static const char *const state[] = { [SESS_CLIENT] = "active", [SESS_RESUMING] = "moving", [SESS_PARKED] = "parked" };

	row_begin(r);
	row_str(r, "session", s->peer.session);
	row_str(r, "protocol", l->b->name);
	row_str(r, "service", l->service[s->service].name);
	row_str(r, "listener", l->w->id);
	row_str(r, "user", s->user);
	row_str(r, "client", s->peer.addr);
	row_num(r, "client_port", s->peer.port);
	row_str(r, "backend", s->backend_name);
	row_str(r, "tls", s->tls.version);
	row_str(r, "cipher", s->tls.cipher);
	row_num(r, "pid", s->pid);
	row_str(r, "state", state[s->state]);
	row_num(r, "idle", idle_ms(s) / 1000);
	row_num(r, "resumed", s->resumed);
	row_num(r, "zygote", s->zygote);
	row_num(r, "failovers", s->failovers);
	row_num(r, "seconds", s->since < ev_now(l->w->loop) ? (uint64_t)(ev_now(l->w->loop) - s->since) : 0);	/* the clock may be set back */
	row_end(r);
}

static void
row_status(struct listener *l, uint32_t i, struct row *r)
{
	const struct service *sv = &l->service[i];
	char offer[1024] = "";

	if (sv->offer.known)
		l->b->show(&sv->offer, offer, sizeof(offer));
	row_begin(r);
	row_str(r, "service", sv->name);
	row_str(r, "protocol", l->b->name);
	row_num(r, "sessions", sv->sessions);
	row_num(r, "parked", l->nparked);
	row_num(r, "waiting", l->nwaiting + l->ndelayed + connector_lacking(l));
	row_num(r, "warm", l->nwarm);
	row_num(r, "accepted", sv->accepted);
	row_num(r, "refused", sv->refused);
	row_num(r, "ended", sv->ended);
	row_num(r, "handshakes", l->nhandshakes);
	row_num(r, "tls_failed", sv->tls_failed);
	row_num(r, "logins_failed", sv->logins_failed);
	row_str(r, "offer", offer);
	row_end(r);
}

static int
kick(struct listener *l, const char *session)
{
	struct sess *s;

	TAILQ_FOREACH(s, &l->active, link)
		if (s->state >= SESS_CLIENT && strcmp(s->peer.session, session) == 0) {
			keep_kick(s, WHY_KICKED);
			return (0);
		}
	return (EX_NOUSER);
}

/* One session, or all. */
static int
rezygote(struct listener *l, const char *session)
{
	bool all = strcmp(session, "all") == 0, any = all;
	struct sess *s, *next;

	for (s = TAILQ_FIRST(&l->active); s != NULL; s = next) {
		next = TAILQ_NEXT(s, link);
		if (s->state >= SESS_CLIENT && (all || strcmp(s->peer.session, session) == 0)) {
			keep_rezygote(s);
			any = true;
		}
	}
	return (any ? 0 : EX_NOUSER);
}

static int
on_query(void *self_, struct chan *c, const struct msg_query *m, struct bytes tail, int fd[])
{
	struct listener *l = self_;
	struct msg_row row = { .id = m->id };
	struct msg_end end = { .id = m->id };
	struct row r;
	struct sess *s;
	char name[64];

	(void)fd;
	if (m->what == QUERY_WHO) {
		TAILQ_FOREACH(s, &l->active, link)
			if (s->state >= SESS_CLIENT) {
				row_who(l, s, &r);
				(void)msg_send_row(c, &row, row_bytes(&r), NULL);
			}
	} else if (m->what == QUERY_STATUS) {
		for (uint32_t i = 0; i < CONF_SERVICES; i++)
			if (l->service[i].mine) {
				row_status(l, i, &r);
				(void)msg_send_row(c, &row, row_bytes(&r), NULL);
			}
	} else if (m->what == QUERY_KICK) {
		bytes_text(bytes(tail.p, strnlen((const char *)tail.p, tail.n)), name, sizeof(name));
		end.code = (uint32_t)kick(l, name);
	} else if (m->what == QUERY_REZYGOTE) {
		bytes_text(bytes(tail.p, strnlen((const char *)tail.p, tail.n)), name, sizeof(name));
		end.code = (uint32_t)rezygote(l, name);
	}
	if (m->what == QUERY_CHECK && (end.code = (uint32_t)probes_check(l, m->id, tail)) == 0)
		return (0);		/* answered when it is done */
	if (m->what == QUERY_CHECK) {
		(void)msg_send_end(c, &end, bytes_str(end.code == EX_NOUSER ? "" : "no process or address for the check: try again"), NULL);
		return (0);
	}
	(void)msg_send_end(c, &end, bytes_str(end.code != 0 ? "no such session" : ""), NULL);
	return (0);
}

/* --- peers --------------------------------------------------------------------------------------------------- */

static int
on_kept(void *self_, struct chan *c, const struct msg_kept *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail;
	return (deposit_kept(self_, m, fd));
}

static int
on_given(void *self_, struct chan *c, const struct msg_given *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail, (void)fd;
	deposit_given(self_, m);
	return (0);
}

static int
on_anew(void *self_, struct chan *c, const struct msg_anew *m, struct bytes tail, int fd[])
{
	(void)c, (void)m, (void)tail, (void)fd;
	deposit_anew(self_);
	return (0);
}

/* Another listener comes in our place, of this bmrd or of another. */
static void
leave(struct listener *l)
{
	struct lsock *k;

	while ((k = TAILQ_FIRST(&l->socks)) != NULL)
		drop_socket(l, k);
	deposit_leave(l);
}

static int
on_leave(void *self_, struct chan *c, const struct msg_leave *m, struct bytes tail, int fd[])
{
	(void)c, (void)m, (void)tail, (void)fd;
	leave(self_);
	return (0);
}

static const struct gw_inbox inbox = { .leave = on_leave, .kept = on_kept, .given = on_given, .child = on_child,
	.orphan = on_orphan, .died = on_died, .picked = on_picked, .probe = on_probe, .counts = on_counts, .caps = on_caps,
	.logged = on_logged, .anew = on_anew, .drain = on_drain, .query = on_query, .tlschild = on_tlschild, .tlsnews = on_tlsnews };

static int
on_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&inbox, self_, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_gone(void *self_, struct chan *c, const char *why)
{
	struct listener *l = self_;

	(void)why;
	if (c == &l->zygote)
		l->coming = 0;
	if (c == &l->balancer) {
		struct sess *s;

		for (uint32_t i = 0; i < HASH; i++)
			while ((s = TAILQ_FIRST(&l->by_route[i])) != NULL) {
				struct msg_picked none = { .id = s->pick_id, .why = 1 };

				connector_picked(l, &none);	/* the session asks again in a moment */
			}
	}
	chan_close(c);
}

/* A process: after a while another is asked for. A session: likewise. */
static void
on_lost(void *self_, struct chan *c, const char *why)
{
	struct listener *l = self_;

	log_warnx("%s: %s", c->name, why);
	l->kept_lost = l->kept_lost || c == &l->fdstore;
}

/* A balancer that is new, or knows us no more, is told what sessions are where. */
static void
tell_held(struct listener *l)
{
	static uint32_t n[CONF_SERVICES][CONF_BACKENDS];
	struct sess *s;

	memset(n, 0, sizeof(n));
	TAILQ_FOREACH(s, &l->active, link)
		if (s->state >= SESS_CLIENT && s->backend >= 0 && s->backend < CONF_BACKENDS)
			n[s->service][s->backend]++;
	for (uint32_t i = 0; i < l->conf->nservice; i++)
		for (uint32_t k = 0; k < l->conf->service[i].nbackend; k++)
			if (l->service[i].mine) {
				struct msg_held m = { .service = i, .backend = k, .sessions = n[i][k] };

				(void)msg_send_held(&l->balancer, &m, bytes("", 0), NULL);
			}
}

static void
on_peer(struct worker *w, uint8_t role, const char *id, uint64_t generation, int fd)
{
	struct listener *l = w->self;
	struct chan *c = role == R_ZYGOTE ? &l->zygote : role == R_BALANCER ? &l->balancer :
	    role == R_ADMIN ? &l->admin : role == R_TLS ? &l->tls : role == R_FDSTORE ? &l->fdstore : NULL;

	(void)id;
	if (c == NULL) {
		close(fd);
		return;
	}
	if (c->fd != -1)
		on_gone(l, c, "replaced");
	*c = (struct chan){ .me = R_LISTENER, .peer = role, .name = role == R_ZYGOTE ? "zygote" :
	    role == R_BALANCER ? "balancer" : role == R_FDSTORE ? "fdstore" : "admin", .self = l, .read = on_message, .gone = on_gone,
	    .lost = role == R_ZYGOTE || role == R_TLS || role == R_FDSTORE ? on_lost : NULL,
	    .queue_max = role == R_ADMIN ? 1 << 18 : 16384 };	/* who: a row for each session */
	chan_open(c, w->loop, fd);
	if (role == R_ZYGOTE) {
		l->coming = 0;
		keep_zygote(l, generation);
		sessions_top_up(l);
	}
	if (role == R_BALANCER)
		tell_held(l);
	if (role == R_FDSTORE)
		deposit_peer(l);
}

static void
on_tick(struct ev_loop *loop, ev_timer *t, int events)
{
	struct listener *l = t->data;

	(void)loop, (void)events;
	accept_tick(l);
	if (sessions_overdue(&l->zygote_patience, l->coming))
		l->coming = 0;
	sessions_top_up(l);
	keep_serve(l);
	deposit_tick(l);
	sessions_serve_waiting(l);
	secure_tick(l);
	proxied_tick(l);
	if (l->tell_held > 0 && l->balancer.fd != -1) {
		l->tell_held--;
		tell_held(l);
	}
}

/* No session ends because our supervisor gives up or makes us anew; who waits for a process has to come again. */
static void
on_stop(struct worker *w, uint64_t deadline_ms, bool again)
{
	struct listener *l = w->self;
	struct msg_kick m = { .why = WHY_SHUTDOWN };
	struct lsock *k;
	struct sess *s;

	(void)deadline_ms;
	if (again)
		leave(l);
	if (again || l->stopping)
		return;
	l->stopping = true;
	while ((k = TAILQ_FIRST(&l->socks)) != NULL)
		drop_socket(l, k);
	sessions_refuse_all(l);
	secure_refuse_all(l);
	sessions_unused_warm(l);
	park_stop(l);
	keep_stop(l);
	TAILQ_FOREACH(s, &l->active, link)
		(void)msg_send_kick(&s->chan, &m, bytes("", 0), NULL);
	if (TAILQ_EMPTY(&l->active))
		worker_end(w, 0);
}

static int
start(struct worker *w, int argc, char **argv)
{
	struct listener *l = &self;
	const struct conf *conf = conf_image(w->conf, w->conf_size);
	struct rlimit files;

	(void)argc, (void)argv;
	if (conf == NULL)
		return (EX_CONFIG);
	w->self = l;
	l->w = w;
	TAILQ_INIT(&l->socks);
	TAILQ_INIT(&l->warm);
	TAILQ_INIT(&l->active);
	TAILQ_INIT(&l->resuming);
	TAILQ_INIT(&l->undeposited);
	TAILQ_INIT(&l->waiting);
	for (uint32_t i = 0; i < HASH; i++)
		TAILQ_INIT(&l->by_route[i]);
	l->zygote.fd = l->balancer.fd = l->admin.fd = l->fdstore.fd = -1;
	l->share = share_of(w->id);
	l->files = getrlimit(RLIMIT_NOFILE, &files) == 0 ? files.rlim_cur : 1024;
	counts_init(&l->counts);
	secure_start(l);
	logins_start(l, conf->secret);
	deposit_start(l);
	if (park_start(l) == -1)
		return (EX_OSERR);
	take_conf(l, conf);
	if (connector_start(l) == -1 || proxied_start(l) == -1)
		return (EX_OSERR);
	/* needs the state directory by path, for unlinked files: no empty root */
	w->sandbox.drop = conf->drop;
	w->sandbox.uid = conf->uid;
	w->sandbox.gid = conf->gid;
	ev_timer_init(&l->tick, on_tick, 1.0, 1.0);
	l->tick.data = l;
	ev_timer_start(w->loop, &l->tick);
	return (0);
}

int
listener_main(int argc, char **argv, const struct behaviour *b)
{
	static const struct worker_ops ops = { .role = R_LISTENER, .start = start, .peer = on_peer,
	    .listen = on_listen, .config = on_config, .stop = on_stop };

	self.b = b;
	return (worker_main(&ops, argc, argv));
}
