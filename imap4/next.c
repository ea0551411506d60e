/*
 * next - what brings a backend nearer to the session: identity, login, capabilities, ENABLE, the selected mailbox
 * compared with the client's view, $, the baseline of a command of class N, the command
 */
#include <stdio.h>

#include "imap4/imap4.h"
#include "imap4/token.h"

enum { ID_PAIRS = 30 };

static struct bytes
zone(const struct turn *t, uint32_t at, uint32_t n)
{
	return (bytes(Z(t, at), n));
}

static uint32_t
patience(const struct turn *t)
{
	return (t->times->eod > t->times->command ? t->times->eod : t->times->command);
}

/* --- before the session is there ---------------------------------------------------------------------------------- */

static bool
next_pair(struct bytes *list, struct bytes *key, struct bytes *value)
{
	token_space(list);
	if (!token_value(list, key))
		return (false);
	token_space(list);
	return (token_value(list, value));
}

/* What the client said of itself, each name once and no more pairs than may be (RFC 2971 section 3.3). */
static void
say_client(struct turn *t)
{
	uint32_t pairs = H(t)->info_xclient ? ID_PAIRS - 5 : ID_PAIRS;
	bool first = !H(t)->info_xclient;
	struct bytes all = zone(t, Z_ID, P(t)->id_len), rest = all, key, value, name, v;

	while (pairs > 0 && next_pair(&rest, &key, &value)) {
		struct bytes before = bytes(all.p, (size_t)(key.p - all.p));
		bool again = false;

		while (!again && next_pair(&before, &name, &v))
			again = bytes_caseeq(name, key);
		if (again)
			continue;
		(void)imap4_sayf(t, first ? "" : " ");
		first = false;
		(void)imap4_say(t, key);
		(void)imap4_sayf(t, " ");
		(void)imap4_say(t, value);
		pairs--;
	}
}

/* Where a server hears of the client's address what he claims of it is left out (keep_id). */
static enum next
say_id(struct turn *t)
{
	const struct peerinfo *c = t->peer;
	struct have *h = H(t);

	h->id_no = P(t)->id_no;
	imap4_own_begin(t, "ID (");
	if (h->info_xclient)
		(void)imap4_sayf(t,
		    "\"x-originating-ip\" \"%s\" \"x-originating-port\" \"%u\" \"x-connected-ip\" \"%s\" "
		    "\"x-connected-port\" \"%u\" \"x-session-id\" \"%s\"",
		    c->addr, c->port, c->local, c->local_port, c->session);
	if (P(t)->id_len > 0)
		say_client(t);
	else
		(void)imap4_sayf(t, "%s\"name\" \"BMR\"", h->info_xclient ? " " : "");
	(void)imap4_sayf(t, ")");
	return (imap4_own_end(t, OWN_ID));
}

static enum next
identify(struct turn *t)
{
	H(t)->stage = AT_NAMED;
	return (caps_has(t, "ID") && t->peer->addr[0] != '\0' ? say_id(t) : NEXT_READY);
}

static enum next
login(struct turn *t)
{
	static const char *const mech[] = { [SASL_PLAIN] = "PLAIN", [SASL_XOAUTH2] = "XOAUTH2",
		[SASL_OAUTHBEARER] = "OAUTHBEARER" };
	const struct pst *p = P(t);
	struct have *h = H(t);
	struct bytes secret = zone(t, Z_AUTH + p->user_len, p->secret_len);

	t->wait = t->times->login;
	if (p->mech == SASL_RELAY) {		/* a proof for another's challenge is none */
		if (p->challenged)
			return (NEXT_NEVER);
		imap4_own_begin(t, "AUTHENTICATE ");
		(void)imap4_say(t, secret);
		return (imap4_own_end(t, OWN_LOGIN));
	}
	if (p->mech != SASL_NONE && p->mech <= SASL_OAUTHBEARER && mech[p->mech] != NULL) {
		imap4_own_begin(t, "AUTHENTICATE %s", mech[p->mech]);
		if (caps_has(t, "SASL-IR")) {
			(void)imap4_sayf(t, " ");
			(void)imap4_say(t, secret.n > 0 ? secret : BYTES("="));
			return (imap4_own_end(t, OWN_LOGIN));
		}
		h->pause[h->npause++] = h->text_len + 2;	/* the message follows the + */
		(void)imap4_sayf(t, "\r\n");
		(void)imap4_say(t, secret);
		return (imap4_own_end(t, OWN_LOGIN));
	}
	imap4_own_begin(t, "LOGIN ");
	if (!imap4_say_literal(t, zone(t, Z_AUTH, p->user_len)) || !imap4_sayf(t, " ") || !imap4_say_literal(t, secret))
		return (NEXT_NEVER);
	return (imap4_own_end(t, OWN_LOGIN));
}

