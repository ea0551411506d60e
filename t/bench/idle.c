/*
 * idle - many IMAP clients in IDLE, and the server behind them: idle server ADDR PORT | idle client|tls ADDR PORT N
 *
 * Both obey lines on standard input. The server: "mail" tells each connection in IDLE of a new message. The client says
 * "idle N" when all are in IDLE, then with each round of mail "woken N first MS last MS"; "done" ends IDLE and logs all out.
 * It measures the gateway: it is no mail server, and no more of IMAP than that.
 */
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <openssl/ssl.h>

enum { LINE = 1024, FDS = 65536, OPEN_AT_ONCE = 64 };

struct conn { int fd; SSL *ssl; uint32_t len, step, exists; bool idle; char tag[32], in[LINE]; };
static struct conn *conns[FDS];
static int ep;
static bool server;
static SSL_CTX *tls;		/* of clients; NULL: in clear */
static uint32_t total, opened, idling, woken, ended;
static uint64_t first_ms, last_ms, mail_ms;
static struct sockaddr_in address;

static uint64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return ((uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000);
}

static void
fail(const char *what)
{
	perror(what);
	exit(1);
}

static void
say(struct conn *c, const char *text)
{
	if ((c->ssl != NULL ? SSL_write(c->ssl, text, (int)strlen(text)) <= 0 : write(c->fd, text, strlen(text)) == -1) && errno != EPIPE && errno != ECONNRESET)
		fail("write");
}

static struct conn *
add(int fd)
{
	struct epoll_event ev = { .events = EPOLLIN };
	struct conn *c = calloc(1, sizeof(*c));

	if (c == NULL || fd >= FDS)
		fail("connection");
	c->fd = fd;
	conns[fd] = c;
	ev.data.fd = fd;
	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == -1)
		fail("epoll_ctl");
	return (c);
}

static void
drop(struct conn *c)
{
	conns[c->fd] = NULL;
	SSL_free(c->ssl);
	close(c->fd);
	free(c);
}

static void
serve(struct conn *c, char *line)
{
	char *cmd = strchr(line, ' '), text[512];

	if (c->idle && strcmp(line, "DONE") == 0) {
		c->idle = false;
		snprintf(text, sizeof(text), "%s OK done\r\n", c->tag);
		say(c, text);
		return;
	}
	if (cmd == NULL)
		return;
	*cmd++ = '\0';
	if (strcasecmp(cmd, "IDLE") == 0) {
		snprintf(c->tag, sizeof(c->tag), "%.31s", line);
		c->idle = true;
		say(c, "+ idling\r\n");
		return;
	}
	if (strncasecmp(cmd, "CAPABILITY", 10) == 0)
		say(c, "* CAPABILITY IMAP4rev1 IDLE UIDPLUS\r\n");
	else if (strncasecmp(cmd, "SELECT", 6) == 0) {
		snprintf(text, sizeof(text), "* FLAGS (\\Seen \\Deleted)\r\n* OK [PERMANENTFLAGS (\\Seen \\Deleted)] kept\r\n* %u EXISTS\r\n* 0 RECENT\r\n"
		    "* OK [UIDVALIDITY 1] valid\r\n* OK [UIDNEXT %u] next\r\n", c->exists, c->exists + 1);
		say(c, text);
	} else if (strncasecmp(cmd, "UID SEARCH", 10) == 0)
		say(c, "* SEARCH\r\n");
	else if (strncasecmp(cmd, "LOGOUT", 6) == 0)
		say(c, "* BYE\r\n");
	snprintf(text, sizeof(text), "%.200s OK %sdone\r\n", line, strncasecmp(cmd, "SELECT", 6) == 0 ? "[READ-WRITE] " : "");
	say(c, text);
}

static void
hear(struct conn *c, const char *line)
{
	static const char *const next[] = { "a LOGIN user secret\r\n", "b SELECT INBOX\r\n", "c IDLE\r\n" };

	if (c->step < 3 && ((c->step == 0 && strncmp(line, "* OK", 4) == 0) ||
	    (c->step > 0 && line[0] == 'a' + (char)c->step - 1 && line[1] == ' '))) {
		if (c->step > 0 && strncmp(line + 2, "OK", 2) != 0) {
			fprintf(stderr, "refused: %s\n", line);
			exit(1);
		}
		say(c, next[c->step++]);
	} else if (c->step == 3 && line[0] == '+') {
		c->idle = true;
		c->step = 4;
		if (++idling == total)
			printf("idle %u\n", idling);
	} else if (c->step == 4 && strstr(line, " EXISTS") != NULL) {
		last_ms = now_ms();
		if (woken++ == 0)
			first_ms = last_ms;
		if (woken == total) {
			printf("woken %u first %llu last %llu\n", woken, (unsigned long long)(first_ms - mail_ms),
			    (unsigned long long)(last_ms - mail_ms));
			woken = 0;
		}
	}
}

