/*
 * callas - makes a system call in the name of a process: callas PID NUMBER [ARGUMENT...]
 *
 * Arguments that are not given are zeros. Says "signal N" (that it died of), "exit N", or "returned N". x86-64 alone: elsewhere "unknown".
 */
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef __x86_64__
enum { ARGS = 4 };

static int
fail(const char *what)
{
	perror(what);
	return (1);
}

int
main(int argc, char **argv)
{
	pid_t pid = argc >= 3 && argc <= 3 + ARGS ? (pid_t)strtol(argv[1], NULL, 10) : 0;
	unsigned long long arg[ARGS] = { 0 };
	struct user_regs_struct was, r;
	int status;

	if (pid <= 0)
		return (fprintf(stderr, "usage: callas PID NUMBER [ARGUMENT...]\n"), 64);
	for (int i = 3; i < argc; i++)
		arg[i - 3] = strtoull(argv[i], NULL, 10);
	if (ptrace(PTRACE_SEIZE, pid, 0, 0) == -1 || ptrace(PTRACE_INTERRUPT, pid, 0, 0) == -1 ||
	    waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status) || ptrace(PTRACE_GETREGS, pid, 0, &was) == -1)
		return (fail("stop"));
	r = was;		/* it waits in a call: behind its instruction, of two octets */
	r.rip -= 2;
	r.orig_rax = (unsigned long long)-1;
	r.rax = strtoull(argv[2], NULL, 10);
	r.rdi = arg[0];
	r.rsi = arg[1];
	r.rdx = arg[2];
	r.r10 = arg[3];
	r.r8 = r.r9 = 0;
	if (ptrace(PTRACE_SETREGS, pid, 0, &r) == -1 || ptrace(PTRACE_SINGLESTEP, pid, 0, 0) == -1 || waitpid(pid, &status, 0) != pid)
		return (fail("step"));
	if (WIFSIGNALED(status))
		return (printf("signal %d\n", WTERMSIG(status)), 0);
	if (WIFEXITED(status))
		return (printf("exit %d\n", WEXITSTATUS(status)), 0);
	if (ptrace(PTRACE_GETREGS, pid, 0, &r) == -1)
		return (fail("result"));
	printf("returned %lld\n", (long long)r.rax);
	was.rax = (unsigned long long)-EINTR;	/* as if its own call had been interrupted */
	was.orig_rax = (unsigned long long)-1;
	if (ptrace(PTRACE_SETREGS, pid, 0, &was) == -1 || ptrace(PTRACE_DETACH, pid, 0, 0) == -1)
		return (fail("go on"));
	return (0);
}
#else
int
main(void)
{
	puts("unknown");
	return (0);
}
#endif
