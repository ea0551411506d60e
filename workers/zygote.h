/* zygote - forks the session processes of one protocol ahead of demand (zygote.c) */
#ifndef WORKERS_ZYGOTE_H
#define WORKERS_ZYGOTE_H

#include "workers/behaviour.h"

int	zygote_main(int argc, char **argv, const struct behaviour *);
int	listener_main(int argc, char **argv, const struct behaviour *);

#endif
