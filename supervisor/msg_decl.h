/* msg_decl - expands a message set into its enum, typed senders and typed inbox (see msg.h) */
#include "supervisor/msg.h"

#define MSG_CAT_(a, b)	a##b
#define MSG_CAT(a, b)	MSG_CAT_(a, b)

enum {
#define MSG(N, n, num, from, to, fds, base) MSG_##N = num,
#include MSG_DEF
#undef MSG
};

/* Declares msg_send_NAME(chan, &body, tail, fds). 0, or -1 as chan_send. */
#define MSG(N, n, num, from, to, fds, base) \
	int msg_send_##n(struct chan *, const struct msg_##n *, struct bytes tail, const int fd[]);
#include MSG_DEF
#undef MSG

/* A process's whole inbox is one initialiser; NULL means: not for me. A handler returns 0, or -1 for nonsense. */
struct MSG_CAT(MSG_SET, _inbox) {
#define MSG(N, n, num, from, to, fds, base) \
	int (*n)(void *self, struct chan *, const struct msg_##n *, struct bytes tail, int fd[]);
#include MSG_DEF
#undef MSG
};

/* 1 handled, 0 not of this set, -1 nonsense (logged with the message's name). */
int MSG_CAT(MSG_SET, _dispatch)(const struct MSG_CAT(MSG_SET, _inbox) *, void *self, struct chan *,
    const struct msg_head *, const uint8_t *raw, int fd[], int nfds);
