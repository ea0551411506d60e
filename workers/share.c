/* share - see share.h; pure */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workers/share.h"

void
share_id(char *dst, size_t size, const char *base, uint32_t share)
{
	if (share == 0)
		(void)!snprintf(dst, size, "%s", base);
	else
		(void)!snprintf(dst, size, "%s-%u", base, share + 1);
}

uint32_t
share_of(const char *id)
{
	const char *p = id + share_base(id);
	unsigned long n = *p == '-' ? strtoul(p + 1, NULL, 10) : 1;

	return (n >= 1 && n <= SHARES ? (uint32_t)n - 1 : 0);
}

size_t
share_base(const char *id)
{
	const char *p = strrchr(id, '-');

	return (p != NULL && isdigit((unsigned char)p[1]) ? (size_t)(p - id) : strlen(id));
}
