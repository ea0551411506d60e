/*
 * conf_value - the values of bmr.conf: numbers, addresses, paths, each checked where its line is known (conf_parse.h)
 */
#include <sys/un.h>
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workers/conf_parse.h"
#include "workers/share.h"

const struct unit time_units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { NULL, 0 } };
const struct unit size_units[] = { { "", 1 }, { "k", 1024 }, { "K", 1024 }, { "M", 1 << 20 }, { "G", 1 << 30 },
	{ NULL, 0 } };

int
number(const char *s, const struct unit *u, uint64_t max, uint64_t *n)
{
	char *end;
	unsigned long long v;

	if (!isdigit((unsigned char)s[0]))
		return (-1);
	errno = 0;
	v = strtoull(s, &end, 10);
	for (; u->name != NULL; u++)
		if (strcmp(end, u->name) == 0) {
			if (errno != 0 || v > max / u->times)
				return (-1);
			*n = v * u->times;
			return (0);
		}
	return (-1);
}

const char *
last(cfg_opt_t *opt)
{
	return (cfg_opt_getnstr(opt, cfg_opt_size(opt) - 1));
}

int
valid_time(cfg_t *cfg, cfg_opt_t *opt)
{
	uint64_t n;

	if (number(last(opt), time_units, UINT32_MAX, &n) == -1) {
		fault(cfg->filename, (unsigned int)cfg->line, "%s = \"%s\": expected a time with a unit, as \"30s\", "
		    "\"500ms\", \"5m\" or \"1h\"", cfg_opt_name(opt), last(opt));
		return (-1);
	}
	return (0);
}

int
valid_size(cfg_t *cfg, cfg_opt_t *opt)
{
	uint64_t n;

	if (number(last(opt), size_units, UINT64_C(1) << 40, &n) == -1) {
		fault(cfg->filename, (unsigned int)cfg->line, "%s = \"%s\": expected a number, as \"1000\", \"64k\", "
		    "\"16M\" or \"1G\"", cfg_opt_name(opt), last(opt));
		return (-1);
	}
	return (0);
}

static int
one_of(cfg_t *cfg, cfg_opt_t *opt, const char *a, const char *b)
{
	if (strcmp(last(opt), a) == 0 || strcmp(last(opt), b) == 0)
		return (0);
	fault(cfg->filename, (unsigned int)cfg->line, "%s = \"%s\": expected %s or %s", cfg_opt_name(opt), last(opt), a, b);
	return (-1);
}

/* Empty would be the directory that bmrd is started in, which own_dir() would then give away. */
static int
valid_path(cfg_t *cfg, cfg_opt_t *opt)
{
	if (last(opt)[0] != '\0' && strlen(last(opt)) < CONF_PATH)
		return (0);
	fault(cfg->filename, (unsigned int)cfg->line, "%s = \"%.40s%s\": expected a path of 1 to %d octets", cfg_opt_name(opt), last(opt),
	    last(opt)[0] != '\0' ? "..." : "", CONF_PATH - 1);
	return (-1);
}

/* What bmrd has no line for any more when it looks at the whole. */
static int
valid_listeners(cfg_t *cfg, cfg_opt_t *opt)
{
	uint64_t n;

	if (number(last(opt), size_units, SHARES, &n) == 0 && n > 0)
		return (0);
	fault(cfg->filename, (unsigned int)cfg->line, "listeners = \"%s\": expected a number from 1 to %d", last(opt), SHARES);
	return (-1);
}

static unsigned int group_line;
static char group_file[CONF_PATH];

static int
valid_user(cfg_t *cfg, cfg_opt_t *opt)
{
	bool user = strcmp(cfg_opt_name(opt), "user") == 0;

	if (!user) {
		group_line = (unsigned int)cfg->line;
		snprintf(group_file, sizeof(group_file), "%s", cfg->filename);
	}
	if (strlen(last(opt)) < CONF_NAME && (user ? getpwnam(last(opt)) != NULL : getgrnam(last(opt)) != NULL))
		return (0);
	fault(cfg->filename, (unsigned int)cfg->line, "%s = \"%.40s\": no such %s, expected one of the system's", cfg_opt_name(opt), last(opt),
	    cfg_opt_name(opt));
	return (-1);
}

static int
valid_banner(cfg_t *cfg, cfg_opt_t *opt)
{
	const char *s = last(opt);

	if (s[0] != '\0' && strlen(s) < CONF_HOST && s[strspn(s, HOST_OCTETS)] == '\0')
		return (0);
	fault(cfg->filename, (unsigned int)cfg->line, "banner = \"%.40s\": expected a host name", s);
	return (-1);
}

