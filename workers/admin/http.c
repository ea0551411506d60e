/*
 * http - see http.h; touches its socket, its connections and one timer
 *
 *	READING -> HANDLING (the handler runs) -> ANSWERED;  HANDLING -> SUSPENDED (answered later) -> ANSWERED
 *
 * Invariant: a suspended connection is resumed only by http_answer, so that a request lives until it is answered.
 */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <bsd/sys/queue.h>
#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/admin/http.h"

enum { TIMEOUT_S = 10, MEMORY = 16384, BODY_DISCARD = 65536, BACKLOG = 64 };
enum req_state { READING, HANDLING, SUSPENDED, ANSWERED };

struct http_req {
	struct http		*h;
	struct MHD_Connection	*conn;
	enum req_state		 state;
	size_t			 n;		/* octets of the body, those that did not fit included */
	unsigned int		 status;
	const char		*allow;
	struct MHD_Response	*response;
	TAILQ_ENTRY(http_req)	 link;
	uint8_t			 body[HTTP_BODY];
};

struct http {
	struct ev_loop		*loop;
	struct MHD_Daemon	*daemon;
	http_handler		*handler;
	void			*self;
	ev_io			 io;
	ev_timer		 timer;
	TAILQ_HEAD(, http_req)	 reqs;
};

/* --- the socket ---------------------------------------------------------------------------------------------- */

static int
remove_stale(const char *path)
{
	struct stat st;

	if (lstat(path, &st) == -1)
		return (errno == ENOENT ? 0 : -1);
	if (!S_ISSOCK(st.st_mode)) {
		errno = EEXIST;
		return (-1);
	}
	return (unlink(path));
}

int
http_listen(const char *path, uid_t uid, gid_t gid)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	mode_t mask;
	int fd, r, e;

	if (strlen(path) >= sizeof(a.sun_path)) {
		errno = ENAMETOOLONG;
		return (-1);
	}
	memcpy(a.sun_path, path, strlen(path));
	if (remove_stale(path) == -1)
		return (-1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd == -1)
		return (-1);
	mask = umask(0117);		/* 0660 from its first moment */
	r = bind(fd, (const struct sockaddr *)&a, sizeof(a));
	e = errno;
	(void)umask(mask);
	errno = e;
	if (r == -1)
		goto err1;
	if ((uid != (uid_t)-1 || gid != (gid_t)-1) && lchown(path, uid, gid) == -1)
		goto err2;
	if (listen(fd, BACKLOG) == -1)
		goto err2;
	return (fd);
err2:
	e = errno;
	unlink(path);
	errno = e;
err1:
	e = errno;
	close(fd);
	errno = e;
	return (-1);
}

/* --- libmicrohttpd's turns ----------------------------------------------------------------------------------- */

static void
arm(struct http *h)
{
	MHD_UNSIGNED_LONG_LONG ms;

	ev_timer_stop(h->loop, &h->timer);
	if (MHD_get_timeout(h->daemon, &ms) != MHD_YES)
		return;
	ev_timer_set(&h->timer, (double)ms / 1000., 0.);
	ev_timer_start(h->loop, &h->timer);
}

/* The library has something to do that no descriptor tells: in this mode a resumed connection is one. */
static void
soon(struct http *h)
{
	ev_timer_stop(h->loop, &h->timer);
	ev_timer_set(&h->timer, 0., 0.);
	ev_timer_start(h->loop, &h->timer);
}

static void
on_epoll(struct ev_loop *loop, ev_io *io, int events)
{
	struct http *h = io->data;

	(void)loop, (void)events;
	(void)MHD_run(h->daemon);
	arm(h);
}

static void
on_timer(struct ev_loop *loop, ev_timer *t, int events)
{
	struct http *h = t->data;

	(void)loop, (void)events;
	(void)MHD_run(h->daemon);
	arm(h);
}

/* --- a request ----------------------------------------------------------------------------------------------- */

