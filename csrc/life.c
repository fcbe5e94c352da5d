#define _GNU_SOURCE
#include "life.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "park.h"

#define MAGIC UINT64_C(0x6c6f636b6c697665)
#define ABI (1u << 16 | (uint32_t)sizeof(pthread_mutex_t))
#define INDEX 1023u
#define TIMES 0x3ffffu
#define SCOPES 1024

/* The keeper: the thread of this process that holds its lives. It is asked under `guard`, one wish at a time. */
static struct {
    pthread_mutex_t guard;
    pthread_cond_t changed;
    bool runs, done;
    struct lives *wish;
    life answer;
    struct {
        struct lives *table;
        life one;
    } held[SCOPES];
    int count;
} keeper = {.guard = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static uint32_t forks;
static bool prepared;

/* Whether the kernel lets one sleep on several words, and these are words. */
#ifdef __GLIBC__
static bool can_watch = true;
#else
static bool can_watch = false;
#endif

void lives_blank(struct lives *table) {
    memset(table, 0, sizeof *table);
    table->magic = MAGIC;
    table->abi = ABI;
    table->count = LIVES;
}

bool lives_sound(const struct lives *table, size_t size) {
    return size >= sizeof *table && table->magic == MAGIC && table->abi == ABI && table->count == LIVES;
}

/* Lock a mutex that nobody alive holds. */
static bool try_mutex(pthread_mutex_t *mutex) {
    int failed = pthread_mutex_trylock(mutex);
    if (failed == EOWNERDEAD)
        failed = pthread_mutex_consistent(mutex);
    return failed == 0;
}

static bool make_mutex(pthread_mutex_t *mutex) {
    pthread_mutexattr_t kind;
    bool made = pthread_mutexattr_init(&kind) == 0 &&
                pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED) == 0 &&
                pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST) == 0 && pthread_mutex_init(mutex, &kind) == 0;
    pthread_mutexattr_destroy(&kind);
    return made;
}

/* Whether nobody alive holds a mutex. The word of glibc's says so, in which the kernel puts the death of its owner (see
 * Documentation/locking/robust-futex-ABI): to read it changes nothing, so nobody who is stopped while looking hides a
 * death from others. Elsewhere it is locked for a moment. */
static bool unheld(struct life_place *place) {
#ifdef __GLIBC__
    uint32_t word = load_seq((word32 *)(void *)&place->mutex.__data.__lock);
    return word == 0 || word & FUTEX_OWNER_DIED;
#else
    if (!try_mutex(&place->mutex))
        return false;
    pthread_mutex_unlock(&place->mutex);
    return true;
#endif
}

static life take_place(struct lives *table) {
    for (uint32_t index = 0; index < LIVES; index++) {
        struct life_place *place = &table->places[index];
        uint32_t begun = load_seq(&place->begun);
        if (begun == 0 ? !make_mutex(&place->mutex) : !unheld(place))
            continue;
        begun = begun == TIMES ? 1 : begun + 1;
        store_seq(&place->begun, begun); /* pairs with life_over; first: whoever had it is over from now on */
        if (try_mutex(&place->mutex))
            return begun << 10 | index;
    }
    errno = EAGAIN;
    return 0;
}

static void *keep(void *unused) {
    (void)unused;
    pthread_mutex_lock(&keeper.guard);
    for (;;) {
        if (keeper.wish) {
            keeper.answer = take_place(keeper.wish);
            keeper.wish = NULL;
            keeper.done = true;
            pthread_cond_broadcast(&keeper.changed);
        }
        pthread_cond_wait(&keeper.changed, &keeper.guard);
    }
    return NULL;
}

static void forget_in_child(void) {
    pthread_mutex_init(&keeper.guard, NULL);
    pthread_cond_init(&keeper.changed, NULL);
    keeper.runs = keeper.done = false;
    keeper.wish = NULL;
    keeper.count = 0;
    forks++;
}

