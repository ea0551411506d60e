/* tls_names - names in certificates: which of ours for which host (SNI), who a client is (tls.h) */
#include <openssl/x509v3.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "workers/tls.h"

static void
give_name(const ASN1_STRING *s, void (*fn)(void *, const char *), void *arg)
{
	const uint8_t *p = ASN1_STRING_get0_data(s);
	int n = ASN1_STRING_length(s);
	char name[256];

	if (n <= 0 || n >= (int)sizeof(name) || memchr(p, 0, (size_t)n) != NULL)
		return;
	for (int i = 0; i < n; i++)
		name[i] = (char)tolower(p[i]);
	name[n] = '\0';
	fn(arg, name);
}

static const ASN1_STRING *
common_name(X509_NAME *n)
{
	int at = n != NULL ? X509_NAME_get_index_by_NID(n, NID_commonName, -1) : -1;

	return (at < 0 ? NULL : X509_NAME_ENTRY_get_data(X509_NAME_get_entry(n, at)));
}

void
tls_cert_names(X509 *x, void (*fn)(void *, const char *), void *arg)
{
	GENERAL_NAMES *all = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	const ASN1_STRING *cn = common_name(X509_get_subject_name(x));
	bool any = false;

	for (int i = 0; i < sk_GENERAL_NAME_num(all); i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(all, i);

		if (g->type != GEN_DNS)
			continue;
		any = true;
		give_name(g->d.dNSName, fn, arg);
	}
	if (!any && cn != NULL)
		give_name(cn, fn, arg);
	GENERAL_NAMES_free(all);
}

int
tls_names_add(struct tls_service *s, const char *name, SSL_CTX *ctx)
{
	struct tls_name *more;

	for (size_t i = 0; i < s->nnames; i++)
		if (strcmp(s->names[i].name, name) == 0)
			return (0);
	if ((more = realloc(s->names, (s->nnames + 1) * sizeof(*more))) == NULL)
		return (-1);
	s->names = more;
	if ((more[s->nnames].name = strdup(name)) == NULL)
		return (-1);
	more[s->nnames++].ctx = ctx;
	return (0);
}

static int
by_name(const void *a, const void *b)
{
	return (strcmp(((const struct tls_name *)a)->name, ((const struct tls_name *)b)->name));
}

void
tls_names_sort(struct tls_service *s)
{
	if (s->nnames > 0)
		qsort(s->names, s->nnames, sizeof(s->names[0]), by_name);
}

/* The name itself, else a wildcard for its first label (RFC 6125 section 6.4.3). */
SSL_CTX *
tls_names_find(const struct tls_service *s, const char *host)
{
	char name[256], wild[258] = "*";
	struct tls_name want = { .name = name }, *found = NULL;
	const char *dot;
	size_t n = strlen(host);

	if (n == 0 || n >= sizeof(name) || s->nnames == 0)
		return (NULL);
	for (size_t i = 0; i <= n; i++)
		name[i] = (char)tolower((unsigned char)host[i]);
	if (name[n - 1] == '.')
		name[n - 1] = '\0';
	found = bsearch(&want, s->names, s->nnames, sizeof(s->names[0]), by_name);
	if (found == NULL && (dot = strchr(name, '.')) != NULL) {
		memcpy(wild + 1, dot, strlen(dot) + 1);
		want.name = wild;
		found = bsearch(&want, s->names, s->nnames, sizeof(s->names[0]), by_name);
	}
	return (found != NULL ? found->ctx : NULL);
}

/* --- the peer's ------------------------------------------------------------------------------------------------------ */

/* Printable ASCII and UTF-8 of a name part that fits whole, else nothing: half a name is another one. */
static void
take_text(const ASN1_STRING *s, char *dst, size_t size)
{
	unsigned char *text = NULL;
	int n = s != NULL ? ASN1_STRING_to_UTF8(&text, s) : -1;
	bool good = n > 0 && (size_t)n < size;

	for (int i = 0; good && i < n; i++)
		good = text[i] > 0x20 && text[i] != 0x7f;
	if (good) {
		memcpy(dst, text, (size_t)n);
		dst[n] = '\0';
	}
	OPENSSL_free(text);
}

static void
email_of(X509 *x, char *dst, size_t size)
{
	GENERAL_NAMES *all = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);

	for (int i = 0; i < sk_GENERAL_NAME_num(all) && dst[0] == '\0'; i++)
		if (sk_GENERAL_NAME_value(all, i)->type == GEN_EMAIL)
			take_text(sk_GENERAL_NAME_value(all, i)->d.rfc822Name, dst, size);
	GENERAL_NAMES_free(all);
}

void
tls_facts(SSL *ssl, const struct conf_tls *conf, struct tlsinfo *t)
{
	X509 *x = SSL_get0_peer_certificate(ssl);
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	char subject[512];

	*t = (struct tlsinfo){ .resumed = SSL_session_reused(ssl) == 1 };
	memccpy(t->version, SSL_get_version(ssl), 0, sizeof(t->version) - 1);
	memccpy(t->cipher, SSL_get_cipher_name(ssl), 0, sizeof(t->cipher) - 1);
	if (name != NULL)
		bytes_text(bytes_str(name), t->name, sizeof(t->name));
	if (conf == NULL || x == NULL || SSL_get_verify_result(ssl) != X509_V_OK)
		return;
	if (X509_NAME_oneline(X509_get_subject_name(x), subject, sizeof(subject)) != NULL)
		bytes_text(bytes_str(subject), t->subject, sizeof(t->subject));
	if (conf->identity == IDENTITY_EMAIL)
		email_of(x, t->user, sizeof(t->user));
	else
		take_text(common_name(X509_get_subject_name(x)), t->user, sizeof(t->user));
}
