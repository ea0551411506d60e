/*
 * sync - sets of UIDs that backends list, read as they come: the client's view compared with the mailbox at another
 * backend, the view learned, and smaller sets (protocols.md 1.4.3, 1.4.4)
 *
 * A list may have megabytes: no line of it is ever whole in memory, and the comparison walks along both once.
 */
#include "imap4/imap4.h"

static struct range *
cand(const struct turn *t)
{
	return ((struct range *)(void *)S(t, S_CAND));
}

/* --- comparing ---------------------------------------------------------------------------------------------------- */

/* These of the view are not there. */
static void
gone(struct turn *t, uint32_t n)
{
	struct have *h = H(t);

	if (n > 0 && !view_ghost(t, h->cmp_seq + 1, n))
		h->never = 1;
	h->cmp_seq += n;
}

static void
compare(struct turn *t, struct range u)
{
	struct have *h = H(t);
	uint32_t nr;
	const struct range *r = view_ranges(t, &nr);

	while (u.n > 0 && h->cmp_i < nr && !h->never) {
		uint32_t lo = r[h->cmp_i].lo + h->cmp_off, left = r[h->cmp_i].n - h->cmp_off, skip, same;

		if (u.lo < lo) {		/* a message among those that the client knows: order is broken */
			h->never = 1;
			return;
		}
		skip = u.lo - lo < left ? u.lo - lo : left;
		gone(t, skip);
		left -= skip;
		same = left < u.n ? left : u.n;
		if (left > 0) {
			h->cmp_seq += same;
			u.lo += same;
			u.n -= same;
		} else
			same = 0;
		h->cmp_off += skip + same;
		if (h->cmp_off == r[h->cmp_i].n) {
			h->cmp_i++;
			h->cmp_off = 0;
		}
	}
	if (u.n > 0 && !h->never && (u.lo <= view_last(t) || !set_add(cand(t), &h->cmp_new, CAND_MAX, u.lo, u.n)))
		h->never = 1;
}

void
imap4_tell_exists(struct turn *t)
{
	struct mbox *m = &P(t)->box;
	uint64_t c = (uint64_t)H(t)->exists + H(t)->ghosts;

	if (P(t)->streaming || imap4_waits_plus(t) || P(t)->phase != SELECTED || c <= m->exists)
		return;
	m->exists = (uint32_t)c;
	out_fmt(t->client, "* %u EXISTS\r\n", m->exists);
}

/* RFC 7162 section 3.1.2. The backend has given mod-sequences since SELECT and does not say this again. */
void
imap4_condstore(struct turn *t)
{
	struct pst *p = P(t);
	const struct mbox *m = &p->box;

	if (p->condstore)
		return;
	p->condstore = 1;
	if (p->phase == SELECTED && p->command != CMD_SELECT && m->modseq != 0 && !m->nomodseq)
		out_fmt(t->client, "* OK [HIGHESTMODSEQ %llu] Highest\r\n",
		    (unsigned long long)(m->seen > m->modseq ? m->seen : m->modseq));
}

/* The numbers of both sides agree from now on, over the ghosts. */
static void
level(struct turn *t)
{
	struct mbox *m = &P(t)->box;
	struct have *h = H(t);
	uint64_t c;

	c = (uint64_t)h->exists + h->ghosts;
	if (c > UINT32_MAX || h->never)
		h->never = 1;
	else if (c < m->exists && !view_ghost(t, (uint32_t)c + 1, m->exists - (uint32_t)c))
		h->never = 1;
	else
		imap4_tell_exists(t);
}

/* Which messages are \Recent was not heard before the backend died, only how many: servers give it to the newest ones. */
static void
newest_are_recent(struct turn *t)
{
	struct mbox *m = &P(t)->box;
	uint32_t i, left = m->recents;
	const struct range *r = view_ranges(t, &i);

	if (m->nrecent > 0 || m->known != m->exists || m->recents > m->exists)
		return;
	while (left > 0 && i-- > 0) {
		uint32_t n = r[i].n < left ? r[i].n : left;

		if (!set_add(m->recent, &m->nrecent, RECENT_MAX, r[i].lo + r[i].n - n, n))
			return;
		left -= n;
	}
}

enum took
imap4_compared(struct turn *t)
{
	struct mbox *m = &P(t)->box;
	struct have *h = H(t);
	uint32_t nr;
	const struct range *r = view_ranges(t, &nr);

	if (h->resync) {		/* it changed meanwhile: once more */
		h->stage = AT_SELECTED;
		return (TOOK_ONE);
	}
	h->old_last = view_last(t);
	newest_are_recent(t);
	for (; h->cmp_i < nr; h->cmp_i++, h->cmp_off = 0)
		gone(t, r[h->cmp_i].n - h->cmp_off);
	for (uint32_t i = 0; i < h->cmp_new && !m->coarse && !P(t)->streaming; i++)
		if (m->known + (uint64_t)cand(t)[i].n <= (uint64_t)h->exists + h->ghosts &&
		    !view_append(t, cand(t)[i].lo, cand(t)[i].n))
			h->never = 1;
	level(t);
	if (h->never)
		return (TOOK_NEVER);
	h->stage = AT_COMPARED;
	h->fake_recent = m->nrecent > 0 && !m->examine;	/* that leaves them to be counted again */
	h->recent_base = h->fake_recent ? m->recents : 0;
	h->recent_asked = h->fake_recent;	/* what it knows of is asked for when it counts some */
	if (h->recents > 0)
		imap4_recents(t, h->recents);
	return (TOOK_ONE);
}

