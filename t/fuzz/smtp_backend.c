/* smtp_backend - whatever a backend answers to a whole session, cut anywhere */
/* LINK: smtp/smtp.c smtp/client.c smtp/auth.c smtp/relay.c smtp/content.c smtp/scan.c smtp/path.c smtp/caps.c smtp/refuse.c smtp/backend.c smtp/next.c workers/arena.c workers/relayed.c workers/sasl.c supervisor/buf.c */
#include "t/lib/servers.h"
#include "smtp/smtp.h"

int	LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/* the client's side is a fixed dialogue; every octet of the backend comes from the input, 0xff is its death */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const dialogue[] = {
		"EHLO c\r\n",
		"AUTH PLAIN AGEAYg==\r\n",
		"MAIL FROM:<a@b> SIZE=10\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\n",
		"DATA\r\n",
		"Subject: x\r\n\r\ny\r\n.\r\n",
		"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n",
		"BDAT 3\r\nabc",
		"BDAT 2 LAST\r\nde",
		"RSET\r\nQUIT\r\n" };
	size_t next = 0;
	struct caps offer = { 0 };
	struct caps_smtp caps = { .known = 1, .bits = UINT32_MAX };
	struct rig *r;

	memcpy(&offer, &caps, sizeof(caps));
	r = rig_new(&smtp, &offer);
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
