/*
 * tagged - the ends of commands: the gateway's own, and the client's with what they mean for the session; pure
 */
#include "imap4/imap4.h"
#include "imap4/token.h"

/* --- own commands ------------------------------------------------------------------------------------------------- */

/*
 * Not there, or not for this user: no equal of the one before. A server that gives no reason may have stumbled over what one
 * left that was killed, and has put it right by the next time.
 */
static enum took
not_selected(struct turn *t, bool no, struct bytes text)
{
	struct pst *p = P(t);

	if (no && !p->stumbled && (text.n == 0 || text.p[0] != '[')) {
		p->stumbled = 1;
		return (TOOK_LATER);
	}
	p->stumbled = 0;
	return (imap4_stands_in(false, text));
}

static enum took
selected(struct turn *t, struct bytes status, struct bytes text)
{
	struct have *h = H(t);

	if (!bytes_caseeq(status, BYTES("OK")))
		return (not_selected(t, bytes_caseeq(status, BYTES("NO")), text));
	P(t)->stumbled = 0;
	h->stage = AT_SELECTED;
	(void)imap4_code(t, text);
	return (imap4_equivalent(t) ? TOOK_ONE : TOOK_NEVER);
}

/* A refusal may have any reason: only these codes say that there is no such mailbox, and many servers have none at all. */
enum there
imap4_there(const struct turn *t, bool good, struct bytes text)
{
	const struct have *h = H(t);

	if (h->listing)
		return (good ? (enum there)h->st_there : THERE_UNKNOWN);
	if (good)
		return (h->st_there == THERE && h->st_uidvalidity > 0 && h->st_uidnext > 0 ? THERE : THERE_UNKNOWN);
	return (imap4_has_code(text, "NONEXISTENT]") || imap4_has_code(text, "TRYCREATE]") ? THERE_NOT : THERE_UNKNOWN);
}

static void
baseline(struct turn *t, bool second, enum there there)
{
	struct pst *p = P(t);
	const struct have *h = H(t);

	if (second) {
		p->base2_known = 1;
		p->base2_there = (uint8_t)there;
		return;
	}
	if (p->command == CMD_DELETE && there != THERE && !h->listing) {	/* a name that is no mailbox's can be deleted too */
		p->base_known = BASE_LIST;
		return;
	}
	p->base_known = BASE_KNOWN;
	p->base_there = (uint8_t)(p->command == CMD_DELETE && there == THERE && h->listing ? THERE_UNKNOWN : there);
	p->base_uidvalidity = h->st_uidvalidity;
	p->base_uidnext = h->st_uidnext;
}

static enum took
learned(struct turn *t, enum own own, bool good)
{
	struct mbox *m = &P(t)->box;
	struct have *h = H(t);

	if (!imap4_tell_selected(t)) {
		h->own = (uint8_t)own;		/* this is looked at again when the client has taken some */
		return (TOOK_MORE);
	}
	if (h->learning_ghost || (!good && P(t)->phase == SELECTED)) {
		h->learning_ghost = 0;
		m->learned = 0;		/* once more, when the client knows of the ghosts; or the count has to do */
		if (!good || (h->nghost == 0 && ++h->short_lists > SHORT_MAX)) {
			view_forget(t);
			m->coarse = 1;
		}
		return (TOOK_ONE);
	}
	m->learned = 1;
	return (TOOK_ONE);
}

/* The end of the client's command, for which an own one was waited. */
static enum took
tell_kept(struct turn *t, enum own own)
{
	struct have *h = H(t);
	bool hold = false;
	enum took k = imap4_tagged_reply(t, bytes(S(t, S_BUF + h->buf_len), h->kept_len), &hold);

	if (!hold)
		return (k);
	h->own = (uint8_t)own;		/* this is looked at again when the client has taken some */
	return (TOOK_MORE);
}

/*
 * $ is known, so the end of the SEARCH that saved it can be told: no death after it loses $. What cannot be kept, or is
 * not what another backend found whose result the client has, is emptied, and the client hears so (RFC 5182 section
 * 2.4).
 */