static enum next
probe(struct turn *t)
{
	struct have *h = H(t);

	if (P(t)->probed)
		return (NEXT_READY);
	if (!h->cap_seen)
		return (imap4_own(t, OWN_CAPA, "CAPABILITY"));
	return (imap4_own(t, OWN_LOGOUT, "LOGOUT"));
}

static enum next
enable(struct turn *t)
{
	static const char *const name[] = { "CONDSTORE", "QRESYNC", "UTF8=ACCEPT", "IMAP4rev2", "METADATA",
		"METADATA-SERVER" };

	imap4_own_begin(t, "ENABLE");
	for (size_t i = 0; i < sizeof(name) / sizeof(name[0]); i++)
		if (P(t)->enabled & 1u << i)
			(void)imap4_sayf(t, " %s", name[i]);
	return (imap4_own_end(t, OWN_ENABLE));
}

static enum next
get_in(struct turn *t)
{
	const struct pst *p = P(t);
	struct have *h = H(t);

	if (h->stage == AT_GREETED) {
		if (!h->cap_seen)
			return (imap4_own(t, OWN_CAPA, "CAPABILITY"));
		return (identify(t));
	}
	if (h->stage == AT_NAMED)
		return (login(t));
	if (h->stage == AT_LOGGED_IN)
		return (imap4_own(t, OWN_CAPA, "CAPABILITY"));
	/* AT_KNOWN */
	if (p->opaque)
		return (NEXT_NEVER);		/* nobody knows what that command did to the session */
	if (p->enabled != 0)
		return (enable(t));
	h->stage = AT_AUTH;
	return (NEXT_READY);
}

/* --- the selected mailbox ----------------------------------------------------------------------------------------- */

/* Commands that leave the old selection, or that want none on a fresh connection. */
static bool
wants_selection(const struct turn *t)
{
	const struct pst *p = P(t);

	if (p->phase != SELECTED || p->command == CMD_SELECT || p->command == CMD_UNSELECT)
		return (false);
	/* CLOSE again: for what is still to be expunged, which without a list is all that is marked */
	return (p->command != CMD_CLOSE || !p->redo || (p->set_known ? p->nset > 0 : !p->box.read_only));
}

/*
 * A client that waits for + hears nothing else before it: imaplib2 takes any other response for a refusal, and then waits
 * for the tagged one. What has changed in its mailbox is told with the next command.
 */
static bool
unselected_append(const struct turn *t)
{
	return (P(t)->command == CMD_APPEND && (H(t)->said || imap4_waits_plus(t)));
}

static void
forget_box(struct have *h)
{
	h->exists = h->uidvalidity = h->uidnext = h->recents = 0;
	h->modseq = 0;
	h->nomodseq = h->read_only = h->notsticky = 0;
	h->nghost = h->ghosts = 0;
}

static enum next
select_box(struct turn *t)
{
	const struct mbox *m = &P(t)->box;

	forget_box(H(t));
	imap4_own_begin(t, "%s ", m->examine ? "EXAMINE" : "SELECT");
	if (!imap4_say(t, zone(t, Z_SEL, m->name_len)))
		return (NEXT_NEVER);
	if (caps_has(t, "CONDSTORE"))
		(void)imap4_sayf(t, " (CONDSTORE)");
	return (imap4_own_end(t, OWN_SELECT));
}

static enum next
search_all(struct turn *t, enum own own, const char *what)
{
	struct have *h = H(t);

	h->walk = (struct setwalk){ 0 };
	h->set_end = h->got_set = h->set_over = 0;
	h->nsaved = 0;
	h->cmp_i = h->cmp_off = h->cmp_seq = h->cmp_new = 0;
	return (imap4_own(t, own, caps_has(t, "ESEARCH") ? "UID SEARCH RETURN (ALL) %s" : "UID SEARCH %s", what));
}

