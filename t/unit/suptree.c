/*
 * suptree - the supervisor with real processes: bmrd's own loop over trees of scripted children that die in every way
 *
 * The children are this program again (t/lib/scripted.h), and write into one journal what becomes of them. Time is asserted nowhere;
 * each wait has a limit.
 */
/* LINK: supervisor/root.c supervisor/sup.c supervisor/spec.c supervisor/intensity.c supervisor/child.c supervisor/report.c supervisor/worker.c supervisor/chan.c supervisor/msg.c supervisor/sup_msg.c supervisor/buf.c supervisor/log.c supervisor/sandbox.c */
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/clock.h"
#include "supervisor/log.h"
#include "supervisor/root.h"
#include "t/lib/scripted.h"
#include "t/lib/tap.h"

enum { LIMIT = 60000 };

/* --- the world ------------------------------------------------------------------------------------------------- */

static struct root root;
static struct ev_loop *loop;
static struct tree tree;
static char journal[TEXT], logged[TEXT];
static size_t mark, log_mark;
static bool down;
static uint64_t began;
static char directory[512], image[64];
static int files;

static int
count_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return (n);
}

/* What the children wrote since the mark. */
static const char *
seen(void)
{
	(void)all_of(root.env.conf_fd, journal, sizeof(journal));
	return (journal + mark);
}

/* How often that was said in the log since the mark. */
static uint32_t
said(const char *what)
{
	(void)all_of(LOG_FD, logged, sizeof(logged));
	return (times(logged + log_mark, what));
}

static void
mark_here(void)
{
	mark = all_of(root.env.conf_fd, journal, sizeof(journal));
	log_mark = all_of(LOG_FD, logged, sizeof(logged));
}

static bool
is(const char *got, const char *want, const char *name)
{
	if (ok(strcmp(got, want) == 0, "%s", name))
		return (true);
	printf("# wanted:\n");
	for (const char *p = want; *p != '\0'; p += strcspn(p, "\n") + 1)
		printf("#   %.*s\n", (int)strcspn(p, "\n"), p);
	printf("# got:\n");
	for (const char *p = got; *p != '\0'; p += strcspn(p, "\n") + 1)
		printf("#   %.*s\n", (int)strcspn(p, "\n"), p);
	return (false);
}

static struct spec *
add(const char *id, int32_t parent, enum restart re, const char *script)
{
	struct spec *s = &tree.spec[tree.n++];

	*s = (struct spec){ .parent = parent, .restart = re, .role = 1, .shutdown_ms = 30000, .start_ms = 30000 };
	snprintf(s->id, sizeof(s->id), "%s", id);
	snprintf(s->image, sizeof(s->image), "%s", image);
	snprintf(s->args[0], sizeof(s->args[0]), "%s", script);
	return (s);
}

/* Its index. All that happens in a case lies within the period. */
static int32_t
add_sup(const char *id, int32_t parent, enum restart re, enum strategy st, uint32_t intensity)
{
	struct spec *s = add(id, parent, re, "");

	s->supervisor = true;
	s->strategy = st;
	s->intensity = intensity;
	s->period_s = 3600;
	s->shutdown_ms = SHUTDOWN_INFINITY;
	return ((int32_t)tree.n - 1);
}

static void
is_down(struct root *r)
{
	(void)r;
	down = true;
}

static void
fresh(void)
{
	tree = (struct tree){ .strategy = ONE_FOR_ONE, .intensity = 3, .period_s = 3600 };
	files = count_files();
}

static int
a_file(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd == -1 || fcntl(fd, F_SETFL, O_APPEND) == -1)
		abort();
	return (fd);
}

static void
begin(void)
{
	const char *wrong;

	memset(&root, 0, sizeof(root));
	root.env = (struct child_env){ .directory = directory, .conf_fd = a_file("journal"), .keep_stderr = true };
	root.down = is_down;
	(void)!write(root.env.conf_fd, "\n", 1);
	down = false;
	if ((wrong = root_init(&root, loop, &tree)) != NULL) {
		printf("Bail out! %s\n", wrong);
		exit(1);
	}
	mark_here();
	root_start(&root);
}

