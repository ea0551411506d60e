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
	CONF_FORMAT = 1, CONF_SERVICES = 16, CONF_LISTENS = 8, CONF_BACKENDS = 64, CONF_PATH = 256, CONF_NAME = 32,
	CONF_HOST = 256
};

struct conf_listen {
	char		address[64];		/* as written: "127.0.0.1", "::", "*" */
	uint16_t	port, spare;
	uint32_t	line;			/* in the file, for messages */
	bool		v6only, proxy;		/* proxy: expect a PROXY header; later issue */
};

struct conf_backend {
	char		name[CONF_NAME];
	char		host[CONF_HOST];	/* name or address, looked up by the balancer */
	uint16_t	port;
	bool		xclient;		/* send XCLIENT when it is offered: default true */
	bool		drained;		/* starts drained */
	uint32_t	max_sessions, weight, line;
};

struct conf_service {
	char		name[CONF_NAME];	/* "submission", by default the protocol */
	char		protocol[16];		/* "smtp", "pop3": image bmr-PROTOCOL */
	char		banner[CONF_HOST];	/* host name the gateway speaks as; default hostname */
	uint32_t	nlisten, nbackend, line;
	struct conf_listen  listen[CONF_LISTENS];
	struct conf_backend backend[CONF_BACKENDS];
	struct limits	limits;
	struct times	times;
	uint32_t	max_sessions, max_per_address, warm, queue;	/* queue: clients waiting for a backend */
	uint32_t	probe_ms, fall, rise;	/* health: interval, failures to down, successes to up */
	uint32_t	max_replays;		/* deaths in one command before the honest answer */
	uint32_t	fence_ms;		/* protocols.md 0.3, invariant 8 */
	bool		doubt_tempfail;		/* the final dot in doubt: 451 instead of replay */
	bool		auth_plaintext;		/* offer AUTH/USER without TLS */
	bool		bare_newline_normalize;	/* else reject */
};

struct conf {
	uint32_t	format, size;
	uint64_t	version;		/* counts loads; set by bmrd */
	char		file[CONF_PATH];
	char		state_dir[CONF_PATH], run_dir[CONF_PATH], release_dir[CONF_PATH];
	char		socket[CONF_PATH];	/* of the admin API; default run_dir/bmr.sock */
	char		user[32], group[32];	/* to run as, when started as root; empty: as who one is */
	bool		drop;			/* user is set: these are its ids */
	uint32_t	uid, gid;
	char		empty_root[CONF_PATH];	/* default run_dir/empty */
	uint32_t	nservice, spare;
	struct conf_service service[CONF_SERVICES];
};

/* Parses and checks; everything in *conf has its default first. 0, or -1: each fault was passed to say() as one
 * line "file:line: what is wrong and what was expected". code: the fitting code of sysexits.h (EX_CONFIG, EX_NOINPUT...). */
int	conf_parse(const char *file, struct conf *, void (*say)(void *, const char *line), void *arg, int *code);
/* A sealed memfd that holds conf; -1 and errno. */
int	conf_seal(const struct conf *);
/* Checks a mapped image (format, size). NULL when it cannot be used. */
const struct conf *conf_image(const void *, uint64_t size);
/* The service of that name, or NULL. */
const struct conf_service *conf_service(const struct conf *, const char *name);

#endif
