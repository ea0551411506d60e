/*
 * sessions - clients and their processes: admission, warm processes, each one's messages and end (listener.h)
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/journal.h"
#include "workers/listener.h"
#include "workers/reason.h"

/* --- the process of a session --------------------------------------------------------------------------------- */

enum { DELAYED = 256 };

/* There is one more, or one less, of a service. */
static void
tally(struct listener *l, uint32_t service, int by)
{
	l->service[service].sessions += (uint32_t)by;
	counts_service(&l->counts, service, l->service[service].sessions);
}

static void
free_warm(struct sess *s)
{
	TAILQ_REMOVE(&s->l->warm, s, link);
	s->l->nwarm--;
}

void
sessions_free(struct sess *s)
{
	struct listener *l = s->l;
	enum sess_state was = s->state;

	s->state = SESS_ENDED;
	ev_timer_stop(l->w->loop, &s->deadline);
	if (was == SESS_WARM)
		free_warm(s);
	else {
		s->state = was;
		secure_cancel(s);
		connector_cancel(s);
		connector_release(s);
		TAILQ_REMOVE(&l->active, s, link);
		if (was >= SESS_CLIENT) {
			deposit_drop(s);
			keep_free(s);
			l->nactive--;
			tally(l, s->service, -1);
			l->service[s->service].ended++;
			counts_went(&l->counts, s->address_slot);
		}
	}
	chan_close(&s->chan);
	free(s);
	if (l->stopping && TAILQ_EMPTY(&l->active))
		worker_end(l->w, 0);
}

void
sessions_log_end(struct sess *s, const struct msg_bye *m)
{
	log_info("%s: session=<%s> user=<%s> rip=%s lip=%s service=%s%s%s backend=%s failovers=%u in=%llu out=%llu: %s",
	    s->l->b->name, s->peer.session, s->user, s->peer.addr, s->peer.local, s->l->service[s->service].name,
	    s->tls.version[0] != '\0' ? " tls=" : "", s->tls.version, s->backend_name[0] != '\0' ? s->backend_name : "-", m->failovers, (unsigned long long)m->in,
	    (unsigned long long)m->out, reason_text(m->reason));
}

static int
on_bye(void *self, struct chan *c, const struct msg_bye *m, struct bytes tail, int fd[])
{
	struct sess *s = self;

	(void)c, (void)fd;
	if (s->state != SESS_CLIENT)
		return (0);
	bytes_text(bytes(tail.p, tail.n < sizeof(s->user) ? tail.n : sizeof(s->user) - 1), s->user, sizeof(s->user));
	sessions_log_end(s, m);
	sessions_free(s);	/* nothing more will come: its exit need not be waited for */
	return (0);
}

static int
on_route(void *self, struct chan *c, const struct msg_route *m, struct bytes tail, int fd[])
{
	struct sess *s = self;

	(void)c, (void)tail, (void)fd;
	if (s->state == SESS_PROBE)
		probes_route(s, m);
	else if (s->state == SESS_CLIENT)
		connector_route(s, m);
	else
		return (-1);
	return (0);
}

static int
on_failed(void *self, struct chan *c, const struct msg_failed *m, struct bytes tail, int fd[])
{
	struct sess *s = self;
	struct msg_bfail f = { .service = s->service, .backend = (uint32_t)s->backend, .how = m->how };
	char user[64];

	(void)c, (void)fd;
	if (s->state != SESS_CLIENT || s->backend == -1)
		return (0);
	bytes_text(tail, user, sizeof(user));
	f.by = user[0] != '\0' ? penalty_user(&s->l->penalties, user) : penalty_address(&s->l->penalties, s->peer.addr);
	if (s->l->balancer.fd != -1)
		(void)msg_send_bfail(&s->l->balancer, &f, bytes("", 0), NULL);
	connector_release(s);
	return (0);
}

