/* pop3_backend - whatever a backend answers to a whole session, cut anywhere */
/* LINK: pop3/pop3.c pop3/client.c pop3/relay.c pop3/backend.c pop3/next.c pop3/snapshot.c workers/arena.c workers/relayed.c workers/sasl.c supervisor/buf.c */
#include "t/lib/servers.h"
#include "pop3/pop3.h"

int	LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/* the client's side is a fixed dialogue; every octet of the backend comes from the input, 0xff is its death */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const dialogue[] = {
		"CAPA\r\nUSER u\r\nPASS p\r\n",
		"STAT\r\nRETR 1\r\nTOP 2 3\r\n",
		"UIDL\r\nDELE 1\r\n",
		"RETR 2\r\nQUIT\r\n" };
	size_t next = 0;
	struct caps offer = { 0 };
	struct caps_pop3 caps = { .known = 1, .bits = UINT32_MAX };
	struct rig *r;

	memcpy(&offer, &caps, sizeof(caps));
	r = rig_new(&pop3, &offer);
	r->starttls = size > 0 && data[size - 1] % 2 == 1;
	r->max_deaths = 1000;
	r->b->greet(rig_turn(r));
	rig_done(r);
	while (!r->over) {
		rig_run(r);
		/* the next piece when the one before has been answered */
		if ((!r->b->pending(&r->t) || r->b->wants_content(&r->t)) && next < sizeof(dialogue) / sizeof(dialogue[0])) {
			(void)rig_put(&r->in, dialogue[next], strlen(dialogue[next]));
			next++;
			continue;
		}
		if (size == 0)
			break;
		if (*data == 0xff) {
			rig_die(r);
			data++;
			size--;
		} else {
			const uint8_t *end = memchr(data, 0xff, size);
			size_t n = end != NULL ? (size_t)(end - data) : size;

			/* in pieces of every size: the first octet of a piece tells */
			n = 1u + *data % 64 < n ? 1u + *data % 64 : n;
			(void)rig_put(&r->bin, data, n);
			data += n;
			size -= n;
		}
	}
	rig_free(r);
	return (0);
}
