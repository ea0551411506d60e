/*
 * rig - the session engine in small: drives a behaviour without processes, sockets or time, for unit tests and fuzzing
 *
 * It keeps the engine's contract (workers/behaviour.h) and checks the behaviour's side of it at each call: what is used
 * lies within the input, outputs within their bounds, no invariant is broken, nothing goes on for ever. A broken one
 * aborts.
 */
#ifndef T_LIB_RIG_H
#define T_LIB_RIG_H

#include <stdio.h>
#include <stdlib.h>

#include "workers/behaviour.h"

enum { RIG_BUF = 1 << 18, RIG_ARENA = 1 << 20, RIG_ROOM = 139264, RIG_STEPS = 200000 };

struct rig_buf { uint8_t *p; size_t n, start; };

struct rig {
	const struct behaviour *b;
	struct turn	 t;
	uint8_t		 pst[4096] __attribute__((aligned(16))), have[4096] __attribute__((aligned(16)));
	struct arena	 log, scratch;
	struct out	 client, backend, content;
	struct spool_state spool;
	struct limits	 limits;
	struct times	 times;
	struct caps	 offer;
	struct peerinfo	 peer;
	struct rig_buf	 in, out;		/* from and to the client */
	struct rig_buf	 bin, bout;		/* from and to the backend */
	struct rig_buf	 kept;			/* the spool */
	size_t		 scanned, bscanned;
	uint64_t	 sent;
	bool		 starttls, untold;	/* the backend must begin TLS; hears nothing of the client's address */
	bool		 up, content_turn, over, gone, probe;
	bool		 refused;		/* the login in the input, which is taken at the second look */
	uint32_t	 connects, deaths, max_deaths, answered;
	uint32_t	 later, never;		/* backends that were given up as TOOK_LATER, TOOK_NEVER have it */
	uint32_t	 calls, die_at;		/* steps done; the step before which the backend dies, 0: none */
	size_t		 die_said;		/* the backend dies when it has had so many octets, 0: never */
	size_t		 keeps;			/* more content at once does not fit on the disk, 0: any */
	size_t		 began;			/* where in bout the connection that is up began */
};

static inline void
rig_must(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "rig: %s\n", what);
	abort();
}

static inline bool
rig_put(struct rig_buf *b, const void *p, size_t n)
{
	if (b->p == NULL && (b->p = malloc(RIG_BUF)) == NULL)
		abort();
	if (n > RIG_BUF - b->n)
		return (false);
	if (n > 0)
		memcpy(b->p + b->n, p, n);
	b->n += n;
	return (true);
}

static inline struct rig *
rig_new(const struct behaviour *b, const struct caps *offer)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (r == NULL)
		abort();
	r->b = b;
	r->limits = b->limits;
	r->limits.log = RIG_ARENA;
	r->times = b->times;
	r->offer = *offer;
	r->max_deaths = 8;
	r->peer = (struct peerinfo){ .addr = "192.0.2.7", .local = "192.0.2.1", .port = 4711, .local_port = 25, .auth_ok = true,
	    .banner = "gw.test", .session = "4f2a" };
	r->log = (struct arena){ calloc(1, RIG_ARENA), 0, RIG_ARENA, 0 };
	r->scratch = (struct arena){ calloc(1, RIG_ARENA), 0, RIG_ARENA, 0 };
	(void)rig_put(&r->in, "", 0);
	(void)rig_put(&r->out, "", 0);
	(void)rig_put(&r->bin, "", 0);
	(void)rig_put(&r->bout, "", 0);
	(void)rig_put(&r->kept, "", 0);
	r->client.p = malloc(RIG_ROOM);
	r->backend.p = malloc(RIG_ROOM);
	r->content.p = malloc(RIG_ROOM);
	r->t = (struct turn){ .pst = r->pst, .have = r->have, .log = &r->log, .scratch = &r->scratch, .client = &r->client,
	    .backend = &r->backend, .content = &r->content, .spool = &r->spool, .limits = &r->limits, .times = &r->times,
	    .offer = &r->offer, .peer = &r->peer, .date = "Tue, 24 Nov 2026 00:00:00 +0000" };
	return (r);
}

static inline void
rig_free(struct rig *r)
{
	struct rig_buf *b[] = { &r->in, &r->out, &r->bin, &r->bout, &r->kept };

	for (size_t i = 0; i < sizeof(b) / sizeof(b[0]); i++)
		free(b[i]->p);
	free(r->log.p);
	free(r->scratch.p);
	free(r->client.p);
	free(r->backend.p);
	free(r->content.p);
	free(r);
}

