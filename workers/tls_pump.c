/*
 * tls_pump - one connection: handshake, then octets between the network and the clear end (tls.h)
 *
 * Both sockets are watched edge-triggered for input once and for all, for output from the first time that one did not take all:
 * a local socket tells its writer of each read at its other end. What one is known to have or to take is remembered, so that a
 * record costs one read and one write. What the other side does not take at once is held, at most one record each way,
 * and while something is held nothing more is read for it: that is all the back-pressure there is. An idle connection holds
 * no buffer, here or in OpenSSL.
 *
 * Records that carry no data, as updates of keys, are OpenSSL's alone, and it reads on behind them as long as there is input. So it
 * gets but so much at a time, lest one who sends nothing else keep the process from all its other connections.
 *
 * The end of one direction: close_notify (or a mere end of the stream) from the network shuts the clear end's writing side
 * down, the end of the clear end becomes close_notify and FIN. A clear end that is closed altogether is given some time
 * to have its last words taken, since unread input would turn the close into a reset. So is one whose last words the network does
 * not take, from each record that it takes: nobody else is there to give up a client that has stopped reading.
 */
#include <sys/epoll.h>
#include <sys/socket.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "workers/tls.h"

enum { RECORD = 16384, TURNS = 8, READS = 2, HANDSHAKE_MS = 30000, DRAIN_MS = 60000, LINGER_MS = 2000 };
enum stage { STAGE_HANDSHAKE, STAGE_OPEN, STAGE_DRAIN, STAGE_LINGER };
enum { NET = 0, CLEAR = 1 };

struct held { uint8_t *p; uint32_t at, n; };

struct end {				/* what epoll names; its address is the tag */
	struct pump	*p;
	int		 fd;
	bool		 in, out;	/* may have input; may take output */
	bool		 watched;	/* for output too */
	bool		 hup;		/* the peer has ended: do not trust a short read */
	bool		 eof, dead;	/* nothing more comes; nothing more goes */
	bool		 end;		/* of the stream, for OpenSSL to ask */
	int		 reads;		/* that OpenSSL has left */
};

struct pump {
	struct work	*w;
	uint64_t	 id, deadline;
	struct end	 end[2];
	SSL		*ssl;
	const struct conf_tls *conf;
	struct tls_backend *backend;
	struct held	 up, down;	/* for the clear end; for the network */
	enum stage	 stage;
	bool		 listed, said_end, fin, shut;	/* in ready; close_notify given; FIN sent; clear end shut down */
	bool		 took, fed;			/* this turn: the network has taken something; it brought much and no data */
	bool		 tell;				/* the clear end is told how the handshake goes */
	char		 alpn[16];
	TAILQ_ENTRY(pump) ready, due;
};

static uint8_t record[RECORD];

/* It does not take all: epoll is to tell when it does. A change of what is watched tells of what there is already. */
static void
blocked(struct end *e)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = e };

	e->out = false;
	if (!e->watched)
		(void)epoll_ctl(e->p->w->epoll, EPOLL_CTL_MOD, e->fd, &ev);
	e->watched = true;
}

/* --- a BIO that knows when a socket is drained ------------------------------------------------------------------------ */

static int
net_read(BIO *b, char *data, int n)
{
	struct end *e = BIO_get_data(b);
	ssize_t r;

	BIO_clear_retry_flags(b);
	if (!e->in || e->reads == 0) {
		BIO_set_retry_read(b);
		return (-1);
	}
	e->reads--;
	do
		r = recv(e->fd, data, (size_t)n, MSG_DONTWAIT);
	while (r == -1 && errno == EINTR);
	if (r == -1 && errno == EAGAIN) {
		e->in = false;
		BIO_set_retry_read(b);
	} else if (r > 0 && r < n && !e->hup)
		e->in = false;		/* the next octet brings an event */
	e->end = r == 0;
	return ((int)r);
}

