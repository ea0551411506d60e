/*
 * login - a login waits where failures came before, and its failure is told late (engine.h, penalty.h)
 *
 * The listener knows of failures in other sessions. It is asked only if there were any lately, so that an ordinary login
 * costs no message. A backend that cannot tell has answered nothing: only a refusal counts as a failure.
 *
 * A server that is being killed may refuse logins as it dies (Dovecot does, whose auth process dies first). So a refusal is taken
 * when the backend has lived on for the time after which it is told anyway; if it dies before, another is asked. What that one says
 * is believed at once: there are servers that end the connection after a refusal.
 */
#include "workers/engine.h"

enum { ASK_MS = 5000 };

static bool
pending(struct session *s, struct bytes *user, struct bytes *secret)
{
	return (!s->probe && s->b->login != NULL && s->b->login(&s->t, user, secret));
}

bool
login_holds(struct session *s)
{
	struct msg_authask m = { .id = ++s->login_id };
	struct bytes user, secret;

	if (!pending(s, &user, &secret)) {
		s->login = LOGIN_NONE;
		return (false);
	}
	if (s->login == LOGIN_NONE) {
		s->login = s->peer.watch ? LOGIN_ASKED : LOGIN_GOES;
		s->login_at = s->now + ASK_MS;
		bytes_text(user, m.user, sizeof(m.user));
		if (s->login == LOGIN_ASKED && msg_send_authask(&s->chan, &m, bytes("", 0), NULL) == -1)
			s->login = LOGIN_GOES;
	}
	if (s->login != LOGIN_GOES && s->now >= s->login_at)
		s->login = LOGIN_GOES;
	return (s->login != LOGIN_GOES);
}

void
login_go(struct session *s, const struct msg_authgo *m)
{
	if (s->login != LOGIN_ASKED)
		return;
	s->login = LOGIN_WAITS;
	s->login_at = s->now + m->ms;
}

static uint64_t
believed_at(const struct session *s)
{
	return (s->refused_at + s->times.login_failure);
}

bool
login_doubts(const struct session *s)
{
	return (s->refused_at != 0 && s->now < believed_at(s));
}

uint64_t
login_due(const struct session *s)
{
	uint64_t due = s->login == LOGIN_ASKED || s->login == LOGIN_WAITS ? s->login_at : 0;

	if (login_doubts(s))
		return (believed_at(s));
	return (s->mute_until > s->now && (due == 0 || s->mute_until < due) ? s->mute_until : due);
}

bool
login_begin(struct session *s, struct msg_authed *m)
{
	struct bytes user, secret;
	uint64_t h = s->sid != 0 ? 1469598103934665603u : 0;

	if (!pending(s, &user, &secret))
		return (false);
	*m = (struct msg_authed){ .id = s->sid };
	bytes_text(user, m->user, sizeof(m->user));
	for (size_t i = 0; i < secret.n; i++)
		h = (h ^ secret.p[i]) * 1099511628211u;
	m->credentials = h;
	return (true);
}

void
login_end(struct session *s, struct msg_authed *m)
{
	char who[4] = "";

	if (s->b->pending(&s->t))
		return;
	s->b->user(&s->t, who, sizeof(who));
	m->good = who[0] != '\0';
	s->login = LOGIN_NONE;
	if (!m->good) {
		s->mute_until = s->refused_at != 0 ? believed_at(s) : s->now + s->times.login_failure;
		s->peer.watch = true;
	}
	s->refused_at = 0;
	if (!m->good || s->peer.watch)
		(void)msg_send_authed(&s->chan, m, bytes("", 0), NULL);
}
