/*
 * client - the client's side of SMTP: one function a command; pure
 *
 * MAIL, RCPT, DATA and AUTH become pending; all else is answered here. A line is parsed and written anew before it
 * goes anywhere (path.c).
 */
#include "smtp/smtp.h"

enum { OVERSHOOT_MAX = 1000, JUNK_MAX = 100 };

void
smtp_greet(struct turn *t)
{
	out_fmt(t->client, "220 %s ESMTP\r\n", t->peer->banner);
}

static enum act
say(struct turn *t, const char *line)
{
	out_fmt(t->client, "%s\r\n", line);
	return (ACT_DONE);
}

enum act
smtp_count_error(struct turn *t)
{
	if (++P(t)->errors < t->limits->errors)
		return (ACT_DONE);
	out_fmt(t->client, "421 4.7.0 %s too many errors\r\n", t->peer->banner);
	return (ACT_CLOSE);
}

enum act
smtp_error(struct turn *t, const char *line)
{
	say(t, line);
	return (smtp_count_error(t));
}

/* Commands that do nothing, in large numbers, are errors. */
static enum act
junk(struct turn *t, const char *line)
{
	return (++P(t)->junk > JUNK_MAX ? smtp_error(t, line) : say(t, line));
}

/* --- session ------------------------------------------------------------------------------------------------------ */

static enum act
hello(struct turn *t, struct bytes arg, enum helo kind)
{
	struct pst *p = P(t);
	struct bytes name = bytes_token(&arg, ' ');

	for (size_t i = 0; i < name.n; i++)
		if (name.p[i] <= ' ' || name.p[i] >= 0x7f)
			name.n = 0;
	if (name.n == 0 || name.n > HELO_MAX)
		return (smtp_error(t, "501 5.5.4 host name or address literal expected"));
	smtp_end_transaction(t);
	p->helo = (uint8_t)kind;
	p->helo_seq++;
	memcpy(p->name, name.p, name.n);
	p->name[name.n] = '\0';
	if (kind == HELO_EHLO)
		smtp_offer_lines(t);
	else
		out_fmt(t->client, "250 %s\r\n", t->peer->banner);
	return (++p->junk > JUNK_MAX ? smtp_count_error(t) : ACT_DONE);	/* backends count them too */
}

static enum act
cmd_ehlo(struct turn *t, struct bytes arg)
{
	return (hello(t, arg, HELO_EHLO));
}

static enum act
cmd_helo(struct turn *t, struct bytes arg)
{
	return (hello(t, arg, HELO_HELO));
}

static enum act
cmd_rset(struct turn *t, struct bytes arg)
{
	(void)arg;
	smtp_end_transaction(t);
	return (junk(t, "250 2.0.0 Ok"));
}

static enum act
cmd_noop(struct turn *t, struct bytes arg)
{
	(void)arg;
	return (junk(t, "250 2.0.0 Ok"));
}

static enum act
cmd_help(struct turn *t, struct bytes arg)
{
	(void)arg;
	return (junk(t, "214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY QUIT (RFC 5321), and what EHLO offers"));
}

static enum act
cmd_vrfy(struct turn *t, struct bytes arg)
{
	if (arg.n == 0)
		return (smtp_error(t, "501 5.5.4 VRFY needs an address"));
	return (junk(t, "252 2.5.0 cannot verify, send some mail and see"));
}

static enum act
cmd_not_here(struct turn *t, struct bytes arg)
{
	(void)arg;
	return (smtp_error(t, "502 5.5.1 command not available here"));
}

/* A client that claims to be a proxy is not believed: that is the gateway's privilege (protocols.md 2.5). */
static enum act
cmd_proxy(struct turn *t, struct bytes arg)
{
	(void)arg;
	return (smtp_error(t, "550 5.7.0 insufficient authorization"));
}

static enum act
cmd_http(struct turn *t, struct bytes arg)
{
	(void)arg;
	say(t, "221 2.7.0 this is a mail server, good-bye");
	return (ACT_CLOSE);
}