static int
net_write(BIO *b, const char *data, int n)
{
	struct end *e = BIO_get_data(b);
	ssize_t r;

	BIO_clear_retry_flags(b);
	if (!e->out) {
		BIO_set_retry_write(b);
		return (-1);
	}
	do
		r = send(e->fd, data, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (r == -1 && errno == EINTR);
	if (r == -1 && errno == EAGAIN) {
		blocked(e);
		BIO_set_retry_write(b);
	}
	return ((int)r);
}

static long
net_ctrl(BIO *b, int cmd, long larg, void *parg)
{
	const struct end *e = BIO_get_data(b);

	(void)larg, (void)parg;
	return (cmd == BIO_CTRL_EOF ? e->end : cmd == BIO_CTRL_FLUSH || cmd == BIO_CTRL_DUP);
}

static BIO *
net_bio(struct end *e)
{
	static BIO_METHOD *m;
	BIO *b;

	if (m == NULL && (m = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "network")) != NULL) {
		BIO_meth_set_read(m, net_read);
		BIO_meth_set_write(m, net_write);
		BIO_meth_set_ctrl(m, net_ctrl);
	}
	if (m == NULL || (b = BIO_new(m)) == NULL)
		return (NULL);
	BIO_set_data(b, e);
	BIO_set_init(b, 1);
	return (b);
}

/* --- deadlines and turns ---------------------------------------------------------------------------------------------- */

static struct pumps *
list_of(struct pump *p)
{
	return (&p->w->waiting[p->stage == STAGE_HANDSHAKE ? 0 : p->stage == STAGE_DRAIN ? 1 : 2]);
}

static void
undue(struct pump *p)
{
	if (p->deadline != 0)
		TAILQ_REMOVE(list_of(p), p, due);
	p->deadline = 0;
}

/* Every deadline of a stage is as long as the others, so the list stays in order. */
static void
due(struct pump *p, enum stage s, uint64_t ms)
{
	undue(p);
	p->stage = s;
	p->deadline = p->w->now + ms;
	TAILQ_INSERT_TAIL(list_of(p), p, due);
}

static void
again(struct pump *p)
{
	if (!p->listed)
		TAILQ_INSERT_TAIL(&p->w->ready, p, ready);
	p->listed = true;
}

static void
pump_free(struct pump *p)
{
	struct msg_tlsend m = { .id = p->id };

	undue(p);
	if (p->stage != STAGE_HANDSHAKE)
		(void)msg_send_tlsend(&p->w->listener, &m, bytes("", 0), NULL);
	if (p->listed)
		TAILQ_REMOVE(&p->w->ready, p, ready);
	for (int i = 0; i < 2; i++) {
		/* others may hold the same socket: an epoll set keeps what is open anywhere */
		(void)epoll_ctl(p->w->epoll, EPOLL_CTL_DEL, p->end[i].fd, NULL);
		close(p->end[i].fd);
	}
	SSL_free(p->ssl);
	if (p->up.p != NULL)
		OPENSSL_cleanse(p->up.p, p->up.n);
	if (p->down.p != NULL)
		OPENSSL_cleanse(p->down.p, p->down.n);
	free(p->up.p);
	free(p->down.p);
	p->w->npumps--;
	free(p);
}

/* --- octets ----------------------------------------------------------------------------------------------------------- */

static bool
hold(struct held *h, const uint8_t *p, size_t n)
{
	if ((h->p = malloc(n)) == NULL)
		return (false);
	memcpy(h->p, p, n);
	h->at = 0;
	h->n = (uint32_t)n;
	return (true);
}

static void
let_go(struct held *h)
{
	OPENSSL_cleanse(h->p, h->n);
	free(h->p);
	*h = (struct held){ 0 };
}

