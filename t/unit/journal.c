/* journal - commits survive a kill at any point; a file that is not a journal is refused; spool and hash */
/* LINK: workers/journal.c workers/counted.c workers/pack.c workers/arena.c workers/relayed.c workers/spool.c supervisor/buf.c supervisor/log.c */
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "t/lib/tap.h"
#include "workers/counted.h"
#include "workers/journal.h"
#include "workers/pack.h"
#include "workers/spool.h"

static const struct behaviour beh = { .name = "test", .format = 3, .pst_size = 512 };
static const struct limits lim = { .log = 65536, .spool_memory = 8192 };

static void
commits(void)
{
	struct journal j, k;
	struct core a = { .in_start = 3, .in_end = 9, .out_end = 100, .log_len = 77 }, b;
	int fd = journal_create(&lim), copy = dup(fd);

	ok(fd != -1 && journal_open(&j, fd, &beh, &lim, true, 0) == 0, "a fresh journal opens");
	memset(a.pst, 'x', 512);
	journal_commit(&j, &a);
	a.in_start = 4;
	journal_commit(&j, &a);
	ok(journal_open(&k, copy, &beh, &lim, false, 0) == 0, "a second process opens it by descriptor");
	ok(journal_load(&k, &b) == 0 && b.in_start == 4 && b.log_len == 77 && memcmp(a.pst, b.pst, 512) == 0,
	    "and reads the last commit");
	a.out_start = 101;
	journal_commit(&j, &a);
	ok(journal_load(&k, &b) == -1, "a core whose numbers are nonsense is refused");
	journal_close(&k);
	journal_close(&j);
}

static void
refuses(void)
{
	struct journal j;
	struct behaviour other = beh;
	int fd = journal_create(&lim);
	uint8_t zeros[64] = { 0 };

	ok(journal_open(&j, dup(fd), &beh, &lim, false, 0) == -1, "a file of zeros is no journal");
	ok(journal_open(&j, dup(fd), &beh, &lim, true, 0) == 0, "made one");
	journal_close(&j);
	other.format++;
	ok(journal_open(&j, dup(fd), &other, &lim, false, 0) == -1, "another format of pst is refused");
	other = beh;
	other.name = "testing";
	ok(journal_open(&j, dup(fd), &other, &lim, false, 0) == -1, "another protocol is refused");
	if (ftruncate(fd, 100) == 0)
		ok(journal_open(&j, dup(fd), &beh, &lim, false, 0) == -1, "a short file is refused");
	(void)zeros;
	close(fd);
}

/* A writer whose pst is always 512 equal octets is killed at random moments: no reader ever sees a mixture. */
static void
torn(void)
{
	int torn = 0, rounds = 40;

	for (int i = 0; i < rounds; i++) {
		struct journal j;
		struct core c = { 0 };
		int fd = journal_create(&lim);
		pid_t pid;

		if (journal_open(&j, dup(fd), &beh, &lim, true, 0) == -1)
			break;
		if ((pid = fork()) == 0)
			for (uint32_t n = 0;; n++) {
				memset(c.pst, (int)(n & 0xff), 512);
				c.log_len = n & 0xff;
				journal_commit(&j, &c);
			}
		usleep((useconds_t)(rand() % 3000));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		if (journal_load(&j, &c) == -1)
			torn++;
		for (int k = 0; k < 512; k++)
			if (c.pst[k] != (c.log_len & 0xff)) {
				torn++;
				break;
			}
		journal_close(&j);
		close(fd);
	}
	ok(torn == 0, "%d writers killed in commits: %d torn cores", rounds, torn);
}

static void
hashes(void)
{
	uint8_t text[301];
	struct relayed whole, parts, other;
	int bad = 0;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)rand();
	relayed_start(&whole, 42);
	relayed_add(&whole, bytes(text, 301));
	for (size_t cut = 0; cut <= 301; cut++) {
		relayed_start(&parts, 42);
		relayed_add(&parts, bytes(text, cut));
		relayed_add(&parts, bytes(text + cut, 301 - cut));
		bad += !relayed_same(&whole, &parts);
	}
	ok(bad == 0, "the hash does not depend on how octets are cut");
	for (size_t i = 0; i < 301; i++) {
		relayed_start(&other, 42);
		text[i] ^= 1;
		relayed_add(&other, bytes(text, 301));
		text[i] ^= 1;
		bad += relayed_same(&whole, &other);
	}
	ok(bad == 0, "one changed bit anywhere is seen");
}