/* RFC 3207. The client begins anew: what it said in clear is forgotten. */
static enum act
cmd_starttls(struct turn *t, struct bytes arg)
{
	struct pst *p = P(t);

	(void)arg;
	if (!t->peer->starttls)
		return (smtp_error(t, t->peer->tls ? "503 5.5.1 TLS is on already" : "502 5.5.1 command not available here"));
	if (p->helo != HELO_EHLO || p->open || p->authenticated)
		return (smtp_error(t, p->helo != HELO_EHLO ? "503 5.5.1 send EHLO first" : "503 5.5.1 not now"));
	smtp_end_transaction(t);
	smtp_auth_forget(t);
	p->helo = HELO_NONE;
	p->helo_seq++;
	say(t, "220 2.0.0 ready to start TLS");
	return (ACT_TLS);
}

static enum act
cmd_quit(struct turn *t, struct bytes arg)
{
	(void)arg;
	smtp_end_transaction(t);
	out_fmt(t->client, "221 2.0.0 %s Bye\r\n", t->peer->banner);
	return (ACT_CLOSE);
}

/* --- transaction -------------------------------------------------------------------------------------------------- */

/* Of two BODYs the gateway might go by one and the backend by the other; of DSN's parameters each comes once (RFC 3461 section 4). */
static bool
repeated(struct bytes all, struct bytes key)
{
	struct bytes other, value;
	int n = 0;

	while (smtp_param(&all, &other, &value) == 1)
		n += bytes_caseeq(other, key);
	return (n > 1);
}

/* The parameters of MAIL, checked and written anew. NULL, or what is wrong. */
static const char *
mail_params(struct turn *t, struct bytes rest, struct out *o)
{
	struct pst *p = P(t);
	struct caps_smtp a = smtp_offer(t);
	uint32_t caps = p->helo == HELO_EHLO ? a.bits : 0;
	struct bytes key, value, all = rest;
	uint64_t size, limit = smtp_size_limit(t);
	int r;

	while ((r = smtp_param(&rest, &key, &value)) == 1) {
		if (repeated(all, key))
			return ("501 5.5.4 parameter given twice");
		if (bytes_caseeq(key, BYTES("SIZE")) && caps & CAP_SIZE) {
			if (value.n == 20 && bytes_num(bytes_cut(value, 1), 0, UINT64_MAX, &size) == 0 && value.p[0] > '0' &&
			    value.p[0] <= '9')
				return ("552 5.3.4 message too big");	/* RFC 1870 section 5: 20 digits */
			if (bytes_num(value, 0, UINT64_MAX, &size) == -1)
				return ("501 5.5.4 bad SIZE");
			if (limit != 0 && size > limit)
				return ("552 5.3.4 message too big");
			p->need |= CAP_SIZE;
		} else if (bytes_caseeq(key, BYTES("BODY")) && caps & CAP_8BITMIME) {
			if (bytes_caseeq(value, BYTES("BINARYMIME")) && caps & CAP_BINARYMIME) {
				p->body = BODY_BINARY;
				p->need |= CAP_BINARYMIME | CAP_CHUNKING;
			} else if (bytes_caseeq(value, BYTES("8BITMIME")))
				p->body = BODY_8BIT;
			else if (!bytes_caseeq(value, BYTES("7BIT")))
				return ("501 5.5.4 bad BODY");
			p->need |= CAP_8BITMIME;
		} else if (bytes_caseeq(key, BYTES("SMTPUTF8")) && value.n == 0 && caps & CAP_SMTPUTF8) {
			p->utf8 = 1;
			p->need |= CAP_SMTPUTF8;
		} else if (bytes_caseeq(key, BYTES("RET")) && caps & CAP_DSN) {
			if (!bytes_caseeq(value, BYTES("FULL")) && !bytes_caseeq(value, BYTES("HDRS")))
				return ("501 5.5.4 bad RET");
			p->need |= CAP_DSN;
		} else if (bytes_caseeq(key, BYTES("ENVID")) && caps & CAP_DSN) {
			if (value.n == 0 || value.n > 100 || !smtp_xtext(value))
				return ("501 5.5.4 bad ENVID");
			p->need |= CAP_DSN;
		} else if (bytes_caseeq(key, BYTES("AUTH")) && caps & (CAP_AUTH_ANY | CAP_AUTH_RELAYED)) {
			/* from one who has not logged in it counts as unknown (RFC 4954 section 5) */
			if (value.n == 0)
				return ("501 5.5.4 bad AUTH");
			if (!p->authenticated)
				value = BYTES("<>");
			else if (!bytes_eq(value, BYTES("<>")) && !smtp_xtext(value))
				return ("501 5.5.4 bad AUTH");
		} else
			return ("555 5.5.4 unsupported parameter");
		out_str(o, " ");
		out_put(o, key);
		if (value.n > 0)
			out_str(o, "=");
		out_put(o, value);
	}
	return (r == -1 ? "501 5.5.4 bad parameter" : NULL);
}

