/* memory - see memory.h; reads /proc */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/buf.h"
#include "workers/admin/memory.h"

static FILE *
open_proc(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	return (fopen(path, "re"));
}

/* "Rss:                1234 kB" */
static void
rollup_line(const char *line, const char *key, uint64_t *kb)
{
	struct bytes b;

	if (strncmp(line, key, strlen(key)) != 0)
		return;
	line += strlen(key);
	line += strspn(line, " \t");
	b = bytes(line, strcspn(line, " \n"));
	(void)bytes_num(b, 0, UINT64_C(1) << 40, kb);
}

void
memory_of(pid_t pid, uint64_t *rss_kb, uint64_t *pss_kb)
{
	uint64_t pages = 0;
	char line[256];
	struct bytes b;
	FILE *f;

	*rss_kb = *pss_kb = 0;
	if ((f = open_proc(pid, "smaps_rollup")) != NULL) {
		while (fgets(line, sizeof(line), f) != NULL) {
			rollup_line(line, "Rss:", rss_kb);
			rollup_line(line, "Pss:", pss_kb);
		}
		fclose(f);
	}
	if (*rss_kb != 0 || (f = open_proc(pid, "statm")) == NULL)
		return;
	if (fgets(line, sizeof(line), f) != NULL) {
		b = bytes_str(line);
		(void)bytes_token(&b, ' ');
		if (bytes_num(bytes_token(&b, ' '), 0, UINT64_C(1) << 32, &pages) == 0)
			*rss_kb = pages * (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
	}
	fclose(f);
}
