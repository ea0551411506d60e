/*
 * doubt - a command that changes the store was sent, and its backend died before the answer: was it done? (protocols.md
 * 1.4.7)
 *
 * On another backend, before anything is selected there, the target is compared with what it was just before the
 * command. UIDNEXT unchanged: nothing was added (RFC 9051 section 2.3.1.1). Else what was added is looked at. The
 * command is repeated, answered, or, where neither would be honest, the session ends.
 */
#include "imap4/imap4.h"
#include "imap4/token.h"

struct cand { uint32_t uid, copy; uint64_t sig; };	/* copy: its UID in the target, 0 none; of APPEND: it was read */
enum { CANDS = S_CAND_SIZE / sizeof(struct cand), FRESH_MAX = 4096 };

static struct cand *
cands(const struct turn *t)
{
	return ((struct cand *)(void *)S(t, S_CAND));
}

/*
 * Of APPEND: the UID found for each literal, and whether a message is there that may be it although it is not the same. Of COPY
 * and MOVE: ranges of what the target has got.
 */
static uint32_t *
found(const struct turn *t)
{
	return ((uint32_t *)(void *)S(t, S_BUF));
}

static uint8_t *
unsure(const struct turn *t)
{
	return (S(t, S_BUF + LITERALS_MAX * sizeof(uint32_t)));
}

static struct range *
fresh(const struct turn *t)
{
	return ((struct range *)(void *)S(t, S_BUF));
}

enum doubt
imap4_doubt(struct turn *t)
{
	struct pst *p = P(t);

	p->fence = 0;
	p->redo = 1;
	switch (p->command) {
	case CMD_APPEND:
	case CMD_COPY:
	case CMD_MOVE:
		p->probing = 1;
		p->move_rest = p->command == CMD_COPY && p->move_rest;
		return (DOUBT_REDO_SAFE);
	case CMD_CREATE:
	case CMD_DELETE:
	case CMD_RENAME:
		if (p->base_there == THERE_UNKNOWN || (p->command == CMD_RENAME && p->base2_there == THERE_UNKNOWN))
			break;
		/* else it could not be done, and is refused again */
		p->probing = p->command == CMD_CREATE ? p->base_there != THERE : p->base_there != THERE_NOT;
		return (DOUBT_REDO_SAFE);
	case CMD_UNKNOWN:
		break;
	default:			/* done twice it is done once, or what it is about is known by UID */
		return (DOUBT_REDO_SAFE);
	}
	(void)imap4_refuse(t, WHY_LOST);
	return (DOUBT_CLOSE);
}

/* --- what to ask -------------------------------------------------------------------------------------------------- */

static enum next
ask_box(struct turn *t, enum own own, const char *verb, uint32_t at, uint32_t len, const char *rest)
{
	imap4_own_begin(t, "%s ", verb);
	if (!imap4_say(t, bytes(Z(t, at), len)))
		return (NEXT_NEVER);
	(void)imap4_sayf(t, "%s", rest);
	return (imap4_own_end(t, own));
}

static enum next
ask_there(struct turn *t, enum own own, bool list, uint32_t at, uint32_t len)
{
	struct have *h = H(t);

	h->st_there = THERE_NOT;
	h->st_uidvalidity = h->st_uidnext = 0;
	h->listing = list;
	return (list ? ask_box(t, own, "LIST \"\"", at, len, "") :
	    ask_box(t, own, "STATUS", at, len, " (UIDVALIDITY UIDNEXT)"));
}

/* STATUS fails for a name that is no mailbox's, and where a server makes mailboxes when they are named first it makes one. */
static bool
is_about_names(const struct pst *p)
{
	return (p->command == CMD_CREATE || p->command == CMD_RENAME);
}

enum next
imap4_ask_base(struct turn *t, bool second)
{
	const struct pst *p = P(t);
	bool list = is_about_names(p) || p->base_known == BASE_LIST;

	return (second ? ask_there(t, OWN_BASE2, list, Z_CMD + p->target2_at, p->target2_len) :
	    ask_there(t, OWN_BASE, list, Z_CMD + p->target_at, p->target_len));
}

