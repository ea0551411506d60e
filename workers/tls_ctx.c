/*
 * tls_ctx - policies and contexts made of the configuration and its certificates (tls.h)
 *
 * A service has a context for each pair of an ECDSA and an RSA certificate that share a host name, each by itself or by a
 * wildcard, so that choosing one by the name that a client says (SNI) is a look-up and no more. Policies are those of
 * Mozilla's guidelines 5.7: intermediate is TLS 1.2 and 1.3 with forward secrecy and authenticated ciphers alone, modern is
 * TLS 1.3 alone.
 */
#include <openssl/err.h>
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workers/tls.h"

#define CIPHERS	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:" \
		"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
#define SUITES	"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define GROUPS	"X25519:P-256:P-384"
#define SIGALGS	"ecdsa_secp256r1_sha256:ecdsa_secp384r1_sha384:ecdsa_secp521r1_sha512:ed25519:ed448:" \
		"rsa_pss_rsae_sha256:rsa_pss_rsae_sha384:rsa_pss_rsae_sha512:rsa_pss_pss_sha256:rsa_pss_pss_sha384:rsa_pss_pss_sha512:" \
		"rsa_pkcs1_sha256:rsa_pkcs1_sha384:rsa_pkcs1_sha512"	/* the last three of TLS 1.2 and of certificates alone */
#define SYSTEM_CA "/etc/ssl/certs/ca-certificates.crt"

static struct { void (*say)(const char *); int n; const char *file; } faults;

void
tls_fault(uint32_t line, const char *fmt, ...)
{
	char text[600], whole[900];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(whole, sizeof(whole), "%s:%u: %s", faults.file, line, text);
	faults.say(whole);
	faults.n++;
	ERR_clear_error();
}

const char *
tls_reason(void)
{
	unsigned long e = ERR_peek_error();
	const char *s = e != 0 ? ERR_reason_error_string(e) : NULL;

	return (s != NULL ? s : "cannot be read");
}

const char *
tls_error(SSL *ssl, char *dst, size_t size)
{
	long v = SSL_get_verify_result(ssl);
	unsigned long e = ERR_peek_error();
	const char *s = e != 0 ? ERR_reason_error_string(e) : NULL;

	if (v != X509_V_OK)
		snprintf(dst, size, "certificate: %s", X509_verify_cert_error_string(v));
	else
		snprintf(dst, size, "%s", s != NULL ? s : "connection closed");
	return (dst);
}

/* --- contexts --------------------------------------------------------------------------------------------------------- */

static SSL_CTX *
new_ctx(const SSL_METHOD *m, uint8_t policy)
{
	SSL_CTX *ctx = SSL_CTX_new(m);

	if (ctx == NULL)
		return (NULL);
	SSL_CTX_set_min_proto_version(ctx, policy == POLICY_MODERN ? TLS1_3_VERSION : TLS1_2_VERSION);
	SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_read_ahead(ctx, 1);
	if (SSL_CTX_set_cipher_list(ctx, CIPHERS) != 1 || SSL_CTX_set_ciphersuites(ctx, SUITES) != 1 ||
	    SSL_CTX_set1_groups_list(ctx, GROUPS) != 1 || SSL_CTX_set1_sigalgs_list(ctx, SIGALGS) != 1) {
		SSL_CTX_free(ctx);
		return (NULL);
	}
	return (ctx);
}

static int
use_cert(SSL_CTX *ctx, const struct tls_cert *c)
{
	return (SSL_CTX_use_cert_and_key(ctx, c->leaf, c->key, c->chain, 0) == 1 ? 0 : -1);
}

static int
on_sni(SSL *ssl, int *alert, void *arg)
{
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	SSL_CTX *ctx = name != NULL ? tls_names_find(arg, name) : NULL;

	(void)alert;
	if (ctx != NULL && ctx != SSL_get_SSL_CTX(ssl))
		(void)SSL_set_SSL_CTX(ssl, ctx);
	return (SSL_TLSEXT_ERR_OK);
}

