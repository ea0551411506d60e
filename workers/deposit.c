/*
 * deposit - what the fdstore is given of each session, and what a listener gets back of its predecessor's (listener.h)
 *
 * A session is given when it is older than a moment (most end before), and again whenever its descriptors change: before a fresh process is
 * told to go on, so that there are never two for one client. What came back is a session as any other: one with a process
 * hears AGAIN, since what it asked the dead listener is not answered; one without gets a process.
 */
#include <sys/socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/listener.h"
#include "workers/reason.h"

static const ev_tstamp old_enough = 0.25;
enum { GIVEN_A_TICK = 2000 };

static void
unlist(struct sess *s)
{
	if (s->to_deposit)
		TAILQ_REMOVE(&s->l->undeposited, s, deposit);
	s->to_deposit = false;
}

void
deposit_later(struct sess *s)
{
	if (!s->to_deposit)
		TAILQ_INSERT_TAIL(&s->l->undeposited, s, deposit);
	s->to_deposit = true;
	if (!ev_is_active(&s->l->deposit_timer)) {
		ev_timer_set(&s->l->deposit_timer, old_enough, 0.);
		ev_timer_start(s->l->w->loop, &s->l->deposit_timer);
	}
}

void
deposit_now(struct sess *s)
{
	struct listener *l = s->l;
	struct msg_keep m = { .sid = s->sid, .there = 1u << KEEP_CLIENT | 1u << KEEP_JOURNAL,
	    .since_ms = (uint64_t)(s->since * 1000), .pid = s->pid, .resumed = s->resumed, .failovers = s->failovers,
	    .backend_told = s->backend_told, .peer = s->peer, .zygote = s->zygote, .tls = s->tls };
	int fd[KEEP_FDS] = { s->client, s->journal, s->client, s->client };

	if (s->state == SESS_PARKED) {
		m.flags |= KEEP_PARKED;
		m.wake_ms = s->wake_ms;
		if (s->kept_backend != -1) {
			m.there |= 1u << KEEP_LINK;
			fd[KEEP_LINK] = s->kept_backend;
		}
	} else if (s->chan.fd != -1) {
		m.there |= 1u << KEEP_LINK;
		fd[KEEP_LINK] = s->chan.fd;
	}
	if (s->file != -1) {
		m.there |= 1u << KEEP_FILE;
		fd[KEEP_FILE] = s->file;
	}
	memcpy(m.service, l->service[s->service].name, sizeof(m.service));
	memcpy(m.backend, s->backend_name, sizeof(m.backend));
	memcpy(m.user, s->user, sizeof(m.user));
	unlist(s);
	if (l->fdstore.fd != -1 && msg_send_keep(&l->fdstore, &m, bytes("", 0), fd) == 0)
		s->deposited = true;
	else
		deposit_later(s);
}

void
deposit_changed(struct sess *s)
{
	if (s->deposited)
		deposit_now(s);
}

void
deposit_news(struct sess *s)
{
	struct msg_news m = { .sid = s->sid, .failovers = s->failovers, .backend_told = s->backend_told };

	if (!s->deposited)
		return;
	memcpy(m.backend, s->backend_name, sizeof(m.backend));
	memcpy(m.user, s->user, sizeof(m.user));
	(void)msg_send_news(&s->l->fdstore, &m, bytes("", 0), NULL);
}

void
deposit_drop(struct sess *s)
{
	struct msg_drop m = { .sid = s->sid };

	unlist(s);
	if (s->deposited && s->l->fdstore.fd != -1)
		(void)msg_send_drop(&s->l->fdstore, &m, bytes("", 0), NULL);
	s->deposited = false;
}

static void
on_time(struct ev_loop *loop, ev_timer *t, int events)
{
	struct listener *l = t->data;
	ev_tstamp now = ev_now(loop);
	struct sess *s;

	(void)events;

	for (int i = 0; i < GIVEN_A_TICK && l->fdstore.fd != -1 && (s = TAILQ_FIRST(&l->undeposited)) != NULL &&
	    (now - s->since >= old_enough || now < s->since); i++) {	/* the clock may be set back */
		deposit_now(s);
		if (s->to_deposit)
			break;
	}
	if (!TAILQ_EMPTY(&l->undeposited)) {
		ev_timer_set(t, old_enough, 0.);
		ev_timer_start(loop, t);
	}
}

