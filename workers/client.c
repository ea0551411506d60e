/*
 * client - the client's socket and the behaviour's client side (engine.h)
 *
 * Promises: input leaves the journal only after its effect is in it (J1); output counts as delivered only when
 * the socket took it (J2); the client is read no faster than the backend takes its content.
 */
#include <sys/socket.h>
#include <errno.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/counted.h"
#include "workers/engine.h"

enum { CONTENT_AHEAD = 262144, WINDOW_MIN = 1024, BLOCK = 65536 };

static void
gone(struct session *s)
{
	s->client_gone = true;
	s->w.client_eof = 1;
	s->w.out_start = s->w.out_end = 0;
	/* a commit under way is let finish, its answer dropped (protocols.md 6.2); nothing else goes on */
	if (!s->b->in_doubt(&s->t) || s->link != LINK_UP)
		session_end(s, REASON_GONE);
}

/*
 * How much to read of what there is room for. Content on its way to the file is read so that it ends there where a block
 * ends: whole blocks are kept, sent and given back by the kernel in large folios, at about half the cost (NOTES).
 */
static size_t
wanted(const struct session *s, size_t room)
{
	size_t left;

	if (s->w.spool.len < s->spool.cap || s->w.in_end > 0 || !s->b->wants_content(&s->t))
		return (room);
	left = BLOCK - (size_t)((s->w.spool.len - s->spool.cap) % BLOCK);
	return (left < room ? left : room);
}

/* Makes room and publishes where the input ends: what is read next is found there after a kill. Octets. */
static uint32_t
room(struct session *s)
{
	uint32_t unread = s->w.in_end - s->w.in_start, left;

	if (unread == 0 && s->w.in_end > 0)
		s->w.in_start = s->w.in_end = 0;
	else if (s->w.in_end == JOURNAL_IN_ROOM && unread < JOURNAL_IN) {
		memcpy(s->j.in, s->j.in + s->w.in_start, unread);
		s->w.in_start = 0;
		s->w.in_end = unread;
	}
	session_commit(s);
	left = JOURNAL_IN_ROOM - s->w.in_end;
	return (left < JOURNAL_IN - unread ? left : JOURNAL_IN - unread);
}

void
client_read(struct session *s)
{
	uint32_t left;
	ssize_t n;

	if (s->w.client_eof || s->client == -1 || s->w.secure == SECURE_OWED || (left = room(s)) == 0)
		return;
	n = counted_recv(&s->j, &s->w, s->client, s->w.secure == SECURE_ASKED ? starttls_room(s) : wanted(s, left));
	if (n > 0) {
		s->w.in_end += (uint32_t)n;
		s->w.client_in += (uint64_t)n;
		s->active_at = s->now;
		s->window_in += (uint64_t)n;
		session_commit(s);
		starttls_heard(s);
	} else if (n == 0 && s->w.secure == SECURE_ASKED)
		starttls_cut(s);
	else if (n == 0) {
		s->w.client_eof = 1;
		if (s->w.redo && !s->b->in_doubt(&s->t))
			session_end(s, REASON_GONE);	/* he will come again by himself: ours would be the duplicate */
	}
	else if (errno != EAGAIN && errno != EINTR)
		gone(s);
}

void
client_write(struct session *s)
{
	ssize_t n;

	if (s->now < s->mute_until || s->w.secure == SECURE_ASKED)
		return;
	while (s->w.out_start < s->w.out_end && s->client != -1 && !s->client_gone) {
		session_commit(s);
		n = counted_send(&s->j, &s->w, s->client);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1 && errno == EAGAIN) {
			if (s->taking_at == 0)
				s->taking_at = s->now + s->times.client_bulk;
			return;
		}
		if (n <= 0) {
			gone(s);
			return;
		}
		s->taking_at = 0;
		s->w.told_at = s->now;
		s->w.out_start += (uint32_t)n;
		s->w.client_out += (uint64_t)n;
		s->active_at = s->now;
	}
	if (s->w.out_start == s->w.out_end) {
		s->w.out_start = s->w.out_end = 0;
		s->bin_stalled = false;
	}
	if (s->client_gone)
		s->w.out_start = s->w.out_end = 0;
}

bool
client_may_step(const struct session *s)
{
	if (s->probe || s->client_gone || s->w.closing || starttls_deaf(s) || s->now < s->mute_until || JOURNAL_OUT - s->w.out_end < REPLY_ROOM)
		return (false);
	if (!s->b->pending(&s->t) || client_listens(s))
		return (true);
	/* content: only as far ahead of the backend as is good for throughput */
	return (s->content_turn && (s->link != LINK_UP || s->w.spool.len - s->spool_sent < CONTENT_AHEAD));
}

static bool
take_content(struct session *s, uint64_t at, struct bytes content)
{
	if (content.n == 0)
		return (true);
	if (spool_needs_file(&s->spool, at + content.n) && session_need_file(s) == -1) {
		log_warnx("session %s: no file for content", s->peer.session);
		return (false);
	}
	if (spool_write(&s->spool, at, content) == -1) {
		log_warn("session %s: content not kept", s->peer.session);
		return (false);
	}
	return (true);
}

