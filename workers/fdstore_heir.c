/*
 * fdstore_heir - the succession of a bmrd that was killed: its fdstore hands everything to the next one's (fdstore.c)
 *
 * What a dead bmrd started serves on. A new one asks for the listening sockets (supervisor/inherit.h); the fdstore that it
 * starts first connects to the old one and asks for the sessions. The old one tells its listeners to leave: they stop to
 * accept, deposit every session, and end; then all is handed over, and it ends too. Its siblings end by themselves when
 * nobody is left who speaks to them. While bmrd lives, both requests are refused. The new fdstore asks for the listening
 * sockets too, so that it has all that its predecessor had should the new bmrd die in the meantime.
 *
 * Two Unix sockets in the run directory, for the same user and root only; that of the listening sockets is the first share's.
 * Where the new one has fewer shares than the old one, each takes over from several.
 */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <bsd/string.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/inherit.h"
#include "supervisor/log.h"
#include "workers/fdstore.h"
#include "workers/share.h"

#define HEIR_SOCKET	"sessions"		/* and the share's number, ".sock" */

enum { PATIENCE_MS = 15000, LEAVE_SECONDS = 10 };

static struct {
	struct fdstore	*f;
	ev_io		 sockets, sessions;
	ev_timer	 deadline;
	struct chan	 heir;			/* who asked for the sessions */
	bool		 asked, giving, done;
	uint32_t	 at;			/* owner being handed over */
} self = { .heir = { .fd = -1 } };

/* --- the old one ------------------------------------------------------------------------------------------------ */

static bool
trusted(int fd)
{
	struct ucred u;
	socklen_t n = sizeof(u);

	return (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &n) == 0 && (u.uid == 0 || u.uid == geteuid()));
}

/* A client that may have what it asks for; -1. */
static int
admit(const ev_io *io)
{
	int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd == -1 || (worker_alone(self.f->w) && trusted(fd)))
		return (fd);
	log_warnx("refused to hand over: %s", worker_alone(self.f->w) ? "another user asks" : "bmrd is alive");
	close(fd);
	return (-1);
}

static void
on_sockets(struct ev_loop *loop, ev_io *io, int events)
{
	int s = admit(io);

	(void)loop, (void)events;
	for (uint32_t i = 0; s != -1 && i < self.f->nsocket; i++) {
		union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(int))]; } u = { 0 };
		struct iovec iov = { self.f->socket[i].key, strlen(self.f->socket[i].key) };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.b, .msg_controllen = sizeof(u.b) };
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);

		*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
		memcpy(CMSG_DATA(c), &self.f->socket[i].fd, sizeof(int));
		if (sendmsg(s, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == -1)
			log_warn("a listening socket was not handed over");
	}
	if (s != -1)
		close(s);
}

static void
send_some(void)
{
	struct fdstore *f = self.f;
	struct msg_given done = { .id = 0 };

	while (done.n == 0 && self.at < LISTENERS) {
		struct owner *o = &f->owner[self.at];

		done.n = o->next == NULL ? 0 : fdstore_send(o, &self.heir, bytes_str(o->id));
		if (done.n == 0 && ++self.at < LISTENERS)
			f->owner[self.at].next = TAILQ_FIRST(&f->owner[self.at].all);
	}
	done.more = done.n > 0;
	(void)msg_send_given(&self.heir, &done, bytes("", 0), NULL);
}

static void
begin_to_give(void)
{
	if (self.giving)
		return;
	self.giving = true;
	ev_timer_stop(self.f->w->loop, &self.deadline);
	self.at = 0;
	self.f->owner[0].next = TAILQ_FIRST(&self.f->owner[0].all);
	send_some();
}

void
heir_gone(struct fdstore *f)
{
	if (!self.asked)
		return;
	for (int i = 0; i < LISTENERS; i++)
		if (f->owner[i].chan.fd != -1)
			return;
	begin_to_give();
}

static void
on_deadline(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop, (void)t, (void)events;
	log_warnx("a listener does not leave: its sessions are handed over all the same");
	begin_to_give();
}

static int
on_give(void *self_, struct chan *c, const struct msg_give *m, struct bytes tail, int fd[])
{
	struct msg_leave leave = { .id = 0 };

	(void)self_, (void)c, (void)tail, (void)fd;
	if (!m->first) {
		if (self.giving)
			send_some();
		return (0);
	}
	log_notice("another bmrd takes over");
	self.asked = true;
	for (int i = 0; i < LISTENERS; i++)
		if (self.f->owner[i].chan.fd != -1)
			(void)msg_send_leave(&self.f->owner[i].chan, &leave, bytes("", 0), NULL);
	ev_timer_start(self.f->w->loop, &self.deadline);
	heir_gone(self.f);
	return (0);
}

static const struct gw_inbox from_heir = { .give = on_give };

static int
on_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&from_heir, self_, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_heir_gone(void *self_, struct chan *c, const char *why)
{
	(void)self_, (void)why;
	chan_close(c);
	if (self.giving && self.at == LISTENERS)
		worker_end(self.f->w, 0);
	self.giving = false;		/* it may try again: nothing was let go */
}

