/*
 * resume - a session that another process began, and the end of a process whose session is idle (DESIGN.md section 1)
 *
 * To the engine this is the death of a backend, with one step before it: what the kernel took from the client and gave
 * to him after the last commit is counted. A command that was pending is driven again; one behind its fence is decided
 * by doubt(), since the connection that could have told died with the process.
 *
 * A parked session is the same without a death, and with a backend that was kept: what the engine and the behaviour know of
 * it (have, scratch) lies behind the log's end.
 */
#include <sys/socket.h>

#include <fcntl.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/counted.h"
#include "workers/engine.h"

static struct { int fd; struct msg_backend m; } early = { .fd = -1 };

void
resume_backend(struct session *s, int fd, const struct msg_backend *m)
{
	(void)s;
	if (early.fd != -1)
		close(early.fd);
	early.fd = fd;
	early.m = *m;
}

/* The backend as the one before us left it. */
static void
take_backend(struct session *s)
{
	uint32_t at = s->w.have_at, n = s->w.scratch_len, cap = s->log.cap;

	s->w.have_at = s->w.scratch_len = 0;
	if (early.fd == -1)
		return;
	if (at == 0 || at > cap || s->b->have_size > cap - at || n > cap - at - s->b->have_size || n > s->scratch.cap) {
		close(early.fd);
		early.fd = -1;
		return;
	}
	s->link = LINK_UP;
	s->backend = early.fd;
	s->backend_id = early.m.backend;
	s->info = (struct backendinfo){ .xclient = (early.m.flags & 1) != 0 };
	memccpy(s->info.name, early.m.name, 0, sizeof(s->info.name) - 1);
	memcpy(s->t.have, s->j.log + at, s->b->have_size);
	memcpy(s->scratch.p, s->j.log + at + s->b->have_size, n);
	s->scratch.len = n;
	early.fd = -1;
	session_title(s);
}

/* --- parking --------------------------------------------------------------------------------------------------- */

static bool
may_park(const struct session *s)
{
	enum safe safe;

	if (!s->started || s->probe || s->over || s->w.closing || s->client_gone || s->w.client_eof || s->moving ||
	    s->chan.fd == -1 || s->chan.queued > 0 || s->w.in_end > s->w.in_start || s->w.out_end > s->w.out_start ||
	    s->w.spool.len > 0 || s->link == LINK_ASKED || s->taking_at != 0)
		return (false);
	if (s->link == LINK_UP && (buf_len(&s->bin) > 0 || buf_len(&s->bout) > 0 || s->sending || s->content_turn ||
	    (!s->settled && !s->b->pending(&s->t))))
		return (false);
	if (s->link == LINK_NONE && s->b->pending(&s->t))
		return (false);
	safe = s->b->safe(&s->t);
	return (safe == SAFE_PARK || (safe == SAFE_MOVE && s->yielding));
}

uint64_t
park_due(const struct session *s)
{
	if (s->times.park == 0 || !may_park(s))
		return (0);
	return (s->active_at + (s->yielding ? 1 : s->times.park));
}

/* Puts have and scratch where a successor finds them; false: there is no room. */
static bool
save_backend(struct session *s)
{
	uint32_t at = s->w.log_len < 8 ? 8 : (s->w.log_len + 7) & ~7u, cap = s->log.cap;

	if (s->link != LINK_UP || at > cap || s->b->have_size > cap - at || s->scratch.len > cap - at - s->b->have_size)
		return (false);
	memcpy(s->j.log + at, s->t.have, s->b->have_size);
	memcpy(s->j.log + at + s->b->have_size, s->scratch.p, s->scratch.len);
	s->w.have_at = at;
	s->w.scratch_len = s->scratch.len;
	return (true);
}

static uint64_t
wake_at(const struct session *s)
{
	uint64_t c = client_due(s), b = s->link == LINK_UP ? backend_due(s) : 0;

	return (c == 0 || (b != 0 && b < c) ? b : c);
}

void
park_if_due(struct session *s)
{
	struct msg_park m = { .flags = s->yielding };
	struct msg_parkup up = { .flags = s->yielding };
	uint64_t due = park_due(s);

	if (due == 0 || s->now < due)
		return;
	if (!save_backend(s))
		backend_close(s, true);
	m.wake_ms = up.wake_ms = wake_at(s);
	s->w.in_start = s->w.in_end = s->w.out_start = s->w.out_end = s->w.scanned = 0;
	session_note(s);
	session_commit(s);
	journal_thin(&s->j);
	if ((s->link == LINK_UP ? msg_send_parkup(&s->chan, &up, bytes("", 0), &s->backend) :
	    msg_send_park(&s->chan, &m, bytes("", 0), NULL)) == -1 || s->chan.queued > 0)
		_exit(1);		/* then it is resumed as after any death */
	_exit(0);
}

/* --- going on -------------------------------------------------------------------------------------------------- */

int
resume(struct session *s, bool give_up)
{
	static const struct linger gently = { .l_onoff = 0 };
	bool pending;

	if (counted_adopt(&s->j, &s->w) == -1 || s->b->check(&s->t) != 0) {
		log_warnx("session %s: its journal makes no sense", s->peer.session);
		return (-1);
	}
	s->noted.phase = UINT32_MAX;	/* what the listener was told by another is not known */
	take_backend(s);
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
	if (s->link != LINK_UP) {
		s->deaths = pending;
		if (pending && s->b->in_doubt(&s->t))
			(void)backend_doubt(s);
	}
	session_news(s);
	session_commit(s);
	return (0);
}
