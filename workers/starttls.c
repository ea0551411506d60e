/*
 * starttls - TLS that begins in mid-session, with the client or with the backend (engine.h)
 *
 * The session speaks clear text all its life. With a client: once the go-ahead has gone out and all that came behind the command is
 * thrown away (CVE-2011-0411), the socket goes to a tls process by way of the listener, and the clear end of a pair takes its
 * place at once, here, in the listener and in the fdstore. Before the client's first octet the tls process says on it that it has
 * begun, and how it went (TLS_WORD); that is read and counted as the client's octets are. So the listener may die meanwhile, or this
 * process. A socket that no tls process has touched when a listener dies goes to the next one; it is kept here until then.
 *
 * A backend's socket is given away, and what comes back is the clear end; in between that side has no socket.
 */
#include <sys/socket.h>
#include <stdio.h>
#include <unistd.h>

#include "supervisor/log.h"
#include "workers/engine.h"

void
starttls_client(struct session *s)
{
	uint32_t dropped = s->w.in_end - s->w.in_start;

	if (dropped > 0)
		log_notice("session %s: %u octets behind the command that begins TLS dropped", s->peer.session, dropped);
	s->w.in_start = s->w.in_end = s->w.scanned = 0;
	s->w.secure = SECURE_OWED;
}

bool
starttls_deaf(const struct session *s)
{
	return (s->w.secure == SECURE_OWED || s->w.secure == SECURE_ASKED);
}

static void
lost(struct session *s)
{
	s->client_gone = true;
	s->w.client_eof = 1;
	session_end(s, REASON_TLS);
}

static void
drop_net(struct session *s)
{
	if (s->net != -1)
		close(s->net);
	s->net = -1;
}

/* Nobody has touched it. */
static void
take_back(struct session *s)
{
	close(s->client);
	s->client = s->net;
	s->net = -1;
	s->cut = false;
	s->w.secure = SECURE_OWED;
}

void
starttls_go(struct session *s)
{
	struct msg_starttls m = { .id = s->sid };
	int pair[2], fd[3];

	if (s->w.secure != SECURE_OWED || s->w.out_start != s->w.out_end || s->client == -1 || s->w.closing)
		return;
	if (s->chan.fd == -1 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == -1) {
		lost(s);
		return;
	}
	s->w.secure = SECURE_ASKED;
	s->w.in_start = s->w.in_end = 0;
	session_commit(s);
	fd[0] = s->net = s->client;
	fd[1] = pair[1];
	fd[2] = s->client = pair[0];
	s->cut = s->asked_another = false;
	if (msg_send_starttls(&s->chan, &m, bytes("", 0), fd) == -1)
		take_back(s);		/* it has died: the next one is asked */
	close(pair[1]);
}

uint32_t
starttls_room(const struct session *s)
{
	return (TLS_WORD - (s->w.in_end - s->w.in_start));
}

/* As the journal has it; the listener is told if it does not know. */
static void
up(struct session *s, bool tell)
{
	struct msg_tlson m = { .id = s->sid, .tls = s->j.head->tls };

	s->tls = m.tls;
	s->peer.tls = s->peer.auth_ok = true;
	s->peer.starttls = false;
	s->j.head->peer = s->peer;
	if (tell)
		(void)msg_send_tlson(&s->chan, &m, bytes("", 0), NULL);
}

void
starttls_heard(struct session *s)
{
	const uint8_t *word = s->j.in + s->w.in_start;
	uint32_t n = s->w.in_end - s->w.in_start;

	if (s->w.secure != SECURE_ASKED || n == 0)
		return;
	drop_net(s);
	if (word[0] != TLS_BEGUN) {
		log_warnx("session %s: nonsense where TLS was to begin", s->peer.session);
		lost(s);
		return;
	}
	if (n < TLS_WORD)
		return;
	memcpy(&s->j.head->tls, word + 1, sizeof(s->j.head->tls));
	up(s, true);
	s->w.in_start += TLS_WORD;
	s->w.secure = SECURE_DONE;
	session_commit(s);
	client_idle_from_now(s);
}

/* The listener that was asked says why, as long as it is there. */
static void
again(struct session *s)
{
	if (!s->cut || !s->asked_another)
		return;
	if (s->net == -1)
		lost(s);
	else
		take_back(s);
}

void
starttls_cut(struct session *s)
{
	s->cut = true;
	again(s);
}

void
starttls_resume(struct session *s)
{
	int domain = AF_UNIX;
	socklen_t n = sizeof(domain);

	if (s->w.secure == SECURE_DONE)
		up(s, memcmp(&s->tls, &s->j.head->tls, sizeof(s->tls)) != 0);
	if (!starttls_deaf(s))
		return;
	/* the one before us may have died on either side of the message that gives the socket away */
	(void)getsockopt(s->client, SOL_SOCKET, SO_DOMAIN, &domain, &n);
	s->w.secure = domain == AF_UNIX ? SECURE_ASKED : SECURE_OWED;
	s->asked_another = true;
	starttls_heard(s);
}

void
starttls_backend(struct session *s)
{
	struct msg_secure m = { .id = s->ask_id };

	/* whoever speaks between its go-ahead and TLS is not the one that we want */
	if (buf_len(&s->bin) > 0) {
		backend_lost(s, BFAIL_NONSENSE, "speaks between its go-ahead and TLS");
		return;
	}
	if (s->chan.fd == -1 || msg_send_secure(&s->chan, &m, bytes("", 0), &s->backend) == -1) {
		backend_lost(s, BFAIL_CLOSED, "no TLS to be had");
		return;
	}
	close(s->backend);
	s->backend = -1;
	s->link = LINK_SECURING;
	s->wait_until = s->now + s->times.greeting;
}

int
starttls_secured(struct session *s, const struct msg_secured *m, int fd[])
{
	if (s->link != LINK_SECURING || m->id != s->ask_id)
		return (0);	/* an answer that nobody waits for */
	s->link = LINK_UP;
	s->backend = fd[0];
	fd[0] = -1;
	s->wait_until = s->now + s->wait_ms;
	return (0);
}

void
starttls_insecure(struct session *s, const struct msg_insecure *m, struct bytes why)
{
	char text[128], whole[160];

	bytes_text(why, text, sizeof(text));
	if (m->side == SIDE_BACKEND) {
		snprintf(whole, sizeof(whole), "TLS: %s", text);
		if (s->link == LINK_SECURING && m->id == s->ask_id)
			backend_lost(s, BFAIL_CONNECT, whole);
	} else if (s->w.secure == SECURE_ASKED) {
		log_info("session %s: TLS handshake with %s failed: %s", s->peer.session, s->peer.addr, text);
		lost(s);
	}
}

void
starttls_orphan(struct session *s)
{
	if (s->w.secure == SECURE_ASKED) {
		s->asked_another = true;
		again(s);
	}
	if (s->link == LINK_SECURING)
		backend_lost(s, BFAIL_CLOSED, "no TLS to be had");
}
