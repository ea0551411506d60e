/*
 * backend - the backend's socket, its life and death (engine.h)
 *
 * A backend is asked for when a command needs one, driven by the behaviour's next(), and when it dies another is
 * brought to the same state by the same calls. Class N behind its fence is decided by doubt() first; nothing of that
 * class is repeated for a client that has gone (protocols.md 0.3, invariants 2, 7, 8, 12).
 */
#include <sys/socket.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/engine.h"

enum { ASK_MS = 30000, RETRY_MS = 250, RETRY_MAX_MS = 4000, PROGRESS = 1024 };

static uint64_t
backoff(uint32_t tries)
{
	uint64_t ms = RETRY_MS;

	while (tries-- > 1 && ms < RETRY_MAX_MS)
		ms *= 2;
	return (ms);
}

static uint32_t
hold_ms(const struct session *s)
{
	return (s->times.hold_idle != 0 && client_listens(s) ? s->times.hold_idle : s->times.hold);
}

static void
ask(struct session *s)
{
	struct msg_route m = { .id = ++s->ask_id, .avoid = s->avoid | s->never, .flags = s->deaths > 0 };

	s->link = LINK_ASKED;
	s->ask_until = s->now + ASK_MS;
	if (s->hold_until == 0)
		s->hold_until = s->now + (s->deaths > 0 || s->w.served ? hold_ms(s) : s->times.queue);
	session_commit(s);
	if (s->chan.fd != -1 && msg_send_route(&s->chan, &m, bytes("", 0), NULL) == 0)
		return;
	s->link = LINK_NONE;
	if (s->chan.fd == -1)
		session_refuse(s, WHY_LOST, REASON_LOST);
	else
		s->not_before = s->now + RETRY_MS;	/* the listener has died: the channel says so next, and there will be another */
}

void
backend_up(struct session *s, int fd, const struct msg_backend *m)
{
	s->link = LINK_UP;
	s->backend = fd;
	s->backend_id = m->backend;
	s->info = (struct backendinfo){ .xclient = (m->flags & 1) != 0, .starttls = (m->flags & 2) != 0 };
	memccpy(s->info.name, m->name, 0, sizeof(s->info.name) - 1);
	memset(s->t.have, 0, s->b->have_size);
	s->scratch.len = 0;
	s->bin.start = s->bin.end = s->bout.start = s->bout.end = 0;
	s->bin_scanned = 0;
	s->sending = s->bin_stalled = s->moving = s->settled = false;
	s->content_turn = false;
	s->spool_sent = s->spool_to = 0;
	s->wait_ms = s->times.greeting;
	s->wait_until = s->now + s->wait_ms;
	s->w.said_at = s->now;
	s->b->connected(turn_begin(s), &s->info);
	turn_end(s);
	session_title(s);
}

void
backend_none(struct session *s, const struct msg_nobackend *m)
{
	s->link = LINK_NONE;
	(void)m;
	if (s->probe) {
		snprintf(s->how, sizeof(s->how), "connect failed");
		session_end(s, REASON_LOST);
		return;
	}
	if (s->never != 0 && s->avoid == 0) {
		session_refuse(s, WHY_DIFFERS, REASON_DIFFERS);	/* those that are there refuse to stand in */
		return;
	}
	s->avoid = 0;
	s->not_before = s->now + backoff(++s->tries);
}