/* One turn of the loop; false when the limit of this wait is over. */
static bool
turn(void)
{
	ev_run(loop, EVRUN_ONCE);
	return (clock_ms() - began < LIMIT);
}
#define until(cond) ({ \
	began = clock_ms(); \
	while (!(cond) && turn()) \
		; \
	(bool)(cond); \
})

static uint32_t
index_of(const char *id)
{
	int32_t i = sup_find(&root.sup, id);

	if (i < 0)
		abort();
	return ((uint32_t)i);
}

static pid_t pid(const char *id) { return (root.child[index_of(id)].pid); }
static enum sup_state state(const char *id) { return (root.sup.child[index_of(id)].state); }
static bool up(const char *id) { return (state(id) == SUP_UP); }

static bool
all_up(void)
{
	for (uint32_t i = 0; i < root.sup.tree.n; i++)
		if (root.sup.child[i].state != SUP_UP)
			return (false);
	return (true);
}

static void
ready(void)
{
	if (!until(all_up()))
		ok(false, "all come up");
	mark_here();
}

static bool
decided(const char *id, pid_t old)
{
	return (pid(id) != old && (state(id) == SUP_UP || state(id) == SUP_DOWN));
}

/* Sends a signal to it; its pid. */
static pid_t
hit(const char *id, int sig)
{
	pid_t p = pid(id);

	if (p <= 0 || kill(p, sig) == -1)
		(void)ok(false, "%s lives", id);
	return (p);
}

/* Ends it, and waits until it is known what becomes of it. */
static void
dies(const char *id, int sig)
{
	pid_t old = hit(id, sig);

	if (!until(decided(id, old)))
		(void)ok(false, "%s: nothing becomes of it", id);
}

/* Ends a world: nothing may be left of it. */
static void
stop(const char *name)
{
	if (!down)
		root_stop(&root);
	(void)until(down);
	ok(down && waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "%s: all is down, no process is left", name);
	mark = 0;
	ok(times(seen(), " twice\n") == 0, "%s: nobody was started while it lived", name);
	ev_signal_stop(loop, &root.chld);
	ev_timer_stop(loop, &root.timer);
	close(root.env.conf_fd);
	ok(count_files() == files, "%s: no descriptor is left", name);
}

/* --- the cases ------------------------------------------------------------------------------------------------- */

static void
order(void)
{
	int32_t g;

	fresh();
	(void)add("first", -1, PERMANENT, "up");
	g = add_sup("g", -1, PERMANENT, ONE_FOR_ONE, 5);
	(void)add("a", g, PERMANENT, "fail,fail,up");
	(void)add("b", g, PERMANENT, "up");
	(void)add("last", -1, PERMANENT, "up");
	begin();
	(void)until(all_up());
	is(seen(), "first started\na started\na started\na started\nb started\nlast started\n",
	    "each is started when the one before it is READY");
	ok(said("start_error, child a ") == 2 && root.sup.child[index_of("a")].restarts == 2, "a start that fails is reported and tried again");
	mark_here();
	root_stop(&root);
	(void)until(down);
	is(seen(), "last asked\nb asked\na asked\nfirst asked\n", "and stopped in reverse");
	ok(said("report") == 0, "of which there is nothing to report");
	stop("order");
}

static void
restart_types(void)
{
	static const struct { int sig; const char *how; bool abnormal; } t[] = {
		{ SIGUSR1, "reason exit 0", false }, { SIGUSR2, "reason exit 3", true }, { SIGKILL, "reason signal 9 ", true },
		{ SIGSEGV, "reason signal 11 ", true }, { SIGABRT, "reason signal 6 ", true },
	};
	static const char *const id[] = { "permanent", "transient", "temporary" };

	for (size_t k = 0; k < sizeof(t) / sizeof(t[0]); k++) {
		int32_t g;

		fresh();
		g = add_sup("g", -1, PERMANENT, ONE_FOR_ONE, 5);
		for (int re = PERMANENT; re <= TEMPORARY; re++)
			(void)add(id[re], g, (enum restart)re, "up");
		begin();
		ready();
		for (int re = PERMANENT; re <= TEMPORARY; re++) {
			bool again = re == PERMANENT || (re == TRANSIENT && t[k].abnormal);

			dies(id[re], t[k].sig);
			ok(up(id[re]) == again, "%s, %s: %s", id[re], t[k].how, again ? "started again" : "not started again");
		}
		is(seen(), t[k].abnormal ? "permanent started\ntransient started\n" : "permanent started\n", "and no other");
		ok(said(t[k].how) == (t[k].abnormal ? 3 : 1) && said("child_terminated") == said(t[k].how),
		    "%s: reported, if it is to be", t[k].how);
		stop(t[k].how);
	}
}

