/*
 * conf - parses bmr.conf with libconfuse into one checked struct (conf.h)
 *
 * Only the files of conf_parse.h include <confuse.h>. Values are read as strings and checked here, so that each fault
 * names its line and what was expected. Zero in limits and times means: the behaviour's own default.
 *
 * It is parsed in a child: libconfuse ends the process when a file cannot be read, and keeps a failed include for good,
 * and bmrd must outlive every reload.
 */
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <grp.h>
#include <pwd.h>
#include <confuse.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "workers/conf_parse.h"
#include "workers/share.h"

#ifndef BMR_LIBEXEC
#define BMR_LIBEXEC "/usr/local/libexec/bmr"
#endif

static struct { void (*say)(void *, const char *); void *arg; const char *file; int faults, code; } to;

static void __attribute__((format(printf, 3, 0)))
say_fault(const char *file, unsigned int line, const char *fmt, va_list ap)
{
	char text[512], whole[800];

	vsnprintf(text, sizeof(text), fmt, ap);
	for (char *p = text; *p != '\0'; p++)
		if ((unsigned char)*p < 0x20)
			*p = '?';		/* of a value; a fault is one line */
	snprintf(whole, sizeof(whole), "%s:%u: %s", file != NULL ? text_name(file) : to.file, line, text);
	to.say(to.arg, whole);
	to.faults++;
}

void
fault(const char *file, unsigned int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say_fault(file, line, fmt, ap);
	va_end(ap);
	to.code = EX_CONFIG;
}

void
fault_as(int code, const char *file, unsigned int line, const char *fmt, ...)
{
	va_list ap;

	to.code = to.faults == 0 ? code : EX_CONFIG;
	va_start(ap, fmt);
	say_fault(file, line, fmt, ap);
	va_end(ap);
}

/* Put behind the file. libconfuse takes the end of a file for that of a section or comment: one cut short would be good. */
#define END_KEY	"end-of-file"
static const char end_text[] = "\n" END_KEY " = yes\n";

static void __attribute__((format(printf, 2, 0)))
on_error(cfg_t *cfg, const char *fmt, va_list ap)
{
	char text[400];

	vsnprintf(text, sizeof(text), fmt, ap);
	if (strstr(text, END_KEY) != NULL)
		snprintf(text, sizeof(text), "end of file: expected }");
	fault(cfg != NULL ? cfg->filename : NULL, cfg != NULL && cfg->line > 0 ? (unsigned int)cfg->line : 1, "%s", text);
}

/* --- the grammar --------------------------------------------------------------------------------------------------- */

static cfg_opt_t timeout_opts[] = { TIME("connect"), TIME("greeting"), TIME("command"), TIME("data-init"), TIME("bulk"),
	TIME("end-of-data"), TIME("login"), TIME("idle"), TIME("content"), TIME("hold"), TIME("queue"),
	TIME("unauthenticated"), TIME("hold-idle"), TIME("keep-client"), TIME("keep-backend"), TIME("login-failure"),
	TIME("park"), CFG_END() };
static cfg_opt_t limit_opts[] = { SIZE("line"), SIZE("reply"), SIZE("recipients"), SIZE("errors"), SIZE("message"),
	SIZE("spool-memory"), SIZE("journal"), SIZE("maildrop"), SIZE("sessions"), SIZE("per-address"), SIZE("queue"),
	CFG_END() };
static cfg_opt_t health_opts[] = { TIME("interval"), SIZE("fall"), SIZE("rise"), CFG_END() };
static cfg_opt_t backend_opts[] = { CFG_STR("address", NULL, CFGF_NONE), CFG_BOOL("xclient", cfg_true, CFGF_NONE),
	SIZE("max-sessions"), SIZE("weight"), CFG_BOOL("drained", cfg_false, CFGF_NONE), CONF_TLS_BACKEND, CFG_END() };
static cfg_opt_t service_opts[] = { CFG_STR("protocol", NULL, CFGF_NONE), CFG_STR_LIST("listen", "{}", CFGF_NONE),
	CFG_STR("banner", NULL, CFGF_NONE), CFG_SEC("backend", backend_opts, CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES),
	CFG_SEC("timeout", timeout_opts, CFGF_NONE), CFG_SEC("limit", limit_opts, CFGF_NONE),
	CFG_SEC("health", health_opts, CFGF_NONE), CFG_STR("in-doubt", "replay", CFGF_NONE),
	CFG_STR("bare-newline", "reject", CFGF_NONE), CFG_BOOL("auth-plaintext", cfg_false, CFGF_NONE), SIZE("warm"),
	SIZE("max-replays"), TIME("fence-delay"), CONF_TLS_SERVICE, CFG_END() };
