/*
 * conf_check - whether the certificates of a configuration can be used: asks bmr-tls, which alone has OpenSSL (conf.h)
 *
 * It is run once at a start, a check and a reload, by bmrd, before anything is taken from the new file.
 */
#include <sys/wait.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "workers/conf.h"

enum { IMAGE_FD = 5 };		/* CONF_FD of supervisor/worker.h */

static bool
uses_tls(const struct conf *c)
{
	if (c->ncertificate > 0)
		return (true);
	for (uint32_t i = 0; i < c->nservice; i++)
		for (uint32_t k = 0; k < c->service[i].nbackend; k++)
			if (c->service[i].backend[k].tls.mode != MODE_NONE)
				return (true);
	return (false);
}

_Noreturn static void
run(const char *image, int conf, int out)
{
	if (dup2(out, STDOUT_FILENO) == -1 || dup2(conf, IMAGE_FD) == -1)
		_exit(EX_OSERR);
	if (conf == IMAGE_FD)
		(void)fcntl(IMAGE_FD, F_SETFD, 0);
	execl(image, image, "-t", (char *)NULL);
	printf("%s: %s: expected the program that does TLS\n", image, strerror(errno));
	fflush(stdout);
	_exit(EX_UNAVAILABLE);
}

int
conf_check_tls(const struct conf *c, void (*say)(void *, const char *), void *arg)
{
	char image[CONF_PATH + 16], *line = NULL;
	int pipe[2], conf, status = 0;
	size_t cap = 0;
	ssize_t n;
	pid_t pid;
	FILE *f;

	if (!uses_tls(c))
		return (0);
	snprintf(image, sizeof(image), "%s/bmr-tls", c->release_dir);
	if ((conf = conf_seal(c)) == -1)
		return (EX_OSERR);
	if (pipe2(pipe, O_CLOEXEC) == -1) {
		close(conf);
		return (EX_OSERR);
	}
	if ((pid = fork()) == 0)
		run(image, conf, pipe[1]);
	close(conf);
	close(pipe[1]);
	if (pid == -1 || (f = fdopen(pipe[0], "r")) == NULL) {
		close(pipe[0]);
		return (EX_OSERR);
	}
	while ((n = getline(&line, &cap, f)) > 0) {
		line[n - 1] = '\0';
		say(arg, line);
	}
	free(line);
	fclose(f);
	while (waitpid(pid, &status, 0) == -1 && errno == EINTR)
		;
	return (WIFEXITED(status) ? WEXITSTATUS(status) : EX_SOFTWARE);
}
