/*
 * balancer - knows the backends: health, sessions, drains; chooses
 *
 * IN     STOP PEER CONFIG from bmrd;  PICK FREE BFAIL PROBERES HELD CAPS LOGGED from listeners;  QUERY from admin
 * OUT    PICKED PROBE DRAIN COUNTS CAPS LOGGED;  ROW END
 * HOLDS  its channels, the table of listeners' counts; parses nothing that a backend or client says
 * LOSES  when it dies: counts, which listeners tell again (HELD), and health, which is probed again at once
 */
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "supervisor/clock.h"
#include "supervisor/log.h"
#include "workers/balancer.h"
#include "workers/choose.h"
#include "workers/rows.h"

enum { TICK_MS = 100, NAMES_MS = 60000, RETRY_MS = 250, DRAIN_PER_SECOND = 50 };

static struct balancer self;

static struct backend *
backend(struct balancer *b, uint32_t service, uint32_t n)
{
	if (service >= b->conf->nservice || n >= b->service[service].n)
		return (NULL);
	return (&b->service[service].backend[n]);
}

static void
log_change(struct balancer *b, uint32_t service, const struct backend *be)
{
	if (be->health.state == HEALTH_UP)
		log_notice("backend %s/%s is up", b->service[service].name, be->name);
	else
		log_warnx("backend %s/%s is down: %s (%u failures, %u reports)", b->service[service].name, be->name,
		    be->last_error, be->health.bad, be->health.reports);
}

/* --- picks --------------------------------------------------------------------------------------------------- */

static int
on_pick(void *self_, struct chan *c, const struct msg_pick *m, struct bytes tail, int fd[])
{
	struct blistener *l = self_;
	struct balancer *b = l->b;
	struct msg_picked a = { .id = m->id, .service = m->service, .why = 1, .retry_ms = RETRY_MS };
	struct candidate cand[CONF_BACKENDS];
	const struct conf_service *cs;
	struct bservice *s;
	uint64_t now = clock_ms();
	int32_t i;

	(void)tail, (void)fd;
	if (m->service >= b->conf->nservice) {	/* of an image that one of us does not know yet, or any more */
		(void)msg_send_picked(c, &a, bytes("", 0), NULL);
		return (0);
	}
	s = &b->service[m->service];
	cs = &b->conf->service[m->service];
	for (uint32_t k = 0; k < s->n; k++)
		cand[k] = (struct candidate){ .usable = s->backend[k].health.state == HEALTH_UP &&
		    !s->backend[k].drained && s->backend[k].addrlen != 0, .sessions = s->backend[k].sessions,
		    .max_sessions = cs->backend[k].max_sessions, .weight = cs->backend[k].weight,
		    .up_ms = now - s->backend[k].health.since_ms };
	i = choose(cand, s->n, m->avoid, s->turn++);
	if (i != -1) {
		struct backend *be = &s->backend[i];

		be->sessions++;
		be->total++;
		l->held[m->service][i]++;
		a.why = 0;
		a.backend = (uint32_t)i;
		a.flags = cs->backend[i].xclient;
		memcpy(a.name, be->name, sizeof(a.name));
		memcpy(a.addr, &be->addr, sizeof(a.addr));
		a.addrlen = be->addrlen;
	}
	(void)msg_send_picked(c, &a, bytes("", 0), NULL);
	return (0);
}

static int
on_free(void *self_, struct chan *c, const struct msg_free *m, struct bytes tail, int fd[])
{
	struct blistener *l = self_;
	struct backend *be = backend(l->b, m->service, m->backend);

	(void)c, (void)tail, (void)fd;
	if (be == NULL || l->held[m->service][m->backend] == 0)
		return (0);	/* the image changed meanwhile */
	l->held[m->service][m->backend]--;
	be->sessions--;
	if (be->drained && be->sessions == 0)
		log_notice("backend %s/%s is drained: no sessions left", l->b->service[m->service].name, be->name);
	return (0);
}

