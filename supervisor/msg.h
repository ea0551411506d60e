/*
 * msg - from one list of messages: the numbers, the senders, the typed inbox and the only length checks
 *
 * A set is a .def file of lines MSG(NAME, name, number, from, to, fds, base) and, for each, a
 * struct msg_name of fixed-width fields without gaps, its size a multiple of 8 (checked). A header includes
 * msg_decl.h with MSG_SET and MSG_DEF defined, one .c file includes msg_impl.h likewise. See sup_msg.h.
 *
 * from and to are sets of role bits. Fields are only added at the end; base is the size in the first release
 * and never changes; a new descriptor is a new message. A shorter body of an older peer reads as zeros, a longer
 * one of a newer peer is cut.
 */
#ifndef SUPERVISOR_MSG_H
#define SUPERVISOR_MSG_H

#include <stddef.h>
#include <stdint.h>

#include "supervisor/chan.h"

#define ROLE(n)	(UINT64_C(1) << (n))

struct msg_info {
	const char	*name;
	uint16_t	 type, size, base;
	uint8_t		 fds;
	uint64_t	 from, to;		/* role bits */
};

/* All checks of one message against its declaration. NULL when good, else what is wrong with it. On success
 * body (info->size octets) is filled and padded with zeros. */
const char *msg_check(const struct msg_info *info, const struct chan *c, const struct msg_head *h,
    const uint8_t *raw, int nfds, void *body);

#endif