static enum next
ask_signs(struct turn *t, enum own own)
{
	const struct pst *p = P(t);

	imap4_own_begin(t, "UID FETCH ");
	if (own == OWN_LOOK_TARGET)
		(void)imap4_sayf(t, "%u:*", p->base_uidnext);
	else if (!imap4_say_set(t, (const struct range *)(const void *)Z(t, Z_SET), p->nset))
		return (NEXT_NEVER);
	(void)imap4_sayf(t, " (INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])");
	return (imap4_own_end(t, own));
}

enum look { LOOK_STATUS, LOOK_LIST, LOOK_LIST2, LOOK_ID, LOOK_UIDNEXT, LOOK_SOURCE, LOOK_SIGNS, LOOK_TARGET, LOOK_FRESH, LOOK_BODY };

enum next
imap4_look(struct turn *t)
{
	const struct pst *p = P(t);
	struct have *h = H(t);

	if (h->look == LOOK_STATUS && is_about_names(p))
		h->look = LOOK_LIST;
	switch (h->look) {
	case LOOK_STATUS:
	case LOOK_LIST:
		return (ask_there(t, OWN_LOOK, h->look == LOOK_LIST, Z_CMD + p->target_at, p->target_len));
	case LOOK_LIST2:
		return (ask_there(t, OWN_LOOK2, true, Z_CMD + p->target2_at, p->target2_len));
	case LOOK_ID:
		h->kept_len = 0;
		return (ask_box(t, OWN_LOOK, "STATUS", Z_CMD + p->target_at, p->target_len, " (MAILBOXID)"));
	case LOOK_UIDNEXT:
		h->uidnext = 0;
		return (ask_box(t, OWN_LOOK_SELECT, "EXAMINE", Z_CMD + p->target_at, p->target_len, ""));
	case LOOK_SOURCE:
		return (ask_box(t, OWN_LOOK_SELECT, "EXAMINE", Z_SEL, p->box.name_len, ""));
	case LOOK_SIGNS:
		return (ask_signs(t, OWN_LOOK_SOURCE));
	case LOOK_TARGET:
		return (ask_box(t, OWN_LOOK_SELECT, "EXAMINE", Z_CMD + p->target_at, p->target_len, ""));
	case LOOK_FRESH:
		if (p->command == CMD_APPEND)
			return (imap4_own(t, OWN_LOOK_IDS, "UID FETCH %u:* (BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])",
			    p->base_uidnext));
		return (ask_signs(t, OWN_LOOK_TARGET));
	default:
		h->look_uid = cands(t)[h->cand_at].uid;
		return (imap4_own(t, OWN_LOOK_BODY, "UID FETCH %u (BODY.PEEK[])", h->look_uid));
	}
}

/* --- what is answered --------------------------------------------------------------------------------------------- */

/* It is not what this literal became, whatever the store did to that. */
static bool
is_another(const struct literal *l, uint64_t id)
{
	if (l->content == CONTENT_OLD || l->id == id)
		return (false);
	return ((l->id != 0 && id != 0) || l->content == CONTENT_PLAIN);
}

/* What is to be read: all but what another Message-ID tells apart from each of ours. */
static void
candidate(struct turn *t, uint32_t uid, uint64_t id)
{
	struct have *h = H(t);
	bool all = true;

	for (uint32_t i = 0; i < P(t)->nlit; i++)
		all = all && id != 0 && imap4_literal(t, i)->id != 0 && is_another(imap4_literal(t, i), id);
	if (uid < P(t)->base_uidnext || all)
		return;		/* n:* names the last one always */
	if (h->ncand == CANDS)
		h->never = 1;
	else
		cands(t)[h->ncand++] = (struct cand){ .uid = uid, .sig = id };
}