static cfg_opt_t top_opts[] = { CFG_STR("state-dir", "/var/lib/bmr", CFGF_NONE), CFG_STR("run-dir", "/run/bmr", CFGF_NONE),
	CFG_STR("release-dir", BMR_LIBEXEC, CFGF_NONE), CFG_STR("socket", NULL, CFGF_NONE), CFG_STR("user", "", CFGF_NONE),
	CFG_STR("group", "", CFGF_NONE), CFG_STR("journal-format", "newest", CFGF_NONE), CFG_STR("listeners", NULL, CFGF_NONE),
	CFG_SEC("service", service_opts, CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES),
	CONF_TLS_TOP, CFG_FUNC("include", text_include), CFG_STR(END_KEY, NULL, CFGF_NONE), CFG_END() };

/* --- from libconfuse's tree into the struct --------------------------------------------------------------------------- */

uint32_t
num(cfg_t *c, const char *key, const struct unit *u, uint32_t dflt)
{
	const char *s = cfg_getstr(c, key);
	uint64_t n = dflt;

	if (s != NULL && number(s, u, UINT64_C(1) << 40, &n) == 0 && n > UINT32_MAX)
		n = UINT32_MAX;
	return ((uint32_t)n);
}

void
copy(cfg_t *cfg, char *dst, size_t size, const char *s, const char *what)
{
	if (strlen(s) >= size)
		fault(cfg->filename, (unsigned int)cfg->line, "%s \"%.40s...\": expected at most %zu octets", what, s, size - 1);
	snprintf(dst, size, "%s", s);
}

void
take_path(cfg_t *cfg, char *dst, const char *key)
{
	const char *s = cfg_getstr(cfg, key);
	char cwd[PATH_MAX], whole[PATH_MAX * 2];

	if (s[0] != '/' && getcwd(cwd, sizeof(cwd)) != NULL) {
		snprintf(whole, sizeof(whole), "%s/%s", cwd, s);
		s = whole;
	}
	copy(cfg, dst, CONF_PATH, s, key);
}

/* Of a service or backend: bmr(8) names it, and the file of drained ones keeps it. */
static void
check_name(cfg_t *cfg, const char *name, const char *what)
{
	const char *p = name;

	while ((unsigned char)*p > ' ' && *p != 0x7f && *p != '/')
		p++;
	if (p == name || *p != '\0')
		fault(cfg->filename, (unsigned int)cfg->line, "%s \"%.40s\": expected a name without blanks and slashes", what, name);
}

static void
take_times(cfg_t *c, struct times *t)
{
	*t = (struct times){ .connect = num(c, "connect", time_units, 0), .greeting = num(c, "greeting", time_units, 0),
	    .command = num(c, "command", time_units, 0), .data_init = num(c, "data-init", time_units, 0),
	    .bulk = num(c, "bulk", time_units, 0), .eod = num(c, "end-of-data", time_units, 0),
	    .login = num(c, "login", time_units, 0), .idle = num(c, "idle", time_units, 0),
	    .client_bulk = num(c, "content", time_units, 0), .hold = num(c, "hold", time_units, 0),
	    .queue = num(c, "queue", time_units, 0), .unauth = num(c, "unauthenticated", time_units, 0),
	    .login_failure = num(c, "login-failure", time_units, 0), .hold_idle = num(c, "hold-idle", time_units, 0), .keep_client = num(c, "keep-client", time_units, 0),
	    .keep_backend = num(c, "keep-backend", time_units, 0), .park = num(c, "park", time_units, 0) };
}

/* Both are mapped whole by each session. */
static void
check_memory(cfg_t *c, const struct conf_service *s)
{
	enum { MOST = 1 << 30, IMAP4_LEAST = 292 << 10 };

	if (s->limits.log > MOST || s->limits.spool_memory > MOST)
		fault(c->filename, (unsigned int)c->line, "service %s: limit: expected journal and spool-memory of at most 1G", s->name);
	if (s->limits.log != 0 && s->limits.log < IMAP4_LEAST && strcmp(s->protocol, "imap4") == 0)
		fault(c->filename, (unsigned int)c->line, "service %s: limit: expected a journal of at least 292k", s->name);
}

