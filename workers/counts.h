/*
 * counts - how many sessions there are of each address, service and share, over all listeners of a protocol
 *
 * Each listener writes a row of its own and reads all. The rows lie in one memfd that the balancer makes and hands round
 * (COUNTS); until it comes, and where there is one listener, the row is the listener's own memory. A successor writes its
 * predecessor's row anew. Limits may be passed by as many clients as come to different listeners in the same moment.
 *
 * The rows also say whose turn it is to accept: were all to watch the same sockets, all would wake for each client (NOTES).
 */
#ifndef WORKERS_COUNTS_H
#define WORKERS_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "workers/conf.h"
#include "workers/gw_msg.h"
#include "workers/share.h"

enum { COUNTS_ROWS = LISTENERS_MAX, COUNTS_ADDRESSES = 4096 };

struct counts_row {
	uint64_t	 beat_s;		/* when it was last seen alive, CLOCK_MONOTONIC */
	uint32_t	 sessions, full;	/* full: its listener takes no more clients */
	uint32_t	 rate;			/* clients in the last second */
	uint32_t	 watching;		/* it accepts clients now */
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
/* Once a second: says how it is with us; whether we are to accept. Those with the fewest sessions do, as many as the rate of
 * clients needs; who is to rest goes on until they have begun. */
bool	counts_turn(struct counts *, uint64_t now_s, uint32_t rate, bool watching);
void	counts_watching(struct counts *, bool);

#endif
