/*
 * probes - health checks for the balancer, each a session without a client (listener.h)
 *
 * What a backend says is parsed in a protocol's sandbox and nowhere else. A probe also learns what the backend can do;
 * the offer to clients is what all known backends of the service have in common.
 */
#include <bsd/string.h>
#include <stdio.h>
#include <string.h>

#include "supervisor/log.h"
#include "workers/listener.h"

static void
report(struct sess *s, bool good, const char *why)
{
	struct listener *l = s->l;
	struct msg_proberes m = { .id = s->sid, .service = s->service, .backend = s->probe.backend, .ok = good,
	    .ms = (uint32_t)((ev_now(l->w->loop) - s->since) * 1000) };

	if (s->told)
		return;
	s->told = true;
	if (l->balancer.fd != -1)
		(void)msg_send_proberes(&l->balancer, &m, bytes_str(why), NULL);
}

static void
on_deadline(struct ev_loop *loop, ev_timer *t, int events)
{
	struct sess *s = t->data;

	(void)loop, (void)events;
	report(s, false, "timed out");
	sessions_free(s);	/* its channel ends, and so does it */
}

void
probes_start(struct listener *l, const struct msg_probe *p)
{
	struct msg_go m = { .flags = 0 };
	struct sess *s;

	if (p->service >= CONF_SERVICES || !l->service[p->service].mine || p->backend >= CONF_BACKENDS ||
	    p->addrlen > sizeof(p->addr) || l->stopping)
		return;
	if ((s = sessions_warm(l)) == NULL) {
		if (l->nprobes < sizeof(l->probes) / sizeof(l->probes[0]))
			l->probes[l->nprobes++] = *p;
		return;		/* beyond that the balancer's own deadline counts it as failed, and it asks again */
	}
	s->state = SESS_PROBE;
	s->service = p->service;
	s->probe = *p;
	s->sid = p->id;
	s->since = ev_now(l->w->loop);
	memcpy(s->backend_name, p->name, sizeof(s->backend_name));
	s->backend_name[sizeof(s->backend_name) - 1] = '\0';
	sessions_peerinfo(l, p->service, &s->peer);
	m.sid = s->sid;
	m.peer = s->peer;
	m.offer = l->service[p->service].offer;
	m.limits = l->service[p->service].limits;
	m.limits.log = 65536;
	m.limits.spool_memory = 0;
	m.times = l->service[p->service].times;
	TAILQ_INSERT_TAIL(&l->active, s, link);
	ev_timer_init(&s->deadline, on_deadline, (p->timeout_ms ? p->timeout_ms : 10000) / 1000.0, 0);
	s->deadline.data = s;
	ev_timer_start(l->w->loop, &s->deadline);
	if (msg_send_go(&s->chan, &m, bytes("", 0), NULL) == -1) {
		report(s, false, "no process for the probe");
		sessions_free(s);
	}
}

void
probes_pending(struct listener *l)
{
	struct msg_probe p;

	while (l->nprobes > 0 && l->nwarm > 0) {
		p = l->probes[--l->nprobes];
		probes_start(l, &p);
	}
}

void
probes_route(struct sess *s, const struct msg_route *m)
{
	s->route_id = m->id;
	s->backend = (int32_t)s->probe.backend;
	s->xclient = (s->probe.flags & 1) != 0;
	connector_to(s, (const struct sockaddr *)(const void *)s->probe.addr, s->probe.addrlen);
}

void
probes_offer(struct listener *l, uint32_t n)
{
	const struct conf_service *cs = &l->conf->service[n];
	struct service *sv = &l->service[n];
	struct caps offer = { .known = 0 }, *c;
	char text[512];

	for (uint32_t i = 0; i < cs->nbackend; i++) {
		c = &sv->caps[i];
		if (!c->known || strcmp(sv->caps_name[i], cs->backend[i].name) != 0)
			continue;
		if (!offer.known)
			offer = *c;
		else
			l->b->meet(&offer, c);
	}
	if (memcmp(&offer, &sv->offer, sizeof(offer)) == 0)
		return;
	sv->offer = offer;
	if (offer.known) {
		l->b->show(&offer, text, sizeof(text));
		log_info("service %s offers: %s", sv->name, text);
		sessions_serve_waiting(l);
	}
}

void
probes_learned(struct listener *l, uint32_t service, uint32_t backend, const char *name, const struct caps *news)
{
	struct service *sv = &l->service[service];
	struct caps *c = &sv->caps[backend];

	if (strncmp(sv->caps_name[backend], name, CONF_NAME) != 0)
		c->known = 0;
	if (l->b->learn != NULL && c->known)
		l->b->learn(c, news);
	else
		*c = *news;
	c->known = 1;
	strlcpy(sv->caps_name[backend], name, CONF_NAME);
	probes_offer(l, service);
}

void
probes_result(struct sess *s, const struct msg_probed *m, struct bytes why)
{
	char text[128];

	if (m->ok && s->probe.backend < CONF_BACKENDS) {
		probes_learned(s->l, s->service, s->probe.backend, s->backend_name, &m->caps);
	}
	bytes_text(why, text, sizeof(text));
	if (!m->ok && s->user[0] != '\0')
		snprintf(text, sizeof(text), "connect: %s", s->user);
	report(s, m->ok, text);
}

void
probes_lost(struct sess *s)
{
	report(s, false, "the probe's process died");
}