/* An unlinked file in the state directory: content of one session above its memory limit. */
static int
on_needfile(void *self, struct chan *c, const struct msg_needfile *m, struct bytes tail, int fd[])
{
	struct sess *s = self;
	struct msg_file yes = { .id = m->id };
	struct msg_nofile no = { .id = m->id };
	int file = -1, r;

	(void)tail, (void)fd;
	if (s->state == SESS_CLIENT)
		file = open(s->l->conf->state_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (file == -1) {
		log_warn("session %s: no file for content in %s", s->peer.session, s->l->conf->state_dir);
		r = msg_send_nofile(c, &no, bytes("", 0), NULL);
	} else {
		if (s->file != -1)
			close(s->file);
		s->file = file;
		deposit_changed(s);	/* first: a successor of ours must have what the session writes into */
		r = msg_send_file(c, &yes, bytes("", 0), &file);
	}
	(void)r;
	return (0);
}

static int
on_note(void *self, struct chan *c, const struct msg_note *m, struct bytes tail, int fd[])
{
	struct sess *s = self;

	(void)c, (void)tail, (void)fd;
	bytes_text(bytes(m->user, strnlen(m->user, sizeof(m->user))), s->user, sizeof(s->user));
	if (s->state == SESS_CLIENT) {
		s->phase = m->phase;
		s->failovers = m->failovers;
	}
	if (m->phase == 0)
		connector_release(s);
	deposit_news(s);
	return (0);
}

static int
on_probed(void *self, struct chan *c, const struct msg_probed *m, struct bytes tail, int fd[])
{
	struct sess *s = self;

	(void)c, (void)fd;
	if (s->state != SESS_PROBE)
		return (-1);
	probes_result(s, m, tail);
	return (0);
}

static int
on_learned(void *self, struct chan *c, const struct msg_learned *m, struct bytes tail, int fd[])
{
	struct sess *s = self;

	(void)c, (void)tail, (void)fd;
	if (s->state == SESS_CLIENT && s->backend >= 0 && s->backend < CONF_BACKENDS)
		probes_learned(s->l, s->service, (uint32_t)s->backend, s->backend_name, &m->caps);
	return (0);
}

static void
take_journal(struct sess *s, int *fd)
{
	close(s->journal);
	s->journal = *fd;
	*fd = -1;
}

static int
on_journal(void *self, struct chan *c, const struct msg_journal *m, struct bytes tail, int fd[])
{
	struct sess *s = self;

	(void)c, (void)m, (void)tail;
	if (s->state != SESS_CLIENT)
		return (-1);
	take_journal(s, &fd[0]);
	deposit_changed(s);
	return (0);
}

static int
on_park(void *self, struct chan *c, const struct msg_park *m, struct bytes tail, int fd[])
{
	struct sess *s = self;

	(void)c, (void)tail;
	if (s->state != SESS_CLIENT)
		return (-1);
	take_journal(s, &fd[0]);
	park_said(s, -1, m->wake_ms, (m->flags & 1) != 0);
	return (0);
}

static int
on_parkup(void *self, struct chan *c, const struct msg_parkup *m, struct bytes tail, int fd[])
{
	struct sess *s = self;
	int backend = fd[1];

	(void)c, (void)tail;
	if (s->state != SESS_CLIENT)
		return (-1);
	fd[1] = -1;
	take_journal(s, &fd[0]);
	park_said(s, backend, m->wake_ms, (m->flags & 1) != 0);
	return (0);
}

/* TLS begins in mid-session, with a backend. The socket is ours to close. */
static int
on_secure(void *self, struct chan *c, const struct msg_secure *m, struct bytes tail, int fd[])
{
	struct sess *s = self;
	int net = fd[0];

	(void)c, (void)tail;
	if (s->state != SESS_CLIENT && s->state != SESS_PROBE)
		return (-1);
	fd[0] = -1;
	return (secure_backend(s, m->id, net));
}

/* With the client: from now on he is whoever has the other end of the clear one. */
static int
on_starttls(void *self, struct chan *c, const struct msg_starttls *m, struct bytes tail, int fd[])
{
	struct sess *s = self;
	int net = fd[0], far = fd[1];

	(void)c, (void)m, (void)tail;
	if (s->state != SESS_CLIENT)
		return (-1);
	close(s->client);
	s->client = fd[2];
	fd[0] = fd[1] = fd[2] = -1;
	deposit_changed(s);
	return (secure_client(s, net, far));
}

static int
on_tlson(void *self, struct chan *c, const struct msg_tlson *m, struct bytes tail, int fd[])
{
	struct sess *s = self;

	(void)c, (void)tail, (void)fd;
	if (s->state != SESS_CLIENT)
		return (-1);
	s->tls = m->tls;
	s->tls.version[sizeof(s->tls.version) - 1] = s->tls.cipher[sizeof(s->tls.cipher) - 1] = '\0';
	s->peer.tls = s->peer.auth_ok = true;
	s->peer.starttls = false;
	deposit_changed(s);
	return (0);
}

static int
on_authask(void *self, struct chan *c, const struct msg_authask *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail, (void)fd;
	return (logins_ask(self, m));
}

static int
on_authed(void *self, struct chan *c, const struct msg_authed *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail, (void)fd;
	return (logins_ended(self, m));
}

static const struct gw_inbox inbox = { .learned = on_learned, .journal = on_journal, .park = on_park, .parkup = on_parkup,
	 .route = on_route, .failed = on_failed, .needfile = on_needfile,
	.note = on_note, .bye = on_bye, .probed = on_probed, .secure = on_secure, .starttls = on_starttls, .tlson = on_tlson, .authask = on_authask,
	.authed = on_authed };

static int
on_message(void *self, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&inbox, self, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_gone(void *self, struct chan *c, const char *why)
{
	struct sess *s = self;

	(void)c, (void)why;
	if (s->state == SESS_PROBE)
		probes_lost(s);
	if (s->state == SESS_CLIENT)
		keep_lost(s);
	else
		sessions_free(s);
}

static void
on_bad(void *self, struct chan *c, const char *why)
{
	struct sess *s = self;

	log_warnx("%s session %s (pid %u) sent nonsense: %s: killed", s->l->b->name, s->peer.session, s->pid, why);
	(void)kill((pid_t)s->pid, SIGKILL);
	on_gone(self, c, why);
}

static void
on_lost_time(struct ev_loop *loop, ev_timer *t, int events)
{
	struct sess *s = t->data;
	struct msg_again m = { .id = s->sid };

	(void)loop, (void)events;
	if (s->state == SESS_CLIENT)
		(void)msg_send_again(&s->chan, &m, bytes("", 0), NULL);
}

/* It says again what it has said, or asks again. To kill it would lose what it has put into a journal that we did not get. */
static void
on_lost(void *self, struct chan *c, const char *why)
{
	struct sess *s = self;

	(void)c;
	if (s->state != SESS_CLIENT)
		return;
	log_warnx("session %s: %s", s->peer.session, why);
	ev_timer_stop(s->l->w->loop, &s->deadline);
	ev_timer_init(&s->deadline, on_lost_time, 1., 0.);
	s->deadline.data = s;
	ev_timer_start(s->l->w->loop, &s->deadline);
}

struct sess *
sessions_new(struct listener *l)
{
	struct sess *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return (NULL);
	*s = (struct sess){ .l = l, .state = SESS_WARM, .backend = -1, .conn = { .fd = -1 }, .client = -1, .journal = -1,
	    .file = -1, .kept_backend = -1, .dead_status = -1, .chan = { .fd = -1 } };
	ev_init(&s->deadline, NULL);
	ev_init(&s->conn.timer, NULL);
	return (s);
}

void
sessions_chan(struct sess *s, int fd)
{
	s->chan = (struct chan){ .me = R_LISTENER, .peer = R_SESSION, .name = "session", .self = s,
	    .read = on_message, .gone = on_gone, .bad = on_bad, .lost = on_lost, .queue_max = 32 };
	chan_open(&s->chan, s->l->w->loop, fd);
}

void
sessions_count(struct sess *s)
{
	struct listener *l = s->l;

	s->address_slot = counts_slot(s->peer.addr);
	tally(l, s->service, 1);	/* the address was counted when he came */
	l->nactive++;
	TAILQ_INSERT_TAIL(&l->active, s, link);
}

/* Whoever cannot fork says nothing of it. */
bool
sessions_overdue(struct patience *p, uint32_t coming)
{
	if (p->limit == 0 || p->limit > 64)
		p->limit = p->limit == 0 ? 2 : 64;
	p->ticks = coming > 0 ? p->ticks + 1 : 0;
	if (p->ticks <= p->limit)
		return (false);
	p->ticks = 0;
	p->limit *= 2;
	return (true);
}

void
sessions_child(struct listener *l, int fd, uint32_t pid, uint64_t serial)
{
	struct sess *s = sessions_new(l);

	if (l->coming > 0)
		l->coming--;
	l->zygote_patience = (struct patience){ 0 };
	if (s == NULL) {
		close(fd);
		return;
	}
	s->pid = pid;
	s->serial = serial;
	s->zygote = l->zygote_now;
	sessions_chan(s, fd);
	TAILQ_INSERT_TAIL(&l->warm, s, link);
	l->nwarm++;
	keep_serve(l);
	probes_pending(l);
	sessions_serve_waiting(l);
}

void
sessions_top_up(struct listener *l)
{
	struct msg_want m = { 0 };
	uint32_t target = l->warm_target + l->nwaiting + l->nresuming + (accept_room(l) ? accept_queued(l) : 0);

	if (target > 256)
		target = 256;
	if (target > l->files / 32)
		target = (uint32_t)(l->files / 32);	/* accept_room spares twice as many */
	if (l->zygote.fd == -1 || l->stopping || l->leaving || l->nwarm + l->coming > target / 2)
		return;
	m.n = target - l->nwarm - l->coming;
	if (m.n > 0 && msg_send_want(&l->zygote, &m, bytes("", 0), NULL) == 0)
		l->coming += m.n;
}

struct sess *
sessions_warm(struct listener *l)
{
	struct sess *s = TAILQ_FIRST(&l->warm);

	if (s != NULL)
		free_warm(s);
	sessions_top_up(l);
	return (s);
}

void
sessions_unused_warm(struct listener *l)
{
	struct sess *s;

	while ((s = TAILQ_FIRST(&l->warm)) != NULL)
		sessions_free(s);
}

/* --- clients ------------------------------------------------------------------------------------------------- */

/* The store tells copies of a message by it: it must be no other session's, of no listener, gateway or time. */
static uint64_t
new_sid(void)
{
	uint64_t sid = 0;

	while (sid == 0)
		arc4random_buf(&sid, sizeof(sid));
	return (sid);
}

void
sessions_peerinfo(struct listener *l, uint32_t service, struct peerinfo *p)
{
	const struct conf_service *c = &l->conf->service[service];

	*p = (struct peerinfo){ .auth_ok = c->auth_plaintext, .tempfail = c->doubt_tempfail,
	    .normalize = c->bare_newline_normalize };
	memccpy(p->banner, c->banner, 0, sizeof(p->banner) - 1);
	l->last_sid = new_sid();
	snprintf(p->session, sizeof(p->session), "%016llx", (unsigned long long)l->last_sid);
}

void
sessions_address(const struct sockaddr_storage *a, char *dst, size_t size, uint16_t *port, bool *v6)
{
	const struct sockaddr_in6 *six = (const void *)a;
	const struct sockaddr_in *four = (const void *)a;

	*v6 = false;
	dst[0] = '\0';
	if (a->ss_family == AF_INET) {
		inet_ntop(AF_INET, &four->sin_addr, dst, (socklen_t)size);
		*port = ntohs(four->sin_port);
	} else if (a->ss_family == AF_INET6) {
		*port = ntohs(six->sin6_port);
		if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
			inet_ntop(AF_INET, &six->sin6_addr.s6_addr[12], dst, (socklen_t)size);
			return;
		}
		*v6 = true;
		inet_ntop(AF_INET6, &six->sin6_addr, dst, (socklen_t)size);
	}
}

void
sessions_refuse(struct listener *l, uint32_t service, int fd, enum why why, bool in_words)
{
	uint8_t pst[JOURNAL_PST] = { 0 }, have[JOURNAL_PST] = { 0 }, text[1024], nothing[64];
	struct out client = { text, 0, sizeof(text), false }, none = { nothing, 0, sizeof(nothing), false };
	struct arena a = { .p = nothing };
	struct spool_state sp = { 0 };
	struct peerinfo peer;
	struct turn t = { .pst = pst, .have = have, .log = &a, .scratch = &a, .client = &client, .backend = &none,
	    .content = &none, .spool = &sp, .limits = &l->service[service].limits,
	    .times = &l->service[service].times, .offer = &l->service[service].offer, .peer = &peer, .date = "" };

	sessions_peerinfo(l, service, &peer);
	if (in_words)
		(void)l->b->refuse(&t, why);
	(void)!send(fd, text, client.len, MSG_NOSIGNAL | MSG_DONTWAIT);
	shutdown(fd, SHUT_WR);
	close(fd);
	if (why == WHY_BUSY)
		l->service[service].refused++;
}

void
sessions_goodbye(struct sess *s)
{
	struct msg_bye m = { .reason = REASON_SHUTDOWN, .failovers = s->failovers };
	int fd = s->client;

	sessions_log_end(s, &m);
	if ((fd = fcntl(s->client, F_DUPFD_CLOEXEC, 0)) != -1)
		sessions_refuse(s->l, s->service, fd, WHY_SHUTDOWN, true);
	sessions_free(s);
}

int
sessions_start(struct sess *s, uint64_t flags)
{
	const struct conf_service *c = &s->l->conf->service[s->service];
	const struct service *sv = &s->l->service[s->service];
	struct msg_start m = { .sid = s->sid, .flags = flags, .peer = s->peer, .max_replays = c->max_replays,
	    .fence_ms = c->fence_ms, .offer = sv->offer, .limits = sv->limits, .times = sv->times, .tls = s->tls };
	int fd[2] = { s->client, s->journal };

	m.master = c->master;
	memcpy(m.service, sv->name, sizeof(m.service));
	m.format = s->l->conf->journal_previous && s->l->b->convert != NULL ? s->l->b->format - 1u : s->l->b->format;
	return (msg_send_start(&s->chan, &m, bytes("", 0), fd));
}

static void
give(struct listener *l, struct waiting *w, struct sess *s)
{
	struct service *sv = &l->service[w->service];

	s->state = SESS_CLIENT;
	s->service = w->service;
	s->since = w->since;
	sessions_peerinfo(l, w->service, &s->peer);
	memcpy(s->peer.addr, w->ends.addr, sizeof(s->peer.addr));
	memcpy(s->peer.local, w->ends.local, sizeof(s->peer.local));
	s->peer.port = w->ends.port;
	s->peer.local_port = w->ends.local_port;
	s->peer.v6 = w->ends.v6;
	s->peer.tls = w->tls.version[0] != '\0';
	s->peer.auth_ok = s->peer.tls || w->auth_plaintext;
	s->peer.starttls = w->mode == MODE_STARTTLS && !s->peer.tls;
	s->peer.watch = logins_watch(l, s->peer.addr);
	s->tls = w->tls;
	s->sid = l->last_sid;
	sessions_count(s);
	deposit_later(s);
	s->journal = journal_create(&sv->limits);
	s->client = w->fd;
	if (s->journal == -1 || sessions_start(s, 0) == -1) {
		log_warn("session %s: not started", s->peer.session);
		sessions_refuse(l, w->service, s->client, WHY_BUSY, true);
		s->client = -1;
		sessions_free(s);
	}
	free(w);
}

void
sessions_serve_waiting(struct listener *l)
{
	struct waiting *w, *next;
	ev_tstamp now = listener_clock();
	struct sess *s;

	for (w = TAILQ_FIRST(&l->waiting); w != NULL; w = next) {
		next = TAILQ_NEXT(w, link);
		if (w->came > now)
			continue;
		if (w->delayed) {
			w->delayed = false;
			l->ndelayed--;
			l->nwaiting++;
		}
		if (l->service[w->service].offer.known && (s = sessions_warm(l)) != NULL) {
			TAILQ_REMOVE(&l->waiting, w, link);
			l->nwaiting--;
			give(l, w, s);
		} else if (now - w->came > l->service[w->service].times.queue / 1000.0) {
			TAILQ_REMOVE(&l->waiting, w, link);
			l->nwaiting--;
			sessions_refuse(l, w->service, w->fd, WHY_BUSY, true);
			sessions_forget(w);
		}
	}
	accept_unhold(l);
}

void
sessions_refuse_all(struct listener *l)
{
	struct waiting *w;

	while ((w = TAILQ_FIRST(&l->waiting)) != NULL) {
		TAILQ_REMOVE(&l->waiting, w, link);
		sessions_refuse(l, w->service, w->fd, WHY_BUSY, true);
		sessions_forget(w);
	}
	l->nwaiting = l->ndelayed = 0;
}

static bool
admit(struct listener *l, uint32_t service, const char *addr)
{
	const struct conf_service *c = &l->conf->service[service];

	if (!accept_room(l) || (c->max_sessions != 0 && counts_of_service(&l->counts, service) >= c->max_sessions) ||
	    (c->queue != 0 && l->nwaiting + l->nhandshakes + l->nproxied >= c->queue))
		return (false);
	return (c->max_per_address == 0 || counts_of_address(&l->counts, counts_slot(addr)) < c->max_per_address);
}

/* Those who are made to wait take no place in the queue of the others, and are not many. */
void
sessions_wait(struct waiting *w)
{
	struct listener *l = w->l;
	uint32_t delay = logins_delay(l, w->ends.addr);

	if (delay > 0 && l->ndelayed >= DELAYED) {
		sessions_refuse(l, w->service, w->fd, WHY_BUSY, true);
		sessions_forget(w);
		return;
	}
	TAILQ_INSERT_TAIL(&l->waiting, w, link);
	if ((w->delayed = delay > 0)) {
		w->came = listener_clock() + delay / 1000.0;
		l->ndelayed++;
	} else
		l->nwaiting++;
	sessions_serve_waiting(l);
}

void
sessions_arrived(struct waiting *w)
{
	struct listener *l = w->l;

	if (!admit(l, w->service, w->ends.addr)) {
		sessions_refuse(l, w->service, w->fd, WHY_BUSY, w->mode != MODE_IMPLICIT);
		free(w);
		return;
	}
	/* from here on it counts, so that handshakes that nobody finishes do too */
	counts_came(&l->counts, counts_slot(w->ends.addr));
	if (w->mode == MODE_IMPLICIT)
		secure_waiting(l, w);
	else
		sessions_wait(w);
}

void
sessions_forget(struct waiting *w)
{
	counts_went(&w->l->counts, counts_slot(w->ends.addr));
	free(w);
}
