/*
 * token - the tokens of IMAP commands and responses (RFC 9051 section 9); pure
 *
 * Works on whole commands and responses in which literals lie as they came: {n} CR LF and their octets. Nothing
 * recurses.
 */
#ifndef IMAP4_TOKEN_H
#define IMAP4_TOKEN_H

#include "supervisor/buf.h"

enum { DEPTH_MAX = 100 };

/* A line without its CR LF that ends in a literal's {n}, {n+}, ~{n} or ~{n+}. False: it does not. */
bool	token_literal(struct bytes line, uint64_t *n, bool *sync, bool *binary);
/* Splits off a run of characters up to a space or the end; brackets and their inside count as part of it. */
struct bytes token_word(struct bytes *rest);
/* Splits off one value: a word, quoted string, literal or list with all its inside. False: malformed. */
bool	token_value(struct bytes *rest, struct bytes *value);
/* Spaces. */
void	token_space(struct bytes *rest);
/*
 * The text that a word, quoted string or literal stands for; into dst where it has escapes. False: none, or too long.
 */
bool	token_string(struct bytes value, uint8_t *dst, size_t size, struct bytes *text);
/*
 * A whole command: quotes closed, lists closed and not too deep, no bare CR, LF or NUL outside literals. NULL, or what
 * is wrong.
 */
const char *token_check(struct bytes text);
/* An item of a FETCH response: name and value. False: the end, or malformed (then rest is not empty). */
bool	token_item(struct bytes *rest, struct bytes *name, struct bytes *value);
/* A string that may be sent between quotes. */
bool	token_quotable(struct bytes);

#endif
