/*
 * calls - see calls.h
 *
 * IN   ROW END from listeners, balancer and tls; NODE CTLED from bmrd        OUT  QUERY; ASKTREE CTL
 *
 * Invariant: nwaits is the sum of waits[]. An answer whose id nobody waits for (its call met the deadline) is dropped.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "supervisor/sup.h"
#include "supervisor/sup_msg.h"
#include "workers/admin/calls.h"
#include "workers/admin/memory.h"
#include "workers/gw_msg.h"
#include "workers/share.h"

/* --- the life of a call -------------------------------------------------------------------------------------- */

static void
finish(struct call *c)
{
	ev_timer_stop(c->a->w->loop, &c->deadline);
	c->done(c);
	call_free(c);
}

static void
missing(struct call *c, const char *id)
{
	json_t *v;
	size_t i;

	json_array_foreach(c->missing, i, v)
		if (strcmp(json_string_value(v), id) == 0)
			return;
	(void)json_array_append_new(c->missing, json_string(id));
}

static void
give_up(struct call *c, uint32_t k)
{
	missing(c, k == ASK_ROOT ? "bmrd" : c->a->peer[k].id);
	c->nwaits -= c->waits[k];
	c->waits[k] = 0;
}

static void
on_deadline(struct ev_loop *loop, ev_timer *t, int events)
{
	struct call *c = t->data;

	(void)loop, (void)events;
	c->late = true;
	for (uint32_t k = 0; k <= PEERS; k++)
		if (c->waits[k] > 0)
			give_up(c, k);
	finish(c);
}

struct call *
call_new(struct admin *a, struct http_req *req, void (*done)(struct call *))
{
	struct call *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return (NULL);
	c->a = a;
	c->req = req;
	c->id = ++a->next_id;
	c->done = done;
	c->rows = json_array();
	c->backends = json_array();
	c->certificates = json_array();
	c->nodes = json_array();
	c->missing = json_array();
	ev_timer_init(&c->deadline, on_deadline, CALL_MS / 1000., 0.);
	c->deadline.data = c;
	TAILQ_INSERT_TAIL(&a->calls, c, link);
	return (c);
}

void
call_free(struct call *c)
{
	if (c == NULL)
		return;
	ev_timer_stop(c->a->w->loop, &c->deadline);
	TAILQ_REMOVE(&c->a->calls, c, link);
	json_decref(c->rows);
	json_decref(c->backends);
	json_decref(c->certificates);
	json_decref(c->nodes);
	json_decref(c->missing);
	explicit_bzero(c->password, sizeof(c->password));
	free(c);
}

void
call_ready(struct call *c)
{
	if (c->nwaits == 0) {
		finish(c);
		return;
	}
	ev_now_update(c->a->w->loop);	/* the deadline counts from now, not from the start of the turn */
	ev_timer_start(c->a->w->loop, &c->deadline);
}

void
calls_end(struct admin *a)
{
	struct call *c;

	while ((c = TAILQ_FIRST(&a->calls)) != NULL) {
		for (uint32_t k = 0; k <= PEERS; k++)
			if (c->waits[k] > 0)
				give_up(c, k);
		finish(c);
	}
}

static struct call *
find(struct admin *a, uint64_t id, uint32_t k)
{
	struct call *c;

	TAILQ_FOREACH(c, &a->calls, link)
		if (c->id == id)
			return (c->waits[k] > 0 ? c : NULL);
	return (NULL);
}

/* One answer is complete. The call may be gone after it. */
static void
ended(struct call *c, uint32_t k, uint32_t code, struct bytes why)
{
	if (c->code == 0)
		c->code = code;
	if (why.n > 0)
		bytes_text(why, c->why, sizeof(c->why));
	c->answered++;
	c->good += code == 0;
	c->waits[k]--;
	if (--c->nwaits == 0)
		finish(c);
}

/* --- questions ------------------------------------------------------------------------------------------------ */

static void
asked(struct call *c, uint32_t k)
{
	c->waits[k]++;
	c->nwaits++;
}

static void
query(struct call *c, const char *id, uint32_t what, struct bytes tail)
{
	struct msg_query m = { .id = c->id, .what = what };

	for (uint32_t k = 0; k < PEERS; k++) {
		struct peer *p = &c->a->peer[k];

		if (strcmp(p->id, id) != 0 || p->chan.fd == -1)
			continue;
		if (msg_send_query(&p->chan, &m, tail, NULL) == -1)
			break;
		asked(c, k);
		return;
	}
	missing(c, id);
}

