/* sasl - what is common to the protocols in SASL: base64 and the messages of PLAIN (RFC 4616) and bearer mechanisms; pure */
#ifndef WORKERS_SASL_H
#define WORKERS_SASL_H

#include "supervisor/buf.h"

/* Decodes strict base64 (RFC 4648 section 4) into dst; the length, or -1. */
int	sasl_decode(struct bytes, uint8_t *dst, size_t size);
/* Encodes; the length, or -1 when dst is too small. */
int	sasl_encode(struct bytes, uint8_t *dst, size_t size);
/* authzid NUL authcid NUL password. 0, or -1: not well formed. The parts point into message. */
int	sasl_plain(struct bytes message, struct bytes *authzid, struct bytes *authcid, struct bytes *password);
/* The user named in an XOAUTH2 ("user=...^A") or OAUTHBEARER ("n,a=...,^A", RFC 7628 section 3.1) message; empty when there is
 * none, when it is escaped, or named twice: a backend may then take the other one, and the master user must not act for this. */
struct bytes sasl_bearer_user(struct bytes message);

/* The user named by the client's first message of a mechanism that is passed on: CRAM-MD5 (RFC 2195: "user digest") and SCRAM
 * (RFC 5802 section 7: n=, or a= before it). Empty when there is none, or it is escaped. prover: who is to prove himself, n= alone,
 * escaped or not; "?": nobody is named. */
struct bytes sasl_relayed_user(struct bytes mechanism, struct bytes message, struct bytes *prover);

/* EXTERNAL (RFC 4422 appendix A): the client's message names nobody or user, who is known by his certificate. Writes PLAIN's
 * message, in base64, by which a master user logs in as user. The length, or -1: it names another, or dst is too small. */
int	sasl_external(struct bytes message, const char *user, const char *master, const char *password, uint8_t *dst,
	    size_t size);
/* The same for a user that the backend knows already, of any octets but NUL. The length, or -1: no user, no master, no room. */
int	sasl_master(struct bytes user, const char *master, const char *password, uint8_t *dst, size_t size);

#endif