bool
imap4_equivalent(struct turn *t)
{
	struct mbox *m = &P(t)->box;
	struct have *h = H(t);

	if (h->uidvalidity != m->uidvalidity || h->uidnext < m->uidnext || m->notsticky || h->notsticky)
		return (false);
	if ((h->modseq != 0 && h->modseq < (m->seen > m->modseq ? m->seen : m->modseq)) ||
	    (P(t)->condstore && m->modseq != 0 && h->modseq == 0))
		return (false);
	if (h->read_only != m->read_only && !P(t)->streaming) {
		m->read_only = h->read_only;
		out_fmt(t->client, "* OK [READ-%s] mailbox access has changed\r\n", m->read_only ? "ONLY" : "WRITE");
	}
	if (!m->coarse && m->learned)
		return (true);
	/* Without UIDs only this is sure: if as many came as UIDs were given, none has gone. */
	if ((uint64_t)m->base_exists - m->expunged + (h->uidnext - m->uidnext) != h->exists || h->exists < m->exists)
		return (false);
	h->stage = AT_COMPARED;
	h->nghost = h->ghosts = 0;
	h->old_last = UINT32_MAX;		/* which are new is not known */
	level(t);
	return (!h->never);
}

/* --- learning ----------------------------------------------------------------------------------------------------- */

static void
learn(struct turn *t, struct range u)
{
	struct mbox *m = &P(t)->box;
	uint32_t room = m->exists > m->known ? m->exists - m->known : 0, last = view_last(t);

	if (u.lo <= last) {		/* n:* always names the last one */
		uint64_t end = (uint64_t)u.lo + u.n;

		if (end <= (uint64_t)last + 1)
			return;
		u = (struct range){ last + 1, (uint32_t)(end - last - 1) };
	}
	if (u.n > room)
		u.n = room;		/* more than it was told: the next tail */
	if (u.n > 0)
		(void)view_append(t, u.lo, u.n);
}

static void
one(struct turn *t, struct range u)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	bool fits = true;

	switch (h->own) {
	case OWN_COMPARE:
		compare(t, u);
		break;
	case OWN_LEARN:
	case OWN_TAIL:
		learn(t, u);
		break;
	case OWN_RECENT:
		(void)set_add(p->box.recent, &p->box.nrecent, RECENT_MAX, u.lo, u.n);
		break;
	case OWN_SAVED:
		fits = set_add((struct range *)(void *)Z(t, Z_SAVE + (1 - p->save_which) * Z_SAVE_SIZE), &h->nsaved,
		    Z_SAVE_SIZE / sizeof(u), u.lo, u.n);
		break;
	case OWN_DELETED:
		fits = set_add((struct range *)(void *)Z(t, Z_SET), &p->nset, Z_SET_SIZE / sizeof(u), u.lo, u.n);
		break;
	default:
		break;
	}
	if (!fits)
		h->set_over = 1;
}

/* False: the client must take some output first. */
static bool
list_ends(struct turn *t)
{
	const struct mbox *m = &P(t)->box;

	if (!m->coarse && m->known < m->exists)
		H(t)->learning_ghost = 1;
	P(t)->box.learned = !H(t)->learning_ghost;
	return (imap4_tell_selected(t));
}

/* A list of fewer UIDs than there are messages says nothing of their numbers: some have gone, which is not told yet. */
static void
compare_ends(struct turn *t)
{
	struct have *h = H(t);

	if (h->cmp_seq - h->ghosts + set_size(cand(t), h->cmp_new) >= h->exists)
		return;
	h->resync = 1;
	if (++h->short_lists > SHORT_MAX)
		h->never = 1;
}

/* A line of VANISHED too long to be looked at whole. */
static void
vanish(struct turn *t, struct range u)
{
	char text[64];
	struct out o = { (uint8_t *)text, 0, sizeof(text), false };

	out_str(&o, "VANISHED ");
	(void)set_print(&o, &u, 1);
	if (imap4_untagged(t, bytes(text, o.len)) == TOOK_NEVER)
		H(t)->never = 1;
}

enum took
imap4_set_stream(struct turn *t, struct bytes in, size_t *used)
{
	struct have *h = H(t);
	struct range u;

	for (size_t i = 0; i < in.n; i++) {
		uint8_t c = in.p[i];

		if (c == '\n' || c == ' ' || c == '\r')
			c = ',';
		if (!h->set_end && !(c == ',' && h->walk.digits == 0)) {
			int k = setwalk_step(&h->walk, c, &u);

			if (k == -1)
				return (TOOK_NONSENSE);
			if (k == 1 && h->in_stream == STREAM_VANISHED)
				vanish(t, u);
			else if (k == 1)
				one(t, u);
		}
		if (h->in_stream == STREAM_VANISHED && out_room(t->client) < 1024 && in.p[i] != '\n') {
			*used = i + 1;
			return (TOOK_ONE);
		}
		if (in.p[i] == ' ' && h->esearch)
			h->set_end = 1;		/* other results, which were not asked for */
		if (in.p[i] == '\n') {
			bool list = h->in_stream == STREAM_SET;

			if (list && h->own == OWN_LEARN && !list_ends(t)) {
				*used = i;
				return (TOOK_MORE);
			}
			if (list && h->own == OWN_COMPARE)
				compare_ends(t);
			h->got_set |= list;
			h->in_stream = STREAM_NONE;
			*used = i + 1;
			return (TOOK_ONE);
		}
	}
	*used = in.n;
	return (TOOK_MORE);
}