static void
sign(struct turn *t, uint32_t uid, uint64_t sig)
{
	struct have *h = H(t);
	struct cand *c = cands(t);

	if (h->own == OWN_LOOK_SOURCE) {
		if (h->nsrc == CANDS)
			h->never = 1;
		else
			c[h->nsrc++] = (struct cand){ .uid = uid, .sig = sig };
		return;
	}
	if (uid < P(t)->base_uidnext)
		return;
	/* copies come in the order of their originals */
	for (uint32_t i = h->cand_at; i < h->nsrc; i++)
		if (c[i].sig == sig && c[i].copy == 0) {
			c[i].copy = uid;
			h->cand_at = i + 1;
			h->ncand++;
			return;
		}
	if (!set_add(fresh(t), &h->cmp_new, FRESH_MAX, uid, 1))
		h->never = 1;
}

/* This candidate is not what was appended, or not any more. */
static void
differs(struct turn *t, uint64_t id)
{
	for (uint32_t i = 0; i < P(t)->nlit; i++)
		unsure(t)[i] |= !is_another(imap4_literal(t, i), id);
}

void
imap4_look_body(struct turn *t)
{
	struct cand *c = &cands(t)[H(t)->cand_at];
	bool same = false;

	c->copy = 1;
	for (uint32_t i = 0; i < P(t)->nlit; i++) {
		if (!relayed_same(&H(t)->look_hash, &imap4_literal(t, i)->hash))
			continue;
		same = true;
		if (found(t)[i] == 0) {
			found(t)[i] = c->uid;
			return;
		}
	}
	if (!same)
		differs(t, c->sig);
}

void
imap4_look_fetch(struct turn *t, struct bytes items)
{
	struct have *h = H(t);
	struct bytes name, value, text;
	uint64_t uid = 0, id = 0;
	struct relayed sig;
	uint8_t buf[4096], at = 0;

	relayed_start(&sig, P(t)->key);
	while (token_item(&items, &name, &value)) {
		if (bytes_caseeq(name, BYTES("UID"))) {
			if (bytes_num(value, 1, UINT32_MAX, &uid) == -1)
				uid = 0;
			continue;
		}
		if (bytes_caseeq(name, BYTES("FLAGS")) || bytes_caseeq(name, BYTES("MODSEQ")))
			continue;
		relayed_add(&sig, name);
		relayed_add(&sig, value);
		if (h->own == OWN_LOOK_BODY && bytes_casestart(name, BYTES("BODY[")) &&
		    token_string(value, NULL, 0, &text)) {
			relayed_start(&h->look_hash, P(t)->key);
			imap4_hash_content(&h->look_hash, text);
			imap4_look_body(t);
		}
		if (h->own == OWN_LOOK_IDS && token_string(value, buf, sizeof(buf), &text))
			imap4_find_id(&at, &id, text);
	}
	if (uid == 0)
		return;
	if (h->own == OWN_LOOK_IDS)
		candidate(t, (uint32_t)uid, id);
	else if (h->own == OWN_LOOK_SOURCE || h->own == OWN_LOOK_TARGET)
		sign(t, (uint32_t)uid, sig.h[0] ^ sig.h[1] ^ sig.k << 1);
}

/* --- what follows ------------------------------------------------------------------------------------------------- */

static enum took
repeat(struct turn *t)
{
	P(t)->probing = 0;
	if (H(t)->look >= LOOK_UIDNEXT)
		H(t)->drop = 1;		/* another mailbox is selected there */
	return (TOOK_ONE);
}

static enum took
answer(struct turn *t, struct bytes text)
{
	if (H(t)->look >= LOOK_UIDNEXT)
		H(t)->drop = 1;
	out_put(t->client, cmd_tag(t));
	out_str(t->client, " ");
	imap4_relay(t, text);
	imap4_answered(t);
	return (TOOK_ANSWERED);
}

