/*
 * resume - a session that another process began: its journal, its client's socket, no backend (DESIGN.md section 1)
 *
 * To the engine this is the death of a backend, with one step before it: what the kernel took from the client and gave
 * to him after the last commit is counted. A command that was pending is driven again; one behind its fence is decided
 * by doubt(), since the connection that could have told died with the process.
 */
#include <sys/socket.h>

#include "supervisor/log.h"
#include "workers/counted.h"
#include "workers/engine.h"

int
resume(struct session *s, bool give_up)
{
	static const struct linger gently = { .l_onoff = 0 };
	bool pending;

	if (counted_adopt(&s->j, &s->w) == -1 || s->b->check(&s->t) != 0) {
		log_warnx("session %s: its journal makes no sense", s->peer.session);
		return (-1);
	}
	session_commit(s);
	/* it may have been about to cut the connection off, from a state that was not published */
	setsockopt(s->client, SOL_SOCKET, SO_LINGER, &gently, sizeof(gently));
	if (s->w.closing)
		return (0);
	if (give_up) {
		session_refuse(s, WHY_CRASH, REASON_CRASHED);
		session_end(s, REASON_CRASHED);
		return (0);
	}
	if (s->w.idle_at == 0)
		client_idle_from_now(s);
	if (!s->w.greeted) {
		s->b->greet(turn_begin(s));
		turn_end(s);
		s->w.greeted = 1;
	}
	pending = s->b->pending(&s->t);
	s->deaths = pending;
	if (pending && s->b->in_doubt(&s->t))
		(void)backend_doubt(s);
	session_news(s);
	session_commit(s);
	return (0);
}
