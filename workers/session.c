/*
 * session - the process of one client (or of one health probe)
 *
 * IN     START GO BACKEND NOBACKEND FILE NOFILE MOVE KICK AGAIN YIELD SECURED INSECURE from its listener, its only channel
 * OUT    ROUTE FAILED NEEDFILE NOTE BYE PROBED PARK PARKUP JOURNAL SECURE STARTTLS TLSON;  ORPHAN to its zygote
 * HOLDS  the client's socket, the backend's, the journal, perhaps an unlinked file for content
 * LOSES  when it dies: its own session, no other (the journal is the listener's to resume from)
 *
 * A loop around poll(2): three descriptors do not pay for an event library. It runs without a right to open anything.
 */
#include <sys/socket.h>
#include <bsd/unistd.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "supervisor/clock.h"
#include "supervisor/log.h"
#include "workers/engine.h"
#include "workers/pack.h"

static uint8_t bin_space[BACKEND_IN], bout_space[BACKEND_OUT], content_space[CONTENT_CAP];
static uint8_t have_space[JOURNAL_PST] __attribute__((aligned(16)));
static uint8_t devnull_space[4096];
static uint8_t scratch_space[16 << 20] __attribute__((aligned(16)));	/* untouched pages cost nothing */
static struct session self;

enum { NEWS_MS = 1000 };	/* sessions that end before need not tell who they are: their BYE does */
enum { FILE_MS = 20000 };	/* the listener may have died: its successor needs a while */

static char date_now[40];
static int file_asked;		/* 1 waiting, 2 come, 3 refused */
static int file_early = -1;
static bool unpacked;		/* what is to be resumed from was made here */

static void
set_date(uint64_t now)
{
	static const char *const day[] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
	static const char *const month[] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov",
		"Dec" };
	static uint64_t until;
	time_t t = time(NULL);
	struct tm tm;

	if (now < until)
		return;
	until = now + 1000;
	/* not strftime: it looks for /etc/localtime, each time */
	if (gmtime_r(&t, &tm) == NULL || snprintf(date_now, sizeof(date_now), "%s, %02d %s %d %02d:%02d:%02d +0000",
	    day[tm.tm_wday], tm.tm_mday, month[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec) < 0)
		date_now[0] = '\0';
}

struct turn *
turn_begin(struct session *s)
{
	s->to_client = (struct out){ s->j.out + s->w.out_end, 0, JOURNAL_OUT - s->w.out_end, false };
	if (s->probe)
		s->to_client = (struct out){ devnull_space, 0, sizeof(devnull_space), false };
	s->to_backend = (struct out){ s->bout.p + s->bout.end, 0, s->bout.cap - s->bout.end, false };
	s->content = (struct out){ content_space, 0, sizeof(content_space), false };
	s->log.len = s->w.log_len;
	s->spool_was = s->w.spool.len;
	s->t.messages = 0;
	s->t.learned.known = 0;
	s->t.wait = s->times.command;
	s->t.client_gone = s->client_gone || s->w.client_eof;
	s->t.up = s->link == LINK_UP;
	return (&s->t);
}

void
turn_end(struct session *s)
{
	if (!s->probe)
		s->w.out_end += (uint32_t)s->to_client.len;
	s->bout.end += (uint32_t)s->to_backend.len;
	s->w.log_len = s->log.len;
	s->w.messages += s->t.messages;
	if (s->t.learned.known && !s->probe) {
		struct msg_learned m = { .caps = s->t.learned, .backend = s->backend_id };

		(void)msg_send_learned(&s->chan, &m, bytes("", 0), NULL);
	}
	if (s->w.spool.len < s->spool_was) {		/* a transaction is over: its content is done with */
		s->spool_sent = s->spool_to = 0;
		s->sending = false;
	}
	s->shrunk = s->shrunk || s->w.spool.len < s->spool_was || s->w.log_len < s->log.floor;
}

