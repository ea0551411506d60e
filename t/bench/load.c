/*
 * load - many clients of one address in one process: whole sessions in lock-step, or sessions that stand idle
 *
 * IN     load -p pop3|smtp|imap4 -t ADDR:PORT -c CONCURRENCY -n SESSIONS [-r SESSIONS-PER-SECOND] [-s OCTETS-OF-MESSAGE]
 *        load -p pop3|smtp -t ADDR:PORT -c SESSIONS -H SECONDS
 * OUT    "sessions N errors N seconds S.SSS bytes N": whole sessions, broken ones, octets of messages carried;
 *        with -H "standing" when all have come as far as STAT, EHLO or SELECT; the first faults go to stderr
 * HOLDS  an epoll and a table of sessions, each with a socket
 * LOSES  when it dies: its sessions. SIGTERM: no more sessions are begun, those that stand say QUIT
 *
 * 1. A session is whole when each reply was the one expected, the message as long as STAT said, and the peer closed
 *    after QUIT; anything else, also an octet too many or SILENCE without one, makes it broken.
 * 2. A session sends nothing before the reply to what it sent last is complete.
 *
 *	FREE --begin--> TALKS --reply--> TALKS ... --STAT or EHLO, with -H--> STANDS --told--> TALKS --closed--> FREE
 */
#include <sys/epoll.h>
#include <sys/socket.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

enum { IN_SIZE = 16384, EVENTS = 256, LINE = 76, SILENCE = 60, FAULTS_TOLD = 5 };

enum state { FREE, TALKS, STANDS };

/* What ends a reply, and what it must begin with. */
enum kind { ONE_LINE, DROP, BODY, LINES, TAGGED, FETCHED, CLOSED };

struct step {
	const char *send;	/* NULL: nothing, or the content */
	const char *reply;
	enum kind kind;
	bool content;		/* the message is sent in this step */
};

struct session {
	int		 fd;
	enum state	 state;
	uint32_t	 step;
	bool		 in_body;
	bool		 wants_out;
	uint64_t	 size;		/* of the message, as STAT has it */
	uint64_t	 got;		/* of it */
	double		 heard;		/* when anything moved */
	const char	*out;		/* lent by the script or the message */
	size_t		 out_len;
	size_t		 in_len;
	char		 in[IN_SIZE];
};

struct load {
	const struct step *script;
	uint32_t	 stand_at;	/* the step after which a session stands */
	uint32_t	 quit;		/* the step that says QUIT */
	bool		 stands;
	double		 hold;
	uint64_t	 slots, n, rate;
	struct sockaddr_in to;
	char		*message;
	size_t		 message_len;
	uint64_t	 begun, whole, broken, standing, active, octets;
	struct session	*session;
	int		 ep;
};

static struct load self;
static volatile sig_atomic_t told;	/* SIGTERM came */

static const struct step pop3_script[] = {
	{ NULL, "+OK", ONE_LINE, false },
	{ "USER load\r\n", "+OK", ONE_LINE, false },
	{ "PASS load\r\n", "+OK", ONE_LINE, false },
	{ "STAT\r\n", "+OK 1 ", DROP, false },
	{ "RETR 1\r\n", "+OK", BODY, false },
	{ "QUIT\r\n", "+OK", ONE_LINE, false },
	{ NULL, NULL, CLOSED, false },
};

static const struct step smtp_script[] = {
	{ NULL, "220", LINES, false },
	{ "EHLO load.test\r\n", "250", LINES, false },
	{ "MAIL FROM:<load@load.test>\r\n", "250", LINES, false },
	{ "RCPT TO:<null@null.test>\r\n", "250", LINES, false },
	{ "DATA\r\n", "354", LINES, false },
	{ NULL, "250", LINES, true },
	{ "QUIT\r\n", "221", LINES, false },
	{ NULL, NULL, CLOSED, false },
};

static const struct step imap4_script[] = {
	{ NULL, "* OK", ONE_LINE, false },
	{ "a LOGIN load load\r\n", "a OK", TAGGED, false },
	{ "b SELECT INBOX\r\n", "b OK", TAGGED, false },
	{ "c FETCH 1 BODY.PEEK[]\r\n", "c OK", FETCHED, false },
	{ "d LOGOUT\r\n", "d OK", TAGGED, false },
	{ NULL, NULL, CLOSED, false },
};

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return ((double)t.tv_sec + (double)t.tv_nsec / 1e9);
}

