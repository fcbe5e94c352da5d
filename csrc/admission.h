/* Lock, reader-writer lock and semaphore: permits that cells own, and readers that stand in theirs.
 *
 * A permit is one word; whoever it names has it. A lock is an object with one permit, which readers respect:
 *
 *     bits 0-15 cell + 1, or 0 if it is free | 16 an earlier owner died, and no owner since gave it back (LOST)
 *     17-63 times it was given
 *
 * The row is not stored anywhere: it is the cells that wait, in the order of their arrivals. So nothing in it can be
 * left half-done. Its flags only save a look at it:
 */
#ifndef INTERLOCK_ADMISSION_H
#define INTERLOCK_ADMISSION_H

#include "object.h"

#define ROW 1u  /* somebody may stand in the row: who releases looks; a try is refused */
#define DUE 2u  /* the first of the row has waited long: nobody overtakes it any more */
#define NEWS 4u /* a permit of several may be LOST: take that one first */

#define OWNER UINT64_C(0xffff)
#define LOST (UINT64_C(1) << 16)
#define GIVE (UINT64_C(1) << 17)

/* Tokens: of one permit, the times it was given plus what readers took from `counter`; of several, `counter` alone. */

enum answer { GRANTED, WAITING, REFUSED, FULL, GONE, LEFT, RETIRED, INTERRUPTED, KEPT, OWED };

/* Take it at once, if it is free and nobody waits: from a place that is idle. Only of a lock is anything shared. */
bool admission_take(struct object *o, struct place *at, bool shared);

/* Take it at once, if it is free, past those who have not waited long. */
bool admission_overtake(struct object *o, struct place *at, bool shared);

/* Take it, if need be past those who have not waited long, for a few microseconds; else stand in the row. */
enum answer admission_enter(struct object *o, struct place *at, bool shared, bool wait);

/* Whether a place in the row has its turn now. */
enum answer admission_turn(struct object *o, struct place *at);

/* Sleep until that is so, or until a moment of the monotonic clock. Whoever is in the way and proved dead goes. */
enum answer admission_wait(struct object *o, struct lives *lives, struct place *at, int64_t until);

/* Give back the permit of a place, which stays; `untold`: the news of a death that it was told is still to be told. */
enum answer admission_release(struct object *o, struct place *at, bool untold);

/* Give back or give up whatever it is, and the place. */
enum answer admission_leave(struct object *o, struct place *at, bool untold);

/* An exclusive holder becomes a reader. */
enum answer admission_downgrade(struct object *o, struct place *at);

/* Clear away what a session has here, which is proved to be over. */
enum answer admission_evict(struct object *o, uint64_t session);

/* Clear away what proved dead processes have here; whether there was any. */
bool admission_sweep(struct object *o, struct lives *lives);

/* Find out again what a place holds that was found by its ticket. */
void admission_recall(struct object *o, struct place *at);

/* Close an object for ever that nobody uses; true also if it is closed already, by one who may have died since. */
bool admission_retire(struct object *o, struct lives *lives, life mine);

/* A token that no later grant is below. */
uint64_t admission_token(struct object *o);

#endif