static void
spools(void)
{
	struct spool s;
	int mem = memfd_create("t", MFD_CLOEXEC), sv[2];
	char path[] = "/tmp/bmr-spool-XXXXXX";
	int file = mkstemp(path);
	static uint8_t in[40000], out[40000];
	size_t got = 0;

	unlink(path);
	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 7 + i / 251);
	if (ftruncate(mem, 4096 + 8192) == -1 || socketpair(AF_UNIX, SOCK_STREAM, 0, sv) == -1)
		return;
	spool_init(&s, mem, 4096, 8192);
	ok(!spool_needs_file(&s, 8192) && spool_needs_file(&s, 8193), "needs a file above its memory");
	ok(spool_write(&s, 0, bytes(in, 9000)) == -1, "without one it says so");
	spool_file(&s, file);
	ok(spool_write(&s, 0, bytes(in, 9000)) == 0 && spool_write(&s, 9000, bytes(in + 9000, 31000)) == 0, "writes");
	while (got < sizeof(in)) {
		ssize_t n = spool_send(&s, sv[0], got, sizeof(in) - got < 5000 ? sizeof(in) - got : 5000);

		if (n <= 0 || read(sv[1], out + got, (size_t)n) != n)
			break;
		got += (size_t)n;
	}
	ok(got == sizeof(in) && memcmp(in, out, got) == 0, "and sends the same octets, memory and file");
	spool_reset(&s, 40000);
	ok(lseek(file, 0, SEEK_END) == 0, "a reset gives the disk back");
	spool_close(&s);
}

/* What was read and written after the last commit is found by a successor; what was committed is not counted twice. */
static void
counts(void)
{
	struct journal j;
	struct core w = { .greeted = 1 }, after;
	int pair[2], fd = journal_create(&lim);

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == -1 || journal_open(&j, fd, &beh, &lim, true, 0) == -1)
		abort();
	journal_commit(&j, &w);
	ok(write(pair[1], "hello", 5) == 5 && counted_recv(&j, &w, pair[0], 100) == 5, "five octets are read");
	ok(journal_load(&j, &after) == 0 && counted_adopt(&j, &after) == 0 && after.in_end == 5 && after.client_in == 5 &&
	    memcmp(j.in, "hello", 5) == 0, "not committed, and found");
	w.in_end = 5;
	w.client_in = 5;
	journal_commit(&j, &w);
	ok(journal_load(&j, &after) == 0 && counted_adopt(&j, &after) == 0 && after.in_end == 5, "committed, and not counted again");
	ok(counted_recv(&j, &w, pair[0], 100) == -1 && journal_load(&j, &after) == 0 && counted_adopt(&j, &after) == 0 &&
	    after.in_end == 5, "nothing there, nothing counted");
	memcpy(j.out, "0123456789", 10);
	w.out_end = 10;
	journal_commit(&j, &w);
	ok(counted_send(&j, &w, pair[0]) == 10 && journal_load(&j, &after) == 0 && counted_adopt(&j, &after) == 0 &&
	    after.out_start == 10 && after.client_out == 10, "what was written is found");
	ok(counted_peek(fd, &after) == 0 && after.out_start == 10 && after.in_end == 5, "by the listener too");
	j.head->taken.octets.msg_len = JOURNAL_IN_ROOM + 1;
	j.head->taken.after = after.client_in;
	ok(journal_load(&j, &after) == 0 && counted_adopt(&j, &after) == -1, "a count that cannot be is refused");
	ok(counted_peek(fd, &after) == -1, "by the listener too");
	close(pair[0]);
	close(pair[1]);
	journal_close(&j);
}

