/* spec - checks child specifications before anything is started (spec.h); pure */
#include <string.h>

#include "supervisor/spec.h"

static bool
known(const struct tree *t, const char *id)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (strcmp(t->spec[i].id, id) == 0)
			return (true);
	return (false);
}

static const char *
check_one(const struct tree *t, uint32_t i)
{
	const struct spec *s = &t->spec[i];

	if (s->id[0] == '\0' || memchr(s->id, 0, sizeof(s->id)) == NULL)
		return ("a child without an id");
	if (s->parent < -1 || s->parent >= (int32_t)i)
		return ("a parent that does not stand before its child");
	if (s->parent >= 0 && !t->spec[s->parent].supervisor)
		return ("a parent that is no supervisor");
	if (s->restart > TEMPORARY || s->strategy > REST_FOR_ONE)
		return ("an unknown restart type or strategy");
	if (s->supervisor && s->period_s == 0)
		return ("a supervisor with a period of 0 seconds");
	if (!s->supervisor && s->image[0] == '\0')
		return ("a worker without an image");
	if (s->shutdown_ms < SHUTDOWN_INFINITY || s->start_ms < 0)
		return ("a negative time");
	for (uint32_t k = 0; k < i; k++)
		if (strcmp(t->spec[k].id, s->id) == 0)
			return ("a duplicate id");
	for (uint32_t k = 0; k < SPEC_PEERS && s->peers[k][0] != '\0'; k++)
		if (!known(t, s->peers[k]))
			return ("an unknown peer");
	return (NULL);
}

const char *
spec_check(const struct tree *t)
{
	const char *wrong;

	if (t->n > SPEC_MAX || t->period_s == 0)
		return ("too many children, or a period of 0 seconds");
	for (uint32_t i = 0; i < t->n; i++)
		if ((wrong = check_one(t, i)) != NULL)
			return (wrong);
	return (NULL);
}
