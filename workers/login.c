/*
 * login - a login waits where failures came before, and its failure is told late (engine.h, penalty.h)
 *
 * The listener knows of failures in other sessions. It is asked only if there were any lately, so that an ordinary login
 * costs no message. A backend that cannot tell has answered nothing: only a refusal counts as a failure.
 *
 * A server that is being killed may refuse logins as it dies (Dovecot does, whose auth process dies first). So a refusal is taken
 * when the backend has lived on for the time after which it is told anyway; if it dies before, another is asked. What that one says
 * is believed at once: there are servers that end the connection after a refusal.
 *
 * With a challenge the guess is the client's answer. So such a login goes on until the client has said who it is, and waits then.
 */
#include "workers/engine.h"
#include "workers/sasl.h"

enum { ASK_MS = 5000, PLAIN_MAX = 16384 };

static enum proof
pending(struct session *s, struct bytes *user, struct bytes *secret)
{
	return (s->probe || s->b->login == NULL ? PROOF_NONE : s->b->login(&s->t, user, secret));
}

bool
login_holds(struct session *s)
{
	struct msg_authask m = { .id = ++s->login_id };
	struct bytes user, secret;
	enum proof proof = pending(s, &user, &secret);

	if (proof == PROOF_NONE || (proof == PROOF_ONCE && user.n == 0)) {
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

/* The same for one password, in whatever way it is said; 0: never the same. */
static uint64_t
credentials(enum proof proof, struct bytes secret)
{
	uint8_t raw[PLAIN_MAX];
	struct bytes zid, cid, password = secret;
	int n = proof == PROOF_PLAIN ? sasl_decode(secret, raw, sizeof(raw)) : -1;
	uint64_t h;

	if (n == -1 || sasl_plain(bytes(raw, (size_t)n), &zid, &cid, &password) == -1)
		password = secret;
	h = proof == PROOF_ONCE ? 0 : bytes_hash(password);
	explicit_bzero(raw, n > 0 ? (size_t)n : 0);
	return (h);
}

bool
login_begin(struct session *s, struct msg_authed *m)
{
	struct bytes user, secret;
	enum proof proof = pending(s, &user, &secret);

	if (proof == PROOF_NONE)
		return (false);
	*m = (struct msg_authed){ .id = s->sid };
	bytes_text(user, m->user, sizeof(m->user));
	m->credentials = credentials(proof, secret);
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
	/* it was not the password, or the exchange has ended before anybody had a try */
	if (s->t.excused || (m->user[0] == '\0' && m->credentials == 0)) {
		s->refused_at = 0;
		return;
	}
	if (!m->good) {
		s->mute_until = s->refused_at != 0 ? believed_at(s) : s->now + s->times.login_failure;
		s->peer.watch = true;
	}
	s->refused_at = 0;
	if (!m->good || s->peer.watch)
		(void)msg_send_authed(&s->chan, m, bytes("", 0), NULL);
}
