/*
 * tls - the keeper of certificates and private keys: reads them, forks the tls processes (tls.h)
 *
 * IN     STOP PEER CONFIG from bmrd;  TLSWANT from listeners;  QUERY from admin
 * OUT    READY;  TLSCHILD TLSNEWS to listeners;  ROW END to admin
 * HOLDS  certificates and private keys, a channel to each listener and to admin; no socket of a client or backend, ever
 * LOSES  when it dies: nothing that exists; the tls processes serve on, its successor reads the files again
 *
 * It is the one process besides bmrd that stays who it was started as, since keys are readable for root alone and are to
 * be read again when they are renewed. It parses nothing from the network. Its children drop everything before they hear
 * the first octet. New certificates concern new connections: those of before stay with the process that they have.
 */
#include <sys/wait.h>
#include <bsd/stdlib.h>
#include <bsd/unistd.h>
#include <openssl/ssl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "supervisor/worker.h"
#include "workers/rows.h"
#include "workers/share.h"
#include "workers/tls.h"

enum { PEERS = LISTENERS_MAX, WANT_MAX = 256, WATCH_S = 43200, DAY = 86400, STOP_S = 3 };

struct keeper;
struct peer { struct keeper *k; struct chan chan; char id[64]; };	/* a listener */
struct keeper {
	struct worker	*w;
	const struct conf *conf;
	struct tls_set	*set;
	uint64_t	 serial;
	uint32_t	 children;
	bool		 stopping;
	struct peer	 peer[PEERS];
	struct chan	 admin;
	ev_child	 reap;
	ev_timer	 tick, watch, last;
};
static struct keeper self;

/* --- certificates ------------------------------------------------------------------------------------------------------ */

static void
say_fault(const char *line)
{
	log_errx("%s", line);
}

static void
say_certificate(const struct tls_cert *c, time_t now, time_t warn_s)
{
	char fault[400], whose[64] = "";
	bool expired = c->not_after < now;

	if (c->first_end > 1)
		snprintf(whose, sizeof(whose), "%d of the chain of ", c->first_end);
	if (expired && c->first_end == 1)
		log_errx("certificate %s has expired", c->conf->name);
	else if (!expired && c->not_after < now + warn_s)
		log_warnx("certificate %s%s expires in %lld days", whose, c->conf->name, (long long)(c->not_after - now) / DAY);
	if (c->not_before > now)
		log_warnx("certificate %s is not valid yet", c->conf->name);
	if (tls_cert_fault(c, now, fault, sizeof(fault))[0] == '\0')
		return;
	if (expired)
		log_errx("certificate %s: %s", c->conf->name, fault);
	else
		log_warnx("certificate %s: %s", c->conf->name, fault);
}

static void
say_certificates(const struct keeper *k)
{
	time_t now = time(NULL);

	for (uint32_t i = 0; k->set != NULL && i < k->set->n; i++)
		if (k->set->cert[i].leaf != NULL)
			say_certificate(&k->set->cert[i], now, (time_t)k->conf->expiry_s);
}

/* Reads everything again. What cannot be used leaves all as it was. 0, or -1. */
static int
load(struct keeper *k, const struct conf *conf, bool first)
{
	int faults = 0;
	struct tls_set *set = tls_load(conf, say_fault, &faults);
	struct msg_tlsnews m = { .version = conf->version };

	if (set == NULL || (faults > 0 && !first) || tickets_start(conf->ticket_s) == -1) {
		tls_free(set);
		log_errx("certificates not read again: those of before stay in use");
		return (-1);
	}
	tls_free(k->set);
	k->set = set;
	k->conf = conf;
	m.serial = ++k->serial;
	say_certificates(k);
	for (int i = 0; i < PEERS; i++)
		if (k->peer[i].chan.fd != -1)
			(void)msg_send_tlsnews(&k->peer[i].chan, &m, bytes("", 0), NULL);
	return (0);
}

static void
on_config(struct worker *w, const void *image, size_t size)
{
	const struct conf *conf = conf_image(image, size);

	if (conf != NULL)
		(void)load(w->self, conf, false);
}

/* --- tls processes -------------------------------------------------------------------------------------------------------- */

_Noreturn static void
child(struct keeper *k, const char *listener, int fd)
{
	struct sandbox s = k->w->sandbox;
	sigset_t none;

	sigemptyset(&none);
	signal(SIGTERM, SIG_DFL);
	signal(SIGCHLD, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(fd, SUP_FD) == -1)
		_exit(EX_OSERR);
	closefrom(LOG_FD + 1);
	setproctitle("-bmr: tls process of %s", listener);
	s.drop = k->conf->drop;
	s.uid = k->conf->uid;
	s.gid = k->conf->gid;
	s.empty_root = k->conf->empty_root;
	s.calls = work_calls;
	s.ncalls = work_ncalls;
	if (sandbox_enter(&s) == -1)
		_exit(EX_NOPERM);
	tls_work(k->set, SUP_FD);
}

