/* dialogue - a client's session through a rig, with a backend that dies before any given step; for t/unit */
#ifndef T_LIB_DIALOGUE_H
#define T_LIB_DIALOGUE_H

#include "t/lib/servers.h"

struct dialogue {
	const struct behaviour *b;
	const struct caps *offer;
	const char *const *piece;		/* of the client, each sent when the one before has its answer */
	size_t		 n;
	void		(*server)(struct rig *, struct server *);
};

static bool dialogue_normalize;		/* the site wants bare newlines mended */
static size_t dialogue_keeps;		/* so much content at once fits on the disk, 0: any */
static size_t dialogue_die_said;	/* the backend dies when it has had so many octets, 0: never */

/* Runs it, client input and backend input cut into pieces of `cut` octets (0: as it comes). The rig is the caller's to free. */
static inline struct rig *
dialogue_run(const struct dialogue *d, size_t cut, uint32_t die_at)
{
	struct rig *r = rig_new(d->b, d->offer);
	struct server s = { 0 };

	r->die_at = die_at;
	r->die_said = dialogue_die_said;
	r->keeps = dialogue_keeps;
	r->peer.normalize = dialogue_normalize;
	r->b->greet(rig_turn(r));
	rig_done(r);
	for (size_t i = 0; i < d->n; i++)
		for (size_t at = 0, len = strlen(d->piece[i]); at < len && !r->over;) {
			size_t part = cut != 0 && cut < len - at ? cut : len - at;

			(void)rig_put(&r->in, d->piece[i] + at, part);
			at += part;
			for (;;) {
				size_t had = r->bin.n, end;

				rig_run(r);
				if (r->up && !r->over)
					d->server(r, &s);
				if (r->bin.n == had && !(r->b->pending(&r->t) && !r->up))
					break;
				end = r->bin.n;
				/* the backend's octets, a few at a time */
				for (size_t k = had; cut != 0 && k < end && r->bin.n == end && !r->over; k += cut) {
					r->bin.n = k + cut < end ? k + cut : end;
					rig_run(r);
					if (r->bin.n != (k + cut < end ? k + cut : end))
						break;		/* it was left meanwhile */
					r->bin.n = end;
				}
			}
		}
	return (r);
}

#endif
