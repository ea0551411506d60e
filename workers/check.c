/*
 * check - an operator's check of a backend: a probe, and then a session that logs in (engine.h)
 *
 * The first part is what each health check is: greeting, TLS, capabilities. The second is what a client's session does, with
 * an address that no client has (RFC 5737), so that the backend's log shows whether it is believed.
 */
#include <stdio.h>
#include <unistd.h>

#include "workers/engine.h"

static char user[64], password[128], login[128], forwarding[128], report[512];

void
check_begin(struct session *s, struct bytes tail)
{
	bytes_text(bytes_token(&tail, 0), user, sizeof(user));
	bytes_text(bytes_token(&tail, 0), password, sizeof(password));
	snprintf(login, sizeof(login), "not tried: no user was given");
	snprintf(forwarding, sizeof(forwarding), "not tried: no user was given");
	s->checking = user[0] != '\0';
	if (s->checking)
		snprintf(login, sizeof(login), "not reached");
}

bool
check_next(struct session *s)
{
	if (!s->checking || s->checked.known)
		return (false);
	(void)s->b->probed(&s->t, &s->checked);
	s->checked.known = 1;
	backend_close(s, true);
	memset(s->w.pst, 0, s->b->pst_size);
	s->w.log_len = s->log.len = 0;
	s->w.spool = (struct spool_state){ 0 };
	s->offer = s->checked;
	memccpy(s->peer.addr, "192.0.2.1", 0, sizeof(s->peer.addr));
	memccpy(s->peer.local, "192.0.2.2", 0, sizeof(s->peer.local));
	s->peer.port = s->peer.local_port = 4711;
	s->peer.auth_ok = true;
	s->b->try_login(turn_begin(s), bytes_str(user), bytes_str(password));
	turn_end(s);
	return (true);
}

void
check_answered(struct session *s)
{
	char who[64] = "";

	if (!s->probe || !s->checked.known)
		return;
	s->b->user(&s->t, who, sizeof(who));
	snprintf(forwarding, sizeof(forwarding), "%s", s->b->forwarded(&s->t));
	if (who[0] != '\0')
		snprintf(login, sizeof(login), "good");
	else {
		/* what the client would have been told */
		struct bytes told = bytes(s->to_client.p, s->to_client.len);

		while (told.n > 0 && (told.p[told.n - 1] == '\r' || told.p[told.n - 1] == '\n'))
			told.n--;
		bytes_text(told, s->how, sizeof(s->how));
		snprintf(login, sizeof(login), "refused");
	}
	session_end(s, REASON_PROBE);
}

struct bytes
check_report(struct session *s)
{
	struct out o = { (uint8_t *)report, 0, sizeof(report), false };
	const char *part[] = { forwarding, login, s->how };

	explicit_bzero(password, sizeof(password));
	for (int i = 0; i < 3; i++)
		out_put(&o, bytes(part[i], strlen(part[i]) + 1));
	return (bytes(o.p, o.len));
}
