/*
 * keyupdates - a client of TLS 1.3 that sends updates of its key and nothing else: keyupdates ADDRESS PORT OCTETS
 *
 * They are made before the first one is sent, since the other side could else keep up. Says when it begins and when all are gone.
 */
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int
main(int argc, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	SSL *ssl = SSL_new(SSL_CTX_new(TLS_client_method()));
	BIO *made = BIO_new(BIO_s_mem());
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	long octets, n;
	char *p;

	if (argc != 4 || inet_pton(AF_INET, argv[1], &a.sin_addr) != 1)
		errx(1, "usage: keyupdates ADDRESS PORT OCTETS");
	a.sin_port = htons((uint16_t)atoi(argv[2]));
	octets = atol(argv[3]);
	if (fd == -1 || connect(fd, (const struct sockaddr *)&a, sizeof(a)) == -1)
		err(1, "connect");
	if (SSL_set_fd(ssl, fd) != 1 || SSL_connect(ssl) != 1)
		errx(1, "no handshake");
	SSL_set0_wbio(ssl, made);
	while ((n = BIO_get_mem_data(made, &p)) < octets)
		if (SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1 || SSL_do_handshake(ssl) != 1)
			errx(1, "no update");
	puts("begins");
	fflush(stdout);
	while (n > 0) {
		ssize_t sent = send(fd, p, (size_t)n, MSG_NOSIGNAL);

		if (sent == -1)
			err(1, "send");
		p += sent;
		n -= sent;
	}
	puts("done");
	return (0);
}
