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

enum { NAME = 16, AES = 32, MAC = 32 };

static struct {
	uint32_t	 life;
	uint64_t	 period;
	uint8_t		 secret[2][TICKET_SECRET];	/* of now, of the last period */
	bool		 last;
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

int
tickets_start(uint32_t life_s)
{
	tickets.life = life_s;
	if (tickets.period != 0) {
		tickets.period = period();	/* a reload: the secret goes on, counted anew */
		return (0);
	}
	tickets.period = period();
	return (RAND_bytes(tickets.secret[0], TICKET_SECRET) == 1 ? 0 : -1);
}

void
tickets_tick(void)
{
	uint64_t now = period();

	if (now > tickets.period + 2)
		tickets.period = now - 2;	/* a clock that was set: three hashes forget everything */
	for (; tickets.period < now; tickets.period++) {
		memcpy(tickets.secret[1], tickets.secret[0], TICKET_SECRET);
		derive(tickets.secret[1], "next", tickets.secret[0]);
		tickets.last = true;
	}
}

/* 1 encrypts or decrypts, 2 decrypts and wants a new ticket, 0 full handshake, -1 error: as OpenSSL has it. */
static int
on_ticket(SSL *ssl, unsigned char name[NAME], unsigned char *iv, EVP_CIPHER_CTX *c, EVP_MAC_CTX *mac, int encrypt)
{
	uint8_t key[32], own[32];
	OSSL_PARAM digest[] = { OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char []){ "SHA256" }, 0),
	    OSSL_PARAM_construct_end() };
	int which = 0, good;

	(void)ssl;
	tickets_tick();
	derive(tickets.secret[0], "name", own);
	if (encrypt) {
		if (RAND_bytes(iv, EVP_MAX_IV_LENGTH) != 1)
			return (-1);
		memcpy(name, own, NAME);
	} else if (memcmp(name, own, NAME) != 0) {
		which = 1;
		derive(tickets.secret[1], "name", own);
		if (!tickets.last || memcmp(name, own, NAME) != 0)
			return (0);
	}
	derive(tickets.secret[which], "cipher", key);
	good = encrypt ? EVP_EncryptInit_ex(c, EVP_aes_256_cbc(), NULL, key, iv) :
	    EVP_DecryptInit_ex(c, EVP_aes_256_cbc(), NULL, key, iv);
	if (good == 1) {
		derive(tickets.secret[which], "mac", key);
		good = EVP_MAC_init(mac, key, MAC, digest);
	}
	OPENSSL_cleanse(key, sizeof(key));
	return (good != 1 ? -1 : which == 0 ? 1 : 2);
}

void
tickets_use(SSL_CTX *ctx)
{
	(void)SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket);
}