/* UIDs in the order of the literals; as a set when they ascend, which they do. */
static enum took
append_done(struct turn *t)
{
	uint8_t text[8192];
	struct out o = { text, 0, sizeof(text), false };
	struct range set[LITERALS_MAX];
	uint32_t n = 0, have = 0;
	bool perhaps = false;

	for (uint32_t i = 0; i < P(t)->nlit; i++)
		if (found(t)[i] != 0) {
			have++;
			(void)set_add(set, &n, LITERALS_MAX, found(t)[i], 1);
		} else
			perhaps |= unsure(t)[i];
	if (have == 0 && !perhaps)
		return (repeat(t));
	if (have < P(t)->nlit)
		return (TOOK_NEVER);		/* altered by the store; or in part, and atomic it was to be (RFC 3502) */
	out_fmt(&o, "OK [APPENDUID %u ", P(t)->base_uidvalidity);
	(void)set_print(&o, set, n);
	out_str(&o, "] Append completed");
	return (answer(t, o.full || !caps_has(t, "UIDPLUS") ? BYTES("OK Append completed") : bytes(text, o.len)));
}

static bool
copyuid(struct out *o, uint32_t uidvalidity, const struct range *from, uint32_t n, const struct range *to, uint32_t m)
{
	out_fmt(o, "[COPYUID %u ", uidvalidity);
	return (set_print(o, from, n) && out_str(o, " ") && set_print(o, to, m) && out_str(o, "]") && !o->full);
}

/* COPYUID of the messages whose copies were found. */
static bool
copies(struct turn *t, struct out *o)
{
	static struct range from[1024], to[1024];
	const struct have *h = H(t);
	uint32_t n = 0, m = 0;

	for (uint32_t i = 0; i < h->nsrc; i++)
		if (cands(t)[i].copy != 0 &&
		    (!set_add(from, &n, 1024, cands(t)[i].uid, 1) || !set_add(to, &m, 1024, cands(t)[i].copy, 1)))
			return (false);
	return (n > 0 && caps_has(t, "UIDPLUS") && copyuid(o, P(t)->base_uidvalidity, from, n, to, m));
}

/* Some are there, so the others are still to be copied. */
static enum took
copy_rest(struct turn *t)
{
	struct pst *p = P(t);
	struct range *set = (struct range *)(void *)Z(t, Z_SET);

	p->nset = 0;
	for (uint32_t i = 0; i < H(t)->nsrc; i++)
		if (cands(t)[i].copy == 0 && !set_add(set, &p->nset, Z_SET_SIZE / sizeof(*set), cands(t)[i].uid, 1))
			return (TOOK_NEVER);
	p->move_rest = 1;
	return (repeat(t));
}

static enum took
copy_done(struct turn *t)
{
	uint8_t text[8192];
	struct out o = { text, 0, sizeof(text), false };
	struct have *h = H(t);

	if (h->ncand == 0)
		return (h->nsrc > 0 ? repeat(t) : TOOK_NEVER);
	if (h->ncand < h->nsrc)
		return (copy_rest(t));
	out_str(&o, "OK ");
	return (answer(t, copies(t, &o) && out_str(&o, " Copy completed") ? bytes(text, o.len) :
	    BYTES("OK Copy completed")));
}

/*
 * Those of the command that have left the source went to the target, if as many are there that no other accounts for.
 */
static void
tell_moved(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	struct range *r = (struct range *)(void *)S(t, S_BUF + FRESH_MAX * sizeof(struct range));
	const struct range *set = (const struct range *)(const void *)Z(t, Z_SET), *v;
	uint32_t n = 0, nv, most = 4096;
	uint8_t text[8192];
	struct out o = { text, 0, sizeof(text), false };

	v = view_ranges(t, &nv);
	for (uint32_t i = 0; i < nv; i++)
		for (uint32_t k = 0; k < p->nset; k++) {
			uint64_t a = v[i].lo > set[k].lo ? v[i].lo : set[k].lo, b = (uint64_t)v[i].lo + v[i].n,
			    c = (uint64_t)set[k].lo + set[k].n;

			b = b < c ? b : c;
			if (a < b && !set_add(r, &n, most, (uint32_t)a, (uint32_t)(b - a)))
				return;
		}
	for (uint32_t i = 0; i < h->nsrc; i++)
		if (!set_subtract(r, &n, most, &(struct range){ cands(t)[i].uid, 1 }, 1))
			return;
	if (n == 0 || p->result_told || set_size(r, n) != set_size(fresh(t), h->cmp_new) || !caps_has(t, "UIDPLUS"))
		return;
	out_str(&o, "* OK ");
	if (copyuid(&o, p->base_uidvalidity, r, n, fresh(t), h->cmp_new)) {
		out_str(&o, " Moved UIDs.");
		imap4_relay(t, bytes(text, o.len));
	}
}

