/* reason - see reason.h */
#include "workers/reason.h"

static const char *const text[] = {
#define REASON(n, t) [REASON_##n] = t,
#include "workers/reason.def"
#undef REASON
};

const char *
reason_text(unsigned int r)
{
	return (r < REASONS ? text[r] : "unknown");
}
