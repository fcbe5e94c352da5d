/* Barrier: rounds of the parties of its last generation, as long as nothing unusual happens.
 *
 * The pure machine keeps the barrier: its generations, who is missing, why it broke. Once it has let a generation go,
 * the very same parties may meet here, in one word:
 *
 *     bit 0 they meet here (HERE), else the machine decides | 1-44 rounds that passed here
 *     45-63 parties that have arrived in this one
 *
 * Whatever is unusual (a death, a time-out, a newcomer, an abort) clears HERE; whoever waits here then goes to the
 * machine, where all arrive anew. Completing a round and clearing HERE exclude each other, being changes of one word;
 * and both change its low half, on which the parties sleep.
 */
#ifndef INTERLOCK_BARRIER_H
#define INTERLOCK_BARRIER_H

#include "object.h"

#define HERE UINT64_C(1)

enum meeting { PASSED, MOVED, LATE, STOPPED };

/* Become one of the parties; the cell stays theirs until they leave the barrier for good. */
bool barrier_join(struct object *o, struct lives *lives, life mine, uint64_t session, uint64_t serial,
                  struct place *at);

/* Let the parties meet here from now on: they are exactly the members, `parties` of them, all alive, and all of them
 * wait in the machine at this moment. The machine will then have let `generations` go. False if that is not so. */
bool barrier_engage(struct object *o, struct lives *lives, uint32_t parties, uint64_t generations);

/* Have the machine decide from now on; whoever waits here is told MOVED. Returns how many rounds passed here so far: if
 * that is more than the round of one's own arrival, one has passed. */
uint64_t barrier_move(struct object *o);

/* One's arrival: the round, one's place among those who came, and the generation that it is. */
struct arrival {
    uint64_t round;
    uint64_t generation;
    uint32_t index;
};

/* Arrive. PASSED if this was the last party, MOVED if the machine decides, LATE if others are missing: then wait. */
enum meeting barrier_arrive(struct object *o, struct lives *lives, uint32_t parties, struct arrival *mine);

/* How one's arrival stands now: PASSED, MOVED or LATE. */
enum meeting barrier_standing(struct object *o, const struct arrival *mine);

/* Wait for the others until a moment of the monotonic clock. LATE and STOPPED leave the arrival standing: go on
 * waiting, or move. */
enum meeting barrier_wait(struct object *o, struct lives *lives, const struct arrival *mine, int64_t until);

/* How many wait here now, of how many parties. */
uint32_t barrier_waiting(struct object *o, uint32_t *parties);

#endif
