/* tree - see tree.h; pure */
#include <stdio.h>
#include <string.h>

#include "workers/gw_msg.h"
#include "workers/tree.h"

static struct spec *
add(struct tree *t, const char *id, int32_t parent, uint8_t role, const char *image)
{
	struct spec *s;

	if (t->n == SPEC_MAX)
		return (NULL);
	s = &t->spec[t->n++];
	*s = (struct spec){ .parent = parent, .role = role, .restart = PERMANENT, .shutdown_ms = 5000,
	    .start_ms = 30000 };
	snprintf(s->id, sizeof(s->id), "%s", id);
	snprintf(s->image, sizeof(s->image), "%s", image);
	return (s);
}

static int
add_protocol(struct tree *t, const char *protocol)
{
	char image[40], id[SPEC_ID_MAX];
	int32_t group = (int32_t)t->n;
	struct spec *s;

	snprintf(image, sizeof(image), "bmr-%s", protocol);
	if ((s = add(t, protocol, -1, 0, "")) == NULL)
		return (-1);
	s->supervisor = true;
	s->shutdown_ms = SHUTDOWN_INFINITY;
	s->strategy = ONE_FOR_ONE;
	s->intensity = 10;
	s->period_s = 10;
	snprintf(id, sizeof(id), "%s/zygote", protocol);
	if ((s = add(t, id, group, R_ZYGOTE, image)) == NULL)
		return (-1);
	snprintf(s->args[0], sizeof(s->args[0]), "zygote");
	snprintf(id, sizeof(id), "%s/listener", protocol);
	if ((s = add(t, id, group, R_LISTENER, image)) == NULL)
		return (-1);
	s->shutdown_ms = 10000;		/* its sessions are told and given a moment */
	snprintf(s->args[0], sizeof(s->args[0]), "listener");
	snprintf(s->listens, sizeof(s->listens), "%s", protocol);
	snprintf(s->peers[0], sizeof(s->peers[0]), "%s/zygote", protocol);
	snprintf(s->peers[1], sizeof(s->peers[1]), "balancer");
	snprintf(s->peers[2], sizeof(s->peers[2]), "admin");
	snprintf(s->peers[3], sizeof(s->peers[3]), "fdstore");
	snprintf(s->peers[4], sizeof(s->peers[4]), "tls");
	return (0);
}

int
tree_build(const struct conf *c, struct tree *t)
{
	struct spec *s;

	memset(t, 0, sizeof(*t));
	t->strategy = ONE_FOR_ONE;
	t->intensity = 5;
	t->period_s = 10;
	/* first, so that it is there when listeners start, and stops last */
	s = add(t, "fdstore", -1, R_FDSTORE, "bmr-fdstore");
	snprintf(s->listens, sizeof(s->listens), "*");
	add(t, "balancer", -1, R_BALANCER, "bmr-balancer");
	s = add(t, "admin", -1, R_ADMIN, "bmr-admin");
	snprintf(s->peers[0], sizeof(s->peers[0]), "balancer");
	snprintf(s->peers[1], sizeof(s->peers[1]), "tls");
	add(t, "tls", -1, R_TLS, "bmr-tls");
	for (uint32_t i = 0; i < c->nservice; i++) {
		bool there = false;

		for (uint32_t k = 0; k < t->n; k++)
			there = there || strcmp(t->spec[k].id, c->service[i].protocol) == 0;
		if (!there && add_protocol(t, c->service[i].protocol) == -1)
			return (-1);
	}
	return (0);
}