_Noreturn static void
fatal(int code, const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, code == EX_USAGE ? "see the first lines of load.c" : strerror(errno));
	exit(code);
}

/* --- the end of a session --------------------------------------------------------------------------------------- */

static void
end(struct session *s)
{
	close(s->fd);
	s->fd = -1;
	if (s->state == STANDS)
		self.standing--;
	s->state = FREE;
	self.active--;
}

static void
broken(struct session *s, const char *why)
{
	const char *sent = self.script[s->step].send;

	if (self.broken++ < FAULTS_TOLD)
		fprintf(stderr, "load: after %.*s: %s: %.*s\n", sent != NULL ? (int)strcspn(sent, "\r") : 8,
		    sent != NULL ? sent : self.script[s->step].content ? "content" : "connect", why,
		    (int)(s->in_len < 200 ? s->in_len : 200), s->in);
	end(s);
}

/* --- octets to the peer ----------------------------------------------------------------------------------------- */

/* Sends what can be sent. False: the session is over. */
static bool
push(struct session *s)
{
	struct epoll_event e = { .data.ptr = s };
	ssize_t n;

	while (s->out_len > 0) {
		n = send(s->fd, s->out, s->out_len, MSG_NOSIGNAL);
		if (n == -1 && errno != EAGAIN) {
			broken(s, strerror(errno));
			return (false);
		}
		if (n == -1)
			break;
		s->out += n;
		s->out_len -= (size_t)n;
	}
	if ((s->out_len > 0) == s->wants_out)
		return (true);
	s->wants_out = s->out_len > 0;
	e.events = EPOLLIN | (s->wants_out ? EPOLLOUT : 0U);
	if (epoll_ctl(self.ep, EPOLL_CTL_MOD, s->fd, &e) == -1)
		fatal(EX_OSERR, "epoll");
	return (true);
}

static bool
enter(struct session *s, uint32_t step)
{
	const struct step *p = &self.script[step];

	s->step = step;
	s->out = p->content ? self.message : p->send;
	s->out_len = p->content ? self.message_len : p->send != NULL ? strlen(p->send) : 0;
	return (push(s));
}

/* The reply to this step was complete. */
static bool
next(struct session *s)
{
	if (self.script[s->step].content)
		self.octets += self.message_len - 3;
	if (self.stands && s->step == self.stand_at) {
		s->state = STANDS;
		self.standing++;
		return (true);
	}
	return (enter(s, s->step + 1));
}

/* --- octets from the peer --------------------------------------------------------------------------------------- */

/* The next whole line, its length with its end; 0: none is there yet. */
static size_t
whole_line(const struct session *s, size_t at)
{
	const char *lf = memchr(s->in + at, '\n', s->in_len - at);

	return (lf == NULL ? 0 : (size_t)(lf - s->in) - at + 1);
}

static void
drop(struct session *s, size_t n)
{
	s->in_len -= n;
	memmove(s->in, s->in + n, s->in_len);
}

/* Counts a body and drops it. Its end is looked for from the CRLF of the status line on, which therefore stays. */
static bool
body(struct session *s)
{
	const char *dot = memmem(s->in, s->in_len, "\r\n.\r\n", 5);
	size_t n = dot != NULL ? (size_t)(dot - s->in) : s->in_len > 4 ? s->in_len - 4 : 0;

	s->got += n;
	if (dot == NULL) {
		drop(s, n);
		return (true);
	}
	drop(s, n + 5);
	s->in_body = false;
	if (s->got != s->size) {
		broken(s, "a body of another length than STAT has");
		return (false);
	}
	self.octets += s->got;
	return (next(s));
}

/* A line of an IMAP reply, which ends with the tag's; the message's lines begin with none. */
static bool
tagged(struct session *s, size_t n)
{
	const struct step *p = &self.script[s->step];
	size_t len = strlen(p->reply);
	bool end = n >= len && memcmp(s->in, p->reply, len) == 0;

	if (!end && n > 2 && memcmp(s->in, p->reply, 2) == 0) {
		broken(s, "not the reply expected");
		return (false);
	}
	s->got += n;
	drop(s, n);
	if (!end)
		return (true);
	if (p->kind == FETCHED && s->got < self.message_len) {
		broken(s, "a message that is too short");
		return (false);
	}
	self.octets += p->kind == FETCHED ? self.message_len : 0;
	s->got = 0;
	return (next(s));
}