void
backend_close(struct session *s, bool polite)
{
	if (s->backend == -1 && s->link != LINK_SECURING)
		return;
	if (polite && s->backend != -1 && s->bout.start == s->bout.end && !s->sending) {
		s->b->leave(turn_begin(s));
		turn_end(s);
		if (buf_len(&s->bout) > 0)
			(void)!send(s->backend, s->bout.p + s->bout.start, buf_len(&s->bout), MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	if (s->backend != -1)
		close(s->backend);
	s->backend = -1;
	s->link = LINK_NONE;
	s->bin.start = s->bin.end = s->bout.start = s->bout.end = 0;
	s->wait_until = s->refused_at = 0;
	s->sending = s->bin_stalled = s->content_turn = s->moving = false;
}

bool
backend_doubt(struct session *s)
{
	enum doubt d;

	if (s->client_gone || s->w.client_eof) {
		session_end(s, REASON_GONE);
		return (false);
	}
	d = s->b->doubt(turn_begin(s));
	turn_end(s);
	session_settle(s);
	s->w.redo = d == DOUBT_REDO || d == DOUBT_REDO_SAFE;
	switch (d) {
	case DOUBT_REDO:
		if (s->deaths <= s->max_replays)
			log_notice("session %s: possible-duplicate: %s lost with a commit in doubt, replaying",
			    s->peer.session, s->info.name);
		s->not_before = s->now + s->fence_ms;
		return (true);
	case DOUBT_REDO_SAFE:
		s->not_before = s->now + s->fence_ms;
		return (true);
	case DOUBT_DONE:
		break;
	case DOUBT_REFUSE:
		break;
	case DOUBT_CLOSE:
		session_end(s, REASON_LOST);
		break;
	}
	s->deaths = s->tries = 0;
	s->hold_until = 0;
	s->avoid = s->never = 0;
	return (false);
}

void
backend_lost(struct session *s, enum bfail how, const char *text)
{
	struct msg_failed m = { .id = s->sid, .backend = s->backend_id, .how = how };
	char user[64] = "";
	bool doubt = s->b->in_doubt(&s->t), pending = s->b->pending(&s->t), refused = s->refused_at != 0, fed = s->fed;

	if (s->backend == -1 && s->link != LINK_SECURING)
		return;
	backend_close(s, false);
	snprintf(s->how, sizeof(s->how), "%s", text);
	if (!s->probe) {
		log_info("session %s: backend %s: %s%s", s->peer.session, s->info.name, text,
		    refused ? ", and it had refused the login: not believed" : pending ? "" : " (between commands)");
		s->b->user(&s->t, user, sizeof(user));
		if (!refused)		/* it may be its way to refuse: no reason to hold it for bad */
			(void)msg_send_failed(&s->chan, &m, bytes_str(user), NULL);
	}
	session_title(s);
	if (s->probe) {
		s->nonsense = how == BFAIL_NONSENSE || how == BFAIL_LEFT;
		session_end(s, REASON_LOST);
		return;
	}
	s->w.failovers++;
	if (!pending)
		return;
	s->avoid |= UINT64_C(1) << (s->backend_id % 64);
	/* whoever has had more of the answer since the death before this one has not waited since then */
	s->hold_until = s->hold_until != 0 && s->deaths > 0 && !fed ? s->hold_until : s->now + hold_ms(s);
	s->fed = false;
	s->deaths++;
	if (doubt && !backend_doubt(s))
		return;
	if (s->client_gone || (s->w.client_eof && doubt))
		session_end(s, REASON_GONE);
	else if (s->deaths > s->max_replays * (doubt ? 1 : 4))
		session_refuse(s, WHY_LOST, REASON_LOST);
	else if (s->deaths > 1 && s->not_before < s->now)
		s->not_before = s->now + backoff(s->deaths - 1);
}

static void
give_up(struct session *s, enum bfail how, const char *text, bool never)
{
	uint64_t bit = UINT64_C(1) << (s->backend_id % 64);

	backend_lost(s, how, text);
	if (never && s->b->pending(&s->t))
		s->never |= bit;
}

/* Refused for now: the same one may do later (a stale lock, a throttled login). */
static void
later(struct session *s)
{
	backend_close(s, true);
	session_title(s);
	if (s->hold_until == 0)
		s->hold_until = s->now + hold_ms(s);
	s->deaths = s->deaths > 0 ? s->deaths : 1;
	s->not_before = s->now + backoff(++s->tries);
}

/* What begins the wait for an answer anew: the end of a line, or as much as is asked of a client. An octet does not. */
static void
progress(struct session *s, struct bytes got)
{
	s->bin_got += (uint32_t)got.n;
	if (s->wait_until == 0 || (s->bin_got < PROGRESS && memchr(got.p, '\n', got.n) == NULL))
		return;
	s->bin_got = 0;
	s->wait_until = s->now + s->wait_ms;
}

void
backend_read(struct session *s)
{
	ssize_t n;

	if (s->bin.start == s->bin.end)
		s->bin.start = s->bin.end = 0;
	else if (s->bin.end == s->bin.cap)
		buf_pack(&s->bin);
	if (s->bin.end == s->bin.cap)
		return;
	n = read(s->backend, s->bin.p + s->bin.end, s->bin.cap - s->bin.end);
	if (n > 0) {
		progress(s, bytes(s->bin.p + s->bin.end, (size_t)n));
		s->bin.end += (uint32_t)n;
		s->active_at = s->now;
	} else if (n == 0) {
		/* what came before the end may decide (one reply octet is enough for a commit): offer it first */
		while (backend_step(s) && s->backend != -1)
			;
		backend_lost(s, BFAIL_CLOSED, "connection closed");
	} else if (errno != EAGAIN && errno != EINTR)
		backend_lost(s, BFAIL_CLOSED, errno == ECONNRESET ? "connection reset" : "connection failed");
}

bool
backend_wants_write(const struct session *s)
{
	return (s->link == LINK_UP && (s->bout.end > s->bout.start || (s->sending && s->spool_sent < s->spool_to)));
}

static bool
write_content(struct session *s)
{
	ssize_t n;

	s->b->writing(turn_begin(s), s->spool_to);
	turn_end(s);
	session_commit(s);
	n = spool_send(&s->spool, s->backend, s->spool_sent, s->spool_to - s->spool_sent);
	if (n == 0) {
		backend_close(s, false);
		session_refuse(s, WHY_SPOOL, REASON_NOROOM);
	}
	if (n <= 0)
		return (n == -1 && (errno == EAGAIN || errno == EINTR));
	s->spool_sent += (uint64_t)n;
	s->wait_until = s->now + s->times.bulk;
	return (true);
}

static bool take_input(struct session *);

/* What it said before the connection failed lies unread, perhaps: a refusal before the end of content, say. It counts. */
static void
last_words(struct session *s)
{
	ssize_t n;

	s->bout.start = s->bout.end = 0;
	s->sending = false;
	s->spool_to = s->spool_sent;
	do {
		while (s->backend != -1 && take_input(s))
			;
		if (s->backend == -1)
			return;
		buf_pack(&s->bin);
		n = s->bin.end < s->bin.cap ? read(s->backend, s->bin.p + s->bin.end, s->bin.cap - s->bin.end) : 0;
		s->bin.end += n > 0 ? (uint32_t)n : 0;
	} while (n > 0);
}

void
backend_write(struct session *s)
{
	ssize_t n;

	while (s->bout.end > s->bout.start) {
		s->b->writing(turn_begin(s), s->spool_sent);
		turn_end(s);
		session_commit(s);
		n = send(s->backend, s->bout.p + s->bout.start, buf_len(&s->bout),
		    MSG_NOSIGNAL | (s->sending ? MSG_MORE : 0));
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1 && errno == EAGAIN)
			return;
		if (n <= 0)
			goto dead;
		s->w.said_at = s->now;
		buf_drop(&s->bout, (size_t)n);
	}
	while (s->sending && s->spool_sent < s->spool_to) {
		uint64_t before = s->spool_sent;

		if (!write_content(s))
			goto dead;
		if (s->backend == -1 || s->spool_sent == before)
			return;
	}
	return;
dead:
	if (s->backend != -1 && (errno == EPIPE || errno == ECONNRESET))
		last_words(s);
	backend_lost(s, BFAIL_CLOSED, "write failed");
}

static bool
take_input(struct session *s)
{
	size_t used = 0, scanned = s->bin_scanned;
	struct bytes in = buf_view(&s->bin);
	uint32_t out = s->w.out_end;
	struct msg_authed who;
	enum took k;
	bool login;

	if (in.n == 0 || JOURNAL_OUT - s->w.out_end < REPLY_ROOM || login_doubts(s))
		return (false);
	login = login_begin(s, &who);
	s->t.excused = false;
	s->t.believe = !login || s->deaths > 0 || s->refused_at != 0;
	k = s->b->backend(turn_begin(s), in, &used, &scanned);
	turn_end(s);
	if (login)
		login_end(s, &who);
	if (k == TOOK_REFUSED)		/* it is to be said once more */
		used = scanned = 0;
	if (used > in.n)
		bug("%s: backend() used %zu of %zu octets", s->b->name, used, in.n);
	buf_drop(&s->bin, used);
	session_settle(s);
	s->bin_scanned = used > 0 ? 0 : (uint32_t)scanned;
	s->fed = s->fed || s->w.out_end != out;
	switch (k) {
	case TOOK_MORE:
		if (used == 0 && in.n == s->bin.cap && s->w.out_end == out) {
			if (s->w.out_end > s->w.out_start)
				s->bin_stalled = true;	/* the client has to take some first */
			else
				give_up(s, BFAIL_NONSENSE, "reply too long", false);
		}
		return (used > 0 || s->w.out_end != out);
	case TOOK_CLOSE:
		session_end(s, REASON_QUIT);
		/* FALLTHROUGH */
	case TOOK_ANSWERED:
		check_answered(s);
		s->w.served = true;
		s->w.redo = false;
		s->deaths = s->tries = 0;
		s->hold_until = s->not_before = 0;
		s->avoid = s->never = 0;
		s->w.idle_at = s->now + s->times.idle;
		session_news(s);
		break;
	case TOOK_ONE:
		break;
	case TOOK_LEAVING:
		backend_lost(s, BFAIL_LEFT, "says good-bye");
		break;
	case TOOK_LATER:
		later(s);
		break;
	case TOOK_NEVER:
		give_up(s, BFAIL_DIFFERS, "cannot stand in for this session", true);
		break;
	case TOOK_REFUSED:
		s->refused_at = s->now;
		break;
	case TOOK_INSECURE:
		give_up(s, BFAIL_REFUSED, "does not begin TLS, which it must have", false);
		break;
	case TOOK_NONSENSE:
		give_up(s, BFAIL_NONSENSE, "unexpected reply", false);
		break;
	case TOOK_DIFFERS:
		backend_close(s, false);
		session_refuse(s, WHY_DIFFERS, REASON_DIFFERS);
		break;
	}
	return (true);
}

/* Asks the behaviour what comes next; true when something was done. */
static bool
go_on(struct session *s)
{
	uint32_t waited = s->wait_ms;
	enum next n;

	s->t.spool_to = s->spool_sent;
	n = s->b->next(turn_begin(s));
	turn_end(s);
	if (n == NEXT_SAY || n == NEXT_WAIT || n == NEXT_SPOOL) {
		s->wait_ms = s->t.wait != 0 ? s->t.wait : s->times.command;
		/* a wait that is told again is not begun again, another one is */
		if (n != NEXT_WAIT || s->wait_until == 0 || s->wait_ms != waited)
			s->wait_until = s->now + s->wait_ms;
	}
	s->content_turn = n == NEXT_MORE;
	s->settled = n == NEXT_READY;
	s->sending = n == NEXT_SPOOL;
	switch (n) {
	case NEXT_SAY:
		if (buf_len(&s->bout) == 0)
			bug("%s: next() says nothing", s->b->name);
		backend_write(s);
		return (true);
	case NEXT_SPOOL:
		if (s->t.spool_to > s->w.spool.len || s->t.spool_to < s->spool_sent)
			bug("%s: content up to %llu of %llu", s->b->name, (unsigned long long)s->t.spool_to,
			    (unsigned long long)s->w.spool.len);
		s->spool_to = s->t.spool_to;
		backend_write(s);
		return (s->link != LINK_UP || s->spool_sent == s->spool_to);
	case NEXT_WAIT:
		return (false);
	case NEXT_FULL:
	case NEXT_MORE:
	case NEXT_READY:
		s->wait_until = 0;
		if (n == NEXT_READY && s->probe && check_next(s))
			return (true);
		if (n == NEXT_READY && s->probe) {
			session_end(s, REASON_PROBE);
			return (true);
		}
		return (false);
	case NEXT_DROP:
		backend_close(s, false);
		return (true);
	case NEXT_TLS:
		starttls_backend(s);
		return (true);
	case NEXT_LATER:
		later(s);
		return (true);
	case NEXT_NEVER:
		give_up(s, BFAIL_DIFFERS, "cannot stand in for this session", true);
		return (true);
	}
	return (false);
}

bool
backend_step(struct session *s)
{
	if (login_holds(s))
		return (false);
	if (s->link == LINK_NONE) {
		s->content_turn = s->b->wants_content(&s->t);
		if (!s->b->pending(&s->t) || s->w.closing || s->now < s->not_before || s->client_gone)
			return (false);
		/* content flows into the spool while no backend is there; one is wanted all the same */
		ask(s);
		return (s->link == LINK_NONE);
	}
	if (s->link != LINK_UP)
		return (false);
	if (take_input(s))
		return (true);
	if (s->link != LINK_UP || backend_wants_write(s) || s->w.closing)
		return (false);
	if (s->moving && (!s->b->pending(&s->t) || client_listens(s)) && s->b->safe(&s->t) != SAFE_BUSY) {
		backend_close(s, true);
		s->avoid |= UINT64_C(1) << (s->backend_id % 64);
		session_title(s);
		session_note(s);
		return (false);
	}
	return (go_on(s));
}

static uint64_t
keep_due(const struct session *s)
{
	uint32_t ms = s->link != LINK_UP || s->b->quiet == NULL ? 0 : s->b->quiet(&s->t, SIDE_BACKEND);

	return (ms == 0 ? 0 : s->w.said_at + ms);
}

uint64_t
backend_due(const struct session *s)
{
	uint64_t due = 0, keep = s->probe ? 0 : keep_due(s);

	if (s->w.closing)
		return (0);
	if (s->link == LINK_UP || s->link == LINK_SECURING)
		due = s->wait_until;
	else if (s->link == LINK_ASKED)
		due = s->ask_until;
	else if (s->b != NULL && s->started && s->b->pending(&s->t) && (s->login == LOGIN_NONE || s->login == LOGIN_GOES))
		due = s->not_before > s->now ? s->not_before : s->now + 1;
	if (s->link != LINK_UP && s->hold_until != 0 && (due == 0 || s->hold_until < due))
		due = s->hold_until;
	if (keep != 0 && (due == 0 || keep < due))
		due = keep;
	return (due);
}

void
backend_deadlines(struct session *s)
{
	if (s->over || s->w.closing)
		return;
	/* while the client has not taken what there is, the backend may be held up by it: the client's own deadline runs */
	if (s->link == LINK_UP && s->wait_until != 0 && s->w.out_end > s->w.out_start)
		s->wait_until = s->now + s->wait_ms;
	if (!s->probe && keep_due(s) != 0 && s->now >= keep_due(s)) {
		s->w.said_at = s->now;
		s->b->keep(turn_begin(s), SIDE_BACKEND);
		turn_end(s);
	}
	if ((s->link == LINK_UP || s->link == LINK_SECURING) && s->wait_until != 0 && s->now >= s->wait_until)
		backend_lost(s, BFAIL_TIMEOUT, "timed out");
	else if (s->link == LINK_ASKED && s->now >= s->ask_until)
		s->link = LINK_NONE;	/* the listener is silent; its late answer has an old id */
	if (s->link != LINK_UP && s->hold_until != 0 && s->now >= s->hold_until && s->b->pending(&s->t)) {
		s->link = LINK_NONE;
		if (s->probe)
			session_end(s, REASON_LOST);
		else
			session_refuse(s, s->deaths > 0 || s->w.served ? WHY_LOST : WHY_BUSY, REASON_LOST);
	}
}
