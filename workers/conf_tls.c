/*
 * conf_tls - the keys of bmr.conf that concern TLS, listeners and the PROXY protocol (conf.h)
 *
 * Files are named here and read by the tls process alone. That they exist is checked here, so that bmrd -t tells.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workers/conf_parse.h"

cfg_opt_t conf_certificate_opts[] = { CFG_STR("chain", NULL, CFGF_NONE), CFG_STR("key", NULL, CFGF_NONE),
	CFG_STR("ocsp", NULL, CFGF_NONE), CFG_END() };
cfg_opt_t conf_tls_opts[] = { SIZE("sessions-per-process"), TIME("ticket-life"), TIME("warn-before"), CFG_END() };
cfg_opt_t conf_service_tls_opts[] = { CFG_STR_LIST("certificates", "{}", CFGF_NONE),
	CFG_STR("policy", "intermediate", CFGF_NONE), CFG_STR("client-certificates", "none", CFGF_NONE),
	CFG_STR("client-ca", NULL, CFGF_NONE), CFG_STR("identity", "cn", CFGF_NONE), CFG_END() };
cfg_opt_t conf_listener_opts[] = { CFG_STR("address", NULL, CFGF_NONE), CFG_STR("tls", NULL, CFGF_NONE),
	CFG_STR("auth-plaintext", NULL, CFGF_NONE), CFG_STR_LIST("proxy-from", "{}", CFGF_NONE), CFG_END() };
cfg_opt_t conf_backend_tls_opts[] = { CFG_STR("mode", "none", CFGF_NONE), CFG_STR("verify", NULL, CFGF_NONE),
	CFG_STR("policy", "intermediate", CFGF_NONE), CFG_STR("name", NULL, CFGF_NONE), CFG_STR("ca", NULL, CFGF_NONE),
	CFG_STR("pin", NULL, CFGF_NONE), CFG_STR("certificate", NULL, CFGF_NONE), CFG_END() };

static struct conf *all;		/* whose certificates are named; one parse in a process */

/* --- values ---------------------------------------------------------------------------------------------------------- */

/* The words that a key takes, in the order of the numbers that they stand for. */
static const char *const modes[] = { "none", "starttls", "implicit", NULL };
static const char *const policies[] = { "intermediate", "modern", NULL };
static const char *const verifies[] = { "name", "ca", "none", NULL };
static const char *const clients[] = { "none", "optional", "required", NULL };
static const char *const identities[] = { "cn", "email", NULL };
static const char *const versions[] = { "none", "v1", "v2", NULL };
static const char *const protocols[] = { "smtp", "pop3", "imap4", NULL };
static const char *const truths[] = { "no", "yes", NULL };

static int
word(const char *const *list, const char *s)
{
	for (int i = 0; list[i] != NULL; i++)
		if (strcmp(list[i], s) == 0)
			return (i);
	return (-1);
}

static const struct { const char *path; const char *const *list; } words[] = {
	{ "service|protocol", protocols },
	{ "service|tls|policy", policies }, { "service|tls|client-certificates", clients },
	{ "service|tls|identity", identities }, { "service|listener|tls", modes }, { "service|listener|auth-plaintext", truths },
	{ "service|backend|tls|mode", modes }, { "service|backend|tls|verify", verifies },
	{ "service|backend|tls|policy", policies }, { "service|backend|proxy", versions },
};

static int
valid_word(cfg_t *cfg, cfg_opt_t *opt)
{
	char expected[128] = "";

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		const char *key = strrchr(words[i].path, '|') + 1;
		size_t n = strlen(words[i].path) - strlen(key) - 1, sec = strlen(cfg_name(cfg));

		if (strcmp(key, cfg_opt_name(opt)) != 0 || n < sec || strncmp(words[i].path + n - sec, cfg_name(cfg), sec) != 0)
			continue;
		/* "service|tls|policy" and "service|backend|tls|policy" take the same words */
		if (word(words[i].list, last(opt)) != -1)
			return (0);
		for (int k = 0; words[i].list[k] != NULL; k++)
			snprintf(expected + strlen(expected), sizeof(expected) - strlen(expected), "%s%s", k == 0 ? "" :
			    words[i].list[k + 1] != NULL ? ", " : " or ", words[i].list[k]);
		fault(cfg->filename, (unsigned int)cfg->line, "%s = \"%s\": expected %s", cfg_opt_name(opt), last(opt), expected);
		return (-1);
	}
	return (0);
}

