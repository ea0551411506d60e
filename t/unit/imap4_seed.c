/* imap4_seed - sessions of IMAP4 that were kept as files are read (t/lib/seed.h) */
/* LINK: imap4/append.c imap4/backend.c imap4/caps.c imap4/client.c imap4/commands.c imap4/doubt.c imap4/fetch.c imap4/login.c imap4/next.c imap4/say.c imap4/set.c imap4/sync.c imap4/tagged.c imap4/token.c imap4/untagged.c imap4/view.c workers/arena.c workers/relayed.c workers/sasl.c workers/journal.c workers/pack.c supervisor/buf.c supervisor/log.c */
#define NO_MAIN
#include "imap4/imap4.c"	/* its table, without its main */
#include "t/lib/seed.h"

int
main(void)
{
	seed_check(&imap4, "seed");
	return (done_testing());
}
