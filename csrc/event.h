/* Event: a flag and how often it was set, in one word, the permit of the object.
 *
 *     bit 0 it is set | 1 the object is closed for ever | 2-63 how often it was set
 *
 * Whoever waits remembers how often it was set before, and is let go if that has changed: so a flag that is cleared at
 * once lets everybody go who was there. Waiters sleep on the low half of the word.
 */
#ifndef INTERLOCK_EVENT_H
#define INTERLOCK_EVENT_H

#include "admission.h"

/* Set or clear the flag; false if the object is closed. */
bool event_set(struct object *o);
bool event_clear(struct object *o);

bool event_is_set(struct object *o);

/* GRANTED if it is set; else stand there until it is, if one is to wait. */
enum answer event_enter(struct object *o, struct place *at, bool wait);

/* Whether a place that stands there has been let go. */
enum answer event_turn(struct object *o, struct place *at);

/* Sleep until that is so, or until a moment of the monotonic clock. */
enum answer event_wait(struct object *o, struct place *at, int64_t until);

/* Leave: GRANTED if one had been let go. */
enum answer event_leave(struct object *o, struct place *at);

/* Close an object for ever whose flag is clear and for which nobody waits; true also if it is closed already. */
bool event_retire(struct object *o);

#endif
