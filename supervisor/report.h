/* report - supervision and progress reports, one line each, in OTP's words */
#ifndef SUPERVISOR_REPORT_H
#define SUPERVISOR_REPORT_H

#include <sys/types.h>

#include "supervisor/sup.h"

/* status: of waitpid, -1 when unknown. */
void	report(const struct sup *, const struct sup_deed *, pid_t, int status);
void	report_spawn(const struct sup *, uint32_t child, int error);	/* a child that could not be started at all */
void	report_unknown(pid_t, int status);

#endif
