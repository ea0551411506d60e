/*
 * buf - views of bytes, bounded output and bounded queues of bytes
 *
 * Nothing here allocates, except buf_init. Bytes are (pointer, length), never strings.
 */
#ifndef SUPERVISOR_BUF_H
#define SUPERVISOR_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A view: lent, never owned. */
struct bytes {
	const uint8_t	*p;
	size_t		 n;
};

#define BYTES(lit) ((struct bytes){ (const uint8_t *)(lit), sizeof(lit) - 1 })

static inline struct bytes
bytes(const void *p, size_t n)
{
	return ((struct bytes){ p, n });
}

struct bytes	bytes_str(const char *);		/* of a NUL-terminated string */
struct bytes	bytes_cut(struct bytes, size_t off);	/* from off on; empty if beyond the end */
bool		bytes_eq(struct bytes, struct bytes);
bool		bytes_caseeq(struct bytes, struct bytes);	/* ASCII only */
bool		bytes_casestart(struct bytes, struct bytes prefix);
uint64_t	bytes_hash(struct bytes);		/* FNV-1a; never 0; no defence against who chooses the octets */
/* Splits off the part before the first c, or all; *rest continues behind the c. */
struct bytes	bytes_token(struct bytes *rest, uint8_t c);
/* An unsigned decimal number of 1 to 19 digits and nothing else. 0, or -1. */
int		bytes_num(struct bytes, uint64_t min, uint64_t max, uint64_t *);
/* Copies into a C string of size dst, cut to fit, control characters as '?'. */
void		bytes_text(struct bytes, char *dst, size_t size);

/* Bounded output. What does not fit is not written at all and sets full. */
struct out {
	uint8_t	*p;
	size_t	 len, cap;
	bool	 full;
};

static inline size_t
out_room(const struct out *o)
{
	return (o->cap - o->len);
}

bool	out_put(struct out *, struct bytes);		/* all or nothing; false and full if nothing */
bool	out_str(struct out *, const char *);
bool	out_fmt(struct out *, const char *, ...) __attribute__((format(printf, 2, 3)));

/* A bounded queue of bytes that lies flat; it starts again at 0 whenever it runs empty. */
struct buf {
	uint8_t		*p;
	uint32_t	 cap, start, end;
};

static inline struct bytes
buf_view(const struct buf *b)
{
	return (bytes(b->p + b->start, b->end - b->start));
}
static inline size_t
buf_len(const struct buf *b)
{
	return (b->end - b->start);
}
void	buf_drop(struct buf *, size_t n);	/* n octets from the front */
void	buf_pack(struct buf *);			/* moves what is there to the front */
size_t	buf_room(const struct buf *);		/* behind end */

#endif