static enum took
saved(struct turn *t, enum own own, bool good)
{
	struct have *h = H(t);

	if (own == OWN_SAVED && (!good || h->set_over)) {
		h->saving = SAVING_UNDO;
		return (TOOK_ONE);
	}
	h->saving = own == OWN_SAVED ? SAVING_KNOWN : SAVING_UNDONE;
	h->drop = !good;		/* $ is empty on a fresh connection */
	return (tell_kept(t, own));
}

enum took
imap4_own_reply(struct turn *t, struct bytes status, struct bytes text)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	enum own own = h->own;
	bool good = bytes_caseeq(status, BYTES("OK"));

	h->own = OWN_NONE;
	switch (own) {
	case OWN_STARTTLS:
		h->starttls = 2;
		return (good ? TOOK_ONE : TOOK_INSECURE);
	case OWN_ID:
		h->id = !good ? ID_REFUSED : bytes_casestart(text, BYTES("Trusted ")) ? ID_BELIEVED : ID_SENT;
		return (TOOK_ONE);
	case OWN_CAPA:
		h->cap_seen = 1;
		return (h->stage == AT_LOGGED_IN ? imap4_logged_in(t) : TOOK_ONE);
	case OWN_LOGIN:
		return (imap4_login_status(t, status, text));
	case OWN_ENABLE:
		h->stage = AT_AUTH;
		return (imap4_stands_in(good, text));
	case OWN_SELECT:
		return (selected(t, status, text));
	case OWN_COMPARE:
		return (good ? imap4_compared(t) : imap4_stands_in(false, text));
	case OWN_SAVE:
		return (imap4_stands_in(good, text));
	case OWN_FLAGS:
		return (TOOK_ONE);
	case OWN_LEARN:
	case OWN_TAIL:
		return (learned(t, own, good || P(t)->phase != SELECTED));
	case OWN_SAVED:
	case OWN_UNSAVE:
		return (saved(t, own, good));
	case OWN_STORED:
		return (good && !h->stands ? tell_kept(t, own) : TOOK_NEVER);
	case OWN_BASE:
	case OWN_BASE2:
		baseline(t, own == OWN_BASE2, imap4_there(t, good, text));
		return (TOOK_ONE);
	case OWN_DELETED:
		h->deleted_known = 1;
		p->set_known = good && !h->set_over;
		return (TOOK_ONE);
	case OWN_KILL_STORE:
		h->killed = 1;
		return (good ? TOOK_ONE : TOOK_NEVER);
	case OWN_KILL:
		p->nkill = 0;
		return (good ? TOOK_ONE : TOOK_NEVER);
	case OWN_CLOSE_D:
		p->nset = 0;
		h->drop = 1;		/* a fresh connection is where CLOSE leads */
		return (TOOK_ONE);
	case OWN_LOGOUT:
		p->caps = (struct caps_imap4){ .known = 1, .pre = h->caps };
		p->probed = 1;
		return (TOOK_ONE);
	case OWN_LOOK:
	case OWN_LOOK2:
	case OWN_LOOK_SELECT:
	case OWN_LOOK_IDS:
	case OWN_LOOK_BODY:
	case OWN_LOOK_SOURCE:
	case OWN_LOOK_TARGET:
		return (imap4_looked(t, own, good, text));
	default:
		return (TOOK_ONE);
	}
}

/* --- the client's command ----------------------------------------------------------------------------------------- */

static void
said_is_over(struct turn *t)
{
	struct have *h = H(t);

	h->said = h->sent = h->idling = h->done_out = h->renew = h->text_out = h->plus_wait = 0;
	h->tagged_seen = h->learn_sent = h->deleted_known = h->killed = h->said_noop = h->missed = 0;
	h->saving = SAVING_NONE;
	h->told_before = 0;
}

