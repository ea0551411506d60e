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
 * J4: head.format names this layout and head.pst_format the behaviour's: the newest, or the one before. A process has pst in the
 * newest in any case; journal_load and journal_commit convert. A journal changes its format only while nobody else has it, when it
 * is unpacked.
 */
#ifndef WORKERS_JOURNAL_H
#define WORKERS_JOURNAL_H

#include <sys/socket.h>

#include "workers/behaviour.h"

/* The input has room for twice what may lie unread in it: what is unread is then moved to the front without overlap, so
 * that a core committed before the move stays true until the next one. */
enum {
	JOURNAL_FORMAT = 1, JOURNAL_PST = 4096, JOURNAL_IN = 65536, JOURNAL_IN_ROOM = 131072, JOURNAL_OUT = 131072,
	JOURNAL_PAGE = 4096
};

/* TLS that the client has begun: its go-ahead is owed, a tls process has the socket, it is up (starttls.c). */
enum secure { SECURE_NONE, SECURE_OWED, SECURE_ASKED, SECURE_DONE };

struct core {				/* consistent as a whole; no pointers */
	uint32_t	in_start, in_end;	/* client's octets not yet consumed */
	uint32_t	out_start, out_end;	/* octets owed to the client */
	uint32_t	log_len;
	uint32_t	scanned;		/* of the input, searched in vain */
	uint64_t	client_in, client_out;	/* totals, taken from and taken by the client's socket */
	uint64_t	idle_at;		/* ms, CLOCK_MONOTONIC: when the client has been idle too long */
	uint64_t	told_at, said_at;	/* when the client, the backend last got an octet from us */
	struct spool_state spool;
	uint32_t	failovers, messages;
	uint32_t	have_at, scratch_len;	/* of a backend that is kept while nobody is there: offset in the file; 0: none */
	uint8_t		closing, greeted, client_eof, reason, served, redo, busy, secure;	/* secure: enum secure; see struct session */
	uint8_t		pst[JOURNAL_PST];
};

/* A call to read or write the client's socket under way (counted.h). */
struct passage {
	uint64_t	after;			/* the total before it */
	struct mmsghdr	octets;			/* msg_len, which the kernel writes */
	struct iovec	part;
};

struct journal_head {
	uint64_t	magic;
	uint16_t	format, pst_format, pst_size;
	uint16_t	have_format;		/* of what core.have_at says is kept */
	uint32_t	active;			/* the valid core; written last */
	uint32_t	log_cap, spool_cap;
	uint64_t	sid;
	char		protocol[16];
	struct peerinfo	peer;
	struct caps	offer;
	struct tlsinfo	tls;
	struct passage	taken, given;		/* pointers in them mean nothing to a successor */
};

struct journal {
	int		 fd;
	uint8_t		*map;
	size_t		 size;
	struct journal_head *head;
	struct core	*slot[2];
	uint8_t		*in, *out, *log;
	const struct behaviour *convert;	/* pst is in the format before this one's; NULL: in this one's */
	uint64_t	 spool_at;		/* file offset of the content */
	uint32_t	 spare_at;		/* behind the cores */
	uint32_t	 core_size;		/* octets copied by a commit: up to the end of pst */
};

/* Size of the file for these limits; the listener makes it with ftruncate, untouched pages cost nothing. */
uint64_t	journal_size(const struct limits *);
/* A memfd of that size: -1 and errno. */
int		journal_create(const struct limits *);
/* Maps fd (takes it). fresh: writes the head, for pst in that format, 0: the behaviour's (journal_format). 0, or -1: not a
 * journal of this behaviour (everything in it is checked against the file's size before use). */
int		journal_open(struct journal *, int fd, const struct behaviour *, const struct limits *, bool fresh, uint16_t format);
/* The one to write for who wants that one: it, or the nearest that this behaviour can write. 0: its own. */
uint16_t	journal_format(const struct behaviour *, uint16_t wanted);
/* Makes it one of another format; nobody may have it open. What was kept of a backend is forgotten. 0, or -1. */
int		journal_reformat(int fd, const struct behaviour *, uint16_t format);
/* The active core into *work; -1 when its numbers are nonsense. */
int		journal_load(const struct journal *, struct core *work);
void		journal_commit(struct journal *, const struct core *work);
/* For a process that lets nothing of a session's into its memory: the numbers of the active core, without pst, read from
 * the descriptor, packed or not. 0; -1: no core was committed yet, or it is no journal. */
int		journal_peek(int fd, struct core *numbers);
/* Where things lie in the file, for the same process: offsets; pst is that of the active core. 0, or -1. */
struct journal_places { uint64_t in, out, log, pst; uint32_t pst_size, log_cap; uint16_t pst_format; };
int		journal_places(int fd, struct journal_places *);
/* Room for n octets of a session that is parked, whose input and output are empty: behind the cores, or where output
 * would be. Its offset, 0: not so much. */
uint32_t	journal_spare(const struct journal *, size_t n);
/* Gives back the memory of what holds nothing then; kept: octets from journal_spare. */
void		journal_thin(const struct journal *, uint32_t at, size_t kept);
void		journal_close(struct journal *);

#endif
