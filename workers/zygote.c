/*
 * zygote - forks the session processes of one protocol ahead of demand
 *
 * IN     STOP PEER            from bmrd;  WANT RENEW from its listener;  ORPHAN from its children
 * OUT    CHILD DIED ORPHAN    to its listener
 * HOLDS  its channels; never a client's socket, a journal or a backend, but for the moment in which it passes an orphan on
 * LOSES  when it dies: nothing that exists; its children serve on, and the next zygote forks the next ones
 *
 * A child has one channel, to the listener; it closes all others and never returns here. After some abnormal ends
 * the zygote has itself renewed (bmrd counts that in no intensity): its successor, a fresh exec, has another address layout.
 */
#include <sys/resource.h>
#include <sys/wait.h>
#include <bsd/stdlib.h>
#include <bsd/unistd.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "supervisor/worker.h"
#include "workers/conf.h"
#include "workers/engine.h"
#include "workers/zygote.h"

enum { CRASHES_MAX = 8, WANT_MAX = 512 };
static const ev_tstamp ORPHAN_WAIT = 0.1;

struct zygote {
	const struct behaviour *b;
	char		 session[32];		/* what its children are in the log */
	struct worker	*w;
	struct chan	 listener;
	struct chan	 orphans;		/* of sessions whose listener died before the fdstore knew them */
	int		 orphan_end;		/* the end that all children have */
	ev_io		 orphan_io;
	ev_timer	 orphan_timer;
	ev_child	 reap;
	uint64_t	 serial;
	uint32_t	 crashes;
	bool		 renewing;
};

static struct zygote self;

/* It serves on until its successor is due; and if there is no bmrd, without one. */
static void
renew(struct zygote *z, const char *why)
{
	if (z->renewing || worker_renew(z->w) == -1)
		return;
	z->renewing = true;
	log_notice("making place for a fresh zygote: %s", why);
}

