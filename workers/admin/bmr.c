/*
 * bmr - the operator's command: one request to the gateway's HTTP API, and its answer as a table or as it is (-j)
 *
 * Knows the socket, paths and JSON of the API and nothing else of the gateway. What it prints came from clients and
 * backends in part (user names, errors): outside of -j anything but printable ASCII is shown as "?".
 */
#include <sys/un.h>
#include <bsd/readpassphrase.h>
#include <curl/curl.h>
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "workers/admin/bmr_request.h"
#include <unistd.h>

#ifndef BMR_SOCKET
#define BMR_SOCKET "/run/bmr/bmr.sock"
#endif

enum { CELL = 1024, COLUMNS = 12 };

/* --- tables ---------------------------------------------------------------------------------------------------- */

typedef void	cell_fn(const json_t *row, const char *key, char *dst, size_t size);
struct column {
	const char	*head, *key;
	cell_fn		*show;
	bool		 right;
};

static void
plain(const char *s, char *dst, size_t size)
{
	size_t n = 0;

	for (; *s != '\0' && n + 1 < size; s++)
		dst[n++] = *s < 0x20 || *s >= 0x7f ? '?' : *s;
	dst[n] = '\0';
}

static json_int_t
number(const json_t *row, const char *key)
{
	return (json_integer_value(json_object_get(row, key)));
}

static const char *
string(const json_t *row, const char *key)
{
	const char *s = json_string_value(json_object_get(row, key));

	return (s != NULL ? s : "");
}

static void
cell_text(const json_t *row, const char *key, char *dst, size_t size)
{
	plain(string(row, key), dst, size);
	if (dst[0] == '\0')
		snprintf(dst, size, "-");
}

static void
cell_num(const json_t *row, const char *key, char *dst, size_t size)
{
	snprintf(dst, size, "%lld", (long long)number(row, key));
}

/* A limit: 0 is none. */
static void
cell_max(const json_t *row, const char *key, char *dst, size_t size)
{
	if (number(row, key) == 0)
		snprintf(dst, size, "-");
	else
		cell_num(row, key, dst, size);
}

static void
duration(long long s, char *dst, size_t size)
{
	if (s >= 86400)
		snprintf(dst, size, "%lldd %02lldh", s / 86400, s / 3600 % 24);
	else if (s >= 3600)
		snprintf(dst, size, "%lldh %02lldm", s / 3600, s / 60 % 60);
	else if (s >= 60)
		snprintf(dst, size, "%lldm %02llds", s / 60, s % 60);
	else
		snprintf(dst, size, "%llds", s);
}

static void
cell_seconds(const json_t *row, const char *key, char *dst, size_t size)
{
	duration(number(row, key), dst, size);
}

static void
cell_ms(const json_t *row, const char *key, char *dst, size_t size)
{
	if (strcmp(string(row, "state"), "up") == 0)
		duration(number(row, key) / 1000, dst, size);
	else
		snprintf(dst, size, "-");
}

static void
cell_kb(const json_t *row, const char *key, char *dst, size_t size)
{
	json_int_t kb = number(row, key);

	if (kb == 0)
		snprintf(dst, size, "-");
	else
		snprintf(dst, size, "%.1fM", (double)kb / 1024.);
}

static void
cell_name(const json_t *row, const char *key, char *dst, size_t size)
{
	char service[64], name[64];

	plain(string(row, "service"), service, sizeof(service));
	plain(string(row, key), name, sizeof(name));
	snprintf(dst, size, "%s/%s", service, name);
}

static void
cell_health(const json_t *row, const char *key, char *dst, size_t size)
{
	char state[32];

	plain(string(row, key), state, sizeof(state));
	snprintf(dst, size, "%s%s", state, json_is_true(json_object_get(row, "drained")) ? ", drained" : "");
}

/* What went wrong last is of interest while it is wrong. */
static void
cell_error(const json_t *row, const char *key, char *dst, size_t size)
{
	if (strcmp(string(row, "state"), "up") == 0)
		snprintf(dst, size, "-");
	else
		cell_text(row, key, dst, size);
}

