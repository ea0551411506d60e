/*
 * api - see api.h
 *
 * A path is one row of routes[]: its arguments are checked, the call's questions are asked, and done_*() makes the
 * answer of what came. Every change is one line in the log, with the operator's user id, the reason and the result.
 */
#include <dirent.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/log.h"
#include "workers/admin/api.h"
#include "workers/admin/calls.h"
#include "workers/crash.h"
#include "workers/gw_msg.h"

enum { FORMAT = JSON_INDENT(1) | JSON_ENSURE_ASCII };
static const char *const long_parts[] = { "unread_shape", "owed_shape", "state" };	/* of a crash */

/* --- answers ------------------------------------------------------------------------------------------------- */

/* Takes body. Plain ASCII, so that it is safe on any terminal; a line feed at the end. */
static void
answer(struct http_req *req, unsigned int status, json_t *body)
{
	char *text = NULL;
	size_t n;

	if (body != NULL && (n = json_dumpb(body, NULL, 0, FORMAT)) > 0 && (text = malloc(n + 2)) != NULL) {
		(void)json_dumpb(body, text, n, FORMAT);
		memcpy(text + n, "\n", 2);
	}
	json_decref(body);
	http_answer(req, status, text);
}

__attribute__((format(printf, 3, 4))) static void
refuse(struct http_req *req, unsigned int status, const char *fmt, ...)
{
	char text[700];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	answer(req, status, json_pack("{s:s}", "error", text));
}

/* Nobody of those who were asked has answered. A change that was asked for may still be made: honest about that. */
static void
refuse_missing(struct call *c, bool change)
{
	const char *late = change ? "no answer in time: it may still be done" : "no answer in time, try again";
	char who[400] = "";
	json_t *v;
	size_t i, n = 0;

	json_array_foreach(c->missing, i, v)
		if (n < sizeof(who))
			n += (size_t)snprintf(who + n, sizeof(who) - n, "%s%s", i > 0 ? ", " : "", json_string_value(v));
	refuse(c->req, c->late ? HTTP_TIMEOUT : HTTP_UNAVAILABLE, "%s: %s", who,
	    c->late ? late : "not running, try again");
}

static void
answer_rows(struct call *c, const char *key, json_t *rows)
{
	if (c->answered == 0)
		refuse_missing(c, false);
	else
		answer(c->req, HTTP_OK, json_pack("{s:O, s:O}", key, rows, "missing", c->missing));
}

static void
done_tree(struct call *c)
{
	answer_rows(c, "tree", c->nodes);
}

static void
done_who(struct call *c)
{
	answer_rows(c, "sessions", c->rows);
}

static void
done_backends(struct call *c)
{
	answer_rows(c, "backends", c->backends);
}

static const char *
text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return (s != NULL ? s : "");
}

/* Adds to each service how many backends it has and how many of them take sessions. */
static void
count_backends(const struct call *c, json_t *services)
{
	json_t *service, *b;
	size_t i, k;

	if (json_array_size(c->backends) == 0)
		return;
	json_array_foreach(services, i, service) {
		json_int_t n = 0, usable = 0;

		json_array_foreach(c->backends, k, b) {
			if (strcmp(text_of(b, "service"), text_of(service, "service")) != 0)
				continue;
			n++;
			usable += strcmp(text_of(b, "state"), "up") == 0 && !json_is_true(json_object_get(b, "drained"));
		}
		(void)json_object_set_new(service, "backends", json_integer(n));
		(void)json_object_set_new(service, "backends_usable", json_integer(usable));
	}
}

static json_t *
of_service(const json_t *rows, const char *service)
{
	json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
		if (strcmp(text_of(row, "service"), service) == 0)
			return (row);
	return (NULL);
}

