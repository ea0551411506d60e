/*
 * tls_ticket - keys of session tickets (RFC 5077, RFC 8446 section 4.6.1)
 *
 * One secret; the keys are made of it, and with each period it is replaced by a hash of itself, by the clock, in every tls
 * process alike. So all accept each other's tickets without a word between them, and who takes the secret of now learns
 * nothing of tickets from before the last period. The keys of the last period still open tickets, which are renewed.
 */
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <string.h>
#include <time.h>

#include "workers/tls.h"

enum { NAME = 16, MAC = 32, MISSED_MAX = 100000 };

struct keys { uint8_t secret[TICKET_SECRET], name[32], cipher[32], mac[MAC]; };
static struct {
	uint32_t	 life;
	uint64_t	 period;
	struct keys	 keys[2];		/* of now, of the last period */
	bool		 last;
	EVP_CIPHER	*aes;
} tickets;

static uint64_t
period(void)
{
	return ((uint64_t)time(NULL) / tickets.life);
}

static void
derive(const uint8_t secret[TICKET_SECRET], const char *what, uint8_t out[32])
{
	unsigned int n = 32;

	HMAC(EVP_sha256(), secret, TICKET_SECRET, (const uint8_t *)what, strlen(what), out, &n);
}

static void
make_keys(struct keys *k)
{
	derive(k->secret, "name", k->name);
	derive(k->secret, "cipher", k->cipher);
	derive(k->secret, "mac", k->mac);
}

int
tickets_start(uint32_t life_s)
{
	bool first = tickets.life == 0;

	if (!first)
		tickets_tick();		/* a reload: the secret goes on */
	if (life_s == tickets.life)
		return (0);
	if (first) {
		tickets.aes = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
		if (tickets.aes == NULL || RAND_bytes(tickets.keys[0].secret, TICKET_SECRET) != 1)
			return (-1);
		make_keys(&tickets.keys[0]);
	}
	tickets.life = life_s;
	tickets.period = period();
	return (0);
}

/*
 * Every period that was missed is a hash, as in the processes that missed none. A clock that was set back by a step leaves the
 * period as it is; by more, periods are counted from there, since the key would else last until the clock has come back.
 */
void
tickets_tick(void)
{
	uint64_t now = period();

	if (now + 2 < tickets.period)
		tickets.period = now;
	if (now <= tickets.period)
		return;
	if (now - tickets.period > MISSED_MAX)
		tickets.period = now - MISSED_MAX;	/* set forward by years: nobody has to be kept up with */
	for (; tickets.period < now; tickets.period++) {
		memcpy(tickets.keys[1].secret, tickets.keys[0].secret, TICKET_SECRET);
		derive(tickets.keys[1].secret, "next", tickets.keys[0].secret);
	}
	make_keys(&tickets.keys[0]);
	make_keys(&tickets.keys[1]);
	tickets.last = true;
}

/* 1 encrypts, 2 decrypts and wants a new ticket, 0 full handshake, -1 error: as OpenSSL has it. Each resumption brings a new
 * ticket, since one should not be used twice (RFC 8446 appendix C.4). */
static int
on_ticket(SSL *ssl, unsigned char name[NAME], unsigned char *iv, EVP_CIPHER_CTX *c, EVP_MAC_CTX *mac, int encrypt)
{
	OSSL_PARAM digest[] = { OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char []){ "SHA256" }, 0),
	    OSSL_PARAM_construct_end() };
	const struct keys *k = &tickets.keys[0];
	int good;

	(void)ssl;
	tickets_tick();
	if (encrypt) {
		if (RAND_bytes(iv, EVP_MAX_IV_LENGTH) != 1)
			return (-1);
		memcpy(name, k->name, NAME);
	} else if (memcmp(name, k->name, NAME) != 0) {
		k = &tickets.keys[1];
		if (!tickets.last || memcmp(name, k->name, NAME) != 0)
			return (0);
	}
	good = encrypt ? EVP_EncryptInit_ex(c, tickets.aes, NULL, k->cipher, iv) :
	    EVP_DecryptInit_ex(c, tickets.aes, NULL, k->cipher, iv);
	if (good == 1)
		good = EVP_MAC_init(mac, k->mac, MAC, digest);
	return (good != 1 ? -1 : encrypt ? 1 : 2);
}

void
tickets_use(SSL_CTX *ctx)
{
	(void)SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket);
}