/* A whole line of the reply to the step. */
static bool
line(struct session *s, size_t n)
{
	const struct step *p = &self.script[s->step];
	size_t len = strlen(p->reply);
	bool more;

	if (p->kind == TAGGED || p->kind == FETCHED)
		return (tagged(s, n));
	if (n < len + 2 || memcmp(s->in, p->reply, len) != 0 || s->in[n - 2] != '\r') {
		broken(s, "not the reply expected");
		return (false);
	}
	if (p->kind == DROP)
		s->size = strtoull(s->in + len, NULL, 10);
	if (p->kind == BODY) {
		drop(s, n - 2);
		s->in_body = true;
		s->got = 0;
		return (true);
	}
	more = p->kind == LINES && s->in[len] == '-';
	drop(s, n);
	return (more ? true : next(s));
}

static void
take(struct session *s)
{
	size_t n;

	while (s->in_len > 0 && s->state == TALKS) {
		if (self.script[s->step].kind == CLOSED || s->out_len > 0) {
			broken(s, "an octet that nobody asked for");
			return;
		}
		if (s->in_body) {
			n = s->in_len;
			if (!body(s))
				return;
			if (s->in_body || n == s->in_len)
				return;
			continue;
		}
		if ((n = whole_line(s, 0)) == 0)
			return;
		if (!line(s, n))
			return;
	}
	if (s->in_len > 0 && s->state == STANDS)
		broken(s, "an octet that nobody asked for");
}

static void
on_event(struct session *s, uint32_t events)
{
	ssize_t n;

	if (s->state == FREE)
		return;
	s->heard = now();
	if ((events & EPOLLOUT) != 0 && !push(s))
		return;
	if ((events & ~(uint32_t)EPOLLOUT) == 0)
		return;
	n = recv(s->fd, s->in + s->in_len, sizeof(s->in) - s->in_len, 0);
	if (n == -1 && errno == EAGAIN)
		return;
	if (n > 0) {
		s->in_len += (size_t)n;
		take(s);
	} else if (self.script[s->step].kind == CLOSED && s->state == TALKS) {
		self.whole++;
		end(s);
	} else
		broken(s, n == -1 ? strerror(errno) : "closed");
}

/* --- the beginning of a session --------------------------------------------------------------------------------- */

static void
begin(struct session *s)
{
	static const int on = 1;
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = s };

	memset(s, 0, offsetof(struct session, in));
	self.begun++;
	self.active++;
	s->state = TALKS;
	s->heard = now();
	if ((s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) == -1)
		fatal(EX_OSERR, "socket");
	setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(s->fd, (struct sockaddr *)&self.to, sizeof(self.to)) == -1 && errno != EINPROGRESS)
		broken(s, strerror(errno));
	else if (epoll_ctl(self.ep, EPOLL_CTL_ADD, s->fd, &e) == -1)
		fatal(EX_OSERR, "epoll");
}

/* How many may have begun by now. */
static uint64_t
due(double since)
{
	uint64_t by_rate;

	if (told)
		return (self.begun);
	if (self.rate == 0)
		return (self.n);
	by_rate = (uint64_t)((now() - since) * (double)self.rate) + 1;
	return (by_rate < self.n ? by_rate : self.n);
}

static void
begin_due(double since)
{
	uint64_t may = due(since);

	for (uint64_t i = 0; i < self.slots && self.begun < may; i++)
		if (self.session[i].state == FREE)
			begin(&self.session[i]);
}

static void
sweep(void)
{
	double t = now();

	for (uint64_t i = 0; i < self.slots; i++)
		if (self.session[i].state == TALKS && t - self.session[i].heard > SILENCE)
			broken(&self.session[i], "silence");
}

static void
leave(void)
{
	for (uint64_t i = 0; i < self.slots; i++)
		if (self.session[i].state == STANDS) {
			self.session[i].state = TALKS;
			self.session[i].heard = now();
			self.standing--;
			(void)enter(&self.session[i], self.quit);
		}
}

static void
run(const sigset_t *mask)
{
	struct epoll_event e[EVENTS];
	double since = now(), swept = since, stands_since = 0;
	int n;

	while (self.active > 0 || (self.begun < self.n && !told)) {
		begin_due(since);
		n = epoll_pwait(self.ep, e, EVENTS, self.rate != 0 ? 1 : 200, mask);
		for (int i = 0; i < n; i++)
			on_event(e[i].data.ptr, e[i].events);
		if (now() - swept > 1) {
			swept = now();
			sweep();
		}
		if (self.stands && stands_since == 0 && self.standing > 0 && self.standing + self.broken == self.n) {
			stands_since = now();
			printf("standing\n");
			fflush(stdout);
		}
		if (self.standing > 0 && (told || (stands_since > 0 && now() - stands_since >= self.hold)))
			leave();
	}
	printf("sessions %llu errors %llu seconds %.3f bytes %llu\n", (unsigned long long)self.whole,
	    (unsigned long long)self.broken, now() - since, (unsigned long long)self.octets);
}

