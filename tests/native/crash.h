/* What the parts of the program share: one object of two processes, and the step at which one of them ends. */
#ifndef INTERLOCK_CRASH_H
#define INTERLOCK_CRASH_H

#include <sys/types.h>

#include "admission.h"

#define SECOND INT64_C(1000000000)
#define RESULTS 16

/* What both processes see. */
struct shared {
    _Alignas(64) struct lives table;
    _Alignas(64) unsigned char object[1 << 17];
    struct place place; /* the child's */
    _Atomic(int) inside; /* 1 while the child may think that it has the object, 2 as a reader; 3 at its end */
    uint64_t results[RESULTS]; /* of a once, by attempt */
};

extern struct shared *all;
extern struct object *o;
extern long countdown; /* steps until the child ends; 0 in the survivor */
extern int how;        /* the signal that ends it */

_Noreturn void fail(const char *act, long step, const char *what);

/* Whether a permit is this place's. */
bool has(const struct place *at);

/* Until the child sleeps in the row, or has ended before. */
pid_t until_asleep(pid_t child, int *status);

/* One child that does an act of a once; whether it came to its end. See crash_once.c. */
bool try_once(const char *act, long step, bool stop, life mine);

#endif
