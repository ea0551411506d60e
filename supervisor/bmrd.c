/*
 * bmrd - root supervisor of the gateway
 *
 * Parses the configuration, opens the listening sockets once, starts the tree and keeps it. Parses nothing from the
 * network and does nothing per session. After the start no fault ends it.
 */
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <bsd/stdlib.h>
#include <bsd/unistd.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "supervisor/clock.h"
#include "supervisor/inherit.h"
#include "supervisor/log.h"
#include "supervisor/root.h"
#include "workers/conf.h"
#include "workers/tree.h"

#ifndef BMR_CONF
#define BMR_CONF "/etc/bmr/bmr.conf"
#endif

#define LOG_AGAIN	2.

static struct root root;
static struct conf conf;
static const char *conf_file = BMR_CONF;
static bool foreground;
static char *home;		/* where relative paths begin: a daemon stands in / */
static ev_signal sig_hup, sig_term, sig_int;
static ev_timer log_timer;
static int lock_fd = -1;

static void
say_stderr(void *arg, const char *line)
{
	(void)arg;
	fprintf(stderr, "%s\n", line);
}

static void
say_log(void *arg, const char *line)
{
	char *first = arg;

	log_errx("%s", line);
	if (first != NULL && first[0] == '\0')
		snprintf(first, 512, "%s", line);
}

static void
notify(const char *text)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd;

	if (path == NULL || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(a.sun_path))
		return;
	memcpy(a.sun_path, path, strlen(path));
	if (path[0] == '@')
		a.sun_path[0] = '\0';
	if ((fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) == -1)
		return;
	(void)!sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&a,
	    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path)));
	close(fd);
}

/* --- listening sockets ----------------------------------------------------------------------------------------- */

static int
open_socket(const struct conf_listen *l, char *why, size_t size)
{
	static const int on = 1;
	struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV,
	    .ai_socktype = SOCK_STREAM }, *ai;
	const char *host = strcmp(l->address, "*") == 0 ? "::" : l->address;
	char port[8];
	int fd, off = strcmp(l->address, "*") != 0, e;

	snprintf(port, sizeof(port), "%u", l->port);
	if ((e = getaddrinfo(host, port, &hints, &ai)) != 0) {
		snprintf(why, size, "%s", gai_strerror(e));
		return (-1);
	}
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd == -1)
		goto err1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));	/* accepted sockets inherit both */
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) == -1 || listen(fd, 4096) == -1)
		goto err2;
	freeaddrinfo(ai);
	return (fd);
err2:
	e = errno;
	close(fd);
	errno = e;
err1:
	e = errno;
	snprintf(why, size, "%s", strerror(e));
	freeaddrinfo(ai);
	errno = e;
	return (-1);
}

static void
socket_key(const struct conf_listen *l, char *key, size_t size)
{
	snprintf(key, size, "[%s]:%u", l->address, l->port);
}

/* What a bmrd that was killed has left, and its children keep. */
static struct { char key[96]; int fd; } left[ROOT_SOCKETS];
static uint32_t nleft;

static void
on_inherited(void *arg, const char *key, int fd)
{
	(void)arg;
	if (nleft == ROOT_SOCKETS) {
		close(fd);
		return;
	}
	snprintf(left[nleft].key, sizeof(left[0].key), "%s", key);
	left[nleft++].fd = fd;
}

static int
inherited(const char *key)
{
	for (uint32_t i = 0; i < nleft; i++)
		if (strcmp(left[i].key, key) == 0 && left[i].fd != -1) {
			int fd = left[i].fd;

			left[i].fd = -1;
			return (fd);
		}
	return (-1);
}

static void
inherit(const char *run_dir)
{
	char path[CONF_PATH + 32];

	snprintf(path, sizeof(path), "%s/" INHERIT_SOCKET, run_dir);
	(void)inherit_sockets(path, on_inherited, NULL);
}

static void
drop_inherited(void)
{
	for (uint32_t i = 0; i < nleft; i++)
		if (left[i].fd != -1)
			close(left[i].fd);
	nleft = 0;
}

static struct root_socket *
find_socket(const char *key)
{
	for (uint32_t i = 0; i < root.nsock; i++)
		if (strcmp(root.sock[i].key, key) == 0)
			return (&root.sock[i]);
	return (NULL);
}

/* Whose a socket is in c. False: nobody's. */
static bool
whose(const struct conf *c, struct root_socket *s)
{
	char key[96];

	for (uint32_t i = 0; i < c->nservice; i++)
		for (uint32_t k = 0; k < c->service[i].nlisten; k++) {
			socket_key(&c->service[i].listen[k], key, sizeof(key));
			if (strcmp(key, s->key) != 0)
				continue;
			s->index = k;
			snprintf(s->group, sizeof(s->group), "%s", c->service[i].protocol);
			snprintf(s->service, sizeof(s->service), "%s", c->service[i].name);
			return (true);
		}
	return (false);
}