static void
strategies(void)
{
#define ALL	"a started\nb started\nc started\n"
	static const struct { enum strategy st; const char *dies, *then, *name; } t[] = {
		{ ONE_FOR_ONE, "a", "a started\n", "one_for_one, a dies" },
		{ ONE_FOR_ONE, "b", "b started\n", "one_for_one, b dies" },
		{ ONE_FOR_ONE, "c", "c started\n", "one_for_one, c dies" },
		{ ONE_FOR_ALL, "a", "c asked\nb asked\n" ALL, "one_for_all, a dies" },
		{ ONE_FOR_ALL, "b", "c asked\na asked\n" ALL, "one_for_all, b dies" },
		{ ONE_FOR_ALL, "c", "b asked\na asked\n" ALL, "one_for_all, c dies" },
		{ REST_FOR_ONE, "a", "c asked\nb asked\n" ALL, "rest_for_one, a dies" },
		{ REST_FOR_ONE, "b", "c asked\nb started\nc started\n", "rest_for_one, b dies" },
		{ REST_FOR_ONE, "c", "c started\n", "rest_for_one, c dies" },
	};

	for (size_t k = 0; k < sizeof(t) / sizeof(t[0]); k++) {
		pid_t old;
		int32_t g;

		fresh();
		g = add_sup("g", -1, PERMANENT, t[k].st, 5);
		for (int c = 'a'; c <= 'c'; c++)
			(void)add((char[]){ (char)c, '\0' }, g, PERMANENT, "up");
		(void)add("other", -1, PERMANENT, "up");
		begin();
		ready();
		old = hit(t[k].dies, SIGKILL);
		(void)until(pid(t[k].dies) != old && all_up());
		is(seen(), t[k].then, t[k].name);
		ok(said("report") == 1 && intensity_count(&root.sup.child[0].intensity, 3600, clock_ms() / 1000) == 1,
		    "%s: one death, counted once", t[k].name);
		stop(t[k].name);
	}
}

/* Of siblings that go along: a temporary one is lost, a transient one that had ended is there again. */
static void
siblings(void)
{
	int32_t g;
	pid_t old;

	fresh();
	g = add_sup("g", -1, PERMANENT, ONE_FOR_ALL, 5);
	(void)add("a", g, TRANSIENT, "up");
	(void)add("b", g, TEMPORARY, "up");
	(void)add("c", g, PERMANENT, "up");
	begin();
	ready();
	dies("a", SIGUSR1);
	old = hit("c", SIGKILL);
	(void)until(pid("c") != old && up("c"));
	is(seen(), "b asked\na started\nc started\n", "a temporary sibling is lost, a transient one that had ended starts again");
	stop("siblings");
}

static void
late(void)
{
	int32_t g;

	fresh();
	g = add_sup("g", -1, PERMANENT, ONE_FOR_ONE, 5);
	add("a", g, PERMANENT, "mute,up")->start_ms = 300;
	(void)add("b", g, PERMANENT, "up");
	begin();
	(void)until(times(seen(), "a started\n") == 1);
	root.sup.tree.spec[1].start_ms = 30000;		/* enough for the next time, however busy the machine */
	(void)until(all_up());
	ok(all_up() && times(seen(), "b started") == 1, "one that never says READY is killed, and is READY the next time");
	ok(said("start_error, child a ") == 1 && said("reason signal 9 ") == 1, "which is reported as a failed start");
	stop("never READY");
}