void
session_commit(struct session *s)
{
	uint32_t was = s->log.floor;

	s->w.busy = s->b->pending(&s->t);
	journal_commit(&s->j, &s->w);
	s->t.epoch++;
	s->log.floor = s->w.log_len;
	if (s->w.log_len < was)		/* credentials may have been there (J5) */
		explicit_bzero(s->j.log + s->w.log_len, was - s->w.log_len);
}

void
session_settle(struct session *s)
{
	if (!s->shrunk)
		return;
	s->shrunk = false;
	session_commit(s);
	if (s->w.spool.len == 0)
		spool_reset(&s->spool, s->spool_was);
}

void
session_title(struct session *s)
{
	if (s->probe)
		setproctitle("-bmr: %s probe %s", s->b->name, s->info.name);
	else
		setproctitle("-bmr: %s session %s %s -> %s", s->b->name, s->peer.session, s->peer.addr,
		    s->link == LINK_UP ? s->info.name : "none");
}

void
session_news(struct session *s)
{
	if (s->note_at == 0 && !s->probe)
		s->note_at = s->now + NEWS_MS;
}

void
session_note(struct session *s)
{
	struct msg_note m = { .phase = s->link == LINK_UP, .failovers = s->w.failovers };

	s->note_at = 0;
	if (s->probe)
		return;
	s->b->user(turn_begin(s), m.user, sizeof(m.user));
	turn_end(s);
	if (memcmp(&m, &s->noted, sizeof(m)) == 0)
		return;		/* no news: a message for each command would cost the listener more than it is worth */
	s->noted = m;
	(void)msg_send_note(&s->chan, &m, bytes("", 0), NULL);
}

void
session_end(struct session *s, enum reason why)
{
	if (s->w.closing == 0) {
		s->w.closing = 1;
		s->w.reason = (uint8_t)why;
	}
	if (s->client_gone || s->client == -1)
		s->over = true;
}