/* The listeners of every protocol: of that many shares. */
static void
ask_shares(struct call *c, uint32_t shares, uint32_t what, struct bytes tail)
{
	const struct conf *conf = c->a->conf;
	char base[64], id[64];

	for (uint32_t i = 0; i < conf->nservice; i++) {
		bool asked_it = false;

		for (uint32_t k = 0; k < i; k++)
			asked_it = asked_it || strcmp(conf->service[k].protocol, conf->service[i].protocol) == 0;
		if (asked_it)
			continue;
		snprintf(base, sizeof(base), "%s/listener", conf->service[i].protocol);
		for (uint32_t k = 0; k < shares; k++) {
			share_id(id, sizeof(id), base, k);
			query(c, id, what, tail);
		}
	}
}

void
call_listeners(struct call *c, uint32_t what, struct bytes tail)
{
	ask_shares(c, c->a->conf->shares, what, tail);
}

void
call_protocols(struct call *c, uint32_t what, struct bytes tail)
{
	ask_shares(c, 1, what, tail);
}

void
call_balancer(struct call *c, uint32_t what, struct bytes tail)
{
	query(c, "balancer", what, tail);
}

void
call_tls(struct call *c, uint32_t what)
{
	query(c, "tls", what, bytes("", 0));
}

void
call_tree(struct call *c)
{
	struct msg_asktree m = { .id = c->id };

	if (msg_send_asktree(&c->a->w->root, &m, bytes("", 0), NULL) == -1)
		missing(c, "bmrd");
	else
		asked(c, ASK_ROOT);
}

void
call_reload(struct call *c)
{
	struct msg_ctl m = { .id = c->id, .deed = 2 };

	if (msg_send_ctl(&c->a->w->root, &m, bytes("", 0), NULL) == -1)
		missing(c, "bmrd");
	else
		asked(c, ASK_ROOT);
}

/* --- answers of listeners and balancer ----------------------------------------------------------------------- */

static uint32_t
place(const struct peer *p)
{
	return ((uint32_t)(p - p->a->peer));
}

static int
on_row(void *self, struct chan *ch, const struct msg_row *m, struct bytes tail, int fd[])
{
	struct peer *p = self;
	struct call *c = find(p->a, m->id, place(p));
	json_t *row;

	(void)ch, (void)fd;
	if (c == NULL)
		return (0);
	row = json_loadb((const char *)tail.p, tail.n, 0, NULL);
	if (!json_is_object(row)) {
		json_decref(row);
		return (-1);
	}
	c->octets += tail.n;
	if (c->octets > CALL_OCTETS) {
		missing(c, p->id);
		json_decref(row);
		return (0);
	}
	(void)json_array_append_new(p->role == R_BALANCER ? c->backends : p->role == R_TLS ? c->certificates : c->rows, row);
	return (0);
}

static int
on_end(void *self, struct chan *ch, const struct msg_end *m, struct bytes tail, int fd[])
{
	struct peer *p = self;
	struct call *c = find(p->a, m->id, place(p));

	(void)ch, (void)fd;
	if (c != NULL)
		ended(c, place(p), m->code, tail);
	return (0);
}

static const struct gw_inbox from_peer = { .row = on_row, .end = on_end };