/* 64 hexadecimal digits, colons between them allowed. 0, or -1. */
static int
parse_pin(const char *s, uint8_t pin[CONF_PIN])
{
	size_t n = 0;
	unsigned int v;

	for (; *s != '\0' && n < CONF_PIN; n++) {
		if (*s == ':' && n > 0)
			s++;
		if (strspn(s, "0123456789abcdefABCDEF") < 2 || sscanf(s, "%2x", &v) != 1)
			return (-1);
		pin[n] = (uint8_t)v;
		s += 2;
	}
	return (*s == '\0' && n == CONF_PIN ? 0 : -1);
}

static int
valid_pin(cfg_t *cfg, cfg_opt_t *opt)
{
	uint8_t pin[CONF_PIN];

	if (parse_pin(last(opt), pin) == 0)
		return (0);
	fault(cfg->filename, (unsigned int)cfg->line, "pin = \"%s\": expected the SHA-256 of a public key, 64 hexadecimal digits",
	    last(opt));
	return (-1);
}

/* "192.0.2.0/24", "2001:db8::/32", "192.0.2.1". 0, or -1. */
static int
parse_net(const char *s, struct conf_net *net)
{
	char host[64];
	const char *slash = strchr(s, '/');
	size_t n = slash != NULL ? (size_t)(slash - s) : strlen(s);
	uint64_t bits;
	bool four;

	*net = (struct conf_net){ .bits = 128 };
	if (n == 0 || n >= sizeof(host))
		return (-1);
	memcpy(host, s, n);
	host[n] = '\0';
	four = inet_pton(AF_INET, host, net->addr + 12) == 1;
	if (four)
		memset(net->addr + 10, 0xff, 2);
	else if (inet_pton(AF_INET6, host, net->addr) != 1)
		return (-1);
	if (slash == NULL)
		return (0);
	if (number(slash + 1, (const struct unit[]){ { "", 1 }, { NULL, 0 } }, four ? 32 : 128, &bits) == -1)
		return (-1);
	net->bits = (uint8_t)(bits + (four ? 96 : 0));
	return (0);
}

static int
valid_net(cfg_t *cfg, cfg_opt_t *opt)
{
	struct conf_net net;

	if (parse_net(last(opt), &net) == 0)
		return (0);
	fault(cfg->filename, (unsigned int)cfg->line, "proxy-from \"%s\": expected a network, as \"192.0.2.0/24\" or "
	    "\"2001:db8::/32\"", last(opt));
	return (-1);
}

void
conf_tls_validators(cfg_t *cfg)
{
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		cfg_set_validate_func(cfg, words[i].path, valid_word);
	cfg_set_validate_func(cfg, "tls|sessions-per-process", valid_size);
	cfg_set_validate_func(cfg, "tls|ticket-life", valid_time);
	cfg_set_validate_func(cfg, "tls|warn-before", valid_time);
	cfg_set_validate_func(cfg, "service|listen-tls", valid_listen);
	cfg_set_validate_func(cfg, "service|listener|address", valid_listen);
	cfg_set_validate_func(cfg, "service|listener|proxy-from", valid_net);
	cfg_set_validate_func(cfg, "service|backend|tls|pin", valid_pin);
}

/* --- into the struct --------------------------------------------------------------------------------------------------- */

/* A file that is there and can be read by who starts the gateway. */
static void
take_file(cfg_t *c, char *dst, const char *key)
{
	if (cfg_getstr(c, key) == NULL)
		return;
	take_path(c, dst, key);
	if (access(dst, R_OK) == -1)
		fault(c->filename, (unsigned int)c->line, "%s = \"%s\": %s: expected a file that can be read", key, dst, strerror(errno));
}

