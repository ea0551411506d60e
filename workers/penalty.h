/*
 * penalty - logins that failed, by address and by user: how long the next attempt has to wait; pure
 *
 * Dovecot's auth penalty is the model: it doubles with each failure up to a limit, is forgotten after two quiet minutes or a
 * success, and the same wrong password again does not raise it (a program that nobody told of the new one). A user is
 * delayed only after several failures, so that others cannot easily slow him down. A session that is given up after its second
 * crash costs its address nothing; more of them delay its next sessions in the same way.
 */
#ifndef WORKERS_PENALTY_H
#define WORKERS_PENALTY_H

#include <stdbool.h>
#include <stdint.h>

enum { PENALTY_SETS = 1024, PENALTY_WAYS = 4, PENALTY_CREDENTIALS = 4, PENALTY_MAX_MS = 15000, PENALTY_FORGET_MS = 120000,
	PENALTY_FREE_USER = 5, PENALTY_FREE_CRASHES = 2 };

struct penalty {
	uint64_t	key, last_ms;		/* key 0: free */
	uint32_t	failures, next;
	uint64_t	credentials[PENALTY_CREDENTIALS];	/* hashes of those that failed last */
};
struct penalties {
	struct penalty	set[PENALTY_SETS][PENALTY_WAYS];
	uint64_t	secret, any_until_ms;	/* secret: of the hash, from the owner */
};

uint64_t penalty_hash(const struct penalties *, const void *, uint32_t n);	/* never 0 */
/* The part of a numeric address that one client is taken to have: all of IPv4, a /64 of IPv6. */
uint64_t penalty_address(const struct penalties *, const char *address);
uint64_t penalty_user(const struct penalties *, const char user[64]);	/* never an address's; "": 0, nobody, as of a token */
/* How long a login has to wait now; free: failures that cost nothing. */
uint32_t penalty_ms(const struct penalties *, uint64_t key, uint32_t free, uint64_t now_ms);
/* key 0: nobody, it does not count; credentials 0: a proof that is never the same twice, it counts always. */
void	penalty_failed(struct penalties *, uint64_t key, uint64_t credentials, uint64_t now_ms);
void	penalty_good(struct penalties *, uint64_t key);
bool	penalty_any(const struct penalties *, uint64_t now_ms);	/* whether anybody has one */

#endif
