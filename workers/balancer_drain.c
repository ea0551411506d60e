/*
 * balancer_drain - the operator's drains in one small file of the state directory: written aside, synced, renamed
 *
 * A line is "service backend", or "service backend ready" for one that its file has drained and the operator made ready.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/balancer.h"

static void
path(const struct balancer *b, const char *suffix, char *dst, size_t size)
{
	snprintf(dst, size, "%s/drained%s", b->conf->state_dir, suffix);
}

static void
drain_load(struct balancer *b)
{
	char file[CONF_PATH + 16], service[CONF_NAME], name[CONF_NAME], word[8], line[128];
	int n;
	FILE *f;

	path(b, "", file, sizeof(file));
	if ((f = fopen(file, "re")) == NULL)
		return;
	while (fgets(line, sizeof(line), f) != NULL) {
		if ((n = sscanf(line, "%31s %31s %7s", service, name, word)) < 2)
			continue;
		for (uint32_t i = 0; i < b->conf->nservice; i++)
			for (uint32_t k = 0; k < b->service[i].n; k++)
				if (strcmp(b->service[i].name, service) == 0 && strcmp(b->service[i].backend[k].name, name) == 0 &&
				    !b->service[i].backend[k].known && (n == 2 || b->service[i].backend[k].drained)) {
					b->service[i].backend[k].drained = n == 2;
					b->service[i].backend[k].operators = true;
				}
	}
	fclose(f);
}

void
drain_learn(struct balancer *b)
{
	drain_load(b);
	for (uint32_t i = 0; i < b->conf->nservice; i++)
		for (uint32_t k = 0; k < b->service[i].n; k++)
			b->service[i].backend[k].known = true;
}

int
drain_save(struct balancer *b)
{
	char file[CONF_PATH + 16], next[CONF_PATH + 16];
	FILE *f;

	path(b, "", file, sizeof(file));
	path(b, ".new", next, sizeof(next));
	if ((f = fopen(next, "we")) == NULL)
		return (-1);
	for (uint32_t i = 0; i < b->conf->nservice; i++)
		for (uint32_t k = 0; k < b->service[i].n; k++)
			if (b->service[i].backend[k].operators)
				fprintf(f, "%s %s%s\n", b->service[i].name, b->service[i].backend[k].name,
				    b->service[i].backend[k].drained ? "" : " ready");
	if (fflush(f) != 0 || fsync(fileno(f)) == -1) {
		fclose(f);
		return (-1);
	}
	if (fclose(f) != 0)
		return (-1);
	return (rename(next, file));
}