static inline struct turn *
rig_turn(struct rig *r)
{
	r->client = (struct out){ r->client.p, 0, r->probe ? 4096 : 131072, false };	/* of a probe nobody reads it */
	r->backend = (struct out){ r->backend.p, 0, 32768, false };
	r->content = (struct out){ r->content.p, 0, RIG_ROOM, false };
	r->t.wait = 1000;
	r->t.messages = 0;
	r->t.client_gone = r->gone;
	r->t.up = r->up;
	r->t.believe = r->refused || r->probe;
	r->t.epoch++;
	return (&r->t);
}

/* Takes a call's output over and checks what must hold after each. */
static inline void
rig_done(struct rig *r)
{
	int broken = r->b->check(&r->t);

	if (broken != 0)
		fprintf(stderr, "rig: invariant %d is broken\n", broken);
	rig_must(broken == 0, "check");
	rig_must(!r->client.full || r->probe, "the client's output overflows");
	rig_must(r->log.len <= r->log.cap && r->scratch.len <= r->scratch.cap, "an arena is beyond its limit");
	if (r->spool.len < r->kept.n) {		/* a transaction is over */
		r->kept.n = 0;
		r->sent = 0;
	}
	if (!rig_put(&r->out, r->client.p, r->client.len) || !rig_put(&r->bout, r->backend.p, r->backend.len))
		r->over = true;
}

static inline void
rig_refuse(struct rig *r, enum why why)
{
	enum refused f = r->b->refuse(rig_turn(r), why);

	rig_done(r);
	r->deaths = 0;
	if (f != REFUSED_STAY)
		r->over = true;
}

static inline void
rig_down(struct rig *r)
{
	r->up = false;
	r->bin.n = r->bin.start = 0;
	r->sent = 0;
	r->bscanned = 0;
	r->content_turn = r->refused = false;
}

/* The backend dies. */
static inline void
rig_die(struct rig *r)
{
	bool doubt = r->b->in_doubt(&r->t), pending = r->b->pending(&r->t);
	enum doubt d;

	if (!r->up)
		return;
	rig_down(r);
	if (!pending || r->probe)
		return;
	r->deaths++;
	if (doubt) {
		d = r->b->doubt(rig_turn(r));
		rig_done(r);
		if (d == DOUBT_CLOSE)
			r->over = true;
		if (d != DOUBT_REDO && d != DOUBT_REDO_SAFE) {
			rig_must(!r->b->in_doubt(&r->t), "still in doubt after doubt()");
			return;
		}
	}
	if (r->deaths > r->max_deaths)
		rig_refuse(r, WHY_LOST);
}

static inline void
rig_connect(struct rig *r)
{
	struct backendinfo info = { .name = "b", .xclient = !r->untold, .starttls = r->starttls };

	r->up = true;
	r->connects++;
	r->began = r->bout.n;
	memset(r->have, 0, sizeof(r->have));
	r->scratch.len = 0;
	r->b->connected(rig_turn(r), &info);
	rig_done(r);
}

static inline bool
rig_input(struct rig *r)
{
	struct bytes in = bytes(r->bin.p + r->bin.start, r->bin.n - r->bin.start);
	size_t used = 0, scanned = r->bscanned;
	enum took k;

	if (in.n == 0)
		return (false);
	k = r->b->backend(rig_turn(r), in, &used, &scanned);
	rig_must(used <= in.n, "backend() used more than there is");
	if (k == TOOK_REFUSED)
		used = scanned = 0;
	rig_done(r);
	r->bin.start += used;
	r->bscanned = used > 0 ? 0 : scanned;
	switch (k) {
	case TOOK_MORE:
		return (used > 0);
	case TOOK_CLOSE:
		r->over = true;
		/* FALLTHROUGH */
	case TOOK_ANSWERED:
		r->deaths = 0;
		r->refused = false;
		r->answered++;
		return (true);
	case TOOK_ONE:
		return (true);
	case TOOK_REFUSED:
		rig_must(!r->refused && r->client.len == 0 && r->b->pending(&r->t), "a refusal that waits changes nothing");
		r->refused = true;
		return (true);
	case TOOK_DIFFERS:
		rig_down(r);
		rig_refuse(r, WHY_DIFFERS);
		return (true);
	case TOOK_LATER:
	case TOOK_NEVER:
		*(k == TOOK_LATER ? &r->later : &r->never) += 1;
		/* FALLTHROUGH */
	case TOOK_LEAVING:
	case TOOK_INSECURE:
	case TOOK_NONSENSE:
		rig_die(r);
		return (true);
	}
	return (false);
}