static int
on_held(void *self_, struct chan *c, const struct msg_held *m, struct bytes tail, int fd[])
{
	struct blistener *l = self_;
	struct backend *be = backend(l->b, m->service, m->backend);

	(void)c, (void)tail, (void)fd;
	if (be == NULL || m->sessions > 10000000)
		return (be == NULL ? 0 : -1);
	be->sessions += m->sessions - l->held[m->service][m->backend];
	l->held[m->service][m->backend] = m->sessions;
	return (0);
}

static int
on_bfail(void *self_, struct chan *c, const struct msg_bfail *m, struct bytes tail, int fd[])
{
	static const char *const how[] = { [BFAIL_LEFT] = "said good-bye", [BFAIL_CLOSED] = "closed a session",
		[BFAIL_TIMEOUT] = "timed out", [BFAIL_NONSENSE] = "sent nonsense", [BFAIL_REFUSED] = "refused",
		[BFAIL_CONNECT] = "connection failed", [BFAIL_DIFFERS] = "not equivalent" };
	struct blistener *l = self_;
	struct backend *be = backend(l->b, m->service, m->backend);

	(void)c, (void)tail, (void)fd;
	if (be == NULL || m->how > BFAIL_DIFFERS)
		return (be == NULL ? 0 : -1);
	be->failures++;
	snprintf(be->last_error, sizeof(be->last_error), "%s", how[m->how]);
	if (m->how == BFAIL_LEFT || m->how == BFAIL_DIFFERS)
		be->health.next_probe_ms = clock_ms();
	else if (health_report(&be->health, m->by, l->b->conf->service[m->service].fall, clock_ms()))
		log_change(l->b, m->service, be);
	return (0);
}

/* --- probes -------------------------------------------------------------------------------------------------- */

static struct blistener *
listener_of(struct balancer *b, uint32_t service)
{
	for (uint32_t i = 0; i < BLISTENERS; i++)
		if (b->listener[i].chan.fd != -1 &&
		    strcmp(b->listener[i].protocol, b->conf->service[service].protocol) == 0)
			return (&b->listener[i]);
	return (NULL);
}

static void
result(struct balancer *b, uint32_t service, struct backend *be, bool good, uint64_t now)
{
	const struct conf_service *cs = &b->conf->service[service];

	be->probing = false;
	be->health.next_probe_ms = now + cs->probe_ms;
	if (health_probe(&be->health, good, cs->fall, cs->rise, now))
		log_change(b, service, be);
	if (!good && be->health.state != HEALTH_UP)
		names_next(be);
}

static int
on_proberes(void *self_, struct chan *c, const struct msg_proberes *m, struct bytes tail, int fd[])
{
	struct blistener *l = self_;
	struct backend *be = backend(l->b, m->service, m->backend);

	(void)c, (void)fd;
	if (be == NULL || !be->probing || be->probe_id != m->id)
		return (0);
	be->last_probe_ms = m->ms;
	if (!m->ok)
		bytes_text(tail, be->last_error, sizeof(be->last_error));
	result(l->b, m->service, be, m->ok != 0, clock_ms());
	return (0);
}

static void
probe(struct balancer *b, uint32_t service, uint32_t n, uint64_t now)
{
	struct backend *be = &b->service[service].backend[n];
	struct blistener *l = listener_of(b, service);
	struct msg_probe m = { .id = ++b->next_probe, .service = service, .backend = n, .timeout_ms = 10000,
	    .flags = b->conf->service[service].backend[n].xclient };

	if (l == NULL || be->addrlen == 0) {
		if (be->addrlen == 0)
			snprintf(be->last_error, sizeof(be->last_error), "its name has no address");
		be->health.next_probe_ms = now + 250;
		return;
	}
	memcpy(m.name, be->name, sizeof(m.name));
	memcpy(m.addr, &be->addr, sizeof(m.addr));
	m.addrlen = be->addrlen;
	if (msg_send_probe(&l->chan, &m, bytes("", 0), NULL) == -1)
		return;
	be->probing = true;
	be->probe_id = m.id;
	be->probe_deadline_ms = now + m.timeout_ms + 2000;
}

