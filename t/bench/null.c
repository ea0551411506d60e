/*
 * null - a backend that costs next to nothing: it says what a server would and keeps nothing
 *
 * IN     null -p pop3|smtp|imap4 -l ADDR:PORT [-s SIZE]
 * OUT    pop3: one message of SIZE octets for every user; smtp: 250 for every message, content discarded
 * HOLDS  one listening socket, an epoll, a connection for each client
 * LOSES  when it dies: the sessions, nothing else; SIGTERM and SIGINT end it with status 0
 *
 * 1. Every answer depends on the command alone, so that pipelined commands are answered in their order by one write.
 * 2. No more than OUT_HIGH octets wait for a client that does not read, for then its commands are not read either.
 *
 *	COMMAND --DATA--> CONTENT --CRLF.CRLF--> COMMAND
 *	COMMAND --BDAT n--> CHUNK --n octets--> COMMAND
 *	COMMAND --AUTH--> SECRET --as many lines as the mechanism has--> COMMAND
 *	COMMAND --QUIT--> LEAVING --all written--> closed
 */
#include <sys/epoll.h>
#include <sys/socket.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

enum { IN_SIZE = 65536, OUT_HIGH = 262144, EVENTS = 256, LINE = 76 };

enum state { COMMAND, CONTENT, CHUNK, SECRET, LEAVING };

struct conn {
	int		 fd;
	enum state	 state;
	uint32_t	 events;	/* what epoll was asked for */
	unsigned int	 secrets;	/* SECRET: lines that are still to come */
	bool		 last;		/* CHUNK: the last one */
	uint64_t	 left;		/* CHUNK: octets that are still to come */
	char		 tag[64];	/* IMAP4: of the command */
	size_t		 in_len;
	size_t		 out_len;
	size_t		 out_done;
	size_t		 out_size;
	char		*out;
	char		 in[IN_SIZE];
};

struct verb {
	const char *name;
	const char *reply;				/* a whole reply, or NULL: */
	void (*deed)(struct conn *c, const char *arg);	/* makes it; arg is lent, without the line's end */
};

struct null {
	const struct verb *verbs;
	const char	*greeting;
	char		*mail;		/* the message, dot-stuffed, its end not included */
	size_t		 size;
	int		 listener;
	int		 ep;
};

static struct null self;

/* --- octets for the client -------------------------------------------------------------------------------------- */

static void
put(struct conn *c, const void *p, size_t n)
{
	if (n > c->out_size - c->out_len) {
		size_t size = c->out_len + n + 4096;
		char *out = realloc(c->out, size);

		if (out == NULL)
			exit(EX_OSERR);
		c->out = out;
		c->out_size = size;
	}
	memcpy(c->out + c->out_len, p, n);
	c->out_len += n;
}

static void
say(struct conn *c, const char *text)
{
	put(c, text, strlen(text));
}

__attribute__((format(printf, 2, 3)))
static void
sayf(struct conn *c, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	say(c, text);
}

/* --- POP3 (RFC 1939, RFC 2449) ---------------------------------------------------------------------------------- */

static void
pop3_list(struct conn *c, const char *arg)
{
	if (arg[0] != '\0')
		sayf(c, "+OK 1 %zu\r\n", self.size);
	else
		sayf(c, "+OK\r\n1 %zu\r\n.\r\n", self.size);
}

static void
pop3_uidl(struct conn *c, const char *arg)
{
	say(c, arg[0] != '\0' ? "+OK 1 null1\r\n" : "+OK\r\n1 null1\r\n.\r\n");
}

static void
pop3_stat(struct conn *c, const char *arg)
{
	(void)arg;
	sayf(c, "+OK 1 %zu\r\n", self.size);
}

static void
pop3_retr(struct conn *c, const char *arg)
{
	(void)arg;
	sayf(c, "+OK %zu octets\r\n", self.size);
	put(c, self.mail, self.size);
	say(c, ".\r\n");
}

