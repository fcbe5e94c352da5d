#include "event.h"

#include <limits.h>

#include "park.h"
#include "row.h"

#define FLAG UINT64_C(1)
#define SHUT UINT64_C(2)
#define ONCE UINT64_C(4)

bool event_set(struct object *o) {
    uint64_t word = load_seq(&o->permit[0]);
    while (!(word & (FLAG | SHUT)))
        if (cas_seq(&o->permit[0], &word, (word | FLAG) + ONCE)) {
            unpark(low_half(&o->permit[0]), INT_MAX);
            return true;
        }
    return !(word & SHUT);
}

bool event_clear(struct object *o) {
    return !(and_seq(&o->permit[0], ~FLAG) & SHUT);
}

bool event_is_set(struct object *o) {
    return load_seq(&o->permit[0]) & FLAG;
}

enum answer event_enter(struct object *o, struct place *at, bool wait) {
    uint64_t word = load_seq(&o->permit[0]);
    if (word & (FLAG | SHUT))
        return word & SHUT ? RETIRED : GRANTED;
    if (!wait)
        return REFUSED;
    store_relaxed(&at->cell->token, word / ONCE);
    store_relaxed(&at->cell->since, wall_ms());
    if (!place_turn(at, IDLE, WAITS))
        return GONE;
    return event_turn(o, at); /* which sees what was set or closed meanwhile */
}

enum answer event_turn(struct object *o, struct place *at) {
    if (load_seq(&at->cell->word) != (at->base | WAITS))
        return GONE;
    uint64_t word = load_seq(&o->permit[0]);
    if (word & SHUT)
        return RETIRED;
    return word & FLAG || word / ONCE != load_relaxed(&at->cell->token) ? GRANTED : WAITING;
}

enum answer event_wait(struct object *o, struct place *at, int64_t until) {
    for (;;) {
        uint64_t word = load_seq(&o->permit[0]);
        enum answer answer = event_turn(o, at);
        int64_t left = until - monotonic_ns();
        if (answer != WAITING || left <= 0)
            return answer;
        if (!park(low_half(&o->permit[0]), (uint32_t)word, left))
            return INTERRUPTED;
    }
}

enum answer event_leave(struct object *o, struct place *at) {
    enum answer answer = event_turn(o, at);
    place_free(at);
    return answer == WAITING ? LEFT : answer;
}

/* Whoever comes to wait in between is sent away, as are all who come later: to what has the name then. */
bool event_retire(struct object *o) {
    uint64_t word = load_seq(&o->permit[0]);
    if (word & SHUT)
        return true;
    if (word & FLAG || anybody_waits(o) || !cas_seq(&o->permit[0], &word, word | SHUT))
        return false;
    unpark(low_half(&o->permit[0]), INT_MAX);
    return true;
}
