/* bmr_request - one request of the bmr command to the gateway's API */
#ifndef WORKERS_ADMIN_BMR_REQUEST_H
#define WORKERS_ADMIN_BMR_REQUEST_H

#include <stddef.h>

enum { ANSWER_MAX = 256 << 20, TIMEOUT_MS = 30000 };

struct request {
	const char	*socket, *method, *reason, *user;	/* NULL: none */
	char		 password[128];
	char		 path[1024];
};
struct reply {
	char		*text;
	size_t		 n;
	long		 status;
};

/* One line on standard error; returns code. */
__attribute__((format(printf, 2, 3))) int	fail(int code, const char *fmt, ...);
/* 0, or a code of sysexits.h after one line. The reply's text is the caller's to free. */
int	perform(const struct request *, struct reply *);

#endif
