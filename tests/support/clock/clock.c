/* A wall clock that jumps on cue, for tests: to be preloaded into a program (LD_PRELOAD).
 *
 * The file that PRIVYSEAL_CLOCK names is mapped; its 8 bytes are the seconds by which the wall clock is off. The
 * monotonic clock is left alone, as it is when somebody sets a machine's clock. What the C library waits for until an
 * absolute time of the wall clock is told the real one, since the kernel keeps that.
 *
 *   cc -shared -fPIC -O1 -o clock.so clock.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *off_s;
static long (*real_syscall)(long, ...);
static int (*real_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    if (real_syscall)
        return;
    const char *path = getenv("PRIVYSEAL_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    real_timedwait = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))
        dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real_timedwait)
        real_timedwait = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))
            dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    if (file >= 0) {
        void *page = mmap(NULL, sizeof *off_s, PROT_READ, MAP_SHARED, file, 0);
        if (page != MAP_FAILED)
            off_s = page;
        close(file);
    }
}

static int64_t off(void) { return off_s ? *off_s : 0; }

int clock_gettime(clockid_t id, struct timespec *at)
{
    begin(); /* who asks may come before the constructor */
    int failed = (int)real_syscall(SYS_clock_gettime, id, at);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        at->tv_sec += off();
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until)
{
    /* Which clock a condition goes by cannot be asked; times of the monotonic one are small. */
    struct timespec real = *until, now;
    begin();
    real_syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    if (until->tv_sec > now.tv_sec / 2)
        real.tv_sec -= off();
    return real_timedwait(condition, mutex, &real);
}

/* gRPC waits by futexes of its own. */
long syscall(long number, ...)
{
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    begin();
    if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) && a[3]) {
        struct timespec real = *(const struct timespec *)a[3];
        real.tv_sec -= off();
        return real_syscall(number, a[0], a[1], a[2], &real, a[4], a[5]);
    }
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