/* What a STORE does, "+FLAGS.SILENT" say; the flags are left in *rest. */
static struct bytes
store_verb(const struct turn *t, struct bytes *rest)
{
	struct bytes v;

	*rest = bytes_cut(cmd_text(t), P(t)->set_at + P(t)->set_len);
	token_space(rest);
	if (rest->n > 0 && rest->p[0] == '(' && token_value(rest, &v))		/* UNCHANGEDSINCE */
		token_space(rest);
	return (token_word(rest));
}

static bool
names_silent(const struct turn *t)
{
	struct bytes rest, v = store_verb(t, &rest);

	return (v.n > 7 && bytes_caseeq(bytes_cut(v, v.n - 7), BYTES(".SILENT")));
}

static void
commit_select(struct turn *t, struct bytes text)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	struct bytes name = bytes(Z(t, Z_CMD + p->name_at), 7);

	(void)imap4_code(t, text);
	memmove(Z(t, Z_SEL), Z(t, Z_CMD + p->target_at), p->target_len);
	view_reset(t);
	p->box.name_len = p->target_len;
	p->box.examine = bytes_caseeq(name, BYTES("EXAMINE"));
	p->box.read_only = h->read_only;
	p->box.exists = p->box.base_exists = h->exists;
	p->box.uidvalidity = h->uidvalidity;
	p->box.uidnext = h->uidnext;
	p->box.modseq = h->modseq;
	p->box.nomodseq = h->nomodseq;
	p->box.notsticky = h->notsticky || h->uidvalidity == 0;
	p->box.recents = h->recents;
	p->box.learned = h->exists == 0;
	p->phase = SELECTED;
	p->nsave = 0;
	h->stage = AT_SAVED;
	h->nghost = h->ghosts = 0;
	h->fake_recent = h->recent_asked = 0;
	h->tail_for = 0;
	h->short_lists = 0;
	h->flags_owed = 0;
	h->old_last = UINT32_MAX;
}

static bool
same_box(struct bytes a, struct bytes b)
{
	uint8_t ab[2048], bb[2048];
	struct bytes x, y;

	return (token_string(a, ab, sizeof(ab), &x) && token_string(b, bb, sizeof(bb), &y) && bytes_eq(x, y) &&
	    !bytes_caseeq(x, BYTES("INBOX")));		/* that one stays, only its messages go */
}

void
imap4_renamed(struct turn *t)
{
	struct pst *p = P(t);

	if (p->phase != SELECTED || !same_box(bytes(Z(t, Z_SEL), p->box.name_len), bytes(Z(t, Z_CMD + p->target_at), p->target_len)))
		return;
	memmove(Z(t, Z_SEL), Z(t, Z_CMD + p->target2_at), p->target2_len);
	p->box.name_len = p->target2_len;
}

/* What a good end means. Returns the text to tell instead, or NULL: the backend's own. */
static const char *
ended_well(struct turn *t, struct bytes text, bool ghost)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	switch (p->command) {
	case CMD_SELECT:
		commit_select(t, text);
		return (NULL);
	case CMD_CLOSE:
	case CMD_UNSELECT:
		p->phase = AUTH;
		p->nsave = 0;
		h->stage = AT_AUTH;
		h->nghost = h->ghosts = 0;
		return (h->said_noop ? "OK Completed" : NULL);
	case CMD_RENAME:
		imap4_renamed(t);
		return (NULL);
	case CMD_UNKNOWN:
		p->opaque = 1;
		return (NULL);
	case CMD_SEARCH:
		if (h->saving == SAVING_UNDONE) {
			p->nsave = 0;
			return ("NO [NOTSAVED] Search result could not be saved");
		}
		if (h->saving == SAVING_KNOWN) {
			p->save_which = 1 - p->save_which;
			p->nsave = h->nsaved;
		}
		return (h->nghost > 0 && !p->uid ? "OK [EXPUNGEISSUED] Search completed" : NULL);
	case CMD_FETCH:
		return (ghost ? "NO [EXPUNGEISSUED] Some of the requested messages no longer exist" :
		    h->said_noop ? "OK Fetch completed" : NULL);
	case CMD_STORE:
		return (ghost && !names_silent(t) ? "NO [EXPUNGEISSUED] Some of the messages have been deleted" :
		    h->said_noop ? "OK Store completed" : NULL);
	case CMD_COPY:
		return (ghost ? "NO [EXPUNGEISSUED] Some of the messages no longer exist" :
		    p->move_rest ? "OK Copy completed" : NULL);
	case CMD_MOVE:
	case CMD_EXPUNGE:
		return (h->said_noop ? "OK Completed" : NULL);
	default:
		return (NULL);
	}
}

