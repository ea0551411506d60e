/*
 * admin - the HTTP API of the gateway on a Unix socket; what bmr(8) talks to
 *
 * IN     STOP PEER CONFIG NODE CTLED from bmrd;  ROW END from listeners and the balancer;  HTTP from operators
 * OUT    READY ASKTREE CTL BADPEER;  QUERY
 * HOLDS  the socket (mode 0660: who may write to it is an operator), requests under way
 * NEEDS  its socket's directory and /proc by path: no empty root. Runs as the configured user.
 * LOSES  when it dies: requests under way. Mail does not notice.
 */
#include <sys/stat.h>
#include <errno.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/admin/api.h"
#include "workers/admin/calls.h"
#include "workers/gw_msg.h"

static struct admin self;
/* the socket's file: another admin's is not removed */
static struct { char path[CONF_PATH]; dev_t dev; ino_t ino; } mine;

static void
on_config(struct worker *w, const void *image, size_t size)
{
	struct admin *a = w->self;
	const struct conf *c = conf_image(image, size);

	if (c == NULL)
		return;
	if (strcmp(c->socket, mine.path) != 0)
		log_warnx("socket %s: a new place needs a restart: still %s", c->socket, mine.path);
	a->conf = c;
}

static int
open_api(struct admin *a)
{
	const char *path = a->conf->socket;
	struct stat st;
	/* as root the socket belongs to whom the workers run as */
	bool give = geteuid() == 0 && a->conf->drop;
	uid_t uid = give ? a->conf->uid : (uid_t)-1;
	gid_t gid = give ? a->conf->gid : (gid_t)-1;
	int fd;

	if ((fd = http_listen(path, uid, gid)) == -1) {
		log_errx("socket %s: %s", path, strerror(errno));
		return (errno == EACCES || errno == EPERM ? EX_NOPERM : EX_CANTCREAT);
	}
	memcpy(mine.path, path, sizeof(mine.path));
	if (lstat(path, &st) == 0) {
		mine.dev = st.st_dev;
		mine.ino = st.st_ino;
	}
	a->http = http_start(a->w->loop, fd, api_handle, a);
	return (a->http == NULL ? EX_OSERR : 0);
}

static void
close_api(struct admin *a)
{
	struct stat st;

	if (a->http == NULL)
		return;
	calls_end(a);
	http_stop(a->http);
	if (lstat(mine.path, &st) == 0 && st.st_dev == mine.dev && st.st_ino == mine.ino)
		unlink(mine.path);
}

static int
start(struct worker *w, int argc, char **argv)
{
	struct admin *a = &self;

	(void)argc, (void)argv;
	w->self = a;
	a->w = w;
	if ((a->conf = conf_image(w->conf, w->conf_size)) == NULL)
		return (EX_CONFIG);
	TAILQ_INIT(&a->calls);
	for (uint32_t i = 0; i < PEERS; i++)
		a->peer[i].chan.fd = -1;
	w->sandbox.drop = a->conf->drop;
	w->sandbox.uid = a->conf->uid;
	w->sandbox.gid = a->conf->gid;
	return (open_api(a));
}

int
main(int argc, char **argv)
{
	static const struct worker_ops ops = { .role = R_ADMIN, .start = start, .peer = calls_peer, .config = on_config,
	    .from_root = calls_from_root };
	int code = worker_main(&ops, argc, argv);

	close_api(&self);
	return (code);
}
