/*
 * fdstore - keeps the descriptors of sessions through the death of their listener
 *
 * IN     STOP PEER LISTEN CONFIG from bmrd;  KEEP NEWS DROP GIVE from listeners
 * OUT    READY;  KEPT GIVEN ANEW LEAVE;  KICK to sessions that have no listener at a stop
 * HOLDS  of each session older than a quarter of a second: its client's socket, its journal, the listener's end of its channel (or the
 *        backend's socket of a parked one), perhaps the file of its content
 * LOSES  when it dies: nothing that exists; listeners hand everything to its successor
 *
 * The listening sockets are kept too, for a bmrd that comes after one that was killed (fdstore_heir.c).
 *
 * It reads none of what it keeps. A listener asks for what its predecessor had, some at a time (GIVE), so that no queue grows.
 * Everything is kept by the listener's id ("pop3/listener") and the session's number. Each share has an fdstore (share.h).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/fdstore.h"
#include "workers/share.h"

enum { GIVE_MAX = 64 };
static const ev_tstamp anew_after = 1.0;

static struct fdstore self;

static struct kept *
find(struct owner *o, uint64_t sid)
{
	struct kept *k;

	TAILQ_FOREACH(k, &o->by_sid[sid % FDSTORE_HASH], hash)
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
	TAILQ_REMOVE(&o->by_sid[k->info.sid % FDSTORE_HASH], k, hash);
	close_all(k);
	free(k);
}

/* A second time for the same session: it has another process, or none. */
void
fdstore_put(struct owner *o, const struct msg_keep *m, int fd[])
{
	struct kept *k = find(o, m->sid);

	if (k == NULL) {
		if ((k = malloc(sizeof(*k))) == NULL)
			return;
		for (int i = 0; i < KEEP_FDS; i++)
			k->fd[i] = -1;
		TAILQ_INSERT_TAIL(&o->all, k, link);
		TAILQ_INSERT_TAIL(&o->by_sid[m->sid % FDSTORE_HASH], k, hash);
	}
	close_all(k);
	k->info = *m;
	for (int i = 0; i < KEEP_FDS; i++)
		if (m->there & 1u << i) {
			k->fd[i] = fd[i];
			fd[i] = -1;
		}
}

static int
on_keep(void *self_, struct chan *c, const struct msg_keep *m, struct bytes tail, int fd[])
{
	(void)c, (void)tail;
	fdstore_put(self_, m, fd);
	return (0);
}