/* Opens what c names and is not open yet. 0, or a code of sysexits.h after one line. */
static int
open_sockets(const struct conf *c, void (*say)(void *, const char *), void *arg)
{
	char key[96], why[128], line[640];

	for (uint32_t i = 0; i < c->nservice; i++)
		for (uint32_t k = 0; k < c->service[i].nlisten; k++) {
			const struct conf_listen *l = &c->service[i].listen[k];
			struct root_socket *s;
			int fd;

			socket_key(l, key, sizeof(key));
			if (find_socket(key) != NULL)
				continue;
			if (root.nsock == ROOT_SOCKETS || ((fd = inherited(key)) == -1 &&
			    (fd = open_socket(l, why, sizeof(why))) == -1)) {
				snprintf(line, sizeof(line), "%s:%u: cannot listen on %s port %u: %s", c->service[i].file, l->line,
				    l->address, l->port, root.nsock == ROOT_SOCKETS ? "too many sockets" : why);
				say(arg, line);
				return (errno == EACCES || errno == EPERM ? EX_NOPERM : EX_UNAVAILABLE);
			}
			s = &root.sock[root.nsock++];
			*s = (struct root_socket){ .fd = fd };
			memcpy(s->key, key, sizeof(s->key));
			(void)whose(c, s);
		}
	return (0);
}

/* After a reload: what is new, or another service's now, is given out, and what is nobody's is closed. */
static void
place_sockets(const struct conf *c, uint32_t before)
{
	for (uint32_t i = root.nsock; i-- > 0;) {
		struct root_socket *s = &root.sock[i], was = *s;

		if (!whose(c, s)) {
			close(s->fd);
			*s = root.sock[--root.nsock];
		} else if (i >= before || strcmp(was.group, s->group) != 0 || strcmp(was.service, s->service) != 0)
			root_give_socket(&root, s);
	}
}

static void
close_sockets(uint32_t from)
{
	while (root.nsock > from)
		close(root.sock[--root.nsock].fd);
}

/* --- reload, stop, control --------------------------------------------------------------------------------------- */

/* What processes that start later must have in common with those that run: a change takes effect with a restart. */
static void
keep_global(struct conf *next)
{
	const struct { const char *key; const void *was; void *now; size_t n; } k[] = {
		{ "state-dir", conf.state_dir, next->state_dir, sizeof(conf.state_dir) },
		{ "run-dir", conf.run_dir, next->run_dir, sizeof(conf.run_dir) },
		{ "release-dir", conf.release_dir, next->release_dir, sizeof(conf.release_dir) },
		{ "socket", conf.socket, next->socket, sizeof(conf.socket) },
		{ "user", conf.user, next->user, sizeof(conf.user) },
		{ "group", conf.group, next->group, sizeof(conf.group) },
	};

	for (size_t i = 0; i < sizeof(k) / sizeof(k[0]); i++) {
		if (memcmp(k[i].was, k[i].now, k[i].n) != 0)
			log_warnx("%s: %s: what it is now takes effect with a restart", conf.file, k[i].key);
		memcpy(k[i].now, k[i].was, k[i].n);
	}
	memcpy(next->empty_root, conf.empty_root, sizeof(conf.empty_root));
	next->drop = conf.drop;
	next->uid = conf.uid;
	next->gid = conf.gid;
}

/* A bad file changes nothing. */
static int
reload(char *why, size_t size)
{
	static struct conf next;
	uint32_t before = root.nsock;
	char line[CONF_PATH + 80];
	struct tree t;
	int code = 0, fd;

	(void)size;
	why[0] = '\0';
	notify("RELOADING=1");
	if (!foreground && home != NULL && chdir(home) == -1)
		log_warn("%s: relative paths begin in /", home);
	if (conf_parse(conf_file, &next, say_log, why, &code) == -1 || (code = conf_check_tls(&next, say_log, why)) != 0)
		goto out;
	if (tree_build(&next, &t) == -1 || !tree_serves(&root.sup.tree, &t)) {
		snprintf(line, sizeof(line), "%s: a new protocol, or another number of listeners, needs a restart", next.file);
		say_log(why, line);
		code = EX_CONFIG;
		goto out;
	}
	if ((code = open_sockets(&next, say_log, why)) != 0)
		goto out;
	keep_global(&next);
	next.version = conf.version + 1;
	next.secret = conf.secret;
	if ((fd = conf_seal(&next)) == -1) {
		log_warn("configuration image");
		code = EX_OSERR;
		goto out;
	}
	conf = next;
	root_config(&root, fd, conf.version);
	place_sockets(&conf, before);
	log_notice("configuration version %llu in use", (unsigned long long)conf.version);
out:
	if (code != 0) {
		close_sockets(before);
		log_errx("configuration not changed");
	}
	if (!foreground)
		(void)!chdir("/");
	notify("READY=1");
	return (code);
}