/* "FROM:" or "TO:" before the path. */
static bool
keyword(struct bytes *arg, const char *word)
{
	struct bytes w = bytes_str(word);

	if (!bytes_casestart(*arg, w))
		return (false);
	*arg = bytes_cut(*arg, w.n);
	while (arg->n > 0 && arg->p[0] == ' ')	/* before the colon too: seen in the field */
		*arg = bytes_cut(*arg, 1);
	if (arg->n == 0 || arg->p[0] != ':')
		return (false);
	*arg = bytes_cut(*arg, 1);
	return (true);
}

static enum act
cmd_mail(struct turn *t, struct bytes arg)
{
	struct pst *p = P(t);
	uint8_t space[4096];
	struct out line = { space, 0, sizeof(space), false };
	struct bytes path;
	const char *wrong;

	if (p->helo == HELO_NONE)
		return (smtp_error(t, "503 5.5.1 send HELO or EHLO first"));
	if (p->open)
		return (smtp_error(t, "503 5.5.1 nested MAIL command"));
	if (!keyword(&arg, "FROM") || smtp_path(&arg, &path) == -1)
		return (smtp_error(t, "501 5.5.4 syntax: MAIL FROM:<address>"));
	smtp_end_transaction(t);
	out_str(&line, "MAIL FROM:<");
	out_put(&line, path);
	out_str(&line, ">");
	if ((wrong = mail_params(t, arg, &line)) == NULL && !smtp_ascii(path) && !p->utf8)
		wrong = "553 5.6.7 SMTPUTF8 is needed for this address";
	out_str(&line, "\r\n");
	if (wrong == NULL && line.full)
		wrong = "501 5.5.4 line too long";
	if (wrong == NULL && (p->mail = arena_put(t->log, bytes(space, line.len))) == UINT32_MAX)
		wrong = "452 4.3.1 out of memory";
	if (wrong != NULL) {
		smtp_end_transaction(t);
		return (smtp_error(t, wrong));
	}
	p->mail_len = (uint32_t)line.len;
	p->rcpts = t->log->len;
	p->open = 1;
	p->txn++;
	p->command = CMD_MAIL;
	return (ACT_PENDING);
}

static const char *
rcpt_params(struct turn *t, struct bytes rest, struct out *o)
{
	struct pst *p = P(t);
	uint32_t caps = p->helo == HELO_EHLO ? smtp_offer(t).bits : 0;
	struct bytes key, value, all = rest;
	int r;

	while ((r = smtp_param(&rest, &key, &value)) == 1) {
		if (repeated(all, key))
			return ("501 5.5.4 parameter given twice");
		if ((caps & CAP_DSN) == 0)
			return ("555 5.5.4 unsupported parameter");
		if (bytes_caseeq(key, BYTES("NOTIFY"))) {
			struct bytes list = value, w;
			bool never = false;
			uint32_t n = 0;

			while (list.n > 0) {
				w = bytes_token(&list, ',');
				n++;
				if (bytes_caseeq(w, BYTES("NEVER")))
					never = true;
				else if (!bytes_caseeq(w, BYTES("SUCCESS")) && !bytes_caseeq(w, BYTES("FAILURE")) &&
				    !bytes_caseeq(w, BYTES("DELAY")))
					return ("501 5.5.4 bad NOTIFY");
			}
			if (n == 0 || (never && n > 1))
				return ("501 5.5.4 bad NOTIFY");
		} else if (bytes_caseeq(key, BYTES("ORCPT"))) {
			struct bytes addr = value, type = bytes_token(&addr, ';');

			if (type.n == 0 || addr.n == 0 || value.n > 500 || (!p->utf8 && !smtp_xtext(addr)))
				return ("501 5.5.4 bad ORCPT");
		} else
			return ("555 5.5.4 unsupported parameter");
		p->need |= CAP_DSN;
		out_str(o, " ");
		out_put(o, key);
		out_str(o, "=");
		out_put(o, value);
	}
	return (r == -1 ? "501 5.5.4 bad parameter" : NULL);
}

