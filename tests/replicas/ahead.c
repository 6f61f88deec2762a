/* The clock of the calendar, ahead by more than a day: for LD_PRELOAD. Debian's libfaketime asks for
 * memory when the clock is first read, which jemalloc does before it has any to give: they wait for
 * each other. The monotonic clock is left alone: the kernel waits by it. */

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int failed = (int)syscall(SYS_clock_gettime, clock, now);

	if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += 28 * 3600;
	return failed;
}