static void
on_tick(struct ev_loop *loop, ev_timer *t, int events)
{
	static uint64_t names_at;
	struct balancer *b = t->data;
	uint64_t now = clock_ms();

	(void)loop, (void)events;
	if (now >= names_at) {
		if (names_at != 0)
			names_refresh(b);
		names_at = now + NAMES_MS;
	}
	for (uint32_t i = 0; i < b->conf->nservice; i++)
		for (uint32_t k = 0; k < b->service[i].n; k++) {
			struct backend *be = &b->service[i].backend[k];

			if (be->probing && now >= be->probe_deadline_ms) {
				snprintf(be->last_error, sizeof(be->last_error), "no probe result");
				result(b, i, be, false, now);
			} else if (!be->probing && now >= be->health.next_probe_ms)
				probe(b, i, k, now);
		}
}

/* --- admin --------------------------------------------------------------------------------------------------- */

static void
row_backend(struct balancer *b, uint32_t i, uint32_t k, struct row *r)
{
	const struct backend *be = &b->service[i].backend[k];
	const struct conf_backend *c = &b->conf->service[i].backend[k];
	char address[CONF_HOST + 10];

	snprintf(address, sizeof(address), strchr(be->host, ':') != NULL ? "[%s]:%u" : "%s:%u", be->host, be->port);
	row_begin(r);
	row_str(r, "service", b->service[i].name);
	row_str(r, "name", be->name);
	row_str(r, "address", address);
	row_str(r, "state", health_name(be->health.state));
	row_bool(r, "drained", be->drained);
	row_num(r, "sessions", be->sessions);
	row_num(r, "max_sessions", c->max_sessions);
	row_num(r, "weight", c->weight);
	row_num(r, "total", be->total);
	row_num(r, "failures", be->failures);
	row_num(r, "last_probe_ms", be->last_probe_ms);
	row_str(r, "last_error", be->last_error);
	row_end(r);
}

static void
next_string(struct bytes *rest, char *dst, size_t size)
{
	bytes_text(bytes_token(rest, '\0'), dst, size);
}

static void
tell_drain(struct balancer *b, uint32_t i, uint32_t k)
{
	struct msg_drain m = { .service = i, .backend = k, .on = b->service[i].backend[k].drained,
	    .per_second = DRAIN_PER_SECOND };

	for (uint32_t n = 0; n < BLISTENERS; n++)
		if (b->listener[n].chan.fd != -1 && strcmp(b->listener[n].protocol, b->conf->service[i].protocol) == 0)
			(void)msg_send_drain(&b->listener[n].chan, &m, bytes("", 0), NULL);
}

/* tail: service (or empty: all), backend, reason; each ends with a zero octet */
static uint32_t
set_drained(struct balancer *b, struct bytes tail, bool on, char *why, size_t size)
{
	char service[CONF_NAME], name[CONF_NAME], reason[200];
	uint32_t found = 0;

	next_string(&tail, service, sizeof(service));
	next_string(&tail, name, sizeof(name));
	next_string(&tail, reason, sizeof(reason));
	for (uint32_t i = 0; i < b->conf->nservice; i++)
		for (uint32_t k = 0; k < b->service[i].n; k++) {
			struct backend *be = &b->service[i].backend[k];

			if ((service[0] != '\0' && strcmp(service, b->service[i].name) != 0) ||
			    strcmp(name, be->name) != 0)
				continue;
			found++;
			be->drained = on;
			be->operators = on || b->conf->service[i].backend[k].drained;	/* kept over a restart */
			log_notice("backend %s/%s: %s by the operator: %s (%u sessions)", b->service[i].name, name,
			    on ? "drained" : "made ready", reason[0] != '\0' ? reason : "no reason given", be->sessions);
			tell_drain(b, i, k);
		}
	if (found == 0) {
		snprintf(why, size, "no backend %s%s%s", service, service[0] != '\0' ? "/" : "", name);
		return (EX_DATAERR);
	}
	if (drain_save(b) == -1) {
		log_warn("drains are not kept over a restart: %s", b->conf->state_dir);
		snprintf(why, size, "done, but it cannot be kept over a restart (see the log)");
	}
	return (0);
}