static void
take_limits(cfg_t *c, struct conf_service *s)
{
	const char *m = cfg_getstr(c, "message");

	s->limits = (struct limits){ .line = num(c, "line", size_units, 0), .reply = num(c, "reply", size_units, 0),
	    .recipients = num(c, "recipients", size_units, 0), .errors = num(c, "errors", size_units, 0),
	    .spool_memory = num(c, "spool-memory", size_units, 0), .log = num(c, "journal", size_units, 0),
	    .maildrop = num(c, "maildrop", size_units, 0) };
	if (m != NULL)
		(void)number(m, size_units, UINT64_C(1) << 40, &s->limits.message);
	s->max_sessions = num(c, "sessions", size_units, 10000);
	s->max_per_address = num(c, "per-address", size_units, 0);
	s->queue = num(c, "queue", size_units, 5000);
	check_memory(c, s);
}

static void
take_backend(cfg_t *c, struct conf_backend *b)
{
	const char *address = cfg_getstr(c, "address");

	*b = (struct conf_backend){ .line = (uint32_t)c->line, .xclient = cfg_getbool(c, "xclient") == cfg_true,
	    .drained = cfg_getbool(c, "drained") == cfg_true,
	    .max_sessions = num(c, "max-sessions", size_units, 0), .weight = num(c, "weight", size_units, 1) };
	copy(c, b->name, sizeof(b->name), cfg_title(c), "backend");
	check_name(c, cfg_title(c), "backend");
	if (address == NULL) {
		fault(c->filename, (unsigned int)c->line, "backend %s: expected address = \"host:port\"", cfg_title(c));
		return;
	}
	(void)split_address(address, b->host, sizeof(b->host), &b->port);
	conf_tls_backend(c, b);
}

static void
take_service(cfg_t *c, struct conf_service *s)
{
	const char *protocol = cfg_getstr(c, "protocol"), *banner = cfg_getstr(c, "banner");

	memset(s, 0, sizeof(*s));
	s->line = (uint32_t)c->line;
	snprintf(s->file, sizeof(s->file), "%s", text_name(c->filename));
	copy(c, s->name, sizeof(s->name), cfg_title(c), "service");
	copy(c, s->protocol, sizeof(s->protocol), protocol != NULL ? protocol : cfg_title(c), "protocol");
	check_name(c, cfg_title(c), "service");
	if (strcmp(s->protocol, "smtp") != 0 && strcmp(s->protocol, "pop3") != 0 && strcmp(s->protocol, "imap4") != 0)
		fault(c->filename, s->line, "protocol \"%s\": expected smtp, pop3 or imap4", s->protocol);
	if (banner != NULL)
		copy(c, s->banner, sizeof(s->banner), banner, "banner");
	else if (gethostname(s->banner, sizeof(s->banner) - 1) == -1)
		snprintf(s->banner, sizeof(s->banner), "localhost");
	if (s->banner[0] == '\0' || s->banner[strspn(s->banner, HOST_OCTETS)] != '\0')
		fault(c->filename, s->line, "banner \"%s\": expected a host name", s->banner);
	s->auth_plaintext = cfg_getbool(c, "auth-plaintext") == cfg_true;
	conf_tls_service(c, s);
	conf_tls_listens(c, s);
	if (cfg_size(c, "backend") == 0 || cfg_size(c, "backend") > CONF_BACKENDS)
		fault(c->filename, s->line, "service %s: expected backend NAME { ... }, 1 to %d of them", s->name, CONF_BACKENDS);
	for (unsigned int i = 0; i < cfg_size(c, "backend") && i < CONF_BACKENDS; i++)
		take_backend(cfg_getnsec(c, "backend", i), &s->backend[s->nbackend++]);
	take_times(cfg_getsec(c, "timeout"), &s->times);
	take_limits(cfg_getsec(c, "limit"), s);
	s->probe_ms = num(cfg_getsec(c, "health"), "interval", time_units, 5000);
	s->fall = num(cfg_getsec(c, "health"), "fall", size_units, 3);
	s->rise = num(cfg_getsec(c, "health"), "rise", size_units, 2);
	s->warm = num(c, "warm", size_units, 4);
	s->max_replays = num(c, "max-replays", size_units, 2);
	s->fence_ms = num(c, "fence-delay", time_units, 2000);
	s->doubt_tempfail = strcmp(cfg_getstr(c, "in-doubt"), "tempfail") == 0;
	s->bare_newline_normalize = strcmp(cfg_getstr(c, "bare-newline"), "normalize") == 0;
}