/* A refusal that says that it was done before. */
static const char *
ended_badly(struct turn *t, bool no, struct bytes text)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	if (p->command == CMD_SELECT && (no || p->untold)) {	/* RFC 9051 section 6.3.2 */
		p->phase = AUTH;
		h->stage = AT_AUTH;
		h->nghost = h->ghosts = 0;
	}
	if (p->command == CMD_SELECT && !no && p->phase == SELECTED) {
		/* not understood: the old selection stands, and is made again when it is needed: its numbers were forgotten */
		h->drop = h->stage != AT_AUTH;
		return (NULL);
	}
	if (no && imap4_saves(t))	/* RFC 5182 section 2.1 */
		p->nsave = 0;
	if (p->redo && p->command == CMD_CREATE && p->base_there != THERE && imap4_has_code(text, "ALREADYEXISTS"))
		return ("OK Create completed");
	if (p->redo && p->command == CMD_DELETE && p->base_there != THERE_NOT && imap4_has_code(text, "NONEXISTENT"))
		return ("OK Delete completed");
	return (NULL);
}

static void
tell_end(struct turn *t, struct bytes resp, struct bytes status, struct bytes text, const char *instead)
{
	const uint8_t *end;

	if (P(t)->command == CMD_EXPUNGE && P(t)->redo && P(t)->condstore && H(t)->modseq > 0 &&
	    bytes_caseeq(status, BYTES("OK")) &&
	    !imap4_has_code(text, "HIGHESTMODSEQ ")) { /* done by the one that died: RFC 7162 section 3.2.7 */
		out_put(t->client, cmd_tag(t));
		out_fmt(t->client, " OK [HIGHESTMODSEQ %llu] Expunge completed\r\n", (unsigned long long)H(t)->modseq);
	} else if (imap4_has_code(text, "MODIFIED ") && !P(t)->uid && H(t)->nghost > 0) {	/* RFC 7162 section 3.1.3 */
		end = memchr(text.p, ']', text.n);
		end = end == NULL ? text.p + text.n : end;
		out_put(t->client, bytes(resp.p, (size_t)(text.p - resp.p) + 10));
		(void)imap4_numbers(t, bytes(text.p + 10, (size_t)(end - text.p) - 10), true, t->client);
		imap4_relay(t, bytes(end, (size_t)(text.p + text.n - end)));
	} else if (instead != NULL)
		imap4_tagged(t, instead);
	else if (P(t)->command == CMD_IDLE && P(t)->bad)
		imap4_tagged(t, "BAD Expected DONE");
	else if (imap4_has_code(text, "CAPABILITY ") && (end = memchr(text.p, ']', text.n)) != NULL) {
		out_put(t->client, cmd_tag(t));
		out_str(t->client, " ");
		out_put(t->client, status);
		out_str(t->client, " ");
		text = bytes_cut(text, (size_t)(end - text.p) + 1);
		token_space(&text);
		imap4_relay(t, text);
	} else
		imap4_relay(t, resp);
}

static enum took
append_end(struct turn *t, struct bytes rest)
{
	struct have *h = H(t);
	struct pst *p = P(t);

	h->tagged_seen = h->lit_done == 0;	/* within a literal: the connection cannot be used any more */
	if (h->lit_done > 0)
		h->drop = 1;
	imap4_append_refused(t, rest);
	imap4_tell_exists(t);
	if (p->late_len > 0)
		p->fence = 0;
	said_is_over(t);
	return (TOOK_ANSWERED);
}

