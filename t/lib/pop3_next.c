/*
 * pop3_next - what a release that changes POP3's state would have: format 2, with a field before all others
 *
 * t/sys/formats.t moves sessions between an image with this (POP3_NEXT) and the one that is built for use. A
 * session of the older format brings a word in the field, one begun here nothing; all else is not converted back.
 */
#include <string.h>

#include "pop3/pop3.h"

enum { FIELD = sizeof(((struct pst *)0)->next), OLDER = sizeof(struct pst) - FIELD };
static const char word[] = "format two";

int
pop3_next_convert(void *pst, uint16_t from, uint16_t to)
{
	uint8_t *p = pst;

	if (from == 1 && to == 2) {
		memmove(p + FIELD, p, OLDER);
		memset(p, 0, FIELD);
		memcpy(p, word, sizeof(word));
		return (0);
	}
	if (from != 2 || to != 1 || (p[0] != '\0' && memcmp(p, word, sizeof(word)) != 0))
		return (-1);
	memmove(p, p + FIELD, OLDER);
	memset(p + OLDER, 0, FIELD);
	return (0);
}
