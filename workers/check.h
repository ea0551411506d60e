/* check - what listener (probes.c) and session (check.c) know alike of an operator's check of a backend */
#ifndef WORKERS_CHECK_H
#define WORKERS_CHECK_H

#include "workers/behaviour.h"

#define CHECK_ADDR	"192.0.2.1"	/* no client has it (RFC 5737) */

void	check_client(struct peerinfo *);	/* makes it that client */

#endif
