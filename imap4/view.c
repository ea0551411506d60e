/*
 * view - the selected mailbox as the client knows it; see imap4.h
 *
 * Ranges of UIDs in order, so that the message numbers are implied; a typical mailbox is a few of them. Beyond VIEW_MAX
 * ranges the view is coarse: the count alone is kept, and another backend can stand in only if nothing has changed.
 * Both copies lie in the log; a change is made in the one that the last commit does not name.
 */
#include "imap4/imap4.h"

enum { VIEW_MAX = Z_VIEW_SIZE / sizeof(struct range), GHOST_MAX = S_GHOST_SIZE / sizeof(struct range) };

static struct range *
at(const struct turn *t, uint32_t which)
{
	return ((struct range *)(void *)Z(t, Z_VIEW + which * Z_VIEW_SIZE));
}

const struct range *
view_ranges(const struct turn *t, uint32_t *n)
{
	*n = P(t)->box.n;
	return (at(t, P(t)->box.which));
}

/* The ranges for a change. */
static struct range *
edit(struct turn *t)
{
	struct mbox *m = &P(t)->box;

	if (m->epoch != t->epoch) {
		memcpy(at(t, 1 - m->which), at(t, m->which), m->n * sizeof(struct range));
		m->which = 1 - m->which;
		m->epoch = t->epoch;
	}
	return (at(t, m->which));
}

static void
go_coarse(struct turn *t)
{
	P(t)->box.coarse = 1;
	P(t)->box.n = P(t)->box.known = 0;
}

void
view_reset(struct turn *t)
{
	struct mbox *m = &P(t)->box;

	*m = (struct mbox){ .name_len = m->name_len, .which = 1 - m->which, .epoch = t->epoch };
}

void
view_forget(struct turn *t)
{
	struct mbox *m = &P(t)->box;

	(void)edit(t);
	m->n = m->known = 0;
}

bool
view_append(struct turn *t, uint32_t uid_lo, uint32_t n)
{
	struct mbox *m = &P(t)->box;
	uint32_t last = view_last(t);
	struct range *r;

	if (m->coarse)
		return (true);
	if (uid_lo <= last || n > UINT32_MAX - m->known)
		return (false);
	r = edit(t);
	m->known += n;
	if (m->n > 0 && last + 1 == uid_lo)
		r[m->n - 1].n += n;
	else if (m->n == VIEW_MAX)
		go_coarse(t);
	else
		r[m->n++] = (struct range){ uid_lo, n };
	return (true);
}

uint32_t
view_last(const struct turn *t)
{
	const struct mbox *m = &P(t)->box;
	const struct range *r = at(t, m->which);

	return (m->n == 0 ? 0 : r[m->n - 1].lo + (r[m->n - 1].n - 1));
}

uint32_t
view_uid(const struct turn *t, uint32_t seq)
{
	uint32_t n;
	const struct range *r = view_ranges(t, &n);

	if (seq == 0)
		return (0);
	for (uint32_t i = 0; i < n; seq -= r[i++].n)
		if (seq <= r[i].n)
			return (r[i].lo + (seq - 1));
	return (0);
}

uint32_t
view_seq(const struct turn *t, uint32_t uid)
{
	uint32_t n, before = 0;
	const struct range *r = view_ranges(t, &n);

	for (uint32_t i = 0; i < n && r[i].lo <= uid; before += r[i++].n)
		if (uid - r[i].lo < r[i].n)
			return (before + (uid - r[i].lo) + 1);
	return (0);
}

/* FETCH progress is in message numbers: those behind the expunged one move up. */
static void
renumber(struct pst *p, uint32_t seq)
{
	uint32_t k = 0;

	for (uint32_t i = 0; i < p->ndone; i++) {
		struct range r = p->done_seq[i];

		if (r.lo > seq)
			r.lo--;
		else if (seq - r.lo < r.n)
			r.n--;
		if (r.n > 0 && k > 0 && p->done_seq[k - 1].lo + p->done_seq[k - 1].n == r.lo)
			p->done_seq[k - 1].n += r.n;
		else if (r.n > 0)
			p->done_seq[k++] = r;
	}
	p->ndone = k;
	if (p->lit_seq > seq)
		p->lit_seq--;
}

void
view_expunge(struct turn *t, uint32_t seq)
{
	struct mbox *m = &P(t)->box;
	struct range *r;
	uint32_t i, off = seq - 1;

	if (seq == 0 || seq > m->exists)
		return;
	m->exists--;
	m->expunged++;
	renumber(P(t), seq);
	if (m->coarse || seq > m->known)
		return;
	r = edit(t);
	for (i = 0; off >= r[i].n; off -= r[i++].n)
		;
	m->known--;
	if (r[i].n == 1) {
		memmove(&r[i], &r[i + 1], (m->n - i - 1) * sizeof(*r));
		m->n--;
	} else if (off == 0)
		r[i].lo++, r[i].n--;
	else if (off == r[i].n - 1)
		r[i].n--;
	else if (m->n == VIEW_MAX)
		go_coarse(t);
	else {
		memmove(&r[i + 1], &r[i], (m->n - i) * sizeof(*r));
		m->n++;
		r[i].n = off;
		r[i + 1].lo += off + 1;
		r[i + 1].n -= off + 1;
	}
}

/* --- ghosts: ascending ranges of client numbers in the scratch arena ---------------------------------------------- */

static struct range *
ghosts(const struct turn *t)
{
	return ((struct range *)(void *)S(t, S_GHOST));
}

uint32_t
view_client(const struct turn *t, uint32_t server)
{
	const struct have *h = H(t);
	const struct range *g = ghosts(t);
	uint64_t c = server;

	for (uint32_t i = 0; i < h->nghost && g[i].lo <= c; i++)
		c += g[i].n;
	return (c > UINT32_MAX ? UINT32_MAX : (uint32_t)c);
}

void
view_print(const struct turn *t, uint32_t a, uint32_t b, struct out *o, size_t room)
{
	const struct have *h = H(t);
	const struct range *g = ghosts(t);
	uint32_t lo = view_client(t, a < b ? a : b), hi = view_client(t, a < b ? b : a);

	for (uint32_t i = 0; i < h->nghost && g[i].lo <= hi && out_room(o) > room + 64; i++)
		if (g[i].lo > lo) {
			out_fmt(o, lo + 1 == g[i].lo ? "%u," : "%u:%u,", lo, g[i].lo - 1);
			lo = g[i].lo + g[i].n;
		}
	out_fmt(o, lo == hi ? "%u" : "%u:%u", lo, hi);
}

uint32_t
view_server(const struct turn *t, uint32_t client, bool *ghost)
{
	const struct have *h = H(t);
	const struct range *g = ghosts(t);
	uint32_t below = 0;

	*ghost = false;
	for (uint32_t i = 0; i < h->nghost && g[i].lo <= client; i++) {
		*ghost = client - g[i].lo < g[i].n;
		below += *ghost ? client - g[i].lo : g[i].n;
	}
	return (client - below);	/* of a ghost: the one that stands in its place */
}

bool
view_ghost(struct turn *t, uint32_t lo, uint32_t n)
{
	struct have *h = H(t);

	if (!set_add(ghosts(t), &h->nghost, GHOST_MAX, lo, n))
		return (false);
	h->ghosts = (uint32_t)set_size(ghosts(t), h->nghost);
	return (true);
}

bool
view_is_recent(const struct turn *t, uint32_t uid)
{
	return (uid != 0 && set_has(P(t)->box.recent, P(t)->box.nrecent, uid));
}
