/*
 * root - see root.h
 *
 * Invariant: after root_start nothing here ends the process. Deeds are done once a turn, in the order decided.
 */
#include <sys/wait.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/clock.h"
#include "supervisor/log.h"
#include "supervisor/report.h"
#include "supervisor/root.h"
#include "supervisor/sup_msg.h"

static void deeds(struct root *);

static const struct spec *
spec(const struct root *r, uint32_t i)
{
	return (&r->sup.tree.spec[i]);
}

static uint32_t
index_of(const struct root_child *c)
{
	return ((uint32_t)(c - c->root->child));
}

/* --- channels to the children --------------------------------------------------------------------------------- */

static bool
wants_peer(const struct root *r, uint32_t a, uint32_t b)
{
	for (int k = 0; k < SPEC_PEERS && spec(r, a)->peers[k][0] != '\0'; k++)
		if (strcmp(spec(r, a)->peers[k], spec(r, b)->id) == 0)
			return (true);
	return (false);
}

static void
introduce(struct root *r, uint32_t a, uint32_t b)
{
	struct msg_peer to_a = { .generation = r->child[b].generation, .role = spec(r, b)->role };
	struct msg_peer to_b = { .generation = r->child[a].generation, .role = spec(r, a)->role };
	int fd[2];

	if (chan_pair(fd) == -1) {
		log_warn("socketpair");
		return;
	}
	(void)msg_send_peer(&r->child[a].chan, &to_a, bytes_str(spec(r, b)->id), &fd[0]);
	(void)msg_send_peer(&r->child[b].chan, &to_b, bytes_str(spec(r, a)->id), &fd[1]);
	close(fd[0]);
	close(fd[1]);
}

static bool
listens(const struct root *r, uint32_t i, const struct root_socket *s)
{
	return (strcmp(spec(r, i)->listens, s->group) == 0 || strcmp(spec(r, i)->listens, "*") == 0);
}

void
root_give_socket(struct root *r, const struct root_socket *s)
{
	struct msg_listen m = { .index = s->index };

	for (uint32_t i = 0; i < r->sup.tree.n; i++)
		if (r->child[i].ready && listens(r, i, s))
			(void)msg_send_listen(&r->child[i].chan, &m, bytes_str(s->service), &s->fd);
}

static int
on_ready(void *self, struct chan *c, const struct msg_ready *m, struct bytes tail, int fd[])
{
	struct root_child *ch = self;
	struct root *r = ch->root;
	uint32_t i = index_of(ch);

	(void)c, (void)tail, (void)fd;
	if (ch->ready || m->generation != ch->generation)
		return (-1);
	ch->ready = true;
	for (uint32_t k = 0; k < r->nsock; k++)
		if (listens(r, i, &r->sock[k])) {
			struct msg_listen l = { .index = r->sock[k].index };

			(void)msg_send_listen(&ch->chan, &l, bytes_str(r->sock[k].service), &r->sock[k].fd);
		}
	for (uint32_t k = 0; k < r->sup.tree.n; k++)
		if (k != i && r->child[k].ready && (wants_peer(r, i, k) || wants_peer(r, k, i)))
			introduce(r, i, k);
	sup_event(&r->sup, i, ON_READY, ch->generation, false, clock_ms());
	deeds(r);
	return (0);
}

static int
on_badpeer(void *self, struct chan *c, const struct msg_badpeer *m, struct bytes tail, int fd[])
{
	struct root_child *ch = self;
	struct root *r = ch->root;
	char id[SPEC_ID_MAX];
	int32_t i;

	(void)c, (void)fd;
	bytes_text(tail, id, sizeof(id));
	i = sup_find(&r->sup, id);
	if (i >= 0 && r->child[i].generation == m->generation && r->child[i].pid > 0) {
		log_warnx("%s sent nonsense to %s: killed", id, spec(r, index_of(ch))->id);
		child_signal(r->child[i].pid, SIGKILL);
	}
	return (0);
}

static int
on_renewme(void *self, struct chan *c, const struct msg_renewme *m, struct bytes tail, int fd[])
{
	struct root_child *ch = self;

	(void)c, (void)tail, (void)fd;
	sup_renew(&ch->root->sup, index_of(ch), m->generation, clock_ms());
	deeds(ch->root);
	return (0);
}

static uint64_t
rss_kb(pid_t pid)
{
	char path[48], text[128];
	unsigned long all, res = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	if ((f = fopen(path, "re")) == NULL)
		return (0);
	if (fgets(text, sizeof(text), f) == NULL || sscanf(text, "%lu %lu", &all, &res) != 2)
		res = 0;
	fclose(f);
	return (res * (unsigned long)sysconf(_SC_PAGESIZE) / 1024);
}