/* --- the start -------------------------------------------------------------------------------------------------- */

/* A header, lines, and the end of content behind them; size octets without that end. */
static void
make_message(size_t size)
{
	static const char head[] = "Subject: load\r\n\r\n";
	size_t n = size > sizeof(head) + LINE ? sizeof(head) - 1 : 0, len;

	if ((self.message = malloc(size + 3)) == NULL)
		fatal(EX_OSERR, "message");
	self.message_len = size + 3;
	memset(self.message, 'x', size);
	memcpy(self.message, head, n);
	while (n < size) {
		len = size - n > LINE + 3 ? LINE + 2 : size - n;
		memcpy(self.message + n + len - 2, "\r\n", 2);
		n += len;
	}
	memcpy(self.message + size, ".\r\n", 3);
}

static void
target(char *address)
{
	char *colon = strrchr(address, ':');
	long port = colon != NULL ? strtol(colon + 1, NULL, 10) : 0;

	if (port < 1 || port > 65535)
		fatal(EX_USAGE, address);
	*colon = '\0';
	self.to.sin_family = AF_INET;
	self.to.sin_port = htons((uint16_t)port);
	if (inet_pton(AF_INET, address, &self.to.sin_addr) != 1)
		fatal(EX_USAGE, address);
}

static uint64_t
number(const char *s, uint64_t min, uint64_t max)
{
	char *e;
	unsigned long long v;

	errno = 0;
	v = strtoull(s, &e, 10);
	if (errno != 0 || e == s || *e != '\0' || v < min || v > max)
		fatal(EX_USAGE, s);
	return (v);
}

static void
protocol(const char *name)
{
	if (strcmp(name, "pop3") == 0) {
		self.script = pop3_script;
		self.stand_at = 3;
		self.quit = 5;
	} else if (strcmp(name, "smtp") == 0) {
		self.script = smtp_script;
		self.stand_at = 1;
		self.quit = 6;
	} else if (strcmp(name, "imap4") == 0) {
		self.script = imap4_script;
		self.stand_at = 2;
		self.quit = 4;
	} else
		fatal(EX_USAGE, name);
}

static void
options(int argc, char **argv)
{
	size_t size = 1024;
	int ch;

	while ((ch = getopt(argc, argv, "p:c:n:r:s:t:H:")) != -1)
		switch (ch) {
		case 'p':
			protocol(optarg);
			break;
		case 'c':
			self.slots = number(optarg, 1, 1000000);
			break;
		case 'n':
			self.n = number(optarg, 1, UINT64_MAX);
			break;
		case 'r':
			self.rate = number(optarg, 1, 1000000);
			break;
		case 's':
			size = number(optarg, 2, 1 << 30);
			break;
		case 't':
			target(optarg);
			break;
		case 'H':
			self.stands = true;
			self.hold = (double)number(optarg, 0, 1000000);
			break;
		default:
			fatal(EX_USAGE, "option");
		}
	if (self.stands)
		self.n = self.slots;
	if (self.script == NULL || self.to.sin_port == 0 || self.slots == 0 || self.n == 0 || optind != argc)
		fatal(EX_USAGE, "options");
	make_message(size);
}

static void
on_signal(int sig)
{
	(void)sig;
	told = 1;
}

int
main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_signal };
	sigset_t block, mask;

	options(argc, argv);
	sigemptyset(&block);
	sigaddset(&block, SIGTERM);
	sigaddset(&block, SIGINT);
	sigprocmask(SIG_BLOCK, &block, &mask);		/* they arrive in epoll_pwait only */
	sigdelset(&mask, SIGTERM);
	sigdelset(&mask, SIGINT);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	if ((self.session = calloc(self.slots, sizeof(*self.session))) == NULL)
		fatal(EX_OSERR, "sessions");
	if ((self.ep = epoll_create1(EPOLL_CLOEXEC)) == -1)
		fatal(EX_OSERR, "epoll");
	run(&mask);
	free(self.session);
	free(self.message);
	return (self.broken > 0);
}
