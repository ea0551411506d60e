/* imap4_client - whatever a client sends, cut anywhere, with a plain backend that dies at will */
/* LINK: imap4/imap4.c imap4/caps.c imap4/token.c imap4/set.c imap4/view.c imap4/client.c imap4/login.c imap4/commands.c imap4/append.c imap4/say.c imap4/next.c imap4/backend.c imap4/untagged.c imap4/tagged.c imap4/fetch.c imap4/sync.c imap4/doubt.c workers/arena.c workers/relayed.c workers/sasl.c supervisor/buf.c */
#include "t/lib/servers.h"
#include "imap4/imap4.h"

int	LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/* first octet: options; then pieces: a length, a kind (the last two bits; 4: the piece many times), octets of the client */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct caps offer = { 0 };
	struct caps_imap4 caps = { .known = 1, .pre = UINT64_MAX };
	struct server server = { 0 };
	struct rig *r;

	memcpy(&offer, &caps, sizeof(caps));
	r = rig_new(&imap4, &offer);
	r->peer.starttls = true;
	r->limits.errors = 1000;
	if (size > 0) {
		r->peer.normalize = (data[0] & 1) != 0;
		r->peer.tempfail = (data[0] & 2) != 0;
		data++;
		size--;
	}
	r->b->greet(rig_turn(r));
	rig_done(r);
	while (size >= 2 && !r->over) {
		size_t n = data[0] < size - 2 ? data[0] : size - 2;
		uint8_t kind = data[1] & 3;

		for (int i = 0; i < (data[1] & 4 ? 300 : 1); i++) {
			(void)rig_put(&r->in, data + 2, n);
			if (i % 30 == 29)
				rig_run(r);
		}
		data += 2 + n;
		size -= 2 + n;
		for (int i = 0; i < 40 && !r->over; i++) {
			size_t before = r->bin.n;

			rig_run(r);
			if (kind == 1 && i == 1)
				rig_die(r);		/* in the middle of what the piece began */
			if (r->up)
				imap4_server(r, &server);
			if (r->bin.n == before && i > 2)
				break;
		}
		if (kind == 2)
			rig_die(r);
		if (kind == 3)
			rig_refuse(r, WHY_LOST);
	}
	rig_free(r);
	return (0);
}