static void
on_hup(struct ev_loop *loop, ev_signal *s, int events)
{
	char why[512];

	(void)loop, (void)s, (void)events;
	(void)reload(why, sizeof(why));
}

static void
on_term(struct ev_loop *loop, ev_signal *s, int events)
{
	(void)loop, (void)s, (void)events;
	if (root.sup.stopping)
		return;
	log_notice("stopping");
	notify("STOPPING=1");
	root_stop(&root);
}

static void
on_log_timer(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop, (void)t, (void)events;
	log_again();
}

static void
on_down(struct root *r)
{
	ev_break(r->loop, EVBREAK_ALL);
}

static int
on_ctl(struct root *r, uint32_t what, const char *child, char *why, size_t size)
{
	int32_t i;

	switch (what) {
	case 1:
		if ((i = sup_find(&r->sup, child)) == -1 || sup_restart(&r->sup, (uint32_t)i, clock_ms()) == -1) {
			snprintf(why, size, "no worker %s", child);
			return (EX_DATAERR);
		}
		return (0);
	case 2:
		return (reload(why, size));
	default:
		snprintf(why, size, "unknown deed");
		return (EX_USAGE);
	}
}

/* --- start ----------------------------------------------------------------------------------------------------- */

static int
make_dir(const char *path, mode_t mode)
{
	struct stat st;

	if (mkdir(path, mode) == 0)
		return (0);
	if (errno == EEXIST && stat(path, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			return (0);
		errno = ENOTDIR;
	}
	fprintf(stderr, "%s: %s: %s\n", conf.file, path, strerror(errno));
	return (EX_CANTCREAT);
}

/* The file lies there: who tries the gateway out has all in one directory. */
static bool
beside_file(const char *path)
{
	const char *slash = strrchr(conf.file, '/');
	size_t n = slash == NULL ? 0 : (size_t)(slash - conf.file);

	return (n > 0 && strlen(path) == n && memcmp(path, conf.file, n) == 0 && strcmp(path, "/etc") != 0);
}

/* Whether nothing lies there but what the gateway makes: /run or /var/lib is not to be given away. */
static bool
only_ours(const char *path)
{
	static const char *const names[] = { ".", "..", "bmrd.pid", "empty", "drained", "drained.new", "crashes", "lost+found" };
	struct dirent *e;
	bool ours = true;
	DIR *d;

	if ((d = opendir(path)) == NULL)
		return (false);
	while (ours && (e = readdir(d)) != NULL) {
		size_t n = strlen(e->d_name), i = 0;

		while (i < sizeof(names) / sizeof(names[0]) && strcmp(names[i], e->d_name) != 0)
			i++;
		ours = i < sizeof(names) / sizeof(names[0]) || (n > 5 && strcmp(e->d_name + n - 5, ".sock") == 0);
	}
	closedir(d);
	return (ours);
}

/* As root the workers run as conf.user; both directories are theirs. */
static int
own_dir(const char *path)
{
	struct stat st;

	if (geteuid() != 0 || !conf.drop || (stat(path, &st) == 0 && st.st_uid == conf.uid && st.st_gid == conf.gid))
		return (0);
	if (!only_ours(path) && !beside_file(path)) {
		fprintf(stderr, "%s: %s: has files of others: expected a directory for the gateway alone\n", conf.file, path);
		return (EX_CONFIG);
	}
	if (chown(path, conf.uid, conf.gid) == 0)
		return (0);
	fprintf(stderr, "%s: %s: chown: %s\n", conf.file, path, strerror(errno));
	return (EX_NOPERM);
}

static int
lock_run_dir(void)
{
	char path[CONF_PATH + 16], pid[24];

	snprintf(path, sizeof(path), "%s/bmrd.pid", conf.run_dir);
	lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);	/* the directory is not root's */
	if (lock_fd == -1) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return (EX_CANTCREAT);
	}
	if (flock(lock_fd, LOCK_EX | LOCK_NB) == -1) {
		fprintf(stderr, "%s: another bmrd runs in %s\n", path, conf.run_dir);
		return (EX_TEMPFAIL);
	}
	snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	if (ftruncate(lock_fd, 0) == -1 || write(lock_fd, pid, strlen(pid)) == -1)
		return (EX_IOERR);
	return (0);
}

