/* gateway - the main of a protocol's image: listener, zygote (and so session) or probe are roles of it */
#ifndef WORKERS_GATEWAY_H
#define WORKERS_GATEWAY_H

#include "workers/behaviour.h"

/* argv as worker.h has it; the role is the first argument after them. Returns the exit code. */
int	gateway_main(int argc, char **argv, const struct behaviour *);

#endif
