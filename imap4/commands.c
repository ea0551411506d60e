/*
 * commands - what each command of the client is, and what the gateway does with it by itself; pure
 *
 * The command lies whole in Z_CMD. What it names (set, target) is noted by place; it is written anew for each backend.
 */
#include <stdio.h>

#include "imap4/imap4.h"
#include "imap4/token.h"

enum { IN_NOTAUTH = 1, IN_AUTH = 2, IN_SELECTED = 4, ANY = 7, LOGGED_IN = 6 };
enum { ARG_SET = 1, ARG_TARGET = 2, ARG_TARGET2 = 4 };

struct command {
	const char	*name;
	uint8_t		 phases, cmd, flags, args;	/* args: which of them come first, in this order */
	enum act	(*run)(struct turn *, struct bytes args);	/* instead of passing it on */
};

void
imap4_forget_login(struct turn *t)
{
	struct pst *p = P(t);

	if (t->log->cap >= Z_AUTH + Z_AUTH_SIZE) {
		explicit_bzero(Z(t, Z_AUTH), p->user_len + p->secret_len);
		explicit_bzero(Z(t, Z_ANSWER), p->answer_len);
		explicit_bzero(Z(t, Z_WHO), p->who_len);
	}
	p->user_len = p->secret_len = p->answer_len = p->who_len = 0;
}

static enum act
done(struct turn *t, const char *text)
{
	imap4_tagged(t, text);
	imap4_answered(t);
	return (ACT_DONE);
}

/* --- by itself ---------------------------------------------------------------------------------------------------- */

static enum act
capability(struct turn *t, struct bytes args)
{
	if (args.n > 0)
		return (imap4_bad(t, "CAPABILITY has no arguments"));
	out_str(t->client, "* ");
	caps_line(t, t->client);
	out_str(t->client, "\r\n");
	return (done(t, "OK Capability completed"));
}

static enum act
logout(struct turn *t, struct bytes args)
{
	if (args.n > 0)
		return (imap4_bad(t, "LOGOUT has no arguments"));
	out_str(t->client, "* BYE Logging out\r\n");
	imap4_tagged(t, "OK Logout completed");
	imap4_answered(t);
	P(t)->phase = LOGGEDOUT;
	return (ACT_CLOSE);
}

static enum act
noop(struct turn *t, struct bytes args)
{
	if (args.n > 0)
		return (imap4_bad(t, "NOOP has no arguments"));
	return (done(t, "OK NOOP completed"));
}

static enum act
not_here(struct turn *t, struct bytes args)
{
	(void)args;
	return (imap4_bad(t, "command not offered here"));
}

/* RFC 9051 section 6.2.1 */
static enum act
starttls(struct turn *t, struct bytes args)
{
	if (!t->peer->starttls || args.n > 0)
		return (imap4_bad(t, t->peer->tls ? "TLS is on already" : "STARTTLS is not offered here"));
	P(t)->id_len = 0;
	(void)done(t, "OK begin TLS");
	return (ACT_TLS);
}

/* What a client may not claim towards a backend that believes the gateway (protocols.md 2.5). */
static bool
forged(struct bytes key)
{
	static const char *const start[] = { "x-originating-", "x-connected-", "x-proxy-", "x-session-", "x-client-",
		"x-forward-", "x-multiplex" };

	for (size_t i = 0; i < sizeof(start) / sizeof(start[0]); i++)
		if (bytes_casestart(key, bytes_str(start[i])))
			return (true);
	return (false);
}

/* What was said before stays, if this is none. */
static bool
keep_id(struct turn *t, struct bytes list)
{
	uint8_t text[Z_ID_SIZE];
	struct out o = { text, 0, sizeof(text), false };
	struct bytes rest = bytes(list.p + 1, list.n - 2), k, v, key, val;
	uint8_t kb[64], vb[1100];
	uint32_t pairs = 0;
	size_t whole;

	for (token_space(&rest); rest.n > 0; token_space(&rest)) {
		if (!token_value(&rest, &k) || !token_string(k, kb, sizeof(kb), &key) || key.n > 30 || ++pairs > 30)
			return (false);
		token_space(&rest);
		if (!token_value(&rest, &v) || !token_string(v, vb, sizeof(vb), &val) || val.n > 1024)
			return (false);
		if (forged(key) || !token_quotable(key) || !token_quotable(val) || memchr(key.p, '"', key.n) != NULL)
			continue;
		whole = o.len;
		if (!(out_str(&o, " \"") && out_put(&o, key) && out_str(&o, "\" ") &&
		    out_put(&o, v.p[0] == '"' || bytes_caseeq(v, BYTES("NIL")) ? v : BYTES("NIL")))) {
			o.len = whole;		/* the backend hears what there is room for */
			o.full = false;
		}
	}
	memcpy(Z(t, Z_ID), text, o.len);
	P(t)->id_len = (uint32_t)o.len;
	P(t)->id_no++;
	return (true);
}

