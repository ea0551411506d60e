/* sandbox - see sandbox.h; touches the process's own privileges and, once, the empty root's directory */
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <seccomp.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "supervisor/sandbox.h"

static int
drop_user(const struct sandbox *s)
{
	gid_t gid = s->gid;

	if (s->empty_root != NULL && s->empty_root[0] != '\0') {
		if (mkdir(s->empty_root, 0555) == -1 && errno != EEXIST) {
			log_warn("%s", s->empty_root);
			return (-1);
		}
		if (chroot(s->empty_root) == -1 || chdir("/") == -1) {
			log_warn("chroot %s", s->empty_root);
			return (-1);
		}
	}
	if (!s->drop)
		return (0);
	if (setgroups(1, &gid) == -1 || setresgid(gid, gid, gid) == -1 || setresuid(s->uid, s->uid, s->uid) == -1) {
		log_warn("privileges not dropped");
		return (-1);
	}
	return (0);
}

/* Sanitizers make calls of their own, and trace their process when it ends: what they check is not the sandbox. */
#if defined(__SANITIZE_ADDRESS__)
#define FILTER 0
#elif defined(__has_feature)
#define FILTER (!__has_feature(address_sanitizer))
#else
#define FILTER 1
#endif

/* What fcntl(2) may be asked for: with F_SETOWN and F_SETSIG a descriptor sends any signal to any process of the same user. */
static const unsigned int fcntls[] = { F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS };

static int
allow(scmp_filter_ctx f, int call)
{
	int r = 0;

	if (call != SCMP_SYS(fcntl))
		return (seccomp_rule_add(f, SCMP_ACT_ALLOW, call, 0));
	for (size_t i = 0; i < sizeof(fcntls) / sizeof(fcntls[0]) && r == 0; i++)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, call, 1, SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, fcntls[i]));
	return (r);
}

static int
filter(const struct sandbox *s)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r = f == NULL ? -1 : 0;

	/* a binary tree: a call costs the same wherever it stands in the list */
	if (r == 0)
		(void)seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	/* no foreign code runs here that could speculate: the mitigation for such would cost every call */
	if (r == 0)
		(void)seccomp_attr_set(f, SCMP_FLTATR_CTL_SSB, 1);
	for (size_t i = 0; i < s->ncalls && r == 0; i++)
		r = allow(f, s->calls[i]);
	if (r == 0)
		r = seccomp_load(f);
	if (f != NULL)
		seccomp_release(f);
	if (r != 0)
		log_warnx("no system call filter: %s", strerror(-r));
	return (r == 0 ? 0 : -1);
}

int
sandbox_enter(const struct sandbox *s)
{
	const struct rlimit none = { 0, 0 };

	tzset();	/* else the first gmtime_r(3), of OpenSSL perhaps, opens /etc/localtime, which the filter may not allow */
	if (geteuid() == 0 && drop_user(s) == -1)
		return (-1);
	setrlimit(RLIMIT_CORE, &none);
	/* after the ids, which set it anew */
	if (FILTER && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == -1) {
		log_warn("not dumpable");
		return (-1);
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1) {
		log_warn("no_new_privs");
		return (-1);
	}
	return (FILTER && s->ncalls > 0 ? filter(s) : 0);
}
