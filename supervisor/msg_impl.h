/* msg_impl - expands a message set into its table, senders and dispatcher; included by one .c a set (see msg.h) */
#include "supervisor/log.h"
#include "supervisor/msg.h"

#define MSG(N, n, num, f, t, nfd, b) \
	_Static_assert(sizeof(struct msg_##n) % 8 == 0, "size of msg_" #n); \
	_Static_assert((b) <= sizeof(struct msg_##n) && (nfd) <= CHAN_FDS, "base of msg_" #n); \
	static const struct msg_info info_##n = { #N, num, sizeof(struct msg_##n), b, nfd, f, t }; \
	int msg_send_##n(struct chan *c, const struct msg_##n *m, struct bytes tail, const int fd[]) \
	{ \
		return (chan_send(c, num, m, sizeof(*m), tail, fd, nfd)); \
	}
#include MSG_DEF
#undef MSG

int
MSG_CAT(MSG_SET, _dispatch)(const struct MSG_CAT(MSG_SET, _inbox) *in, void *self, struct chan *c,
    const struct msg_head *h, const uint8_t *raw, int fd[], int nfds)
{
	const char *wrong;

	switch (h->type) {
#define MSG(N, n, num, f, t, nfd, b) \
	case num: { \
		struct msg_##n m; \
		wrong = in->n == NULL ? "not for me" : msg_check(&info_##n, c, h, raw, nfds, &m); \
		if (wrong == NULL) \
			return (in->n(self, c, &m, bytes(raw + h->fixed, h->tail), fd) == -1 ? -1 : 1); \
		log_warnx("message " #N " from %s refused: %s", c->name, wrong); \
		return (-1); \
	}
#include MSG_DEF
#undef MSG
	default:
		return (0);
	}
}