/* Strict: a client that asks for another protocol is in the wrong place (protocols.md 4.6, ALPACA). */
static int
on_alpn(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *in, unsigned int n, void *arg)
{
	const char *ours = SSL_get_app_data(ssl);
	size_t len = ours != NULL ? strlen(ours) : 0;

	(void)arg;
	for (unsigned int at = 0; at < n && in[at] < n - at; at += in[at] + 1u)
		if (in[at] == len && memcmp(in + at + 1, ours, len) == 0) {
			*out = in + at + 1;
			*outlen = in[at];
			return (SSL_TLSEXT_ERR_OK);
		}
	return (SSL_TLSEXT_ERR_ALERT_FATAL);
}

static int
on_status(SSL *ssl, void *arg)
{
	struct tls_set *set = arg;
	X509 *mine = SSL_get_certificate(ssl);
	uint8_t *copy;

	for (uint32_t i = 0; i < set->n; i++) {
		const struct tls_cert *c = &set->cert[i];

		if (c->leaf != mine || !tls_ocsp_good(c, time(NULL)))
			continue;
		if ((copy = OPENSSL_memdup(c->ocsp, c->ocsp_len)) == NULL)
			break;
		SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)c->ocsp_len);
		return (SSL_TLSEXT_ERR_OK);
	}
	return (SSL_TLSEXT_ERR_NOACK);
}

/* A ticket keeps that a certificate was good. Whether it still is, and whether its issuer is still believed, only a whole handshake
 * finds out: tickets outlive a reload, and each resumption brings the next one. */
static SSL_TICKET_RETURN
on_resumption(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t n, SSL_TICKET_STATUS status, void *arg)
{
	(void)name, (void)n, (void)arg;
	if ((status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW) || SSL_SESSION_get0_peer(session) != NULL ||
	    (SSL_get_verify_mode(ssl) & SSL_VERIFY_FAIL_IF_NO_PEER_CERT) != 0)	/* of before they were required */
		return (SSL_TICKET_RETURN_IGNORE_RENEW);
	return (status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW);
}

