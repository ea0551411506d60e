/* gw_msg - the messages between the gateway's processes (list: gw.def) */
#ifndef WORKERS_GW_MSG_H
#define WORKERS_GW_MSG_H

#include <stdint.h>

#include "workers/behaviour.h"

enum { R_LISTENER = 1, R_ZYGOTE, R_SESSION, R_BALANCER, R_ADMIN, R_STORE, R_FDSTORE, R_TLS, R_SCREEN, R_RELEASE,
	R_PUMP };		/* a tls process; R_TLS is their keeper */

enum { QUERY_STATUS = 1, QUERY_WHO, QUERY_BACKENDS, QUERY_DRAIN, QUERY_READY, QUERY_KICK,
	QUERY_TLS, QUERY_TLS_RELOAD, QUERY_CHECK, QUERY_REZYGOTE };	/* msg_query.what */

struct msg_want    { uint32_t n, spare; };
struct msg_renew   { uint64_t id; };
struct msg_child   { uint64_t serial; uint32_t pid, spare; };
struct msg_died    { uint64_t serial; uint32_t pid; int32_t status; };	/* status of waitpid */

enum start { START_RESUME = 1, START_GIVE_UP = 2 };	/* from the journal; only to end it with an honest word */

struct msg_start {
	uint64_t	 sid;
	uint64_t	 flags;			/* enum start */
	struct peerinfo	 peer;			/* 384 octets */
	struct caps	 offer;			/* 192 */
	struct limits	 limits;		/* 40 */
	struct times	 times;			/* 64 */
	uint32_t	 max_replays, fence_ms;
	uint32_t	 format;		/* of pst, to be written; 0: the newest */
	uint32_t	 spare[2];
	struct tlsinfo	 tls;			/* 320; with the client */
	char		 service[32];
	uint8_t		 reserve[4];
	struct master	 master;
};
struct msg_go {
	uint64_t	 sid, flags;
	struct peerinfo	 peer;
	struct caps	 offer;
	struct limits	 limits;
	struct times	 times;
	uint32_t	 max_replays, fence_ms, spare[3];
	uint8_t		 reserve[356];
};
struct msg_route   { uint64_t id; uint64_t avoid; uint64_t user; uint32_t flags, wait_ms; uint64_t spare[2]; };	/* avoid: bit set
					of backend numbers; flags 1: failover (before new sessions) */
struct msg_backend { uint64_t id; uint32_t backend, flags; char name[32]; uint64_t spare; };	/* flags 1: xclient, 2: STARTTLS */
struct msg_nobackend { uint64_t id; uint32_t why, spare; };			/* 1 none now, 2 queue full or waited too long */
struct msg_failed  { uint64_t id; uint32_t backend, how; uint64_t spare[4]; };	/* how: enum bfail */
enum bfail { BFAIL_LEFT, BFAIL_CLOSED, BFAIL_TIMEOUT, BFAIL_NONSENSE, BFAIL_REFUSED, BFAIL_CONNECT, BFAIL_DIFFERS };
struct msg_needfile { uint64_t id; };
struct msg_file    { uint64_t id; };
struct msg_nofile  { uint64_t id; };
struct msg_note    { char user[64]; uint32_t phase, failovers; uint64_t spare; };
struct msg_bye     { uint32_t reason, failovers; uint64_t in, out, messages; uint64_t spare[5]; };	/* reason: reason.def */
struct msg_probed  { struct caps caps; uint32_t ok, ms; uint64_t spare[2]; };
struct msg_move    { uint64_t id; uint32_t backend, spare; };
struct msg_learned { struct caps caps; uint32_t backend, spare; };
struct msg_kick    { uint64_t id; uint32_t why, spare; };

struct msg_park    { uint64_t wake_ms; uint32_t flags, spare; uint64_t spare2; };	/* CLOCK_MONOTONIC, when it has something to do; 0: never;
									flags 1: YIELD asked for it */
struct msg_parkup  { uint64_t wake_ms; uint32_t flags, spare; uint64_t spare2; };
struct msg_journal { uint64_t id; };
struct msg_yield   { uint64_t id; };
struct msg_again   { uint64_t id; };