/* Brings the mailbox at a fresh backend level with the client's view. */
static enum next
bring_level(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	switch (h->stage) {
	case AT_AUTH:
		return (select_box(t));
	case AT_SELECTED:
		h->nghost = h->ghosts = 0;
		h->resync = 0;
		return (search_all(t, OWN_COMPARE, "ALL"));
	case AT_COMPARED:
		h->stage = AT_FLAGGED;
		h->flags_owed = p->streaming != STREAM_NONE;
		if (h->flags_owed || p->box.modseq == 0 || h->modseq == 0 || h->modseq == p->box.modseq ||
		    !caps_has(t, "CONDSTORE") || p->box.exists == 0)
			return (NEXT_READY);
		return (imap4_own(t, OWN_FLAGS, "UID FETCH 1:* (FLAGS) (CHANGEDSINCE %llu)",
		    (unsigned long long)p->box.modseq));
	case AT_FLAGGED:
		h->stage = AT_SAVED;
		if (p->nsave == 0)
			return (NEXT_READY);
		imap4_own_begin(t, "UID SEARCH RETURN (SAVE) UID ");
		if (!imap4_say_set(t, (const struct range *)(const void *)Z(t, Z_SAVE + p->save_which * Z_SAVE_SIZE),
		    p->nsave))
			return (NEXT_NEVER);
		return (imap4_own_end(t, OWN_SAVE));
	default:
		return (NEXT_NEVER);
	}
}

/* What the client may come to know of the mailbox is learned before it does. */
static enum next
learn(struct turn *t)
{
	struct mbox *m = &P(t)->box;
	struct have *h = H(t);
	char what[64];

	if (P(t)->phase != SELECTED || h->stage != AT_SAVED)
		return (NEXT_READY);
	if (h->flags_owed && m->modseq != 0 && !P(t)->streaming && !imap4_waits_plus(t)) {
		h->flags_owed = 0;
		return (imap4_own(t, OWN_FLAGS, "UID FETCH 1:* (FLAGS) (CHANGEDSINCE %llu)",
		    (unsigned long long)m->modseq));
	}
	if (h->nghost > 0 || m->coarse)
		return (NEXT_READY);
	if (!m->learned) {
		view_forget(t);
		return (search_all(t, OWN_LEARN, "ALL"));
	}
	if (m->known < m->exists && h->tail_for != m->exists) {
		h->tail_for = m->exists;
		snprintf(what, sizeof(what), "UID %u:*", view_last(t) + 1);
		return (search_all(t, OWN_TAIL, what));
	}
	if (m->recents > 0 && (m->nrecent == 0 || h->fake_recent) && !h->recent_asked) {
		h->recent_asked = 1;
		return (search_all(t, OWN_RECENT, "RECENT"));
	}
	return (NEXT_READY);
}

/* --- the command -------------------------------------------------------------------------------------------------- */

static enum next
append(struct turn *t)
{
	const struct pst *p = P(t);
	struct have *h = H(t);
	struct literal *l;
	uint64_t sent = t->spool_to;

	if (!h->said) {			/* the header of the first */
		h->said = 1;
		h->lit_done = 0;
		imap4_say_begin(t);
		(void)imap4_say(t, cmd_tag(t));
		(void)imap4_sayf(t, " APPEND ");
		if (!imap4_say(t, zone(t, Z_CMD + p->target_at, p->target_len)))
			return (NEXT_NEVER);
		h->header_due = 1;		/* due: the first header */
	}
	if (h->sent)
		return (NEXT_WAIT);
	if (h->header_due) {
		h->header_due = 0;
		l = imap4_literal(t, h->lit_done);
		(void)imap4_sayf(t, " ");
		if (!imap4_say(t, zone(t, Z_CMD + l->args, l->args_len)) ||
		    !imap4_sayf(t, "%s{%llu}\r\n", l->binary ? "~" : "", (unsigned long long)l->len))
			return (NEXT_NEVER);
		if (h->npause == PAUSES)
			return (NEXT_NEVER);
		h->pause[h->npause++] = h->text_len;
		return (imap4_say_more(t));
	}
	l = imap4_literal(t, h->lit_done - 1);
	t->wait = t->times->bulk;
	if (sent < l->at + l->len && t->spool->len > sent) {
		t->spool_to = t->spool->len < l->at + l->len ? t->spool->len : l->at + l->len;
		return (NEXT_SPOOL);
	}
	if (sent < l->at + l->len)
		return (NEXT_MORE);
	if (h->lit_done < p->nlit) {
		imap4_say_begin(t);
		h->header_due = 1;
		return (append(t));
	}
	if (!t->spool->whole)
		return (NEXT_MORE);
	imap4_say_begin(t);
	(void)imap4_sayf(t, "\r\n");
	t->wait = t->times->eod;
	return (imap4_say_more(t));
}

