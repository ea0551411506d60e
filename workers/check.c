/*
 * check - an operator's check of a backend: a probe, and then a session that logs in (engine.h)
 *
 * The first part is what each health check is: greeting, TLS, capabilities. The second is what a client's session does, with
 * an address that no client has (RFC 5737), so that the backend's log shows whether it is believed.
 */
#include <stdio.h>
#include <unistd.h>

#include "workers/check.h"
#include "workers/engine.h"

static char user[64], password[128], login[128], forwarding[256], told[16], report[640];

void
check_client(struct peerinfo *p)
{
	memccpy(p->addr, CHECK_ADDR, 0, sizeof(p->addr));
	memccpy(p->local, "192.0.2.2", 0, sizeof(p->local));
	p->port = p->local_port = 4711;
	p->v6 = false;
}

void
check_begin(struct session *s, struct bytes tail)
{
	bytes_text(bytes_token(&tail, 0), user, sizeof(user));
	bytes_text(bytes_token(&tail, 0), password, sizeof(password));
	s->checking = user[0] != '\0';
	snprintf(login, sizeof(login), "%s", s->checking ? "not reached" : "not tried: no user was given");
	memcpy(forwarding, login, sizeof(login));
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
	check_client(&s->peer);
	s->peer.auth_ok = true;
	s->b->try_login(turn_begin(s), bytes_str(user), bytes_str(password));
	turn_end(s);
	return (true);
}

/* What no answer shows is for the operator to look up. */
static void
say_forwarding(const struct session *s)
{
	static const char *const word[] = { [TOLD_NO] = "no", [TOLD_YES] = "yes", [TOLD_OFF] = "off", [TOLD_UNPROVEN] = "unproven" };
	const char *how;
	enum told k = s->b->forwarded(&s->t, &how);

	snprintf(told, sizeof(told), "%s", word[k]);
	if (k == TOLD_UNPROVEN)
		snprintf(forwarding, sizeof(forwarding), "%s: its log must have the login of %s from %s, session %s", how, user,
		    s->peer.addr, s->peer.session);
	else
		snprintf(forwarding, sizeof(forwarding), "%s%s", how, k == TOLD_OFF ? ": the client's address is not told" : "");
}

void
check_answered(struct session *s)
{
	char who[64] = "";

	if (!s->probe || !s->checked.known)
		return;
	s->b->user(&s->t, who, sizeof(who));
	say_forwarding(s);
	if (who[0] != '\0')
		snprintf(login, sizeof(login), "good");
	else {
		/* what the client would have been told */
		struct bytes words = bytes(s->to_client.p, s->to_client.len);

		while (words.n > 0 && (words.p[words.n - 1] == '\r' || words.p[words.n - 1] == '\n'))
			words.n--;
		bytes_text(words, s->how, sizeof(s->how));
		snprintf(login, sizeof(login), "refused");
	}
	session_end(s, REASON_PROBE);
}

struct bytes
check_report(struct session *s)
{
	struct out o = { (uint8_t *)report, 0, sizeof(report), false };
	const char *part[] = { forwarding, login, s->how, told };

	explicit_bzero(password, sizeof(password));
	for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++)
		out_put(&o, bytes(part[i], strlen(part[i]) + 1));
	return (bytes(o.p, o.len));
}