enum keep_fd { KEEP_CLIENT, KEEP_JOURNAL, KEEP_LINK, KEEP_FILE, KEEP_FDS };
enum { KEEP_PARKED = 1 };			/* flags: the link is the backend's socket, not the channel to a process */
struct msg_keep {
	uint64_t	 sid;
	uint32_t	 there, flags;		/* there: bit set of enum keep_fd */
	uint64_t	 since_ms, wake_ms;	/* CLOCK_REALTIME, CLOCK_MONOTONIC; 0: none */
	uint32_t	 pid, resumed, failovers, backend_told;
	char		 service[32], backend[32], user[64];
	struct peerinfo	 peer;			/* 384 octets */
	uint64_t	 zygote, spare[7];
	struct tlsinfo	 tls;
};
struct msg_kept {
	uint64_t	 sid;
	uint32_t	 there, flags;
	uint64_t	 since_ms, wake_ms;
	uint32_t	 pid, resumed, failovers, backend_told;
	char		 service[32], backend[32], user[64];
	struct peerinfo	 peer;
	uint64_t	 zygote, spare[7];
	struct tlsinfo	 tls;
};
struct msg_orphan  { struct msg_kept k; };
struct msg_news    { uint64_t sid; uint32_t failovers, backend_told; char backend[32], user[64]; uint64_t spare; };
struct msg_anew    { uint64_t id; };
struct msg_leave   { uint64_t id; };
struct msg_drop    { uint64_t sid; };
struct msg_give    { uint64_t id; uint32_t first, spare; };
struct msg_given   { uint64_t id; uint32_t n, more; };

struct msg_pick    { uint64_t id, avoid, user; uint32_t service, flags; uint64_t spare[4]; };
struct msg_picked  { uint64_t id; uint32_t service, backend; uint32_t why, flags; char name[32]; uint8_t addr[128];
		     uint32_t addrlen, retry_ms; };	/* why 0: this one; 1: none now, ask again in retry_ms; addr: sockaddr */
struct msg_free    { uint64_t id; uint32_t service, backend; uint64_t spare; };
struct msg_bfail   { uint64_t by; uint32_t service, backend; uint32_t how, spare; };	/* by: see health_report */
struct msg_probe   { uint64_t id; uint32_t service, backend; uint32_t spare, flags; char name[32]; uint8_t addr[128];
		     uint32_t addrlen, timeout_ms; };
struct msg_proberes { uint64_t id; uint32_t service, backend; uint32_t ok, ms; };
struct msg_drain   { uint32_t service, backend; uint32_t on, per_second; };
struct msg_held    { uint32_t service, backend; uint32_t sessions, spare; };
struct msg_counts  { uint32_t row, protocol, share, spare; };	/* yours; those of your protocol, of your share: bit sets (counts.h) */
struct msg_caps    { uint32_t service, backend; char name[32]; struct caps caps; };	/* the behaviour's, all that is known */
struct msg_logged  { uint64_t address, user, credentials; uint32_t good, spare; };	/* hashes with the secret of the configuration */

/* What a tls process puts before the client's first octet on the clear end of a pair, when it is told to: TLS_BEGUN before it reads
 * of the client, a struct tlsinfo when the handshake is done. So a session learns of it with no listener there. */
enum { TLS_BEGUN = 1, TLS_WORD = 1 + sizeof(struct tlsinfo) };

struct msg_starttls { uint64_t id; };
struct msg_tlson   { uint64_t id; struct tlsinfo tls; };
struct msg_secure  { uint64_t id, spare; };
struct msg_secured { uint64_t id, spare; };
struct msg_insecure { uint64_t id; uint32_t side, spare; };
struct msg_authask { uint64_t id; char user[64]; };
struct msg_authgo  { uint64_t id; uint32_t ms, spare; };
struct msg_authed  { uint64_t id; char user[64]; uint64_t credentials; uint32_t good, spare; };	/* credentials: a hash, 0: counts always */
struct msg_tlswant { uint32_t n, spare; };
struct msg_tlschild { uint64_t serial, version; uint32_t pid, spare; };	/* serial: of the certificates; version: of the configuration */
struct msg_tlsnews { uint64_t serial, version; };
struct msg_tlsserve { uint64_t id; uint32_t tell, spare; char service[32], alpn[16]; };
struct msg_tlsdial { uint64_t id, spare; char service[32], backend[32]; };
struct msg_tlsup   { uint64_t id; struct tlsinfo tls; };
struct msg_tlsdown { uint64_t id; uint32_t spare[2]; };
struct msg_tlsend  { uint64_t id; };

struct msg_query   { uint64_t id; uint32_t what, spare; };
struct msg_row     { uint64_t id; };
struct msg_end     { uint64_t id; uint32_t code, spare; };		/* code of sysexits.h, 0 good */

#define MSG_SET gw
#define MSG_DEF "workers/gw.def"
#include "supervisor/msg_decl.h"
#undef MSG_SET
#undef MSG_DEF

#endif