static enum act
cmd_rcpt(struct turn *t, struct bytes arg)
{
	struct pst *p = P(t);
	uint8_t space[4096];
	struct out line = { space, 0, sizeof(space), false };
	struct bytes path;
	const char *wrong;

	if (!p->open || p->bdat)
		return (smtp_error(t, p->open ? "503 5.5.1 not after BDAT" : "503 5.5.1 need MAIL command"));
	if (!keyword(&arg, "TO") || smtp_path(&arg, &path) == -1 || path.n == 0)
		return (smtp_error(t, "501 5.1.3 syntax: RCPT TO:<address>"));
	p->tried = 1;
	if (p->poisoned)
		return (say(t, "451 4.3.0 mail server lost, try again later"));
	if (p->nrcpt >= t->limits->recipients) {
		/* those that are refused come again by themselves (RFC 5321 section 4.5.3.1.10); a flood is cut */
		if (++p->overshoot > OVERSHOOT_MAX)
			return (smtp_error(t, "452 4.5.3 too many recipients"));
		return (say(t, "452 4.5.3 too many recipients"));
	}
	out_str(&line, "RCPT TO:<");
	out_put(&line, path);
	out_str(&line, ">");
	if ((wrong = rcpt_params(t, arg, &line)) == NULL && !smtp_ascii(path) && !p->utf8)
		wrong = "553 5.6.7 SMTPUTF8 is needed for this address";
	out_str(&line, "\r\n");
	if (wrong == NULL && line.full)
		wrong = "501 5.5.4 line too long";
	if (wrong == NULL && arena_put(t->log, bytes(space, line.len)) == UINT32_MAX)
		wrong = "452 4.3.1 out of memory";
	if (wrong != NULL)
		return (smtp_error(t, wrong));
	p->command = CMD_RCPT;
	return (ACT_PENDING);
}

static enum act
cmd_data(struct turn *t, struct bytes arg)
{
	struct pst *p = P(t);

	(void)arg;
	if (!p->open || p->bdat || p->body == BODY_BINARY)
		return (smtp_error(t, p->open ? "503 5.5.1 use BDAT" : "503 5.5.1 need RCPT command"));
	if (p->poisoned)
		return (say(t, "451 4.3.0 mail server lost, try again later"));
	if (p->nrcpt == 0)
		return (smtp_error(t, p->tried ? "554 5.5.1 no valid recipients" : "503 5.5.1 need RCPT command"));
	p->command = CMD_DATA;
	return (ACT_PENDING);
}

/* --- the table ---------------------------------------------------------------------------------------------------- */

static const struct {
	const char	*name;
	uint8_t		 last;		/* nothing may follow before its answer (RFC 2920 section 3.1) */
	uint8_t		 bare;		/* takes no argument */
	enum act	(*run)(struct turn *, struct bytes);
} commands[] = {
	{ "MAIL", 0, 0, cmd_mail }, { "RCPT", 0, 0, cmd_rcpt }, { "DATA", 1, 1, cmd_data }, { "BDAT", 0, 0, smtp_bdat },
	{ "EHLO", 1, 0, cmd_ehlo }, { "HELO", 1, 0, cmd_helo }, { "AUTH", 0, 0, smtp_auth }, { "RSET", 0, 1, cmd_rset },
	{ "QUIT", 0, 1, cmd_quit }, { "NOOP", 0, 0, cmd_noop }, { "VRFY", 0, 0, cmd_vrfy }, { "HELP", 0, 0, cmd_help },
	{ "EXPN", 0, 0, cmd_not_here }, { "ETRN", 0, 0, cmd_not_here }, { "TURN", 0, 0, cmd_not_here },
	{ "ATRN", 0, 0, cmd_not_here }, { "SEND", 0, 0, cmd_not_here }, { "SOML", 0, 0, cmd_not_here },
	{ "SAML", 0, 0, cmd_not_here }, { "BURL", 0, 0, cmd_not_here }, { "STARTTLS", 0, 1, cmd_starttls },
	{ "XCLIENT", 0, 0, cmd_proxy }, { "XFORWARD", 0, 0, cmd_proxy }, { "PROXY", 0, 0, cmd_proxy },
	{ "GET", 0, 0, cmd_http }, { "POST", 0, 0, cmd_http }, { "PUT", 0, 0, cmd_http }, { "HEAD", 0, 0, cmd_http },
	{ "OPTIONS", 0, 0, cmd_http }, { "CONNECT", 0, 0, cmd_http },
};

