/* sasl - base64 both ways and strictly, the messages of PLAIN and of the bearer mechanisms */
/* LINK: workers/sasl.c supervisor/buf.c */
#include <stdlib.h>

#include "t/lib/tap.h"
#include "workers/sasl.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))

static void
vectors(void)
{
	static const struct { const char *plain, *coded; } v[] = { { "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" }, { "foo", "Zm9v" },
		{ "foob", "Zm9vYg==" }, { "fooba", "Zm9vYmE=" }, { "foobar", "Zm9vYmFy" } };
	uint8_t dst[32];
	int bad = 0;

	for (size_t i = 0; i < N(v); i++) {
		int n = sasl_encode(bytes_str(v[i].plain), dst, sizeof(dst));

		bad += n != (int)strlen(v[i].coded) || memcmp(dst, v[i].coded, (size_t)n) != 0;
		n = sasl_decode(bytes_str(v[i].coded), dst, sizeof(dst));
		bad += n != (int)strlen(v[i].plain) || memcmp(dst, v[i].plain, (size_t)n) != 0;
	}
	ok(bad == 0, "the vectors of RFC 4648 section 10, both ways");
}

static void
both_ways(void)
{
	uint8_t in[200], coded[280], out[200];
	int bad = 0, rounds = 5000;

	for (int r = 0; r < rounds; r++) {
		size_t len = (size_t)(rand() % 200);
		int n, m;

		for (size_t i = 0; i < len; i++)
			in[i] = (uint8_t)rand();
		n = sasl_encode(bytes(in, len), coded, (len + 2) / 3 * 4);
		m = n < 0 ? -1 : sasl_decode(bytes(coded, (size_t)n), out, len);
		bad += n != (int)((len + 2) / 3 * 4) || m != (int)len || memcmp(in, out, len) != 0;
		/* one octet less room, on either side: nothing is written behind it (the sanitizer watches) */
		bad += len > 0 && (sasl_encode(bytes(in, len), coded, (len + 2) / 3 * 4 - 1) != -1 ||
		    sasl_decode(bytes(coded, (size_t)n), out, len - 1) != -1);
	}
	ok(bad == 0, "%d random messages, there and back, in exactly the room that they need", rounds);
}

static void
strict(void)
{
	static const char *const wrong[] = { "Z", "Zg", "Zg=", "Zg===", "=", "====", "=AAA", "A===", "AA=A", "Zg==Zg==", "Zm9v Zg==",
		"Zm9v\n", " Zm9v", "Zm9-", "Zm9_", "Zm9v====", "Z\x80==", "*" };
	uint8_t dst[64];
	int bad = 0;

	for (size_t i = 0; i < N(wrong); i++)
		if (sasl_decode(bytes_str(wrong[i]), dst, sizeof(dst)) != -1) {
			printf("# accepted: %s\n", wrong[i]);
			bad++;
		}
	ok(bad == 0, "what is not base64 is refused: %zu kinds", N(wrong));
	ok(sasl_decode(bytes("Zm\0v", 4), dst, sizeof(dst)) == -1, "NUL is no digit of it");
}

static void
plain(void)
{
	static const struct { const char *p; size_t n; } wrong[] = { { "", 0 }, { "a", 1 }, { "a\0b", 3 }, { "\0\0", 2 }, { "\0\0p", 3 },
		{ "\0u\0", 3 }, { "\0u\0p\0", 5 }, { "\0u\0p\0q", 6 }, { "\0", 1 } };
	struct bytes zid, cid, pw;
	int bad = 0;

	ok(sasl_plain(bytes("\0u\0p", 4), &zid, &cid, &pw) == 0 && zid.n == 0 && bytes_eq(cid, BYTES("u")) && bytes_eq(pw, BYTES("p")),
	    "PLAIN without an authorization identity");
	ok(sasl_plain(bytes("z\0us\0 p ", 8), &zid, &cid, &pw) == 0 && bytes_eq(zid, BYTES("z")) && bytes_eq(cid, BYTES("us")) &&
	    bytes_eq(pw, BYTES(" p ")), "and with one; spaces of the password are kept");
	for (size_t i = 0; i < N(wrong); i++)
		bad += sasl_plain(bytes(wrong[i].p, wrong[i].n), &zid, &cid, &pw) != -1;
	ok(bad == 0, "malformed ones are refused: %zu kinds", N(wrong));
}