static void
cell_client(const json_t *row, const char *key, char *dst, size_t size)
{
	char address[64];

	plain(string(row, key), address, sizeof(address));
	snprintf(dst, size, strchr(address, ':') != NULL ? "[%s]:%lld" : "%s:%lld", address,
	    (long long)number(row, "client_port"));
}

static void
cell_node(const json_t *row, const char *key, char *dst, size_t size)
{
	json_int_t depth = number(row, "depth");
	char id[64];

	plain(string(row, key), id, sizeof(id));
	snprintf(dst, size, "%*s%s", depth > 0 && depth < 20 ? (int)depth * 2 : 0, "", id);
}

/* Of a supervisor: its strategy, and restarts in the period against its intensity. */
static void
cell_kind(const json_t *row, const char *key, char *dst, size_t size)
{
	char s[32];

	if (strcmp(string(row, key), "supervisor") != 0) {
		plain(string(row, "restart"), dst, size);
		return;
	}
	plain(string(row, "strategy"), s, sizeof(s));
	snprintf(dst, size, "%s, %lld of %lld in %lld s", s, (long long)number(row, "restarts_in_period"),
	    (long long)number(row, "intensity"), (long long)number(row, "period_s"));
}

static void
cell_usable(const json_t *row, const char *key, char *dst, size_t size)
{
	if (json_object_get(row, key) == NULL)
		snprintf(dst, size, "?");
	else
		snprintf(dst, size, "%lld/%lld", (long long)number(row, key), (long long)number(row, "backends"));
}

static void
put_cell(const char *text, size_t width, bool right, bool last)
{
	if (last && !right)
		printf("%s\n", text);
	else
		printf(right ? "%*s%s" : "%-*s%s", (int)width, text, last ? "\n" : "  ");
}

/* Columns are as wide as what is in them; the last is not padded. */
static void
table(const struct column *col, size_t n, const json_t *rows)
{
	size_t width[COLUMNS], i, k;
	char cell[CELL];
	json_t *row;

	for (k = 0; k < n; k++)
		width[k] = strlen(col[k].head);
	json_array_foreach(rows, i, row)
		for (k = 0; k < n; k++) {
			col[k].show(row, col[k].key, cell, sizeof(cell));
			if (strlen(cell) > width[k])
				width[k] = strlen(cell);
		}
	for (k = 0; k < n; k++)
		put_cell(col[k].head, width[k], col[k].right, k + 1 == n);
	json_array_foreach(rows, i, row)
		for (k = 0; k < n; k++) {
			col[k].show(row, col[k].key, cell, sizeof(cell));
			put_cell(cell, width[k], col[k].right, k + 1 == n);
		}
}

#define TABLE(columns, rows)	table(columns, sizeof(columns) / sizeof((columns)[0]), rows)

/* One line, if there are any. */
static void
show_certificates(const json_t *c)
{
	static const struct { const char *key, *text; } states[] = { { "good", "good" }, { "expiring", "EXPIRE SOON" },
		{ "expired", "EXPIRED" }, { "not_yet_valid", "NOT YET VALID" }, { "unusable", "UNUSABLE" }, { "faulty", "with a fault" } };
	bool any = false;

	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (number(c, states[i].key) > 0) {
			printf("%s%lld %s", any ? ", " : "certificates: ", (long long)number(c, states[i].key), states[i].text);
			any = true;
		}
	if (any)
		putchar('\n');
}