/* One row for a service, whose sessions several listeners may have: numbers are added up. In the order of the configuration. */
static json_t *
add_up(const json_t *rows, const struct conf *c)
{
	json_t *all = json_array(), *row, *sum, *v, *n, *sorted;
	const char *key;
	size_t i;

	json_array_foreach(rows, i, row) {
		if ((sum = of_service(all, text_of(row, "service"))) == NULL) {
			(void)json_array_append(all, row);
			continue;
		}
		json_object_foreach(row, key, v)
			if (json_is_integer(v) && (n = json_object_get(sum, key)) != NULL)
				(void)json_integer_set(n, json_integer_value(n) + json_integer_value(v));
	}
	sorted = json_array();
	for (uint32_t k = 0; k < c->nservice; k++)
		if ((row = of_service(all, c->service[k].name)) != NULL)
			(void)json_array_append(sorted, row);
	json_decref(all);
	return (sorted);
}

/* How many certificates are in each state; faulty besides: those whose chain has a fault. */
static json_t *
count_certificates(const struct call *c)
{
	static const struct { const char *state, *key; } states[] = { { "good", "good" }, { "expires soon", "expiring" },
		{ "expired", "expired" }, { "not yet valid", "not_yet_valid" }, { "unusable", "unusable" } };
	json_t *o = json_object(), *x;
	json_int_t faulty = 0;
	size_t i;

	for (size_t k = 0; k < sizeof(states) / sizeof(states[0]); k++) {
		json_int_t n = 0;

		json_array_foreach(c->certificates, i, x)
			n += strcmp(text_of(x, "state"), states[k].state) == 0;
		(void)json_object_set_new(o, states[k].key, json_integer(n));
	}
	json_array_foreach(c->certificates, i, x)
		faulty += text_of(x, "fault")[0] != '\0';
	(void)json_object_set_new(o, "faulty", json_integer(faulty));
	return (o);
}

static void
done_status(struct call *c)
{
	const json_t *bmrd = json_array_get(c->nodes, 0);
	char file[CONF_PATH];
	json_t *gateway, *services;

	if (c->answered == 0) {
		refuse_missing(c, false);
		return;
	}
	bytes_text(bytes_str(c->a->conf->file), file, sizeof(file));
	services = add_up(c->rows, c->a->conf);
	count_backends(c, services);
	gateway = json_pack("{s:I, s:I, s:s, s:I}", "pid", json_integer_value(json_object_get(bmrd, "pid")),
	    "uptime_ms", json_integer_value(json_object_get(bmrd, "uptime_ms")), "configuration", file,
	    "configuration_version", (json_int_t)c->a->conf->version);
	answer(c->req, HTTP_OK, json_pack("{s:o, s:o, s:o, s:O}", "gateway", gateway, "services", services, "certificates",
	    count_certificates(c), "missing", c->missing));
}

static void
audit(const struct call *c, const char *result)
{
	log_notice("change by uid=%d pid=%d: %s reason=<%s>: %s", (int)c->uid, (int)c->pid, c->what, c->reason, result);
}

static void
done_drain(struct call *c)
{
	json_t *b, *mine = NULL;
	size_t i;

	if (c->answered == 0) {		/* with one answer it was that of the change itself */
		audit(c, "no answer");
		refuse_missing(c, true);
		return;
	}
	if (c->code != 0) {
		audit(c, c->why);
		refuse(c->req, HTTP_NOT_FOUND, "%s", c->why);
		return;
	}
	json_array_foreach(c->backends, i, b)
		if (strcmp(text_of(b, "service"), c->arg[0]) == 0 && strcmp(text_of(b, "name"), c->arg[1]) == 0)
			mine = b;
	audit(c, c->why[0] != '\0' ? c->why : "done");
	answer(c->req, HTTP_OK, json_pack("{s:O*, s:s*}", "backend", mine, "warning", c->why[0] != '\0' ? c->why : NULL));
}

/* The session lives with one listener; the others do not know it, and their code is of no interest. */
static void
done_kick(struct call *c)
{
	if (c->good > 0) {
		audit(c, "done");
		answer(c->req, HTTP_OK, json_pack("{s:s, s:b}", "session", c->arg[0], "kicked", 1));
	} else if (json_array_size(c->missing) > 0) {
		audit(c, "no answer");
		refuse_missing(c, true);
	} else {
		audit(c, "no such session");
		refuse(c->req, HTTP_NOT_FOUND, "no session %s", c->arg[0]);
	}
}

