/* log - see log.h; touches LOG_FD alone */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "supervisor/log.h"

enum { LINE = 1000 };

static const char *self_name = "bmrd";
static bool self_verbose, is_socket, is_syslog;	/* systemd(1) gives a stream socket as stderr: not syslog's */
static unsigned long dropped;

void
log_open(const char *name, bool verbose)
{
	socklen_t len = sizeof(int);
	int type = 0;
	struct stat st;

	self_name = name;
	self_verbose = verbose;
	is_socket = fstat(LOG_FD, &st) == 0 && S_ISSOCK(st.st_mode);
	is_syslog = is_socket && getsockopt(LOG_FD, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_DGRAM;
}

void
log_rename(const char *name)
{
	self_name = name;
}

static int
to_syslog(int fd)
{
	const struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "/dev/log" };

	return (connect(fd, (const struct sockaddr *)&a, sizeof(a)));
}

void
log_setup(bool to_stderr)
{
	int fd = to_stderr ? -1 : socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;

	if (fd != -1)
		(void)to_syslog(fd);	/* else log_again() will */
	else if (fstat(STDERR_FILENO, &st) == 0 && S_ISFIFO(st.st_mode))	/* who reads it may stop: not a reason for us to */
		fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd == -1)
		dup2(STDERR_FILENO, LOG_FD);
	else if (fd != LOG_FD) {
		dup2(fd, LOG_FD);
		close(fd);
	}
}

void
log_again(void)
{
	struct sockaddr_un a;
	socklen_t len = sizeof(a);

	/* the first line that a dead one does not take ends the connection of all, the next one is everybody's, too */
	if (is_syslog && getpeername(LOG_FD, (struct sockaddr *)&a, &len) == -1 && errno == ENOTCONN)
		(void)to_syslog(LOG_FD);
}

bool
log_verbose(void)
{
	return (self_verbose);
}

static size_t
head(char *line, size_t size, int priority)
{
	char when[32];
	time_t t = time(NULL);
	struct tm tm;
	int n;

	if (is_syslog) {
		n = snprintf(line, size, "<%d>bmr/%s[%d]: ", LOG_MAIL | priority, self_name, (int)getpid());
	} else {
		if (gmtime_r(&t, &tm) == NULL || strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
			when[0] = '\0';
		n = snprintf(line, size, "%s bmr/%s[%d]: ", when, self_name, (int)getpid());
	}
	return (n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1);
}

static void
emit(int priority, const char *text)
{
	char line[LINE + 2];
	size_t n = head(line, LINE, priority);

	for (; *text != '\0' && n + 4 < LINE; text++) {
		unsigned char c = (unsigned char)*text;

		if (c < 0x20 || c >= 0x7f)
			n += (size_t)snprintf(line + n, 5, "\\x%02x", c);
		else
			line[n++] = (char)c;
	}
	if (!is_syslog)
		line[n++] = '\n';
	if ((is_socket ? send(LOG_FD, line, n, MSG_DONTWAIT | MSG_NOSIGNAL) : write(LOG_FD, line, n)) == -1)
		dropped++;
}

void
log_at(int priority, const char *fmt, ...)
{
	char text[LINE];
	int e = errno;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	emit(priority, text);
	errno = e;
}

void
log_warn(const char *fmt, ...)
{
	char text[LINE];
	int e = errno;
	size_t n;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	n = strlen(text);
	snprintf(text + n, sizeof(text) - n, ": %s", strerror(e));
	emit(LOG_WARNING, text);
	errno = e;
}

void
fatal(int code, const char *fmt, ...)
{
	char text[LINE];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	emit(LOG_CRIT, text);
	exit(code);
}

void
bug(const char *fmt, ...)
{
	char text[LINE];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	emit(LOG_CRIT, text);
	abort();
}
