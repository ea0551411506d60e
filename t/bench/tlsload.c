/*
 * tlsload - POP3 clients that speak TLS, for t/bench/tls.pl: C processes, each one session after the other
 *
 * IN     tlsload -t ADDR:PORT -c PROCESSES -n SESSIONS [-r] [-s] [-1]
 *        tlsload -t ADDR:PORT -n SESSIONS -H SECONDS
 * OUT    "sessions N errors N seconds S.SSS resumed N bytes N"; with -H "standing" when all have come as far as STAT
 *
 * -r resumes the session before, -s is a whole session (USER PASS STAT RETR QUIT) in place of a greeting and QUIT, -1 keeps to
 * one kind of certificate (ECDSA). What the client costs is not measured; what it asks for is the same for every peer.
 */
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct tally { _Atomic unsigned long sessions, errors, resumed, bytes; };
static struct tally *tally;
static struct sockaddr_in peer;
static SSL_CTX *ctx;
static SSL_SESSION *last;
static int resume, whole;

static int
on_session(SSL *ssl, SSL_SESSION *s)
{
	(void)ssl;
	SSL_SESSION_free(last);
	last = s;
	return (1);
}

static SSL *
begin(void)
{
	static const int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	SSL *ssl = SSL_new(ctx);

	if (fd == -1 || ssl == NULL || connect(fd, (struct sockaddr *)&peer, sizeof(peer)) == -1)
		exit(1);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	SSL_set_fd(ssl, fd);
	if (resume && last != NULL)
		SSL_set_session(ssl, last);
	if (SSL_connect(ssl) != 1) {
		tally->errors++;
		SSL_free(ssl);
		close(fd);
		return (NULL);
	}
	if (SSL_session_reused(ssl))
		tally->resumed++;
	return (ssl);
}

/* Says it and reads until the reply ends with end; 0, or -1. */
static int
say(SSL *ssl, const char *text, const char *end)
{
	static char in[65536];
	char tail[8] = "";
	size_t want = strlen(end), have = 0;
	int n;

	if (text != NULL && SSL_write(ssl, text, (int)strlen(text)) <= 0)
		return (-1);
	for (;;) {
		if ((n = SSL_read(ssl, in, sizeof(in))) <= 0)
			return (-1);
		tally->bytes += (unsigned long)n;
		for (int i = n > 8 ? n - 8 : 0; i < n; i++) {
			if (have == sizeof(tail))
				memmove(tail, tail + 1, --have);
			tail[have++] = in[i];
		}
		if (have >= want && memcmp(tail + have - want, end, want) == 0)
			return (0);
	}
}

static void
session(void)
{
	SSL *ssl = begin();
	int bad;

	if (ssl == NULL)
		return;
	bad = say(ssl, NULL, "\r\n");
	if (whole && bad == 0)
		bad = say(ssl, "USER alice\r\n", "\r\n") | say(ssl, "PASS secret\r\n", "\r\n") | say(ssl, "STAT\r\n", "\r\n") |
		    say(ssl, "RETR 1\r\n", "\r\n.\r\n");
	if (bad == 0)
		bad = say(ssl, "QUIT\r\n", "\r\n");
	if (bad == 0)
		tally->sessions++;
	else
		tally->errors++;
	SSL_shutdown(ssl);
	close(SSL_get_fd(ssl));
	SSL_free(ssl);
}

static void
stand(int n, int seconds)
{
	SSL *ssl;

	for (int i = 0; i < n; i++)
		if ((ssl = begin()) == NULL || say(ssl, NULL, "\r\n") | say(ssl, "USER alice\r\n", "\r\n") |
		    say(ssl, "PASS secret\r\n", "\r\n") | say(ssl, "STAT\r\n", "\r\n"))
			exit(1);
	printf("standing\n");
	fflush(stdout);
	sleep((unsigned int)seconds);
}

int
main(int argc, char **argv)
{
	int c = 4, n = 1000, hold = 0, one = 0, o, status;
	struct timespec a, b;
	char host[64];
	unsigned int port;

	while ((o = getopt(argc, argv, "t:c:n:H:rs1")) != -1)
		switch (o) {
		case 't':
			if (sscanf(optarg, "%63[^:]:%u", host, &port) != 2 || inet_pton(AF_INET, host, &peer.sin_addr) != 1)
				return (64);
			peer.sin_family = AF_INET;
			peer.sin_port = htons((uint16_t)port);
			break;
		case 'c': c = atoi(optarg); break;
		case 'n': n = atoi(optarg); break;
		case 'H': hold = atoi(optarg); break;
		case 'r': resume = 1; break;
		case 's': whole = 1; break;
		case '1': one = 1; break;
		default: return (64);
		}
	signal(SIGPIPE, SIG_IGN);
	tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ctx = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, on_session);
	if (one)
		SSL_CTX_set1_sigalgs_list(ctx, "ECDSA+SHA256");
	if (hold > 0) {
		stand(n, hold);
		return (0);
	}
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < c; i++)
		if (fork() == 0) {
			for (int k = 0; k < n / c; k++)
				session();
			_exit(0);
		}
	while (wait(&status) > 0)
		;
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("sessions %lu errors %lu seconds %.3f resumed %lu bytes %lu\n", tally->sessions, tally->errors,
	    (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9, tally->resumed, tally->bytes);
	return (0);
}
