/*
 * conf_text - the files of a configuration, as libconfuse is to see them (conf_parse.h)
 *
 * Comments are blanked: libconfuse counts the line that ends one three times, and a fault shall name its true line. An
 * included file is therefore given to it as an unlinked copy, whose name is turned back into the file's where a fault is
 * told. A file that is being read is not read again within itself: that would have no end.
 */
#include <sys/mman.h>
#include <sys/stat.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "workers/conf_parse.h"

enum { TEXT_OCTETS = 1 << 20, TEXT_FILES = 64, NESTED = 9 /* libconfuse has a limit of 10, and a worse message */ };

/* Every file so far, the first included; by: which of them included it; seen: the name that libconfuse has for it. */
static struct text { dev_t dev; ino_t ino; unsigned int by, depth; char seen[40], name[PATH_MAX]; } files[TEXT_FILES];
static unsigned int nfiles;

static unsigned int
which(const char *seen)
{
	for (unsigned int i = nfiles; i-- > 1;)
		if (strcmp(files[i].seen, seen) == 0)
			return (i);
	return (0);
}

const char *
text_name(const char *seen)
{
	unsigned int i = which(seen);

	return (i > 0 ? files[i].name : seen);
}

/* Where the comment, string or variable that begins at i ends. */
static size_t
skip(const char *p, size_t n, size_t i)
{
	const char *end;
	char quote = p[i];

	if (quote == '"' || quote == '\'') {
		for (i++; i < n && p[i] != quote; i++)
			i += p[i] == '\\';
		return (i < n ? i + 1 : n);
	}
	end = quote == '$' ? memchr(p + i, '}', n - i) : quote == '/' && p[i + 1] == '*' ? memmem(p + i + 2, n - i - 2, "*/", 2) :
	    memchr(p + i, '\n', n - i);
	if (end == NULL)
		return (n);
	return ((size_t)(end - p) + (quote == '$' ? 1 : *end == '\n' ? 0 : 2));
}

void
text_blank(char *p, size_t n)
{
	bool word = false;		/* within a word without quotes, where a slash is nothing special */

	for (size_t i = 0, end; i < n; i = end) {
		char c = p[i], next = i + 1 < n ? p[i + 1] : '\0';
		bool comment = c == '#' || (!word && c == '/' && (next == '/' || next == '*'));

		end = i + 1;
		if (comment || c == '"' || c == '\'' || (c == '$' && next == '{'))
			end = skip(p, n, i);
		word = !comment && strchr(" \t\r\n={}()+,\"'", c) == NULL;
		/* one without an end stays, so that it is found */
		if (comment && (end < n || next != '*'))
			for (size_t k = i; k < end; k++)
				p[k] = p[k] == '\n' ? '\n' : ' ';
	}
}

char *
text_read(const char *file, size_t more, size_t *n)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	char *p = fd == -1 ? NULL : malloc(TEXT_OCTETS + more);
	ssize_t r = -1;

	*n = 0;
	while (p != NULL && *n < TEXT_OCTETS && (r = read(fd, p + *n, TEXT_OCTETS - *n)) > 0)
		*n += (size_t)r;
	if (p != NULL && r != 0) {
		errno = r > 0 ? EFBIG : errno;
		free(p);
		p = NULL;
	}
	if (fd != -1)
		close(fd);
	if (p != NULL)
		text_blank(p, *n);
	return (p);
}

void
text_first(const char *file)
{
	struct stat st = { 0 };

	(void)stat(file, &st);
	files[0] = (struct text){ .dev = st.st_dev, .ino = st.st_ino };
	nfiles = 1;
}

/* An unlinked copy, and its name; it lives as long as this process. 0, or -1 and errno. */
static int
copy_of(const char *path, char *seen, size_t size)
{
	size_t n = 0;
	char *p = text_read(path, 0, &n);
	int fd = p == NULL ? -1 : memfd_create("conf", MFD_CLOEXEC), r = -1;

	if (fd != -1 && write(fd, p, n) == (ssize_t)n) {
		snprintf(seen, size, "/proc/self/fd/%d", fd);
		r = 0;
	}
	free(p);
	return (r);
}

static bool
is_read(const struct stat *st, unsigned int by)
{
	for (;; by = files[by].by) {
		if (files[by].dev == st->st_dev && files[by].ino == st->st_ino)
			return (true);
		if (by == 0)
			return (false);
	}
}

/* Makes files[nfiles] of it. What is wrong instead, with a code of sysexits.h, or NULL. */
static const char *
take(const char *path, unsigned int by, int *code)
{
	struct text *t = &files[nfiles];
	struct stat st;

	*code = EX_CONFIG;
	if (nfiles == TEXT_FILES || files[by].depth == NESTED)
		return (nfiles == TEXT_FILES ? "too many files" : "nested too deeply");
	*code = EX_NOINPUT;
	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return (S_ISDIR(st.st_mode) ? strerror(EISDIR) : "expected a regular file");
	*t = (struct text){ .by = by, .depth = files[by].depth + 1, .dev = st.st_dev, .ino = st.st_ino };
	snprintf(t->name, sizeof(t->name), "%s", path);
	if (copy_of(path, t->seen, sizeof(t->seen)) == -1) {
		*code = errno == EACCES ? EX_NOPERM : EX_NOINPUT;
		return (strerror(errno));
	}
	*code = EX_CONFIG;
	return (is_read(&st, by) ? "a loop, this file is being read already" : NULL);
}

int
text_include(cfg_t *cfg, cfg_opt_t *opt, int argc, const char **argv)
{
	char *path = argc == 1 ? cfg_tilde_expand(argv[0]) : NULL;
	int code = EX_CONFIG;
	const char *why = path == NULL ? "expected one argument, the path of a file" : take(path, which(cfg->filename), &code);

	if (why != NULL)
		fault_as(code, cfg->filename, (unsigned int)cfg->line, "include \"%s\": %s", path != NULL ? path : "...", why);
	free(path);
	return (why != NULL ? -1 : cfg_include(cfg, opt, 1, (const char *[]){ files[nfiles++].seen }));
}
