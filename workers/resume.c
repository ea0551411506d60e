/*
 * resume - a session that another process began, and the end of a process whose session is idle (DESIGN.md section 1)
 *
 * To the engine this is the death of a backend, with one step before it: what the kernel took from the client and gave
 * to him after the last commit is counted. A command that was pending is driven again; one behind its fence is decided
 * by doubt(), since the connection that could have told died with the process.
 *
 * A parked session is the same without a death, and with a backend that was kept: what the engine and the behaviour know of
 * it (have, scratch) lies in the journal, where there is room while nobody is there.
 */
#include <sys/socket.h>

#include <fcntl.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/counted.h"
#include "workers/engine.h"
#include "workers/pack.h"

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

/* What is saved of a backend that is kept: have, the numbers of the scratch's blocks that are not zero, those blocks. A
 * behaviour may use its scratch in zones far apart; it is asked to tidy them if there are many. */
enum { BLOCK = 256, BLOCKS_MAX = JOURNAL_OUT / BLOCK, BLOCKS_FEW = 16 };

static uint32_t
blocks_in_use(const struct arena *a, uint32_t block[BLOCKS_MAX])
{
	static const uint8_t zeros[BLOCK];
	uint32_t n = 0;

	for (uint32_t at = 0; at < a->len; at += BLOCK)
		if (memcmp(a->p + at, zeros, a->len - at < BLOCK ? a->len - at : BLOCK) != 0) {
			if (n == BLOCKS_MAX)
				return (UINT32_MAX);
			block[n++] = at / BLOCK;
		}
	return (n);
}

/* How many, UINT32_MAX: too many, or no backend. */
static uint32_t
scratch_in_use(struct session *s, uint32_t block[BLOCKS_MAX])
{
	uint32_t n;

	if (s->link != LINK_UP || s->scratch.len > s->scratch.cap - BLOCK)
		return (UINT32_MAX);
	n = blocks_in_use(&s->scratch, block);
	if (n <= BLOCKS_FEW || s->b->tidy == NULL)
		return (n);
	s->b->tidy(&s->t);
	return (blocks_in_use(&s->scratch, block));
}

/* Octets kept in the journal; 0: there is no room, or no backend. */
static size_t
save_backend(struct session *s)
{
	static uint32_t block[BLOCKS_MAX];
	uint32_t n = scratch_in_use(s, block);
	size_t size = n == UINT32_MAX ? 0 : s->b->have_size + 8 + n * (size_t)(BLOCK + 4);
	uint32_t at = size == 0 ? 0 : journal_spare(&s->j, size);
	uint8_t *p = s->j.map + at;

	if (at == 0)
		return (0);
	memcpy(p, s->t.have, s->b->have_size);
	p += s->b->have_size;
	memcpy(p, &n, sizeof(n));
	memcpy(p + 4, block, n * sizeof(n));
	p += 4 + n * sizeof(n);
	for (uint32_t i = 0; i < n; i++, p += BLOCK)
		memcpy(p, s->scratch.p + block[i] * BLOCK, BLOCK);
	s->w.have_at = at;
	s->j.head->have_format = s->b->format;
	s->w.scratch_len = s->scratch.len;
	return (size);
}

/* 0, or -1: it is not in the journal, another release's, or makes no sense. */
static int
load_backend(struct session *s)
{
	const uint8_t *p = s->j.map + s->w.have_at;
	size_t left = s->w.have_at < s->j.size ? s->j.size - s->w.have_at : 0;
	uint32_t n, block;

	if (s->w.have_at == 0 || s->j.head->have_format != s->b->format || s->w.scratch_len > s->scratch.cap - BLOCK || left < s->b->have_size + sizeof(n))
		return (-1);
	memcpy(s->t.have, p, s->b->have_size);
	p += s->b->have_size;
	left -= s->b->have_size + sizeof(n);
	memcpy(&n, p, sizeof(n));
	p += sizeof(n);
	if (n > BLOCKS_MAX || left < n * (size_t)(BLOCK + 4))
		return (-1);
	for (uint32_t i = 0; i < n; i++) {
		memcpy(&block, p + i * sizeof(block), sizeof(block));
		if (block > s->w.scratch_len / BLOCK)
			return (-1);
		memcpy(s->scratch.p + (size_t)block * BLOCK, p + n * sizeof(block) + i * (size_t)BLOCK, BLOCK);
	}
	s->scratch.len = s->w.scratch_len;
	return (0);
}

/* The backend as the one before us left it. */
static void
take_backend(struct session *s)
{
	int fd = early.fd;

	early.fd = -1;
	if (fd != -1 && load_backend(s) == -1) {
		memset(s->t.have, 0, s->b->have_size);
		close(fd);
		fd = -1;
	}
	s->w.have_at = s->w.scratch_len = 0;
	if (fd == -1)
		return;
	s->link = LINK_UP;
	s->backend = fd;
	s->backend_id = early.m.backend;
	s->info = (struct backendinfo){ .xclient = (early.m.flags & 1) != 0 };
	memccpy(s->info.name, early.m.name, 0, sizeof(s->info.name) - 1);
	session_title(s);
}

/* --- parking --------------------------------------------------------------------------------------------------- */

static bool
may_park(const struct session *s)
{
	enum safe safe;

	if (!s->started || s->probe || s->over || s->w.closing || s->client_gone || s->w.client_eof || s->moving ||
	    s->chan.fd == -1 || s->chan.queued > 0 || s->w.in_end > s->w.in_start || s->w.out_end > s->w.out_start ||
	    s->w.spool.len > 0 || s->link == LINK_ASKED || s->link == LINK_SECURING || s->taking_at != 0 ||
	    starttls_deaf(s) || s->login != LOGIN_NONE || s->mute_until > s->now)
		return (false);
	if (s->link == LINK_UP && (buf_len(&s->bin) > 0 || buf_len(&s->bout) > 0 || s->sending ||
	    !(s->settled || (s->content_turn && client_listens(s)))))
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
	size_t kept;
	int fd[2];

	if (due == 0 || s->now < due)
		return;
	if ((kept = save_backend(s)) == 0) {
		if (s->b->pending(&s->t)) {	/* a client who listens is listening to this backend */
			s->active_at = s->now;
			return;
		}
		backend_close(s, true);
	}
	m.wake_ms = up.wake_ms = wake_at(s);
	s->w.in_start = s->w.in_end = s->w.out_start = s->w.out_end = s->w.scanned = 0;
	session_note(s);
	session_commit(s);
	explicit_bzero(s->j.slot[1 - (s->j.head->active & 1)], s->j.core_size);	/* the one before */
	journal_thin(&s->j, s->w.have_at, kept);
	fd[0] = pack_make(&s->j);
	fd[1] = s->backend;
	if (fd[0] == -1 || (s->link == LINK_UP ? msg_send_parkup(&s->chan, &up, bytes("", 0), fd) :
	    msg_send_park(&s->chan, &m, bytes("", 0), fd)) == -1 || s->chan.queued > 0)
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
	starttls_resume(s);
	if (s->w.closing)
		return (0);
	if (s->w.spool.len > s->spool.cap && s->spool.file == -1) {	/* a fresh file would have zeros where its octets were */
		log_warnx("session %s: content is gone", s->peer.session);
		give_up = true;
	}
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
