/* Once: work that one participant does for all, and what came of it.
 *
 * The permit of the object names who works; when the work is done, it names what became of it instead, in the same
 * change. Each time it is given is an attempt, and the result of an attempt lies in a file that is named after it and
 * was complete before. So there is no moment at which a result is half there, or belongs to somebody who lost the work.
 *
 *     0-15 cell + 1 | 0 nobody works | KEPT_VALUE, KEPT_ERROR the result is everybody's | HANDED it is being handed out
 *     16 LOST: a worker died, and there is no result since | 17-63 attempts
 *
 * A result that is not kept belongs to those who had claimed by then. `handed` is the last attempt of which that is so.
 * Whoever claims notes the attempt whose result would be its own: it has that result once `handed` is no smaller.
 */
#ifndef INTERLOCK_ONCE_H
#define INTERLOCK_ONCE_H

#include "admission.h"

#define KEPT_VALUE (OWNER - 2)
#define KEPT_ERROR (OWNER - 3)
#define HANDED (OWNER - 4)

/* KEPT if there is a result for everybody, with its attempt; else WAITING. An error is none for who tries again. */
enum answer once_look(struct object *o, bool retry, uint64_t *attempt);

/* Claim, from a place that is idle: GRANTED to do the work, KEPT or OWED the result of an attempt, or WAITING for it in
 * the row; REFUSED instead of that if one is not to wait. Whatever the answer, the place is one's until it leaves. */
enum answer once_claim(struct object *o, struct place *at, bool retry, bool wait, uint64_t *attempt);

/* The same for a place that stands there. */
enum answer once_turn(struct object *o, struct place *at, uint64_t *attempt);

/* Sleep until that is no longer WAITING, or until a moment of the monotonic clock. A dead worker goes. */
enum answer once_wait(struct object *o, struct lives *lives, struct place *at, int64_t until, uint64_t *attempt);

/* The work of a place is done, and this became of it. LEFT, or GONE if the work had been taken away. */
enum answer once_settle(struct object *o, struct place *at, uint64_t ending);

/* Give the work up, or the wait for it, or what is owed; and the place. */
enum answer once_leave(struct object *o, struct place *at);

/* Drop the result; running work goes on. Returns the last attempt that has none any more. */
uint64_t once_forget(struct object *o);

#endif