/* A listener and the fdstore hold up to four descriptors for a session (NOTES): as many as the system lets us have, for all children. */
static void
raise_limits(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &r);
	}
}

/* Before anything is begun: without the programs no process can be started, and nobody would see why. */
static int
find_images(const struct tree *t)
{
	char path[sizeof(conf.release_dir) + sizeof(t->spec[0].image) + 1];

	for (uint32_t i = 0; i < t->n; i++) {
		snprintf(path, sizeof(path), "%s/%s", conf.release_dir, t->spec[i].image);
		if (!t->spec[i].supervisor && access(path, X_OK) == -1) {
			fprintf(stderr, "%s: %s: %s: expected a program of this release\n", conf.file, path, strerror(errno));
			return (EX_UNAVAILABLE);
		}
	}
	return (0);
}

static int
run(bool verbose)
{
	static struct tree tree;
	const char *wrong;
	int code;

	if (tree_build(&conf, &tree) == -1) {
		fprintf(stderr, "%s: too many protocols\n", conf.file);
		return (EX_CONFIG);
	}
	if ((code = find_images(&tree)) != 0 || (code = make_dir(conf.run_dir, 0755)) != 0 ||
	    (code = make_dir(conf.state_dir, 0700)) != 0 || (code = own_dir(conf.state_dir)) != 0 ||
	    (code = own_dir(conf.run_dir)) != 0 || (code = lock_run_dir()) != 0 ||
	    (inherit(conf.run_dir), code = open_sockets(&conf, say_stderr, NULL)) != 0)
		return (code);
	drop_inherited();
	raise_limits();
	home = getcwd(NULL, 0);
	if (!foreground && daemon(0, 0) == -1)
		return (EX_OSERR);
	if (!foreground && lock_fd != -1) {
		char pid[24];

		snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
		(void)!pwrite(lock_fd, pid, strlen(pid), 0);
	}
	log_setup(foreground);
	log_open("bmrd", verbose);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	signal(SIGPIPE, SIG_IGN);
	conf.version = 1;
	arc4random_buf(&conf.secret, sizeof(conf.secret));
	root.owner = &conf;
	root.down = on_down;
	root.ctl = on_ctl;
	if ((wrong = root_init(&root, ev_loop_new(EVFLAG_AUTO), &tree)) != NULL)
		fatal(EX_SOFTWARE, "child specifications: %s", wrong);
	root.env = (struct child_env){ .directory = conf.release_dir, .conf_fd = conf_seal(&conf),
	    .keep_stderr = foreground, .verbose = verbose };
	if (root.env.conf_fd == -1)
		fatal(EX_OSERR, "configuration image: %s", strerror(errno));
	ev_signal_init(&sig_hup, on_hup, SIGHUP);
	ev_signal_start(root.loop, &sig_hup);
	ev_signal_init(&sig_term, on_term, SIGTERM);
	ev_signal_start(root.loop, &sig_term);
	ev_signal_init(&sig_int, on_term, SIGINT);
	ev_signal_start(root.loop, &sig_int);
	if (!foreground) {
		ev_timer_init(&log_timer, on_log_timer, LOG_AGAIN, LOG_AGAIN);
		ev_timer_start(root.loop, &log_timer);
	}
	setproctitle("-bmrd: %s", conf.file);
	root_start(&root);
	notify("READY=1");
	ev_run(root.loop, 0);
	log_notice("stopped");
	return (0);
}

static int
usage(void)
{
	fprintf(stderr, "usage: bmrd [-Ftv] [-f file]\n");
	return (EX_USAGE);
}

int
main(int argc, char **argv)
{
	bool test = false, verbose = false;
	int c, code = EX_CONFIG, null;

	/* descriptors 3 to 6 are the children's fixed places: never let one of ours lie there */
	while ((null = open("/dev/null", O_RDWR | O_CLOEXEC)) != -1 && null < 7)
		;
	while ((c = getopt(argc, argv, "Ff:tv")) != -1)
		switch (c) {
		case 'F':
			foreground = true;
			break;
		case 'f':
			/* daemon(3) changes directory, and the title overwrites argv */
			if ((conf_file = realpath(optarg, NULL)) == NULL)
				conf_file = strdup(optarg);
			break;
		case 't':
			test = true;
			break;
		case 'v':
			verbose = true;
			break;
		default:
			return (usage());
		}
	if (optind != argc)
		return (usage());
	if (conf_parse(conf_file, &conf, say_stderr, NULL, &code) == -1 || (code = conf_check_tls(&conf, say_stderr, NULL)) != 0)
		return (code);
	if (test) {
		printf("configuration ok\n");
		return (0);
	}
	setproctitle_init(argc, argv, environ);
	return (run(verbose));
}
