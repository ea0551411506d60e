/*
 * worker - the frame of every process under bmrd (worker.h)
 *
 * IN   STOP PEER LISTEN CONFIG NODE CTLED     OUT  READY BADPEER RENEWME
 * Goes on when bmrd is gone: channel 3 ends, nothing else. SIGTERM means STOP from then on.
 */
#include <sys/mman.h>
#include <sys/stat.h>
#include <bsd/stdlib.h>
#include <bsd/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "supervisor/sup_msg.h"
#include "supervisor/worker.h"

static struct worker self;
static ev_signal on_sigterm;

static const void *
map_image(int fd, size_t *size)
{
	struct stat st;
	void *p;

	if (fstat(fd, &st) == -1 || st.st_size <= 0)
		return (NULL);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	*size = (size_t)st.st_size;
	return (p == MAP_FAILED ? NULL : p);
}

void
worker_end(struct worker *w, int code)
{
	w->code = code;
	ev_break(w->loop, EVBREAK_ALL);
}

void
worker_badpeer(struct worker *w, const char *peer_id, uint64_t generation)
{
	struct msg_badpeer m = { .generation = generation };

	if (w->root.fd != -1)
		(void)msg_send_badpeer(&w->root, &m, bytes_str(peer_id), NULL);
}

int
worker_renew(struct worker *w)
{
	struct msg_renewme m = { .generation = w->generation };

	return (msg_send_renewme(&w->root, &m, bytes("", 0), NULL));
}

bool
worker_alone(const struct worker *w)
{
	struct pollfd p = { .fd = w->root.fd };

	return (w->root.fd == -1 || (poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)) != 0));
}

static void
stop(struct worker *w, uint64_t deadline_ms, bool again)
{
	if (w->ops->stop != NULL)
		w->ops->stop(w, deadline_ms, again);
	else
		worker_end(w, 0);
}

static int
on_stop(void *self_, struct chan *c, const struct msg_stop *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail, (void)fd;
	stop(self_, m->deadline_ms, (m->flags & STOP_AGAIN) != 0);
	return (0);
}

static int
on_peer(void *self_, struct chan *c, const struct msg_peer *m, struct bytes tail, int fd[])
{
	struct worker *w = self_;
	char id[64];

	(void)c;
	if (w->ops->peer == NULL)
		return (0);
	bytes_text(tail, id, sizeof(id));
	w->ops->peer(w, (uint8_t)m->role, id, m->generation, fd[0]);
	fd[0] = -1;
	return (0);
}

static int
on_listen(void *self_, struct chan *c, const struct msg_listen *m, struct bytes tail, int fd[])
{
	struct worker *w = self_;
	char service[64];

	(void)c;
	if (w->ops->listen == NULL)
		return (0);
	bytes_text(tail, service, sizeof(service));
	w->ops->listen(w, m->index, service, fd[0]);
	fd[0] = -1;
	return (0);
}

static int
on_config(void *self_, struct chan *c, const struct msg_config *m, struct bytes tail, int fd[])
{
	struct worker *w = self_;
	size_t size;
	const void *p;

	(void)c, (void)m, (void)tail;
	if (w->ops->config == NULL || (p = map_image(fd[0], &size)) == NULL)
		return (0);
	w->ops->config(w, p, size);
	return (0);
}

static const struct sup_inbox inbox = { .stop = on_stop, .peer = on_peer, .listen = on_listen, .config = on_config };

static int
on_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	struct worker *w = self_;

	if ((h->type == MSG_NODE || h->type == MSG_CTLED) && w->ops->from_root != NULL)
		return (w->ops->from_root(w, c, h, body, fd, nfds));
	return (sup_dispatch(&inbox, w, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_root_gone(void *self_, struct chan *c, const char *why)
{
	(void)self_;
	log_notice("bmrd is gone (%s): serving on", why);
	chan_close(c);
}

static void
on_term(struct ev_loop *loop, ev_signal *s, int events)
{
	struct worker *w = s->data;

	(void)loop, (void)events;
	/* bmrd stops its children by message; its own TERM follows only when that did not help */
	if (w->root.fd == -1)
		stop(w, 5000, false);
	else
		worker_end(w, 0);
}

static int
hello(struct worker *w, int argc, char **argv)
{
	struct msg_ready ready = { .generation = w->generation, .abi = 1 };
	int code;

	w->conf = map_image(CONF_FD, &w->conf_size);
	if ((code = w->ops->start(w, argc, argv)) != 0)
		return (code);
	if (sandbox_enter(&w->sandbox) == -1)
		return (EX_NOPERM);
	if (msg_send_ready(&w->root, &ready, bytes("", 0), NULL) == 0)
		return (0);
	if (!w->holds)
		return (EX_UNAVAILABLE);
	on_root_gone(w, &w->root, "it died before we were ready");
	return (0);
}

int
worker_main(const struct worker_ops *ops, int argc, char **argv)
{
	struct worker *w = &self;
	int code;

	if (argc < 4 || fcntl(SUP_FD, F_GETFD) == -1) {
		fprintf(stderr, "%s is started by bmrd, see bmrd(8)\n", argc > 0 ? argv[0] : "this program");
		return (EX_USAGE);
	}
	setproctitle_init(argc, argv, environ);
	*w = (struct worker){ .ops = ops, .id = strdup(argv[1]), .generation = strtoull(argv[2], NULL, 10),
	    .verbose = argv[3][0] == 'v' };
	log_open(w->id, w->verbose);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	setproctitle("-bmr: %s", w->id);
	w->loop = ev_default_loop(EVFLAG_AUTO);
	if (w->loop == NULL)
		fatal(EX_OSERR, "no event loop");
	w->root = (struct chan){ .me = ops->role, .peer = R_ROOT, .name = "bmrd", .self = w, .read = on_message,
	    .gone = on_root_gone };
	fcntl(SUP_FD, F_SETFD, FD_CLOEXEC);
	chan_open(&w->root, w->loop, SUP_FD);
	ev_signal_init(&on_sigterm, on_term, SIGTERM);
	on_sigterm.data = w;
	ev_signal_start(w->loop, &on_sigterm);
	if ((code = hello(w, argc, argv)) != 0)
		return (code);
	ev_run(w->loop, 0);
	return (w->code);
}