static void
on_sessions(struct ev_loop *loop, ev_io *io, int events)
{
	int fd = admit(io);

	(void)loop, (void)events;
	if (fd == -1)
		return;
	chan_close(&self.heir);
	self.giving = false;		/* another has come, and is given all from the beginning */
	self.heir = (struct chan){ .me = R_FDSTORE, .peer = R_FDSTORE, .name = "heir", .self = &self, .read = on_message,
	    .gone = on_heir_gone, .queue_max = 1024 };
	chan_open(&self.heir, self.f->w->loop, fd);
}

/* --- the new one ------------------------------------------------------------------------------------------------ */

static int
on_kept(void *self_, struct chan *c, const struct msg_kept *m, struct bytes tail, int fd[])
{
	struct owner *o;
	char id[64], mine[64];

	(void)self_, (void)c;
	bytes_text(tail, id, sizeof(id));
	id[share_base(id)] = '\0';
	share_id(mine, sizeof(mine), id, self.f->share);
	if ((o = fdstore_owner(self.f, mine)) != NULL)
		fdstore_put(o, (const struct msg_keep *)m, fd);
	return (0);
}

static int
on_given(void *self_, struct chan *c, const struct msg_given *m, struct bytes tail, int fd[])
{
	struct msg_give more = { .first = 0 };

	(void)self_, (void)tail, (void)fd;
	self.at += m->n;
	if (m->more)
		(void)msg_send_give(c, &more, bytes("", 0), NULL);
	else
		self.done = true;
	return (0);
}

static const struct gw_inbox from_old = { .kept = on_kept, .given = on_given };

static int
on_old_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&from_old, self_, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static struct sockaddr_un
address(const char *dir, const char *name)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char path[CONF_PATH + 48];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (strlcpy(a.sun_path, path, sizeof(a.sun_path)) >= sizeof(a.sun_path))
		a.sun_path[0] = '\0';		/* no socket then */
	return (a);
}

static struct sockaddr_un
heir_address(const char *dir, uint32_t share)
{
	char id[32], name[40];

	share_id(id, sizeof(id), HEIR_SOCKET, share);
	snprintf(name, sizeof(name), "%s.sock", id);
	return (address(dir, name));
}

static void
on_socket(void *arg, const char *key, int fd)
{
	fdstore_socket(arg, key, fd);
}

/* Before anything else of the new tree is started: waits for the old one to have left. */
static void
take_over(const char *dir, uint32_t share)
{
	struct sockaddr_un a = heir_address(dir, share);
	struct msg_give all = { .first = 1 };
	struct chan c = { .me = R_FDSTORE, .peer = R_FDSTORE, .name = "fdstore of another bmrd", .self = &self,
	    .read = on_old_message };
	struct pollfd p = { .fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), .events = POLLIN };

	if (p.fd == -1)
		return;
	if (connect(p.fd, (const struct sockaddr *)&a, sizeof(a)) == -1) {
		close(p.fd);
		return;
	}
	self.done = false;
	chan_open(&c, NULL, p.fd);
	(void)msg_send_give(&c, &all, bytes("", 0), NULL);
	while (!self.done && c.fd != -1 && poll(&p, 1, PATIENCE_MS) == 1)
		(void)chan_poll(&c);
	if (self.done)
		log_notice("%u sessions come from another bmrd's", self.at);	/* of all shares up to here */
	else
		log_warnx("another bmrd's fdstore does not hand over");
	chan_close(&c);
}

static int
listen_at(struct sockaddr_un a, uid_t uid)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), e;
	mode_t mask = umask(0177);

	if (fd == -1)
		return (-1);
	(void)unlink(a.sun_path);
	if (a.sun_path[0] == '\0' || bind(fd, (const struct sockaddr *)&a, sizeof(a)) == -1 || listen(fd, 8) == -1 ||
	    (uid != (uid_t)-1 && lchown(a.sun_path, uid, (gid_t)-1) == -1)) {
		e = errno;
		close(fd);
		errno = e;
		fd = -1;
	}
	(void)umask(mask);
	return (fd);
}

int
heir_start(struct fdstore *f)
{
	const char *dir = f->conf->run_dir;
	const struct sockaddr_un sockets = address(dir, INHERIT_SOCKET);
	uid_t uid = geteuid() == 0 && f->conf->drop ? f->conf->uid : (uid_t)-1;
	int a = -1, b;

	self.f = f;
	if (f->share == 0)
		(void)inherit_sockets(sockets.sun_path, on_socket, f);
	for (uint32_t share = f->share; share < SHARES; share += f->conf->shares)
		take_over(dir, share);
	self.at = 0;
	f->w->holds = self.done;
	if (!self.done && worker_alone(f->w))	/* the places are the old one's still */
		return (0);
	if ((b = listen_at(heir_address(dir, f->share), uid)) == -1 || (f->share == 0 && (a = listen_at(sockets, uid)) == -1))
		return (-1);
	ev_io_init(&self.sockets, on_sockets, a, EV_READ);
	ev_io_init(&self.sessions, on_sessions, b, EV_READ);
	ev_timer_init(&self.deadline, on_deadline, LEAVE_SECONDS, 0.);
	if (f->share == 0)
		ev_io_start(f->w->loop, &self.sockets);
	ev_io_start(f->w->loop, &self.sessions);
	return (0);
}