static void
packs(void)
{
	struct journal j, k;
	struct core w = { .greeted = 1, .log_len = 9000, .client_in = 77 }, n;
	int fd = journal_create(&lim), packed, whole;
	struct stat st;

	if (journal_open(&j, dup(fd), &beh, &lim, true, 0) == -1)
		abort();
	memset(w.pst, 'p', 512);
	memcpy(j.log, "begin", 5);
	memcpy(j.log + 8995, "end", 3);
	journal_commit(&j, &w);
	packed = pack_make(&j);
	ok(packed != -1 && fstat(packed, &st) == 0 && st.st_size < 2048, "a journal is packed in less than 2 KiB");
	ok(!pack_is(fd, NULL) && pack_is(packed, &n) && n.client_in == 77 && journal_peek(packed, &n) == 0 && n.log_len == 9000,
	    "its numbers are there");
	whole = pack_undo(packed);
	ok(whole != -1 && journal_open(&k, whole, &beh, &lim, false, 0) == 0 && journal_load(&k, &n) == 0 && memcmp(n.pst, w.pst, 512) == 0 &&
	    memcmp(k.log, "begin", 5) == 0 && memcmp(k.log + 8995, "end", 3) == 0 && k.log[100] == 0, "and it comes out as it was");
	ok(pack_undo(fd) == -1, "what is not packed is refused");
	if (ftruncate(packed, st.st_size - 8) == 0)
		ok(pack_undo(packed) == -1, "and what is cut short");
	journal_close(&j);
	journal_close(&k);
	close(fd);
	close(packed);
}

/* Format 4: as 3, with eight octets more in front. */
static int
convert(void *pst, uint16_t from, uint16_t to)
{
	uint8_t *p = pst;

	if (from == 3 && to == 4) {
		memmove(p + 8, p, 512);
		memcpy(p, "converte", 8);
		return (0);
	}
	if (from != 4 || to != 3)
		return (-1);
	memmove(p, p + 8, 512);
	memset(p + 512, 0, 8);
	return (0);
}

static void
formats(void)
{
	static const struct behaviour next = { .name = "test", .format = 4, .pst_size = 520, .older_size = 512, .convert = convert };
	struct core w = { .greeted = 1, .client_in = 7 }, r;
	struct journal j;
	int fd = journal_create(&lim);

	memset(w.pst, 'o', 512);
	if (journal_open(&j, dup(fd), &beh, &lim, true, 0) == -1)
		abort();
	journal_commit(&j, &w);
	munmap(j.map, j.size);
	close(j.fd);
	ok(journal_open(&j, dup(fd), &next, &lim, false, 0) == 0 && journal_load(&j, &r) == 0 && r.client_in == 7 &&
	    memcmp(r.pst, "converteooo", 11) == 0 && r.pst[519] == 'o' && r.pst[520] == 0, "the format before is read");
	r.pst[8] = 'n';
	journal_commit(&j, &r);
	munmap(j.map, j.size);
	close(j.fd);
	ok(journal_open(&j, dup(fd), &beh, &lim, false, 0) == 0 && journal_load(&j, &r) == 0 && r.pst[0] == 'n' && r.pst[511] == 'o' && r.pst[512] == 0,
	    "and written, so that the release before reads it");
	munmap(j.map, j.size);
	close(j.fd);
	ok(journal_reformat(fd, &next, 4) == 0 && journal_open(&j, dup(fd), &next, &lim, false, 0) == 0 && journal_load(&j, &r) == 0 &&
	    r.client_in == 7 && memcmp(r.pst, "converteno", 10) == 0, "made one of the new format");
	munmap(j.map, j.size);
	close(j.fd);
	ok(journal_open(&j, dup(fd), &beh, &lim, false, 0) == -1, "which the release before does not read");
	ok(journal_reformat(fd, &next, 2) == -1 && journal_reformat(fd, &beh, 3) == -1, "formats that are not known are refused");
	ok(journal_format(&next, 3) == 3 && journal_format(&next, 0) == 4 && journal_format(&next, 9) == 4 && journal_format(&beh, 2) == 3,
	    "the one to write");
	close(fd);
}

int
main(void)
{
	formats();
	commits();
	refuses();
	torn();
	hashes();
	spools();
	counts();
	packs();
	return (done_testing());
}