static enum act
id(struct turn *t, struct bytes args)
{
	struct bytes list;

	if (!token_value(&args, &list) || args.n > 0 || !(bytes_caseeq(list, BYTES("NIL")) ||
	    (list.p[0] == '(' && keep_id(t, list))))
		return (imap4_bad(t, "ID wants a list of at most 30 pairs, or NIL"));
	out_str(t->client, "* ID (\"name\" \"BMR\")\r\n");
	return (done(t, "OK ID completed"));
}

static enum act
cmd_login(struct turn *t, struct bytes args)
{
	uint8_t ub[1024], pb[4096];
	struct bytes u, s, user, secret;

	if (!token_value(&args, &u))
		return (imap4_bad(t, "LOGIN wants a user name and a password"));
	token_space(&args);
	if (!token_value(&args, &s) || args.n > 0 || !token_string(u, ub, sizeof(ub), &user) ||
	    !token_string(s, pb, sizeof(pb), &secret) || user.n == 0 || memchr(user.p, 0, user.n) != NULL ||
	    memchr(secret.p, 0, secret.n) != NULL)
		return (imap4_bad(t, "LOGIN wants a user name and a password"));
	if (!t->peer->auth_ok) {
		imap4_forget_command(t);
		return (done(t, "NO [PRIVACYREQUIRED] plain-text login is not allowed here without TLS"));
	}
	return (imap4_login(t, SASL_NONE, user, bytes("", 0), secret));
}

static enum act
authenticate(struct turn *t, struct bytes args)
{
	static const struct { const char *name, *cap; uint8_t sasl; const char *challenge; } mechs[] = {
		{ "PLAIN", "AUTH=PLAIN", SASL_PLAIN, "+ \r\n" },
		{ "LOGIN", "AUTH=LOGIN", SASL_LOGIN_USER, "+ VXNlcm5hbWU6\r\n" },
		{ "XOAUTH2", "AUTH=XOAUTH2", SASL_XOAUTH2, "+ \r\n" },
		{ "OAUTHBEARER", "AUTH=OAUTHBEARER", SASL_OAUTHBEARER, "+ \r\n" },
		{ "EXTERNAL", NULL, SASL_EXTERNAL, "+ \r\n" },
	};
	static const char *const relayed[] = { "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256" };
	struct bytes name = token_word(&args);
	char cap[32];
	size_t i;

	if (name.n == 0)
		return (imap4_bad(t, "AUTHENTICATE wants a mechanism"));
	for (i = 0; i < sizeof(relayed) / sizeof(relayed[0]); i++) {
		snprintf(cap, sizeof(cap), "AUTH=%s", relayed[i]);
		if (bytes_caseeq(name, bytes_str(relayed[i])) && imap4_has_master(t) &&
		    caps_offered(t, bytes_str(cap))) {
			token_space(&args);
			return (imap4_relay_login(t, bytes_str(relayed[i]), args));
		}
	}
	if (!t->peer->auth_ok)
		return (done(t, "NO [PRIVACYREQUIRED] plain-text login is not allowed here without TLS"));
	for (i = 0; i < sizeof(mechs) / sizeof(mechs[0]); i++)
		if (bytes_caseeq(name, bytes_str(mechs[i].name)) &&
		    (mechs[i].cap == NULL ? external_ok(t) : caps_offered(t, bytes_str(mechs[i].cap))))
			break;
	if (i == sizeof(mechs) / sizeof(mechs[0]))
		return (done(t, "NO unsupported authentication mechanism"));
	P(t)->sasl = mechs[i].sasl;
	P(t)->gather = G_SASL;
	P(t)->line_at = P(t)->cmd_len;
	token_space(&args);
	if (args.n > 0)
		return (imap4_sasl(t, args));
	out_str(t->client, mechs[i].challenge);
	return (ACT_DONE);
}

