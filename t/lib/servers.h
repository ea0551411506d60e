/* servers - what a plain backend would answer to what a behaviour said; for rig.h */
#ifndef T_LIB_SERVERS_H
#define T_LIB_SERVERS_H

#include "t/lib/rig.h"

struct server { size_t at; bool content; uint64_t chunk; uint32_t connect; uint8_t last[5]; };

/* Feeds replies to all of r->bout from s->at on. */
static inline void
server_say(struct rig *r, const char *s)
{
	(void)rig_put(&r->bin, s, strlen(s));
}

static inline bool
server_line(struct rig *r, struct server *s, struct bytes *line)
{
	const uint8_t *lf = r->bout.n > s->at ? memchr(r->bout.p + s->at, '\n', r->bout.n - s->at) : NULL;

	if (lf == NULL)
		return (false);
	*line = bytes(r->bout.p + s->at, (size_t)(lf - r->bout.p) - s->at);
	s->at += line->n + 1;
	if (line->n > 0 && line->p[line->n - 1] == '\r')
		line->n--;
	return (true);
}

static inline void
server_connect(struct rig *r, struct server *s, const char *greeting)
{
	if (s->connect == r->connects)
		return;
	*s = (struct server){ .at = r->bout.n, .connect = r->connects };
	server_say(r, greeting);
}

static inline void
smtp_command(struct rig *r, struct server *s, struct bytes line)
{
	uint64_t n;

	if (bytes_casestart(line, BYTES("EHLO")))
		server_say(r, "250-mx\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-CHUNKING\r\n"
		    "250-BINARYMIME\r\n250-AUTH PLAIN LOGIN XOAUTH2\r\n250-XCLIENT NAME ADDR PORT PROTO HELO\r\n250 ENHANCEDSTATUSCODES\r\n");
	else if (bytes_casestart(line, BYTES("DATA"))) {
		server_say(r, "354 go\r\n");
		s->content = true;
		memcpy(s->last, "   \r\n", 5);
	} else if (bytes_casestart(line, BYTES("BDAT "))) {
		struct bytes rest = bytes_cut(line, 5), num = bytes_token(&rest, ' ');

		if (bytes_num(num, 0, UINT64_MAX / 2, &n) == 0)
			s->chunk = n;
		server_say(r, s->chunk == 0 ? "250 2.0.0 queued\r\n" : "");
	} else
		server_say(r, bytes_casestart(line, BYTES("XCLIENT")) ? "220 mx\r\n" : bytes_casestart(line, BYTES("AUTH")) ?
		    "235 2.7.0 in\r\n" : bytes_casestart(line, BYTES("QUIT")) ? "221 2.0.0 bye\r\n" :
		    bytes_casestart(line, BYTES("RCPT TO:<no")) ? "550 5.1.1 no\r\n" :
		    bytes_casestart(line, BYTES("RCPT TO:<grey@")) ? "450 4.2.0 later\r\n" :
		    bytes_casestart(line, BYTES("RCPT TO:<full@")) ? "452 4.5.3 too many\r\n" :
		    bytes_casestart(line, BYTES("RCPT TO:<confused@")) ? "354 go\r\n" : "250 2.1.0 ok\r\n");
}

static inline void
smtp_server(struct rig *r, struct server *s)
{
	struct bytes line;

	server_connect(r, s, "220 mx\r\n");
	for (;;) {
		if (s->chunk > 0) {
			uint64_t n = r->bout.n - s->at < s->chunk ? r->bout.n - s->at : s->chunk;

			s->at += n;
			if ((s->chunk -= n) > 0)
				return;
			server_say(r, "250 2.0.0 chunk\r\n");
		} else if (s->content) {
			if (s->at == r->bout.n)
				return;
			memmove(s->last, s->last + 1, 4);
			s->last[4] = r->bout.p[s->at++];
			if (memcmp(s->last, "\r\n.\r\n", 5) == 0) {
				s->content = false;
				server_say(r, "250 2.0.0 queued\r\n");
			}
		} else if (server_line(r, s, &line))
			smtp_command(r, s, line);
		else
			return;
	}
}

static inline void
pop3_server(struct rig *r, struct server *s)
{
	struct bytes line;

	server_connect(r, s, "+OK [XCLIENT] pop\r\n");
	while (server_line(r, s, &line)) {
		if (bytes_casestart(line, BYTES("CAPA")))
			server_say(r, "+OK\r\nTOP\r\nUIDL\r\nPIPELINING\r\nUSER\r\nSASL PLAIN\r\n.\r\n");
		else if (bytes_casestart(line, BYTES("LIST")))
			server_say(r, "+OK\r\n1 40\r\n2 30\r\n3 20\r\n.\r\n");
		else if (bytes_casestart(line, BYTES("UIDL")))
			server_say(r, "+OK\r\n1 aaa\r\n2 bbb\r\n3 ccc\r\n.\r\n");
		else if (bytes_casestart(line, BYTES("RETR")) || bytes_casestart(line, BYTES("TOP")))
			server_say(r, "+OK\r\nSubject: x\r\n\r\n..dots\r\n...\r\nmore\r\n.\r\n");
		else
			server_say(r, bytes_casestart(line, BYTES("PASS wrong")) ? "-ERR [AUTH] no\r\n" : "+OK\r\n");
	}
}

