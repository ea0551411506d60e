/* crash - see crash.h; touches files in the directory of reports */
#include <sys/stat.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "workers/crash.h"
#include "workers/journal.h"

/* "text\r\n" becomes "x4.r.n": runs of what is printable and of what is not ASCII as a count. */
static void
shape(FILE *f, const uint8_t *p, size_t n)
{
	for (size_t i = 0, run; i < n; i += run) {
		bool high = p[i] >= 0x80, print = p[i] >= 0x20 && p[i] < 0x7f;

		for (run = 1; i + run < n && (high ? p[i + run] >= 0x80 : print && p[i + run] >= 0x20 && p[i + run] < 0x7f); run++)
			;
		if (high || print)
			fprintf(f, "%c%zu", high ? 'h' : 'x', run);
		else if (p[i] == '\r' || p[i] == '\n')
			fputs(p[i] == '\r' ? ".r" : ".n", f);
		else
			fprintf(f, ".%02x", p[i]);
	}
}

static void
put_shape(FILE *f, const char *name, int fd, uint64_t at, uint32_t n)
{
	uint8_t space[CRASH_SHAPE];
	ssize_t got = pread(fd, space, n < sizeof(space) ? n : sizeof(space), (off_t)at);

	fprintf(f, ",\n \"%s\": \"", name);
	if (got > 0)
		shape(f, space, (size_t)got);
	fputc('"', f);
	explicit_bzero(space, sizeof(space));
}

static void
put_state(FILE *f, const struct behaviour *b, int fd, const struct journal_places *at)
{
	uint8_t pst[JOURNAL_PST] = { 0 };

	fputs(",\n \"state\": \"", f);
	if (pread(fd, pst, at->pst_size, (off_t)at->pst) == (ssize_t)at->pst_size && (at->pst_format == b->format ||
	    (b->convert != NULL && b->convert(pst, at->pst_format, b->format) == 0))) {
		for (const struct place *p = b->text; p != NULL && p->size > 0; p++)
			memset(pst + p->at, 0, p->size);
		for (uint32_t i = 0; i < b->pst_size; i++)
			fprintf(f, "%02x", pst[i]);
	}
	fputc('"', f);
	explicit_bzero(pst, sizeof(pst));
}

static void
put_journal(FILE *f, const struct behaviour *b, int fd)
{
	struct core w;
	struct journal_places at;

	if (journal_peek(fd, &w) == -1 || journal_places(fd, &at) == -1)
		return;
	fprintf(f, ",\n \"pending\": %s, \"octets_in\": %llu, \"octets_out\": %llu, \"content\": %llu, \"log\": %u, \"failovers\": %u,\n"
	    " \"unread\": %u, \"owed\": %u", w.busy ? "true" : "false", (unsigned long long)w.client_in,
	    (unsigned long long)w.client_out, (unsigned long long)w.spool.len, w.log_len, w.failovers,
	    w.in_end - w.in_start, w.out_end - w.out_start);
	put_shape(f, "unread_shape", fd, at.in + w.in_start, w.in_end - w.in_start);
	put_shape(f, "owed_shape", fd, at.out + w.out_start, w.out_end - w.out_start);
	put_state(f, b, fd, &at);
}

static int
is_report(const struct dirent *d)
{
	return (d->d_name[0] != '.');
}

static int
older(const struct dirent **a, const struct dirent **b)
{
	return (strcmp((*a)->d_name, (*b)->d_name));	/* the ids of sessions grow */
}

static void
drop_oldest(const char *dir)
{
	struct dirent **list;
	char path[PATH_MAX];
	int n = scandir(dir, &list, is_report, older);

	for (int i = 0; i < n; i++) {
		if (i < n - CRASH_REPORTS && snprintf(path, sizeof(path), "%s/%s", dir, list[i]->d_name) < (int)sizeof(path))
			unlink(path);
		free(list[i]);
	}
	if (n >= 0)
		free(list);
}

int
crash_report(const char *state_dir, const struct crash *c, int journal)
{
	char dir[PATH_MAX - 64], path[PATH_MAX], when[40];
	time_t now = time(NULL);
	struct tm tm;
	FILE *f;
	int fd, bad;

	snprintf(dir, sizeof(dir), "%s/" CRASH_DIR, state_dir);
	if (mkdir(dir, 0700) == -1 && errno != EEXIST)
		return (-1);
	snprintf(path, sizeof(path), "%s/%s.json", dir, c->session);
	if ((fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) == -1)
		return (-1);
	if ((f = fdopen(fd, "w")) == NULL) {
		close(fd);
		return (-1);
	}
	if (gmtime_r(&now, &tm) == NULL || strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		when[0] = '\0';
	fprintf(f, "{\"session\": \"%s\", \"time\": \"%s\", \"protocol\": \"%s\", \"service\": \"%s\", \"client\": \"%s\",\n"
	    " \"pid\": %u, \"deaths\": %u, \"how\": \"", c->session, when, c->b->name, c->service, c->client, c->pid, c->times);
	if (c->status == -1)
		fputs("not known", f);
	else if (WIFSIGNALED(c->status))
		fprintf(f, "signal %d", WTERMSIG(c->status));
	else
		fprintf(f, "exit %d", WEXITSTATUS(c->status));
	fputc('"', f);
	put_journal(f, c->b, journal);
	fputs("}\n", f);
	bad = ferror(f);
	if (fclose(f) == EOF || bad) {
		unlink(path);
		return (-1);
	}
	drop_oldest(dir);
	return (0);
}
