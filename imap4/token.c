/* token - see token.h; pure */
#include "imap4/token.h"

bool
token_literal(struct bytes line, uint64_t *n, bool *sync, bool *binary)
{
	size_t at, end = line.n;

	if (end < 3 || line.p[end - 1] != '}')
		return (false);
	end--;
	*sync = line.p[end - 1] != '+';
	if (!*sync)
		end--;
	for (at = end; at > 0 && line.p[at - 1] >= '0' && line.p[at - 1] <= '9'; at--)
		;
	if (at == 0 || line.p[at - 1] != '{' || at == end)
		return (false);
	*binary = at > 1 && line.p[at - 2] == '~';
	/* more digits than any size has: the largest there is, which nobody takes */
	if (bytes_num(bytes(line.p + at, end - at), 0, INT64_MAX, n) == -1)
		*n = INT64_MAX;
	return (true);
}

struct bytes
token_word(struct bytes *rest)
{
	size_t i, deep = 0;
	struct bytes w;

	for (i = 0; i < rest->n && (rest->p[i] != ' ' || deep > 0); i++) {
		if (rest->p[i] == '[')
			deep++;
		else if (rest->p[i] == ']' && deep > 0)
			deep--;
	}
	w = bytes(rest->p, i);
	*rest = bytes_cut(*rest, i);
	return (w);
}

void
token_space(struct bytes *rest)
{
	size_t i;

	for (i = 0; i < rest->n && rest->p[i] == ' '; i++)
		;
	*rest = bytes_cut(*rest, i);
}

/* The length of the quoted string at the start, 0: not closed. */
static size_t
quoted(struct bytes b)
{
	for (size_t i = 1; i < b.n; i++) {
		if (b.p[i] == '\\')
			i++;
		else if (b.p[i] == '"')
			return (i + 1);
		else if (b.p[i] == '\r' || b.p[i] == '\n')
			return (0);
	}
	return (0);
}

/* The length of the literal at the start with its octets and the start of them; 0: not one, or not all there. */
static size_t
literal(struct bytes b, size_t *start)
{
	const uint8_t *lf;
	uint64_t n;
	bool sync, binary;

	if (b.n < 4 || (b.p[0] != '{' && !(b.p[0] == '~' && b.p[1] == '{')))
		return (0);
	lf = memchr(b.p, '\n', b.n < 32 ? b.n : 32);
	if (lf == NULL || lf[-1] != '\r' || !token_literal(bytes(b.p, (size_t)(lf - 1 - b.p)), &n, &sync, &binary))
		return (0);
	*start = (size_t)(lf + 1 - b.p);
	return (n <= b.n - *start ? *start + (size_t)n : 0);
}

static bool
ends_atom(uint8_t c)
{
	return (c == ' ' || c == '(' || c == ')' || c == '"' || c == '{' || c == '\r' || c == '\n');
}

/* One step over a value's next part; the octets passed, 0: malformed. */
static size_t
part(struct bytes b)
{
	size_t i, n;

	if (b.p[0] == '"')
		return (quoted(b));
	if (b.p[0] == '{' || (b.p[0] == '~' && b.n > 1 && b.p[1] == '{'))
		return (literal(b, &n));
	for (i = 1; i < b.n && !ends_atom(b.p[i]) && !(b.p[i] == '~' && i + 1 < b.n && b.p[i + 1] == '{'); i++)
		;
	return (i);
}

bool
token_value(struct bytes *rest, struct bytes *value)
{
	struct bytes b = *rest;
	uint32_t deep = 0;
	size_t n;

	if (b.n == 0 || b.p[0] == ')' || b.p[0] == ' ' || b.p[0] == '\r' || b.p[0] == '\n')
		return (false);
	do {
		if (b.n == 0)
			return (false);
		if (b.p[0] == '(') {
			if (++deep > DEPTH_MAX * 10)
				return (false);
			n = 1;
		} else if (b.p[0] == ')') {
			deep--;
			n = 1;
		} else if (b.p[0] == '\r' || b.p[0] == '\n')
			return (false);
		else if (b.p[0] == ' ' && deep > 0)
			n = 1;
		else if ((n = part(b)) == 0)
			return (false);
		b = bytes_cut(b, n);
	} while (deep > 0);
	*value = bytes(rest->p, (size_t)(b.p - rest->p));
	*rest = b;
	return (true);
}

bool
token_string(struct bytes v, uint8_t *dst, size_t size, struct bytes *text)
{
	size_t start, n = 0;

	if (v.n == 0)
		return (false);
	if (v.p[0] == '{' || (v.p[0] == '~' && v.n > 1 && v.p[1] == '{')) {
		if (literal(v, &start) != v.n)
			return (false);
		*text = bytes_cut(v, start);
		return (true);
	}
	if (v.p[0] != '"') {
		*text = v;
		return (v.p[0] != '(');
	}
	if (quoted(v) != v.n)
		return (false);
	if (memchr(v.p, '\\', v.n) == NULL) {
		*text = bytes(v.p + 1, v.n - 2);
		return (true);
	}
	for (size_t i = 1; i < v.n - 1; i++) {
		if (v.p[i] == '\\')
			i++;
		if (n == size)
			return (false);
		dst[n++] = v.p[i];
	}
	*text = bytes(dst, n);
	return (true);
}

const char *
token_check(struct bytes b)
{
	uint32_t deep = 0;
	size_t n, start;

	while (b.n > 0) {
		n = 1;
		switch (b.p[0]) {
		case '"':
			if ((n = quoted(b)) == 0)
				return ("string without an end");
			break;
		case '{':
			if ((n = literal(b, &start)) == 0)
				return ("{ outside of a string");
			break;
		case '(':
			if (++deep > DEPTH_MAX)
				return ("lists nested too deep");
			break;
		case ')':
			if (deep-- == 0)
				return (") without (");
			break;
		case '\r':
		case '\n':
		case '\0':
			return ("control character in a command");
		default:
			break;
		}
		b = bytes_cut(b, n);
	}
	return (deep > 0 ? "list without an end" : NULL);
}

bool
token_item(struct bytes *rest, struct bytes *name, struct bytes *value)
{
	token_space(rest);
	if (rest->n == 0 || rest->p[0] == ')')
		return (false);
	*name = token_word(rest);
	if (name->n == 0 || rest->n == 0)
		return (false);
	token_space(rest);
	return (token_value(rest, value));
}

bool
token_quotable(struct bytes b)
{
	for (size_t i = 0; i < b.n; i++)
		if (b.p[i] < 0x20 || b.p[i] >= 0x7f)
			return (false);
	return (b.n <= 1000);
}