/* --- for the backend ---------------------------------------------------------------------------------------------- */

/* Whether this word is among the arguments. keys: they are a search's, of which some are followed by text. */
static bool
names(struct bytes args, bool keys, const char *word)
{
	struct bytes v;
	const uint8_t *end;

	while (args.n > 0) {
		if (args.p[0] == ' ' || args.p[0] == '(' || args.p[0] == ')') {
			args = bytes_cut(args, 1);
			continue;
		}
		if (!token_value(&args, &v))
			return (false);
		if (bytes_caseeq(v, bytes_str(word)))
			return (true);
		if (v.p[0] != '"' && v.p[0] != '{' && memchr(v.p, '[', v.n) != NULL && memchr(v.p, ']', v.n) == NULL) {
			end = memchr(args.p, ']', args.n);	/* names of header fields */
			args = bytes_cut(args, end == NULL ? args.n : (size_t)(end - args.p) + 1);
		}
		for (int n = keys ? imap4_key_arguments(v) : 0; n > 0; n--) {
			token_space(&args);
			if (!token_value(&args, &v))
				break;
		}
	}
	return (false);
}

/* A client knows of mod-sequences once it has used them in one of these ways, or by ENABLE (RFC 7162 section 3.1). */
static bool
uses_modseq(const struct turn *t, enum cmd c)
{
	static const struct { enum cmd cmd; const char *word; } use[] = {
		{ CMD_FETCH, "MODSEQ" }, { CMD_FETCH, "CHANGEDSINCE" }, { CMD_STORE, "UNCHANGEDSINCE" },
		{ CMD_SEARCH, "MODSEQ" }, { CMD_RELAY, "HIGHESTMODSEQ" }, { CMD_SELECT, "CONDSTORE" },
		{ CMD_SELECT, "QRESYNC" },
	};
	struct bytes args = bytes(Z(t, Z_CMD + P(t)->args_at), P(t)->cmd_len - P(t)->args_at), v;

	if (c != CMD_SEARCH && !token_value(&args, &v))		/* the set, the mailbox */
		return (false);
	for (size_t i = 0; i < sizeof(use) / sizeof(use[0]); i++)
		if (use[i].cmd == c && names(args, c == CMD_SEARCH, use[i].word))
			return (true);
	return (false);
}

static enum act
pend(struct turn *t, enum cmd c, uint8_t flags)
{
	P(t)->command = (uint8_t)c;
	P(t)->flags = flags;
	if (!P(t)->condstore && caps_offered(t, BYTES("CONDSTORE")) && uses_modseq(t, c))
		imap4_condstore(t);
	return (ACT_PENDING);
}

static enum act
enable(struct turn *t, struct bytes args)
{
	bool any = false;

	if (args.n == 0)
		return (imap4_bad(t, "ENABLE wants a capability"));
	while (args.n > 0)
		any = caps_offered(t, bytes_token(&args, ' ')) || any;
	if (any)
		return (pend(t, CMD_ENABLE, 0));
	out_str(t->client, "* ENABLED\r\n");
	return (done(t, "OK Enable completed"));
}

static enum act
idle(struct turn *t, struct bytes args)
{
	if (args.n > 0)
		return (imap4_bad(t, "IDLE has no arguments"));
	return (pend(t, CMD_IDLE, F_QUERY));
}

/* The inside of RETURN (...) at the start of SEARCH, SORT, THREAD; false: malformed. */
static bool
search_options(struct bytes args, struct bytes *list)
{
	struct bytes w = token_word(&args);

	*list = bytes(args.p, 0);
	if (!bytes_caseeq(w, BYTES("RETURN")))
		return (true);
	token_space(&args);
	if (!token_value(&args, list) || list->p[0] != '(')
		return (false);
	*list = bytes(list->p + 1, list->n - 2);
	return (true);
}

static bool
has_option(struct bytes list, const char *name)
{
	struct bytes w;

	for (token_space(&list); token_value(&list, &w); token_space(&list))
		if (bytes_caseeq(w, bytes_str(name)))
			return (true);
	return (false);
}