/* Looked up once, here: the workers have neither names nor files to look them up with. */
static void
take_ids(struct conf *c)
{
	const struct passwd *pw = c->user[0] != '\0' ? getpwnam(c->user) : NULL;
	const char *file;
	unsigned int line = line_of_group(&file);
	const struct group *gr = c->group[0] != '\0' ? getgrnam(c->group) : NULL;

	if (c->group[0] != '\0' && c->user[0] == '\0')
		fault(file, line, "group = \"%s\": expected together with user", c->group);
	if (pw == NULL)
		return;
	c->drop = true;
	c->uid = pw->pw_uid;
	c->gid = gr != NULL ? gr->gr_gid : pw->pw_gid;
}

/* The second of two would never get its socket. */
static void
check_listens(const struct conf *c, uint32_t service, uint32_t listen)
{
	const struct conf_listen *l = &c->service[service].listen[listen];

	for (uint32_t i = 0; i <= service; i++)
		for (uint32_t k = 0; k < (i == service ? listen : c->service[i].nlisten); k++)
			if (c->service[i].listen[k].port == l->port && strcmp(c->service[i].listen[k].address, l->address) == 0) {
				fault(c->service[service].file, l->line, "listen on %s port %u twice: expected once, first in service %s", l->address,
				    l->port, c->service[i].name);
				return;
			}
}

/* By default as many as it takes to hold SESSIONS, each of which is up to four descriptors in one process (NOTES). */
static uint32_t
take_shares(cfg_t *cfg)
{
	enum { SESSIONS = 10000, EACH = 4, SPARE = 256 };
	struct rlimit r;
	uint64_t n = 1;

	if (cfg_getstr(cfg, "listeners") != NULL) {
		(void)number(cfg_getstr(cfg, "listeners"), size_units, SHARES, &n);
	} else if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_max < SESSIONS * EACH + SPARE)
		n = r.rlim_max > 2 * SPARE ? (SESSIONS * EACH + r.rlim_max - SPARE - 1) / (r.rlim_max - SPARE) : SHARES;
	return (n > SHARES ? SHARES : (uint32_t)n);
}

static void
check_socket(const char *path, const char *what)
{
	const size_t most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;

	if (strlen(path) > most)
		fault(to.file, 1, "%s, \"%s\": expected a path of at most %zu octets", what, path, most);
}

/* It is there, unless it is the run directory, which is made. */
static void
check_socket_dir(const struct conf *c)
{
	const char *file;
	unsigned int line = line_of_socket(&file);
	char dir[CONF_PATH];
	struct stat st;

	snprintf(dir, sizeof(dir), "%.*s", (int)(strrchr(c->socket, '/') - c->socket), c->socket);
	if (line != 0 && strcmp(dir, c->run_dir) != 0 && dir[0] != '\0' && stat(dir, &st) == -1)
		fault(file, line, "socket, \"%s\": %s: expected a directory that is there", c->socket, strerror(errno));
}

static void
take_all(cfg_t *cfg, struct conf *c)
{
	char heir[CONF_PATH + 32];

	take_path(cfg, c->state_dir, "state-dir");
	take_path(cfg, c->run_dir, "run-dir");
	take_path(cfg, c->release_dir, "release-dir");
	if (cfg_getstr(cfg, "socket") != NULL)
		take_path(cfg, c->socket, "socket");
	else if (snprintf(c->socket, sizeof(c->socket), "%s/bmr.sock", c->run_dir) >= (int)sizeof(c->socket))
		fault(to.file, 1, "run-dir: path too long");
	if (snprintf(c->empty_root, sizeof(c->empty_root), "%s/empty", c->run_dir) >= (int)sizeof(c->empty_root))
		fault(to.file, 1, "run-dir: path too long");
	check_socket(c->socket, "socket");
	check_socket_dir(c);
	snprintf(heir, sizeof(heir), "%s/sessions-%d.sock", c->run_dir, SHARES);
	check_socket(heir, "a socket in run-dir");
	copy(cfg, c->user, sizeof(c->user), cfg_getstr(cfg, "user"), "user");
	copy(cfg, c->group, sizeof(c->group), cfg_getstr(cfg, "group"), "group");
	c->shares = take_shares(cfg);
	c->journal_previous = strcmp(cfg_getstr(cfg, "journal-format"), "previous") == 0;
	take_ids(c);
	conf_tls_top(cfg, c);
	if (cfg_size(cfg, "service") == 0 || cfg_size(cfg, "service") > CONF_SERVICES)
		fault(to.file, (unsigned int)(cfg->line > 0 ? cfg->line : 1), "expected service NAME { ... }, 1 to %d of them",
		    CONF_SERVICES);
	for (unsigned int i = 0; i < cfg_size(cfg, "service") && i < CONF_SERVICES; i++)
		take_service(cfg_getnsec(cfg, "service", i), &c->service[c->nservice++]);
	for (uint32_t i = 0; i < c->nservice; i++)
		for (uint32_t k = 0; k < c->service[i].nlisten; k++)
			check_listens(c, i, k);
}