static bool
fork_one(struct peer *p)
{
	struct keeper *k = p->k;
	struct msg_tlschild m = { .serial = k->serial, .version = k->conf->version };
	int fd[2];
	pid_t pid;

	if (chan_pair(fd) == -1) {
		log_warn("socketpair");
		return (false);
	}
	if ((pid = fork()) == 0)
		child(k, p->id, fd[1]);
	close(fd[1]);
	if (pid == -1)
		log_warn("fork");
	else {
		k->children++;
		m.pid = (uint32_t)pid;
		(void)msg_send_tlschild(&p->chan, &m, bytes("", 0), &fd[0]);
	}
	close(fd[0]);
	return (pid != -1);
}

static int
on_want(void *self_, struct chan *c, const struct msg_tlswant *m, struct bytes tail, int fd[])
{
	struct peer *p = self_;

	(void)c, (void)tail, (void)fd;
	if (m->n > WANT_MAX || p->k->set == NULL)
		return (-1);
	for (uint32_t i = 0; i < m->n && fork_one(p); i++)
		;
	return (0);
}

static void
on_child(struct ev_loop *loop, ev_child *c, int events)
{
	struct keeper *k = c->data;

	(void)loop, (void)events;
	if (--k->children == 0 && k->stopping)
		worker_end(k->w, 0);
	if (k->stopping || (WIFEXITED(c->rstatus) && WEXITSTATUS(c->rstatus) == 0))
		return;
	if (WIFSIGNALED(c->rstatus))
		log_warnx("tls process %d died of signal %d: its connections are lost", c->rpid, WTERMSIG(c->rstatus));
	else
		log_warnx("tls process %d exited with %d", c->rpid, WEXITSTATUS(c->rstatus));
}

/* --- admin ------------------------------------------------------------------------------------------------------------------ */

