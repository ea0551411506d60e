/*
 * root - the loop that does what sup.c decides: spawns, channels, deadlines, reaping, peers, listening sockets
 *
 * Shared by bmrd and by the test of the supervisor with scripted children. It knows nothing of mail or of
 * configuration: the owner gives a tree, sockets and an image, and gets a call when all is down.
 */
#ifndef SUPERVISOR_ROOT_H
#define SUPERVISOR_ROOT_H

#include <ev.h>

#include "supervisor/chan.h"
#include "supervisor/child.h"
#include "supervisor/sup.h"

enum { ROOT_SOCKETS = 128 };

struct root_socket {			/* opened once, kept for good */
	int		 fd;
	char		 group[SPEC_ID_MAX];	/* spec.listens */
	char		 service[SPEC_ID_MAX];
	uint32_t	 index;
	char		 key[96];		/* address and port: what a reload compares */
};
struct root;
struct root_child {
	struct root	*root;
	struct chan	 chan;
	pid_t		 pid;
	uint64_t	 generation;
	bool		 ready;
};
struct root {
	struct ev_loop	*loop;
	struct sup	 sup;
	struct child_env env;
	struct root_child child[SPEC_MAX];
	struct root_socket sock[ROOT_SOCKETS];
	uint32_t	 nsock;
	ev_timer	 timer;
	ev_signal	 chld;
	void		*owner;
	void		(*down)(struct root *);			/* all is stopped */
	int		(*ctl)(struct root *, uint32_t deed, const char *child, char *why, size_t size);	/* CTL; sysexits */
};

/* loop: one in which nobody else reaps (not libev's default loop). NULL or what is wrong with the tree. */
const char *root_init(struct root *, struct ev_loop *loop, const struct tree *);
void	root_start(struct root *);
void	root_stop(struct root *);
/* Sends a socket to the worker that listens for its group, if it is up; it gets all again after a restart. */
void	root_give_socket(struct root *, const struct root_socket *);
/* A new image: to all that are up, and to all that start from now on. Takes fd. */
void	root_config(struct root *, int fd, uint64_t version);

#endif