void
conf_tls_top(cfg_t *cfg, struct conf *c)
{
	cfg_t *tls = cfg_size(cfg, "tls") > 0 ? cfg_getnsec(cfg, "tls", 0) : NULL;

	all = c;
	c->ticket_s = 3600;
	c->expiry_s = 14u * 86400u;
	if (cfg_size(cfg, "tls") > 1)
		fault(cfg_getnsec(cfg, "tls", 1)->filename, (unsigned int)cfg_getnsec(cfg, "tls", 1)->line, "tls: expected once");
	if (tls != NULL) {
		c->tls_sessions = num(tls, "sessions-per-process", size_units, 0);
		c->ticket_s = num(tls, "ticket-life", time_units, 3600000) / 1000;
		c->expiry_s = num(tls, "warn-before", time_units, 14u * 86400000u) / 1000;
	}
	if (tls != NULL && c->ticket_s == 0)
		fault(tls->filename, (unsigned int)tls->line, "ticket-life: expected 1s or more");
	if (cfg_size(cfg, "certificate") > CONF_CERTIFICATES)
		fault(cfg->filename, 1, "expected at most %d certificates", CONF_CERTIFICATES);
	for (unsigned int i = 0; i < cfg_size(cfg, "certificate") && i < CONF_CERTIFICATES; i++) {
		cfg_t *s = cfg_getnsec(cfg, "certificate", i);
		struct conf_certificate *x = &c->certificate[c->ncertificate++];

		x->line = (uint32_t)s->line;
		copy(s, x->name, sizeof(x->name), cfg_title(s), "certificate");
		if (cfg_getstr(s, "chain") == NULL || cfg_getstr(s, "key") == NULL)
			fault(s->filename, x->line, "certificate %s: expected chain = \"file\" and key = \"file\"", x->name);
		take_file(s, x->chain, "chain");
		take_file(s, x->key, "key");
		take_file(s, x->ocsp, "ocsp");
	}
}

static int32_t
certificate(cfg_t *c, const char *name)
{
	for (uint32_t i = 0; i < all->ncertificate; i++)
		if (strcmp(all->certificate[i].name, name) == 0)
			return ((int32_t)i);
	fault(c->filename, (unsigned int)c->line, "certificate \"%s\": expected the name of a certificate block", name);
	return (-1);
}

/* The first line of a file. */
static void
take_master(cfg_t *c, struct master *m)
{
	const char *user = cfg_getstr(c, "master-user");
	char path[CONF_PATH] = "", line[256] = "";
	FILE *f;

	if ((user == NULL) != (cfg_getstr(c, "master-password-file") == NULL)) {
		fault(c->filename, (unsigned int)c->line, "expected master-user and master-password-file together");
		return;
	}
	if (user == NULL)
		return;
	copy(c, m->user, sizeof(m->user), user, "master-user");
	take_file(c, path, "master-password-file");
	if (access(path, R_OK) == -1)
		return;			/* which is a fault already */
	if ((f = fopen(path, "re")) == NULL || fgets(line, sizeof(line), f) == NULL)
		line[0] = '\0';
	line[strcspn(line, "\r\n")] = '\0';
	if (line[0] == '\0' || strlen(line) >= sizeof(m->password))
		fault(c->filename, (unsigned int)c->line, "master-password-file = \"%s\": expected a password of 1 to %zu octets in its "
		    "first line", path, sizeof(m->password) - 1);
	memccpy(m->password, line, 0, sizeof(m->password) - 1);
	explicit_bzero(line, sizeof(line));
	if (f != NULL)
		fclose(f);
}

void
conf_tls_service(cfg_t *c, struct conf_service *s)
{
	cfg_t *t = cfg_getsec(c, "tls");
	struct conf_tls *tls = &s->tls;
	int32_t n;

	take_master(c, &s->master);
	tls->policy = (uint8_t)word(policies, cfg_getstr(t, "policy"));
	tls->client = (uint8_t)word(clients, cfg_getstr(t, "client-certificates"));
	tls->identity = (uint8_t)word(identities, cfg_getstr(t, "identity"));
	take_file(t, tls->client_ca, "client-ca");
	if (tls->client != CLIENT_NONE && tls->client_ca[0] == '\0')
		fault(t->filename, (unsigned int)t->line, "client-certificates: expected client-ca = \"file\" beside it");
	for (unsigned int i = 0; i < cfg_size(t, "certificates"); i++)
		if ((n = certificate(t, cfg_getnstr(t, "certificates", i))) != -1 && !conf_has_certificate(tls, (uint32_t)n))
			tls->certificate[tls->ncertificate++] = (uint8_t)n;
}