static void
when(struct row *r, const char *key, time_t t)
{
	char text[32] = "";
	struct tm tm;

	if (t != 0 && gmtime_r(&t, &tm) != NULL)
		(void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	row_str(r, key, text);
}

static void
add_name(void *arg, const char *name)
{
	struct out *o = arg;

	out_fmt(o, "%s%s", o->len > 0 ? " " : "", name);
}

static void
row_cert(const struct keeper *k, uint32_t i, struct row *r)
{
	const struct tls_cert *c = &k->set->cert[i];
	char names[1024], services[512], fault[400];
	struct out n = { (uint8_t *)names, 0, sizeof(names) - 1, false }, s = { (uint8_t *)services, 0, sizeof(services) - 1, false };
	time_t now = time(NULL);

	if (c->leaf != NULL)
		tls_cert_names(c->leaf, add_name, &n);
	for (uint32_t v = 0; v < k->conf->nservice; v++)
		if (conf_has_certificate(&k->conf->service[v].tls, i))
			add_name(&s, k->conf->service[v].name);
	names[n.len] = services[s.len] = '\0';
	row_begin(r);
	row_str(r, "certificate", c->conf->name);
	row_str(r, "names", names);
	row_str(r, "key", c->key == NULL ? "" : EVP_PKEY_is_a(c->key, "RSA") == 1 ? "RSA" : EVP_PKEY_get0_type_name(c->key));
	row_num(r, "bits", c->key == NULL ? 0 : (uint64_t)EVP_PKEY_get_bits(c->key));
	when(r, "not_before", c->not_before);
	when(r, "not_after", c->not_after);
	row_num(r, "days_left", c->not_after > now ? (uint64_t)(c->not_after - now) / DAY : 0);
	row_str(r, "state", c->key == NULL ? "unusable" : c->not_after < now ? "expired" : c->not_before > now ? "not yet valid" :
	    c->not_after < now + (time_t)k->conf->expiry_s ? "expires soon" : "good");
	row_str(r, "fault", tls_cert_fault(c, now, fault, sizeof(fault)));
	when(r, "ocsp_until", c->ocsp_len > 0 ? c->ocsp_until : 0);
	row_str(r, "services", services);
	row_str(r, "file", c->conf->chain);
	row_end(r);
}

static int
on_query(void *self_, struct chan *c, const struct msg_query *m, struct bytes tail, int fd[])
{
	struct keeper *k = self_;
	struct msg_row row = { .id = m->id };
	struct msg_end end = { .id = m->id };
	struct row r;

	(void)tail, (void)fd;
	if (m->what == QUERY_TLS_RELOAD && load(k, k->conf, false) == -1)
		end.code = EX_DATAERR;
	for (uint32_t i = 0; k->set != NULL && i < k->set->n && (m->what == QUERY_TLS || m->what == QUERY_TLS_RELOAD); i++) {
		row_cert(k, i, &r);
		(void)msg_send_row(c, &row, row_bytes(&r), NULL);
	}
	(void)msg_send_end(c, &end, bytes_str(end.code != 0 ? "certificates not read again: see the log" : ""), NULL);
	return (0);
}

/* --- peers ------------------------------------------------------------------------------------------------------------------ */

static const struct gw_inbox from_listener = { .tlswant = on_want }, from_admin = { .query = on_query };

static int
on_listener_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&from_listener, self_, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static int
on_admin_message(void *self_, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&from_admin, self_, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_gone(void *self_, struct chan *c, const char *why)
{
	(void)self_, (void)why;
	chan_close(c);		/* bmrd brings the successor's */
	for (int i = 0; i < PEERS; i++)
		if (self.peer[i].chan.fd != -1)
			return;
	if (self.w->root.fd == -1)
		worker_end(self.w, 0);	/* or another bmrd has taken over */
}

static void
on_peer(struct worker *w, uint8_t role, const char *id, uint64_t generation, int fd)
{
	struct keeper *k = w->self;
	struct msg_tlsnews m = { .serial = k->serial, .version = k->conf->version };
	struct peer *p = NULL;

	(void)generation;
	if (role == R_ADMIN) {
		chan_close(&k->admin);
		k->admin = (struct chan){ .me = R_TLS, .peer = role, .name = "admin", .self = k, .read = on_admin_message,
		    .gone = on_gone };
		chan_open(&k->admin, w->loop, fd);
		return;
	}
	for (int i = 0; i < PEERS && role == R_LISTENER && p == NULL; i++)
		if (k->peer[i].chan.fd == -1)
			p = &k->peer[i];
	if (p == NULL) {
		close(fd);
		return;
	}
	p->k = k;
	snprintf(p->id, sizeof(p->id), "%s", id);
	p->chan = (struct chan){ .me = R_TLS, .peer = role, .name = "listener", .self = p, .read = on_listener_message,
	    .gone = on_gone, .queue_max = WANT_MAX * 2 };
	chan_open(&p->chan, w->loop, fd);
	(void)msg_send_tlsnews(&p->chan, &m, bytes("", 0), NULL);	/* those of a keeper before have other keys of tickets */
}

static void
on_tick(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop, (void)t, (void)events;
	tickets_tick();
}

static void
on_watch(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop, (void)events;
	say_certificates(t->data);
}

static void
on_last(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop, (void)t, (void)events;
	(void)kill(0, SIGTERM);		/* those who still linger, and we */
}

/* The listeners have stopped before: what is left are last words under way. */
static void
on_stop(struct worker *w, uint64_t deadline_ms, bool again)
{
	struct keeper *k = w->self;

	(void)deadline_ms, (void)again;
	if (k->children == 0) {
		worker_end(w, 0);
		return;
	}
	if (k->stopping)
		return;
	k->stopping = true;
	ev_timer_init(&k->last, on_last, STOP_S, 0);
	ev_timer_start(w->loop, &k->last);
}

static int
start(struct worker *w, int argc, char **argv)
{
	const struct conf *conf = conf_image(w->conf, w->conf_size);
	struct keeper *k = &self;

	(void)argc, (void)argv;
	if (conf == NULL)
		return (EX_CONFIG);
	k->w = w;
	w->self = k;
	k->admin.fd = -1;
	for (int i = 0; i < PEERS; i++)
		k->peer[i].chan.fd = -1;
	k->serial = (uint64_t)time(NULL) << 20;		/* greater than any of a keeper before */
	if (load(k, conf, true) == -1)
		return (EX_OSERR);
	w->sandbox.calls = keeper_calls;
	w->sandbox.ncalls = keeper_ncalls;
	ev_child_init(&k->reap, on_child, 0, 0);
	k->reap.data = k;
	ev_child_start(w->loop, &k->reap);
	ev_timer_init(&k->tick, on_tick, 60, 60);
	ev_timer_start(w->loop, &k->tick);
	ev_timer_init(&k->watch, on_watch, WATCH_S, WATCH_S);
	k->watch.data = k;
	ev_timer_start(w->loop, &k->watch);
	return (0);
}

/* "bmr-tls -t", with the image as its descriptor 5: are all certificates as they should be? For bmrd -t and each reload. */
static void
say_stdout(const char *line)
{
	puts(line);
}

static int
check(void)
{
	static struct conf conf;
	struct tls_set *set;
	int faults = 1;

	if (pread(CONF_FD, &conf, sizeof(conf), 0) != (ssize_t)sizeof(conf) || conf_image(&conf, sizeof(conf)) == NULL)
		return (EX_USAGE);
	if ((set = tls_load(&conf, say_stdout, &faults)) == NULL)
		return (EX_OSERR);
	tls_free(set);
	return (faults > 0 ? EX_CONFIG : 0);
}

int
main(int argc, char **argv)
{
	static const struct worker_ops ops = { .role = R_TLS, .start = start, .peer = on_peer, .config = on_config,
	    .stop = on_stop };

	if (argc == 2 && strcmp(argv[1], "-t") == 0)
		return (check());
	return (worker_main(&ops, argc, argv));
}
