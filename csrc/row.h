/* The row and the permits, as the parts of admission see them: who owns, who reads, who is first, whom to call. */
#ifndef INTERLOCK_ROW_H
#define INTERLOCK_ROW_H

#include "admission.h"
#include "park.h"

#define CLOSED (OWNER - 1) /* owns the first permit of a retired object */

static inline uint64_t owner(uint64_t permit) {
    return permit & OWNER;
}

static inline uint64_t number(struct object *o, const struct cell *cell) {
    return (uint64_t)(cell - cells_of(o)) + 1;
}

/* The number of the attempt, or the token of the hold, for which the only permit was given last. */
static inline uint64_t attempt_of(struct object *o, uint64_t permit) {
    return load_relaxed(&o->counter) + permit / GIVE;
}

static inline bool reads(enum state state) {
    return state == READS || state == LOOKS;
}

static inline bool waits(enum state state) {
    return state == WAITS || state == LOOKS;
}

/* Whether anybody reads now. */
bool anybody_reads(struct object *o);

static inline bool somebody_reads(struct object *o) {
    return o->kind == KIND_LOCK && load_seq(&o->readers) && anybody_reads(o);
}

/* Whether anybody stands in the row. */
bool anybody_waits(struct object *o);

/* Who waits and came before all others that wait; NULL if nobody waits. Of a once, those whose result is there wait for
 * nobody. */
struct cell *first_of_row(struct object *o);

/* How somebody waits: since when, when it last cleared the way, whom it watches, and when to look again. */
struct patience {
    int64_t began, looked, next;
    bool watches;
    struct watch watch;
};

static inline struct patience begin_waiting(void) {
    int64_t now = monotonic_ns();
    return (struct patience){.began = now, .looked = now};
}

/* Before sleeping: clear away who is dead; whether anybody was. Everybody who has a cell here is watched: whoever has what
 * one waits for, stands ahead, or has to call. */
bool clear_the_way(struct object *o, struct lives *lives, struct patience *patience, int64_t now);

/* Sleep until called, at most so long; false if a signal ended that. The one whom the kernel tells of a death clears it
 * away, and calls whom the dead one had to call. */
bool nap(struct object *o, struct lives *lives, const struct patience *patience, const struct place *at, uint32_t seen,
         int64_t ns);

/* Somebody left the row, or a permit came free: the first of the row is to look. */
void call_first(struct object *o);

/* Everybody in the row is to look. */
void call_everybody(struct object *o);

/* Stand in the row, at its end: false if the cell is not one's own any more. */
bool take_position(struct object *o, struct place *at);

/* A writer that drains waits for the last reader. */
void call_owner(struct object *o, uint64_t permit);

/* Take a permit from whoever this word of it says; false if it is not theirs any more. With several permits those that
 * are LOST are announced, before and, as somebody may have looked in vain, after. */
bool give_back(struct object *o, uint32_t which, uint64_t seen, uint64_t lost);

#endif
