/* tls_cert - a certificate, its chain, its key and its OCSP response; what is wrong with them (tls.h) */
#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <stdio.h>

#include "workers/tls.h"

static time_t
seconds(const ASN1_TIME *t)
{
	struct tm tm;

	return (ASN1_TIME_to_tm(t, &tm) == 1 ? timegm(&tm) : 0);
}

static void
load_chain(struct tls_cert *c)
{
	BIO *b = BIO_new_file(c->conf->chain, "r");
	X509 *x;

	if (b != NULL && (c->leaf = PEM_read_bio_X509_AUX(b, NULL, NULL, NULL)) != NULL) {
		c->chain = sk_X509_new_null();
		while (c->chain != NULL && (x = PEM_read_bio_X509(b, NULL, NULL, NULL)) != NULL)
			if (sk_X509_push(c->chain, x) == 0)
				X509_free(x);
		/* the end of the file; anything else is a certificate that cannot be read: a file that is only half there */
		if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
			tls_fault(c->conf->line, "chain = \"%s\": certificate %d: %s: expected certificates in PEM", c->conf->chain,
			    sk_X509_num(c->chain) + 2, tls_reason());
		ERR_clear_error();
	}
	BIO_free(b);
}

/* Each certificate signs the one before it: else clients cannot follow. */
static void
check_chain(struct tls_cert *c)
{
	X509 *below = c->leaf;

	for (int i = 0; i < sk_X509_num(c->chain); i++) {
		X509 *x = sk_X509_value(c->chain, i);

		if (X509_check_issued(x, below) != X509_V_OK) {
			snprintf(c->fault, sizeof(c->fault), "certificate %d of the chain did not issue the one before it", i + 2);
			return;
		}
		below = x;
	}
	if (X509_check_issued(below, below) != X509_V_OK && sk_X509_num(c->chain) == 0)
		snprintf(c->fault, sizeof(c->fault), "no chain: the issuer's certificate is missing");
}

/* A certificate is good for as long as its issuers are. */
static void
take_times(struct tls_cert *c)
{
	c->not_before = seconds(X509_get0_notBefore(c->leaf));
	c->not_after = seconds(X509_get0_notAfter(c->leaf));
	c->first_end = 1;
	for (int i = 0; i < sk_X509_num(c->chain); i++) {
		time_t end = seconds(X509_get0_notAfter(sk_X509_value(c->chain, i)));

		if (end < c->not_after) {
			c->not_after = end;
			c->first_end = i + 2;
		}
	}
}

/* What a response says of the certificate; of the one that was here before a renewal is as bad: clients that read it end the
 * handshake. */
static OCSP_SINGLERESP *
about(OCSP_BASICRESP *b, X509 *leaf)
{
	for (int i = 0; i < OCSP_resp_count(b); i++) {
		OCSP_SINGLERESP *s = OCSP_resp_get0(b, i);
		ASN1_INTEGER *serial = NULL;

		(void)OCSP_id_get0_info(NULL, NULL, NULL, &serial, (OCSP_CERTID *)(uintptr_t)OCSP_SINGLERESP_get0_id(s));
		if (serial != NULL && ASN1_INTEGER_cmp(serial, X509_get0_serialNumber(leaf)) == 0)
			return (s);
	}
	return (NULL);
}

/* A stapled answer is given as it is, but only while it says good and is not too old: any other is worse than none. */
static void
take_ocsp(struct tls_cert *c, OCSP_RESPONSE *r, OCSP_SINGLERESP *s)
{
	ASN1_GENERALIZEDTIME *until = NULL;
	int n, status = s != NULL ? OCSP_single_get0_status(s, NULL, NULL, NULL, &until) : -1;

	if (s == NULL)
		c->ocsp_fault = "its OCSP response is for another certificate and not stapled";
	else if (status == V_OCSP_CERTSTATUS_REVOKED)
		c->ocsp_fault = "its OCSP response says that it is revoked, and is not stapled";
	else if (status != V_OCSP_CERTSTATUS_GOOD)
		c->ocsp_fault = "its OCSP response says that it is unknown, and is not stapled";
	else if ((n = i2d_OCSP_RESPONSE(r, &c->ocsp)) > 0) {
		c->ocsp_len = (size_t)n;
		c->ocsp_until = until != NULL ? seconds(until) : 0;
	}
}

static void
load_ocsp(struct tls_cert *c)
{
	BIO *f = BIO_new_file(c->conf->ocsp, "r");
	OCSP_RESPONSE *r = f != NULL ? d2i_OCSP_RESPONSE_bio(f, NULL) : NULL;
	OCSP_BASICRESP *b = r != NULL ? OCSP_response_get1_basic(r) : NULL;

	if (b == NULL || OCSP_resp_count(b) < 1 || OCSP_response_status(r) != OCSP_RESPONSE_STATUS_SUCCESSFUL)
		tls_fault(c->conf->line, "ocsp = \"%s\": expected a successful OCSP response in DER", c->conf->ocsp);
	else
		take_ocsp(c, r, about(b, c->leaf));
	OCSP_BASICRESP_free(b);
	OCSP_RESPONSE_free(r);
	BIO_free(f);
}

bool
tls_ocsp_good(const struct tls_cert *c, time_t now)
{
	return (c->ocsp_len > 0 && (c->ocsp_until == 0 || c->ocsp_until >= now));
}

const char *
tls_cert_fault(const struct tls_cert *c, time_t now, char *dst, size_t size)
{
	const char *ocsp = c->ocsp_fault != NULL ? c->ocsp_fault : c->ocsp_len > 0 && !tls_ocsp_good(c, now) ?
	    "its OCSP response is too old to be stapled" : "";
	char chain[64] = "";

	if (c->first_end > 1 && c->not_after < now)
		snprintf(chain, sizeof(chain), "certificate %d of the chain has expired", c->first_end);
	snprintf(dst, size, "%s%s%s%s%s", c->fault, c->fault[0] != '\0' && chain[0] != '\0' ? "; " : "", chain,
	    (c->fault[0] != '\0' || chain[0] != '\0') && ocsp[0] != '\0' ? "; " : "", ocsp);
	return (dst);
}

void
tls_cert_load(struct tls_cert *c, const struct conf_certificate *conf)
{
	BIO *b;

	c->conf = conf;
	load_chain(c);
	if (c->leaf == NULL) {
		snprintf(c->fault, sizeof(c->fault), "chain: %s", tls_reason());
		tls_fault(conf->line, "chain = \"%s\": %s: expected certificates in PEM, the server's first", conf->chain, tls_reason());
		return;
	}
	if ((b = BIO_new_file(conf->key, "r")) != NULL)
		c->key = PEM_read_bio_PrivateKey(b, NULL, NULL, (void *)(uintptr_t)"");
	BIO_free(b);
	take_times(c);
	if (c->key == NULL || X509_check_private_key(c->leaf, c->key) != 1) {
		snprintf(c->fault, sizeof(c->fault), "key: %s", c->key == NULL ? tls_reason() : "is not that of the certificate");
		tls_fault(conf->line, "key = \"%s\": %s: expected the private key of \"%s\" in PEM, without a passphrase", conf->key,
		    c->key == NULL ? tls_reason() : "is another one's", conf->chain);
		EVP_PKEY_free(c->key);
		c->key = NULL;
		return;
	}
	check_chain(c);
	if (conf->ocsp[0] != '\0')
		load_ocsp(c);
}
