/*
 * http - HTTP on a Unix socket: libmicrohttpd, its epoll descriptor watched by the worker's loop
 *
 * The only file that includes <microhttpd.h>. Bounded: 32 connections, 4 KiB of a request's body, 10 s of silence.
 * A request is given to the handler once, whole, and is answered exactly once, at once or later.
 */
#ifndef WORKERS_ADMIN_HTTP_H
#define WORKERS_ADMIN_HTTP_H

#include <ev.h>
#include <sys/types.h>

#include "supervisor/buf.h"

enum {
	HTTP_OK = 200, HTTP_BAD = 400, HTTP_NOT_FOUND = 404, HTTP_METHOD = 405, HTTP_TOO_LARGE = 413,
	HTTP_UNPROCESSABLE = 422, HTTP_INTERNAL = 500, HTTP_UNAVAILABLE = 503, HTTP_TIMEOUT = 504
};
enum { HTTP_CONNECTIONS = 32, HTTP_BODY = 4096 };

struct http;
struct http_req;			/* valid until it is answered */

struct http_call {			/* lent for the time of the handler's call */
	const char	*method, *path;		/* path: unescaped, without the query */
	struct bytes	 body;
	uid_t		 uid;			/* of the process that asks */
	pid_t		 pid;
};
typedef void	http_handler(void *self, struct http_req *, const struct http_call *);

/* A listening Unix socket of mode 0660 that belongs to uid and gid ((uid_t)-1: unchanged). A socket that lies there is
 * removed, any other file is not. -1 and errno (EEXIST: there is something else; ENAMETOOLONG). */
int	http_listen(const char *path, uid_t uid, gid_t gid);
/* Takes fd. NULL: the library would not start. */
struct http *http_start(struct ev_loop *, int fd, http_handler *, void *self);
/* Ends all connections; what was not answered is answered 503. NULL is accepted. */
void	http_stop(struct http *);
/* Takes json (from malloc; NULL: 500 and no body), which is sent as application/json. */
void	http_answer(struct http_req *, unsigned int status, char *json);
/* Before a 405: the method that there is; kept by pointer. */
void	http_allow(struct http_req *, const char *method);

#endif
