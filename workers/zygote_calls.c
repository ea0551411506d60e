/*
 * zygote_calls - all the system calls that a zygote and its sessions ever make
 *
 * No file, network socket or program can be opened with them: what a session needs it is handed. The filter is entered
 * once, by the zygote, and inherited, so that it costs a session nothing to set up. No signal can be sent, since other
 * workers have the same user; so abort(3) ends by the filter too, as surely. A file of its own, since <seccomp.h> and
 * <ev.h> cannot be included together.
 */
#include <seccomp.h>

#include "workers/zygote.h"

const int zygote_calls[] = {
	/* both */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(close), SCMP_SYS(close_range), SCMP_SYS(dup2), SCMP_SYS(dup3),
	SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(recvmmsg), SCMP_SYS(sendmmsg), SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(fcntl), SCMP_SYS(mmap),
	SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(futex),
	SCMP_SYS(getrandom), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(getpid), SCMP_SYS(gettid),
	SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall),
	SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(sched_yield),
	/* the zygote */
	SCMP_SYS(clone), SCMP_SYS(clone3), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(wait4), SCMP_SYS(socketpair),
	SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(eventfd2),
	SCMP_SYS(newfstatat),
	/* a session */
	SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(fstat), SCMP_SYS(memfd_create), SCMP_SYS(ftruncate), SCMP_SYS(fallocate),
	SCMP_SYS(lseek), SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(sendfile), SCMP_SYS(setsockopt), SCMP_SYS(getsockopt),
	SCMP_SYS(shutdown),
};
const size_t zygote_ncalls = sizeof(zygote_calls) / sizeof(zygote_calls[0]);
