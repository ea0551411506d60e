/*
 * killat - kills a process right after its n-th system call: killat PID N; or another one at that moment: killat PID N VICTIM
 *
 * Says "ready" when it has hold of the process, then "killed NUMBER" (of that call) or "ended COUNT": the process came to
 * its end after that many. The victim has closed all that it had before the process goes on. Between two calls nothing is visible to others, so that n from 1 on until "ended" is every
 * point at which a process can be killed, as far as others can tell.
 */
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int
fail(const char *what)
{
	perror(what);
	return (1);
}

/* Waits until it is gone or a zombie. */
static void
kill_other(pid_t pid)
{
	char path[64], stat[512], *end;
	ssize_t n = 1;
	int fd;

	kill(pid, SIGKILL);
	snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
	for (int i = 0; i < 5000 && n > 0; i++, usleep(1000)) {
		if ((fd = open(path, O_RDONLY)) == -1)
			return;
		n = read(fd, stat, sizeof(stat) - 1);
		close(fd);
		stat[n > 0 ? n : 0] = '\0';
		if ((end = strrchr(stat, ')')) != NULL && end[1] == ' ' && end[2] == 'Z')
			return;
	}
}

int
main(int argc, char **argv)
{
	pid_t pid = argc >= 3 ? (pid_t)strtol(argv[1], NULL, 10) : 0, victim = argc == 4 ? (pid_t)strtol(argv[3], NULL, 10) : 0;
	long n = argc >= 3 ? strtol(argv[2], NULL, 10) : 0, calls = 0;
	struct ptrace_syscall_info info;
	int status, sig;

	if (pid <= 0 || n <= 0 || argc > 4)
		return (fprintf(stderr, "usage: killat PID N [VICTIM]\n"), 64);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) == -1 || ptrace(PTRACE_INTERRUPT, pid, 0, 0) == -1)
		return (fail("seize"));
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status) || ptrace(PTRACE_SYSCALL, pid, 0, 0) == -1)
		return (fail("interrupt"));
	puts("ready");
	for (;;) {
		if (waitpid(pid, &status, 0) != pid)
			return (fail("waitpid"));
		if (!WIFSTOPPED(status))
			return (printf("ended %ld\n", calls), 0);
		sig = WSTOPSIG(status);
		if (sig == (SIGTRAP | 0x80)) {
			sig = 0;
			if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) == -1)
				return (fail("info"));
			if (info.op == PTRACE_SYSCALL_INFO_EXIT && ++calls == n && victim > 0) {
				kill_other(victim);
				ptrace(PTRACE_DETACH, pid, 0, 0);
				return (printf("killed %ld\n", calls), 0);
			}
			if (info.op == PTRACE_SYSCALL_INFO_EXIT && calls == n) {
				kill(pid, SIGKILL);
				if (waitpid(pid, &status, 0) != pid)
					return (fail("waitpid"));
				return (printf("killed %ld\n", calls), 0);
			}
		} else if (status >> 16 != 0)
			sig = 0;	/* an event of ptrace's own */
		if (ptrace(PTRACE_SYSCALL, pid, 0, sig) == -1 && errno != ESRCH)
			return (fail("go on"));
	}
}
