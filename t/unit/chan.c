/* chan - declared messages with descriptors; nonsense is the sender's fault and is told as such */
/* LINK: supervisor/chan.c supervisor/msg.c supervisor/sup_msg.c supervisor/buf.c supervisor/log.c workers/gw_msg.c */
#include <sys/socket.h>
#include <fcntl.h>
#include <unistd.h>

#include "supervisor/chan.h"
#include "supervisor/log.h"
#include "t/lib/tap.h"
#include "workers/gw_msg.h"

static struct { uint32_t want; uint64_t serial; int bad, gone, handled, tail; } got;

static int
on_want(void *self, struct chan *c, const struct msg_want *m, struct bytes tail, int fd[])
{
	(void)self, (void)c, (void)fd;
	got.want = m->n;
	got.tail = (int)tail.n;
	got.handled++;
	return (0);
}

static int
on_child(void *self, struct chan *c, const struct msg_child *m, struct bytes tail, int fd[])
{
	(void)self, (void)c, (void)tail;
	got.serial = m->serial;
	got.handled += fcntl(fd[0], F_GETFD) == FD_CLOEXEC;
	return (0);
}

static const struct gw_inbox inbox = { .want = on_want, .child = on_child };

static int
on_message(void *self, struct chan *c, const struct msg_head *h, const uint8_t *body, int fd[], int nfds)
{
	return (gw_dispatch(&inbox, self, c, h, body, fd, nfds) == 1 ? 0 : -1);
}

static void
on_gone(void *self, struct chan *c, const char *why)
{
	(void)self, (void)why;
	got.gone++;
	chan_close(c);
}

static void
on_bad(void *self, struct chan *c, const char *why)
{
	(void)self, (void)why;
	got.bad++;
	chan_close(c);
}

static struct chan in, out;

static void
pair(uint8_t me, uint8_t peer)
{
	int fd[2];

	chan_close(&in);
	chan_close(&out);
	if (chan_pair(fd) == -1)
		_exit(1);
	memset(&got, 0, sizeof(got));
	in = (struct chan){ .me = me, .peer = peer, .name = "t", .read = on_message, .gone = on_gone, .bad = on_bad };
	out = (struct chan){ .me = peer, .peer = me, .name = "t", .read = on_message, .gone = on_gone, .bad = on_bad };
	chan_open(&in, NULL, fd[0]);
	chan_open(&out, NULL, fd[1]);
}

static bool
refused(uint16_t type, const void *body, uint16_t fixed, uint32_t tail_said, size_t sent, int nfds)
{
	uint8_t raw[512] = { 0 };
	struct msg_head h = { type, fixed, tail_said };
	int fds[CHAN_FDS] = { 0, 0, 0, 0 };

	memcpy(raw, &h, sizeof(h));
	memcpy(raw + sizeof(h), body, fixed < 400 ? fixed : 400);
	if (nfds > 0)		/* chan_send writes head, body and no tail */
		(void)chan_send(&out, type, body, fixed, bytes("", 0), fds, nfds);
	else
		(void)!send(out.fd, raw, sizeof(h) + sent, MSG_NOSIGNAL);
	(void)chan_poll(&in);
	return (got.bad == 1 && got.handled == 0 && in.fd == -1 && out.fd != -1);
}

int
main(void)
{
	struct { struct msg_want m; uint8_t behind[64]; } room = { .m = { .n = 7 } };
	struct msg_child c = { .serial = 42 };
	uint8_t longer[64] = { 9 };
	int null, last;

	in.fd = out.fd = -1;
	log_open("chan", false);
	if (freopen("/dev/null", "w", stderr) == NULL)
		return (1);
	pair(R_ZYGOTE, R_LISTENER);
	(void)msg_send_want(&out, &room.m, bytes("abc", 3), NULL);
	(void)chan_poll(&in);
	ok(got.handled == 1 && got.want == 7 && got.tail == 3, "a message with a tail");
	pair(R_ZYGOTE, R_LISTENER);
	(void)chan_send(&out, 32, longer, sizeof(longer), bytes("", 0), NULL, 0);
	(void)chan_poll(&in);
	ok(got.handled == 1 && got.want == 9, "a longer message of a newer peer is cut");
	pair(R_LISTENER, R_ZYGOTE);
	null = open("/dev/null", O_RDONLY);
	(void)msg_send_child(&out, &c, bytes("", 0), &null);
	(void)chan_poll(&in);
	ok(got.handled == 1 && got.serial == 42, "a descriptor comes with its message, close-on-exec");
	last = open("/dev/null", O_RDONLY);
	close(last);
	pair(R_ZYGOTE, R_LISTENER);
	ok(refused(32, &room.m, 4, 0, 4, 0), "shorter than the first release's: refused, only the sender's channel ends");
	pair(R_ZYGOTE, R_LISTENER);
	ok(refused(32, &room.m, 8, 100, 8, 0), "a tail that is not there");
	pair(R_ZYGOTE, R_LISTENER);
	ok(refused(32, &room, 60, 0, 8, 0), "a body that is not there");
	pair(R_ZYGOTE, R_LISTENER);
	ok(refused(32, &room.m, 8, 0, 8, 1), "a descriptor too many");
	pair(R_LISTENER, R_ZYGOTE);
	ok(refused(33, &c, 16, 0, 16, 0), "a descriptor that is missing");
	pair(R_LISTENER, R_ZYGOTE);
	ok(refused(32, &room.m, 8, 0, 8, 0), "a message that is not for me");
	pair(R_ZYGOTE, R_SESSION);
	ok(refused(32, &room.m, 8, 0, 8, 0), "a sender that may not send it");
	pair(R_ZYGOTE, R_LISTENER);
	ok(refused(31000, &room.m, 8, 0, 8, 0), "an unknown number");
	pair(R_ZYGOTE, R_LISTENER);
	ok(refused(32, &room.m, 0, 0, 3, 0) || got.bad == 1, "less than a head");
	pair(R_ZYGOTE, R_LISTENER);
	chan_close(&out);
	(void)chan_poll(&in);
	ok(got.gone == 1 && got.bad == 0, "the end of a channel is not nonsense");
	pair(R_ZYGOTE, R_LISTENER);
	(void)!send(in.fd, "x", 1, MSG_NOSIGNAL);
	(void)msg_send_want(&out, &room.m, bytes("", 0), NULL);
	chan_close(&out);
	while (chan_poll(&in) == 1)
		;
	ok(got.handled == 1 && got.gone == 1, "the last words of a peer that did not read all of ours");
	pair(R_ZYGOTE, R_LISTENER);
	for (int i = 0; i < 2000; i++)
		last = msg_send_want(&out, &room.m, bytes("", 0), NULL);
	ok(last == -1 && out.fd != -1, "the queue for a peer that takes nothing is bounded");
	for (int i = 0; i < 2000 && chan_poll(&in) == 1; i++)
		(void)chan_poll(&out);
	ok(got.handled >= CHAN_QUEUE, "and what was queued arrives");
	pair(R_ZYGOTE, R_LISTENER);
	null = dup(0);
	ok(null < 20, "no descriptor is left behind");
	return (done_testing());
}