bool
imap4_saves(const struct turn *t)
{
	const struct pst *p = P(t);
	struct bytes list;

	return (p->command == CMD_SEARCH &&
	    search_options(bytes(Z(t, Z_CMD + p->args_at), p->cmd_len - p->args_at), &list) &&
	    has_option(list, "SAVE"));
}

static enum act
search(struct turn *t, struct bytes args)
{
	struct bytes list;

	if (!search_options(args, &list) || has_option(list, "UPDATE") || has_option(list, "CONTEXT") ||
	    has_option(list, "PARTIAL"))
		return (imap4_bad(t, "search option not offered here"));
	return (pend(t, CMD_SEARCH, (uint8_t)(F_QUERY | F_RESULT | (P(t)->uid ? 0 : F_SEQ))));
}

static const struct command commands[] = {
	{ "CAPABILITY", ANY, 0, 0, 0, capability },
	{ "NOOP", IN_NOTAUTH, 0, 0, 0, noop },
	{ "NOOP", LOGGED_IN, CMD_RELAY, F_QUERY, 0, NULL },
	{ "ID", ANY, 0, 0, 0, id },
	{ "LOGOUT", ANY, 0, 0, 0, logout },
	{ "STARTTLS", IN_NOTAUTH, 0, 0, 0, starttls },
	{ "LOGIN", IN_NOTAUTH, 0, 0, 0, cmd_login },
	{ "AUTHENTICATE", IN_NOTAUTH, 0, 0, 0, authenticate },
	{ "ENABLE", LOGGED_IN, 0, 0, 0, enable },
	{ "SELECT", LOGGED_IN, CMD_SELECT, 0, ARG_TARGET, NULL },
	{ "EXAMINE", LOGGED_IN, CMD_SELECT, 0, ARG_TARGET, NULL },
	{ "CREATE", LOGGED_IN, CMD_CREATE, F_BASE | F_DOUBT, ARG_TARGET, NULL },
	{ "DELETE", LOGGED_IN, CMD_DELETE, F_BASE | F_DOUBT, ARG_TARGET, NULL },
	{ "RENAME", LOGGED_IN, CMD_RENAME, F_BASE | F_BASE2 | F_DOUBT, ARG_TARGET | ARG_TARGET2, NULL },
	{ "SUBSCRIBE", LOGGED_IN, CMD_RELAY, 0, 0, NULL },
	{ "UNSUBSCRIBE", LOGGED_IN, CMD_RELAY, 0, 0, NULL },
	{ "LIST", LOGGED_IN, CMD_RELAY, F_QUERY, 0, NULL },
	{ "LSUB", LOGGED_IN, CMD_RELAY, F_QUERY, 0, NULL },
	{ "NAMESPACE", LOGGED_IN, CMD_RELAY, F_QUERY, 0, NULL },
	{ "STATUS", LOGGED_IN, CMD_RELAY, F_QUERY, 0, NULL },
	{ "IDLE", LOGGED_IN, 0, 0, 0, idle },
	{ "GETQUOTA", LOGGED_IN, CMD_RELAY, F_QUERY, 0, NULL },
	{ "GETQUOTAROOT", LOGGED_IN, CMD_RELAY, F_QUERY, 0, NULL },
	{ "SETQUOTA", LOGGED_IN, CMD_RELAY, 0, 0, NULL },
	{ "GETACL", LOGGED_IN, CMD_RELAY, F_QUERY, 0, NULL },
	{ "MYRIGHTS", LOGGED_IN, CMD_RELAY, F_QUERY, 0, NULL },
	{ "LISTRIGHTS", LOGGED_IN, CMD_RELAY, F_QUERY, 0, NULL },
	{ "SETACL", LOGGED_IN, CMD_RELAY, 0, 0, NULL },
	{ "DELETEACL", LOGGED_IN, CMD_RELAY, 0, 0, NULL },
	{ "GETMETADATA", LOGGED_IN, CMD_RELAY, F_QUERY, 0, NULL },
	{ "SETMETADATA", LOGGED_IN, CMD_RELAY, 0, 0, NULL },
	{ "CHECK", IN_SELECTED, CMD_RELAY, F_QUERY, 0, NULL },
	{ "CLOSE", IN_SELECTED, CMD_CLOSE, 0, 0, NULL },
	{ "UNSELECT", IN_SELECTED, CMD_UNSELECT, F_QUERY, 0, NULL },
	{ "EXPUNGE", IN_SELECTED, CMD_EXPUNGE, 0, 0, NULL },
	{ "FETCH", IN_SELECTED, CMD_FETCH, F_QUERY | F_SEQ, ARG_SET, NULL },
	{ "STORE", IN_SELECTED, CMD_STORE, F_SEQ, ARG_SET, NULL },
	{ "COPY", IN_SELECTED, CMD_COPY, F_BASE | F_DOUBT, ARG_SET | ARG_TARGET, NULL },
	{ "MOVE", IN_SELECTED, CMD_MOVE, F_BASE | F_DOUBT, ARG_SET | ARG_TARGET, NULL },
	{ "SEARCH", IN_SELECTED, 0, 0, 0, search },
	{ "SORT", IN_SELECTED, 0, 0, 0, search },
	{ "THREAD", IN_SELECTED, 0, 0, 0, search },
	/* known, and not kept right in a replay, or hop by hop: not offered (protocols.md 4.1) */
	{ "COMPRESS", ANY, 0, 0, 0, not_here }, { "UNAUTHENTICATE", ANY, 0, 0, 0, not_here },
	{ "NOTIFY", ANY, 0, 0, 0, not_here }, { "REPLACE", ANY, 0, 0, 0, not_here },
	{ "LANGUAGE", ANY, 0, 0, 0, not_here }, { "COMPARATOR", ANY, 0, 0, 0, not_here },
	{ "GENURLAUTH", ANY, 0, 0, 0, not_here }, { "RESETKEY", ANY, 0, 0, 0, not_here },
	{ "URLFETCH", ANY, 0, 0, 0, not_here }, { "CANCELUPDATE", ANY, 0, 0, 0, not_here },
	{ "APPEND", LOGGED_IN, 0, 0, 0, not_here },
};
static const struct command uid_commands[] = {
	{ "FETCH", IN_SELECTED, CMD_FETCH, F_QUERY, ARG_SET, NULL },
	{ "STORE", IN_SELECTED, CMD_STORE, 0, ARG_SET, NULL },
	{ "COPY", IN_SELECTED, CMD_COPY, F_BASE | F_DOUBT, ARG_SET | ARG_TARGET, NULL },
	{ "MOVE", IN_SELECTED, CMD_MOVE, F_BASE | F_DOUBT, ARG_SET | ARG_TARGET, NULL },
	{ "EXPUNGE", IN_SELECTED, CMD_RELAY, 0, 0, NULL },
	{ "SEARCH", IN_SELECTED, 0, 0, 0, search },
	{ "SORT", IN_SELECTED, 0, 0, 0, search },
	{ "THREAD", IN_SELECTED, 0, 0, 0, search },
	{ "REPLACE", ANY, 0, 0, 0, not_here },
};
static const struct command unknown = { "", LOGGED_IN, CMD_UNKNOWN, 0, 0, NULL };