/* Something was said; what is beyond the octet that the backend died at was never had. */
static inline bool
rig_said(struct rig *r)
{
	if (r->die_said != 0 && r->bout.n >= r->die_said) {
		r->bout.n = r->die_said;
		r->die_said = 0;
		rig_die(r);
	}
	return (true);
}

static inline bool
rig_next(struct rig *r)
{
	enum next n;

	r->t.spool_to = r->sent;
	n = r->b->next(rig_turn(r));
	r->content_turn = n == NEXT_MORE;
	switch (n) {
	case NEXT_SAY:
		rig_must(r->backend.len > 0, "next() says nothing");
		rig_done(r);
		r->b->writing(rig_turn(r), r->sent);
		rig_done(r);
		return (rig_said(r));
	case NEXT_SPOOL:
		rig_done(r);
		rig_must(r->t.spool_to <= r->spool.len && r->t.spool_to >= r->sent, "content beyond the spool");
		r->b->writing(rig_turn(r), r->t.spool_to);
		rig_done(r);
		if (!rig_put(&r->bout, r->kept.p + r->sent, r->t.spool_to - r->sent))
			r->over = true;
		r->sent = r->t.spool_to;
		return (rig_said(r));
	case NEXT_TLS:
		rig_done(r);
		if (r->bin.start < r->bin.n)	/* it speaks between its go-ahead and TLS */
			rig_die(r);
		return (true);
	case NEXT_DROP:
		rig_done(r);
		rig_down(r);
		return (true);
	case NEXT_LATER:
	case NEXT_NEVER:
		rig_done(r);
		rig_die(r);
		return (true);
	case NEXT_WAIT:
	case NEXT_FULL:
	case NEXT_MORE:
	case NEXT_READY:
		break;
	}
	rig_done(r);
	return (false);
}

static inline bool
rig_client(struct rig *r)
{
	struct bytes in = bytes(r->in.p + r->in.start, r->in.n - r->in.start);
	size_t used = 0, scanned = r->scanned, out = r->out.n;
	uint64_t at = r->spool.len;
	enum act a;

	if (in.n > 65536)
		in.n = 65536;
	a = r->b->client(rig_turn(r), in, &used, &scanned);
	rig_must(used <= in.n, "client() used more than there is");
	rig_must(!r->content.full, "the content overflows");
	rig_done(r);
	if (r->spool.len < at)
		at = 0;
	if (r->keeps != 0 && r->content.len > r->keeps)
		rig_refuse(r, WHY_SPOOL);
	else {
		if (!rig_put(&r->kept, r->content.p, r->content.len))
			r->over = true;
		r->spool.len = at + r->content.len;
	}
	r->in.start += used;
	r->scanned = used > 0 ? 0 : scanned;
	if (a == ACT_PENDING)
		r->content_turn = false;
	if (a == ACT_TLS) {		/* what lies behind the command is dropped */
		r->in.start = r->in.n;
		r->peer.tls = r->peer.auth_ok = true;
		r->peer.starttls = false;
	}
	if (a == ACT_CLOSE)
		r->over = true;
	return (used > 0 || a != ACT_MORE || r->out.n != out);
}

/* Goes on until both sides have to be waited for. */
static inline void
rig_run(struct rig *r)
{
	bool again = true;

	for (uint32_t i = 0; again && !r->over; i++) {
		rig_must(i < RIG_STEPS, "it never comes to rest");
		again = false;
		if (++r->calls == r->die_at)
			rig_die(r);
		if (r->up)
			again = rig_input(r) || (r->up && !r->over && rig_next(r));
		else {
			r->content_turn = r->b->wants_content(&r->t);
			if (r->b->pending(&r->t) && !r->over) {
				rig_connect(r);
				again = true;
			}
		}
		if (!r->over && !r->gone && (!r->b->pending(&r->t) || r->content_turn || (r->b->listens != NULL && r->b->listens(&r->t))) && !r->probe)
			again = rig_client(r) || again;
	}
}

#endif
