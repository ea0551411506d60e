/* conf_image - the checked configuration as a sealed memfd that every process maps (conf.h) */
#include <sys/mman.h>
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
