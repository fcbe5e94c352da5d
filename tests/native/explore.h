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

struct participant {
    ucontext_t start;
    jmp_buf at;
    char *stack;
    const char *acts;
    bool begun, over, dead, inside, reading, acting, evicted, seated, waited_long;
    word32 *parked;
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