static void
take(struct conn *c)
{
	ssize_t n = c->ssl != NULL ? SSL_read(c->ssl, c->in + c->len, (int)(sizeof(c->in) - c->len - 1)) :
	    read(c->fd, c->in + c->len, sizeof(c->in) - c->len - 1);
	char *nl;

	if (n <= 0 && c->ssl != NULL && SSL_get_error(c->ssl, (int)n) == SSL_ERROR_WANT_READ)
		return;
	if (n <= 0) {
		ended++;
		if (!server && c->step < 5)
			fprintf(stderr, "a connection ended at step %u\n", c->step);
		drop(c);
		return;
	}
	c->len += (uint32_t)n;
	c->in[c->len] = '\0';
	while ((nl = memchr(c->in, '\n', c->len)) != NULL) {
		size_t used = (size_t)(nl - c->in) + 1;

		*nl = '\0';
		if (nl > c->in && nl[-1] == '\r')
			nl[-1] = '\0';
		if (server)
			serve(c, c->in);
		else
			hear(c, c->in);
		c->len -= (uint32_t)used;
		memmove(c->in, c->in + used, c->len);
	}
	if (c->len == sizeof(c->in) - 1)
		c->len = 0;
}

static void
obey(char *line)
{
	char text[64];

	mail_ms = now_ms();
	for (int i = 0; i < FDS; i++) {
		struct conn *c = conns[i];

		if (c == NULL || !c->idle)
			continue;
		if (server && strncmp(line, "mail", 4) == 0) {
			snprintf(text, sizeof(text), "* %u EXISTS\r\n", ++c->exists);
			say(c, text);
		} else if (!server && strncmp(line, "done", 4) == 0) {
			c->step = 5;
			say(c, "DONE\r\nz LOGOUT\r\n");
		}
	}
	if (!server && strncmp(line, "count", 5) == 0)
		printf("alive %u\n", opened - ended);
}

/* The handshake waits; after that a record that is not whole yet does not. */
static void
begin_tls(struct conn *c)
{
	if (tls == NULL)
		return;
	if ((c->ssl = SSL_new(tls)) == NULL || SSL_set_fd(c->ssl, c->fd) != 1 || SSL_connect(c->ssl) != 1)
		fail("handshake");
	(void)fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

static void
open_more(void)
{
	while (!server && opened < total && opened - idling < OPEN_AT_ONCE) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd == -1 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) == -1)
			fail("connect");
		begin_tls(add(fd));
		opened++;
	}
}

int
main(int argc, char **argv)
{
	struct rlimit r = { FDS, FDS };
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = 0 }, got[256];
	static const int on = 1;
	int lfd = -1, n;
	char line[128];

	if (argc > 1 && strcmp(argv[1], "tls") == 0 && (tls = SSL_CTX_new(TLS_client_method())) == NULL)
		fail("TLS");
	if (argc < 4 || (!(server = strcmp(argv[1], "server") == 0) && argc != 5))
		return (fputs("usage: idle server ADDR PORT | idle client|tls ADDR PORT N\n", stderr), 64);
	address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(argv[3], NULL, 10)) };
	if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1)
		fail(argv[2]);
	total = server ? 0 : (uint32_t)strtoul(argv[4], NULL, 10);
	(void)setrlimit(RLIMIT_NOFILE, &r);
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if ((ep = epoll_create1(EPOLL_CLOEXEC)) == -1 || epoll_ctl(ep, EPOLL_CTL_ADD, 0, &ev) == -1)
		fail("epoll");
	if (server) {
		lfd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		ev.data.fd = lfd;
		(void)setsockopt(lfd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		if (bind(lfd, (const struct sockaddr *)&address, sizeof(address)) == -1 || listen(lfd, 4096) == -1 ||
		    epoll_ctl(ep, EPOLL_CTL_ADD, lfd, &ev) == -1)
			fail("listen");
		puts("ready");
	}
	for (;;) {
		open_more();
		if ((n = epoll_wait(ep, got, 256, 100)) == -1 && errno != EINTR)
			fail("epoll_wait");
		for (int i = 0; i < n; i++) {
			int fd = got[i].data.fd;

			if (fd == 0) {
				ssize_t k = read(0, line, sizeof(line) - 1);

				if (k <= 0)
					return (0);
				line[k] = '\0';
				obey(line);
			} else if (fd == lfd) {
				int c = accept4(lfd, NULL, NULL, SOCK_CLOEXEC);

				if (c != -1)
					say(add(c), "* OK ready\r\n");
			} else
				do
					if (conns[fd] != NULL)
						take(conns[fd]);
				while (conns[fd] != NULL && conns[fd]->ssl != NULL && SSL_pending(conns[fd]->ssl) > 0);
		}
	}
}