static struct conf_listen *
add_listen(cfg_t *c, struct conf_service *s, const char *text, int mode)
{
	struct conf_listen *l = &s->listen[s->nlisten];

	if (s->nlisten == CONF_LISTENS)
		return (NULL);
	s->nlisten++;
	(void)split_address(text, l->address, sizeof(l->address), &l->port);
	l->line = line_of_listen(text);
	if (l->line == 1)
		l->line = s->line;
	l->auth_plaintext = s->auth_plaintext;
	l->tls = (uint8_t)mode;
	if (mode == MODE_IMPLICIT && s->tls.ncertificate == 0)
		fault(c->filename, l->line, "\"%s\" with TLS: expected tls { certificates = { NAME } } in service %s", text, s->name);
	return (l);
}

static void
take_listener(cfg_t *c, struct conf_service *s, int dflt)
{
	const char *address = cfg_getstr(c, "address"), *mode = cfg_getstr(c, "tls"), *plain = cfg_getstr(c, "auth-plaintext");
	struct conf_listen *l;

	if (address == NULL) {
		fault(c->filename, (unsigned int)c->line, "listener %s: expected address = \"address:port\"", cfg_title(c));
		return;
	}
	if ((l = add_listen(c, s, address, mode != NULL ? word(modes, mode) : dflt)) == NULL)
		return;
	if (l->tls == MODE_STARTTLS && s->tls.ncertificate == 0)
		fault(c->filename, l->line, "listener %s with TLS: expected tls { certificates = { NAME } } in service %s",
		    cfg_title(c), s->name);
	if (plain != NULL)
		l->auth_plaintext = word(truths, plain) == 1;
	if (cfg_size(c, "proxy-from") > CONF_NETS)
		fault(c->filename, l->line, "listener %s: proxy-from: expected at most %d networks", cfg_title(c), CONF_NETS);
	for (unsigned int i = 0; i < cfg_size(c, "proxy-from") && i < CONF_NETS; i++)
		(void)parse_net(cfg_getnstr(c, "proxy-from", i), &l->proxy[l->nproxy++]);
}

void
conf_tls_listens(cfg_t *c, struct conf_service *s)
{
	unsigned int n = cfg_size(c, "listen") + cfg_size(c, "listen-tls") + cfg_size(c, "listener");
	int dflt = s->tls.ncertificate != 0 ? MODE_STARTTLS : MODE_NONE;

	if (n == 0 || n > CONF_LISTENS)
		fault(c->filename, s->line, "service %s: expected listen = { \"address:port\" }, 1 to %d of them", s->name,
		    CONF_LISTENS);
	for (unsigned int i = 0; i < cfg_size(c, "listen"); i++)
		(void)add_listen(c, s, cfg_getnstr(c, "listen", i), dflt);
	for (unsigned int i = 0; i < cfg_size(c, "listen-tls"); i++)
		(void)add_listen(c, s, cfg_getnstr(c, "listen-tls", i), MODE_IMPLICIT);
	for (unsigned int i = 0; i < cfg_size(c, "listener"); i++)
		take_listener(cfg_getnsec(c, "listener", i), s, dflt);
}

void
conf_tls_backend(cfg_t *c, struct conf_backend *b)
{
	cfg_t *t = cfg_getsec(c, "tls");
	struct conf_backend_tls *tls = &b->tls;
	const char *name = cfg_getstr(t, "name"), *pin = cfg_getstr(t, "pin"), *ours = cfg_getstr(t, "certificate"),
	    *verify = cfg_getstr(t, "verify");

	*tls = (struct conf_backend_tls){ .mode = (uint8_t)word(modes, cfg_getstr(t, "mode")),
	    .verify = (uint8_t)word(verifies, verify != NULL ? verify : pin != NULL ? "none" : "name"), .policy = (uint8_t)word(policies, cfg_getstr(t, "policy")),
	    .certificate = ours != NULL ? certificate(t, ours) : -1, .pinned = pin != NULL };
	copy(t, tls->name, sizeof(tls->name), name != NULL ? name : b->host, "name");
	if (tls->name[0] == '\0')	/* OpenSSL would take any */
		fault(t->filename, (unsigned int)t->line, "name \"\": expected a host name");
	take_file(t, tls->ca, "ca");
	if (pin != NULL)
		(void)parse_pin(pin, tls->pin);
	b->proxy = (uint8_t)word(versions, cfg_getstr(c, "proxy"));
}
