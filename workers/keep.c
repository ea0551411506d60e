/*
 * keep - what a session is kept by when its process dies: its client's socket, its journal, a fresh process (listener.h)
 *
 * A process that ends without BYE has its session handed to another one, whatever killed it. One that dies again where
 * it died before is given up (J6), by the honest word of a process that does nothing else; the same point means that as
 * much of the client's input was consumed and as much given to him. A SIGKILL says nothing of the input: only some in quick
 * succession end a session (out of memory, again and again). One that had nothing to do is never given up, but paced.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/counted.h"
#include "workers/crash.h"
#include "workers/journal.h"
#include "workers/listener.h"
#include "workers/reason.h"

enum { CRASHES = 2, KILLS = 5, PACED_FROM = 5, CRASHES_SECONDS = 60, KILLS_SECONDS = 2 };
static const ev_tstamp pace = 1.0, told_within = 2.0;	/* how its process died: seconds to wait for the zygote's word */

static void
drop(int *fd)
{
	if (*fd != -1)
		close(*fd);
	*fd = -1;
}

void
keep_free(struct sess *s)
{
	if (s->state == SESS_RESUMING && s->resuming) {
		TAILQ_REMOVE(&s->l->resuming, s, wait);
		s->l->nresuming--;
	}
	s->resuming = false;
	park_free(s);
	drop(&s->client);
	drop(&s->journal);
	drop(&s->file);
}

static void
end(struct sess *s, enum reason why)
{
	struct msg_bye m = { .reason = why, .failovers = s->failovers };

	sessions_log_end(s, &m);
	sessions_free(s);
}

/* The gateway stops, and it has no process. Within an answer, or a handshake, no word of ours would be taken for one. */
static void
part(struct sess *s)
{
	struct core w;

	if (!s->give_up && counted_peek(s->journal, &w) == 0 && !w.busy && w.out_start == w.out_end && !w.closing &&
	    (w.secure == SECURE_NONE || w.secure == SECURE_DONE))
		sessions_goodbye(s);
	else
		end(s, REASON_SHUTDOWN);
}

/* Notes where it died; whether it had something to do there. */
static bool
mark_point(struct sess *s)
{
	ev_tstamp now = listener_clock();
	uint64_t in, out, content;
	struct core w;
	bool there = journal_peek(s->journal, &w) == 0;

	in = w.client_in - (w.in_end - w.in_start);
	out = w.client_out;
	content = w.spool.len;
	if (in != s->point.in || out != s->point.out || content != s->point.content ||
	    now - s->crashed_at > CRASHES_SECONDS)
		s->crashes = s->quick = 0;
	s->crashes++;
	s->quick = now - s->crashed_at > KILLS_SECONDS ? 1 : s->quick + 1;
	s->crashed_at = now;
	s->point.in = in;
	s->point.out = out;
	s->point.content = content;
	return (!there || w.busy || w.in_end > w.in_start || w.out_end > w.out_start);
}

void
keep_want(struct sess *s)
{
	struct listener *l = s->l;

	ev_timer_stop(l->w->loop, &s->deadline);
	s->resuming = true;
	TAILQ_INSERT_TAIL(&l->resuming, s, wait);
	l->nresuming++;
	keep_serve(l);
}

static void
on_paced(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop, (void)events;
	keep_want(t->data);
}

static void
after(struct sess *s, ev_tstamp seconds, void (*what)(struct ev_loop *, ev_timer *, int))
{
	ev_timer_stop(s->l->w->loop, &s->deadline);
	ev_timer_init(&s->deadline, what, seconds, 0.);
	s->deadline.data = s;
	ev_timer_start(s->l->w->loop, &s->deadline);
}

