/*
 * probes - health checks for the balancer, each a session without a client (listener.h)
 *
 * What a backend says is parsed in a protocol's sandbox and nowhere else. A probe also learns what the backend can do;
 * the offer to clients is what all known backends of the service have in common.
 */
#include <bsd/string.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "supervisor/log.h"
#include "workers/check.h"
#include "workers/listener.h"
#include "workers/rows.h"

/* What an operator's check came to. told: enum told, in a word; "" of a process of before. */
struct result { bool known; char forwarding[256], login[128], fault[160], told[16], offer[512], tls[64]; };

static void
collect(struct result *r, const struct sess *s, const struct msg_probed *m, struct bytes tail)
{
	*r = (struct result){ .known = m != NULL && m->ok, .forwarding = "not reached", .login = "not reached", .tls = "none" };
	if (m != NULL) {
		bytes_text(bytes_token(&tail, 0), r->forwarding, sizeof(r->forwarding));
		bytes_text(bytes_token(&tail, 0), r->login, sizeof(r->login));
		bytes_text(bytes_token(&tail, 0), r->fault, sizeof(r->fault));
		bytes_text(bytes_token(&tail, 0), r->told, sizeof(r->told));
	} else
		bytes_text(tail, r->fault, sizeof(r->fault));
	if (r->known)
		s->l->b->show(&m->caps, r->offer, sizeof(r->offer));
	if (s->user[0] != '\0')
		snprintf(r->fault, sizeof(r->fault), "connect: %s", s->user);
	if (s->backend_tls.version[0] != '\0')
		snprintf(r->tls, sizeof(r->tls), "%s %s", s->backend_tls.version, s->backend_tls.cipher);
}

/*
 * A header of PROXY names the client before anything is said. A backend that answers a login behind it has taken it, whatever came
 * of the other ways; one that expects none takes it for nonsense, and comes to nothing from the start.
 */
static void
judge_address(struct result *r, unsigned int version)
{
	if (version != 0 && r->told[0] != '\0') {
		snprintf(r->told, sizeof(r->told), "yes");
		snprintf(r->forwarding, sizeof(r->forwarding), "PROXY v%u names " CHECK_ADDR " and is taken", version);
	} else if (version != 0 && r->fault[0] != '\0') {
		snprintf(r->told, sizeof(r->told), "no");
		snprintf(r->forwarding, sizeof(r->forwarding), "PROXY v%u was sent, and no session came of it: the backend may not expect "
		    "it, or not from here", version);
	}
	if (r->fault[0] == '\0' && strcmp(r->told, "no") == 0)
		snprintf(r->fault, sizeof(r->fault), "the client's address does not reach the backend");
}

static bool
is_good(const struct result *r)
{
	return (r->fault[0] == '\0' && r->offer[0] != '\0' &&
	    (strcmp(r->login, "good") == 0 || strncmp(r->login, "not tried", 9) == 0));
}

/* ROW and END to admin. */
static void
answer_check(struct sess *s, const struct msg_probed *m, struct bytes tail)
{
	struct listener *l = s->l;
	struct msg_row row = { .id = s->check };
	struct msg_end end = { .id = s->check };
	struct result is;
	struct row r;

	collect(&is, s, m, tail);
	judge_address(&is, s->proxied);
	row_begin(&r);
	row_str(&r, "service", l->service[s->service].name);
	row_str(&r, "name", s->backend_name);
	row_bool(&r, "good", is_good(&is));
	row_str(&r, "tls", is.tls);
	row_str(&r, "capabilities", is.offer);
	row_str(&r, "forwarded", is.told);
	row_str(&r, "forwarding", is.forwarding);
	row_str(&r, "login", is.login);
	row_str(&r, "fault", is.fault);
	row_end(&r);
	s->told = true;
	s->check = 0;
	(void)msg_send_row(&l->admin, &row, row_bytes(&r), NULL);
	(void)msg_send_end(&l->admin, &end, bytes("", 0), NULL);
}

