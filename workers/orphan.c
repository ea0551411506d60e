/*
 * orphan - a session whose listener died before the fdstore was told of it (engine.h)
 *
 * It makes a channel and gives its far end, with client and journal, to its zygote, which brings them to the next listener
 * (deposit_orphan). What it asks meanwhile waits in the channel, within the client's hold time.
 */
#include <string.h>
#include <unistd.h>

#include "workers/engine.h"
#include "workers/zygote.h"

int
orphan(struct session *s)
{
	struct chan way = { .me = R_SESSION, .peer = R_ZYGOTE, .name = "zygote" };
	struct msg_orphan m = { .k = { .sid = s->sid, .there = 1u << KEEP_CLIENT | 1u << KEEP_JOURNAL | 1u << KEEP_LINK,
	    .since_ms = s->began_ms, .failovers = s->w.failovers, .backend_told = s->backend_id, .peer = s->peer, .tls = s->tls } };
	int fd[KEEP_FDS] = { s->client, s->j.fd, -1, s->client }, pair[2], sent;

	if (s->probe || s->client == -1 || s->over || chan_pair(pair) == -1)
		return (-1);
	memcpy(m.k.service, s->service, sizeof(m.k.service));
	if (s->link == LINK_UP)
		memcpy(m.k.backend, s->info.name, sizeof(m.k.backend));
	s->b->user(&s->t, m.k.user, sizeof(m.k.user));
	fd[KEEP_LINK] = pair[1];
	if (s->spool.file != -1) {
		m.k.there |= 1u << KEEP_FILE;
		fd[KEEP_FILE] = s->spool.file;
	}
	chan_open(&way, NULL, ORPHAN_FD);
	sent = msg_send_orphan(&way, &m, bytes("", 0), fd) == -1 || way.queued > 0 ? -1 : 0;
	(void)chan_detach(&way);
	close(pair[1]);
	if (sent == -1)
		close(pair[0]);
	else
		session_listen(s, pair[0]);
	return (sent);
}