static void
done_move(struct call *c)
{
	if (c->good > 0) {
		audit(c, "done");
		answer(c->req, HTTP_OK, json_pack("{s:s, s:b}", "session", c->arg[0], "moving", 1));
	} else
		done_kick(c);
}

static void
done_reload(struct call *c)
{
	if (json_array_size(c->missing) > 0) {
		audit(c, "no answer");
		refuse_missing(c, true);
	} else if (c->code != 0) {
		audit(c, c->why);
		refuse(c->req, HTTP_UNPROCESSABLE, "%s", c->why[0] != '\0' ? c->why : "configuration not changed: see the log");
	} else {
		audit(c, "done");
		answer(c->req, HTTP_OK, json_pack("{s:b, s:I}", "reloaded", 1, "configuration_version",
		    (json_int_t)c->a->conf->version));
	}
}

/* The reports that listeners left. arg empty: of all, without what is long. */
static void
done_crashes(struct call *c)
{
	json_t *list = json_array(), *o;
	char dir[CONF_PATH + 16], path[CONF_PATH + 300];
	struct dirent **name;
	int n;

	snprintf(dir, sizeof(dir), "%s/" CRASH_DIR, c->a->conf->state_dir);
	n = scandir(dir, &name, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		size_t k = strcspn(name[i]->d_name, ".");

		if (name[i]->d_name[0] != '.' && (c->arg[0][0] == '\0' ||
		    (strlen(c->arg[0]) == k && strncmp(c->arg[0], name[i]->d_name, k) == 0))) {
			snprintf(path, sizeof(path), "%s/%s", dir, name[i]->d_name);
			o = json_load_file(path, 0, NULL);
			for (size_t m = 0; c->arg[0][0] == '\0' && m < sizeof(long_parts) / sizeof(long_parts[0]); m++)
				(void)json_object_del(o, long_parts[m]);
			if (json_is_object(o))
				(void)json_array_append(list, o);
			json_decref(o);
		}
		free(name[i]);
	}
	if (n >= 0)
		free(name);
	if (c->arg[0][0] == '\0')
		answer(c->req, HTTP_OK, json_pack("{s:O}", "crashes", list));
	else if (json_array_size(list) == 0)
		refuse(c->req, HTTP_NOT_FOUND, "no report of session %s", c->arg[0]);
	else
		answer(c->req, HTTP_OK, json_incref(json_array_get(list, 0)));
	json_decref(list);
}

static void
done_tls(struct call *c)
{
	answer_rows(c, "certificates", c->certificates);
}

static void
done_tls_reload(struct call *c)
{
	if (json_array_size(c->missing) > 0) {
		audit(c, "no answer");
		refuse_missing(c, true);
	} else if (c->code != 0) {
		audit(c, c->why);
		refuse(c->req, HTTP_UNPROCESSABLE, "%s", c->why);
	} else {
		audit(c, "done");
		answer_rows(c, "certificates", c->certificates);
	}
}

/* The backend belongs to one listener; the others do not know it. */
static void
done_check(struct call *c)
{
	if (json_array_size(c->rows) > 0) {
		audit(c, json_is_true(json_object_get(json_array_get(c->rows, 0), "good")) ? "good" : "not good");
		answer(c->req, HTTP_OK, json_pack("{s:O}", "check", json_array_get(c->rows, 0)));
	} else if (json_array_size(c->missing) > 0) {
		audit(c, "no answer");
		refuse_missing(c, true);
	} else {
		audit(c, c->why[0] != '\0' ? c->why : "no such backend");
		refuse(c->req, c->why[0] != '\0' ? HTTP_UNAVAILABLE : HTTP_NOT_FOUND, "%s%s%s%s", c->why[0] != '\0' ? c->why : "no backend ",
		    c->why[0] != '\0' ? "" : c->arg[0], c->why[0] != '\0' ? "" : "/", c->why[0] != '\0' ? "" : c->arg[1]);
	}
}

/* --- questions ------------------------------------------------------------------------------------------------ */