static void
quit(struct conn *c, const char *arg)
{
	(void)arg;
	say(c, self.greeting[0] == '+' ? "+OK bye\r\n" : "221 2.0.0 bye\r\n");
	c->state = LEAVING;
}

static void
pop3_auth(struct conn *c, const char *arg)
{
	if (strncasecmp(arg, "PLAIN", 5) != 0) {
		say(c, "-ERR mechanism\r\n");
	} else if (arg[5] == ' ') {
		say(c, "+OK logged in\r\n");
	} else {
		say(c, "+ \r\n");
		c->secrets = 1;
		c->state = SECRET;
	}
}

static const struct verb pop3_verbs[] = {
	{ "USER", "+OK\r\n", NULL },
	{ "PASS", "+OK logged in\r\n", NULL },
	{ "STAT", NULL, pop3_stat },
	{ "LIST", NULL, pop3_list },
	{ "UIDL", NULL, pop3_uidl },
	{ "RETR", NULL, pop3_retr },
	{ "TOP", "+OK\r\nSubject: null\r\n\r\n.\r\n", NULL },
	{ "DELE", "+OK\r\n", NULL },
	{ "RSET", "+OK\r\n", NULL },
	{ "NOOP", "+OK\r\n", NULL },
	{ "QUIT", NULL, quit },
	{ "CAPA", "+OK\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nPIPELINING\r\nUSER\r\nSASL PLAIN\r\n.\r\n", NULL },
	{ "XCLIENT", "+OK\r\n", NULL },
	{ "AUTH", NULL, pop3_auth },
	{ NULL, "-ERR what?\r\n", NULL },
};

/* --- SMTP (RFC 5321, RFC 3030, RFC 4954) ------------------------------------------------------------------------ */

static void
smtp_auth(struct conn *c, const char *arg)
{
	if (strncasecmp(arg, "PLAIN", 5) == 0 && arg[5] == ' ') {
		say(c, "235 2.7.0 authenticated\r\n");
		return;
	}
	if (strncasecmp(arg, "PLAIN", 5) != 0 && strncasecmp(arg, "LOGIN", 5) != 0) {
		say(c, "504 5.5.4 mechanism\r\n");
		return;
	}
	c->secrets = strncasecmp(arg, "LOGIN", 5) == 0 && arg[5] == '\0' ? 2 : 1;
	say(c, c->secrets == 2 ? "334 VXNlcm5hbWU6\r\n" : "334 \r\n");
	c->state = SECRET;
}

static void
smtp_data(struct conn *c, const char *arg)
{
	(void)arg;
	say(c, "354 go on\r\n");
	c->state = CONTENT;
}

static void
smtp_bdat(struct conn *c, const char *arg)
{
	char *end;

	errno = 0;
	c->left = strtoull(arg, &end, 10);
	if (end == arg || errno != 0) {
		say(c, "501 5.5.4 size\r\n");
		return;
	}
	c->last = strncasecmp(end, " LAST", 5) == 0;
	c->state = CHUNK;
}

static const struct verb smtp_verbs[] = {
	{ "MAIL", "250 2.1.0 ok\r\n", NULL },
	{ "RCPT", "250 2.1.5 ok\r\n", NULL },
	{ "DATA", NULL, smtp_data },
	{ "BDAT", NULL, smtp_bdat },
	{ "RSET", "250 2.0.0 ok\r\n", NULL },
	{ "NOOP", "250 2.0.0 ok\r\n", NULL },
	{ "QUIT", NULL, quit },
	{ "EHLO", "250-null.test\r\n250-PIPELINING\r\n250-SIZE 1073741824\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n"
	    "250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-AUTH PLAIN LOGIN\r\n"
	    "250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN\r\n", NULL },
	{ "HELO", "250 null.test\r\n", NULL },
	{ "XCLIENT", "220 null.test ESMTP\r\n", NULL },
	{ "AUTH", NULL, smtp_auth },
	{ NULL, "500 5.5.2 what?\r\n", NULL },
};