static int
on_query(void *self_, struct chan *c, const struct msg_query *m, struct bytes tail, int fd[])
{
	struct balancer *b = self_;
	struct msg_row row = { .id = m->id };
	struct msg_end end = { .id = m->id };
	char why[200] = "";
	struct row r;

	(void)fd;
	if (m->what == QUERY_BACKENDS) {
		for (uint32_t i = 0; i < b->conf->nservice; i++)
			for (uint32_t k = 0; k < b->service[i].n; k++) {
				row_backend(b, i, k, &r);
				(void)msg_send_row(c, &row, row_bytes(&r), NULL);
			}
	} else if (m->what == QUERY_DRAIN || m->what == QUERY_READY)
		end.code = set_drained(b, tail, m->what == QUERY_DRAIN, why, sizeof(why));
	(void)msg_send_end(c, &end, bytes_str(why), NULL);
	return (0);
}

/* --- peers --------------------------------------------------------------------------------------------------- */

static int
on_caps(void *self_, struct chan *c, const struct msg_caps *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail, (void)fd;
	return (peers_caps(self_, m));
}

static int
on_logged(void *self_, struct chan *c, const struct msg_logged *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail, (void)fd;
	return (peers_logged(self_, m));
}

static const struct gw_inbox from_listener = { .caps = on_caps, .logged = on_logged, .pick = on_pick, .free = on_free, .bfail = on_bfail,
	.proberes = on_proberes, .held = on_held };
static const struct gw_inbox from_admin = { .query = on_query };

static int
on_listener_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&from_listener, self_, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static int
on_admin_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&from_admin, self_, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_listener_gone(void *self_, struct chan *c, const char *why)
{
	struct blistener *l = self_;

	(void)why;
	chan_close(c);
	for (uint32_t i = 0; i < CONF_SERVICES; i++)
		for (uint32_t k = 0; k < CONF_BACKENDS; k++) {
			l->b->service[i].backend[k].sessions -= l->held[i][k];
			l->held[i][k] = 0;
			if (strcmp(l->b->conf->service[i].protocol, l->protocol) == 0)
				l->b->service[i].backend[k].probing = false;	/* asked of one who is gone */
		}
	for (uint32_t i = 0; i < BLISTENERS; i++)
		if (l->b->listener[i].chan.fd != -1)
			return;
	if (l->b->w->root.fd == -1)
		worker_end(l->b->w, 0);		/* another bmrd has taken over */
}

static void
on_admin_gone(void *self_, struct chan *c, const char *why)
{
	(void)self_, (void)why;
	chan_close(c);
}

static void
on_peer(struct worker *w, uint8_t role, const char *id, uint64_t generation, int fd)
{
	struct balancer *b = w->self;

	(void)generation;
	if (role == R_LISTENER) {
		peers_listener(b, id, fd, on_listener_message, on_listener_gone);
		return;
	}
	if (role != R_ADMIN) {
		close(fd);
		return;
	}
	chan_close(&b->admin);
	b->admin = (struct chan){ .me = R_BALANCER, .peer = R_ADMIN, .name = "admin", .self = b,
	    .read = on_admin_message, .gone = on_admin_gone, .queue_max = 8192 };
	chan_open(&b->admin, b->loop, fd);
}

/* --- configuration ------------------------------------------------------------------------------------------- */

