/*
 * refuse - what the gateway answers when it must answer for itself (protocols.md 1.1.4, 4.4, 6.6); pure
 */
#include "smtp/smtp.h"

void
smtp_say_bad(struct turn *t)
{
	static const char *const texts[] = {
		[BAD_NONE] = "451 4.3.0 try again later",
		[BAD_BARE] = "550 5.5.2 bare <CR> or <LF> received",
		[BAD_SIZE] = "552 5.3.4 message too big",
		[BAD_LINE] = "550 5.6.0 line too long",
		[BAD_LOOP] = "554 5.4.6 too many hops",
		[BAD_SPACE] = "452 4.3.1 insufficient storage",
		[BAD_LOST] = "451 4.3.0 mail server lost, try again later",
		[BAD_SEQUENCE] = "503 5.5.1 bad sequence of commands, RSET first",
		[BAD_NO_RCPT] = "554 5.5.1 no valid recipients",
	};
	const struct pst *p = P(t);

	if (p->bad == BAD_TOLD)
		smtp_relay(t, bytes(t->log->p + p->told, p->told_len));
	else
		out_fmt(t->client, "%s\r\n", texts[p->bad]);
}

static enum refused
bye(struct turn *t, const char *code, const char *text)
{
	out_fmt(t->client, "%s %s %s\r\n", code, t->peer->banner, text);
	smtp_end_transaction(t);
	return (REFUSED_CLOSE);
}

/* The backend cannot be had in time: the pending command is answered, the session goes on once. */
static enum refused
lost(struct turn *t, enum why why)
{
	struct pst *p = P(t);
	bool again = p->lost != 0;

	if (p->command == CMD_MAIL && p->told_len > 0) {	/* all backends say so, and that is what the client hears */
		smtp_relay(t, bytes(t->log->p + p->told, p->told_len));
		smtp_end_transaction(t);
		return (REFUSED_STAY);
	}
	if (p->command == CMD_NONE && p->open && p->bdat && why == WHY_SPOOL) {	/* the chunk was answered: the next one is refused */
		p->bad = BAD_SPACE;
		return (REFUSED_STAY);
	}
	p->lost = 1;
	switch ((enum command)p->command) {
	case CMD_AUTH:
		smtp_auth_forget(t);
		p->command = CMD_NONE;
		out_str(t->client, "454 4.7.0 temporary authentication failure\r\n");
		return (REFUSED_STAY);
	case CMD_CONTENT:
	case CMD_BDAT:
		p->bad = why == WHY_SPOOL ? BAD_SPACE : p->told_len > 0 ? BAD_TOLD : BAD_LOST;
		if (!t->spool->whole) {		/* it is still coming: the answer is due at its end */
			p->command = p->command == CMD_BDAT ? CMD_SWALLOW_CHUNK : CMD_SWALLOW;
			return (REFUSED_STAY);
		}
		smtp_say_bad(t);
		smtp_end_transaction(t);
		return (REFUSED_STAY);
	case CMD_RCPT:
		t->log->len = p->rcpts + p->rcpt_len;
		break;
	default:
		break;
	}
	if (again || p->auth_lost)
		return (bye(t, "421 4.3.2", "mail server not available, closing"));
	out_str(t->client, "451 4.3.0 mail server lost, try again later\r\n");
	if (p->command == CMD_MAIL)
		smtp_end_transaction(t);
	else
		p->poisoned = why == WHY_DIFFERS;
	p->command = CMD_NONE;
	return (REFUSED_STAY);
}

enum refused
smtp_refuse(struct turn *t, enum why why)
{
	switch (why) {
	case WHY_LOST:
	case WHY_DIFFERS:
	case WHY_SPOOL:
		return (lost(t, why));
	case WHY_BUSY:
		if (P(t)->helo == HELO_NONE)
			return (bye(t, "421", "Service not available, try again later"));
		return (bye(t, "421 4.3.2", "Service not available, try again later"));
	case WHY_IDLE:
	case WHY_SLOW:
		return (bye(t, "421 4.4.2", "Error: timeout exceeded"));
	case WHY_SHUTDOWN:
	case WHY_KICKED:
		return (bye(t, "421 4.3.2", "Service shutting down"));
	case WHY_CRASH:
		break;
	}
	return (bye(t, "421 4.3.0", "Error: internal error"));
}

/* The backend died after the end of content went out. */
enum doubt
smtp_doubt(struct turn *t)
{
	struct pst *p = P(t);
	uint8_t first = p->first;
	char id[300];

	p->fence = p->first = 0;
	if (first == '2') {		/* one octet decides: it has taken the message */
		smtp_txn_id(t, id, sizeof(id));
		out_fmt(t->client, "250 2.0.0 Ok: %s\r\n", id);
		t->messages++;
		smtp_end_transaction(t);
		return (DOUBT_DONE);
	}
	if (first == '4')
		return (DOUBT_REDO_SAFE);
	if (first == 0 && !t->peer->tempfail)
		return (DOUBT_REDO);
	out_str(t->client, "451 4.3.0 mail server lost, try again later\r\n");
	smtp_end_transaction(t);
	return (DOUBT_REFUSE);
}
