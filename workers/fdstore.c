/*
 * fdstore - keeps the descriptors of sessions through the death of their listener
 *
 * IN     STOP PEER from bmrd;  KEEP NEWS DROP GIVE from listeners
 * OUT    READY;  KEPT GIVEN
 * HOLDS  of each session older than a second: its client's socket, its journal, the listener's end of its channel (or the
 *        backend's socket of a parked one), perhaps the file of its content
 * LOSES  when it dies: nothing that exists; listeners hand everything to its successor
 *
 * It reads none of what it keeps. A listener asks for what its predecessor had, some at a time (GIVE), so that no queue grows.
 * Everything is kept by the listener's id ("pop3/listener") and the session's number.
 */
#include <bsd/sys/queue.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "supervisor/worker.h"
#include "workers/conf.h"
#include "workers/gw_msg.h"

enum { LISTENERS = 32, HASH = 8192, GIVE_MAX = 64 };

struct kept {
	struct msg_keep	 info;
	int		 fd[KEEP_FDS];		/* -1: none */
	TAILQ_ENTRY(kept) link, hash;
};
TAILQ_HEAD(keptlist, kept);

struct owner {					/* a listener, dead or alive */
	char		 id[64];
	uint64_t	 generation;
	struct chan	 chan;
	struct keptlist	 all;
	struct kept	*next;			/* to give */
	struct keptlist	 by_sid[HASH];
};

static struct owner owners[LISTENERS];
static struct worker *worker;

static struct kept *
find(struct owner *o, uint64_t sid)
{
	struct kept *k;

	TAILQ_FOREACH(k, &o->by_sid[sid % HASH], hash)
		if (k->info.sid == sid)
			return (k);
	return (NULL);
}

static void
close_all(struct kept *k)
{
	for (int i = 0; i < KEEP_FDS; i++) {
		if (k->fd[i] != -1)
			close(k->fd[i]);
		k->fd[i] = -1;
	}
}

static void
forget(struct owner *o, struct kept *k)
{
	if (o->next == k)
		o->next = TAILQ_NEXT(k, link);
	TAILQ_REMOVE(&o->all, k, link);
	TAILQ_REMOVE(&o->by_sid[k->info.sid % HASH], k, hash);
	close_all(k);
	free(k);
}

/* A second time for the same session: it has another process, or none. */
static int
on_keep(void *self, struct chan *c, const struct msg_keep *m, struct bytes tail, int fd[])
{
	struct owner *o = self;
	struct kept *k = find(o, m->sid);

	(void)c, (void)tail;
	if (k == NULL) {
		if ((k = malloc(sizeof(*k))) == NULL)
			return (0);
		for (int i = 0; i < KEEP_FDS; i++)
			k->fd[i] = -1;
		TAILQ_INSERT_TAIL(&o->all, k, link);
		TAILQ_INSERT_TAIL(&o->by_sid[m->sid % HASH], k, hash);
	}
	close_all(k);
	k->info = *m;
	for (int i = 0; i < KEEP_FDS; i++)
		if (m->there & 1u << i) {
			k->fd[i] = fd[i];
			fd[i] = -1;
		}
	return (0);
}

static int
on_news(void *self, struct chan *c, const struct msg_news *m, struct bytes tail, int fd[])
{
	struct owner *o = self;
	struct kept *k = find(o, m->sid);

	(void)c, (void)tail, (void)fd;
	if (k == NULL)
		return (0);
	memcpy(k->info.user, m->user, sizeof(m->user));
	memcpy(k->info.backend, m->backend, sizeof(m->backend));
	k->info.backend_told = m->backend_told;
	k->info.failovers = m->failovers;
	return (0);
}

static int
on_drop(void *self, struct chan *c, const struct msg_drop *m, struct bytes tail, int fd[])
{
	struct kept *k = find(self, m->sid);

	(void)c, (void)tail, (void)fd;
	if (k != NULL)
		forget(self, k);
	return (0);
}

static int
on_give(void *self, struct chan *c, const struct msg_give *m, struct bytes tail, int fd[])
{
	struct owner *o = self;
	struct msg_given done = { .id = m->id };
	int spare = -1;

	(void)tail, (void)fd;
	if (m->first)
		o->next = TAILQ_FIRST(&o->all);
	for (; o->next != NULL && done.n < GIVE_MAX; o->next = TAILQ_NEXT(o->next, link)) {
		struct kept *k = o->next;
		int four[KEEP_FDS];

		for (int i = 0; i < KEEP_FDS; i++) {
			spare = k->fd[i] != -1 ? k->fd[i] : spare;
			four[i] = k->fd[i];
		}
		for (int i = 0; i < KEEP_FDS; i++)	/* a message carries as many as it declares */
			four[i] = four[i] != -1 ? four[i] : spare;
		if (spare == -1 || msg_send_kept(c, (const struct msg_kept *)&k->info, bytes("", 0), four) == -1)
			break;
		done.n++;
	}
	done.more = o->next != NULL;
	(void)msg_send_given(c, &done, bytes("", 0), NULL);
	return (0);
}

static const struct gw_inbox inbox = { .keep = on_keep, .news = on_news, .drop = on_drop, .give = on_give };

static int
on_message(void *self, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&inbox, self, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_gone(void *self, struct chan *c, const char *why)
{
	(void)self, (void)why;
	chan_close(c);
}

static void
on_bad(void *self, struct chan *c, const char *why)
{
	struct owner *o = self;

	worker_badpeer(worker, o->id, o->generation);
	on_gone(self, c, why);
}

static void
on_peer(struct worker *w, uint8_t role, const char *id, uint64_t generation, int fd)
{
	struct owner *o = NULL;

	for (int i = 0; i < LISTENERS && o == NULL; i++)
		if (strcmp(owners[i].id, id) == 0)
			o = &owners[i];
	for (int i = 0; i < LISTENERS && o == NULL; i++)
		if (owners[i].id[0] == '\0')
			o = &owners[i];
	if (role != R_LISTENER || o == NULL) {
		close(fd);
		return;
	}
	chan_close(&o->chan);
	bytes_text(bytes_str(id), o->id, sizeof(o->id));
	o->generation = generation;
	o->next = NULL;
	o->chan = (struct chan){ .me = R_FDSTORE, .peer = role, .name = o->id, .self = o, .read = on_message,
	    .gone = on_gone, .bad = on_bad, .queue_max = 1024 };
	chan_open(&o->chan, w->loop, fd);
}

static int
start(struct worker *w, int argc, char **argv)
{
	const struct conf *conf = conf_image(w->conf, w->conf_size);

	(void)argc, (void)argv;
	if (conf == NULL)
		return (EX_CONFIG);
	worker = w;
	for (int i = 0; i < LISTENERS; i++) {
		owners[i].chan.fd = -1;
		TAILQ_INIT(&owners[i].all);
		for (int k = 0; k < HASH; k++)
			TAILQ_INIT(&owners[i].by_sid[k]);
	}
	w->sandbox.drop = conf->drop;
	w->sandbox.uid = conf->uid;
	w->sandbox.gid = conf->gid;
	w->sandbox.empty_root = conf->empty_root;
	return (0);
}

int
main(int argc, char **argv)
{
	static const struct worker_ops ops = { .role = R_FDSTORE, .start = start, .peer = on_peer };

	return (worker_main(&ops, argc, argv));
}
