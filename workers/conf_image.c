/* conf_image - the checked configuration as a sealed memfd that every process maps (conf.h) */
#include <sys/mman.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "workers/conf.h"

int
conf_seal(const struct conf *c)
{
	int fd = memfd_create("bmr-conf", MFD_CLOEXEC | MFD_ALLOW_SEALING), e;

	if (fd == -1)
		return (-1);
	if (write(fd, c, sizeof(*c)) != (ssize_t)sizeof(*c) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == -1) {
		e = errno;
		close(fd);
		errno = e;
		return (-1);
	}
	return (fd);
}

const struct conf *
conf_image(const void *p, uint64_t size)
{
	const struct conf *c = p;

	if (p == NULL || size < sizeof(*c) || c->format != CONF_FORMAT || c->size != sizeof(*c) ||
	    c->nservice > CONF_SERVICES)
		return (NULL);
	return (c);
}

const struct conf_service *
conf_service(const struct conf *c, const char *name)
{
	for (uint32_t i = 0; i < c->nservice; i++)
		if (strcmp(c->service[i].name, name) == 0)
			return (&c->service[i]);
	return (NULL);
}

bool
conf_has_certificate(const struct conf_tls *t, uint32_t n)
{
	return (memchr(t->certificate, (int)n, t->ncertificate) != NULL);
}

bool
conf_in_nets(const struct conf_net *net, uint32_t n, const char *address)
{
	uint8_t a[16] = { 0 };

	if (inet_pton(AF_INET, address, a + 12) == 1)
		memset(a + 10, 0xff, 2);
	else if (inet_pton(AF_INET6, address, a) != 1)
		return (false);
	for (uint32_t i = 0; i < n && i < CONF_NETS; i++) {
		uint8_t whole = net[i].bits / 8, rest = net[i].bits % 8, mask = (uint8_t)(0xff00 >> rest);

		if (net[i].bits > 128 || memcmp(a, net[i].addr, whole) != 0)
			continue;
		if (rest == 0 || ((a[whole] ^ net[i].addr[whole]) & mask) == 0)
			return (true);
	}
	return (false);
}