static void
stops(void)
{
	int32_t g;

	fresh();
	g = add_sup("g", -1, PERMANENT, ONE_FOR_ONE, 5);
	add("deaf", g, PERMANENT, "deaf")->shutdown_ms = 200;
	add("term", g, PERMANENT, "term")->shutdown_ms = 200;
	add("brutal", g, PERMANENT, "up")->shutdown_ms = SHUTDOWN_KILL;
	add("frozen", g, PERMANENT, "up")->shutdown_ms = 200;
	add("dirty", g, PERMANENT, "dirty");
	add("slow", g, PERMANENT, "slow")->shutdown_ms = SHUTDOWN_INFINITY;
	begin();
	ready();
	(void)hit("frozen", SIGSTOP);
	root_stop(&root);
	(void)until(times(seen(), "slow asked\n") == 1);
	ok(up("dirty") && !down, "one that takes its time is waited for");
	(void)hit("slow", SIGUSR1);
	(void)until(down);
	ok(times(seen(), "dirty asked\n") == 1 && said("shutdown_error, child dirty ") == 1 && said("reason exit 3") == 1,
	    "one that ends with 3 when it is told to stop: reported");
	ok(times(seen(), "brutal asked\n") == 0 && said("shutdown_error, child brutal ") == 0, "one that is to be killed at once is");
	ok(said("child frozen ") == 0, "a stopped one is woken and ends");
	ok(times(seen(), "term asked\n") == 1 && said("child term ") == 0, "one that does not hear gets SIGTERM");
	ok(times(seen(), "deaf asked\n") == 1 && said("shutdown_error, child deaf ") == 1 && said("reason signal 9 ") == 1,
	    "one that hears neither is killed: reported");
	stop("stops");
}

/* While c is being stopped for b's sake, a dies too, which the restart was to be of anyway. */
static void
meanwhile(void)
{
	int32_t g;
	pid_t old;

	fresh();
	g = add_sup("g", -1, PERMANENT, ONE_FOR_ALL, 1);
	(void)add("a", g, PERMANENT, "up");
	(void)add("b", g, PERMANENT, "up");
	(void)add("c", g, PERMANENT, "slow,up");
	begin();
	ready();
	(void)hit("b", SIGKILL);
	(void)until(times(seen(), "c asked\n") == 1);
	(void)hit("a", SIGKILL);
	(void)until(pid("a") == 0);
	(void)hit("c", SIGUSR1);
	(void)until(times(seen(), "c started\n") == 1 && all_up());
	is(seen(), "c asked\n" ALL, "one dies while another is being stopped: all start again, in order");
	ok(said("reached_max") == 0 && intensity_count(&root.sup.child[0].intensity, 3600, clock_ms() / 1000) == 1,
	    "which is one restart");
	ok(said("shutdown_error, child a ") == 1, "reported as an end in the course of it");
	stop("meanwhile");

	fresh();
	(void)add("a", -1, PERMANENT, "up");
	g = add_sup("g", -1, PERMANENT, ONE_FOR_ONE, 5);
	(void)add("p", g, PERMANENT, "up");
	(void)add("b", -1, PERMANENT, "slow");
	begin();
	ready();
	root_stop(&root);
	(void)until(times(seen(), "b asked\n") == 1);
	(void)hit("a", SIGSEGV);
	old = hit("p", SIGKILL);
	(void)until(pid("a") == 0 && pid("p") != old);
	(void)hit("b", SIGUSR1);
	(void)until(down);
	is(seen(), "b asked\n", "others die while all stop: they are not started again");
	stop("dies in a stop");
}