static void
send_node(struct root *r, struct chan *c, uint64_t id, uint32_t i, uint64_t now)
{
	const struct spec *sp = spec(r, i);
	const struct sup_child *s = &r->sup.child[i];
	struct msg_node m = { .id = id, .pid = (uint32_t)(r->child[i].pid > 0 ? r->child[i].pid : 0),
	    .state = s->state, .restart = sp->restart, .type = sp->supervisor, .restarts = s->restarts,
	    .since_ms = s->since_ms != 0 ? now - s->since_ms : 0, .strategy = sp->strategy,
	    .intensity = sp->intensity, .period = sp->period_s, .generation = s->generation };

	for (int32_t p = sp->parent; p >= 0; p = spec(r, (uint32_t)p)->parent)
		m.depth++;
	m.depth++;
	if (m.pid != 0)
		m.rss_kb = rss_kb(r->child[i].pid);
	if (sp->supervisor)
		m.in_period = intensity_count(&s->intensity, sp->period_s, now / 1000);
	(void)msg_send_node(c, &m, bytes_str(sp->id), NULL);
}

static int
on_asktree(void *self, struct chan *c, const struct msg_asktree *m, struct bytes tail, int fd[])
{
	struct root_child *ch = self;
	struct root *r = ch->root;
	uint64_t now = clock_ms();
	struct msg_node n = { .id = m->id, .pid = (uint32_t)getpid(), .state = SUP_UP, .type = 1,
	    .strategy = r->sup.tree.strategy, .intensity = r->sup.tree.intensity, .period = r->sup.tree.period_s,
	    .rss_kb = rss_kb(getpid()), .since_ms = now - r->sup.root.since_ms,
	    .in_period = intensity_count(&r->sup.root.intensity, r->sup.tree.period_s, now / 1000) };

	(void)tail, (void)fd;
	(void)msg_send_node(c, &n, bytes_str("bmrd"), NULL);
	for (uint32_t i = 0; i < r->sup.tree.n; i++)
		send_node(r, c, m->id, i, now);
	n = (struct msg_node){ .id = m->id, .last = 1 };
	(void)msg_send_node(c, &n, bytes("", 0), NULL);
	return (0);
}

static int
on_ctl(void *self, struct chan *c, const struct msg_ctl *m, struct bytes tail, int fd[])
{
	struct root_child *ch = self;
	struct msg_ctled done = { .id = m->id, .code = 64 };
	char id[SPEC_ID_MAX], why[512] = "not understood";

	(void)fd;
	bytes_text(tail, id, sizeof(id));
	if (ch->root->ctl != NULL)
		done.code = (uint32_t)ch->root->ctl(ch->root, m->deed, id, why, sizeof(why));
	(void)msg_send_ctled(c, &done, bytes_str(done.code == 0 ? "" : why), NULL);
	deeds(ch->root);
	return (0);
}

static const struct sup_inbox inbox = { .ready = on_ready, .badpeer = on_badpeer, .asktree = on_asktree,
	.ctl = on_ctl, .renewme = on_renewme };