/*
 * Repeated, and refused: perhaps the first try was done after all (protocols.md 0.3, invariant 10). A server also
 * stumbles over what another left that was killed, says so, and has put it right by the next time.
 */
static bool
look_again(struct turn *t, bool good, struct bytes text)
{
	struct pst *p = P(t);
	bool copies = (p->command == CMD_COPY || p->command == CMD_MOVE) && p->set_known && !p->box.coarse;

	if (good || !(p->redo || imap4_has_code(text, "SERVERBUG")) || p->rounds >= 2 || p->base_there != THERE ||
	    !(p->command == CMD_APPEND || copies))
		return (false);
	p->rounds++;
	p->redo = 1;
	p->fence = 0;
	p->move_rest = p->command == CMD_COPY && p->move_rest;
	p->probing = 1;
	H(t)->drop = 1;
	return (true);
}

/* How many of these flags are not among those; \Recent is nobody's to set. */
static uint32_t
missing(struct bytes flags, struct bytes among)
{
	uint32_t n = 0;

	while (flags.n > 0) {
		struct bytes f = bytes_token(&flags, ' '), rest = among;
		bool is = f.n == 0 || bytes_caseeq(f, BYTES("\\Recent"));

		while (rest.n > 0 && !is)
			is = bytes_caseeq(bytes_token(&rest, ' '), f);
		n += !is;
	}
	return (n);
}

static uint32_t
count(struct bytes flags)
{
	return (missing(flags, bytes("", 0)));
}

static struct bytes
inside(struct bytes list)
{
	return (list.n >= 2 && list.p[0] == '(' ? bytes(list.p + 1, list.n - 2) : list);
}

void
imap4_note_flags(struct turn *t, struct bytes items)
{
	struct bytes rest, verb = store_verb(t, &rest), name, value;
	uint32_t n;

	token_space(&rest);
	rest = inside(rest);
	while (token_item(&items, &name, &value)) {
		if (!bytes_caseeq(name, BYTES("FLAGS")))
			continue;
		value = inside(value);
		n = missing(rest, value);
		H(t)->stands |= verb.n > 0 && verb.p[0] == '-' ? n == count(rest) :
		    n == 0 && (verb.p[0] == '+' || missing(value, rest) == 0);
	}
}

enum next
imap4_ask_flags(struct turn *t)
{
	struct have *h = H(t);
	struct bytes set = bytes_cut(bytes(S(t, S_BUF + h->buf_len), h->kept_len), P(t)->tag_len + 1);

	(void)bytes_token(&set, ' ');		/* OK */
	set = bytes_cut(set, sizeof("[MODIFIED ") - 1);
	h->stands = 0;
	imap4_own_begin(t, P(t)->uid ? "UID FETCH " : "FETCH ");
	if (!imap4_say(t, bytes_token(&set, ']')) || !imap4_sayf(t, " (FLAGS)"))
		return (NEXT_NEVER);
	return (imap4_own_end(t, OWN_STORED));
}

/*
 * The backend has $; the client is told when the gateway has it too. Or a STORE (UNCHANGEDSINCE) that is repeated left messages alone
 * that had changed: if their flags are as it would have them, that may have been its own first try (protocols.md 1.4.7).
 */
static enum took
keep_end(struct turn *t, struct bytes resp)
{
	struct have *h = H(t);

	if (resp.n > S_BUF_SIZE - h->buf_len)
		return (TOOK_NONSENSE);
	memcpy(S(t, S_BUF + h->buf_len), resp.p, resp.n);
	h->kept_len = (uint32_t)resp.n;
	if (P(t)->command == CMD_STORE)
		h->saving = SAVING_FLAGS;
	else
		h->saving = h->told_before ? SAVING_UNDO : SAVING_ASK;
	return (TOOK_ONE);
}

/*
 * A mailbox is selected, and its UIDs are being learned: the client gets the answer with these. It may know from before what
 * UIDs the numbers have in a mailbox that is still as large (RFC 4549), so no number may come to mean another message in a
 * death between the two.
 */
