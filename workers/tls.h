/*
 * tls - the processes that have OpenSSL and the private keys, and nothing else of the gateway
 *
 *	tls.c         the keeper: reads certificates and keys, forks tls processes for the listeners; no socket of a client
 *	tls_work.c    a tls process: its jobs from one listener, its loop
 *	tls_pump.c    one connection: handshake, then octets between the network and the clear end
 *	tls_cert.c    a certificate with all that belongs to it
 *	tls_ctx.c     policies and contexts made of the configuration and its certificates
 *	tls_names.c   which certificate for which host (SNI); what a peer's certificate says
 *	tls_ticket.c  keys of session tickets, the same in all tls processes, new ones each period
 *	tls_calls.c   the system calls that are left to each
 */
#ifndef WORKERS_TLS_H
#define WORKERS_TLS_H

#include <bsd/sys/queue.h>
#include <openssl/ssl.h>
#include <time.h>

#include "workers/conf.h"
#include "workers/gw_msg.h"

/* --- tls_cert.c, tls_ctx.c, tls_names.c ------------------------------------------------------------------------------ */

struct tls_cert {			/* one certificate block, loaded */
	const struct conf_certificate *conf;
	X509		*leaf;		/* NULL: could not be loaded */
	STACK_OF(X509)	*chain;
	EVP_PKEY	*key;
	uint8_t		*ocsp;
	size_t		 ocsp_len;
	time_t		 not_before;
	time_t		 not_after;	/* of it or of the one in its chain that ends first: */
	int		 first_end;	/* which, 1: itself */
	time_t		 ocsp_until;	/* 0: no end */
	char		 fault[160];	/* what was wrong with it or its chain when it was loaded; "" nothing */
	const char	*ocsp_fault;	/* NULL: none */
};
struct tls_name { char *name; SSL_CTX *ctx; };	/* "mail.example.org", "*.example.org", lower case */
struct tls_service {
	char		 name[CONF_NAME];
	SSL_CTX		*ctx;		/* NULL: no usable certificate */
	struct tls_name	*names;		/* sorted */
	size_t		 nnames;
	SSL_CTX		*pair[CONF_CERTIFICATES + 1][CONF_CERTIFICATES + 1];	/* by numbers of an ECDSA and an RSA certificate + 1 */
	const struct conf_tls *conf;
};
struct tls_backend {
	char		 service[CONF_NAME], name[CONF_NAME];
	SSL_CTX		*ctx;
	SSL_SESSION	*session;	/* the last one, for resumption */
	bool		 asks;		/* wants a certificate of us: nothing is resumed */
	const struct conf_backend_tls *conf;
	TAILQ_ENTRY(tls_backend) link;
};
struct tls_set {			/* all of one configuration */
	const struct conf *conf;
	uint32_t	 n;
	struct tls_cert	 cert[CONF_CERTIFICATES];
	struct tls_service service[CONF_SERVICES];
	TAILQ_HEAD(, tls_backend) backends;
	X509_STORE	*system;	/* CAs, read when first asked for */
};

/* Reads its files; what cannot be used is NULL and told to tls_fault(). */
void		 tls_cert_load(struct tls_cert *, const struct conf_certificate *);
bool		 tls_ocsp_good(const struct tls_cert *, time_t now);	/* there is a response to staple */
const char	*tls_cert_fault(const struct tls_cert *, time_t now, char *dst, size_t size);	/* all that is wrong with it now; "" */
/* A fault of what is being loaded, by its line in the file. */
void		 tls_fault(uint32_t line, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char	*tls_reason(void);	/* why OpenSSL failed, for people */
/* Loads everything that conf names; faults are lines "file:line: ..." for say(), *faults counts them. NULL: no memory. */
struct tls_set	*tls_load(const struct conf *, void (*say)(const char *line), int *faults);
void		 tls_free(struct tls_set *);
struct tls_service *tls_service(struct tls_set *, const char *name);	/* NULL: none, or it has no certificate */
struct tls_backend *tls_backend(struct tls_set *, const char *service, const char *name);
/* A connection; NULL when there is no memory. alpn: what a client may ask for, lent. */
SSL		*tls_accept(struct tls_service *, const char *alpn);
SSL		*tls_connect(struct tls_backend *);
void		 tls_backend_failed(struct tls_backend *);	/* the next handshake is a whole one */
/* NULL, or what is wrong with a backend after the handshake: its pin. */
const char	*tls_backend_check(const struct tls_backend *, SSL *);
void		 tls_facts(SSL *, const struct conf_tls *, struct tlsinfo *);
const char	*tls_error(SSL *, char *dst, size_t size);	/* why the last operation failed, for people */
int		 tls_names_add(struct tls_service *, const char *name, SSL_CTX *);	/* 0, or -1: no memory */
void		 tls_names_sort(struct tls_service *);
SSL_CTX		*tls_names_find(const struct tls_service *, const char *name);	/* NULL: none */
/* Calls fn for each DNS name of the certificate, the common name if it has none. */
void		 tls_cert_names(X509 *, void (*fn)(void *, const char *), void *);

/* --- tls_ticket.c --------------------------------------------------------------------------------------------------- */

enum { TICKET_SECRET = 32 };
/* Starts with a fresh secret, or goes on with the one there is; life in seconds of each key. 0, or -1: OpenSSL gave none. */
int	tickets_start(uint32_t life_s);
void	tickets_use(SSL_CTX *);
void	tickets_tick(void);		/* to the key of now; those of before the last are forgotten for good */

/* --- tls_work.c, tls_pump.c ----------------------------------------------------------------------------------------- */

struct pump;
TAILQ_HEAD(pumps, pump);
enum { WAITING = 3 };
struct work {
	struct tls_set	*set;
	struct chan	 listener;
	int		 epoll;
	uint64_t	 now;			/* ms, monotonic, once a turn */
	uint32_t	 npumps;
	struct pumps	 ready;			/* have more to do than one turn allowed */
	struct pumps	 waiting[WAITING];	/* by deadline: in handshake; with last words to go; lingering */
};
_Noreturn void	tls_work(struct tls_set *, int chan_fd);
/* Takes both descriptors; backend NULL: towards a client. tell: TLS_WORD goes to the clear end. 0, or -1 after TLSDOWN. */
int	pump_start(struct work *, uint64_t id, struct tls_service *, struct tls_backend *, const char *alpn, int net, int clear, bool tell);
void	pump_event(struct work *, void *tag, uint32_t events);	/* tag: as epoll gave it */
void	pump_ready(struct work *);		/* a turn for each that waits for one */
int	pump_timeout(const struct work *);	/* ms until the next deadline, -1: none */
void	pump_deadlines(struct work *);

/* --- tls_calls.c ----------------------------------------------------------------------------------------------------- */

extern const int	keeper_calls[], work_calls[];
extern const size_t	keeper_ncalls, work_ncalls;

#endif