static uint8_t
here(const struct turn *t)
{
	return (P(t)->phase == NOTAUTH ? IN_NOTAUTH : P(t)->phase == AUTH ? IN_AUTH : IN_SELECTED);
}

static const struct command *
find(const struct turn *t, struct bytes name, const struct command *from, size_t n, bool *exists)
{
	for (size_t i = 0; i < n; i++)
		if (bytes_caseeq(name, bytes_str(from[i].name))) {
			*exists = true;
			if (from[i].phases & here(t))
				return (&from[i]);
		}
	return (NULL);
}

/* Numbers, ranges and *, or $: what is in it is the backend's to judge. */
static bool
is_set(struct bytes b)
{
	struct setwalk w = { 0 };
	struct range r;

	if (bytes_eq(b, BYTES("$")))
		return (true);
	for (size_t i = 0; i <= b.n; i++) {
		uint8_t c = i < b.n ? b.p[i] : ',';

		if (c == '*' && w.digits == 0) {
			w.a = UINT32_MAX;
			w.digits = 11;
		} else if (c == '*' || setwalk_step(&w, c, &r) == -1)
			return (false);
	}
	return (b.n > 0);
}

static bool
take_arg(const struct turn *t, struct bytes *args, uint32_t *at, uint32_t *len)
{
	struct bytes v;

	token_space(args);
	if (!token_value(args, &v) || v.p[0] == '(')
		return (false);
	*at = (uint32_t)(v.p - Z(t, Z_CMD));
	*len = (uint32_t)v.n;
	return (true);
}

