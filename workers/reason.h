/* reason - the list of reason.def as an enum and as texts */
#ifndef WORKERS_REASON_H
#define WORKERS_REASON_H

enum reason {
#define REASON(n, text) REASON_##n,
#include "workers/reason.def"
#undef REASON
	REASONS
};
const char *reason_text(unsigned int);		/* "unknown" for what is none */

#endif