/* --- the file, and the child that reads it --------------------------------------------------------------------------- */

static void
parse_text(cfg_t *cfg, FILE *f, unsigned int count, struct conf *c)
{
	int r;

	cfg_set_error_function(cfg, on_error);
	conf_validators(cfg);
	conf_tls_validators(cfg);
	cfg->filename = strdup(c->file);
	r = cfg_parse_fp(cfg, f);
	if (r == CFG_SUCCESS && to.faults == 0 && cfg_getstr(cfg, END_KEY) == NULL)
		fault(to.file, count, "end of file within a comment or string: expected its end");
	if (r == CFG_SUCCESS && to.faults == 0)
		take_all(cfg, c);
	else if (to.faults == 0)
		fault(to.file, 1, "cannot be parsed");
}

/* As conf_parse, in this process. */
static int
parse(const char *file, struct conf *c, void (*say)(void *, const char *), void *arg, int *code)
{
	unsigned int count = 1;
	char line[600], *text;
	size_t n;
	cfg_t *cfg;
	FILE *f;

	memset(c, 0, sizeof(*c));
	c->format = CONF_FORMAT;
	c->size = sizeof(*c);
	snprintf(c->file, sizeof(c->file), "%s", file);
	to.say = say;
	to.arg = arg;
	to.file = c->file;
	to.faults = 0;
	to.code = EX_CONFIG;
	*code = EX_CONFIG;
	text_first(file);
	if ((text = text_read(file, sizeof(end_text), &n)) == NULL) {
		*code = errno == EACCES ? EX_NOPERM : EX_NOINPUT;
		snprintf(line, sizeof(line), "%s: %s: expected a configuration file", file, strerror(errno));
		say(arg, line);
		return (-1);
	}
	for (size_t i = 0; i + 1 < n; i++)
		count += text[i] == '\n';
	memcpy(text + n, end_text, sizeof(end_text) - 1);
	f = fmemopen(text, n + sizeof(end_text) - 1, "r");
	cfg = cfg_init(top_opts, CFGF_NONE);
	if (f == NULL || cfg == NULL)
		fault(to.file, 1, "%s", strerror(ENOMEM));
	else
		parse_text(cfg, f, count, c);
	if (cfg != NULL)
		cfg_free(cfg);
	if (f != NULL)
		fclose(f);
	free(text);
	*code = to.code;
	return (to.faults == 0 ? 0 : -1);
}

struct parsed { struct conf conf; int result, code; bool done; };

static void
say_pipe(void *arg, const char *line)
{
	const int *fd = arg;

	dprintf(*fd, "%s\n", line);
}

/* In a child, with its lines from a pipe. False when it came to no end. */
static bool
parse_apart(const char *file, struct parsed *p, void (*say)(void *, const char *), void *arg)
{
	int fd[2];
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	pid_t pid;
	FILE *f;

	if (pipe2(fd, O_CLOEXEC) == -1)
		return (false);
	if ((pid = fork()) == 0) {
		p->result = parse(file, &p->conf, say_pipe, &fd[1], &p->code);
		p->done = true;
		_exit(0);
	}
	close(fd[1]);
	if (pid == -1 || (f = fdopen(fd[0], "r")) == NULL) {
		close(fd[0]);
		return (false);
	}
	while ((n = getline(&line, &cap, f)) > 0) {
		line[n - 1] = '\0';
		say(arg, line);
	}
	free(line);
	fclose(f);
	while (waitpid(pid, NULL, 0) == -1 && errno == EINTR)
		;
	return (p->done);
}

int
conf_parse(const char *file, struct conf *c, void (*say)(void *, const char *), void *arg, int *code)
{
	struct parsed *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char line[600];
	int result = -1;

	*code = EX_OSERR;
	if (p != MAP_FAILED && parse_apart(file, p, say, arg)) {
		result = p->result;
		*code = p->code;
		*c = p->conf;
	} else {
		snprintf(line, sizeof(line), "%s:1: cannot be parsed", file);
		say(arg, line);
	}
	if (p != MAP_FAILED)
		munmap(p, sizeof(*p));
	return (result);
}
