/*
 * starttls - TLS that begins in mid-session, with the client or with the backend (engine.h)
 *
 * The session speaks clear text all its life. What it gives its listener is the socket, once the go-ahead has gone out
 * and all that came before it is thrown away (CVE-2011-0411); what it gets is the clear end of a pair that a tls process
 * serves. In between that side has no socket. The journal's core says how far it is, so that a process that resumes it
 * neither speaks nor hears a clear word more.
 */
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

void
starttls_go(struct session *s)
{
	struct msg_secure m = { .id = s->sid, .side = SIDE_CLIENT };

	if (s->w.secure != SECURE_OWED || s->w.out_start != s->w.out_end || s->client == -1 || s->w.closing)
		return;
	s->w.secure = SECURE_ASKED;
	session_commit(s);
	if (s->chan.fd == -1 || msg_send_secure(&s->chan, &m, bytes("", 0), &s->client) == -1)
		lost(s);
	close(s->client);
	s->client = -1;
}

void
starttls_backend(struct session *s)
{
	struct msg_secure m = { .id = s->ask_id, .side = SIDE_BACKEND };

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

static int
backend_secured(struct session *s, const struct msg_secured *m, int fd[])
{
	if (s->link != LINK_SECURING || m->id != s->ask_id)
		return (0);	/* an answer that nobody waits for */
	s->link = LINK_UP;
	s->backend = fd[0];
	fd[0] = -1;
	s->wait_until = s->now + s->wait_ms;
	return (0);
}

int
starttls_secured(struct session *s, const struct msg_secured *m, int fd[])
{
	if (m->side == SIDE_BACKEND)
		return (backend_secured(s, m, fd));
	if (s->w.secure != SECURE_ASKED || s->client != -1)
		return (0);
	s->client = fd[0];
	fd[0] = -1;
	s->tls = m->tls;
	s->master = m->master;
	s->peer.tls = s->peer.auth_ok = true;
	s->peer.starttls = false;
	s->j.head->peer = s->peer;
	s->j.head->tls = s->tls;
	s->w.secure = SECURE_DONE;
	session_commit(s);
	client_idle_from_now(s);
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
	if (s->w.secure == SECURE_ASKED && s->client == -1)
		lost(s);
	if (s->link == LINK_SECURING)
		backend_lost(s, BFAIL_CLOSED, "no TLS to be had");
}
