/* gateway - the main of a protocol's image; the role is the first argument behind those of every worker */
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "workers/gateway.h"
#include "workers/zygote.h"

enum { ARG_ROLE = 4 };		/* image, id, generation, flags, role: see worker.h */

int
gateway_main(int argc, char **argv, const struct behaviour *b)
{
	if (argc > ARG_ROLE && strcmp(argv[ARG_ROLE], "listener") == 0)
		return (listener_main(argc, argv, b));
	if (argc > ARG_ROLE && strcmp(argv[ARG_ROLE], "zygote") == 0)
		return (zygote_main(argc, argv, b));
	fprintf(stderr, "bmr-%s is started by bmrd, see bmrd(8)\n", b->name);
	return (EX_USAGE);
}