static void
bearer(void)
{
	ok(bytes_eq(sasl_bearer_user(BYTES("user=a@b\1auth=Bearer x\1\1")), BYTES("a@b")), "the user of XOAUTH2");
	ok(bytes_eq(sasl_bearer_user(BYTES("n,a=a@b,\1host=h\1auth=Bearer x\1\1")), BYTES("a@b")), "and of OAUTHBEARER");
	ok(sasl_bearer_user(BYTES("n,,\1auth=Bearer x\1\1")).n == 0, "none is named");
	ok(sasl_bearer_user(BYTES("")).n == 0 && sasl_bearer_user(BYTES("user=")).n == 0 && sasl_bearer_user(BYTES("use")).n == 0,
	    "nor in what is cut short");
	ok(sasl_bearer_user(BYTES("user=victim\1user=me\1auth=Bearer x\1\1")).n == 0, "XOAUTH2 that names two names nobody");
	ok(sasl_bearer_user(BYTES("user=victim\1auth=Bearer x\1USER=me\1\1")).n == 0, "in any case and place");
	ok(sasl_bearer_user(BYTES("n,a=victim,a=me,\1auth=Bearer x\1\1")).n == 0, "nor does OAUTHBEARER");
	ok(sasl_bearer_user(BYTES("n,a=victim,\1x=,a=me,\1auth=Bearer x\1\1")).n == 0 &&
	    sasl_bearer_user(BYTES("n,a=victim,\1a=me\1auth=Bearer x\1\1")).n == 0, "wherever the other is");
	ok(sasl_bearer_user(BYTES("n,a=a=2Cb,\1auth=Bearer x\1\1")).n == 0, "an escaped name is not guessed");
}

static void
one_relayed(const char *mech, const char *message, const char *want, const char *want_prover)
{
	struct bytes prover, user = sasl_relayed_user(bytes_str(mech), bytes_str(message), &prover);

	ok(bytes_eq(user, bytes_str(want)) && bytes_eq(prover, bytes_str(want_prover)), "%s: %s", mech, message);
}

static void
relayed(void)
{
	one_relayed("CRAM-MD5", "u 123", "u", "u");
	one_relayed("CRAM-MD5", "u v 123", "u v", "u v");
	one_relayed("CRAM-MD5", " 123", "", "?");
	one_relayed("CRAM-MD5", "123", "", "?");
	one_relayed("CRAM-MD5", "", "", "?");
	one_relayed("SCRAM-SHA-1", "n,,n=u,r=x", "u", "u");
	one_relayed("SCRAM-SHA-1", "y,a=z,n=u,r=x", "z", "u");
	one_relayed("SCRAM-SHA-1", "n,a=z=2C,n=u,r=x", "", "u");
	one_relayed("SCRAM-SHA-1", "n,,n=u=2C,r=x", "", "u=2C");
	one_relayed("SCRAM-SHA-1", "n,,n=u,a=z,r=x", "u", "u");
	one_relayed("SCRAM-SHA-1", "n,n=z,n=u,r=x", "", "?");
	one_relayed("SCRAM-SHA-1", "n,a=,n=u,r=x", "", "?");
	one_relayed("SCRAM-SHA-1", "n,,n=,r=x", "", "?");
	one_relayed("SCRAM-SHA-1", "c=biws,r=x,p=y", "", "?");
	one_relayed("SCRAM-SHA-1", "", "", "?");
}

static void
master(void)
{
	uint8_t dst[64];
	int n = sasl_master(BYTES("u"), "m", "p", dst, sizeof(dst));

	ok(n > 0 && bytes_eq(bytes(dst, (size_t)n), BYTES("dQBtAHA=")), "the master user in a user's name: u NUL m NUL p");
	ok(sasl_master(BYTES(""), "m", "p", dst, sizeof(dst)) == -1 && sasl_master(bytes("u\0m", 3), "m", "p", dst, sizeof(dst)) == -1 &&
	    sasl_master(BYTES("u"), "", "", dst, sizeof(dst)) == -1, "not for nobody, nor with NUL, nor without a master");
	ok(sasl_master(BYTES("u"), "m", "p", dst, 7) == -1, "nor without room");
}

int
main(void)
{
	vectors();
	both_ways();
	strict();
	plain();
	bearer();
	relayed();
	master();
	return (done_testing());
}
