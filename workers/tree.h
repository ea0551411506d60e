/* tree - the gateway's child specifications, as data, from its configuration */
#ifndef WORKERS_TREE_H
#define WORKERS_TREE_H

#include "supervisor/spec.h"
#include "workers/conf.h"

/* fdstores, balancer, admin, tls, and a supervisor with zygotes and listeners for each protocol named in the configuration.
 * 0, or -1: too many protocols. */
int	tree_build(const struct conf *, struct tree *);
/* Whether what runs is all that next wants, in whatever order. What next has no more may go on: it has nothing to do. */
bool	tree_serves(const struct tree *running, const struct tree *next);

#endif