static int
on_news(void *self_, struct chan *c, const struct msg_news *m, struct bytes tail, int fd[])
{
	struct owner *o = self_;
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
on_drop(void *self_, struct chan *c, const struct msg_drop *m, struct bytes tail, int fd[])
{
	struct kept *k = find(self_, m->sid);

	(void)c, (void)tail, (void)fd;
	if (k != NULL)
		forget(self_, k);
	return (0);
}

uint32_t
fdstore_send(struct owner *o, struct chan *c, struct bytes tail)
{
	uint32_t n = 0;
	int spare = -1;

	for (; o->next != NULL && n < GIVE_MAX; o->next = TAILQ_NEXT(o->next, link), n++) {
		struct kept *k = o->next;
		int four[KEEP_FDS];

		for (int i = 0; i < KEEP_FDS; i++)
			spare = k->fd[i] != -1 ? k->fd[i] : spare;
		for (int i = 0; i < KEEP_FDS; i++)	/* a message carries as many as it declares */
			four[i] = k->fd[i] != -1 ? k->fd[i] : spare;
		if (spare == -1 || msg_send_kept(c, (const struct msg_kept *)&k->info, tail, four) == -1)
			break;
	}
	return (n);
}

static int
on_give(void *self_, struct chan *c, const struct msg_give *m, struct bytes tail, int fd[])
{
	struct owner *o = self_;
	struct msg_given done = { .id = m->id };

	(void)tail, (void)fd;
	if (m->first)
		o->next = TAILQ_FIRST(&o->all);
	done.n = fdstore_send(o, c, bytes("", 0));
	done.more = o->next != NULL;
	(void)msg_send_given(c, &done, bytes("", 0), NULL);
	return (0);
}

static const struct gw_inbox inbox = { .keep = on_keep, .news = on_news, .drop = on_drop, .give = on_give };

static int
on_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&inbox, self_, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_gone(void *self_, struct chan *c, const char *why)
{
	(void)self_, (void)why;
	chan_close(c);
	heir_gone(&self);
}

static void
on_bad(void *self_, struct chan *c, const char *why)
{
	struct owner *o = self_;

	worker_badpeer(self.w, o->id, o->generation);
	on_gone(self_, c, why);
}

static void
on_anew(struct ev_loop *loop, ev_timer *t, int events)
{
	struct owner *o = t->data;
	struct msg_anew m = { .id = 0 };

	(void)loop, (void)events;
	(void)msg_send_anew(&o->chan, &m, bytes("", 0), NULL);
}

/* Of which session, is not known. The listener is not to blame. */
static void
on_lost(void *self_, struct chan *c, const char *why)
{
	struct owner *o = self_;

	if (ev_is_active(&o->anew))
		return;
	log_warnx("%s: %s", c->name, why);
	ev_timer_set(&o->anew, anew_after, 0.);
	ev_timer_start(self.w->loop, &o->anew);
}

struct owner *
fdstore_owner(struct fdstore *f, const char *id)
{
	for (int i = 0; i < LISTENERS; i++) {
		struct owner *o = &f->owner[i];

		if (o->id[0] == '\0')
			snprintf(o->id, sizeof(o->id), "%s", id);
		if (strcmp(o->id, id) == 0)
			return (o);
	}
	return (NULL);
}

static void
on_peer(struct worker *w, uint8_t role, const char *id, uint64_t generation, int fd)
{
	struct owner *o = role == R_LISTENER ? fdstore_owner(&self, id) : NULL;

	if (o == NULL) {
		close(fd);
		return;
	}
	while (chan_poll(&o->chan) == 1)	/* what the one that died had to say to the end */
		;
	chan_close(&o->chan);
	o->generation = generation;
	o->next = NULL;
	o->chan = (struct chan){ .me = R_FDSTORE, .peer = role, .name = o->id, .self = o, .read = on_message,
	    .gone = on_gone, .bad = on_bad, .lost = on_lost, .queue_max = 1024 };
	chan_open(&o->chan, w->loop, fd);
}

static bool
key_of(const struct conf *c, const char *service, uint32_t index, char *key, size_t size)
{
	const struct conf_service *s = conf_service(c, service);

	if (s == NULL || index >= s->nlisten)
		return (false);
	snprintf(key, size, "[%s]:%u", s->listen[index].address, s->listen[index].port);	/* as bmrd writes it */
	return (true);
}

static bool
configured(const struct conf *c, const char *socket)
{
	char key[sizeof(self.socket[0].key)];

	for (uint32_t s = 0; s < c->nservice; s++)
		for (uint32_t k = 0; k < c->service[s].nlisten; k++)
			if (key_of(c, c->service[s].name, k, key, sizeof(key)) && strcmp(key, socket) == 0)
				return (true);
	return (false);
}

void
fdstore_socket(struct fdstore *f, const char *key, int fd)
{
	bool take = f->nsocket < FDSTORE_SOCKETS && configured(f->conf, key);

	for (uint32_t i = 0; i < f->nsocket && take; i++)
		take = strcmp(f->socket[i].key, key) != 0;	/* else it is another service's now */
	if (!take) {
		close(fd);
		return;
	}
	snprintf(f->socket[f->nsocket].key, sizeof(f->socket[0].key), "%s", key);
	f->socket[f->nsocket++].fd = fd;
}

static void
on_listen(struct worker *w, uint32_t index, const char *service, int fd)
{
	char key[sizeof(self.socket[0].key)];

	(void)w;
	if (key_of(self.conf, service, index, key, sizeof(key)))
		fdstore_socket(&self, key, fd);
	else
		close(fd);
}

static void
on_config(struct worker *w, const void *image, size_t size)
{
	const struct conf *now = conf_image(image, size);

	(void)w;
	if (now == NULL)
		return;
	self.conf = now;
	for (uint32_t i = self.nsocket; i-- > 0;)
		if (!configured(now, self.socket[i].key)) {
			close(self.socket[i].fd);
			self.socket[i] = self.socket[--self.nsocket];
		}
}

static void
kick(struct kept *k)
{
	struct msg_kick m = { .why = WHY_SHUTDOWN };
	struct chan way = { .me = R_FDSTORE, .peer = R_SESSION, .name = "session" };

	if (k->fd[KEEP_LINK] == -1 || k->info.flags & KEEP_PARKED)
		return;
	chan_open(&way, NULL, k->fd[KEEP_LINK]);
	(void)msg_send_kick(&way, &m, bytes("", 0), NULL);
	(void)chan_detach(&way);
}

/* The listeners have stopped before and dropped what they had. What is left has lost its listener, and no other is to come. */
static void
on_stop(struct worker *w, uint64_t deadline_ms, bool again)
{
	struct kept *k;

	(void)deadline_ms;
	for (int i = 0; i < LISTENERS && !again; i++)
		TAILQ_FOREACH(k, &self.owner[i].all, link)
			kick(k);
	worker_end(w, 0);
}

static int
start(struct worker *w, int argc, char **argv)
{
	(void)argc, (void)argv;
	if ((self.conf = conf_image(w->conf, w->conf_size)) == NULL)
		return (EX_CONFIG);
	self.w = w;
	self.share = share_of(w->id);
	for (int i = 0; i < LISTENERS; i++) {
		self.owner[i].chan.fd = -1;
		ev_timer_init(&self.owner[i].anew, on_anew, anew_after, 0.);
		self.owner[i].anew.data = &self.owner[i];
		TAILQ_INIT(&self.owner[i].all);
		for (int k = 0; k < FDSTORE_HASH; k++)
			TAILQ_INIT(&self.owner[i].by_sid[k]);
	}
	w->sandbox.drop = self.conf->drop;
	w->sandbox.uid = self.conf->uid;
	w->sandbox.gid = self.conf->gid;
	w->sandbox.empty_root = self.conf->empty_root;
	if (heir_start(&self) == -1)
		log_warn("a bmrd after this one could not take over: %s", self.conf->run_dir);
	return (0);
}

int
main(int argc, char **argv)
{
	static const struct worker_ops ops = { .role = R_FDSTORE, .start = start, .peer = on_peer, .listen = on_listen,
	    .config = on_config, .stop = on_stop };

	return (worker_main(&ops, argc, argv));
}