/* Those that are copied and will be expunged. */
static void
tell_copied(struct turn *t)
{
	uint8_t text[8192];
	struct out o = { text, 0, sizeof(text), false };

	out_str(&o, "* OK ");
	if (!P(t)->result_told && copies(t, &o) && out_str(&o, " Moved UIDs."))
		imap4_relay(t, bytes(text, o.len));
}

static enum took
move_rest(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	struct range *rest = (struct range *)(void *)Z(t, Z_REST), *kill = (struct range *)(void *)Z(t, Z_KILL);
	bool fits = true;

	p->nrest = p->nkill = 0;
	for (uint32_t i = 0; i < h->nsrc && fits; i++)
		fits = cands(t)[i].copy == 0 ?
		    set_add(rest, &p->nrest, Z_REST_SIZE / sizeof(*rest), cands(t)[i].uid, 1) :
		    set_add(kill, &p->nkill, Z_KILL_SIZE / sizeof(*kill), cands(t)[i].uid, 1);
	if (!fits)
		return (TOOK_NEVER);
	tell_moved(t);
	tell_copied(t);
	p->move_rest = 1;
	return (repeat(t));
}

/* What the answer to CREATE had to say (RFC 8474 section 4.1). */
static enum took
created(struct turn *t)
{
	uint8_t text[320];
	struct out o = { text, 0, sizeof(text), false };

	out_str(&o, "OK [MAILBOXID ");
	out_put(&o, bytes(S(t, S_BUF), H(t)->kept_len));
	out_str(&o, "] Create completed");
	return (answer(t, H(t)->kept_len > 0 ? bytes(text, o.len) : BYTES("OK Create completed")));
}

/* What came to the target is looked at. */
static enum took
look_at_new(struct turn *t)
{
	const struct pst *p = P(t);

	if (p->command != CMD_APPEND && (!p->set_known || p->box.coarse))
		return (TOOK_NEVER);
	H(t)->look = p->command == CMD_APPEND ? LOOK_TARGET : LOOK_SOURCE;
	return (TOOK_ONE);
}

static enum took
status(struct turn *t, enum there there)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	if (there == THERE_NOT && p->command != CMD_DELETE)
		return (repeat(t));		/* no target any more: the backend says so better than we */
	if (there != THERE) {
		h->look = LOOK_LIST;
		return (TOOK_ONE);
	}
	if (p->command == CMD_DELETE && p->base_there != THERE)
		return (TOOK_NEVER);		/* the name has become a mailbox's */
	if (p->command == CMD_DELETE && h->st_uidvalidity != p->base_uidvalidity)
		return (answer(t, BYTES("OK Delete completed")));	/* made anew by another: that one stays */
	if (p->command == CMD_DELETE)
		return (repeat(t));
	if (p->base_there == THERE_NOT) {	/* made since: all that is in it is new */
		p->base_there = THERE;
		p->base_uidvalidity = h->st_uidvalidity;
		p->base_uidnext = 1;
	}
	if (p->base_there != THERE || h->st_uidvalidity != p->base_uidvalidity || h->st_uidnext < p->base_uidnext)
		return (TOOK_NEVER);
	if (h->st_uidnext > p->base_uidnext || p->command == CMD_MOVE)
		return (look_at_new(t));
	/* STATUS does not wait for the lock that a server left when it was killed; EXAMINE does (Dovecot, maildir) */
	h->look = LOOK_UIDNEXT;
	return (TOOK_ONE);
}

