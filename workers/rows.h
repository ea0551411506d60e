/* rows - one bounded JSON object, for an answer to admin; strings are escaped, what does not fit is left out whole */
#ifndef WORKERS_ROWS_H
#define WORKERS_ROWS_H

#include "supervisor/buf.h"

struct row { struct out o; uint8_t space[4096]; bool first; };

void	row_begin(struct row *);
void	row_str(struct row *, const char *key, const char *value);
void	row_num(struct row *, const char *key, uint64_t value);
void	row_bool(struct row *, const char *key, bool value);
void	row_end(struct row *);
struct bytes row_bytes(const struct row *);

#endif