void
deposit_start(struct listener *l)
{
	ev_timer_init(&l->deposit_timer, on_time, old_enough, 0.);
	l->deposit_timer.data = l;
}

/* --- the predecessor's ----------------------------------------------------------------------------------------- */

static void
ask(struct listener *l, bool first)
{
	struct msg_give m = { .first = first };

	(void)msg_send_give(&l->fdstore, &m, bytes("", 0), NULL);
}

/* What it has it is to have until it is given anew: the end of a session is told to it. */
void
deposit_anew(struct listener *l)
{
	struct sess *s;

	TAILQ_FOREACH(s, &l->active, link)
		if (s->state >= SESS_CLIENT && s->deposited)
			deposit_later(s);
}

void
deposit_peer(struct listener *l)
{
	struct sess *s;

	if (!l->inherited) {	/* whatever there is was another's: we have had no fdstore yet */
		ask(l, true);
		l->inherited = true;
	}
	TAILQ_FOREACH(s, &l->active, link)
		if (s->state >= SESS_CLIENT && s->deposited) {
			s->deposited = false;
			deposit_later(s);
		}
}

static void
take_names(struct sess *s, const struct msg_kept *m)
{
	struct listener *l = s->l;
	const struct conf_service *c = conf_service(l->conf, m->service);

	if (c == NULL || !l->service[c - l->conf->service].mine) {
		s->kicked = true;		/* its service is gone: it only ends */
		for (uint32_t i = 0; i < CONF_SERVICES; i++)
			if (l->service[i].mine)
				c = &l->conf->service[i];
	}
	s->service = (uint32_t)(c - l->conf->service);
	memcpy(s->backend_name, m->backend, sizeof(s->backend_name));
	s->backend_name[sizeof(s->backend_name) - 1] = '\0';
	s->backend_told = m->backend_told;
	for (uint32_t i = 0; i < c->nbackend; i++)
		if (s->backend_name[0] != '\0' && strcmp(c->backend[i].name, s->backend_name) == 0)
			s->backend = (int32_t)i;
	bytes_text(bytes(m->user, strnlen(m->user, sizeof(m->user))), s->user, sizeof(s->user));
}

static struct sess *
inherit(struct listener *l, const struct msg_kept *m, int fd[])
{
	struct sess *s = sessions_new(l);

	if (s == NULL)
		return (NULL);
	s->state = SESS_CLIENT;
	s->sid = m->sid;
	s->pid = m->pid;
	s->resumed = m->resumed;
	s->zygote = m->zygote;
	s->failovers = m->failovers;
	s->since = (ev_tstamp)m->since_ms / 1000;
	s->peer = m->peer;
	s->tls = m->tls;
	take_names(s, m);
	s->client = fd[KEEP_CLIENT];
	s->journal = fd[KEEP_JOURNAL];
	fd[KEEP_CLIENT] = fd[KEEP_JOURNAL] = -1;
	if (m->there & 1u << KEEP_FILE) {
		s->file = fd[KEEP_FILE];
		fd[KEEP_FILE] = -1;
	}
	sessions_count(s);
	counts_came(&l->counts, s->address_slot);
	s->deposited = true;
	l->tell_held = 3;
	return (s);
}

static struct sess *
known(struct listener *l, uint64_t sid)
{
	struct sess *s;

	TAILQ_FOREACH(s, &l->active, link)
		if (s->sid == sid)
			return (s);
	return (NULL);
}