static int
on_message(void *self, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (sup_dispatch(&inbox, self, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_gone(void *self, struct chan *c, const char *why)
{
	(void)self, (void)why;
	chan_close(c);		/* its exit status will say how */
}

static void
on_bad(void *self, struct chan *c, const char *why)
{
	struct root_child *ch = self;

	log_warnx("%s: %s: killed", spec(ch->root, index_of(ch))->id, why);
	child_signal(ch->pid, SIGKILL);
	chan_close(c);
}

/* --- deeds --------------------------------------------------------------------------------------------------- */

static void
spawn(struct root *r, uint32_t i, uint64_t generation)
{
	struct root_child *c = &r->child[i];
	int fd;

	chan_close(&c->chan);
	c->ready = false;
	c->generation = generation;
	c->pid = child_spawn(spec(r, i), &r->env, generation, &fd);
	if (c->pid == -1) {
		report_spawn(&r->sup, i, errno);
		/* in the next turn: deeds are being done */
		r->sup.child[i].due_ms = clock_ms();
		return;
	}
	c->chan = (struct chan){ .me = 0, .peer = spec(r, i)->role, .name = spec(r, i)->id, .self = c,
	    .read = on_message, .gone = on_gone, .bad = on_bad, .queue_max = 2048 };
	chan_open(&c->chan, r->loop, fd);
}

static void
kill_child(struct root *r, uint32_t i, uint64_t generation)
{
	if (r->child[i].pid > 0)
		child_signal(r->child[i].pid, SIGKILL);
	else		/* never came to life: this is how its end is told */
		sup_event(&r->sup, i, ON_EXIT, generation, true, clock_ms());
}

static void
ask(struct root *r, uint32_t i, uint64_t generation)
{
	struct msg_stop m = { .deadline_ms = (uint64_t)(spec(r, i)->shutdown_ms > 0 ? spec(r, i)->shutdown_ms : 0),
	    .flags = sup_again(&r->sup, i) ? STOP_AGAIN : 0 };

	if (r->child[i].pid <= 0)	/* never came to life, nobody will be reaped */
		sup_event(&r->sup, i, ON_EXIT, generation, false, clock_ms());
	else if (r->child[i].chan.fd == -1 || msg_send_stop(&r->child[i].chan, &m, bytes("", 0), NULL) == -1)
		child_signal(r->child[i].pid, SIGTERM);
}

static int last_status[SPEC_MAX];
static pid_t last_pid[SPEC_MAX];

static void
deeds(struct root *r)
{
	static bool busy;
	uint64_t next, now = clock_ms();

	if (busy)
		return;
	busy = true;
	for (uint32_t k = 0; k < r->sup.ndeed; k++) {
		const struct sup_deed d = r->sup.deed[k];
		pid_t pid = d.child < SPEC_MAX ? r->child[d.child].pid : 0;

		switch (d.act) {
		case DO_SPAWN:
			spawn(r, d.child, d.generation);
			break;
		case DO_ASK:
			ask(r, d.child, d.generation);
			break;
		case DO_TERM:
			child_signal(pid, SIGTERM);
			break;
		case DO_KILL:
			kill_child(r, d.child, d.generation);
			break;
		case DO_REPORT:
			report(&r->sup, &d, d.why == SAY_STARTED ? pid : last_pid[d.child], last_status[d.child]);
			break;
		case DO_DONE:
			if (r->down != NULL)
				r->down(r);
			break;
		}
	}
	r->sup.ndeed = 0;
	busy = false;
	next = sup_tick(&r->sup, now);
	ev_timer_stop(r->loop, &r->timer);
	if (r->sup.ndeed > 0)
		ev_timer_set(&r->timer, 0., 0.);
	else if (next != 0)
		ev_timer_set(&r->timer, next > now ? (double)(next - now) / 1000. : 0.01, 0.);
	else
		return;
	ev_timer_start(r->loop, &r->timer);
}

static void
on_timer(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop, (void)events;
	deeds(t->data);
}

static void
reaped(struct root *r, pid_t pid, int status)
{
	for (uint32_t i = 0; i < r->sup.tree.n; i++) {
		struct root_child *c = &r->child[i];

		if (c->pid != pid)
			continue;
		c->pid = 0;
		c->ready = false;
		chan_close(&c->chan);
		last_status[i] = status;
		last_pid[i] = pid;
		sup_event(&r->sup, i, ON_EXIT, c->generation, !(WIFEXITED(status) && WEXITSTATUS(status) == 0), clock_ms());
		return;
	}
	report_unknown(pid, status);
}

static void
on_chld(struct ev_loop *loop, ev_signal *s, int events)
{
	struct root *r = s->data;
	int status;
	pid_t pid;

	(void)loop, (void)events;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		reaped(r, pid, status);
	deeds(r);
}

const char *
root_init(struct root *r, struct ev_loop *loop, const struct tree *t)
{
	const char *wrong;

	memset(r->child, 0, sizeof(r->child));
	r->loop = loop;
	if ((wrong = sup_init(&r->sup, t)) != NULL)
		return (wrong);
	for (uint32_t i = 0; i < SPEC_MAX; i++) {
		r->child[i].root = r;
		r->child[i].chan.fd = -1;
		last_status[i] = -1;
	}
	ev_timer_init(&r->timer, on_timer, 0., 0.);
	r->timer.data = r;
	ev_signal_init(&r->chld, on_chld, SIGCHLD);
	r->chld.data = r;
	ev_signal_start(loop, &r->chld);
	return (NULL);
}

void
root_start(struct root *r)
{
	r->sup.root.since_ms = clock_ms();
	sup_start(&r->sup, clock_ms());
	deeds(r);
}

void
root_stop(struct root *r)
{
	sup_stop(&r->sup, clock_ms());
	deeds(r);
}

void
root_config(struct root *r, int fd, uint64_t version)
{
	struct msg_config m = { .version = version };

	for (uint32_t i = 0; i < r->sup.tree.n; i++)
		if (r->child[i].ready)
			(void)msg_send_config(&r->child[i].chan, &m, bytes("", 0), &fd);
	close(r->env.conf_fd);
	r->env.conf_fd = fd;
}