static int start_keeper(void) {
    sigset_t all, before;
    pthread_attr_t small;
    pthread_t thread;
    if (!prepared && pthread_atfork(NULL, NULL, forget_in_child) != 0)
        return ENOMEM;
    prepared = true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of the program */
    pthread_attr_init(&small);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&small, PTHREAD_STACK_MIN + (1 << 16));
    int failed = pthread_create(&thread, &small, keep, NULL);
    pthread_attr_destroy(&small);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    keeper.runs = failed == 0;
    return failed;
}

life life_begin(struct lives *table) {
    life one = 0;
    int failed = 0;
    pthread_mutex_lock(&keeper.guard);
    for (int i = 0; i < keeper.count && one == 0; i++)
        if (keeper.held[i].table == table)
            one = keeper.held[i].one;
    if (one == 0 && keeper.count == SCOPES)
        failed = EMFILE;
    if (one == 0 && failed == 0 && !keeper.runs)
        failed = start_keeper();
    if (one == 0 && failed == 0) {
        keeper.done = false;
        keeper.wish = table;
        pthread_cond_broadcast(&keeper.changed);
        while (!keeper.done)
            pthread_cond_wait(&keeper.changed, &keeper.guard);
        one = keeper.answer;
        if (one) {
            keeper.held[keeper.count].table = table;
            keeper.held[keeper.count++].one = one;
        } else {
            failed = EAGAIN;
        }
    }
    pthread_mutex_unlock(&keeper.guard);
    errno = failed;
    return one;
}

bool life_over(struct lives *table, life one) {
    struct life_place *place = &table->places[one & INDEX];
    if (one == 0 || load_seq(&place->begun) != one >> 10)
        return one != 0; /* its place was given to another one, which is done on this very proof */
    return unheld(place);
}

void life_watch(struct watch *watch, struct lives *table, life one) {
    watch->over = watch->over || life_over(table, one);
    for (uint32_t i = 0; i < watch->count; i++)
        if (watch->ones[i] == one)
            return;
    if (one && watch->count < WATCHED && can_watch)
        watch->ones[watch->count++] = one;
    else
        watch->some = watch->some || one;
}

/* Where and for what value one sleeps until a life is over: the kernel calls somebody there if it finds the bit. */
static bool at_its_end(struct lives *table, life one, word32 **word, uint32_t *value) {
#ifdef __GLIBC__
    *word = (word32 *)(void *)&table->places[one & INDEX].mutex.__data.__lock;
    *value = load_seq(*word);
    while (*value & FUTEX_TID_MASK && !(*value & (FUTEX_OWNER_DIED | FUTEX_WAITERS)))
        if (cas_seq(*word, value, *value | FUTEX_WAITERS))
            *value |= FUTEX_WAITERS;
    return *value & FUTEX_TID_MASK && !life_over(table, one);
#else
    (void)table, (void)one, (void)word, (void)value;
    return false;
#endif
}

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#define WORD_OF_32_BITS 2u

enum nap life_park(struct lives *table, const struct watch *watch, word32 *word, uint32_t seen, int64_t ns) {
    struct {
        uint64_t value, address;
        uint32_t flags, unused;
    } list[1 + WATCHED] = {{seen, (uintptr_t)word, WORD_OF_32_BITS, 0}};
    uint32_t count = 1;
    for (uint32_t i = 0; i < watch->count && can_watch; i++) {
        word32 *end;
        uint32_t value;
        if (!at_its_end(table, watch->ones[i], &end, &value))
            return ENDED;
        list[count].value = value;
        list[count].address = (uintptr_t)end;
        list[count++].flags = WORD_OF_32_BITS;
    }
    if (count == 1 || ns <= 0)
        return park(word, seen, ns) ? WOKEN : SIGNALLED;
    int64_t until = monotonic_ns() + ns;
    struct timespec limit = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    long which = syscall(SYS_futex_waitv, list, count, 0, &limit, CLOCK_MONOTONIC);
    if (which >= 0 || errno == EAGAIN || errno == ETIMEDOUT)
        return which > 0 ? ENDED : WOKEN;
    if (errno == EINTR)
        return SIGNALLED;
    can_watch = false;
    return WOKEN;
}

uint32_t life_forks(void) {
    return forks;
}
