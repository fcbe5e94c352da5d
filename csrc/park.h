/* Sleeping on a word of shared memory until it changes, and the clocks. */
#ifndef INTERLOCK_PARK_H
#define INTERLOCK_PARK_H

#include "atomic.h"

/* Sleep while *word is `seen`, for at most `ns`; false if a signal came. May return early. */
bool park(word32 *word, uint32_t seen, int64_t ns);

/* Wake up to `count` sleepers of a word, in whatever process. */
void unpark(word32 *word, int count);

int64_t monotonic_ns(void);
uint64_t wall_ms(void); /* coarse: it is for people */

#endif