static enum took
listed(struct turn *t, enum there there)
{
	struct have *h = H(t);

	if (there == THERE_UNKNOWN)
		return (TOOK_NEVER);
	switch (P(t)->command) {
	case CMD_CREATE:
		if (there != THERE)
			return (repeat(t));
		h->look = LOOK_ID;
		return (caps_offered(t, BYTES("OBJECTID")) ? TOOK_ONE : created(t));
	case CMD_DELETE:	/* a mailbox with others below it leaves its name (RFC 3501 section 6.3.4) */
		if (there == THERE)
			return (TOOK_NEVER);
		if (there == THERE_NAME && P(t)->base_there == THERE_NAME)
			return (repeat(t));
		return (answer(t, BYTES("OK Delete completed")));
	case CMD_RENAME:
		h->st2_there = (uint8_t)there;
		h->look = LOOK_LIST2;
		return (TOOK_ONE);
	default:		/* to a name alone nothing can come */
		return (there == THERE ? TOOK_NEVER : repeat(t));
	}
}

/* The target was opened for its UIDNEXT alone. */
static enum took
opened(struct turn *t)
{
	const struct pst *p = P(t);
	const struct have *h = H(t);

	if (h->uidnext < p->base_uidnext)
		return (TOOK_NEVER);
	if (h->uidnext == p->base_uidnext)
		return (repeat(t));
	return (look_at_new(t));
}

static enum took
renamed(struct turn *t, enum there to)
{
	const struct pst *p = P(t);
	enum there from = (enum there)H(t)->st2_there;
	uint8_t text[8];
	struct bytes name;
	bool inbox = token_string(bytes(Z(t, Z_CMD + p->target_at), p->target_len), text, sizeof(text), &name) &&
	    bytes_caseeq(name, BYTES("INBOX")),
	    came = to != THERE_NOT && p->base2_there != THERE && to != p->base2_there;

	if (to == THERE_UNKNOWN)
		return (TOOK_NEVER);
	if (from != THERE_NOT && !came)
		return (repeat(t));
	if (came && (from == THERE_NOT || inbox)) {
		imap4_renamed(t);
		return (answer(t, BYTES("OK Rename completed")));
	}
	return (TOOK_NEVER);
}

/* The next candidate's content, or the end. */
static enum took
next_body(struct turn *t)
{
	struct have *h = H(t);

	if (h->cand_at < h->ncand) {
		h->look = LOOK_BODY;
		return (TOOK_ONE);
	}
	return (append_done(t));
}

enum took
imap4_looked(struct turn *t, enum own own, bool good, struct bytes text)
{
	struct have *h = H(t);

	if (own == OWN_LOOK && h->look == LOOK_ID)
		return (created(t));
	if (own == OWN_LOOK)
		return (h->listing ? listed(t, imap4_there(t, good, text)) : status(t, imap4_there(t, good, text)));
	if (own == OWN_LOOK2)
		return (renamed(t, imap4_there(t, good, text)));
	if (!good || h->never)
		return (TOOK_NEVER);
	switch (own) {
	case OWN_LOOK_SELECT:
		if (h->look == LOOK_UIDNEXT)
			return (opened(t));
		h->look++;
		if (h->look == LOOK_FRESH) {
			h->ncand = h->cand_at = h->cmp_new = 0;
			memset(found(t), 0, LITERALS_MAX * (sizeof(uint32_t) + 1));
		} else
			h->nsrc = 0;
		return (TOOK_ONE);
	case OWN_LOOK_SOURCE:
		h->look = LOOK_TARGET;
		return (TOOK_ONE);
	case OWN_LOOK_TARGET:
		return (P(t)->command == CMD_MOVE ? move_rest(t) : copy_done(t));
	case OWN_LOOK_IDS:
		h->cand_at = 0;
		return (next_body(t));
	default:
		if (!cands(t)[h->cand_at].copy)		/* it has gone, unread */
			differs(t, cands(t)[h->cand_at].sig);
		h->cand_at++;
		return (next_body(t));
	}
}
