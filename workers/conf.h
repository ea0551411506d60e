/*
 * conf - bmr.conf, parsed once by bmrd into one checked struct that every process maps read-only
 *
 * struct conf is plain data without pointers; it is the sealed image on CONF_FD. Times are milliseconds.
 */
#ifndef WORKERS_CONF_H
#define WORKERS_CONF_H

#include <stdbool.h>
#include <stdint.h>

#include "workers/behaviour.h"

enum {
	CONF_FORMAT = 1, CONF_SERVICES = 16, CONF_LISTENS = 16, CONF_BACKENDS = 64, CONF_PATH = 256, CONF_NAME = 32,
	CONF_HOST = 256, CONF_CERTIFICATES = 32, CONF_NETS = 8, CONF_PIN = 32
};

/* --- TLS: read by conf_tls.c, used by the tls processes; paths and lines, never the keys themselves ------------------ */

enum conf_mode { MODE_NONE, MODE_STARTTLS, MODE_IMPLICIT };
enum conf_policy { POLICY_INTERMEDIATE, POLICY_MODERN };
enum conf_verify { VERIFY_NAME, VERIFY_CA, VERIFY_NONE };	/* of a backend's certificate; a pin counts besides */
enum conf_client { CLIENT_NONE, CLIENT_OPTIONAL, CLIENT_REQUIRED };	/* client certificates */
enum conf_identity { IDENTITY_CN, IDENTITY_EMAIL };	/* what in a client certificate is the user */

struct conf_net {				/* IPv4 as ::ffff:a.b.c.d */
	uint8_t		addr[16], bits, spare[7];
};
struct conf_certificate {
	char		name[CONF_NAME];
	char		chain[CONF_PATH], key[CONF_PATH], ocsp[CONF_PATH];	/* PEM, PEM, DER; ocsp may be empty */
	uint32_t	line, spare;
};
struct conf_tls {				/* towards the clients of a service */
	uint32_t	ncertificate;
	uint8_t		certificate[CONF_CERTIFICATES];	/* their numbers, as listed: the first is for clients that name no host */
	uint8_t		policy, client, identity, spare;
	char		client_ca[CONF_PATH];
};
struct conf_backend_tls {
	uint8_t		mode, verify, policy, pinned;
	int32_t		certificate;		/* number of ours that it may ask for, -1: none */
	char		name[CONF_HOST];	/* that its certificate must have; default: its host */
	char		ca[CONF_PATH];		/* empty: the system's */
	uint8_t		pin[CONF_PIN];		/* SHA-256 of its public key (RFC 7469 section 2.4) */
};

struct conf_listen {
	char		address[64];		/* as written: "127.0.0.1", "::", "*" */
	uint16_t	port;
	uint8_t		tls;			/* enum conf_mode */
	bool		auth_plaintext;		/* passwords without TLS */
	uint32_t	line;			/* in the file, for messages */
	uint32_t	nproxy;			/* connections from these begin with a PROXY header */
	struct conf_net	proxy[CONF_NETS];
};

struct conf_backend {
	char		name[CONF_NAME];
	char		host[CONF_HOST];	/* name or address, looked up by the balancer */
	uint16_t	port;
	bool		xclient;		/* send XCLIENT when it is offered: default true */
	bool		drained;		/* starts drained */
	uint8_t		proxy;			/* version of the PROXY header it is sent, 0: none */
	uint32_t	max_sessions, weight, line;
	struct conf_backend_tls tls;
};

struct conf_service {
	char		name[CONF_NAME];	/* "submission", by default the protocol */
	char		protocol[16];		/* "smtp", "pop3": image bmr-PROTOCOL */
	char		file[CONF_PATH];	/* that it stands in: one that is included, perhaps */
	char		banner[CONF_HOST];	/* host name the gateway speaks as; default hostname */
	uint32_t	nlisten, nbackend, line;
	struct conf_listen  listen[CONF_LISTENS];
	struct conf_backend backend[CONF_BACKENDS];
	struct limits	limits;
	struct times	times;
	uint32_t	max_sessions, max_per_address, warm, queue;	/* queue: clients that have no process yet */
	uint32_t	probe_ms, fall, rise;	/* health: interval, failures to down, successes to up */
	uint32_t	max_replays;		/* deaths in one command before the honest answer */
	uint32_t	fence_ms;		/* protocols.md 0.3, invariant 8 */
	bool		doubt_tempfail;		/* the final dot in doubt: 451 instead of replay */
	bool		auth_plaintext;		/* offer AUTH/USER without TLS; a listener's default */
	bool		bare_newline_normalize;	/* else reject */
	struct conf_tls	tls;
	struct master	master;
};

struct conf {
	uint32_t	format, size;
	uint64_t	version;		/* counts loads; set by bmrd */
	char		file[CONF_PATH];
	char		state_dir[CONF_PATH], run_dir[CONF_PATH], release_dir[CONF_PATH];
	char		socket[CONF_PATH];	/* of the admin API; default run_dir/bmr.sock */
	char		user[32], group[32];	/* to run as, when started as root; empty: as who one is */
	bool		journal_previous;	/* journals are written as the release before this one can read them */
	bool		drop;			/* user is set: these are its ids */
	uint32_t	uid, gid;
	char		empty_root[CONF_PATH];	/* default run_dir/empty */
	uint32_t	ncertificate, tls_sessions;	/* sessions of a tls process at most, 0: no limit */
	uint32_t	ticket_s, expiry_s;	/* life of a ticket key; warn of certificates that end sooner */
	struct conf_certificate certificate[CONF_CERTIFICATES];
	uint32_t	nservice;
	uint32_t	shares;			/* listeners of each protocol (share.h), 1 to SHARES */
	uint64_t	secret;			/* random, set by bmrd: keys what listeners tell each other */
	struct conf_service service[CONF_SERVICES];
};

/* Parses and checks; everything in *conf has its default first. 0, or -1: each fault was passed to say() as one
 * line "file:line: what is wrong and what was expected". code: the fitting code of sysexits.h (EX_CONFIG, EX_NOINPUT...). */
int	conf_parse(const char *file, struct conf *, void (*say)(void *, const char *line), void *arg, int *code);
/* Whether its certificates can be used: 0, or a code of sysexits.h after lines to say() as above. Waits for the answer. */
int	conf_check_tls(const struct conf *, void (*say)(void *, const char *line), void *arg);
/* A sealed memfd that holds conf; -1 and errno. */
int	conf_seal(const struct conf *);
/* Checks a mapped image (format, size). NULL when it cannot be used. */
const struct conf *conf_image(const void *, uint64_t size);
/* Whether certificate number n is in a service's list. */
bool	conf_has_certificate(const struct conf_tls *, uint32_t n);
/* The service of that name, or NULL. */
const struct conf_service *conf_service(const struct conf *, const char *name);

/* Whether the address (numeric, IPv4 or IPv6) lies in one of n networks. */
bool	conf_in_nets(const struct conf_net *, uint32_t n, const char *address);

#endif
