/*
 * inherit - the listening sockets of a bmrd that was killed, while what it started serves on
 *
 * Whoever keeps them listens on a Unix socket in the run directory and answers each connection of the same user, or root,
 * with one message for each socket: its key, and the descriptor; then an empty one.
 */
#ifndef SUPERVISOR_INHERIT_H
#define SUPERVISOR_INHERIT_H

#define INHERIT_SOCKET	"sockets.sock"

/* take(arg, key, fd) for each; it takes fd. How many; -1 and errno: nobody is there. */
int	inherit_sockets(const char *path, void (*take)(void *, const char *key, int fd), void *arg);

#endif