static void
show_status(const json_t *o)
{
	static const struct column columns[] = {
		{ "SERVICE", "service", cell_text, false }, { "PROTOCOL", "protocol", cell_text, false },
		{ "SESSIONS", "sessions", cell_num, true }, { "WAITING", "waiting", cell_num, true },
		{ "PARKED", "parked", cell_num, true }, { "WARM", "warm", cell_num, true }, { "ACCEPTED", "accepted", cell_num, true },
		{ "REFUSED", "refused", cell_num, true }, { "ENDED", "ended", cell_num, true },
		{ "BACKENDS", "backends_usable", cell_usable, true }, { "OFFER", "offer", cell_text, false },
	};
	const json_t *g = json_object_get(o, "gateway");
	char up[32], file[256];

	duration(number(g, "uptime_ms") / 1000, up, sizeof(up));
	plain(string(g, "configuration"), file, sizeof(file));
	if (number(g, "pid") != 0)
		printf("bmrd: pid %lld, up %s\n", (long long)number(g, "pid"), up);
	printf("configuration: %s, version %lld\n", file, (long long)number(g, "configuration_version"));
	show_certificates(json_object_get(o, "certificates"));
	putchar('\n');
	TABLE(columns, json_object_get(o, "services"));
}

static void
show_tree(const json_t *o)
{
	static const struct column columns[] = {
		{ "ID", "id", cell_node, false }, { "STATE", "state", cell_text, false },
		{ "PID", "pid", cell_max, true }, { "UP", "uptime_ms", cell_ms, true },
		{ "RESTARTS", "restarts", cell_num, true }, { "RSS", "rss_kb", cell_kb, true },
		{ "PSS", "pss_kb", cell_kb, true }, { "RESTART", "type", cell_kind, false },
	};

	TABLE(columns, json_object_get(o, "tree"));
}

static void
show_who(const json_t *o)
{
	static const struct column columns[] = {
		{ "SESSION", "session", cell_text, false }, { "SERVICE", "service", cell_text, false },
		{ "USER", "user", cell_text, false }, { "CLIENT", "client", cell_client, false },
		{ "TLS", "tls", cell_text, false }, { "BACKEND", "backend", cell_text, false }, { "TIME", "seconds", cell_seconds, true },
		{ "STATE", "state", cell_text, false }, { "IDLE", "idle", cell_seconds, true },
		{ "FAILOVERS", "failovers", cell_num, true }, { "RESUMED", "resumed", cell_num, true },
		{ "PID", "pid", cell_max, true },
	};

	TABLE(columns, json_object_get(o, "sessions"));
}

static void
show_backends(const json_t *o)
{
	static const struct column columns[] = {
		{ "BACKEND", "name", cell_name, false }, { "ADDRESS", "address", cell_text, false },
		{ "STATE", "state", cell_health, false }, { "SESSIONS", "sessions", cell_num, true },
		{ "MAX", "max_sessions", cell_max, true }, { "WEIGHT", "weight", cell_num, true },
		{ "TOTAL", "total", cell_num, true }, { "FAILURES", "failures", cell_num, true },
		{ "PROBE ms", "last_probe_ms", cell_num, true }, { "LAST ERROR", "last_error", cell_error, false },
	};

	TABLE(columns, json_object_get(o, "backends"));
}

static void
show_tls(const json_t *o)
{
	static const struct column columns[] = {
		{ "CERTIFICATE", "certificate", cell_text, false }, { "STATE", "state", cell_text, false },
		{ "KEY", "key", cell_text, false }, { "BITS", "bits", cell_num, true }, { "UNTIL", "not_after", cell_text, false },
		{ "DAYS", "days_left", cell_num, true }, { "SERVICES", "services", cell_text, false },
		{ "NAMES", "names", cell_text, false }, { "FAULT", "fault", cell_text, false },
	};

	TABLE(columns, json_object_get(o, "certificates"));
}

static void
show_backend(const json_t *o)
{
	const json_t *b = json_object_get(o, "backend");
	char name[CELL], state[CELL], warning[400];

	plain(string(o, "warning"), warning, sizeof(warning));
	if (warning[0] != '\0')
		fail(0, "%s", warning);
	if (b == NULL) {
		puts("done");
		return;
	}
	cell_name(b, "name", name, sizeof(name));
	cell_health(b, "state", state, sizeof(state));
	printf("%s: %s, %lld sessions\n", name, state, (long long)number(b, "sessions"));
}

