/*
 * balancer_peers - what listeners tell each other, by way of the balancer (balancer.h)
 *
 * What a backend can do, between the listeners of a protocol, so that each offers the same although one of them probes; how
 * logins went, between all; and a table in which each counts its clients (counts.h). A listener that comes is told all of it.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "workers/balancer.h"
#include "workers/share.h"

/* Every listener's place is its row; the others of its protocol and of its share are its sums. */
static void
send_counts(struct balancer *b, struct blistener *to)
{
	struct msg_counts m = { .row = (uint32_t)(to - b->listener) };
	int fd = b->counts_fd;

	for (uint32_t i = 0; i < BLISTENERS; i++) {
		const struct blistener *l = &b->listener[i];

		if (l->id[0] != '\0' && strcmp(l->protocol, to->protocol) == 0)
			m.protocol |= 1u << i;
		if (l->id[0] != '\0' && share_of(l->id) == share_of(to->id))
			m.share |= 1u << i;
	}
	if (fd != -1 && to->chan.fd != -1)
		(void)msg_send_counts(&to->chan, &m, bytes("", 0), &fd);
}

static void
send_caps(struct balancer *b, struct blistener *to, uint32_t service, uint32_t k)
{
	const struct backend *be = &b->service[service].backend[k];
	struct msg_caps m = { .service = service, .backend = k, .caps = be->caps };

	memcpy(m.name, be->name, sizeof(m.name));
	if (to->chan.fd != -1 && be->caps.known && strcmp(to->protocol, b->conf->service[service].protocol) == 0)
		(void)msg_send_caps(&to->chan, &m, bytes("", 0), NULL);
}

int
peers_caps(struct blistener *l, const struct msg_caps *m)
{
	struct balancer *b = l->b;

	if (m->service >= b->conf->nservice || m->backend >= b->service[m->service].n ||
	    strncmp(b->service[m->service].backend[m->backend].name, m->name, CONF_NAME) != 0 ||
	    strcmp(b->conf->service[m->service].protocol, l->protocol) != 0)
		return (0);		/* of an image that one of us does not know yet, or any more */
	b->service[m->service].backend[m->backend].caps = m->caps;
	for (uint32_t i = 0; i < BLISTENERS; i++)
		if (&b->listener[i] != l)
			send_caps(b, &b->listener[i], m->service, m->backend);
	return (0);
}

int
peers_logged(struct blistener *l, const struct msg_logged *m)
{
	struct balancer *b = l->b;

	for (uint32_t i = 0; i < BLISTENERS; i++)
		if (&b->listener[i] != l && b->listener[i].chan.fd != -1)
			(void)msg_send_logged(&b->listener[i].chan, m, bytes("", 0), NULL);
	return (0);
}

static struct blistener *
place(struct balancer *b, const char *id)
{
	for (uint32_t i = 0; i < BLISTENERS; i++)
		if (strcmp(b->listener[i].id, id) == 0)
			return (&b->listener[i]);
	for (uint32_t i = 0; i < BLISTENERS; i++)
		if (b->listener[i].id[0] == '\0')
			return (&b->listener[i]);
	return (NULL);
}

void
peers_listener(struct balancer *b, const char *id, int fd, int (*read)(void *, struct chan *, const struct msg_head *,
    const uint8_t *, int[], int), void (*gone)(void *, struct chan *, const char *))
{
	struct blistener *l = place(b, id);
	bool known;

	if (l == NULL) {
		close(fd);
		return;
	}
	if (l->chan.fd != -1)
		gone(l, &l->chan, "replaced");
	known = l->id[0] != '\0';
	snprintf(l->id, sizeof(l->id), "%s", id);
	snprintf(l->protocol, sizeof(l->protocol), "%.*s", (int)strcspn(id, "/"), id);
	l->b = b;
	l->chan = (struct chan){ .me = R_BALANCER, .peer = R_LISTENER, .name = "listener", .self = l, .read = read, .gone = gone,
	    .queue_max = 16384 };
	chan_open(&l->chan, b->loop, fd);
	for (uint32_t i = 0; i < BLISTENERS; i++)
		if (&b->listener[i] == l || !known)
			send_counts(b, &b->listener[i]);
	for (uint32_t i = 0; i < b->conf->nservice; i++)
		for (uint32_t k = 0; k < b->service[i].n; k++) {
			send_caps(b, l, i, k);
			if (!b->service[i].backend[k].caps.known)	/* it serves nobody before it has learned that */
				b->service[i].backend[k].health.next_probe_ms = 0;
		}
}
