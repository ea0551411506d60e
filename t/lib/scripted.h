/*
 * scripted - a child of the supervisor that does what its script says, behind the frame of every worker (supervisor/worker.h)
 *
 * It writes what becomes of it into descriptor 5, where others have their configuration: "ID started", "ID asked" (to stop), and
 * "ID twice" if one of that id is alive already. The script is its first argument: a word for each start, the last for all to come.
 *
 *	up	serves until it is told to stop		slow	told to stop, waits for SIGUSR1
 *	fail	ends before READY			deaf	hears neither STOP nor SIGTERM
 *	mute	never says READY			term	does not hear STOP
 *	dirty	told to stop, ends with 3
 *
 * SIGUSR1 and SIGUSR2 end it with 0 and 3.
 */
#ifndef T_LIB_SCRIPTED_H
#define T_LIB_SCRIPTED_H

#include <sys/socket.h>
#include <sys/un.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/worker.h"

enum { TEXT = 1 << 20 };

static char word[32];		/* of this start */

static inline size_t
all_of(int fd, char *text, size_t size)
{
	ssize_t n = pread(fd, text, size - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	return (n > 0 ? (size_t)n : 0);
}

static inline uint32_t
times(const char *text, const char *what)
{
	uint32_t n = 0;

	for (const char *p = text; (p = strstr(p, what)) != NULL; p++)
		n++;
	return (n);
}

static inline void
note(const char *id, const char *what)
{
	char line[96];
	int n = snprintf(line, sizeof(line), "%s %s\n", id, what);

	(void)!write(CONF_FD, line, (size_t)n);
}

static inline void
leave(int sig)
{
	_exit(sig == SIGUSR1 ? 0 : 3);
}

/* Two of one id cannot both have its name. */
static inline void
alone(const char *id)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "suptree-%d-%s", (int)getppid(), id);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) == -1)
		note(id, "twice");
}

static inline int
child_start(struct worker *w, int argc, char **argv)
{
	static char text[TEXT];
	char line[96];
	const char *script = argc > 4 ? argv[4] : "up", *next;
	uint32_t before;

	signal(SIGUSR1, leave);
	signal(SIGUSR2, leave);
	alone(w->id);
	(void)all_of(CONF_FD, text, sizeof(text));
	snprintf(line, sizeof(line), "\n%s started\n", w->id);
	before = times(text, line);
	for (; before > 0 && (next = strchr(script, ',')) != NULL; before--)
		script = next + 1;
	snprintf(word, sizeof(word), "%.*s", (int)strcspn(script, ","), script);
	note(w->id, "started");
	if (strcmp(word, "fail") == 0)
		return (3);
	if (strcmp(word, "deaf") == 0)
		signal(SIGTERM, SIG_IGN);
	while (strcmp(word, "mute") == 0)
		pause();
	return (0);
}

static inline void
child_stop(struct worker *w, uint64_t deadline, bool again)
{
	(void)deadline, (void)again;
	note(w->id, "asked");
	if (strcmp(word, "up") == 0 || strcmp(word, "dirty") == 0)
		worker_end(w, word[0] == 'u' ? 0 : 3);
}

static inline int
scripted_main(int argc, char **argv)
{
	static const struct worker_ops ops = { .role = 1, .start = child_start, .stop = child_stop };

	return (worker_main(&ops, argc, argv));
}

#endif