/* A mailbox of five messages of which no command changes anything; literals of the client are asked for. */
static inline void
imap4_reply(struct rig *r, struct bytes tag, struct bytes cmd, struct bytes args)
{
	char text[2048];
	size_t n = tag.n < 300 ? tag.n : 300;
	bool good = true;

	if (bytes_caseeq(cmd, BYTES("UID")))
		cmd = bytes_token(&args, ' ');
	if (bytes_caseeq(cmd, BYTES("LOGIN")) || bytes_caseeq(cmd, BYTES("AUTHENTICATE")))
		good = memmem(args.p, args.n, "wrong", 5) == NULL;
	else if (bytes_caseeq(cmd, BYTES("CAPABILITY")))
		server_say(r, "* CAPABILITY IMAP4rev1 ENABLE IDLE NAMESPACE UNSELECT UIDPLUS MOVE MULTIAPPEND CONDSTORE QRESYNC ESEARCH SEARCHRES ID\r\n");
	else if (bytes_caseeq(cmd, BYTES("SELECT")) || bytes_caseeq(cmd, BYTES("EXAMINE")))
		server_say(r, "* FLAGS (\\Seen \\Deleted)\r\n* 5 EXISTS\r\n* 1 RECENT\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 20] n\r\n"
		    "* OK [HIGHESTMODSEQ 30] h\r\n");
	else if (bytes_caseeq(cmd, BYTES("SEARCH")) && memmem(args.p, args.n, "RETURN", 6) != NULL) {
		snprintf(text, sizeof(text), "* ESEARCH (TAG \"%.*s\") UID ALL %s\r\n", (int)n, (const char *)tag.p,
		    memmem(args.p, args.n, "RECENT", 6) != NULL ? "19" : "3:5,9,19");
		server_say(r, text);
	} else if (bytes_caseeq(cmd, BYTES("SEARCH")))
		server_say(r, "* SEARCH 1 2 5\r\n");
	else if (bytes_caseeq(cmd, BYTES("FETCH")))
		server_say(r, "* 2 FETCH (UID 4 FLAGS (\\Seen))\r\n* 3 FETCH (UID 5 RFC822.SIZE 11 BODY[] {11}\r\nab: c\r\n\r\nd)\r\n)\r\n");
	else if (bytes_caseeq(cmd, BYTES("STATUS")))
		server_say(r, "* STATUS x (UIDVALIDITY 7 UIDNEXT 20 MESSAGES 5)\r\n");
	else if (bytes_caseeq(cmd, BYTES("LIST")))
		server_say(r, "* LIST () \"/\" INBOX\r\n* LIST () \"/\" {3}\r\na b\r\n");
	else if (bytes_caseeq(cmd, BYTES("ENABLE")))
		server_say(r, "* ENABLED CONDSTORE\r\n");
	else if (bytes_caseeq(cmd, BYTES("LOGOUT")))
		server_say(r, "* BYE\r\n");
	snprintf(text, sizeof(text), "%.*s %s done\r\n", (int)n, (const char *)tag.p, good ? "OK" : "NO [AUTHENTICATIONFAILED]");
	server_say(r, text);
}

/* s->chunk: octets of a literal still to come; the command's first line is kept in last[] no further than its kind. */
static inline void
imap4_server(struct rig *r, struct server *s)
{
	static char first[4096];
	static size_t nfirst;
	struct bytes line;

	if (s->connect != r->connects)
		nfirst = 0;
	server_connect(r, s, "* OK [CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID ENABLE] imap\r\n");
	for (;;) {
		if (s->chunk > 0) {
			uint64_t n = r->bout.n - s->at < s->chunk ? r->bout.n - s->at : s->chunk;

			s->at += n;
			if ((s->chunk -= n) > 0)
				return;
		}
		if (!server_line(r, s, &line))
			return;
		if (nfirst == 0) {
			nfirst = line.n < sizeof(first) ? line.n : sizeof(first);
			memcpy(first, line.p, nfirst);
		}
		if (line.n > 2 && line.p[line.n - 1] == '}') {
			const uint8_t *open = memrchr(line.p, '{', line.n);
			size_t digits = open == NULL ? 0 : line.n - 2 - (size_t)(open - line.p);
			bool plus = digits > 0 && line.p[line.n - 2] == '+';

			if (open != NULL && bytes_num(bytes(open + 1, digits - plus), 0, 1 << 30, &s->chunk) == 0) {
				if (!plus)
					server_say(r, "+ go\r\n");
				continue;
			}
		}
		line = bytes(first, nfirst);
		if (bytes_eq(line, BYTES("DONE"))) {
			server_say(r, "* 5 EXISTS\r\n");
			line = bytes(r->bout.p, 0);
		}
		if (line.n > 0) {
			struct bytes tag = bytes_token(&line, ' '), cmd = bytes_token(&line, ' ');

			if (bytes_caseeq(cmd, BYTES("IDLE"))) {
				server_say(r, "+ idling\r\n");
				memcpy(s->last, tag.p, tag.n < 5 ? tag.n : 5);
				s->content = tag.n < 6;
				s->last[4] = (uint8_t)(tag.n < 5 ? tag.n : 0);
			} else
				imap4_reply(r, tag, cmd, line);
		} else if (s->content) {
			imap4_reply(r, bytes(s->last, s->last[4]), BYTES("DONE"), bytes("", 0));
			s->content = false;
		}
		nfirst = 0;
	}
}

#endif
