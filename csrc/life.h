/* Lives: whether a process still runs, answered by the kernel in one operation on a word.
 *
 * Each process of a scope holds one robust mutex of the scope's table, locked by a thread that does nothing else and
 * ends with the process. When the process ends, in whatever way, the kernel marks the mutex; so a marked one proves its
 * death, in every pid namespace and whatever became of the pid. A process that is stopped keeps it.
 * After fork the child has no such thread and thereby no life until it begins one. The table is never unmapped.
 */
#ifndef INTERLOCK_LIFE_H
#define INTERLOCK_LIFE_H

#include <pthread.h>
#include <stddef.h>

#include "atomic.h"

#define LIVES 1024

/* A life: an index into the table in its low 10 bits, above them how often that place was begun, up to 18 bits. 0 is
 * no life. */
typedef uint32_t life;

struct life_place {
    _Alignas(64) pthread_mutex_t mutex;
    word32 begun; /* how often; 0 while the mutex was never made */
};

struct lives {
    uint64_t magic;
    uint32_t abi;
    uint32_t count;
    struct life_place places[LIVES];
};

/* What the file of a new table holds. */
void lives_blank(struct lives *table);

/* Whether mapped memory is such a table, of this build's layout. */
bool lives_sound(const struct lives *table, size_t size);

/* Begin the life of this process in a table, or the one that it has there; 0 with errno if there is none to be had.
 * Callers exclude one another, in all processes, by other means. */
life life_begin(struct lives *table);

/* Whether the life is over, proved. */
bool life_over(struct lives *table, life one);

/* Lives that somebody waits for. */
#define WATCHED 64

struct watch {
    uint32_t count;
    bool some; /* not all of them are watched */
    bool over; /* one of them is over */
    life ones[WATCHED];
};

/* Watch one more. */
void life_watch(struct watch *watch, struct lives *table, life one);

/* Who waits watches nobody for SOON_NS, because most waits are short; then it looks now and then for itself, too: seldom
 * if the kernel tells it of deaths. */
#define SOON_NS 2000000
#define SELDOM_NS INT64_C(1000000000)

static inline int64_t next_look(int64_t began, int64_t looked, int64_t often_ns, const struct watch *watch) {
    if (looked < began + SOON_NS)
        return began + SOON_NS;
    return looked + (watch->some || watch->count == 0 ? often_ns : SELDOM_NS);
}

/* How a sleep ended: by a call or in time, with one of the lives, or by a signal. */
enum nap { WOKEN, ENDED, SIGNALLED };

/* Sleep like `park`, but no longer than all of these lives last; where the kernel cannot do that, it is `park`. Of those
 * who sleep so, the kernel wakes one. */
enum nap life_park(struct lives *table, const struct watch *watch, word32 *word, uint32_t seen, int64_t ns);

/* How often this process was forked from one that used the core: what was begun before is not this process's. */
uint32_t life_forks(void);

#endif