static void
hold_selected(struct turn *t, struct bytes resp, struct bytes text)
{
	struct have *h = H(t);
	uint8_t *end = S(t, S_BUF + h->buf_len);

	memcpy(end, resp.p, resp.n);
	memcpy(end + resp.n, "\r\n", 2);
	h->buf_len += (uint32_t)resp.n + 2;
	if (!P(t)->untold)
		P(t)->untold = P(t)->phase == SELECTED ? 2 : 1;
	commit_select(t, text);
	P(t)->errors = 0;
	h->tagged_seen = h->held = 1;
}

bool
imap4_tell_selected(struct turn *t)
{
	struct have *h = H(t);

	if (!h->held)
		return (true);
	if (!imap4_flush_buf(t))
		return (false);
	h->held = 0;
	imap4_answered(t);
	said_is_over(t);
	return (true);
}

/*
 * At the end of a command a server has told all changes of flags up to the highest mod-sequence that it named, as clients that
 * resynchronise by QRESYNC (RFC 7162) rely on too: another backend is asked for later ones alone.
 */
static void
all_told(struct turn *t)
{
	struct mbox *m = &P(t)->box;

	if (P(t)->phase == SELECTED && H(t)->stage == AT_SAVED && !H(t)->flags_owed && m->modseq != 0 && m->seen > m->modseq)
		m->modseq = m->seen;
}

enum took
imap4_tagged_reply(struct turn *t, struct bytes resp, bool *hold)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	struct bytes rest = bytes_cut(resp, p->tag_len + 1), text = rest, status = bytes_token(&text, ' ');
	bool good = bytes_caseeq(status, BYTES("OK")),
	    ghost = !p->uid && p->set_len > 0 && p->command != CMD_MOVE && imap4_names_ghost(t);
	const char *instead;

	if (p->command == CMD_IDLE && h->done_out && h->renew && !p->done) {	/* renewed: the client does not know */
		said_is_over(t);
		return (TOOK_ONE);
	}
	if (p->command == CMD_APPEND && !h->sent)
		return (append_end(t, rest));
	if (look_again(t, good, text))
		return (TOOK_ONE);
	if (p->streaming)
		return (TOOK_DIFFERS);		/* the message of which the client has a part is not there */
	if (good && h->missed) {	/* once more, for those that came while the client could not take them */
		said_is_over(t);
		return (TOOK_ONE);
	}
	if (h->saving == SAVING_NONE && ((good && imap4_saves(t)) ||
	    (p->command == CMD_STORE && p->redo && imap4_has_code(text, "MODIFIED "))))
		return (keep_end(t, resp));
	if (good && p->command == CMD_SELECT && h->exists > 0 && (resp.n + 2 <= S_BUF_SIZE - h->buf_len || imap4_flush_buf(t))) {
		hold_selected(t, resp, text);
		return (TOOK_ONE);
	}
	if (p->command == CMD_SELECT && bytes_caseeq(status, BYTES("BAD")) && p->phase == SELECTED && !p->untold)
		h->buf_len = h->buf_at = 0;	/* it closed nothing */
	if (h->full || (imap4_expunge_legal(t) && !imap4_tell_ghosts(t)) || !imap4_flush_buf(t)) {
		*hold = true;
		return (TOOK_MORE);
	}
	if (good && p->command != CMD_SELECT)
		all_told(t);
	h->tagged_seen = 1;
	instead = good ? ended_well(t, text, ghost) : ended_badly(t, bytes_caseeq(status, BYTES("NO")), text);
	tell_end(t, resp, status, text, instead);
	imap4_answered(t);
	said_is_over(t);
	p->errors = bytes_caseeq(status, BYTES("BAD")) ? p->errors + 1 : 0;
	if (p->errors < t->limits->errors)
		return (TOOK_ANSWERED);
	out_str(t->client, "* BYE Too many bad commands\r\n");	/* the backend's own is a reason to take another */
	return (TOOK_CLOSE);
}
