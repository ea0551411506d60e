/* journal - a journal of any content is opened and loaded, or refused, without harm */
/* LINK: workers/journal.c workers/pack.c workers/arena.c supervisor/buf.c supervisor/log.c */
#include <sys/mman.h>
#include <unistd.h>

#include "workers/journal.h"

int	LLVMFuzzerTestOneInput(const uint8_t *, size_t);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct behaviour beh = { .name = "test", .format = 3, .pst_size = 512 };
	static const struct limits lim = { .log = 65536, .spool_memory = 8192 };
	int fd = memfd_create("fuzz", MFD_CLOEXEC), copy;
	struct journal j;
	struct core c;
	volatile uint8_t sum = 0;

	/* the first octet says whether the rest lies over a fresh journal (deep) or over zeros */
	if (fd == -1 || size < 1 || ftruncate(fd, (off_t)journal_size(&lim)) == -1)
		goto out;
	copy = dup(fd);
	if (data[0] & 1) {
		if (journal_open(&j, copy, &beh, &lim, true, 0) == 0)
			journal_close(&j);
	} else
		close(copy);
	(void)!pwrite(fd, data + 1, size - 1, (data[0] & 2) ? 1024 : 0);
	if (journal_open(&j, fd, &beh, &lim, false, 0) == -1)
		return (0);
	if (journal_load(&j, &c) == 0)
		for (uint32_t i = 0; i < c.log_len; i++)
			sum = (uint8_t)(sum + j.log[i]);
	journal_close(&j);
	return (0);
out:
	if (fd != -1)
		close(fd);
	return (0);
}