/* Line by line; present() makes the exit status of it. */
static void
show_check(const json_t *o)
{
	static const char *const key[] = { "tls", "capabilities", "forwarding", "login", "fault" };
	const json_t *c = json_object_get(o, "check");
	char name[CELL], text[600];
	bool proven;

	cell_name(c, "name", name, sizeof(name));
	plain(string(c, "forwarded"), text, sizeof(text));
	proven = strcmp(text, "unproven") != 0;
	printf("%s: %s\n", name, !json_is_true(json_object_get(c, "good")) ? "NOT GOOD" :
	    proven ? "good" : "good, but FORWARDING IS UNPROVEN");
	for (size_t i = 0; i < sizeof(key) / sizeof(key[0]); i++) {
		plain(string(c, key[i]), text, sizeof(text));
		if (text[0] != '\0')
			printf("  %-13s %s\n", key[i], text);
	}
}

static void
show_kick(const json_t *o)
{
	char id[64];

	plain(string(o, "session"), id, sizeof(id));
	printf("session %s was told to end\n", id);
}

static void
show_move(const json_t *o)
{
	char id[64];

	plain(string(o, "session"), id, sizeof(id));
	if (strcmp(id, "all") == 0)
		puts("each session goes on in a process of another zygote at its next safe point");
	else
		printf("session %s goes on in a process of another zygote at its next safe point\n", id);
}

static void
show_reload(const json_t *o)
{
	printf("configuration version %lld is in use\n", (long long)number(o, "configuration_version"));
}

static void
show_crashes(const json_t *o)
{
	static const struct column columns[] = {
		{ "SESSION", "session", cell_text, false }, { "TIME", "time", cell_text, false },
		{ "SERVICE", "service", cell_text, false }, { "CLIENT", "client", cell_text, false },
		{ "PID", "pid", cell_num, true }, { "DEATHS", "deaths", cell_num, true }, { "HOW", "how", cell_text, false },
	};

	TABLE(columns, json_object_get(o, "crashes"));
}

static void
show_crash(const json_t *o)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)o, key, v) {
		char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);

		printf("%s: %s\n", key, text != NULL ? text : "?");
		free(text);
	}
}

/* --- the answer --------------------------------------------------------------------------------------------------- */

static int
code_of(long status)
{
	switch (status) {
	case 200:
		return (0);
	case 404:
		return (EX_DATAERR);
	case 400:
	case 405:
	case 413:
		return (EX_USAGE);
	case 403:
		return (EX_NOPERM);
	case 422:
		return (EX_CONFIG);
	case 429:
	case 503:
	case 504:
		return (EX_TEMPFAIL);
	default:
		return (EX_SOFTWARE);
	}
}

/* Some processes did not answer: what is shown is not all. */
static int
incomplete(const json_t *o)
{
	json_t *v;
	size_t i;

	json_array_foreach(json_object_get(o, "missing"), i, v) {
		char id[64];

		plain(json_string_value(v) != NULL ? json_string_value(v) : "?", id, sizeof(id));
		fail(0, "%s does not answer: what it knows is missing", id);
	}
	return (i > 0 ? EX_TEMPFAIL : 0);
}

static int
present(const struct reply *r, bool json, void (*show)(const json_t *))
{
	json_t *o = json_loadb(r->text != NULL ? r->text : "", r->n, 0, NULL);
	int code = code_of(r->status);
	char error[700];

	if (!json_is_object(o)) {
		json_decref(o);
		return (fail(code != 0 ? code : EX_PROTOCOL, "the answer (status %ld) is not of the gateway's API", r->status));
	}
	if (json)
		fwrite(r->text, 1, r->n, stdout);
	if (code != 0) {
		plain(string(o, "error"), error, sizeof(error));
		fail(0, "%s", error[0] != '\0' ? error : "refused");
	} else {
		if (!json)
			show(o);
		code = incomplete(o);
		if (json_is_false(json_object_get(json_object_get(o, "check"), "good")))
			code = EX_UNAVAILABLE;
	}
	json_decref(o);
	if (fflush(stdout) != 0 || ferror(stdout))
		return (fail(EX_IOERR, "standard output: %s", strerror(errno)));
	return (code);
}

/* --- the command line ------------------------------------------------------------------------------------------- */

