/* conf_parse - what conf.c, conf_value.c, conf_text.c and conf_tls.c share: faults, numbers, addresses and the options of TLS (see conf.h) */
#ifndef WORKERS_CONF_PARSE_H
#define WORKERS_CONF_PARSE_H

#include <confuse.h>

#include "workers/conf.h"

#define TIME(name)	CFG_STR(name, NULL, CFGF_NONE)
#define SIZE(name)	CFG_STR(name, NULL, CFGF_NONE)

/* One fault, one line; file NULL: the one that is parsed. */
void	fault(const char *file, unsigned int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same with its code of sysexits.h, for when nothing else is wrong. */
void	fault_as(int code, const char *file, unsigned int line, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

#define HOST_OCTETS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"

struct unit { const char *name; uint64_t times; };
extern const struct unit time_units[], size_units[];
/* A number with a unit. 0, or -1. */
int	number(const char *, const struct unit *, uint64_t max, uint64_t *);
uint32_t num(cfg_t *, const char *key, const struct unit *, uint32_t dflt);
const char *last(cfg_opt_t *);			/* the value just given */
int	valid_time(cfg_t *, cfg_opt_t *);
int	valid_size(cfg_t *, cfg_opt_t *);
int	valid_listen(cfg_t *, cfg_opt_t *);
/* The first line with this text that was not given yet, else the last. */
unsigned int line_of_listen(const char *text);
unsigned int line_of_group(const char **file);	/* of the key, where it was read last */
unsigned int line_of_socket(const char **file);	/* 0: none is named, or by a relative path */
void	conf_validators(cfg_t *);		/* for all options but those of TLS; forgets the lines of another file */
/* "127.0.0.1:25", "[::1]:25", "host:25". 0, or -1. */
int	split_address(const char *, char *host, size_t size, uint16_t *port);
void	copy(cfg_t *, char *dst, size_t size, const char *, const char *what);
void	take_path(cfg_t *, char *dst, const char *key);	/* made absolute */

/* conf_tls.c: options, their checks, and what becomes of them */
extern cfg_opt_t conf_certificate_opts[], conf_tls_opts[], conf_service_tls_opts[], conf_listener_opts[],
    conf_backend_tls_opts[];
#define CONF_TLS_TOP \
	CFG_SEC("certificate", conf_certificate_opts, CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES), \
	CFG_SEC("tls", conf_tls_opts, CFGF_MULTI)
#define CONF_TLS_SERVICE \
	CFG_STR_LIST("listen-tls", "{}", CFGF_NONE), CFG_STR("master-user", NULL, CFGF_NONE), \
	CFG_STR("master-password-file", NULL, CFGF_NONE), CFG_SEC("tls", conf_service_tls_opts, CFGF_NONE), \
	CFG_SEC("listener", conf_listener_opts, CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES)
#define CONF_TLS_BACKEND \
	CFG_SEC("tls", conf_backend_tls_opts, CFGF_NONE), CFG_STR("proxy", "none", CFGF_NONE)
void	conf_tls_validators(cfg_t *);
void	conf_tls_top(cfg_t *, struct conf *);	/* first: the others name its certificates */
void	conf_tls_service(cfg_t *, struct conf_service *);
void	conf_tls_listens(cfg_t *, struct conf_service *);
void	conf_tls_backend(cfg_t *, struct conf_backend *);

/* conf_text.c: the files themselves */
void	text_first(const char *file);		/* forgets all others */
/* A file without its comments and room for more behind it, the caller's to free; NULL and errno. */
char	*text_read(const char *file, size_t more, size_t *n);
void	text_blank(char *, size_t);		/* blanks comments, keeps lines */
const char *text_name(const char *seen);	/* the file's, for a name that libconfuse has */
int	text_include(cfg_t *, cfg_opt_t *, int argc, const char **argv);

#endif