/* --- IMAP4 (RFC 3501) --------------------------------------------------------------------------------------------- */

#define IMAP_CAPS "CAPABILITY IMAP4rev1 SASL-IR ID ENABLE IDLE LITERAL+ AUTH=PLAIN UIDPLUS ESEARCH UNSELECT NAMESPACE"

/* Before the tagged line, which is always OK. */
static void
imap4_untagged(struct conn *c, const char *tag, const char *cmd)
{
	if (strncasecmp(cmd, "SELECT", 6) == 0 || strncasecmp(cmd, "EXAMINE", 7) == 0)
		say(c, "* FLAGS (\\Seen)\r\n* 1 EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 1] v\r\n* OK [UIDNEXT 2] n\r\n");
	else if (strncasecmp(cmd, "FETCH", 5) == 0) {
		sayf(c, "* 1 FETCH (BODY[] {%zu}\r\n", self.size);
		put(c, self.mail, self.size);
		say(c, ")\r\n");
	} else if (strncasecmp(cmd, "UID SEARCH", 10) == 0)
		sayf(c, "* ESEARCH (TAG \"%s\") UID ALL 1\r\n", tag);
	else if (strncasecmp(cmd, "CAPABILITY", 10) == 0)
		say(c, "* " IMAP_CAPS "\r\n");
	else if (strncasecmp(cmd, "LOGOUT", 6) == 0) {
		say(c, "* BYE\r\n");
		c->state = LEAVING;
	}
}

static void
imap4_end(struct conn *c, const char *cmd)
{
	bool login = strncasecmp(cmd, "LOGIN", 5) == 0 || strncasecmp(cmd, "AUTHENTICATE", 12) == 0;

	sayf(c, "%s OK %sdone\r\n", c->tag, login ? "[" IMAP_CAPS "] " : "");
}

/* A command, or what follows a literal of LOGIN, whose octets are a line's beginning here. */
static void
imap4_line(struct conn *c, char *line)
{
	size_t n = strlen(line), t = strcspn(line, " ");
	bool more = n > 0 && line[n - 1] == '}';

	if (c->state == COMMAND) {
		snprintf(c->tag, sizeof(c->tag), "%.*s", (int)t, line);
		line += line[t] == ' ' ? t + 1 : t;
		if (!more)
			imap4_untagged(c, c->tag, line);
	} else
		line = "LOGIN";
	if (c->state != LEAVING)
		c->state = more ? SECRET : COMMAND;
	if (more)
		say(c, "+ OK\r\n");
	else
		imap4_end(c, line);
}

/* --- octets from the client ------------------------------------------------------------------------------------- */

static void
secret(struct conn *c)
{
	if (--c->secrets > 0) {
		say(c, "334 UGFzc3dvcmQ6\r\n");
		return;
	}
	say(c, self.greeting[0] == '+' ? "+OK logged in\r\n" : "235 2.7.0 authenticated\r\n");
	c->state = COMMAND;
}

static void
command(struct conn *c, char *line)
{
	size_t n = strcspn(line, " ");
	const struct verb *v;
	const char *arg = line[n] == ' ' ? line + n + 1 : line + n;

	for (v = self.verbs; v->name != NULL; v++)
		if (strlen(v->name) == n && strncasecmp(v->name, line, n) == 0)
			break;
	if (v->reply != NULL)
		say(c, v->reply);
	else
		v->deed(c, arg);
}

/* Octets of in[at..] that a line takes, 0: no whole line is there. DATA leaves its CRLF, for a dot may follow it. */
static size_t
take_line(struct conn *c, size_t at)
{
	char *line = c->in + at, *lf = memchr(line, '\n', c->in_len - at);

	if (lf == NULL)
		return (0);
	*lf = '\0';
	if (lf > line && lf[-1] == '\r')
		lf[-1] = '\0';
	if (self.verbs == NULL)
		imap4_line(c, line);
	else if (c->state == SECRET)
		secret(c);
	else
		command(c, line);
	if (c->state != CONTENT)
		return ((size_t)(lf - line) + 1);
	lf[0] = '\n';
	lf[-1] = '\r';
	return ((size_t)(lf - line) - 1);
}