static enum act
run(struct turn *t, const struct command *c, struct bytes args)
{
	struct pst *p = P(t);
	struct bytes rest = args;

	p->nset = p->set_len = p->target_len = p->target2_len = 0;
	p->set_known = 0;
	if (c->run != NULL)
		return (c->run(t, args));
	if (c->args & ARG_SET && (!take_arg(t, &rest, &p->set_at, &p->set_len) ||
	    !is_set(bytes(Z(t, Z_CMD + p->set_at), p->set_len))))
		return (imap4_bad(t, "a set of messages was expected"));
	if ((c->args & ARG_TARGET && !take_arg(t, &rest, &p->target_at, &p->target_len)) ||
	    (c->args & ARG_TARGET2 && !take_arg(t, &rest, &p->target2_at, &p->target2_len)))
		return (imap4_bad(t, "a mailbox was expected"));
	if ((p->target_len > Z_SEL_SIZE && c->args & ARG_TARGET) || (p->target2_len > Z_SEL_SIZE && c->args & ARG_TARGET2))
		return (imap4_bad(t, "mailbox name too long"));
	return (pend(t, c->cmd, c->flags));
}

enum act
imap4_command(struct turn *t)
{
	struct pst *p = P(t);
	const struct command *c;
	const char *wrong = token_check(cmd_text(t));
	struct bytes rest = bytes_cut(cmd_text(t), p->tag_len), name;
	const uint8_t *line = Z(t, Z_CMD + p->line_at);		/* what ends a literal is the client's own */
	bool exists = false;

	if (wrong == NULL && !imap4_can_say(cmd_text(t)))
		wrong = "[TOOBIG] too many literals";
	if (wrong != NULL)
		return (imap4_bad(t, wrong));
	token_space(&rest);
	while (rest.p + rest.n > line && rest.n > 0 && rest.p[rest.n - 1] == ' ')
		rest.n--;
	name = token_word(&rest);
	p->name_at = (uint32_t)(name.p - Z(t, Z_CMD));
	token_space(&rest);
	p->uid = bytes_caseeq(name, BYTES("UID"));
	if (p->uid) {
		name = token_word(&rest);
		token_space(&rest);
		c = find(t, name, uid_commands, sizeof(uid_commands) / sizeof(uid_commands[0]), &exists);
	} else
		c = find(t, name, commands, sizeof(commands) / sizeof(commands[0]), &exists);
	p->cmd_len = (uint32_t)(rest.p + rest.n - Z(t, Z_CMD));
	p->args_at = (uint32_t)(rest.p - Z(t, Z_CMD));
	p->line_at = 0;
	if (name.n == 0)
		return (imap4_bad(t, "a command was expected"));
	if (c == NULL && (exists || p->phase == NOTAUTH))
		return (imap4_bad(t, exists ? "command not allowed now" : "unknown command"));
	return (run(t, c != NULL ? c : &unknown, rest));
}

bool
imap4_is_append(const struct turn *t, uint32_t *args)
{
	struct pst *p = P(t);
	struct bytes rest = bytes_cut(cmd_text(t), p->tag_len), name, box;

	token_space(&rest);
	name = token_word(&rest);
	token_space(&rest);
	if (p->phase == NOTAUTH || !bytes_caseeq(name, BYTES("APPEND")) || !token_value(&rest, &box) || rest.n == 0 ||
	    rest.p[0] != ' ' || box.p[0] == '(')
		return (false);
	token_space(&rest);
	p->target_at = (uint32_t)(box.p - Z(t, Z_CMD));
	p->target_len = (uint32_t)box.n;
	*args = (uint32_t)(rest.p - Z(t, Z_CMD));
	/* a literal in place of flags and date is the message's; none is of the mailbox's name, whose octets are to come */
	return (bytes_casestart(rest, BYTES("CATENATE")) ? false : true);
}
