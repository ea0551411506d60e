/*
 * counts - how many sessions there are of each address, service and share, over all listeners of a protocol
 *
 * Each listener writes a row of its own and reads all. The rows lie in one memfd that the balancer makes and hands round
 * (COUNTS); until it comes, and where there is one listener, the row is the listener's own memory. A successor writes its
 * predecessor's row anew. Limits may be passed by as many clients as come to different listeners in the same moment.
 */
#ifndef WORKERS_COUNTS_H
#define WORKERS_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "workers/conf.h"
#include "workers/gw_msg.h"

enum { COUNTS_ROWS = 32, COUNTS_ADDRESSES = 4096 };

struct counts_row {
	uint32_t	 sessions, full;	/* full: its listener takes no more clients */
	uint32_t	 service[CONF_SERVICES];
	uint32_t	 address[COUNTS_ADDRESSES];	/* by hash; a collision shares a limit */
};
struct counts {
	struct counts_row own, *mine, *all;	/* all: the table, NULL: none */
	uint32_t	 row, protocol, share;	/* rows of our protocol, of our share: bit sets */
};

void	counts_init(struct counts *);
/* A table is there: what was counted is carried over. -1: it cannot be used. fd is the caller's. */
int	counts_table(struct counts *, const struct msg_counts *, int fd);
/* For the balancer: an empty table, -1 and errno. */
int	counts_create(void);

uint32_t counts_slot(const char *address);
void	counts_came(struct counts *, uint32_t slot);
void	counts_went(struct counts *, uint32_t slot);
void	counts_service(struct counts *, uint32_t service, uint32_t n);	/* has n sessions now, with us */

uint32_t counts_of_address(const struct counts *, uint32_t slot);
uint32_t counts_of_service(const struct counts *, uint32_t service);
uint32_t counts_of_share(const struct counts *);	/* sessions, of all protocols */
void	counts_full(struct counts *, bool);
bool	counts_all_full(const struct counts *);		/* every listener of this protocol */

#endif