/* A supervisor at its limit: its children stop in reverse, and what is above it acts by the restart type. */
static void
escalation(void)
{
	static const struct { enum restart re; const char *then, *name; } t[] = {
		{ PERMANENT, "b started\nc asked\na asked\na started\n" ALL, "a permanent supervisor at its limit" },
		{ TRANSIENT, "b started\nc asked\na asked\n", "a transient supervisor at its limit" },
		{ TEMPORARY, "b started\nc asked\na asked\n", "a temporary supervisor at its limit" },
	};

	for (size_t k = 0; k < 3; k++) {
		int32_t g;
		pid_t before, b;

		fresh();
		(void)add("before", -1, PERMANENT, "up");
		g = add_sup("g", -1, t[k].re, ONE_FOR_ONE, 1);
		(void)add("a", g, PERMANENT, "up,fail,up");
		(void)add("b", g, PERMANENT, "up");
		(void)add("c", g, PERMANENT, "up");
		begin();
		ready();
		before = pid("before");
		dies("b", SIGKILL);
		b = hit("b", SIGKILL);
		(void)until(pid("b") != b && (t[k].re == PERMANENT ? all_up() : state("g") == SUP_DOWN));
		is(seen(), t[k].then, t[k].name);
		ok(said("reached_max_restart_intensity") == 1 && pid("before") == before, "%s: reported, and nobody else is touched", t[k].name);
		ok(said("child_terminated, child g ") == (t[k].re == PERMANENT), "%s: judged by its restart type", t[k].name);
		stop(t[k].name);
	}
}

/* Supervisors three deep: a death far below stops what is behind it on each level that it comes to. */
static void
nested(void)
{
	int32_t top, sub;
	pid_t old;

	fresh();
	top = add_sup("top", -1, PERMANENT, REST_FOR_ONE, 1);
	(void)add("x", top, PERMANENT, "up");
	sub = add_sup("sub", top, PERMANENT, ONE_FOR_ALL, 0);
	(void)add("p", sub, PERMANENT, "up");
	(void)add("q", sub, PERMANENT, "up");
	(void)add("y", top, PERMANENT, "up");
	(void)add("other", -1, PERMANENT, "up");
	begin();
	(void)until(all_up());
	is(seen(), "x started\np started\nq started\ny started\nother started\n", "a supervisor below a supervisor starts in its turn");
	mark_here();
	old = hit("p", SIGKILL);
	(void)until(pid("p") != old && all_up());
	is(seen(), "q asked\ny asked\np started\nq started\ny started\n", "its end takes along what its parent's strategy says");
	mark_here();
	old = hit("x", SIGKILL);
	(void)until(pid("x") != old && all_up());
	is(seen(), "y asked\nq asked\np asked\nx started\np started\nq started\ny started\n",
	    "the second is too much for its parent, which ends and is started by bmrd");
	ok(said("reached_max_restart_intensity") == 1 && said("supervisor bmrd, context child_terminated, child top ") == 1,
	    "as is reported");
	stop("nested");
}

/* bmrd itself never ends of its limit: what dies too often waits, the others go on. */
static void
back_off(void)
{
	pid_t other;

	fresh();
	(void)add("sick", -1, PERMANENT, "up");
	(void)add("other", -1, PERMANENT, "up");
	begin();
	ready();
	other = pid("other");
	for (int i = 0; i < 3; i++)
		dies("sick", SIGKILL);
	(void)hit("sick", SIGKILL);
	(void)until(state("sick") == SUP_WAITING);
	ok(state("sick") == SUP_WAITING && said("backing off") == 1, "at bmrd's limit a child waits");
	(void)until(up("sick"));
	ok(up("sick") && pid("other") == other, "and is started again, while the others go on");
	stop("back-off");
}

static void
no_image(void)
{
	fresh();
	tree.intensity = 1;
	(void)add("other", -1, PERMANENT, "up");
	strcpy(add("none", -1, PERMANENT, "up")->image, "no-such-image");
	tree.spec[1].shutdown_ms = SHUTDOWN_INFINITY;
	begin();
	(void)until(up("other") && state("none") == SUP_WAITING);
	ok(state("none") == SUP_WAITING && said("cannot be started: No such file") == 2, "an image that is not there: tried, then waited for");
	stop("no image");

	fresh();
	(void)add("none", -1, PERMANENT, "up");
	strcpy(tree.spec[0].image, "no-such-image");
	tree.spec[0].shutdown_ms = SHUTDOWN_INFINITY;
	begin();
	stop("no image, and told to stop at once");
}