bool
client_step(struct session *s)
{
	struct bytes in = bytes(s->j.in + s->w.in_start, s->w.in_end - s->w.in_start), content;
	size_t used = 0, scanned = s->w.scanned;
	uint64_t at = s->w.spool.len;
	uint32_t out = s->w.out_end;
	bool was_content = s->content_turn;
	enum act a;

	a = s->b->client(turn_begin(s), in, &used, &scanned);
	turn_end(s);
	if (used > in.n)
		bug("%s: client() used %zu of %zu octets", s->b->name, used, in.n);
	s->w.in_start += (uint32_t)used;
	s->w.scanned = used > 0 ? 0 : (uint32_t)(scanned > in.n ? in.n : scanned);
	if (s->w.spool.len < at)
		at = 0;
	/* whoever waits for a file may hear other messages meanwhile, whose turns have content of their own: none */
	content = bytes(s->content.p, s->content.len);
	if (!take_content(s, at, content))
		session_refuse(s, WHY_SPOOL, REASON_NOROOM);
	else if (content.n > 0)
		s->w.spool.len = at + content.n;
	session_settle(s);
	if (a == ACT_DONE || a == ACT_PENDING)
		client_idle_from_now(s);
	if (a == ACT_PENDING || (a == ACT_CONTENT && was_content))
		s->content_turn = false;	/* next() decides anew */
	if (a == ACT_TLS)
		starttls_client(s);
	if (a == ACT_CLOSE)
		session_end(s, REASON_QUIT);
	if (a == ACT_MORE && used == 0 && in.n == JOURNAL_IN)
		session_end(s, REASON_ERRORS);	/* a unit as large as the buffer: no behaviour asks for that */
	return (used > 0 || a != ACT_MORE || s->w.out_end != out);
}

bool
client_listens(const struct session *s)
{
	return (s->b->listens != NULL && s->b->listens(&s->t));
}

void
client_idle_from_now(struct session *s)
{
	char who[2] = "-";

	if (s->times.unauth != 0)
		s->b->user(&s->t, who, sizeof(who));
	s->w.idle_at = s->now + (who[0] == '\0' && s->times.unauth < s->times.idle ? s->times.unauth : s->times.idle);
	s->w.told_at = s->now;
}

/* Words to waiting clients of one address fall on the same moments, so that a phone is woken once for all its sessions. */
static uint64_t
keep_due(const struct session *s)
{
	uint64_t ms = s->b->quiet == NULL || !s->b->pending(&s->t) ? 0 : s->b->quiet(&s->t, SIDE_CLIENT), phase = 0, due;

	if (ms == 0)
		return (0);
	if (!client_listens(s))
		return (s->w.told_at + ms);
	for (const char *p = s->peer.addr; *p != '\0'; p++)
		phase = phase * 31 + (uint8_t)*p;
	phase = phase * 97 % ms;
	due = (s->w.told_at + ms - phase) / ms * ms + phase;	/* the one of these moments that is within ms */
	return (due > s->w.told_at ? due : s->w.told_at + ms);
}

uint64_t
client_due(const struct session *s)
{
	uint64_t due = 0, keep;

	if (s->probe || s->client == -1)
		return (0);
	keep = keep_due(s);
	if (s->taking_at != 0)
		due = s->taking_at;
	else if (s->b->wants_content(&s->t))
		due = s->window_at;
	else if (!s->b->pending(&s->t))
		due = s->w.idle_at;
	if (s->taking_at == 0 && keep != 0 && (due == 0 || keep < due))
		due = keep;
	return (due);
}

void
client_deadlines(struct session *s)
{
	if (s->probe || s->client == -1 || s->over)
		return;
	if (s->taking_at != 0 && s->now >= s->taking_at) {
		s->client_gone = true;
		session_end(s, REASON_SLOW);
		return;
	}
	if (s->w.closing)
		return;
	if (s->taking_at == 0 && keep_due(s) != 0 && s->now >= keep_due(s)) {
		s->w.told_at = s->now;
		s->b->keep(turn_begin(s), SIDE_CLIENT);
		turn_end(s);
	}
	if (s->b->wants_content(&s->t)) {
		if (s->window_at == 0) {
			s->window_at = s->now + s->times.client_bulk;
			s->window_in = 0;
		} else if (s->now >= s->window_at) {
			if (s->window_in < WINDOW_MIN && client_may_step(s)) {
				session_refuse(s, WHY_SLOW, REASON_SLOW);
				session_end(s, REASON_SLOW);
			}
			s->window_at = 0;
		}
		return;
	}
	s->window_at = 0;
	if (!s->b->pending(&s->t) && s->w.idle_at != 0 && s->now >= s->w.idle_at) {
		session_refuse(s, WHY_IDLE, REASON_IDLE);
		session_end(s, REASON_IDLE);
	}
}
