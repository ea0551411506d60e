/* msg - the one place where a message is checked against its declaration (msg.h) */
#include "supervisor/msg.h"

const char *
msg_check(const struct msg_info *info, const struct chan *c, const struct msg_head *h, const uint8_t *raw, int nfds,
    void *body)
{
	size_t n = h->fixed < info->size ? h->fixed : info->size;

	if ((info->from & ROLE(c->peer)) == 0)
		return ("not the sender's to send");
	if ((info->to & ROLE(c->me)) == 0)
		return ("not mine to receive");
	if (nfds != info->fds)
		return ("wrong number of descriptors");
	if (h->fixed < info->base)
		return ("too short");
	memset(body, 0, info->size);
	memcpy(body, raw, n);
	return (NULL);
}
