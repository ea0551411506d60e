/* child - see child.h; touches processes */
#include <bsd/unistd.h>
#include <sys/wait.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/chan.h"
#include "supervisor/child.h"
#include "supervisor/log.h"
#include "supervisor/worker.h"

enum { ERR_FD = 6, ENV_MAX = 16 };

static void
build_env(char *env[ENV_MAX], char path[])
{
	static const char *const kept[] = { "TZ=", "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "LSAN_OPTIONS=" };
	int n = 0;

	env[n++] = path;
	for (char **e = environ; *e != NULL; e++)
		for (size_t k = 0; k < sizeof(kept) / sizeof(kept[0]) && n < ENV_MAX - 1; k++)
			if (strncmp(*e, kept[k], strlen(kept[k])) == 0)
				env[n++] = *e;
	env[n] = NULL;
}

/* Moves four descriptors to their places without one overwriting another. */
static int
place(const int from[4])
{
	static const int to[4] = { SUP_FD, LOG_FD, CONF_FD, ERR_FD };
	int tmp[4];

	for (int i = 0; i < 4; i++)
		if ((tmp[i] = fcntl(from[i], F_DUPFD, 16)) == -1)
			return (-1);
	for (int i = 0; i < 4; i++)
		if (dup2(tmp[i], to[i]) == -1)
			return (-1);
	return (fcntl(ERR_FD, F_SETFD, FD_CLOEXEC));
}

_Noreturn static void
run(const struct spec *s, const struct child_env *e, uint64_t generation, const int from[4])
{
	char image[512], gen[24], path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", flags[2] = { e->verbose ? 'v' : '-' };
	char *env[ENV_MAX], *argv[4 + SPEC_ARGS + 1];
	int n = 0, null, err;
	sigset_t none;

	sigemptyset(&none);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	if (place(from) == -1 || (null = open("/dev/null", O_RDWR)) == -1)
		goto fail;
	dup2(null, 0);
	dup2(null, 1);
	if (!e->keep_stderr)
		dup2(null, 2);
	closefrom(ERR_FD + 1);
	snprintf(image, sizeof(image), "%s/%s", e->directory, s->image);
	snprintf(gen, sizeof(gen), "%llu", (unsigned long long)generation);
	argv[n++] = image;
	argv[n++] = (char *)(uintptr_t)s->id;
	argv[n++] = gen;
	argv[n++] = flags;
	for (int i = 0; i < SPEC_ARGS && s->args[i][0] != '\0'; i++)
		argv[n++] = (char *)(uintptr_t)s->args[i];
	argv[n] = NULL;
	build_env(env, path);
	execve(image, argv, env);
fail:
	err = errno;
	(void)!write(ERR_FD, &err, sizeof(err));
	_exit(127);
}

pid_t
child_spawn(const struct spec *s, const struct child_env *e, uint64_t generation, int *chan_fd)
{
	int ch[2], err[2], code = 0, saved;
	pid_t pid = -1;
	ssize_t n;

	if (chan_pair(ch) == -1)
		return (-1);
	if (pipe2(err, O_CLOEXEC) == -1)
		goto out1;
	pid = fork();
	if (pid == 0) {
		const int from[4] = { ch[1], LOG_FD, e->conf_fd, err[1] };

		run(s, e, generation, from);
	}
	saved = errno;
	close(err[1]);
	if (pid == -1)
		code = saved;
	else {
		/* returns at the exec, which closes the other end: the only wait of the root, bounded by the kernel */
		do
			n = read(err[0], &code, sizeof(code));
		while (n == -1 && errno == EINTR);
		if (n != sizeof(code))
			code = 0;
	}
	close(err[0]);
	close(ch[1]);
	if (code != 0) {
		close(ch[0]);
		if (pid > 0)
			(void)waitpid(pid, NULL, 0);	/* it has nothing more to do than to exit */
		errno = code;
		return (-1);
	}
	*chan_fd = ch[0];
	return (pid);
out1:
	close(ch[0]);
	close(ch[1]);
	return (-1);
}

void
child_signal(pid_t pid, int sig)
{
	if (pid > 0) {
		kill(pid, sig);
		kill(pid, SIGCONT);
	}
}
