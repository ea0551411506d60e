/* imap4_backend - whatever a backend answers to a whole session, cut anywhere */
/* LINK: imap4/imap4.c imap4/caps.c imap4/token.c imap4/set.c imap4/view.c imap4/client.c imap4/login.c imap4/commands.c imap4/append.c imap4/say.c imap4/next.c imap4/backend.c imap4/untagged.c imap4/tagged.c imap4/fetch.c imap4/sync.c imap4/doubt.c workers/arena.c workers/relayed.c workers/sasl.c supervisor/buf.c */
#include "t/lib/servers.h"
#include "imap4/imap4.h"

int	LLVMFuzzerTestOneInput(const uint8_t *, size_t);

enum { AGAIN = 12, TIMES = 1500 };	/* 0xfe says the octets behind it many times: lines that are longer than any buffer */

/* the client's side is a fixed dialogue; every octet of the backend comes from the input, 0xff is its death */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const dialogue[] = {
		"a CAPABILITY\r\n", "b LOGIN u p\r\n", "c SELECT box\r\n", "d FETCH 1:3 (UID BODY[])\r\n", "e NOOP\r\n",
		"f UID FETCH 1:* FLAGS\r\n", "g SEARCH RETURN (SAVE ALL) UNSEEN 2\r\n", "h IDLE\r\n", "DONE\r\n", "i STORE 2 +FLAGS (\\Deleted)\r\n",
		"j EXPUNGE\r\n", "k APPEND box {5}\r\nab: c\r\n", "l COPY 1:2 box\r\n", "m MOVE 1,3 box\r\n", "n LIST \"\" *\r\n",
		"o RENAME a b\r\n", "p CLOSE\r\n", "q LOGOUT\r\n" };
	size_t next = 0;
	struct caps offer = { 0 };
	struct caps_imap4 caps = { .known = 1, .pre = UINT64_MAX };
	struct rig *r;

	memcpy(&offer, &caps, sizeof(caps));
	r = rig_new(&imap4, &offer);
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
		} else if (*data == 0xfe && size > AGAIN) {
			for (int i = 0; i < TIMES && !r->over; i++) {
				(void)rig_put(&r->bin, data + 1, AGAIN);
				if (i % 50 == 0)
					rig_run(r);
			}
			data += 1 + AGAIN;
			size -= 1 + AGAIN;
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