/* What has changed comes behind it, as from a server. */
static void
tell_idling(struct turn *t)
{
	if (P(t)->idle_told)
		return;
	P(t)->idle_told = 1;
	out_str(t->client, "+ idling\r\n");
}

static enum next
idle(struct turn *t)
{
	struct have *h = H(t);

	if (h->nghost > 0)
		tell_idling(t);
	if (h->nghost > 0 && !imap4_tell_ghosts(t)) {
		h->full = 0; /* no reply waits for it, which would end it: it goes on when this is asked again */
		return (NEXT_FULL);
	}
	if (!h->said) {
		h->said = 1;
		return (imap4_say_pending(t) ? imap4_say_more(t) : NEXT_NEVER);
	}
	if (!h->idling)
		return (NEXT_WAIT);
	if (!P(t)->done && !h->renew)
		return (NEXT_MORE);
	if (!h->done_out) {
		h->done_out = 1;
		out_str(t->backend, "DONE\r\n");
		return (NEXT_SAY);
	}
	return (NEXT_WAIT);
}

/* What must be known before a command of class N goes out. */
static enum next
prepare(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);

	if ((p->flags & F_BASE && p->base_known != BASE_KNOWN) || (p->flags & F_BASE2 && !p->base2_known))
		return (imap4_ask_base(t, p->base_known == BASE_KNOWN));
	if ((p->command == CMD_COPY || p->command == CMD_MOVE) && !p->set_known && !p->redo)
		(void)imap4_resolve(t);
	if ((p->command == CMD_EXPUNGE || p->command == CMD_CLOSE) && !p->set_known && !h->deleted_known &&
	    caps_has(t, "UIDPLUS") && !p->box.read_only && !p->redo) {
		p->nset = 0;
		return (search_all(t, OWN_DELETED, "DELETED"));
	}
	if (p->command == CMD_MOVE && p->move_rest && p->nkill > 0) {
		imap4_own_begin(t, "UID STORE ");
		if (!imap4_say_set(t, (const struct range *)(const void *)Z(t, Z_KILL), p->nkill))
			return (NEXT_NEVER);
		(void)imap4_sayf(t, " +FLAGS.SILENT (\\Deleted)");
		if (!h->killed)
			return (imap4_own_end(t, OWN_KILL_STORE));
		imap4_own_begin(t, "UID EXPUNGE ");
		(void)imap4_say_set(t, (const struct range *)(const void *)Z(t, Z_KILL), p->nkill);
		return (imap4_own_end(t, OWN_KILL));
	}
	if (p->command == CMD_CLOSE && p->redo && p->set_known && p->nset > 0) {
		imap4_own_begin(t, "UID EXPUNGE ");
		if (!imap4_say_set(t, (const struct range *)(const void *)Z(t, Z_SET), p->nset))
			return (NEXT_NEVER);
		return (imap4_own_end(t, OWN_CLOSE_D));
	}
	return (NEXT_READY);
}

/* A server may be long over the others and say nothing, if a mailbox or its index is large. */
static bool
is_quick(const struct turn *t)
{
	const struct pst *p = P(t);

	return (p->command == CMD_ENABLE || p->command == CMD_APPEND || p->command == CMD_IDLE ||
	    bytes_casestart(bytes_cut(cmd_text(t), p->name_at), BYTES("NOOP")));
}