/* To the clear end; octets taken, -1: it is closed. */
static ssize_t
give_clear(struct pump *p, const uint8_t *data, size_t n)
{
	struct end *e = &p->end[CLEAR];
	ssize_t r;

	do
		r = send(e->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (r == -1 && errno == EINTR);
	if (r >= 0 && (size_t)r == n)
		return (r);
	if (r == -1 && errno != EAGAIN) {
		e->dead = true;
		return (-1);
	}
	blocked(e);
	return (r > 0 ? r : 0);
}

/* What OpenSSL's answer means; true when the connection is beyond use. */
static bool
broken(struct pump *p, int r)
{
	switch (SSL_get_error(p->ssl, r)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return (false);
	case SSL_ERROR_ZERO_RETURN:
		p->end[NET].eof = true;
		return (false);
	default:
		ERR_clear_error();
		p->end[NET].eof = p->end[NET].dead = true;
		return (true);
	}
}

/* One record from the network to the clear end; true when something went. */
static bool
pump_up(struct pump *p)
{
	struct end *e = &p->end[CLEAR];
	ssize_t taken;
	int n;

	if (p->up.p != NULL) {
		if (!e->out || (taken = give_clear(p, p->up.p + p->up.at, p->up.n - p->up.at)) == 0)
			return (false);
		if (taken > 0 && (p->up.at += (uint32_t)taken) < p->up.n)
			return (true);
		let_go(&p->up);
		return (true);
	}
	if (p->end[NET].eof || (!p->end[NET].in && !SSL_has_pending(p->ssl)))
		return (false);
	p->end[NET].reads = READS;
	if ((n = SSL_read(p->ssl, record, sizeof(record))) <= 0) {
		(void)broken(p, n);
		p->fed = !p->end[NET].eof && p->end[NET].in && p->end[NET].reads == 0;
		return (p->end[NET].eof || p->fed);
	}
	if (e->dead)
		return (true);		/* lingering: for nobody */
	taken = e->out ? give_clear(p, record, (size_t)n) : 0;
	if (taken >= 0 && taken < n && !hold(&p->up, record + taken, (size_t)(n - taken)))
		p->end[NET].eof = p->end[NET].dead = true;
	return (true);
}

static bool
pump_down(struct pump *p)
{
	struct end *e = &p->end[CLEAR];
	ssize_t n;
	int r;

	if (p->down.p != NULL) {
		if (!p->end[NET].out && !p->end[NET].in)
			return (false);
		if ((r = SSL_write(p->ssl, p->down.p + p->down.at, (int)(p->down.n - p->down.at))) <= 0)
			return (broken(p, r));
		p->took = true;
		if ((p->down.at += (uint32_t)r) == p->down.n)
			let_go(&p->down);
		return (true);
	}
	if (!e->in || e->eof || p->end[NET].dead)
		return (false);
	do
		n = recv(e->fd, record, sizeof(record), MSG_DONTWAIT);
	while (n == -1 && errno == EINTR);
	if (n == -1 && errno == EAGAIN) {
		e->in = false;
		return (false);
	}
	if (n <= 0) {
		e->eof = true;
		e->dead = e->dead || n == -1;
		return (true);
	}
	if (n < (ssize_t)sizeof(record) && !e->hup)
		e->in = false;
	r = SSL_write(p->ssl, record, (int)n);
	p->took = p->took || r > 0;
	if (r == n)
		return (true);
	if (r <= 0 && broken(p, r))
		return (true);
	r = r > 0 ? r : 0;
	if (!hold(&p->down, record + r, (size_t)(n - r)))
		p->end[NET].eof = p->end[NET].dead = true;
	return (true);
}

/* --- the end ---------------------------------------------------------------------------------------------------------- */

/* What is over is told to the other side once what came before is through; true: nothing is left to do. */
static bool
ends(struct pump *p)
{
	struct end *net = &p->end[NET], *clear = &p->end[CLEAR];

	if (net->dead)
		return (true);
	if (net->eof && p->up.p == NULL && !p->shut) {
		p->shut = true;
		if (shutdown(clear->fd, SHUT_WR) == -1)
			clear->dead = true;
	}
	if (clear->eof && p->down.p == NULL && !p->said_end) {
		int r = SSL_shutdown(p->ssl);

		if (r < 0 && SSL_get_error(p->ssl, r) == SSL_ERROR_WANT_WRITE)
			return (false);
		ERR_clear_error();
		p->said_end = true;
	}
	if (p->said_end && !p->fin) {
		p->fin = true;
		(void)shutdown(net->fd, SHUT_WR);
		due(p, STAGE_LINGER, LINGER_MS);
	}
	return (net->eof && p->fin && p->up.p == NULL);
}

/* The clear end has ended, but what it said last is not through yet. */
static bool
draining(const struct pump *p)
{
	return (p->end[CLEAR].hup && !p->said_end && (p->stage == STAGE_OPEN || (p->stage == STAGE_DRAIN && p->took)));
}

static void
run(struct pump *p)
{
	bool moved = true;

	p->took = p->fed = false;
	for (int i = 0; i < TURNS && moved && !p->fed && !p->end[NET].dead; i++) {
		moved = pump_up(p);
		moved = pump_down(p) || moved;
		if (ends(p)) {
			pump_free(p);
			return;
		}
	}
	if (p->end[NET].dead) {
		pump_free(p);
		return;
	}
	if (draining(p))
		due(p, STAGE_DRAIN, DRAIN_MS);
	if (moved)
		again(p);
}

/* --- the handshake ------------------------------------------------------------------------------------------------------ */

static void
failed(struct work *w, uint64_t id, const char *why)
{
	struct msg_tlsdown m = { .id = id };

	(void)msg_send_tlsdown(&w->listener, &m, bytes_str(why), NULL);
}

/* A part of TLS_WORD; a pair that nothing was written to has room for it. */
static void
tell(struct pump *p, const void *part, size_t n)
{
	if (p->tell)
		(void)!send(p->end[CLEAR].fd, part, n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* true: it is done, and the octets' turn. The pump may be gone after false. */
static bool
handshake(struct pump *p)
{
	struct msg_tlsup m = { .id = p->id };
	const char *wrong = NULL;
	char text[128];
	int r, e;

	ERR_clear_error();
	p->end[NET].reads = INT_MAX;	/* its length is limited */
	r = SSL_do_handshake(p->ssl);
	if (r == 1 && (p->backend == NULL || (wrong = tls_backend_check(p->backend, p->ssl)) == NULL)) {
		undue(p);
		p->stage = STAGE_OPEN;
		tls_facts(p->ssl, p->conf, &m.tls);
		tell(p, &m.tls, sizeof(m.tls));
		(void)msg_send_tlsup(&p->w->listener, &m, bytes("", 0), NULL);
		return (true);
	}
	e = SSL_get_error(p->ssl, r);
	if (wrong == NULL && (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE))
		return (false);
	if (p->backend != NULL)
		tls_backend_failed(p->backend);
	failed(p->w, p->id, wrong != NULL ? wrong : tls_error(p->ssl, text, sizeof(text)));
	ERR_clear_error();
	pump_free(p);
	return (false);
}

int
pump_start(struct work *w, uint64_t id, struct tls_service *s, struct tls_backend *b, const char *alpn, int net, int clear, bool told)
{
	static const uint8_t begun = TLS_BEGUN;
	struct pump *p = calloc(1, sizeof(*p));
	BIO *bio = NULL;

	if (p == NULL)
		goto err0;
	*p = (struct pump){ .w = w, .id = id, .tell = told, .backend = b, .conf = s != NULL ? s->conf : NULL,
	    .end = { { .p = p, .fd = net, .in = true, .out = true }, { .p = p, .fd = clear, .out = true } } };
	memccpy(p->alpn, alpn, 0, sizeof(p->alpn) - 1);
	p->ssl = b != NULL ? tls_connect(b) : tls_accept(s, p->alpn);
	if (p->ssl == NULL || (bio = net_bio(&p->end[NET])) == NULL)
		goto err1;
	SSL_set_bio(p->ssl, bio, bio);
	for (int i = 0; i < 2; i++) {
		struct epoll_event e = { .events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = &p->end[i] };

		if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, p->end[i].fd, &e) == -1)
			goto err1;
	}
	w->npumps++;
	due(p, STAGE_HANDSHAKE, HANDSHAKE_MS);
	tell(p, &begun, sizeof(begun));
	if (handshake(p))
		again(p);
	return (0);
err1:
	SSL_free(p->ssl);
	(void)epoll_ctl(w->epoll, EPOLL_CTL_DEL, net, NULL);
	free(p);
err0:
	failed(w, id, "out of memory");
	close(net);
	close(clear);
	return (-1);
}

/* --- the loop's side ---------------------------------------------------------------------------------------------------- */

void
pump_event(struct work *w, void *tag, uint32_t events)
{
	struct end *e = tag;
	struct pump *p = e->p;

	(void)w;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		e->in = true;
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		e->out = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		e->hup = true;
	/* by turns, not here: the other end's event of the same turn may be behind this one */
	again(p);
}

void
pump_ready(struct work *w)
{
	struct pumps now = TAILQ_HEAD_INITIALIZER(now);
	struct pump *p;

	TAILQ_CONCAT(&now, &w->ready, ready);
	while ((p = TAILQ_FIRST(&now)) != NULL) {
		TAILQ_REMOVE(&now, p, ready);
		p->listed = false;
		if (p->stage != STAGE_HANDSHAKE || handshake(p))
			run(p);
	}
}

int
pump_timeout(const struct work *w)
{
	uint64_t next = 0;

	if (!TAILQ_EMPTY(&w->ready))
		return (0);
	for (int i = 0; i < WAITING; i++) {
		const struct pump *p = TAILQ_FIRST(&w->waiting[i]);

		if (p != NULL && (next == 0 || p->deadline < next))
			next = p->deadline;
	}
	return (next == 0 ? -1 : next <= w->now ? 0 : (int)(next - w->now));
}

void
pump_deadlines(struct work *w)
{
	struct pump *p;

	for (int i = 0; i < WAITING; i++)
		while ((p = TAILQ_FIRST(&w->waiting[i])) != NULL && p->deadline <= w->now) {
			if (p->stage == STAGE_HANDSHAKE)
				failed(w, p->id, "timed out");
			pump_free(p);
		}
}