static int
on_peer_message(void *self, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&from_peer, self, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
drop_calls(struct admin *a, uint32_t k)
{
	struct call *c, *next;

	for (c = TAILQ_FIRST(&a->calls); c != NULL; c = next) {
		next = TAILQ_NEXT(c, link);
		if (c->waits[k] == 0)
			continue;
		give_up(c, k);
		if (c->nwaits == 0)
			finish(c);
	}
}

static void
on_peer_gone(void *self, struct chan *c, const char *why)
{
	struct peer *p = self;

	(void)why;
	chan_close(c);
	drop_calls(p->a, place(p));
	for (uint32_t k = 0; k < PEERS; k++)
		if (p->a->peer[k].chan.fd != -1)
			return;
	if (p->a->w->root.fd == -1)
		worker_end(p->a->w, 0);		/* another bmrd has taken over */
}

static void
on_peer_bad(void *self, struct chan *c, const char *why)
{
	struct peer *p = self;

	worker_badpeer(p->a->w, p->id, p->generation);
	on_peer_gone(p, c, why);
}

void
calls_peer(struct worker *w, uint8_t role, const char *id, uint64_t generation, int fd)
{
	struct admin *a = w->self;
	struct peer *p = NULL;

	for (uint32_t k = 0; k < PEERS && p == NULL; k++)
		if (strcmp(a->peer[k].id, id) == 0)
			p = &a->peer[k];
	for (uint32_t k = 0; k < PEERS && p == NULL; k++)
		if (a->peer[k].chan.fd == -1)
			p = &a->peer[k];
	if (p == NULL || (role != R_LISTENER && role != R_BALANCER && role != R_TLS)) {
		close(fd);
		return;
	}
	if (p->chan.fd != -1)
		on_peer_gone(p, &p->chan, "replaced");
	p->a = a;
	p->role = role;
	p->generation = generation;
	snprintf(p->id, sizeof(p->id), "%s", id);
	p->chan = (struct chan){ .me = R_ADMIN, .peer = role, .name = p->id, .self = p, .read = on_peer_message,
	    .gone = on_peer_gone, .bad = on_peer_bad };
	chan_open(&p->chan, w->loop, fd);
}

/* --- answers of bmrd ------------------------------------------------------------------------------------------ */

static json_t *
node(const struct msg_node *m, const char *id)
{
	static const char *const restart[] = { [PERMANENT] = "permanent", [TRANSIENT] = "transient",
		[TEMPORARY] = "temporary" };
	static const char *const strategy[] = { [ONE_FOR_ONE] = "one_for_one", [ONE_FOR_ALL] = "one_for_all",
		[REST_FOR_ONE] = "rest_for_one" };
	uint64_t rss = 0, pss = 0;
	json_t *n;

	if (m->pid != 0)
		memory_of((pid_t)m->pid, &rss, &pss);
	n = json_pack("{s:s, s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "id", id, "depth", (int)m->depth,
	    "type", m->type == 1 ? "supervisor" : "worker", "state", sup_state_name(m->state),
	    "pid", (json_int_t)m->pid, "generation", (json_int_t)m->generation, "uptime_ms", (json_int_t)m->since_ms,
	    "restarts", (json_int_t)m->restarts, "rss_kb", (json_int_t)(rss != 0 ? rss : m->rss_kb),
	    "pss_kb", (json_int_t)(pss != 0 ? pss : m->pss_kb));
	if (n == NULL)
		return (NULL);
	if (m->depth > 0 && m->restart <= TEMPORARY)
		(void)json_object_set_new(n, "restart", json_string(restart[m->restart]));
	if (m->type == 1 && m->strategy <= REST_FOR_ONE) {
		(void)json_object_set_new(n, "strategy", json_string(strategy[m->strategy]));
		(void)json_object_set_new(n, "intensity", json_integer(m->intensity));
		(void)json_object_set_new(n, "period_s", json_integer(m->period));
		(void)json_object_set_new(n, "restarts_in_period", json_integer(m->in_period));
	}
	return (n);
}

static int
on_node(void *self, struct chan *ch, const struct msg_node *m, struct bytes tail, int fd[])
{
	struct worker *w = self;
	struct call *c = find(w->self, m->id, ASK_ROOT);
	char id[64];

	(void)ch, (void)fd;
	if (c == NULL)
		return (0);
	if (m->last) {
		ended(c, ASK_ROOT, 0, bytes("", 0));
		return (0);
	}
	bytes_text(tail, id, sizeof(id));
	(void)json_array_append_new(c->nodes, node(m, id));
	return (0);
}

static int
on_ctled(void *self, struct chan *ch, const struct msg_ctled *m, struct bytes tail, int fd[])
{
	struct worker *w = self;
	struct call *c = find(w->self, m->id, ASK_ROOT);

	(void)ch, (void)fd;
	if (c != NULL)
		ended(c, ASK_ROOT, m->code, tail);
	return (0);
}

static const struct sup_inbox from_root = { .node = on_node, .ctled = on_ctled };

int
calls_from_root(void *self, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (sup_dispatch(&from_root, self, c, h, body, fd, nfds) == 1 ? 0 : -1);
}
