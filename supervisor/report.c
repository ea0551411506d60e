/* report - see report.h; touches the log alone */
#include <sys/wait.h>
#include <stdio.h>
#include <string.h>

#include "supervisor/log.h"
#include "supervisor/report.h"

static void
how(int status, char *dst, size_t size)
{
	if (status == -1)
		snprintf(dst, size, "unknown");
	else if (WIFSIGNALED(status))
		snprintf(dst, size, "signal %d (%s), core %s", WTERMSIG(status), strsignal(WTERMSIG(status)),
		    WCOREDUMP(status) ? "yes" : "no");
	else
		snprintf(dst, size, "exit %d", WEXITSTATUS(status));
}

void
report(const struct sup *s, const struct sup_deed *d, pid_t pid, int status)
{
	static const char *const type[] = { "permanent", "transient", "temporary" };
	static const char *const context[] = { [SAY_STARTED] = "started", [SAY_START_ERROR] = "start_error",
		[SAY_CHILD_TERMINATED] = "child_terminated", [SAY_SHUTDOWN_ERROR] = "shutdown_error",
		[SAY_MAX_INTENSITY] = "reached_max_restart_intensity", [SAY_BACKOFF] = "backing off" };
	const struct spec *sp = &s->tree.spec[d->child];
	const char *sup = sp->parent < 0 ? "bmrd" : s->tree.spec[sp->parent].id;
	uint32_t limit = sp->parent < 0 ? s->tree.intensity : s->tree.spec[sp->parent].intensity;
	uint32_t period = sp->parent < 0 ? s->tree.period_s : s->tree.spec[sp->parent].period_s;
	char text[96];

	if (d->why == SAY_STARTED) {
		log_debug("progress: supervisor %s, started %s pid %d", sup, sp->id, (int)pid);
		return;
	}
	how(sp->supervisor ? -1 : status, text, sizeof(text));
	if (d->why == SAY_MAX_INTENSITY)
		log_errx("supervisor report: %s, context %s: %u restarts in %u s, stopping its children", sp->id,
		    context[d->why], d->in_period, sp->period_s);
	else if (d->why == SAY_BACKOFF)
		log_errx("supervisor report: supervisor %s, child %s, context %s: next start in %u ms", sup, sp->id,
		    context[d->why], s->child[d->child].backoff_ms);
	else
		log_warnx("supervisor report: supervisor %s, context %s, child %s pid %d, restart %s, type %s, reason %s, "
		    "restarts %u of %u in %u s", sup, context[d->why], sp->id, (int)pid, type[sp->restart],
		    sp->supervisor ? "supervisor" : "worker", text, d->in_period, limit, period);
}

void
report_spawn(const struct sup *s, uint32_t i, int error)
{
	log_errx("supervisor report: child %s, image %s: cannot be started: %s", s->tree.spec[i].id,
	    s->tree.spec[i].image, strerror(error));
}

void
report_unknown(pid_t pid, int status)
{
	char text[96];

	how(status, text, sizeof(text));
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		log_notice("reaped %d, no child of ours any more: %s", (int)pid, text);
}
