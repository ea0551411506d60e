/* script - a rig whose backend says what the test has it say, line by line */
#ifndef T_LIB_SCRIPT_H
#define T_LIB_SCRIPT_H

#include <stdarg.h>

#include "t/lib/rig.h"

static size_t script_told, script_said;	/* what was looked at before */

/* The backend says this, if there is one. */
static inline void
server(struct rig *r, const char *text)
{
	if (r->bin.start == r->bin.n)
		r->bin.start = r->bin.n = 0;
	rig_must(rig_put(&r->bin, text, r->up ? strlen(text) : 0), "no room for what the server says");
	rig_run(r);
}

/* The same, as printf(3). */
static inline void
serverf(struct rig *r, const char *fmt, ...)
{
	static char text[1 << 17];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	server(r, text);
}

static inline void
client(struct rig *r, const char *text)
{
	rig_must(rig_put(&r->in, text, strlen(text)), "no room for what the client says");
	rig_run(r);
}

/* What the client, the backend has heard since this was last asked. */
static inline struct bytes
heard(struct rig *r)
{
	struct bytes b = bytes(r->out.p + script_told, r->out.n - script_told);

	script_told = r->out.n;
	if (script_told > RIG_BUF / 4)		/* its text stays until something is said */
		script_told = r->out.n = 0;
	return (b);
}

static inline struct bytes
got(const struct rig *r)
{
	struct bytes b = bytes(r->bout.p + script_said, r->bout.n - script_said);

	script_said = r->bout.n;
	return (b);
}

static inline bool
has(struct bytes b, const char *what)
{
	return (memmem(b.p, b.n, what, strlen(what)) != NULL);
}

/* That and nothing else; what it was instead is printed. */
static inline bool
is(struct bytes b, const char *what)
{
	if (bytes_eq(b, bytes_str(what)))
		return (true);
	printf("# was:\n%.*s# should be:\n%s", (int)b.n, (const char *)b.p, what);
	return (false);
}

/* A login is pending, and this is who has to prove himself. */
static inline bool
proves(const struct rig *r, enum proof how, const char *who)
{
	struct bytes user, secret;

	return (r->b->login(&r->t, &user, &secret) == how && is(user, who));
}

/* Whose session it is. */
static inline bool
whose(const struct rig *r, const char *who)
{
	char user[64];

	r->b->user(&r->t, user, sizeof(user));
	return (is(bytes_str(user), who));
}

static inline void
script_start(struct rig *r)
{
	script_told = script_said = 0;
	r->b->greet(rig_turn(r));
	rig_done(r);
}

static inline struct rig *
script_begin(const struct behaviour *b, const struct caps *offer)
{
	struct rig *r = rig_new(b, offer);

	script_start(r);
	return (r);
}

#endif
