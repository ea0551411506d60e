/*
 * set - ascending arrays of ranges (UIDs or message numbers), and their text; pure
 *
 * A range is its first number and how many follow it, itself included. Numbers are 1 to 2^32-1 (RFC 9051 section 9,
 * nz-number).
 */
#ifndef IMAP4_SET_H
#define IMAP4_SET_H

#include "supervisor/buf.h"

struct range { uint32_t lo, n; };

/* Reads a set of numbers piece by piece: "1:5,7,*" in octets as they come. */
struct setwalk { uint64_t a, b; uint8_t digits, colon, star, spare[5]; };

/* Adds [lo, lo+n) to an array of at most max that need not be in order; neighbours melt together. False: no room. */
bool	set_add(struct range *, uint32_t *count, uint32_t max, uint32_t lo, uint32_t n);
bool	set_has(const struct range *, uint32_t count, uint32_t num);
/* Takes away what b holds, in place; the result may have more ranges. False: no room. */
bool	set_subtract(struct range *, uint32_t *count, uint32_t max, const struct range *b, uint32_t nb);
uint64_t set_size(const struct range *, uint32_t count);
/* Parses text as a set; * is `star` (0: refused). False: not a set, or more than max ranges. */
bool	set_parse(struct bytes text, uint32_t star, struct range *, uint32_t *count, uint32_t max);
bool	set_print(struct out *, const struct range *, uint32_t count);
/* One octet; 1: a range is complete in *r, 0: go on, -1: not a set. End the set with ','. */
int	setwalk_step(struct setwalk *, uint8_t c, struct range *r);

#endif