enum arg { ARG_NONE, ARG_BACKEND, ARG_SESSION };

static const struct command {
	const char	*noun, *verb;		/* verb NULL: none */
	enum arg	 arg;
	const char	*method, *before, *after;	/* the path around the argument */
	void		(*show)(const json_t *);
} commands[] = {
	{ "status",  NULL,    ARG_NONE,    "GET",  "/v1/status", "",		show_status },
	{ "tree",    NULL,    ARG_NONE,    "GET",  "/v1/tree", "",		show_tree },
	{ "who",     NULL,    ARG_NONE,    "GET",  "/v1/who", "",		show_who },
	{ "backend", "list",  ARG_NONE,    "GET",  "/v1/backends", "",		show_backends },
	{ "backend", "drain", ARG_BACKEND, "POST", "/v1/backends/", "/drain",	show_backend },
	{ "backend", "ready", ARG_BACKEND, "POST", "/v1/backends/", "/ready",	show_backend },
	{ "backend", "check", ARG_BACKEND, "POST", "/v1/backends/", "/check",	show_check },
	{ "kick",    NULL,    ARG_SESSION, "POST", "/v1/sessions/", "/kick",	show_kick },
	{ "crashes", "list",  ARG_NONE,    "GET",  "/v1/crashes", "",		show_crashes },
	{ "crashes", "show",  ARG_SESSION, "GET",  "/v1/crashes/", "",		show_crash },
	{ "session", "move",  ARG_SESSION, "POST", "/v1/sessions/", "/move",	show_move },
	{ "tls",     "list",  ARG_NONE,    "GET",  "/v1/tls", "",		show_tls },
	{ "tls",     "reload", ARG_NONE,   "POST", "/v1/tls/reload", "",	show_tls },
	{ "reload",  NULL,    ARG_NONE,    "POST", "/v1/reload", "",		show_reload },
};

static int
usage(void)
{
	fputs("usage: bmr [-j] [-s socket] status | tree | who | backend list | crashes list | tls list\n"
	    "       bmr [-j] [-s socket] crashes show session\n"
	    "       bmr [-j] [-s socket] [--reason text] backend drain | ready service/name\n"
	    "       bmr [-j] [-s socket] [--user name] backend check service/name\n"
	    "       bmr [-j] [-s socket] [--reason text] kick session | reload | tls reload\n"
	    "       bmr [-j] [-s socket] [--reason text] session move --zygote session | all\n", stderr);
	return (EX_USAGE);
}

static const struct command *
find(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		const struct command *c = &commands[i];
		int words = 1 + (c->verb != NULL);

		if (argc == words + (c->arg != ARG_NONE) && strcmp(argv[0], c->noun) == 0 &&
		    (c->verb == NULL || strcmp(argv[1], c->verb) == 0))
			return (c);
	}
	return (NULL);
}

/* What find() had against it, in one line. */
static void
explain(int argc, char **argv)
{
	bool noun = false;

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		const struct command *c = &commands[i];
		const char *what = c->arg == ARG_BACKEND ? "service/name" : c->arg == ARG_SESSION ? "a session" : "nothing";

		if (strcmp(argv[0], c->noun) != 0)
			continue;
		noun = true;
		if (c->verb == NULL || (argc > 1 && strcmp(argv[1], c->verb) == 0)) {
			fail(0, "%s%s%s: expected %s behind it", c->noun, c->verb != NULL ? " " : "", c->verb != NULL ? c->verb : "", what);
			return;
		}
	}
	if (noun && argc > 1)
		fail(0, "%s %s: no such command", argv[0], argv[1]);
	else
		fail(0, "%s: %s", argv[0], noun ? "expected a second word" : "no such command");
}

/* Appends one segment, percent-encoded. 0, or -1: empty or too long. */
static int
segment(char *path, size_t size, const char *s, size_t n)
{
	char *e = n > 0 && n < 128 ? curl_easy_escape(NULL, s, (int)n) : NULL;
	size_t at = strlen(path);
	int r = -1;

	if (e != NULL && at + strlen(e) < size) {
		memcpy(path + at, e, strlen(e) + 1);
		r = 0;
	}
	curl_free(e);
	return (r);
}