static int
use_client_ca(SSL_CTX *ctx, const struct conf_tls *t, uint32_t line)
{
	STACK_OF(X509_NAME) *names;

	if (t->client == CLIENT_NONE)
		return (0);
	if ((names = SSL_load_client_CA_file(t->client_ca)) == NULL || SSL_CTX_load_verify_file(ctx, t->client_ca) != 1) {
		tls_fault(line, "client-ca = \"%s\": %s: expected certificates in PEM", t->client_ca, tls_reason());
		return (-1);
	}
	SSL_CTX_set_client_CA_list(ctx, names);
	(void)SSL_CTX_set_session_ticket_cb(ctx, NULL, on_resumption, NULL);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (t->client == CLIENT_REQUIRED ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
	return (0);
}

/* The context of an ECDSA and an RSA certificate, by number + 1; 0: none of that kind. */
static SSL_CTX *
pair(struct tls_set *set, struct tls_service *s, uint32_t ec, uint32_t rsa, uint32_t line)
{
	SSL_CTX *ctx = s->pair[ec][rsa];

	if (ctx != NULL || (ec == 0 && rsa == 0))
		return (ctx);
	if ((ctx = new_ctx(TLS_server_method(), s->conf->policy)) == NULL)
		return (NULL);
	if ((ec != 0 && use_cert(ctx, &set->cert[ec - 1]) == -1) || (rsa != 0 && use_cert(ctx, &set->cert[rsa - 1]) == -1) ||
	    use_client_ca(ctx, s->conf, line) == -1) {
		if (ERR_peek_error() != 0)
			tls_fault(line, "tls: %s", tls_reason());
		SSL_CTX_free(ctx);
		return (NULL);
	}
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(ctx, 1);	/* each resumption brings the next one */
	(void)SSL_CTX_set_session_id_context(ctx, (const unsigned char *)s->name, (unsigned int)strlen(s->name));
	(void)SSL_CTX_set_timeout(ctx, set->conf->ticket_s * 2);
	tickets_use(ctx);
	SSL_CTX_set_tlsext_servername_callback(ctx, on_sni);
	SSL_CTX_set_tlsext_servername_arg(ctx, s);
	SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
	SSL_CTX_set_tlsext_status_cb(ctx, on_status);
	SSL_CTX_set_tlsext_status_arg(ctx, set);
	return (s->pair[ec][rsa] = ctx);
}

struct naming { struct tls_set *set; struct tls_service *s; uint32_t line; };
struct having { const char *name; bool found; };

static void
has_name(void *arg, const char *name)
{
	struct having *h = arg;

	h->found = h->found || strcmp(h->name, name) == 0;
}

static bool
is_rsa(const struct tls_cert *c)
{
	return (c->key != NULL && EVP_PKEY_is_a(c->key, "RSA") == 1);
}

static bool
has(const struct tls_cert *c, const char *name)
{
	struct having h = { .name = name };

	tls_cert_names(c->leaf, has_name, &h);
	return (h.found);
}

/* The n-th of the service's list, number + 1; 0: it is of the other kind, or cannot be used. */
static uint32_t
listed(const struct tls_set *set, const struct tls_service *s, uint32_t n, bool rsa)
{
	const struct tls_cert *c = &set->cert[s->conf->certificate[n]];

	return (c->key != NULL && is_rsa(c) == rsa ? s->conf->certificate[n] + 1u : 0);
}

/* The first of that kind with that name, else with a wildcard for it, number + 1. */
static uint32_t
first_with(const struct tls_set *set, const struct tls_service *s, const char *name, bool rsa)
{
	const char *dot = strchr(name, '.');
	char wild[258];
	uint32_t c, second = 0;

	snprintf(wild, sizeof(wild), "*%s", dot != NULL ? dot : "");
	for (uint32_t i = 0; i < s->conf->ncertificate; i++) {
		if ((c = listed(set, s, i, rsa)) == 0)
			continue;
		if (has(&set->cert[c - 1], name))
			return (c);
		if (second == 0 && dot != NULL && has(&set->cert[c - 1], wild))
			second = c;
	}
	return (second);
}

static void
on_name(void *arg, const char *name)
{
	struct naming *n = arg;
	SSL_CTX *ctx = pair(n->set, n->s, first_with(n->set, n->s, name, false), first_with(n->set, n->s, name, true), n->line);

	if (ctx != NULL)
		(void)tls_names_add(n->s, name, ctx);
}

/* For who says no name: the first of the list, with the first of the other kind that is its pair for some name. */
static SSL_CTX *
default_ctx(struct tls_set *set, struct tls_service *s, uint32_t line)
{
	uint32_t n[2] = { 0, 0 };	/* the ECDSA and the RSA one */
	bool rsa = false;

	for (uint32_t i = 0; i < s->conf->ncertificate && n[rsa] == 0; i++) {
		rsa = is_rsa(&set->cert[s->conf->certificate[i]]);
		n[rsa] = listed(set, s, i, rsa);
	}
	for (uint32_t i = 0; i < s->conf->ncertificate; i++) {
		n[!rsa] = listed(set, s, i, !rsa);
		if (n[!rsa] != 0 && s->pair[n[0]][n[1]] != NULL)
			return (s->pair[n[0]][n[1]]);
	}
	n[!rsa] = 0;
	return (pair(set, s, n[0], n[1], line));
}

static void
load_service(struct tls_set *set, struct tls_service *s, const struct conf_service *c)
{
	struct naming n = { set, s, c->line };

	memcpy(s->name, c->name, sizeof(s->name));
	s->conf = &c->tls;
	if (c->tls.ncertificate == 0)
		return;
	for (uint32_t i = 0; i < c->tls.ncertificate; i++)
		if (set->cert[c->tls.certificate[i]].key != NULL)
			tls_cert_names(set->cert[c->tls.certificate[i]].leaf, on_name, &n);
	tls_names_sort(s);
	s->ctx = default_ctx(set, s, c->line);
}

/* --- towards backends ------------------------------------------------------------------------------------------------- */

static int
on_session(SSL *ssl, SSL_SESSION *session)
{
	struct tls_backend *b = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

	if (b->asks)
		return (0);
	SSL_SESSION_free(b->session);
	b->session = session;
	return (1);		/* kept */
}

/* Called when the server asks for our certificate. Dovecot then refuses its own tickets: "session id context uninitialized". */
static int
on_asked(SSL *ssl, void *arg)
{
	struct tls_backend *b = arg;

	(void)ssl;
	b->asks = true;
	return (1);
}

void
tls_backend_failed(struct tls_backend *b)
{
	SSL_SESSION_free(b->session);
	b->session = NULL;
}

static X509_STORE *
system_store(struct tls_set *set)
{
	if (set->system == NULL && (set->system = X509_STORE_new()) != NULL &&
	    X509_STORE_load_file(set->system, SYSTEM_CA) != 1) {
		X509_STORE_free(set->system);
		set->system = NULL;
	}
	return (set->system);
}

static int
use_trust(struct tls_set *set, SSL_CTX *ctx, const struct conf_backend *c)
{
	if (c->tls.verify == VERIFY_NONE)
		return (0);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	if (c->tls.ca[0] != '\0') {
		if (SSL_CTX_load_verify_file(ctx, c->tls.ca) == 1)
			return (0);
		tls_fault(c->line, "ca = \"%s\": %s: expected certificates in PEM", c->tls.ca, tls_reason());
		return (-1);
	}
	if (system_store(set) == NULL) {
		tls_fault(c->line, "backend %s: no system CAs in %s: expected ca = \"file\" in tls", c->name, SYSTEM_CA);
		return (-1);
	}
	SSL_CTX_set1_cert_store(ctx, set->system);
	return (0);
}

static void
load_backend(struct tls_set *set, const struct conf_service *s, const struct conf_backend *c)
{
	struct tls_backend *b = calloc(1, sizeof(*b));
	int32_t ours = c->tls.certificate;

	if (b == NULL)
		return;
	memcpy(b->service, s->name, sizeof(b->service));
	memcpy(b->name, c->name, sizeof(b->name));
	b->conf = &c->tls;
	TAILQ_INSERT_TAIL(&set->backends, b, link);
	if ((b->ctx = new_ctx(TLS_client_method(), c->tls.policy)) == NULL)
		return;
	if (use_trust(set, b->ctx, c) == -1 || (ours >= 0 && (set->cert[ours].key == NULL || use_cert(b->ctx, &set->cert[ours]) == -1))) {
		SSL_CTX_free(b->ctx);
		b->ctx = NULL;
		return;
	}
	SSL_CTX_set_app_data(b->ctx, b);
	SSL_CTX_set_cert_cb(b->ctx, on_asked, b);
	SSL_CTX_set_session_cache_mode(b->ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(b->ctx, on_session);
}

/* --- a whole configuration --------------------------------------------------------------------------------------------- */

struct tls_set *
tls_load(const struct conf *conf, void (*say)(const char *), int *n)
{
	struct tls_set *set = calloc(1, sizeof(*set));

	if (set == NULL)
		return (NULL);
	faults.say = say;
	faults.n = 0;
	faults.file = conf->file;
	set->conf = conf;
	set->n = conf->ncertificate;
	TAILQ_INIT(&set->backends);
	for (uint32_t i = 0; i < set->n; i++)
		tls_cert_load(&set->cert[i], &conf->certificate[i]);
	for (uint32_t i = 0; i < conf->nservice; i++) {
		load_service(set, &set->service[i], &conf->service[i]);
		for (uint32_t k = 0; k < conf->service[i].nbackend; k++)
			if (conf->service[i].backend[k].tls.mode != MODE_NONE)
				load_backend(set, &conf->service[i], &conf->service[i].backend[k]);
	}
	*n = faults.n;
	return (set);
}

void
tls_free(struct tls_set *set)
{
	struct tls_backend *b;

	while (set != NULL && (b = TAILQ_FIRST(&set->backends)) != NULL) {
		TAILQ_REMOVE(&set->backends, b, link);
		SSL_SESSION_free(b->session);
		SSL_CTX_free(b->ctx);
		free(b);
	}
	for (uint32_t i = 0; set != NULL && i < CONF_SERVICES; i++) {
		struct tls_service *s = &set->service[i];

		for (size_t k = 0; k < s->nnames; k++)
			free(s->names[k].name);
		free(s->names);
		for (size_t k = 0; k < sizeof(s->pair) / sizeof(s->pair[0][0]); k++)
			SSL_CTX_free((&s->pair[0][0])[k]);
	}
	for (uint32_t i = 0; set != NULL && i < set->n; i++) {
		X509_free(set->cert[i].leaf);
		sk_X509_pop_free(set->cert[i].chain, X509_free);
		EVP_PKEY_free(set->cert[i].key);
		OPENSSL_free(set->cert[i].ocsp);
	}
	if (set != NULL)
		X509_STORE_free(set->system);
	free(set);
}

struct tls_service *
tls_service(struct tls_set *set, const char *name)
{
	for (uint32_t i = 0; i < set->conf->nservice; i++)
		if (strcmp(set->service[i].name, name) == 0 && set->service[i].ctx != NULL)
			return (&set->service[i]);
	return (NULL);
}

struct tls_backend *
tls_backend(struct tls_set *set, const char *service, const char *name)
{
	struct tls_backend *b;

	TAILQ_FOREACH(b, &set->backends, link)
		if (strcmp(b->service, service) == 0 && strcmp(b->name, name) == 0)
			return (b->ctx != NULL ? b : NULL);
	return (NULL);
}

SSL *
tls_accept(struct tls_service *s, const char *alpn)
{
	SSL *ssl = SSL_new(s->ctx);

	if (ssl != NULL) {
		SSL_set_app_data(ssl, (void *)(uintptr_t)alpn);
		SSL_set_accept_state(ssl);
	}
	return (ssl);
}

SSL *
tls_connect(struct tls_backend *b)
{
	SSL *ssl = SSL_new(b->ctx);
	const char *name = b->conf->name;
	uint8_t a[16];
	bool numeric = inet_pton(AF_INET, name, a) == 1 || inet_pton(AF_INET6, name, a) == 1;

	if (ssl == NULL)
		return (NULL);
	SSL_set_connect_state(ssl);
	if (!numeric)
		(void)SSL_set_tlsext_host_name(ssl, name);
	if (b->conf->verify == VERIFY_NAME && (numeric ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) :
	    SSL_set1_host(ssl, name)) != 1) {
		SSL_free(ssl);
		return (NULL);
	}
	if (b->session != NULL)
		(void)SSL_set_session(ssl, b->session);
	return (ssl);
}

const char *
tls_backend_check(const struct tls_backend *b, SSL *ssl)
{
	X509 *x = SSL_get0_peer_certificate(ssl);
	uint8_t *der = NULL, md[CONF_PIN];
	unsigned int n = sizeof(md);
	int len;
	bool same;

	if (!b->conf->pinned)
		return (NULL);
	if (x == NULL || (len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &der)) <= 0)
		return ("no certificate to compare with the pin");
	same = EVP_Digest(der, (size_t)len, md, &n, EVP_sha256(), NULL) == 1 && memcmp(md, b->conf->pin, CONF_PIN) == 0;
	OPENSSL_free(der);
	return (same ? NULL : "the key is not the pinned one");
}
