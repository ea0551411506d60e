/* bmr_request - see bmr_request.h; HTTP over a Unix socket, by libcurl */
#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "workers/admin/bmr_request.h"

int
fail(int code, const char *fmt, ...)
{
	va_list ap;

	fputs("bmr: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return (code);
}

static size_t
on_data(char *data, size_t size, size_t n, void *arg)
{
	struct reply *r = arg;
	char *p;

	n *= size;
	if (n > ANSWER_MAX - r->n || (p = realloc(r->text, r->n + n + 1)) == NULL)
		return (0);
	memcpy(p + r->n, data, n);
	r->text = p;
	r->n += n;
	r->text[r->n] = '\0';
	return (n);
}

/* The body of a change: {"reason": "..."}, for a check user and password besides. NULL: not UTF-8. */
static char *
reason_body(const struct request *q)
{
	json_t *o = json_pack("{s:s*, s:s*, s:s*}", "reason", q->reason, "user", q->user, "password", q->user != NULL ? q->password : NULL);
	char *text = o != NULL ? json_dumps(o, JSON_COMPACT) : NULL;

	json_decref(o);
	return (text);
}

static int
not_there(const struct request *q, CURL *curl, CURLcode e)
{
	long err = 0;

	curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &err);
	if (e == CURLE_OPERATION_TIMEDOUT)
		return (fail(EX_TEMPFAIL, "%s: no answer in %d s", q->socket, TIMEOUT_MS / 1000));
	if (e != CURLE_COULDNT_CONNECT)
		return (fail(EX_TEMPFAIL, "%s: %s", q->socket, curl_easy_strerror(e)));
	if (err == EACCES || err == EPERM)
		return (fail(EX_NOPERM, "%s: %s", q->socket, strerror((int)err)));
	if (err == EAGAIN || err == 0)		/* libcurl loses it */
		return (fail(EX_TEMPFAIL, "%s: too many connections: try again", q->socket));
	return (fail(EX_UNAVAILABLE, "%s: %s: is bmrd running?", q->socket, err != 0 ? strerror((int)err) :
	    curl_easy_strerror(e)));
}

int
perform(const struct request *q, struct reply *r)
{
	struct curl_slist *type = curl_slist_append(NULL, "Content-Type: application/json");
	CURL *curl = curl_easy_init();
	char url[1100], *body = NULL;
	int code = 0;
	CURLcode e;

	if (curl == NULL || type == NULL) {
		code = fail(EX_OSERR, "out of memory");
		goto out;
	}
	snprintf(url, sizeof(url), "http://localhost%s", q->path);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, q->socket);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)TIMEOUT_MS);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, r);
	if (strcmp(q->method, "POST") == 0) {
		if ((body = reason_body(q)) == NULL) {
			code = fail(EX_USAGE, "the reason is not UTF-8");
			goto out;
		}
		curl_easy_setopt(curl, CURLOPT_HTTPHEADER, type);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
	}
	if ((e = curl_easy_perform(curl)) != CURLE_OK)
		code = not_there(q, curl, e);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &r->status);
out:
	free(body);
	curl_slist_free_all(type);
	curl_easy_cleanup(curl);
	return (code);
}