static void
report(struct sess *s, bool good, const char *why)
{
	struct listener *l = s->l;
	struct msg_proberes m = { .id = s->sid, .service = s->service, .backend = s->probe.backend, .ok = good,
	    .ms = (uint32_t)((ev_now(l->w->loop) - s->since) * 1000) };

	if (s->told)
		return;
	if (s->check != 0) {
		answer_check(s, NULL, bytes_str(why));
		return;
	}
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

/* False: no process is warm. check: admin's question, 0: none; tail: who is to log in. */
static bool
begin(struct listener *l, const struct msg_probe *p, uint64_t check, struct bytes tail)
{
	struct msg_go m = { .flags = check != 0 ? 2 : 0 };
	struct sess *s = sessions_warm(l);

	if (s == NULL)
		return (false);
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
	if (check == 0)
		m.limits.log = 65536;
	s->check = check;
	m.limits.spool_memory = 0;
	m.times = l->service[p->service].times;
	TAILQ_INSERT_TAIL(&l->active, s, link);
	ev_timer_init(&s->deadline, on_deadline, (p->timeout_ms ? p->timeout_ms : 10000) / 1000.0, 0);
	s->deadline.data = s;
	ev_timer_start(l->w->loop, &s->deadline);
	if (msg_send_go(&s->chan, &m, tail, NULL) == -1) {
		report(s, false, "no process for the probe");
		sessions_free(s);
	}
	return (true);
}

void
probes_start(struct listener *l, const struct msg_probe *p)
{
	if (p->service >= CONF_SERVICES || !l->service[p->service].mine || p->backend >= CONF_BACKENDS ||
	    p->addrlen > sizeof(p->addr) || l->stopping)
		return;
	l->service[p->service].last[p->backend] = *p;
	if (!begin(l, p, 0, bytes("", 0)) && l->nprobes < sizeof(l->probes) / sizeof(l->probes[0]))
		l->probes[l->nprobes++] = *p;
	/* beyond that the balancer's own deadline counts it as failed, and it asks again */
}

int
probes_check(struct listener *l, uint64_t id, struct bytes tail)
{
	char service[CONF_NAME], name[CONF_NAME];

	bytes_text(bytes_token(&tail, 0), service, sizeof(service));
	bytes_text(bytes_token(&tail, 0), name, sizeof(name));
	for (uint32_t i = 0; i < l->conf->nservice; i++)
		for (uint32_t k = 0; k < l->conf->service[i].nbackend; k++) {
			if (!l->service[i].mine || strcmp(l->service[i].name, service) != 0 ||
			    strcmp(l->conf->service[i].backend[k].name, name) != 0)
				continue;
			if (strcmp(l->service[i].last[k].name, name) != 0 || !begin(l, &l->service[i].last[k], id, tail))
				return (EX_TEMPFAIL);
			return (0);
		}
	return (EX_NOUSER);
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
	if (s->check != 0 && s->route_id != 0)		/* its second connection is that of a login */
		check_client(&s->peer);
	s->route_id = m->id;
	s->proxied = 0;
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

bool
probes_told(struct listener *l, uint32_t service, uint32_t backend, const char *name, const struct caps *news)
{
	struct service *sv = &l->service[service];
	struct caps *c = &sv->caps[backend], was;

	if (strncmp(sv->caps_name[backend], name, CONF_NAME) != 0)
		*c = (struct caps){ .known = 0 };
	was = *c;
	if (l->b->learn != NULL && c->known)
		l->b->learn(c, news);
	else
		*c = *news;
	c->known = 1;
	strlcpy(sv->caps_name[backend], name, CONF_NAME);
	probes_offer(l, service);
	return (memcmp(&was, c, sizeof(was)) != 0);
}

void
probes_learned(struct listener *l, uint32_t service, uint32_t backend, const char *name, const struct caps *news)
{
	struct msg_caps m = { .service = service, .backend = backend };

	if (!probes_told(l, service, backend, name, news) || l->balancer.fd == -1)
		return;
	m.caps = l->service[service].caps[backend];
	memcpy(m.name, l->service[service].caps_name[backend], sizeof(m.name));
	(void)msg_send_caps(&l->balancer, &m, bytes("", 0), NULL);
}

void
probes_result(struct sess *s, const struct msg_probed *m, struct bytes why)
{
	char text[128];

	if (m->ok && s->probe.backend < CONF_BACKENDS) {
		probes_learned(s->l, s->service, s->probe.backend, s->backend_name, &m->caps);
	}
	if (s->check != 0) {
		answer_check(s, m, why);
		return;
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
