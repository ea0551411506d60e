/*
 * path - reverse and forward paths, parameters and xtext (RFC 5321 section 4.1.2, RFC 3461 section 4); pure
 *
 * Nothing is forwarded as it came: the parts found here are written anew, so that gateway and backend cannot
 * read one line differently (protocols.md 0.3, invariant 1).
 */
#include <sys/types.h>

#include "smtp/smtp.h"

static void
skip_spaces(struct bytes *b)
{
	while (b->n > 0 && b->p[0] == ' ')
		*b = bytes_cut(*b, 1);
}

/* Length of the address up to `stop` outside of quotes; -1: it does not end, or has what no address may have. */
static ssize_t
address_end(struct bytes in, uint8_t stop)
{
	bool quoted = false;

	for (size_t i = 0; i < in.n; i++) {
		uint8_t c = in.p[i];

		if (c < ' ' || c == 0x7f)
			return (-1);
		if (quoted && c == '\\') {
			if (++i >= in.n || in.p[i] < ' ' || in.p[i] == 0x7f)
				return (-1);
		} else if (c == '"')
			quoted = !quoted;
		else if (!quoted && c == stop)
			return ((ssize_t)i);
		else if (!quoted && (c == '<' || c == '>' || c == ' '))
			return (-1);
	}
	return (quoted || stop == '>' ? -1 : (ssize_t)in.n);
}

/* Where the mailbox begins behind a source route; 0: nowhere. An address literal has colons of its own. */
static size_t
route_end(struct bytes path)
{
	bool literal = false;

	for (size_t i = 0; i < path.n; i++) {
		if (path.p[i] == '[' || path.p[i] == ']')
			literal = path.p[i] == '[';
		else if (!literal && path.p[i] == ':')
			return (i + 1 < path.n ? i + 1 : 0);
	}
	return (0);
}

int
smtp_path(struct bytes *rest, struct bytes *path)
{
	size_t mailbox;
	bool angle;
	ssize_t n;

	skip_spaces(rest);
	angle = rest->n > 0 && rest->p[0] == '<';
	if (angle)
		*rest = bytes_cut(*rest, 1);
	if ((n = address_end(*rest, angle ? '>' : ' ')) == -1 || n > PATH_MAX_ || (!angle && n == 0))
		return (-1);
	*path = bytes(rest->p, (size_t)n);
	*rest = bytes_cut(*rest, (size_t)n + (angle ? 1 : 0));
	if (rest->n > 0 && rest->p[0] != ' ')
		return (-1);
	/* a source route is ignored (RFC 5321 appendix C) */
	if (path->n > 0 && path->p[0] == '@') {
		if ((mailbox = route_end(*path)) == 0)
			return (-1);
		*path = bytes_cut(*path, mailbox);
	}
	return (0);
}

static bool
key_octet(uint8_t c)
{
	return ((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-');
}

int
smtp_param(struct bytes *rest, struct bytes *key, struct bytes *value)
{
	struct bytes word;
	size_t i;

	skip_spaces(rest);
	if (rest->n == 0)
		return (0);
	word = bytes_token(rest, ' ');
	for (i = 0; i < word.n && word.p[i] != '='; i++)
		if (!key_octet(word.p[i]))
			return (-1);
	*key = bytes(word.p, i);
	*value = bytes_cut(word, i + 1);
	if (i == 0 || (i < word.n && value->n == 0))
		return (-1);
	for (i = 0; i < value->n; i++)
		if (value->p[i] <= ' ' || value->p[i] == '=' || value->p[i] == 0x7f)
			return (-1);
	return (1);
}

bool
smtp_ascii(struct bytes b)
{
	for (size_t i = 0; i < b.n; i++)
		if (b.p[i] >= 0x80)
			return (false);
	return (true);
}

static int
hex(uint8_t c)
{
	return (c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1);
}

bool
smtp_xtext(struct bytes b)
{
	for (size_t i = 0; i < b.n; i++) {
		if (b.p[i] < 33 || b.p[i] > 126 || b.p[i] == '=')
			return (false);
		if (b.p[i] != '+')
			continue;
		if (b.n - i < 3 || hex(b.p[i + 1]) == -1 || hex(b.p[i + 2]) == -1)
			return (false);
		i += 2;
	}
	return (true);
}

bool
smtp_put_xtext(struct out *o, const char *s)
{
	for (; *s != '\0'; s++) {
		uint8_t c = (uint8_t)*s;

		if (c < 33 || c > 126 || c == '+' || c == '=')
			out_fmt(o, "+%02X", c);
		else
			out_put(o, bytes(s, 1));
	}
	return (!o->full);
}
