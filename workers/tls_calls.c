/*
 * tls_calls - all the system calls that the keeper of keys and a tls process ever make
 *
 * The keeper reads files and forks; it can open no network socket and run no program. A tls process can neither open a file
 * nor a socket: what it needs it is handed. A file of its own, since <seccomp.h> and <ev.h> cannot be included together.
 */
#include <seccomp.h>
#include <stddef.h>

extern const int	keeper_calls[], work_calls[];
extern const size_t	keeper_ncalls, work_ncalls;

#define MEMORY_AND_TIME \
	SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(futex), \
	SCMP_SYS(getrandom), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(getpid), SCMP_SYS(gettid), \
	SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall), \
	SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(sched_yield), SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(writev), \
	SCMP_SYS(close), SCMP_SYS(fcntl), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(sendto), SCMP_SYS(recvfrom), \
	SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), \
	SCMP_SYS(epoll_pwait), SCMP_SYS(sysinfo), SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid)

const int keeper_calls[] = {
	MEMORY_AND_TIME, SCMP_SYS(openat), SCMP_SYS(open), SCMP_SYS(lseek), SCMP_SYS(readlink), SCMP_SYS(clone), SCMP_SYS(clone3),
	SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(wait4), SCMP_SYS(socketpair), SCMP_SYS(eventfd2), SCMP_SYS(dup2),
	SCMP_SYS(dup3), SCMP_SYS(close_range), SCMP_SYS(poll),
	/* its children, until they have entered their own filter */
	SCMP_SYS(mkdir), SCMP_SYS(chroot), SCMP_SYS(chdir), SCMP_SYS(setgroups), SCMP_SYS(setresgid), SCMP_SYS(setresuid),
	SCMP_SYS(prlimit64), SCMP_SYS(setrlimit), SCMP_SYS(kill), SCMP_SYS(prctl), SCMP_SYS(seccomp), SCMP_SYS(shutdown),
};
const size_t keeper_ncalls = sizeof(keeper_calls) / sizeof(keeper_calls[0]);

const int work_calls[] = { MEMORY_AND_TIME, SCMP_SYS(shutdown) };
const size_t work_ncalls = sizeof(work_calls) / sizeof(work_calls[0]);