static void
hand_over(struct http_req *r, const char *method, const char *path)
{
	struct http_call c = { .method = method, .path = path, .body = bytes(r->body, r->n), .uid = (uid_t)-1 };
	const union MHD_ConnectionInfo *i = MHD_get_connection_info(r->conn, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ucred who;
	socklen_t len = sizeof(who);

	if (i != NULL && getsockopt(i->connect_fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0) {
		c.uid = who.uid;
		c.pid = who.pid;
	}
	r->state = HANDLING;
	if (r->n > sizeof(r->body))
		http_answer(r, HTTP_TOO_LARGE, strdup("{\"error\": \"the request's body is too large\"}\n"));
	else
		r->h->handler(r->h->self, r, &c);
	if (r->state == HANDLING) {
		r->state = SUSPENDED;
		MHD_suspend_connection(r->conn);
	}
}

/* A path ends where it ends, not at an octet %00 within it. */
static size_t
unescape(void *self, struct MHD_Connection *conn, char *s)
{
	size_t n = MHD_http_unescape(s);

	(void)self, (void)conn;
	for (size_t i = 0; i < n; i++)
		if (s[i] == '\0')
			s[i] = '?';
	return (n);
}

static enum MHD_Result
take_body(struct http_req *r, const char *data, size_t *n)
{
	if (*n > BODY_DISCARD - r->n)
		return (MHD_NO);	/* closes: no answer is worth reading all that for */
	if (r->n + *n <= sizeof(r->body))
		memcpy(r->body + r->n, data, *n);
	r->n += *n;
	*n = 0;
	return (MHD_YES);
}

static enum MHD_Result
reply(struct http_req *r)
{
	enum MHD_Result done;

	if (r->response == NULL)
		return (MHD_NO);
	done = MHD_queue_response(r->conn, r->status, r->response);
	MHD_destroy_response(r->response);
	r->response = NULL;
	return (done);
}

static enum MHD_Result
on_request(void *self, struct MHD_Connection *conn, const char *url, const char *method, const char *version,
    const char *data, size_t *n, void **slot)
{
	struct http *h = self;
	struct http_req *r = *slot;

	(void)version;
	if (r == NULL) {
		if ((r = calloc(1, sizeof(*r))) == NULL)
			return (MHD_NO);
		r->h = h;
		r->conn = conn;
		TAILQ_INSERT_TAIL(&h->reqs, r, link);
		*slot = r;
		return (MHD_YES);
	}
	if (*n != 0)
		return (r->state == READING ? take_body(r, data, n) : MHD_NO);
	if (r->state == READING)
		hand_over(r, method, url);
	return (r->state == ANSWERED ? reply(r) : MHD_YES);
}

static void
on_completed(void *self, struct MHD_Connection *conn, void **slot, enum MHD_RequestTerminationCode why)
{
	struct http *h = self;
	struct http_req *r = *slot;

	(void)conn, (void)why;
	if (r == NULL)
		return;
	TAILQ_REMOVE(&h->reqs, r, link);
	if (r->response != NULL)
		MHD_destroy_response(r->response);
	free(r);
	*slot = NULL;
}

void
http_allow(struct http_req *r, const char *method)
{
	r->allow = method;
}

void
http_answer(struct http_req *r, unsigned int status, char *json)
{
	enum req_state was = r->state;

	if (was == ANSWERED) {
		free(json);
		return;
	}
	r->status = json != NULL ? status : HTTP_INTERNAL;
	r->response = json != NULL ? MHD_create_response_from_buffer(strlen(json), json, MHD_RESPMEM_MUST_FREE) :
	    MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
	if (r->response == NULL)
		free(json);
	else {
		(void)MHD_add_response_header(r->response, "Content-Type", "application/json");
		(void)MHD_add_response_header(r->response, "Cache-Control", "no-store");
		if (r->allow != NULL)
			(void)MHD_add_response_header(r->response, "Allow", r->allow);
	}
	r->state = ANSWERED;
	if (was == SUSPENDED) {
		MHD_resume_connection(r->conn);
		soon(r->h);
	}
}

/* --- start and stop ------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 0))) static void
on_log(void *self, const char *fmt, va_list ap)
{
	char text[400];

	(void)self;
	if (!log_verbose())
		return;
	vsnprintf(text, sizeof(text), fmt, ap);
	text[strcspn(text, "\n")] = '\0';
	log_debug("libmicrohttpd: %s", text);
}

struct http *
http_start(struct ev_loop *loop, int fd, http_handler *handler, void *self)
{
	struct http *h = calloc(1, sizeof(*h));
	const union MHD_DaemonInfo *i;

	if (h == NULL)
		goto err0;
	h->loop = loop;
	h->handler = handler;
	h->self = self;
	TAILQ_INIT(&h->reqs);
	h->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request,
	    h, MHD_OPTION_EXTERNAL_LOGGER, on_log, h, MHD_OPTION_LISTEN_SOCKET, fd,
	    MHD_OPTION_CONNECTION_LIMIT, (unsigned int)HTTP_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
	    (unsigned int)TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY, MHD_OPTION_NOTIFY_COMPLETED,
	    on_completed, h, MHD_OPTION_UNESCAPE_CALLBACK, unescape, h, MHD_OPTION_END);
	if (h->daemon == NULL)
		goto err1;
	if ((i = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)) == NULL)
		goto err2;
	ev_io_init(&h->io, on_epoll, i->epoll_fd, EV_READ);
	ev_timer_init(&h->timer, on_timer, 0., 0.);
	h->io.data = h->timer.data = h;
	ev_io_start(loop, &h->io);
	arm(h);
	return (h);
err2:
	MHD_stop_daemon(h->daemon);	/* closes fd */
	free(h);
	return (NULL);
err1:
	free(h);
err0:
	close(fd);
	return (NULL);
}

void
http_stop(struct http *h)
{
	struct http_req *r;

	if (h == NULL)
		return;
	TAILQ_FOREACH(r, &h->reqs, link)
		if (r->state == SUSPENDED)
			http_answer(r, HTTP_UNAVAILABLE, strdup("{\"error\": \"the gateway stops\"}\n"));
	(void)MHD_run(h->daemon);
	ev_io_stop(h->loop, &h->io);
	ev_timer_stop(h->loop, &h->timer);
	MHD_stop_daemon(h->daemon);
	free(h);
}
