/* sup_msg - the messages between bmrd and its children (list: sup.def) */
#ifndef SUPERVISOR_SUP_MSG_H
#define SUPERVISOR_SUP_MSG_H

#include <stdint.h>

enum { R_ROOT = 0 };		/* other roles (1 to 63) belong to the layers above */

struct msg_ready   { uint64_t generation; uint64_t abi; };
enum { STOP_AGAIN = 1 };	/* flags of STOP: another process comes in your place: leave your work to it */
struct msg_stop    { uint64_t deadline_ms, flags; };
struct msg_peer    { uint64_t generation; uint32_t role, spare; };
struct msg_listen  { uint32_t index, flags; uint64_t spare; };	/* index: of the service's listen entries */
struct msg_config  { uint64_t version, size; };
struct msg_badpeer { uint64_t generation, spare; };
struct msg_asktree { uint64_t id; };
struct msg_node {
	uint64_t	id;			/* of the request; last: 1 with the final node, which is empty */
	uint32_t	last, depth, pid, state;	/* state: enum sup_state */
	uint32_t	restart, type;		/* enum restart; 1 = supervisor */
	uint64_t	restarts, since_ms;	/* restarts since bmrd's start; uptime of this process */
	uint64_t	rss_kb, pss_kb;		/* 0: not asked for */
	uint32_t	strategy, intensity, period, in_period;
	uint64_t	generation;
};
struct msg_ctl     { uint64_t id; uint32_t deed, spare; };	/* 1 restart child, 2 reload, 3 stop bmrd */
struct msg_ctled   { uint64_t id; uint32_t code, spare; };	/* code of sysexits.h */
struct msg_renewme { uint64_t generation; };

#define MSG_SET sup
#define MSG_DEF "supervisor/sup.def"
#include "supervisor/msg_decl.h"
#undef MSG_SET
#undef MSG_DEF

#endif