int
deposit_kept(struct listener *l, const struct msg_kept *m, int fd[])
{
	const uint32_t both = 1u << KEEP_CLIENT | 1u << KEEP_JOURNAL;
	struct msg_again again = { .id = m->sid };
	struct sess *s;
	int link = -1;

	if ((m->there & both) != both)
		return (-1);
	if ((l->asked_anew && known(l, m->sid) != NULL) || (s = inherit(l, m, fd)) == NULL)
		return (0);
	if (m->there & 1u << KEEP_LINK) {
		link = fd[KEEP_LINK];
		fd[KEEP_LINK] = -1;
	}
	if (m->flags & KEEP_PARKED)
		park_begin(s, link, m->wake_ms);
	else if (link == -1)
		keep_lost(s);
	else {
		sessions_chan(s, link);
		(void)msg_send_again(&s->chan, &again, bytes("", 0), NULL);
	}
	if (s->kicked)
		keep_kick(s, WHY_SHUTDOWN);
	return (0);
}

/* Texts of a message that a session's own process may have made. */
static void
end_texts(struct msg_kept *k)
{
	char *const last[] = { &k->service[sizeof(k->service) - 1], &k->backend[sizeof(k->backend) - 1], &k->user[sizeof(k->user) - 1],
	    &k->peer.addr[sizeof(k->peer.addr) - 1], &k->peer.local[sizeof(k->peer.local) - 1],
	    &k->peer.banner[sizeof(k->peer.banner) - 1], &k->peer.session[sizeof(k->peer.session) - 1],
	    &k->tls.version[sizeof(k->tls.version) - 1], &k->tls.cipher[sizeof(k->tls.cipher) - 1],
	    &k->tls.name[sizeof(k->tls.name) - 1], &k->tls.subject[sizeof(k->tls.subject) - 1],
	    &k->tls.user[sizeof(k->tls.user) - 1] };

	for (size_t i = 0; i < sizeof(last) / sizeof(last[0]); i++)
		*last[i] = '\0';
}

/* Who it is, is not believed but for what it may say of itself: its process is the one that made the channel. */
int
deposit_orphan(struct listener *l, const struct msg_orphan *m, int fd[])
{
	struct msg_kept k = m->k;
	struct ucred u;
	socklen_t n = sizeof(u);
	struct sess *s;

	if (known(l, k.sid) != NULL)
		return (0);		/* the fdstore had it after all */
	if ((k.there & 1u << KEEP_LINK) == 0 || getsockopt(fd[KEEP_LINK], SOL_SOCKET, SO_PEERCRED, &u, &n) == -1 || l->stopping || l->leaving)
		return (0);
	k.pid = (uint32_t)u.pid;
	k.flags = k.resumed = 0;
	end_texts(&k);
	if (deposit_kept(l, &k, fd) == -1)
		return (0);
	s = TAILQ_LAST(&l->active, sesslist);
	if (s != NULL && s->sid == k.sid) {
		s->deposited = false;
		deposit_later(s);
		log_notice("session %s: taken in; its listener died when it was young", s->peer.session);
	}
	return (0);
}

/* Those who wait for a process are told to come again; all others are deposited, however young. */
void
deposit_leave(struct listener *l)
{
	struct sess *s;

	l->leaving = true;
	sessions_refuse_all(l);
	sessions_unused_warm(l);
	TAILQ_FOREACH(s, &l->active, link)
		if (s->state >= SESS_CLIENT && (!s->deposited || s->to_deposit))
			deposit_now(s);
	deposit_tick(l);
}

void
deposit_tick(struct listener *l)
{
	bool all = l->fdstore.fd != -1 && l->fdstore.queued == 0 && TAILQ_EMPTY(&l->undeposited);

	/* bmrd brings another fdstore, if it lives */
	if (l->leaving && (all || (l->fdstore.fd == -1 && l->w->root.fd == -1)))
		worker_end(l->w, 0);
	if (l->kept_lost && !l->leaving && l->fdstore.fd != -1) {
		l->kept_lost = false;
		l->asked_anew = true;
		ask(l, true);
	}
}

void
deposit_given(struct listener *l, const struct msg_given *m)
{
	l->ninherited += m->n;
	if (m->more)
		ask(l, false);
	else if (l->ninherited > 0)
		log_notice("%u sessions taken over", l->ninherited);
}