static int
valid_count(cfg_t *cfg, cfg_opt_t *opt)
{
	uint64_t n = 0;

	if (valid_size(cfg, opt) == -1)
		return (-1);
	if (number(last(opt), size_units, UINT64_C(1) << 40, &n) == 0 && n > 0)
		return (0);
	fault(cfg->filename, (unsigned int)cfg->line, "%s = \"%s\": expected 1 or more%s", cfg_opt_name(opt), last(opt),
	    strcmp(cfg_opt_name(opt), "weight") == 0 ? " (to keep it idle: drained)" : "");
	return (-1);
}

static int
valid_interval(cfg_t *cfg, cfg_opt_t *opt)
{
	uint64_t ms = 0;

	if (valid_time(cfg, opt) == -1)
		return (-1);
	if (number(last(opt), time_units, UINT32_MAX, &ms) == 0 && ms >= 100)
		return (0);
	fault(cfg->filename, (unsigned int)cfg->line, "interval = \"%s\": expected 100ms or more", last(opt));
	return (-1);
}

/* A relative path is looked at when bmrd starts. */
static int
valid_release(cfg_t *cfg, cfg_opt_t *opt)
{
	char path[CONF_PATH + 16];

	snprintf(path, sizeof(path), "%s/bmr-fdstore", last(opt));
	if (valid_path(cfg, opt) == -1)
		return (-1);
	if (path[0] != '/' || access(path, X_OK) == 0)
		return (0);
	fault(cfg->filename, (unsigned int)cfg->line, "release-dir = \"%s\": %s: expected the directory with bmr-fdstore and the "
	    "other programs", last(opt), strerror(errno));
	return (-1);
}

static unsigned int socket_line;
static char socket_file[CONF_PATH];

static int
valid_socket(cfg_t *cfg, cfg_opt_t *opt)
{
	struct sockaddr_un a;

	if (valid_path(cfg, opt) == -1)
		return (-1);
	socket_line = last(opt)[0] == '/' ? (unsigned int)cfg->line : 0;
	snprintf(socket_file, sizeof(socket_file), "%s", cfg->filename);
	if (strlen(last(opt)) < sizeof(a.sun_path))
		return (0);
	fault(cfg->filename, (unsigned int)cfg->line, "socket, \"%s\": expected a path of at most %zu octets", last(opt),
	    sizeof(a.sun_path) - 1);
	return (-1);
}

static int
valid_doubt(cfg_t *cfg, cfg_opt_t *opt)
{
	return (one_of(cfg, opt, "replay", "tempfail"));
}

static int
valid_newline(cfg_t *cfg, cfg_opt_t *opt)
{
	return (one_of(cfg, opt, "reject", "normalize"));
}

static int
valid_format(cfg_t *cfg, cfg_opt_t *opt)
{
	return (one_of(cfg, opt, "newest", "previous"));
}

int
split_address(const char *s, char *host, size_t size, uint16_t *port)
{
	const char *colon = strrchr(s, ':');
	uint64_t n;
	size_t len;

	if (colon == NULL || number(colon + 1, (const struct unit[]){ { "", 1 }, { NULL, 0 } }, 65535, &n) == -1 || n == 0)
		return (-1);
	len = (size_t)(colon - s);
	if (len >= 2 && s[0] == '[' && colon[-1] == ']') {
		s++;
		len -= 2;
	} else if (memchr(s, ':', len) != NULL)
		return (-1);
	if (len == 0 || len >= size)
		return (-1);
	memcpy(host, s, len);
	host[len] = '\0';
	*port = (uint16_t)n;
	return (0);
}

static bool
numeric(const char *h)
{
	struct in6_addr a;

	return (strcmp(h, "*") == 0 || inet_pton(AF_INET, h, &a) == 1 || inet_pton(AF_INET6, h, &a) == 1);
}

static int
valid_address(cfg_t *cfg, cfg_opt_t *opt)
{
	char host[CONF_HOST];
	uint16_t port;

	if (split_address(last(opt), host, sizeof(host), &port) == -1) {
		fault(cfg->filename, (unsigned int)cfg->line, "%s = \"%s\": expected host:port, as \"192.0.2.1:25\", "
		    "\"[2001:db8::1]:25\" or \"mail1.example:25\"", cfg_opt_name(opt), last(opt));
		return (-1);
	}
	return (0);
}

