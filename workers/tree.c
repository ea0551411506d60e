/* tree - see tree.h; pure */
#include <stdio.h>
#include <string.h>

#include "workers/gw_msg.h"
#include "workers/share.h"
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
add_share(struct tree *t, const char *protocol, int32_t group, const char *image, uint32_t share)
{
	char base[SPEC_ID_MAX], zygote[SPEC_ID_MAX], id[SPEC_ID_MAX];
	struct spec *s;

	snprintf(base, sizeof(base), "%s/zygote", protocol);
	share_id(zygote, sizeof(zygote), base, share);
	if ((s = add(t, zygote, group, R_ZYGOTE, image)) == NULL)
		return (-1);
	snprintf(s->args[0], sizeof(s->args[0]), "zygote");
	snprintf(base, sizeof(base), "%s/listener", protocol);
	share_id(id, sizeof(id), base, share);
	if ((s = add(t, id, group, R_LISTENER, image)) == NULL)
		return (-1);
	s->shutdown_ms = 10000;		/* its sessions are told and given a moment */
	snprintf(s->args[0], sizeof(s->args[0]), "listener");
	snprintf(s->listens, sizeof(s->listens), "%s", protocol);
	snprintf(s->peers[0], sizeof(s->peers[0]), "%s", zygote);
	snprintf(s->peers[1], sizeof(s->peers[1]), "balancer");
	snprintf(s->peers[2], sizeof(s->peers[2]), "admin");
	share_id(s->peers[3], sizeof(s->peers[3]), "fdstore", share);
	snprintf(s->peers[4], sizeof(s->peers[4]), "tls");
	return (0);
}

static int
add_protocol(struct tree *t, const char *protocol, uint32_t shares)
{
	char image[40];
	int32_t group = (int32_t)t->n;
	struct spec *s;

	snprintf(image, sizeof(image), "bmr-%s", protocol);
	if ((s = add(t, protocol, -1, 0, "")) == NULL)
		return (-1);
	s->supervisor = true;
	s->shutdown_ms = SHUTDOWN_INFINITY;
	s->strategy = ONE_FOR_ONE;
	s->intensity = 10 * shares;
	s->period_s = 10;
	for (uint32_t i = 0; i < shares; i++)
		if (add_share(t, protocol, group, image, i) == -1)
			return (-1);
	return (0);
}

int
tree_build(const struct conf *c, struct tree *t)
{
	char id[SPEC_ID_MAX];
	struct spec *s;

	memset(t, 0, sizeof(*t));
	t->strategy = ONE_FOR_ONE;
	t->intensity = 5 + c->shares - 1;
	t->period_s = 10;
	/* first, so that they are there when listeners start, and stop last */
	for (uint32_t i = 0; i < c->shares; i++) {
		share_id(id, sizeof(id), "fdstore", i);
		s = add(t, id, -1, R_FDSTORE, "bmr-fdstore");
		snprintf(s->listens, sizeof(s->listens), i == 0 ? "*" : "");
	}
	add(t, "balancer", -1, R_BALANCER, "bmr-balancer");
	s = add(t, "admin", -1, R_ADMIN, "bmr-admin");
	snprintf(s->peers[0], sizeof(s->peers[0]), "balancer");
	snprintf(s->peers[1], sizeof(s->peers[1]), "tls");
	add(t, "tls", -1, R_TLS, "bmr-tls");
	for (uint32_t i = 0; i < c->nservice; i++) {
		bool there = false;

		for (uint32_t k = 0; k < t->n; k++)
			there = there || strcmp(t->spec[k].id, c->service[i].protocol) == 0;
		if (!there && add_protocol(t, c->service[i].protocol, c->shares) == -1)
			return (-1);
	}
	return (0);
}

bool
tree_serves(const struct tree *running, const struct tree *next)
{
	if (running->intensity != next->intensity)	/* of another number of listeners */
		return (false);
	for (uint32_t i = 0; i < next->n; i++) {
		bool there = false;

		for (uint32_t k = 0; k < running->n; k++)
			there = there || strcmp(running->spec[k].id, next->spec[i].id) == 0;
		if (!there)
			return (false);
	}
	return (true);
}
