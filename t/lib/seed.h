/* seed - journals kept as files, of this format and of the one before, must be read, and written in both (J4; t/seed) */
#ifndef T_LIB_SEED_H
#define T_LIB_SEED_H

#include <sys/mman.h>
#include <fcntl.h>
#include <unistd.h>

#include "t/lib/tap.h"
#include "workers/journal.h"
#include "workers/pack.h"

/* The journal of a session, read by this behaviour; its format; 0: it cannot be. */
static unsigned
seed_read(const struct behaviour *b, int fd, const char *want_user)
{
	static uint8_t have[JOURNAL_PST];
	static struct core w;
	char user[64] = "";
	struct journal j;
	unsigned format;

	if (fd == -1 || journal_open(&j, fd, b, &b->limits, false, 0) == -1)
		return (0);
	format = j.head->pst_format;
	if (journal_load(&j, &w) == -1)
		format = 0;
	else {
		struct arena log = { j.log, w.log_len, j.head->log_cap, w.log_len };
		struct turn t = { .pst = w.pst, .have = have, .log = &log, .scratch = &log, .spool = &w.spool, .limits = &b->limits,
		    .times = &b->times, .offer = &j.head->offer, .peer = &j.head->peer, .tls = &j.head->tls, .date = "" };

		b->user(&t, user, sizeof(user));
		if (b->check(&t) != 0 || b->pending(&t) || b->safe(&t) == SAFE_BUSY || strcmp(user, want_user) != 0)
			format = 0;
		journal_commit(&j, &w);
	}
	munmap(j.map, j.size);
	close(j.fd);
	return (format);
}

static void
seed_check(const struct behaviour *b, const char *user)
{
	for (unsigned f = b->format > 1 ? b->format - 1u : 1; f <= b->format; f++) {
		char path[64];
		int packed, fd;

		snprintf(path, sizeof(path), "t/seed/%s-%u.journal", b->name, f);
		packed = open(path, O_RDONLY | O_CLOEXEC);
		ok(packed != -1, "%s is there", path);
		ok(seed_read(b, pack_undo(packed), user) == f, "a journal of format %u is read", f);
		for (unsigned to = b->convert == NULL ? b->format : b->format - 1u; to <= b->format; to++) {
			fd = pack_undo(packed);
			ok(fd != -1 && journal_reformat(fd, b, (uint16_t)to) == 0 && seed_read(b, dup(fd), user) == to &&
			    seed_read(b, fd, user) == to, "made one of format %u, it is read again", to);
		}
		close(packed);
	}
}

#endif