static enum next
command(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	enum next n;

	if (!h->said && (n = prepare(t)) != NEXT_READY)
		return (n);
	t->wait = H(t)->in_stream == STREAM_LITERAL ? t->times->bulk : is_quick(t) ? t->times->command : patience(t);
	if (p->command == CMD_APPEND)
		return (append(t));
	if (p->command == CMD_IDLE)
		return (idle(t));
	if (!h->said) {
		h->said = 1;
		if (p->command == CMD_SELECT) {
			forget_box(h);
			imap4_tell_closed(t);
		}
		if (!imap4_say_pending(t)) {
			h->said = h->text_out = 0;
			return (NEXT_NEVER);
		}
		return (imap4_say_more(t));
	}
	if (h->saving == SAVING_FLAGS)
		return (imap4_ask_flags(t));
	if (h->saving == SAVING_ASK)
		return (search_all(t, OWN_SAVED, "UID $"));
	if (h->saving == SAVING_UNDO)
		return (imap4_own(t, OWN_UNSAVE, "UID SEARCH RETURN (SAVE) NOT ALL"));
	if (p->command == CMD_SELECT && h->sent && !h->learn_sent && h->own == OWN_NONE) {
		h->learn_sent = 1; /* behind it in the same breath: the answer comes before the client's next command */
		return (search_all(t, OWN_LEARN, "ALL"));
	}
	return (NEXT_WAIT);
}

/* An own command is under way. */
static enum next
waits(struct turn *t)
{
	struct pst *p = P(t);
	enum own own = H(t)->own;

	if (own >= OWN_SELECT && own != OWN_LOGOUT)
		t->wait = patience(t);
	if (own != OWN_LOGIN)
		return (NEXT_WAIT);
	t->wait = t->times->login;
	if (p->sasl == SASL_RELAY)
		return (NEXT_MORE);		/* it is the client's turn */
	if (!p->answer_due)
		return (NEXT_WAIT);
	p->answer_due = 0;
	out_put(t->backend, zone(t, Z_ANSWER, p->answer_len));
	out_str(t->backend, "\r\n");
	return (NEXT_SAY);
}

enum next
imap4_next(struct turn *t)
{
	struct pst *p = P(t);
	struct have *h = H(t);
	enum next n;

	t->wait = t->times->command;
	if (h->drop)
		return (NEXT_DROP);
	if (h->never)
		return (NEXT_NEVER);
	if (h->stage == AT_GREETING) {
		t->wait = t->times->greeting;
		return (NEXT_WAIT);
	}
	if (h->full)
		return (NEXT_FULL);
	if (h->text_out)
		return (h->plus_wait ? NEXT_WAIT : imap4_say_more(t));
	if (h->own != OWN_NONE) {
		return (waits(t));
	}
	if (h->starttls == 1)
		return (imap4_own(t, OWN_STARTTLS, "STARTTLS"));
	if (h->starttls == 2) {		/* what was said in clear counts no more (RFC 9051 section 6.2.1) */
		h->starttls = h->cap_seen = 0;
		h->caps = 0;
		return (NEXT_TLS);
	}
	if (p->command == CMD_PROBE)
		return (probe(t));
	if (h->stage >= AT_KNOWN && h->id_no != p->id_no && !h->said && caps_has(t, "ID"))
		return (say_id(t));
	while (h->stage < AT_AUTH) {
		if (p->command == CMD_NONE)
			return (NEXT_READY);
		if ((n = get_in(t)) != NEXT_READY)
			return (n);
	}
	if (p->probing)
		return (imap4_look(t));
	while (p->command != CMD_NONE && h->stage < AT_SAVED && wants_selection(t) && !unselected_append(t)) {
		if (p->command == CMD_IDLE)
			tell_idling(t);
		if ((n = bring_level(t)) != NEXT_READY)
			return (n);
	}
	if (!h->said && (p->command == CMD_NONE || wants_selection(t)) && (n = learn(t)) != NEXT_READY)
		return (n);
	return (p->command == CMD_NONE ? NEXT_READY : command(t));
}

void
imap4_writing(struct turn *t, uint64_t spool_sent)
{
	(void)spool_sent;
	if (H(t)->sent && P(t)->command != CMD_NONE && P(t)->command != CMD_LOGIN && P(t)->command != CMD_PROBE)
		P(t)->fence = 1;
}