/* Discards content; the last four octets stay, since the end may have begun in them (RFC 5321 section 4.1.1.4). */
static size_t
take_content(struct conn *c, size_t at)
{
	const char *p = c->in + at, *end = memmem(p, c->in_len - at, "\r\n.\r\n", 5);

	if (end != NULL) {
		say(c, "250 2.0.0 ok\r\n");
		c->state = COMMAND;
		return ((size_t)(end - p) + 5);
	}
	return (c->in_len - at > 4 ? c->in_len - at - 4 : 0);
}

static size_t
take_chunk(struct conn *c, size_t at)
{
	size_t n = c->in_len - at < c->left ? c->in_len - at : c->left;

	c->left -= n;
	if (c->left == 0) {
		say(c, c->last ? "250 2.0.0 ok\r\n" : "250 2.0.0 go on\r\n");
		c->state = COMMAND;
	}
	return (n);
}

/* True: it stopped because enough waits for the client. */
static bool
take(struct conn *c)
{
	size_t at = 0, n;
	enum state was;
	bool full = false;

	while (c->state != LEAVING && !(full = c->out_len - c->out_done > OUT_HIGH)) {
		was = c->state;
		if (was == CONTENT)
			n = take_content(c, at);
		else if (was == CHUNK)
			n = take_chunk(c, at);
		else
			n = take_line(c, at);
		at += n;
		if (n == 0 && c->state == was)
			break;
	}
	c->in_len -= at;
	if (at > 0)
		memmove(c->in, c->in + at, c->in_len);
	return (full);
}

/* --- connections ------------------------------------------------------------------------------------------------ */

static void
conn_free(struct conn *c)
{
	close(c->fd);
	free(c->out);
	free(c);
}

/* 0, or -1: the client is gone. */
static int
flush(struct conn *c)
{
	ssize_t n;

	while (c->out_done < c->out_len) {
		n = send(c->fd, c->out + c->out_done, c->out_len - c->out_done, MSG_NOSIGNAL);
		if (n == -1 && errno == EAGAIN)
			return (0);
		if (n == -1)
			return (-1);
		c->out_done += (size_t)n;
	}
	c->out_done = c->out_len = 0;
	return (0);
}

static int
want(struct conn *c)
{
	size_t waits = c->out_len - c->out_done;
	struct epoll_event e = { .data.ptr = c };

	e.events = (waits <= OUT_HIGH ? EPOLLIN : 0U) | (waits > 0 ? EPOLLOUT : 0U);
	if (e.events == c->events)
		return (0);
	c->events = e.events;
	return (epoll_ctl(self.ep, EPOLL_CTL_MOD, c->fd, &e));
}

static void
on_conn(struct conn *c, uint32_t events)
{
	ssize_t n;
	bool full;

	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		n = recv(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len, 0);
		if (n == 0 || (n == -1 && errno != EAGAIN)) {
			conn_free(c);
			return;
		}
		c->in_len += n > 0 ? (size_t)n : 0;
	}
	do {
		full = take(c);
		if (flush(c) == -1) {
			conn_free(c);
			return;
		}
	} while (full && c->out_len == 0);
	/* a full buffer of which nothing can be taken is a line without an end */
	if ((c->state == LEAVING && c->out_len == 0) || (!full && c->in_len == sizeof(c->in)) || want(c) == -1)
		conn_free(c);
}

static void
on_listener(void)
{
	static const int on = 1;
	struct conn *c;
	struct epoll_event e = { .events = EPOLLIN };
	int fd;

	while ((fd = accept4(self.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) != -1) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		if ((c = malloc(sizeof(*c))) == NULL)
			exit(EX_OSERR);
		memset(c, 0, offsetof(struct conn, in));
		c->fd = fd;
		c->events = EPOLLIN;
		e.data.ptr = c;
		say(c, self.greeting);
		if (flush(c) == -1 || epoll_ctl(self.ep, EPOLL_CTL_ADD, fd, &e) == -1)
			conn_free(c);
	}
}

