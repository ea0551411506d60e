/* pop3_client - whatever a client sends, cut anywhere, with a plain backend that dies at will */
/* LINK: pop3/pop3.c pop3/client.c pop3/relay.c pop3/backend.c pop3/next.c pop3/snapshot.c workers/arena.c workers/relayed.c workers/sasl.c supervisor/buf.c */
#include "t/lib/servers.h"
#include "pop3/pop3.h"

int	LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/* first octet: options; then pieces: a length, a kind (the last two bits), octets of the client */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct caps offer = { 0 };
	struct caps_pop3 caps = { .known = 1, .bits = UINT32_MAX };
	struct server server = { 0 };
	struct rig *r;

	memcpy(&offer, &caps, sizeof(caps));
	r = rig_new(&pop3, &offer);
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

		(void)rig_put(&r->in, data + 2, n);
		data += 2 + n;
		size -= 2 + n;
		for (int i = 0; i < 40 && !r->over; i++) {
			size_t before = r->bin.n;

			rig_run(r);
			if (kind == 1 && i == 1)
				rig_die(r);		/* in the middle of what the piece began */
			if (r->up)
				pop3_server(r, &server);
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