static enum act
command(struct turn *t, struct bytes line, bool more)
{
	struct bytes arg, name;

	while (line.n > 0 && line.p[line.n - 1] == ' ')
		line.n--;
	arg = line;
	name = bytes_token(&arg, ' ');
	while (arg.n > 0 && arg.p[0] == ' ')
		arg = bytes_cut(arg, 1);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (!bytes_caseeq(name, bytes_str(commands[i].name)))
			continue;
		if (commands[i].last && more) {
			say(t, "554 5.5.0 protocol synchronization error");
			return (ACT_CLOSE);
		}
		if (commands[i].bare && arg.n > 0)
			return (smtp_error(t, "501 5.5.4 no argument expected"));
		return (commands[i].run(t, arg));
	}
	return (smtp_error(t, "500 5.5.2 unknown command"));
}

static bool
clean(struct bytes line)
{
	for (size_t i = 0; i < line.n; i++)
		if (line.p[i] == '\r' || line.p[i] == '\0')
			return (false);
	return (true);
}

/* The rest of an overlong line costs no memory: it is thrown away as it comes, and was answered before. */
static enum act
swallow(struct turn *t, struct bytes in, size_t *used)
{
	const uint8_t *lf = in.n > 0 ? memchr(in.p, '\n', in.n) : NULL;

	*used = lf != NULL ? (size_t)(lf - in.p) + 1 : in.n;
	P(t)->swallow = lf == NULL;
	return (ACT_MORE);
}

enum act
smtp_client(struct turn *t, struct bytes in, size_t *used, size_t *scanned)
{
	struct pst *p = P(t);
	size_t max;
	const uint8_t *lf;
	struct bytes line;

	if (p->swallow)
		return (swallow(t, in, used));
	if (p->command == CMD_AUTH && p->relay == RELAY_CLIENT)
		return (smtp_relay_answer(t, in, used, scanned));
	if (p->command != CMD_NONE)
		return (smtp_content(t, in, used));
	max = p->sasl != SASL_NONE || bytes_casestart(in, BYTES("AUTH ")) ? AUTH_LINE : t->limits->line;
	lf = in.n > *scanned ? memchr(in.p + *scanned, '\n', in.n - *scanned) : NULL;
	if (lf == NULL && in.n <= max) {
		*scanned = in.n;
		return (ACT_MORE);
	}
	*used = lf != NULL ? (size_t)(lf - in.p) + 1 : in.n;
	if (lf == NULL || *used > max + 1) {
		p->swallow = lf == NULL;
		return (smtp_error(t, smtp_auth_drop(t) ? "500 5.5.6 authentication line too long" : "500 5.5.2 line too long"));
	}
	line = bytes(in.p, *used - 1);
	if (line.n > 0 && line.p[line.n - 1] == '\r')
		line.n--;
	else if (!t->peer->normalize) {		/* what one takes for an end of line another may not (RFC 5321 2.3.8) */
		smtp_auth_drop(t);
		return (smtp_error(t, "500 5.5.2 bare <LF> received, a command ends in <CR><LF>"));
	}
	if (!clean(line)) {
		smtp_auth_drop(t);
		return (smtp_error(t, "500 5.5.2 invalid character"));
	}
	return (p->sasl != SASL_NONE ? smtp_auth_line(t, line) : command(t, line, in.n > *used));
}