_Noreturn static void
child(struct zygote *z, int fd)
{
	sigset_t none;

	sigemptyset(&none);
	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	signal(SIGHUP, SIG_DFL);
	signal(SIGCHLD, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* the channel takes the place of bmrd's; the log stays; everything else of the zygote's goes */
	if (dup2(fd, SUP_FD) == -1 || dup2(z->orphan_end, ORPHAN_FD) == -1)
		_exit(EX_OSERR);
	closefrom(ORPHAN_FD + 1);
	setproctitle("-bmr: %s session (warm)", z->b->name);
	log_rename(z->session);
	session_main(z->b, SUP_FD);
}

static bool
fork_one(struct zygote *z)
{
	struct msg_child m = { .serial = ++z->serial };
	int fd[2];
	pid_t pid;

	if (chan_pair(fd) == -1) {
		log_warn("socketpair");
		return (false);
	}
	pid = fork();
	if (pid == 0)
		child(z, fd[1]);
	close(fd[1]);
	if (pid == -1)
		log_warn("fork");
	else {
		m.pid = (uint32_t)pid;
		(void)msg_send_child(&z->listener, &m, bytes("", 0), &fd[0]);
	}
	close(fd[0]);
	return (pid != -1);
}

static int
on_want(void *self_, struct chan *c, const struct msg_want *m, struct bytes tail, int fd[])
{
	struct zygote *z = self_;

	(void)c, (void)tail, (void)fd;
	if (m->n > WANT_MAX)
		return (-1);
	for (uint32_t i = 0; i < m->n && z->listener.fd != -1; i++)
		if (!fork_one(z))
			break;
	return (0);
}

static int
on_orphan(void *self_, struct chan *c, const struct msg_orphan *m, struct bytes tail, int fd[])
{
	struct zygote *z = self_;

	(void)c, (void)tail;
	(void)msg_send_orphan(&z->listener, m, bytes("", 0), fd);
	return (0);
}

static const struct gw_inbox from_children = { .orphan = on_orphan };

static int
on_child_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&from_children, self_, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

/* Which of them sent it is not known. */
static void
on_child_bad(void *self_, struct chan *c, const char *why)
{
	(void)c, (void)why;
	renew(self_, "a session process sent nonsense");
}

/* By now it is known whether the listener is the one that died. */
static void
on_orphan_time(struct ev_loop *loop, ev_timer *t, int events)
{
	struct zygote *z = t->data;

	(void)events;
	while (z->listener.fd != -1 && chan_poll(&z->orphans) == 1)
		;
	if (z->listener.fd == -1) {
		ev_timer_set(t, ORPHAN_WAIT, 0.);
		ev_timer_start(loop, t);
	} else
		ev_io_start(loop, &z->orphan_io);
}

static void
on_orphan_io(struct ev_loop *loop, ev_io *io, int events)
{
	struct zygote *z = io->data;

	(void)events;
	ev_io_stop(loop, io);
	ev_timer_set(&z->orphan_timer, ORPHAN_WAIT, 0.);
	ev_timer_start(loop, &z->orphan_timer);
}

static int
orphans_start(struct zygote *z)
{
	int fd[2];

	if (chan_pair(fd) == -1)
		return (-1);
	z->orphan_end = fd[1];
	z->orphans = (struct chan){ .me = R_ZYGOTE, .peer = R_SESSION, .name = "sessions", .self = z, .read = on_child_message,
	    .gone = on_child_bad, .bad = on_child_bad };
	chan_open(&z->orphans, NULL, fd[0]);
	ev_io_init(&z->orphan_io, on_orphan_io, fd[0], EV_READ);
	ev_timer_init(&z->orphan_timer, on_orphan_time, ORPHAN_WAIT, 0.);
	z->orphan_io.data = z->orphan_timer.data = z;
	ev_io_start(z->w->loop, &z->orphan_io);
	return (0);
}

static int
on_renew(void *self_, struct chan *c, const struct msg_renew *m, struct bytes tail, int fd[])
{
	(void)c, (void)m, (void)tail, (void)fd;
	renew(self_, "asked to");
	return (0);
}

static const struct gw_inbox inbox = { .want = on_want, .renew = on_renew };

static int
on_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&inbox, self_, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_gone(void *self_, struct chan *c, const char *why)
{
	struct zygote *z = self_;

	(void)why;
	chan_close(c);		/* bmrd brings the successor's */
	if (z->w->root.fd == -1)
		worker_end(z->w, 0);	/* or another bmrd has taken over */
}

static void
on_child(struct ev_loop *loop, ev_child *c, int events)
{
	struct zygote *z = c->data;
	struct msg_died m = { .pid = (uint32_t)c->rpid, .status = c->rstatus };
	bool good = WIFEXITED(c->rstatus) && WEXITSTATUS(c->rstatus) == 0;

	(void)loop, (void)events;
	if (good)
		return;		/* the listener learns of ends from the channel; a report is due for the others only */
	if (WIFSIGNALED(c->rstatus))
		log_warnx("%s session process %d died of signal %d%s", z->b->name, c->rpid, WTERMSIG(c->rstatus),
		    WCOREDUMP(c->rstatus) ? " (core)" : "");
	else
		log_warnx("%s session process %d exited with %d", z->b->name, c->rpid, WEXITSTATUS(c->rstatus));
	if (z->listener.fd != -1)
		(void)msg_send_died(&z->listener, &m, bytes("", 0), NULL);
	/* an operator's kill -9 says nothing of our memory; a crash does */
	if (!(WIFSIGNALED(c->rstatus) && WTERMSIG(c->rstatus) == SIGKILL) && ++z->crashes >= CRASHES_MAX)
		renew(z, "sessions died abnormally");
}

static int
start(struct worker *w, int argc, char **argv)
{
	const struct conf *conf = conf_image(w->conf, w->conf_size);

	(void)argc, (void)argv;
	if (conf == NULL)
		return (EX_CONFIG);
	self.w = w;
	w->self = &self;
	w->sandbox.drop = conf->drop;
	w->sandbox.uid = conf->uid;
	w->sandbox.gid = conf->gid;
	w->sandbox.empty_root = conf->empty_root;
	w->sandbox.calls = zygote_calls;
	w->sandbox.ncalls = zygote_ncalls;
	self.listener.fd = -1;
	if (orphans_start(&self) == -1)
		return (EX_OSERR);
	tzset();		/* once, while there are files to look at, not in every child */
	ev_child_init(&self.reap, on_child, 0, 0);
	self.reap.data = &self;
	ev_child_start(w->loop, &self.reap);
	return (0);
}

static void
peer(struct worker *w, uint8_t role, const char *id, uint64_t generation, int fd)
{
	struct zygote *z = w->self;

	(void)id, (void)generation;
	if (role != R_LISTENER) {
		close(fd);
		return;
	}
	chan_close(&z->listener);
	z->listener = (struct chan){ .me = R_ZYGOTE, .peer = R_LISTENER, .name = "listener", .self = z,
	    .read = on_message, .gone = on_gone, .queue_max = WANT_MAX * 2 };
	chan_open(&z->listener, w->loop, fd);
}

int
zygote_main(int argc, char **argv, const struct behaviour *b)
{
	static const struct worker_ops ops = { .role = R_ZYGOTE, .start = start, .peer = peer };

	self.b = b;
	snprintf(self.session, sizeof(self.session), "%s/session", b->name);
	return (worker_main(&ops, argc, argv));
}