/* Deaths at random in a tree of all strategies. When they end, all are up. */
static void
random_deaths(unsigned seed, int deaths)
{
	static const int sig[] = { SIGUSR1, SIGUSR2, SIGKILL, SIGSEGV, SIGABRT, SIGSTOP };
	static const char *const id[] = { "a", "b", "p", "q", "x", "y", "z" };
	int32_t g, top;

	fresh();
	tree.intensity = INTENSITY_MAX;
	tree.period_s = 1;
	(void)add("a", -1, PERMANENT, "up");
	top = add_sup("g", -1, PERMANENT, REST_FOR_ONE, 3);
	(void)add("b", top, PERMANENT, "up,fail,up");
	g = add_sup("h", top, PERMANENT, ONE_FOR_ALL, 2);
	(void)add("p", g, PERMANENT, "up");
	(void)add("q", g, PERMANENT, "up,up,fail,up");
	g = add_sup("i", top, PERMANENT, ONE_FOR_ONE, 2);
	(void)add("x", g, PERMANENT, "up");
	(void)add("y", g, PERMANENT, "up");
	(void)add("z", -1, PERMANENT, "up");
	for (uint32_t i = 0; i < tree.n; i++) {
		tree.spec[i].period_s = 2;
		if (!tree.spec[i].supervisor)
			tree.spec[i].shutdown_ms = 200;
	}
	begin();
	srand(seed);
	for (int i = 0; i < deaths; i++) {
		const char *who = id[(unsigned)rand() % (sizeof(id) / sizeof(id[0]))];

		if (pid(who) > 0)
			kill(pid(who), sig[(unsigned)rand() % (sizeof(sig) / sizeof(sig[0]))]);
		for (int n = rand() % 4; n > 0; n--)
			(void)turn();
	}
	for (size_t i = 0; i < sizeof(id) / sizeof(id[0]); i++)		/* who is stopped has no death coming */
		if (pid(id[i]) > 0)
			kill(pid(id[i]), SIGCONT);
	(void)until(all_up());
	ok(all_up(), "%d deaths at random (%u), and all come up", deaths, seed);
	stop("random deaths");
}

static void
beat(struct ev_loop *l, ev_timer *t, int events)
{
	(void)l, (void)t, (void)events;
}

static void
beat_signal(struct ev_loop *l, ev_signal *s, int events)
{
	(void)l, (void)s, (void)events;
}

int
main(int argc, char **argv)
{
	const struct rlimit none = { 0, 0 };
	ssize_t n = readlink("/proc/self/exe", directory, sizeof(directory) - 1);
	ev_timer timer;
	ev_signal some;
	int fd;

	if (argc > 3)
		return (scripted_main(argc, argv));
	if (n <= 0)
		return (1);
	directory[n] = '\0';
	snprintf(image, sizeof(image), "%s", strrchr(directory, '/') + 1);
	*strrchr(directory, '/') = '\0';
	setrlimit(RLIMIT_CORE, &none);
	setenv("ASAN_OPTIONS", "handle_segv=0:detect_leaks=0", 1);	/* for the children: to die of it, and at once */
	fd = a_file("log");
	if (fd != LOG_FD && (dup2(fd, LOG_FD) == -1 || close(fd) == -1))
		return (1);
	log_open("bmrd", false);
	loop = ev_loop_new(EVFLAG_AUTO);
	ev_timer_init(&timer, beat, 0.02, 0.02);
	ev_timer_start(loop, &timer);
	ev_signal_init(&some, beat_signal, SIGCHLD);
	ev_signal_start(loop, &some);	/* what the loop needs for signals it opens once */
	ev_signal_stop(loop, &some);
	order();
	restart_types();
	strategies();
	siblings();
	late();
	stops();
	meanwhile();
	escalation();
	nested();
	back_off();
	no_image();
	for (unsigned seed = 1; seed <= 3; seed++)
		random_deaths(seed, 60);
	ev_timer_stop(loop, &timer);
	ev_loop_destroy(loop);
	return (done_testing());
}