/* Listens are remembered with their lines, since libconfuse keeps none. */
static struct { char text[CONF_HOST]; unsigned int line; bool given; } listens[CONF_SERVICES * CONF_LISTENS];
static unsigned int nlistens;

int
valid_listen(cfg_t *cfg, cfg_opt_t *opt)
{
	char host[CONF_HOST];
	uint16_t port;

	if (split_address(last(opt), host, 64, &port) == -1 || !numeric(host)) {
		fault(cfg->filename, (unsigned int)cfg->line, "listen \"%s\": expected address:port, as \"0.0.0.0:25\", "
		    "\"[::]:25\" or \"*:25\"", last(opt));
		return (-1);
	}
	/* asked more than once about each */
	if (nlistens > 0 && listens[nlistens - 1].line == (unsigned int)cfg->line && strcmp(listens[nlistens - 1].text, last(opt)) == 0)
		return (0);
	if (nlistens < sizeof(listens) / sizeof(listens[0])) {
		snprintf(listens[nlistens].text, sizeof(listens[0].text), "%s", last(opt));
		listens[nlistens].given = false;
		listens[nlistens++].line = (unsigned int)cfg->line;
	}
	return (0);
}

unsigned int
line_of_listen(const char *text)
{
	unsigned int line = 1;

	for (unsigned int i = 0; i < nlistens; i++)
		if (strcmp(listens[i].text, text) == 0) {
			line = listens[i].line;
			if (listens[i].given)
				continue;
			listens[i].given = true;
			break;
		}
	return (line);
}

unsigned int
line_of_group(const char **file)
{
	*file = group_file;
	return (group_line);
}

unsigned int
line_of_socket(const char **file)
{
	*file = socket_file;
	return (socket_line);
}

/* --- which value is checked how -------------------------------------------------------------------------------------- */

static const char *const time_keys[] = { "connect", "greeting", "command", "data-init", "bulk", "end-of-data", "login",
	"idle", "content", "hold", "queue", "unauthenticated", "hold-idle", "keep-client", "keep-backend",
	"login-failure", "park" };
static const char *const limit_keys[] = { "line", "reply", "recipients", "errors", "message", "spool-memory", "journal",
	"maildrop", "sessions", "per-address", "queue" };

void
conf_validators(cfg_t *cfg)
{
	char path[64];

	nlistens = socket_line = 0;
	for (size_t i = 0; i < sizeof(time_keys) / sizeof(time_keys[0]); i++) {
		snprintf(path, sizeof(path), "service|timeout|%s", time_keys[i]);
		cfg_set_validate_func(cfg, path, valid_time);
	}
	for (size_t i = 0; i < sizeof(limit_keys) / sizeof(limit_keys[0]); i++) {
		snprintf(path, sizeof(path), "service|limit|%s", limit_keys[i]);
		cfg_set_validate_func(cfg, path, valid_size);
	}
	cfg_set_validate_func(cfg, "service|health|interval", valid_interval);
	cfg_set_validate_func(cfg, "service|health|fall", valid_count);
	cfg_set_validate_func(cfg, "service|health|rise", valid_count);
	cfg_set_validate_func(cfg, "service|banner", valid_banner);
	cfg_set_validate_func(cfg, "state-dir", valid_path);
	cfg_set_validate_func(cfg, "run-dir", valid_path);
	cfg_set_validate_func(cfg, "listeners", valid_listeners);
	cfg_set_validate_func(cfg, "user", valid_user);
	cfg_set_validate_func(cfg, "group", valid_user);
	cfg_set_validate_func(cfg, "service|warm", valid_size);
	cfg_set_validate_func(cfg, "service|max-replays", valid_size);
	cfg_set_validate_func(cfg, "service|fence-delay", valid_time);
	cfg_set_validate_func(cfg, "service|in-doubt", valid_doubt);
	cfg_set_validate_func(cfg, "service|bare-newline", valid_newline);
	cfg_set_validate_func(cfg, "journal-format", valid_format);
	cfg_set_validate_func(cfg, "release-dir", valid_release);
	cfg_set_validate_func(cfg, "socket", valid_socket);
	cfg_set_validate_func(cfg, "service|listen", valid_listen);
	cfg_set_validate_func(cfg, "service|backend|address", valid_address);
	cfg_set_validate_func(cfg, "service|backend|max-sessions", valid_size);
	cfg_set_validate_func(cfg, "service|backend|weight", valid_count);
}