static const struct backend *
old_backend(const struct bservice old[], const char *service, const char *name, uint32_t *oi, uint32_t *ok)
{
	for (uint32_t i = 0; i < CONF_SERVICES; i++)
		for (uint32_t k = 0; k < old[i].n && strcmp(old[i].name, service) == 0; k++)
			if (strcmp(old[i].backend[k].name, name) == 0) {
				*oi = i;
				*ok = k;
				return (&old[i].backend[k]);
			}
	return (NULL);
}

/* State and counts are kept by name; the listeners, whose numbering changes with the image too, correct the counts. */
static void
take_conf(struct balancer *b, const struct conf *c)
{
	static struct bservice old[CONF_SERVICES];
	static uint32_t held[BLISTENERS][CONF_SERVICES][CONF_BACKENDS];
	uint32_t oi = 0, ok = 0;

	memcpy(old, b->service, sizeof(old));
	memset(held, 0, sizeof(held));
	memset(b->service, 0, sizeof(b->service));
	b->conf = c;
	for (uint32_t i = 0; i < c->nservice; i++) {
		struct bservice *s = &b->service[i];

		memcpy(s->name, c->service[i].name, sizeof(s->name));
		s->n = c->service[i].nbackend;
		for (uint32_t k = 0; k < s->n; k++) {
			const struct conf_backend *cb = &c->service[i].backend[k];
			const struct backend *was = old_backend(old, s->name, cb->name, &oi, &ok);
			struct backend *be = &s->backend[k];

			if (was != NULL && strcmp(was->host, cb->host) == 0 && was->port == cb->port)
				*be = *was;
			else if (was != NULL) {
				be->drained = was->drained;
				be->operators = was->operators;
				be->known = true;
			} else
				be->drained = cb->drained;
			memcpy(be->name, cb->name, sizeof(be->name));
			memcpy(be->host, cb->host, sizeof(be->host));
			be->port = cb->port;
			be->probing = false;
			be->sessions = was != NULL ? was->sessions : 0;
			for (uint32_t l = 0; l < BLISTENERS; l++)
				held[l][i][k] = was != NULL ? b->listener[l].held[oi][ok] : 0;
		}
	}
	for (uint32_t l = 0; l < BLISTENERS; l++)
		memcpy(b->listener[l].held, held[l], sizeof(held[l]));
}

static void
on_config(struct worker *w, const void *image, size_t size)
{
	struct balancer *b = w->self;
	const struct conf *c = conf_image(image, size);

	if (c == NULL)
		return;
	take_conf(b, c);
	drain_learn(b);		/* of those that it did not have before */
	names_refresh(b);
}

static int
start(struct worker *w, int argc, char **argv)
{
	struct balancer *b = &self;
	const struct conf *c = conf_image(w->conf, w->conf_size);

	(void)argc, (void)argv;
	if (c == NULL)
		return (EX_CONFIG);
	w->self = b;
	b->w = w;
	b->loop = w->loop;
	b->admin.fd = -1;
	if ((b->counts_fd = counts_create()) == -1)
		log_warn("each listener keeps limits for itself");
	for (uint32_t i = 0; i < BLISTENERS; i++) {
		b->listener[i].b = b;
		b->listener[i].chan.fd = -1;
	}
	take_conf(b, c);
	drain_learn(b);
	names_start(b);
	w->sandbox.drop = c->drop;
	w->sandbox.uid = c->uid;
	w->sandbox.gid = c->gid;
	ev_timer_init(&b->tick, on_tick, 0.01, TICK_MS / 1000.);
	b->tick.data = b;
	ev_timer_start(b->loop, &b->tick);
	return (0);
}

int
main(int argc, char **argv)
{
	static const struct worker_ops ops = { .role = R_BALANCER, .start = start, .peer = on_peer,
	    .config = on_config };

	return (worker_main(&ops, argc, argv));
}
