/*
 * journal - all that a session is, in one shared-memory file held by descriptor (DESIGN.md section 1)
 *
 *	head | core 0 | core 1 | client's input | owed output | log arena | content (spool, first part)
 *
 * The engine works on a private core; journal_commit copies it to the slot that is not active and then makes that
 * one active with a single store, so that a reader after a SIGKILL at any point finds one whole core. It commits before
 * each system call that others can observe (a write to either side, a message) and after each that took
 * something in. What lies in the buffers behind the committed ends does not count. The log arena is append-only
 * beyond the committed length.
 *
 * J4: head.format names this layout and head.pst_format the behaviour's.
 */
#ifndef WORKERS_JOURNAL_H
#define WORKERS_JOURNAL_H

#include "workers/behaviour.h"

enum {
	JOURNAL_FORMAT = 1, JOURNAL_PST = 4096, JOURNAL_IN = 65536, JOURNAL_OUT = 131072, JOURNAL_PAGE = 4096
};

/* TLS that the client has begun: its go-ahead is owed, the listener has the socket, it is up. */
enum secure { SECURE_NONE, SECURE_OWED, SECURE_ASKED, SECURE_DONE };

struct core {				/* consistent as a whole; no pointers */
	uint32_t	in_start, in_end;	/* client's octets not yet consumed */
	uint32_t	out_start, out_end;	/* octets owed to the client */
	uint32_t	log_len;
	uint32_t	scanned;		/* of the input, searched in vain */
	uint64_t	client_in, client_out;	/* totals, taken from and taken by the client's socket */
	struct spool_state spool;
	uint32_t	failovers, messages;
	uint8_t		closing, greeted, client_eof, secure, spare[4];	/* secure: enum secure */
	uint8_t		pst[JOURNAL_PST];
};

struct journal_head {
	uint64_t	magic;
	uint16_t	format, pst_format, pst_size, spare;
	uint32_t	active;			/* the valid core; written last */
	uint32_t	log_cap, spool_cap;
	uint64_t	sid;
	char		protocol[16];
	struct peerinfo	peer;
	struct caps	offer;
	struct tlsinfo	tls;
};

struct journal {
	int		 fd;
	uint8_t		*map;
	size_t		 size;
	struct journal_head *head;
	struct core	*slot[2];
	uint8_t		*in, *out, *log;
	uint64_t	 spool_at;		/* file offset of the content */
	uint32_t	 core_size;		/* octets copied by a commit: up to the end of pst */
};

/* Size of the file for these limits; the listener makes it with ftruncate, untouched pages cost nothing. */
uint64_t	journal_size(const struct limits *);
/* A memfd of that size: -1 and errno. */
int		journal_create(const struct limits *);
/* Maps fd (takes it). fresh: writes the head. 0, or -1: not a journal of this behaviour (everything in it is checked
 * against the file's size before use). */
int		journal_open(struct journal *, int fd, const struct behaviour *, const struct limits *, bool fresh);
/* The active core into *work; -1 when its numbers are nonsense. */
int		journal_load(const struct journal *, struct core *work);
void		journal_commit(struct journal *, const struct core *work);
void		journal_close(struct journal *);

#endif
