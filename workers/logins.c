/*
 * logins - penalties for logins that fail, by address and by user, and for sessions that crash, by address (listener.h, penalty.h)
 */
#include <string.h>

#include "supervisor/clock.h"
#include "supervisor/log.h"
#include "workers/listener.h"

void
logins_start(struct listener *l, uint64_t secret)
{
	l->penalties.secret = l->crashed.secret = secret;
}

void
logins_crashed(struct sess *s)
{
	struct listener *l = s->l;

	penalty_failed(&l->crashed, penalty_address(&l->crashed, s->peer.addr), ++l->crashes, clock_ms());	/* no two are the same */
}

uint32_t
logins_delay(const struct listener *l, const char *addr)
{
	return (penalty_ms(&l->crashed, penalty_address(&l->crashed, addr), PENALTY_FREE_CRASHES, clock_ms()));
}

void
logins_count(struct listener *l, const struct msg_logged *m)
{
	if (m->good) {
		penalty_good(&l->penalties, m->address);
		penalty_good(&l->penalties, m->user);
		return;
	}
	penalty_failed(&l->penalties, m->address, m->credentials != 0 ? m->credentials ^ m->user : 0, clock_ms());
	penalty_failed(&l->penalties, m->user, m->credentials, clock_ms());
}

bool
logins_watch(const struct listener *l, const char *addr)
{
	(void)addr;
	return (penalty_any(&l->penalties, clock_ms()));
}

int
logins_ask(struct sess *s, const struct msg_authask *m)
{
	struct listener *l = s->l;
	struct msg_authgo go = { .id = m->id };
	uint32_t user;

	if (s->state != SESS_CLIENT)
		return (-1);
	go.ms = penalty_ms(&l->penalties, penalty_address(&l->penalties, s->peer.addr), 0, clock_ms());
	user = penalty_ms(&l->penalties, penalty_user(&l->penalties, m->user), PENALTY_FREE_USER, clock_ms());
	if (user > go.ms)
		go.ms = user;
	(void)msg_send_authgo(&s->chan, &go, bytes("", 0), NULL);
	return (0);
}

int
logins_ended(struct sess *s, const struct msg_authed *m)
{
	struct listener *l = s->l;
	struct msg_logged all = { .address = penalty_address(&l->penalties, s->peer.addr), .user = penalty_user(&l->penalties, m->user),
	    .credentials = m->credentials, .good = m->good };
	bool news = !m->good || logins_watch(l, s->peer.addr);	/* a good one where none has failed is none */
	char name[64];

	if (s->state != SESS_CLIENT)
		return (-1);
	logins_count(l, &all);
	if (news && l->balancer.fd != -1)
		(void)msg_send_logged(&l->balancer, &all, bytes("", 0), NULL);
	if (m->good)
		return (0);
	bytes_text(bytes(m->user, strnlen(m->user, sizeof(m->user))), name, sizeof(name));
	l->service[s->service].logins_failed++;
	log_info("%s: session=<%s> user=<%s> rip=%s lip=%s service=%s: authentication failed", l->b->name, s->peer.session, name,
	    s->peer.addr, s->peer.local, l->service[s->service].name);
	return (0);
}