/* --- the start -------------------------------------------------------------------------------------------------- */

_Noreturn static void
fatal(int code, const char *what)
{
	fprintf(stderr, "null: %s: %s\n", what, code == EX_USAGE ? "see the first lines of null.c" : strerror(errno));
	exit(code);
}

/* SIZE octets that end with CRLF, in lines of which none begins with a dot. */
static void
make_mail(size_t size)
{
	static const char head[] = "Subject: null\r\n\r\n";
	size_t n = size > sizeof(head) + LINE ? sizeof(head) - 1 : 0, line;

	if ((self.mail = malloc(size)) == NULL)
		fatal(EX_OSERR, "message");
	self.size = size;
	memset(self.mail, 'x', size);
	memcpy(self.mail, head, n);
	while (n < size) {
		line = size - n > LINE + 3 ? LINE + 2 : size - n;
		memcpy(self.mail + n + line - 2, "\r\n", 2);
		n += line;
	}
}

static void
listen_at(char *address)
{
	static const int on = 1;
	struct sockaddr_in sin = { .sin_family = AF_INET };
	char *colon = strrchr(address, ':');
	long port = colon != NULL ? strtol(colon + 1, NULL, 10) : 0;
	struct epoll_event e = { .events = EPOLLIN };

	if (port < 1 || port > 65535)
		fatal(EX_USAGE, address);
	*colon = '\0';
	sin.sin_port = htons((uint16_t)port);
	if (inet_pton(AF_INET, address, &sin.sin_addr) != 1)
		fatal(EX_USAGE, address);
	self.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(self.listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(self.listener, (struct sockaddr *)&sin, sizeof(sin)) == -1 || listen(self.listener, 4096) == -1)
		fatal(EX_UNAVAILABLE, address);
	if ((self.ep = epoll_create1(EPOLL_CLOEXEC)) == -1 ||
	    epoll_ctl(self.ep, EPOLL_CTL_ADD, self.listener, &e) == -1)
		fatal(EX_OSERR, "epoll");
}

static void
on_signal(int sig)
{
	(void)sig;
	_exit(0);
}

static void
options(int argc, char **argv)
{
	char *protocol = NULL, *address = NULL;
	long long size = 1024;
	int ch;

	while ((ch = getopt(argc, argv, "p:l:s:")) != -1)
		switch (ch) {
		case 'p':
			protocol = optarg;
			break;
		case 'l':
			address = optarg;
			break;
		case 's':
			size = strtoll(optarg, NULL, 10);
			break;
		default:
			fatal(EX_USAGE, "option");
		}
	if (protocol == NULL || address == NULL || optind != argc || size < 2 || size > 1 << 30)
		fatal(EX_USAGE, "options");
	self.verbs = strcmp(protocol, "pop3") == 0 ? pop3_verbs : strcmp(protocol, "imap4") == 0 ? NULL : smtp_verbs;
	/* the word in brackets is how Dovecot says that it believes this peer */
	self.greeting = self.verbs == NULL ? "* OK [" IMAP_CAPS "] null\r\n" : self.verbs == pop3_verbs ? "+OK [XCLIENT] null ready\r\n" : "220 null.test ESMTP\r\n";
	if (self.verbs == smtp_verbs && strcmp(protocol, "smtp") != 0)
		fatal(EX_USAGE, protocol);
	make_mail((size_t)size);
	listen_at(address);
}

int
main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_signal };
	struct epoll_event e[EVENTS];
	int n;

	options(argc, argv);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	for (;;) {
		n = epoll_wait(self.ep, e, EVENTS, -1);
		for (int i = 0; i < n; i++)
			if (e[i].data.ptr == NULL)
				on_listener();
			else
				on_conn(e[i].data.ptr, e[i].events);
	}
}