void
session_refuse(struct session *s, enum why why, enum reason reason)
{
	enum refused r;

	if (s->probe) {
		session_end(s, reason);
		return;
	}
	r = s->b->refuse(turn_begin(s), why);
	turn_end(s);
	session_settle(s);
	s->deaths = s->tries = 0;
	s->w.redo = false;
	s->hold_until = s->not_before = 0;
	s->avoid = s->never = 0;
	if (r == REFUSED_STAY)
		return;
	session_end(s, reason);
	if (r == REFUSED_RESET) {
		struct linger l = { .l_onoff = 1, .l_linger = 0 };

		/* what the client has stays a prefix: no terminator may follow it (invariant 5) */
		client_write(s);
		setsockopt(s->client, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
		s->over = true;
	}
}

/* --- messages ------------------------------------------------------------------------------------------------ */

static void
begin(struct session *s, const struct peerinfo *peer, const struct caps *offer, const struct limits *limits,
    const struct times *times)
{
	s->peer = *peer;
	s->offer = *offer;
	s->limits = *limits;
	s->times = *times;
	s->spool.mem = s->spool.file = -1;
	s->t = (struct turn){ .pst = s->w.pst, .have = have_space, .log = &s->log, .scratch = &s->scratch,
	    .client = &s->to_client, .backend = &s->to_backend, .content = &s->content, .spool = &s->w.spool,
	    .limits = &s->limits, .times = &s->times, .offer = &s->offer, .peer = &s->peer, .tls = &s->tls, .master = &s->master, .date = date_now };
	s->scratch = (struct arena){ scratch_space, 0, sizeof(scratch_space), 0 };
	s->bin = (struct buf){ .p = bin_space, .cap = sizeof(bin_space) };
	s->bout = (struct buf){ .p = bout_space, .cap = sizeof(bout_space) };
	s->started = true;
	set_date(s->now);
}

static int
open_journal(struct session *s, int fd, bool fresh, uint16_t format)
{
	if (journal_open(&s->j, fd, s->b, &s->limits, fresh, format) == -1 || journal_load(&s->j, &s->w) == -1)
		return (-1);
	s->log = (struct arena){ s->j.log, s->w.log_len, s->j.head->log_cap, s->w.log_len };
	spool_init(&s->spool, s->j.fd, s->j.spool_at, s->j.head->spool_cap);
	if (!fresh) {
		s->offer = s->j.head->offer;	/* what this client was told */
		return (0);
	}
	s->j.head->sid = s->sid;
	s->j.head->peer = s->peer;
	s->j.head->offer = s->offer;
	s->j.head->tls = s->tls;
	return (0);
}

/* A parked session's journal as it was, but for its format, in a file that the listener has before anything is done with it. */
static int
unpack(struct session *s, int *fd, uint16_t format)
{
	struct msg_journal m = { .id = s->sid };
	int whole = pack_undo(*fd);

	if (whole == -1 || journal_reformat(whole, s->b, journal_format(s->b, format)) == -1 || msg_send_journal(&s->chan, &m, bytes("", 0), &whole) == -1)
		return (-1);
	close(*fd);
	*fd = whole;
	unpacked = true;
	return (0);
}

static int
on_start(void *self_, struct chan *c, const struct msg_start *m, struct bytes tail, int fd[])
{
	struct session *s = self_;
	bool again = (m->flags & START_RESUME) != 0;
	const uint16_t format = (uint16_t)m->format;

	(void)c, (void)tail;
	if (s->started || m->limits.log > UINT32_MAX / 2)
		return (-1);
	s->sid = m->sid;
	s->max_replays = m->max_replays;
	s->fence_ms = m->fence_ms;
	begin(s, &m->peer, &m->offer, &m->limits, &m->times);
	s->tls = m->tls;
	s->master = m->master;
	memcpy(s->service, m->service, sizeof(s->service));
	s->began_ms = (uint64_t)time(NULL) * 1000;
	s->client = fd[0];
	if (again && pack_is(fd[1], NULL) && unpack(s, &fd[1], format) == -1)
		_exit(1);
	if (open_journal(s, fd[1], !again, format) == -1)
		_exit(1);
	fd[0] = fd[1] = -1;
	if (file_early != -1)
		spool_file(&s->spool, file_early);
	session_title(s);
	s->resumed = again;
	s->active_at = s->now;
	if (again)
		return (resume(s, (m->flags & START_GIVE_UP) != 0));
	client_idle_from_now(s);
	s->b->greet(turn_begin(s));
	turn_end(s);
	s->w.greeted = 1;
	return (0);
}

static int
on_go(void *self_, struct chan *c, const struct msg_go *m, struct bytes tail, int fd[])
{
	struct session *s = self_;
	int j;

	(void)c, (void)fd;
	if (s->started || m->limits.log > UINT32_MAX / 2)
		return (-1);
	s->sid = m->sid;
	s->check = (m->flags & 2) != 0;
	if (s->check)
		check_begin(s, tail);
	s->probe = true;
	begin(s, &m->peer, &m->offer, &m->limits, &m->times);
	s->client = -1;
	if ((j = journal_create(&s->limits)) == -1 || open_journal(s, j, true, 0) == -1)
		_exit(1);
	s->b->probe(turn_begin(s));
	turn_end(s);
	return (0);
}

static int
on_backend(void *self_, struct chan *c, const struct msg_backend *m, struct bytes tail, int fd[])
{
	struct session *s = self_;

	(void)c, (void)tail;
	if (!s->started) {		/* comes before START: one that was kept while nobody was there */
		resume_backend(s, fd[0], m);
		fd[0] = -1;
		return (0);
	}
	if (s->link != LINK_ASKED || m->id != s->ask_id)
		return (0);	/* an answer that nobody waits for */
	backend_up(s, fd[0], m);
	fd[0] = -1;
	return (0);
}

static int
on_nobackend(void *self_, struct chan *c, const struct msg_nobackend *m, struct bytes tail, int fd[])
{
	struct session *s = self_;

	(void)c, (void)tail, (void)fd;
	if (s->link == LINK_ASKED && m->id == s->ask_id)
		backend_none(s, m);
	return (0);
}


static int
on_file(void *self_, struct chan *c, const struct msg_file *m, struct bytes tail, int fd[])
{
	struct session *s = self_;

	(void)c, (void)m, (void)tail;
	if (!s->started && file_early == -1) {		/* comes before START with content that is to go on */
		file_early = fd[0];
		fd[0] = -1;
	}
	if (file_asked != 1)
		return (0);
	spool_file(&s->spool, fd[0]);
	fd[0] = -1;
	file_asked = 2;
	return (0);
}

static int
on_nofile(void *self_, struct chan *c, const struct msg_nofile *m, struct bytes tail, int fd[])
{
	(void)self_, (void)c, (void)m, (void)tail, (void)fd;
	if (file_asked == 1)
		file_asked = 3;
	return (0);
}

static int
on_move(void *self_, struct chan *c, const struct msg_move *m, struct bytes tail, int fd[])
{
	struct session *s = self_;

	(void)c, (void)tail, (void)fd;
	if (s->link != LINK_NONE && s->backend_id == m->backend)
		s->moving = true;
	return (0);
}

static int
on_yield(void *self_, struct chan *c, const struct msg_yield *m, struct bytes tail, int fd[])
{
	struct session *s = self_;

	(void)c, (void)m, (void)tail, (void)fd;
	s->yielding = s->started && !s->probe;
	return (0);
}

static int
on_kick(void *self_, struct chan *c, const struct msg_kick *m, struct bytes tail, int fd[])
{
	struct session *s = self_;

	(void)c, (void)tail, (void)fd;
	if (!s->started)
		_exit(0);
	if (s->w.closing)
		return (0);
	session_refuse(s, m->why == WHY_SHUTDOWN ? WHY_SHUTDOWN : WHY_KICKED,
	    m->why == WHY_SHUTDOWN ? REASON_SHUTDOWN : REASON_KICKED);
	session_end(s, REASON_KICKED);
	return (0);
}

/* Another listener: what its predecessor was asked nobody answers. */
static int
on_again(void *self_, struct chan *c, const struct msg_again *m, struct bytes tail, int fd[])
{
	struct session *s = self_;
	struct msg_needfile need = { .id = s->sid };
	struct msg_journal j = { .id = s->sid };

	(void)m, (void)tail, (void)fd;
	if (!s->started)
		_exit(0);	/* nor is it known whether we were told whom to serve: another is told */
	/* its predecessor may have died between our word of it and the fdstore */
	if (unpacked && msg_send_journal(c, &j, bytes("", 0), &s->j.fd) == -1)
		_exit(1);
	if (s->link == LINK_ASKED)
		s->link = LINK_NONE;
	starttls_orphan(s);
	if (file_asked == 1)
		(void)msg_send_needfile(c, &need, bytes("", 0), NULL);
	s->noted = (struct msg_note){ .phase = UINT32_MAX };
	session_note(s);
	return (0);
}

static int
on_secured(void *self_, struct chan *c, const struct msg_secured *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail;
	return (starttls_secured(self_, m, fd));
}

static int
on_insecure(void *self_, struct chan *c, const struct msg_insecure *m, struct bytes tail, int fd[])
{
	(void)c, (void)fd;
	starttls_insecure(self_, m, tail);
	return (0);
}

static int
on_authgo(void *self_, struct chan *c, const struct msg_authgo *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail, (void)fd;
	login_go(self_, m);
	return (0);
}

static const struct gw_inbox inbox = { .again = on_again, .yield = on_yield, .start = on_start, .go = on_go, .backend = on_backend,
	.nobackend = on_nobackend, .file = on_file, .nofile = on_nofile, .move = on_move, .kick = on_kick, .secured = on_secured,
	.insecure = on_insecure, .authgo = on_authgo };

static int
on_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&inbox, self_, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_gone(void *self_, struct chan *c, const char *why)
{
	struct session *s = self_;

	(void)why;
	chan_close(c);
	/* a warm child whose listener went; or one whose session the fdstore may not know to be ours */
	if (!s->started || s->resumed)
		_exit(0);
	starttls_orphan(s);
	if (orphan(s) == -1 && s->link == LINK_ASKED)
		s->link = LINK_NONE;
}

void
session_listen(struct session *s, int fd)
{
	s->chan = (struct chan){ .me = R_SESSION, .peer = R_LISTENER, .name = "listener", .self = s, .read = on_message,
	    .gone = on_gone };
	chan_open(&s->chan, NULL, fd);
}

int
session_need_file(struct session *s)
{
	struct msg_needfile m = { .id = s->sid };
	uint64_t until = s->now + FILE_MS;

	file_asked = 1;
	if (msg_send_needfile(&s->chan, &m, bytes("", 0), NULL) == -1)
		(void)chan_poll(&s->chan);	/* the listener has died: the next one says AGAIN, and is asked then */
	while (file_asked == 1 && s->chan.fd != -1 && clock_ms() < until) {
		struct pollfd p = { .fd = s->chan.fd, .events = POLLIN };

		if (poll(&p, 1, 500) == 1)
			(void)chan_poll(&s->chan);
	}
	if (file_asked == 2)
		return (0);
	file_asked = 3;
	return (-1);
}

/* --- the loop ------------------------------------------------------------------------------------------------ */

static void
run(struct session *s)
{
	bool again = true;

	/* bounded: each step consumes input or fills bounded output */
	while (again && !s->over) {
		again = backend_step(s);
		if (client_may_step(s))
			again = client_step(s) || again;
	}
	if (s->over || s->w.closing)
		return;
	if (s->w.client_eof && s->b->wants_content(&s->t))
		session_end(s, REASON_GONE);	/* the rest of the content will never come */
	else if (s->w.client_eof && (!s->b->pending(&s->t) || (s->content_turn && client_listens(s))) && s->w.out_start == s->w.out_end)
		session_end(s, REASON_GONE);	/* nor what would end a command that waits for its client, as IDLE does */
}

static int
poll_set(struct session *s, struct pollfd p[3])
{
	p[0] = (struct pollfd){ .fd = s->chan.fd, .events = POLLIN };
	p[1] = (struct pollfd){ .fd = s->client, .events = 0 };
	p[2] = (struct pollfd){ .fd = s->backend, .events = 0 };
	if (s->chan.queued > 0)
		p[0].events |= POLLOUT;
	if (!s->w.client_eof && !s->w.closing && s->w.secure != SECURE_OWED && s->w.in_end - s->w.in_start < JOURNAL_IN)
		p[1].events |= POLLIN;
	if (s->cut)
		p[1].fd = -1;
	else if (s->w.out_end > s->w.out_start && s->now < s->mute_until)
		;		/* it will be told */
	else if (s->w.out_end > s->w.out_start)
		p[1].events |= POLLOUT;
	if (p[1].events == 0)
		p[1].fd = -1;	/* nothing to learn until we have something to say: poll would tell of an end or a reset at each call */
	if (s->backend != -1) {
		if (buf_len(&s->bin) < s->bin.cap && !s->bin_stalled)
			p[2].events |= POLLIN;
		if (backend_wants_write(s))
			p[2].events |= POLLOUT;
		if (p[2].events == 0)
			p[2].fd = -1;
	}
	return (3);
}

static int
timeout(const struct session *s)
{
	uint64_t due = client_due(s), b = backend_due(s), park = park_due(s), l = login_due(s);

	if (b != 0 && (due == 0 || b < due))
		due = b;
	if (park != 0 && (due == 0 || park < due))
		due = park;
	if (l != 0 && (due == 0 || l < due))
		due = l;
	if (s->note_at != 0 && (due == 0 || s->note_at < due))
		due = s->note_at;
	if (due == 0)
		return (s->started ? 60000 : -1);
	if (due <= s->now)
		return (0);
	return (due - s->now > 600000 ? 600000 : (int)(due - s->now));
}

static void
turn(struct session *s)
{
	struct pollfd p[3];
	int n;

	poll_set(s, p);
	n = poll(p, 3, timeout(s));
	s->now = clock_ms();
	if (n == -1 && errno != EINTR)
		_exit(1);
	if (n > 0 && p[0].revents)
		(void)chan_poll(&s->chan);
	if (!s->started)
		return;
	if (n > 0 && s->backend != -1 && p[2].fd == s->backend) {
		if (p[2].revents & (POLLIN | POLLHUP | POLLERR))
			backend_read(s);
		if (s->backend != -1 && p[2].revents & POLLOUT)
			backend_write(s);
	}
	if (n > 0 && p[1].fd != -1 && p[1].revents) {
		if (p[1].revents & (POLLIN | POLLHUP | POLLERR))
			client_read(s);
		if (p[1].revents & POLLOUT)
			client_write(s);
	}
	set_date(s->now);
	backend_deadlines(s);
	client_deadlines(s);
	if (s->note_at != 0 && s->now >= s->note_at && !s->over)
		session_note(s);
}

static void
drain_and_close(struct session *s)
{
	uint64_t until = s->now + 2000;
	size_t left = 1 << 20;

	if (s->client == -1 || s->w.secure == SECURE_ASKED)
		return;
	/* unread input would turn the close into a reset that can overtake our last words */
	if (!s->client_gone && !s->w.client_eof && s->w.reason != REASON_DIFFERS &&
	    (s->w.reason != REASON_QUIT || s->w.in_end > s->w.in_start) && shutdown(s->client, SHUT_WR) == 0) {
		while (left > 0 && clock_ms() < until) {
			struct pollfd p = { .fd = s->client, .events = POLLIN };
			ssize_t n;

			if (poll(&p, 1, 500) <= 0)
				continue;
			if ((n = read(s->client, content_space, sizeof(content_space))) <= 0)
				break;
			left = (size_t)n > left ? 0 : left - (size_t)n;
		}
	}
	close(s->client);
}

static void
say_bye(struct session *s)
{
	struct msg_bye m = { .reason = s->w.reason, .failovers = s->w.failovers,
	    .in = s->w.client_in - (s->w.secure == SECURE_DONE ? TLS_WORD : 0),
	    .out = s->w.client_out, .messages = s->w.messages };
	struct msg_probed r = { .ok = 0 };
	char user[64];

	if (s->probe) {
		r.ok = s->checked.known || (!s->nonsense && s->b->probed(&s->t, &r.caps));
		if (s->checked.known)
			r.caps = s->checked;
		(void)msg_send_probed(&s->chan, &r, s->check ? check_report(s) :
		    bytes_str(r.ok ? "" : s->how[0] ? s->how : "no answer"), NULL);
	} else {
		s->b->user(&s->t, user, sizeof(user));
		(void)msg_send_bye(&s->chan, &m, bytes_str(user), NULL);
	}
}

_Noreturn void
session_main(const struct behaviour *b, int chan_fd)
{
	struct session *s = &self;
	bool owed;

	*s = (struct session){ .b = b, .client = -1, .net = -1, .backend = -1, .j = { .fd = -1 } };
	session_listen(s, chan_fd);
	s->now = clock_ms();
	while (!s->over) {
		turn(s);
		if (!s->started)
			continue;
		do {
			run(s);
			owed = s->w.out_end > s->w.out_start;
			client_write(s);
			/* what waited for room has it now, and no event would wake us */
		} while (owed && s->w.out_end == 0 && !s->w.closing && !s->over);
		starttls_go(s);
		park_if_due(s);
		if (s->w.closing && (s->w.out_start == s->w.out_end || s->w.secure == SECURE_ASKED))
			s->over = true;
	}
	session_commit(s);	/* whoever goes on from here has only to close */
	backend_close(s, true);
	drain_and_close(s);
	say_bye(s);
	_exit(0);	/* which gives back journal and spool at less cost than we could */
}
