/*
 * log - one line to syslog (facility mail) or stderr, on a descriptor handed down by bmrd
 *
 * Lines are "bmr/NAME[PID]: text". Control characters and bytes >= 0x80 are escaped, lines cut at 1,000 octets.
 * Works in an empty root and under seccomp (one send(2) or write(2) a line); never blocks; a line that
 * the receiver does not take is dropped and counted. No secrets are ever passed here.
 */
#ifndef SUPERVISOR_LOG_H
#define SUPERVISOR_LOG_H

#include <stdbool.h>
#include <syslog.h>

enum { LOG_FD = 4 };

/* name: what the process is ("smtp/listener"); kept. verbose: -v, shows LOG_DEBUG. */
void	log_open(const char *name, bool verbose);
/* A fork of that process is another one; kept. */
void	log_rename(const char *name);
/* Only bmrd: connects LOG_FD to /dev/log, or makes it stderr when to_stderr. Before any child. */
void	log_setup(bool to_stderr);
/* Only bmrd, now and then: a new syslogd is connected to, for all processes, which have the socket in common. */
void	log_again(void);

void	log_at(int priority, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define	log_debug(...)	do { if (log_verbose()) log_at(LOG_DEBUG, __VA_ARGS__); } while (0)
#define	log_info(...)	log_at(LOG_INFO, __VA_ARGS__)
#define	log_notice(...)	log_at(LOG_NOTICE, __VA_ARGS__)
#define	log_warnx(...)	log_at(LOG_WARNING, __VA_ARGS__)
#define	log_errx(...)	log_at(LOG_ERR, __VA_ARGS__)
void	log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));	/* with ": strerror(errno)" */
bool	log_verbose(void);

/* The operator's fault: logs and exits with a code of sysexits.h. Not reachable from network or peers. */
_Noreturn void fatal(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Our own fault: logs and aborts. */
_Noreturn void bug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