static void
ask_status(struct call *c)
{
	call_tree(c);
	call_listeners(c, QUERY_STATUS, bytes("", 0));
	call_balancer(c, QUERY_BACKENDS, bytes("", 0));
	if (c->a->conf->ncertificate > 0)
		call_tls(c, QUERY_TLS);
}

static void
ask_tree(struct call *c)
{
	call_tree(c);
}

static void
ask_who(struct call *c)
{
	call_listeners(c, QUERY_WHO, bytes("", 0));
}

static void
ask_backends(struct call *c)
{
	call_balancer(c, QUERY_BACKENDS, bytes("", 0));
}

/* service, name, reason: each ends with a zero octet. Then what it looks like now; a channel keeps the order. */
static void
change_backend(struct call *c, uint32_t what)
{
	const char *part[] = { c->arg[0], c->arg[1], c->reason };
	uint8_t space[sizeof(c->arg) + sizeof(c->reason) + 3];
	struct out o = { space, 0, sizeof(space), false };

	for (size_t i = 0; i < 3; i++)
		out_put(&o, bytes(part[i], strlen(part[i]) + 1));
	call_balancer(c, what, bytes(o.p, o.len));
	call_balancer(c, QUERY_BACKENDS, bytes("", 0));
}

/* service, name, user, password: each ends with a zero octet */
static void
ask_check(struct call *c)
{
	const char *part[] = { c->arg[0], c->arg[1], c->user, c->password };
	uint8_t space[sizeof(c->arg) + sizeof(c->user) + sizeof(c->password) + 4];
	struct out o = { space, 0, sizeof(space), false };

	for (size_t i = 0; i < 4; i++)
		out_put(&o, bytes(part[i], strlen(part[i]) + 1));
	ev_timer_set(&c->deadline, CHECK_MS / 1000., 0.);
	call_protocols(c, QUERY_CHECK, bytes(o.p, o.len));
	explicit_bzero(space, sizeof(space));
}

static void
ask_drain(struct call *c)
{
	change_backend(c, QUERY_DRAIN);
}

static void
ask_ready(struct call *c)
{
	change_backend(c, QUERY_READY);
}

static void
ask_kick(struct call *c)
{
	call_listeners(c, QUERY_KICK, bytes_str(c->arg[0]));
}

static void
ask_move(struct call *c)
{
	call_listeners(c, QUERY_REZYGOTE, bytes_str(c->arg[0]));
}

static void
ask_nobody(struct call *c)
{
	(void)c;
}

static void
ask_tls(struct call *c)
{
	call_tls(c, QUERY_TLS);
}

static void
ask_tls_reload(struct call *c)
{
	call_tls(c, QUERY_TLS_RELOAD);
}

static void
ask_reload(struct call *c)
{
	call_reload(c);
}

/* --- paths ----------------------------------------------------------------------------------------------------- */

static const struct route {
	const char	*method, *path;		/* "*": an argument, in order */
	void		(*ask)(struct call *);
	void		(*done)(struct call *);
} routes[] = {
	{ "GET",  "/v1/status",			ask_status,	done_status },
	{ "GET",  "/v1/tree",			ask_tree,	done_tree },
	{ "GET",  "/v1/who",			ask_who,	done_who },
	{ "GET",  "/v1/backends",		ask_backends,	done_backends },
	{ "GET",  "/v1/crashes",		ask_nobody,	done_crashes },
	{ "GET",  "/v1/crashes/*",		ask_nobody,	done_crashes },
	{ "POST", "/v1/backends/*/*/drain",	ask_drain,	done_drain },
	{ "POST", "/v1/backends/*/*/ready",	ask_ready,	done_drain },
	{ "POST", "/v1/backends/*/*/check",	ask_check,	done_check },
	{ "POST", "/v1/sessions/*/kick",	ask_kick,	done_kick },
	{ "POST", "/v1/sessions/*/move",	ask_move,	done_move },
	{ "GET",  "/v1/tls",			ask_tls,	done_tls },
	{ "POST", "/v1/tls/reload",		ask_tls_reload,	done_tls_reload },
	{ "POST", "/v1/reload",			ask_reload,	done_reload },
};

