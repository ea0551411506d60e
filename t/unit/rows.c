/* rows - one JSON object, always well formed; what does not fit is left out whole */
/* LINK: workers/rows.c supervisor/buf.c */
#include <jansson.h>
#include <stdlib.h>

#include "t/lib/tap.h"
#include "workers/rows.h"

static json_t *
parse(const struct row *r)
{
	return (json_loadb((const char *)row_bytes(r).p, row_bytes(r).n, JSON_REJECT_DUPLICATES, NULL));
}

static void
whole(void)
{
	static struct row r;
	json_t *j;

	row_begin(&r);
	row_str(&r, "s", "a\"b\\c\n\x01");
	row_num(&r, "n", INT64_MAX);
	row_bool(&r, "t", true);
	row_bool(&r, "f", false);
	row_end(&r);
	j = parse(&r);
	ok(j != NULL && json_object_size(j) == 4 && strcmp(json_string_value(json_object_get(j, "s")), "a\"b\\c\n\x01") == 0 &&
	    json_integer_value(json_object_get(j, "n")) == INT64_MAX && json_is_true(json_object_get(j, "t")) &&
	    json_is_false(json_object_get(j, "f")), "an object of each kind of value");
	json_decref(j);
	row_begin(&r);
	row_end(&r);
	ok(bytes_eq(row_bytes(&r), BYTES("{}")), "an empty one");
}

/* Fills the row up to every length near its end, then puts one of each kind behind: JSON it stays. */
static void
full(void)
{
	static struct row r;
	static char text[5000];
	int bad = 0, left = 0;

	for (size_t len = 4000; len < 4200; len++)
		for (int kind = 0; kind < 3; kind++) {
			json_t *j;

			memset(text, 'x', len);
			text[len] = '\0';
			row_begin(&r);
			row_str(&r, "text", text);
			if (kind == 0)
				row_str(&r, "name", "value");
			else if (kind == 1)
				row_num(&r, "name", 1234567890);
			else
				row_bool(&r, "name", false);
			row_str(&r, "z", "");
			row_end(&r);
			if ((j = parse(&r)) == NULL && bad++ == 0)
				printf("# %zu, kind %d: ...%.*s\n", len, kind, 30, (const char *)row_bytes(&r).p + row_bytes(&r).n - 30);
			left += j != NULL && json_object_get(j, "z") != NULL && json_object_get(j, "name") == NULL;
			json_decref(j);
		}
	ok(bad == 0, "well formed however much of it is full");
	ok(left > 0, "and what still fits behind what did not is there");
}

int
main(void)
{
	whole();
	full();
	return (done_testing());
}