static int
build_path(const struct command *c, const char *arg, char *path, size_t size)
{
	size_t n = c->arg == ARG_BACKEND ? strcspn(arg, "/") : 0;

	snprintf(path, size, "%s", c->before);
	if (c->arg == ARG_BACKEND) {
		if (arg[n] != '/' || strchr(arg + n + 1, '/') != NULL || segment(path, size, arg, n) == -1)
			return (-1);
		arg += n + 1;
		snprintf(path + strlen(path), size - strlen(path), "/");
	}
	if (c->arg != ARG_NONE && segment(path, size, arg, strlen(arg)) == -1)
		return (-1);
	if (strlen(path) + strlen(c->after) >= size)
		return (-1);
	snprintf(path + strlen(path), size - strlen(path), "%s", c->after);
	return (0);
}

/* readpassphrase(3) would cut off what does not fit. */
static int
ask_password(struct request *q)
{
	char typed[1024];
	int code = 0;

	if (readpassphrase("password: ", typed, sizeof(typed), RPP_ECHO_OFF | (isatty(STDIN_FILENO) ? 0 : RPP_STDIN)) == NULL)
		code = fail(EX_USAGE, "no password: expected one from the terminal or standard input");
	else if (typed[0] == '\0' || strlen(typed) >= sizeof(q->password))
		code = fail(EX_USAGE, "expected a password of 1 to %zu octets", sizeof(q->password) - 1);
	else
		memcpy(q->password, typed, strlen(typed) + 1);
	explicit_bzero(typed, sizeof(typed));
	return (code);
}

int
main(int argc, char **argv)
{
	static const struct option longs[] = { { "json", no_argument, NULL, 'j' },
		{ "socket", required_argument, NULL, 's' }, { "user", required_argument, NULL, 'u' },
		{ "reason", required_argument, NULL, 'r' }, { "zygote", no_argument, NULL, 'z' }, { 0 } };
	struct request q = { .socket = getenv("BMR_SOCKET") };
	const struct command *c;
	struct reply r = { 0 };
	bool json = false, zygote = false;
	int o, code;

	if (q.socket == NULL || q.socket[0] == '\0')
		q.socket = BMR_SOCKET;
	while ((o = getopt_long(argc, argv, "jr:s:u:", longs, NULL)) != -1)
		switch (o) {
		case 'j':
			json = true;
			break;
		case 'r':
			q.reason = optarg;
			break;
		case 's':
			q.socket = optarg;
			break;
		case 'z':
			zygote = true;
			break;
		case 'u':
			q.user = optarg;
			break;
		default:
			return (usage());
		}
	if (optind == argc)
		return (usage());
	if ((c = find(argc - optind, argv + optind)) == NULL) {
		explain(argc - optind, argv + optind);
		return (usage());
	}
	if (zygote != (strcmp(c->noun, "session") == 0))	/* the one way to move there is yet */
		return (usage());
	q.method = c->method;
	if (q.reason != NULL && strcmp(c->method, "GET") == 0)
		return (usage());
	if (q.user != NULL && c->show != show_check)
		return (usage());
	if (build_path(c, argv[argc - 1], q.path, sizeof(q.path)) == -1)
		return (fail(EX_USAGE, "%s: expected %s", argv[argc - 1], c->arg == ARG_BACKEND ? "service/name" : "a session"));
	if (strlen(q.socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return (fail(EX_USAGE, "socket %.40s...: expected a path of at most %zu octets", q.socket,
		    sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1));
	if (q.user != NULL && (code = ask_password(&q)) != 0)
		return (code);
	if (curl_global_init(CURL_GLOBAL_NOTHING) != CURLE_OK)
		return (fail(EX_SOFTWARE, "libcurl does not start"));
	if ((code = perform(&q, &r)) == 0)
		code = present(&r, json, c->show);
	free(r.text);
	curl_global_cleanup();
	return (code);
}
