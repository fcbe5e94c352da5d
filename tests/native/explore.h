/* What the explorer's parts share: the participants, and what every act needs. */
#ifndef INTERLOCK_EXPLORE_H
#define INTERLOCK_EXPLORE_H

#define _GNU_SOURCE
#include <setjmp.h>
#include <ucontext.h>

#include "admission.h"

#define MOST 5
#define FOREVER INT64_MAX
#define MILLISECOND 1000000

/* What participants do, one letter an act: L lock, R read, D lock and downgrade, W lock and wait for one millisecond at
 * most, T try to lock, t try to read, N take another cell, E evict the first participant by force, S sweep, X retire,
 * B meet at the barrier, G do so and give up after one millisecond, M have the machine decide. Those of a once are in
 * explore_once.c. */
struct scenario {
    const char *name;
    enum kind kind;
    uint32_t permits;
    bool dies;  /* somebody dies in the middle of it */
    bool ticks; /* time passes by itself now and then */
    const char *acts[MOST];
};

struct participant {
    ucontext_t start;
    jmp_buf at;
    char *stack;
    const char *acts;
    bool begun, over, dead, ended, inside, reading, acting, evicted, seated, waited_long;
    word32 *parked;
    uint32_t watches; /* a bit for each life whose end wakes it */
    int64_t asked, first_since; /* FOREVER: it sleeps as the first of the row, and may not know it yet */
    int64_t until, came;
    uint64_t waits; /* how many acquires it has begun */
    struct place place;
};

extern struct participant parts[MOST];
extern struct object *o;
extern struct lives *table;
extern int count, current;
extern int64_t clock_ns;
extern bool closed, must_tell, may_tell, forced;

/* The choices of this run: whether they are drawn. */
extern bool at_random;
uint64_t draw(uint64_t below);

/* Let somebody else go on. */
void leave_coroutine(void);

/* How long somebody who begins to sleep has known that it is the first of the row. */
int64_t first_for(int who);

/* Of those who sleep for the end of a life, too, the kernel wakes one. */
void wake_one_for(life dead);

/* A rule is broken: print how it came to that, and end. */
void fail(const char *format, ...);

/* A new cell for a participant. */
void sit(struct participant *one);

/* Steps between operations, in which others may do much. */
void linger(void);

/* Of a once: before a run; an act; who dies or is evicted at work; whether nothing is in use; the end of a run. */
void once_begin(void);
bool once_act(struct participant *one, char what);
void worker_died(int who);
bool once_unused(void);
void once_look_back(void);

#endif
