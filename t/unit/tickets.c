/* tickets - their keys change with each period, whatever else happens: reloads, a pause, a clock that is set */
/* LINK: workers/tls_ticket.c */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "t/lib/tap.h"
#include "workers/tls.h"

enum { LIFE = 4, NAME = 16 };
static time_t now = 1800000000;		/* the beginning of a period */
static SSL_CTX *server, *client;

time_t	time(time_t *t);		/* instead of libc's */

time_t
time(time_t *t)
{
	if (t != NULL)
		*t = now;
	return (now);
}

static void
contexts(void)
{
	server = SSL_CTX_new(TLS_server_method());
	client = SSL_CTX_new(TLS_client_method());
	for (int i = 0; i < 2; i++) {		/* without certificates, which matter to no ticket */
		SSL_CTX *ctx = i == 0 ? server : client;

		if (ctx == NULL || SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION) != 1 ||
		    SSL_CTX_set_cipher_list(ctx, "AECDH-AES128-SHA:@SECLEVEL=0") != 1)
			abort();
	}
	SSL_CTX_set_session_cache_mode(server, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_timeout(server, 1000000000);
	tickets_use(server);
}

/* A handshake. Returns its session, which the caller frees; *reused: whether with was taken. */
static SSL_SESSION *
shake(SSL_SESSION *with, bool *reused)
{
	SSL *s = SSL_new(server), *c = SSL_new(client);
	BIO *a = NULL, *b = NULL;
	SSL_SESSION *session;

	if (s == NULL || c == NULL || BIO_new_bio_pair(&a, 65536, &b, 65536) != 1)
		abort();
	SSL_set_bio(s, a, a);
	SSL_set_bio(c, b, b);
	SSL_set_accept_state(s);
	SSL_set_connect_state(c);
	if (with != NULL)
		SSL_set_session(c, with);
	for (int i = 0; i < 10; i++)
		(void)SSL_do_handshake(c), (void)SSL_do_handshake(s);
	*reused = SSL_is_init_finished(c) && SSL_is_init_finished(s) && SSL_session_reused(s) == 1;
	session = SSL_get1_session(c);
	SSL_set_shutdown(c, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);	/* else it cannot be resumed */
	SSL_free(s);
	SSL_free(c);
	return (session);
}

/* Whether a ticket is taken. */
static bool
taken(SSL_SESSION *ticket)
{
	bool reused;

	SSL_SESSION_free(shake(ticket, &reused));
	return (reused);
}

static SSL_SESSION *
ticket(uint8_t name[NAME])
{
	bool reused;
	SSL_SESSION *s = shake(NULL, &reused);
	const uint8_t *p = NULL;
	size_t n = 0;

	SSL_SESSION_get0_ticket(s, &p, &n);
	if (n < NAME)
		abort();
	memcpy(name, p, NAME);
	return (s);
}

/* Whether the key's name is another one than at the last call. */
static bool
changed(void)
{
	static uint8_t last[NAME];
	uint8_t name[NAME];
	bool other;

	SSL_SESSION_free(ticket(name));
	other = memcmp(name, last, NAME) != 0;
	memcpy(last, name, NAME);
	return (other);
}

static void
reloads(void)
{
	uint8_t name[NAME];
	SSL_SESSION *before;
	int n = 0;

	for (int i = 0; i < 5; i++) {
		now += LIFE;
		(void)tickets_start(LIFE);
		n += changed();
	}
	ok(n == 5, "a reload just after each period leaves %d of 5 new keys", n);
	(void)tickets_start(LIFE);
	ok(!changed(), "one in mid-period changes nothing");

	now += LIFE;		/* as an old process, which has looked at the clock */
	before = ticket(name);
	(void)tickets_start(LIFE);
	ok(taken(before), "tickets of this period outlive a reload");
	now += LIFE;
	(void)tickets_start(LIFE);
	ok(taken(before), "those of the last period too");
	now += LIFE;
	(void)tickets_start(LIFE);
	ok(!taken(before), "and older ones are refused");
	SSL_SESSION_free(before);

	before = ticket(name);
	(void)tickets_start(LIFE * 100);
	ok(taken(before), "nor does another life of the keys end any");
	SSL_SESSION_free(before);
	(void)changed();
	now += LIFE * 100;
	ok(changed(), "and it counts from then on");
	(void)tickets_start(LIFE);
}

/* Two processes have one secret; the one looked at the clock each period, the other only now. */
static void
pause_(void)
{
	uint8_t often[NAME], once[NAME];
	int fd[2];

	if (pipe(fd) == -1)
		abort();
	if (fork() == 0) {
		for (int i = 0; i < 50; i++) {
			now += LIFE;
			tickets_tick();
		}
		SSL_SESSION_free(ticket(often));
		_exit(write(fd[1], often, NAME) != NAME);
	}
	now += LIFE * 50;
	SSL_SESSION_free(ticket(once));
	ok(read(fd[0], often, NAME) == NAME && memcmp(often, once, NAME) == 0, "a process that was idle for long is in step with others");
	close(fd[0]);
	close(fd[1]);
}

static void
clock_set(void)
{
	uint8_t name[NAME];
	SSL_SESSION *before = ticket(name);

	now -= LIFE;
	ok(taken(before), "a clock set back by a little refuses no ticket");
	(void)changed();
	now += LIFE;
	ok(!changed(), "nor is the key of a period changed twice");
	now -= LIFE * 1000;
	ok(taken(before) && !changed(), "nor one set back by much");
	now += LIFE;
	ok(changed(), "and the next period has a new key");
	now += LIFE;
	(void)changed();
	ok(!taken(before), "the old one is forgotten");
	SSL_SESSION_free(before);

	before = ticket(name);
	now += LIFE * INT64_C(1000000000000);
	ok(changed() && !taken(before), "a clock set forward for ever changes the key, and at once");
	now += LIFE;
	ok(changed(), "as does the next period");
	SSL_SESSION_free(before);
}

int
main(void)
{
	if (tickets_start(LIFE) == -1)
		abort();
	contexts();
	ok(changed() && !changed(), "a key of a period");
	reloads();
	pause_();
	clock_set();
	SSL_CTX_free(server);
	SSL_CTX_free(client);
	return (done_testing());
}