static bool
was_killed(int32_t status)
{
	return (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void
decide(struct sess *s)
{
	/* not known: its zygote is dead too, which is no loop */
	bool killed = s->dead_status == -1 || was_killed(s->dead_status);

	s->give_up = s->had_work && (killed ? s->quick >= KILLS : s->crashes >= CRASHES);
	if (s->give_up) {
		struct crash c = { .b = s->l->b, .session = s->peer.session,
		    .service = s->l->service[s->service].name, .client = s->peer.addr, .pid = s->dead_pid, .times = s->crashes,
		    .status = s->dead_status };

		log_warnx("session %s: given up: died %u times at the same point", s->peer.session, s->crashes);
		if (crash_report(s->l->conf->state_dir, &c, s->journal) == -1)
			log_warn("session %s: no report in %s/" CRASH_DIR, s->peer.session, s->l->conf->state_dir);
	}
	if (!s->give_up && s->quick > PACED_FROM)
		after(s, pace, on_paced);
	else
		keep_want(s);
}

static void
on_not_told(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop, (void)events;
	decide(t->data);
}

void
keep_move(struct sess *s)
{
	struct msg_move m = { .backend = s->backend_told };

	s->moved_off = s->chan.fd == -1;
	if (s->chan.fd != -1)
		(void)msg_send_move(&s->chan, &m, bytes("", 0), NULL);
	else
		park_wake(s);
}

static void
yield(struct sess *s)
{
	struct msg_yield m = { .id = s->sid };

	if (s->chan.fd != -1)
		(void)msg_send_yield(&s->chan, &m, bytes("", 0), NULL);
	else
		park_wake(s);
}

void
keep_rezygote(struct sess *s)
{
	struct listener *l = s->l;
	struct msg_renew m = { .id = s->sid };

	s->rezygote = true;
	if (s->zygote != l->zygote_now)
		yield(s);
	else if (l->zygote.fd != -1)
		(void)msg_send_renew(&l->zygote, &m, bytes("", 0), NULL);	/* when its successor is there: keep_zygote */
}

void
keep_zygote(struct listener *l, uint64_t generation)
{
	struct sess *s, *next;

	l->zygote_now = generation;
	sessions_unused_warm(l);	/* another's: of another binary, perhaps */
	for (s = TAILQ_FIRST(&l->active); s != NULL; s = next) {
		next = TAILQ_NEXT(s, link);
		if (s->state >= SESS_CLIENT && s->rezygote)
			yield(s);
	}
}

void
keep_kick(struct sess *s, enum why why)
{
	struct msg_kick m = { .why = why };

	s->kicked = true;		/* also if its process dies before it hears of it */
	s->kick_why = why;
	if (s->chan.fd != -1)
		(void)msg_send_kick(&s->chan, &m, bytes("", 0), NULL);
	else
		park_wake(s);
}

void
keep_lost(struct sess *s)
{
	struct listener *l = s->l;
	bool told = s->pid != 0 && s->dead_pid == s->pid;	/* the zygote's word has come before the end of the channel */

	chan_close(&s->chan);
	connector_cancel(s);
	connector_release(s);
	s->dead_pid = s->pid;
	if (!told)
		s->dead_status = -1;
	s->pid = 0;
	s->state = SESS_RESUMING;
	deposit_changed(s);
	if (s->give_up) {	/* not even a last word can be said */
		end(s, REASON_CRASHED);
		return;
	}
	if (l->stopping) {
		part(s);
		return;
	}
	s->had_work = mark_point(s);
	log_notice("session %s: process %u died; another goes on", s->peer.session, s->dead_pid);
	if (s->crashes < CRASHES)
		keep_want(s);
	else if (told)
		decide(s);
	else
		after(s, told_within, on_not_told);
}

void
keep_died(struct listener *l, const struct msg_died *m)
{
	struct sess *s;

	TAILQ_FOREACH(s, &l->active, link)
		/* of whom it was known already, another may have the pid by now */
		if ((s->pid == m->pid || (s->dead_pid == m->pid && s->dead_status == -1)) && s->state >= SESS_CLIENT) {
			s->dead_pid = m->pid;
			s->dead_status = m->status;
			if (!was_killed(m->status))
				logins_crashed(s);
			if (s->state == SESS_RESUMING && !s->resuming && ev_cb(&s->deadline) == on_not_told)
				decide(s);
			return;
		}
}

/* Gives s the process of a warm one, which is no more after that. */
static void
take_over(struct sess *s, struct sess *warm)
{
	struct listener *l = s->l;
	struct msg_file file = { .id = s->sid };
	struct msg_backend up = { .backend = s->backend_told, .flags = s->xclient };
	struct core w;
	uint64_t flags = START_RESUME;
	int fd;

	TAILQ_REMOVE(&l->resuming, s, wait);
	l->nresuming--;
	s->resuming = false;
	s->state = SESS_CLIENT;
	s->pid = warm->pid;
	s->serial = warm->serial;
	s->zygote = warm->zygote;
	s->rezygote = false;
	s->resumed++;
	fd = chan_detach(&warm->chan);
	free(warm);
	sessions_chan(s, fd);
	deposit_now(s);
	if (journal_peek(s->journal, &w) == -1)
		flags = 0;		/* it had not even greeted */
	else if (s->give_up)
		flags |= START_GIVE_UP;
	if (s->file != -1)
		(void)msg_send_file(&s->chan, &file, bytes("", 0), &s->file);
	if (s->kept_backend != -1) {
		memcpy(up.name, s->backend_name, sizeof(up.name));
		(void)msg_send_backend(&s->chan, &up, bytes("", 0), &s->kept_backend);
	}
	if (sessions_start(s, flags) == -1) {	/* it is dead, and we have not heard of it yet; or there is no memory */
		chan_close(&s->chan);
		s->pid = 0;
		s->state = SESS_RESUMING;
		deposit_changed(s);
		after(s, errno == EPIPE || errno == ECONNRESET ? 0. : pace, on_paced);
		return;
	}
	drop(&s->kept_backend);
	if (s->moved_off)
		keep_move(s);
	if (s->kicked)
		keep_kick(s, s->kick_why);
}

void
keep_stop(struct listener *l)
{
	struct sess *s, *next;

	for (s = TAILQ_FIRST(&l->active); s != NULL; s = next) {
		next = TAILQ_NEXT(s, link);
		if (s->state == SESS_RESUMING)
			part(s);
	}
}

void
keep_serve(struct listener *l)
{
	struct sess *s, *warm;

	while ((s = TAILQ_FIRST(&l->resuming)) != NULL && (warm = sessions_warm(l)) != NULL)
		take_over(s, warm);
	if (l->nresuming > 0)
		sessions_top_up(l);
}