/* Segment by segment; an argument is not empty and fits. */
static bool
match(const char *pattern, const char *path, char arg[2][128])
{
	struct bytes p = bytes_str(pattern), s = bytes_str(path), a, b;
	int n = 0;

	while (p.n > 0 && s.n > 0) {
		a = bytes_token(&p, '/');
		b = bytes_token(&s, '/');
		if (bytes_eq(a, BYTES("*")) && n < 2 && b.n > 0 && b.n < sizeof(arg[0]))
			bytes_text(b, arg[n++], sizeof(arg[0]));
		else if (!bytes_eq(a, b))
			return (false);
	}
	return (p.n == 0 && s.n == 0 && path[strlen(path) - 1] != '/');
}

static const struct route *
find(const struct http_call *h, char arg[2][128], const char **allow)
{
	bool head = strcmp(h->method, "HEAD") == 0;

	*allow = NULL;
	for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
		if (!match(routes[i].path, h->path, arg))
			continue;
		if (strcmp(head ? "GET" : h->method, routes[i].method) == 0)
			return (&routes[i]);
		*allow = routes[i].method;
	}
	return (NULL);
}

/* A member of a check's body; true if it is there and fits. */
static bool
take_text(const json_t *o, const char *key, char *dst, size_t size)
{
	const char *s = json_string_value(json_object_get(o, key));

	if (s == NULL || strlen(s) >= size)
		return (false);
	memcpy(dst, s, strlen(s) + 1);
	return (true);
}

/* {"reason": "text"}, or nothing at all; for a check {"user": ..., "password": ...} besides. 0, or -1 and what is wrong. */
static int
take_reason(struct call *c, struct bytes body, char *dst, size_t size, const char **wrong)
{
	size_t others = 0;

	const json_t *reason;
	const char *s;
	json_t *o;

	dst[0] = '\0';
	if (body.n == 0)
		return (0);
	o = json_loadb((const char *)body.p, body.n, 0, NULL);
	*wrong = "the body is not a JSON object: expected {\"reason\": \"text\"}";
	if (!json_is_object(o))
		goto bad;
	*wrong = "the body has a member that is not known: expected {\"reason\": \"text\"}";
	reason = json_object_get(o, "reason");
	if (c->done == done_check)
		others = take_text(o, "user", c->user, sizeof(c->user)) + take_text(o, "password", c->password, sizeof(c->password));
	if (json_object_size(o) != (reason != NULL) + others) {
		if (c->done == done_check && (json_is_string(json_object_get(o, "user")) || json_is_string(json_object_get(o, "password"))))
			*wrong = "expected a user of at most 63 octets and a password of at most 127";
		goto bad;
	}
	*wrong = "the reason is not a text";
	if (reason != NULL && !json_is_string(reason))
		goto bad;
	*wrong = "the reason is too long";
	s = reason != NULL ? json_string_value(reason) : "";
	if (strlen(s) >= size)
		goto bad;
	bytes_text(bytes_str(s), dst, size);
	json_decref(o);
	return (0);
bad:
	json_decref(o);
	return (-1);
}

void
api_handle(void *self, struct http_req *req, const struct http_call *h)
{
	char arg[2][128] = { "", "" };
	const char *allow, *wrong;
	const struct route *r = find(h, arg, &allow);
	struct call *c;

	if (r == NULL && allow != NULL) {
		http_allow(req, allow);
		refuse(req, HTTP_METHOD, "this path is for %s", allow);
		return;
	}
	if (r == NULL) {
		refuse(req, HTTP_NOT_FOUND, "no such path: see bmr(8)");
		return;
	}
	if ((c = call_new(self, req, r->done)) == NULL) {
		refuse(req, HTTP_UNAVAILABLE, "out of memory");
		return;
	}
	if (take_reason(c, h->body, c->reason, sizeof(c->reason), &wrong) == -1) {
		refuse(req, HTTP_BAD, "%s", wrong);
		call_free(c);
		return;
	}
	memcpy(c->arg, arg, sizeof(c->arg));
	snprintf(c->what, sizeof(c->what), "%s", h->path);
	c->uid = h->uid;
	c->pid = h->pid;
	r->ask(c);
	call_ready(c);
}
