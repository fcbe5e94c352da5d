/* Clearing away: what the dead and the evicted have at an object, and the object itself when nobody uses it. */
#include "row.h"

#define LOOK_NS 20000000 /* between two looks at whether those in the way still live, if the kernel does not tell */

uint64_t admission_token(struct object *o) {
    return o->permits == 1 ? attempt_of(o, load_relaxed(&o->permit[0])) : load_relaxed(&o->counter);
}

/* Give back the permits of a cell that is seen with this word, and not its owner's any more. Others may be at the same;
 * each step happens once. Whoever only waited leaves the news as it was. */
static bool free_permits(struct object *o, struct cell *cell, uint64_t word, enum state had) {
    bool any = false;
    bool held = !waits(had) && had != DRAINS && had != RETIRES;
    for (uint32_t i = 0; i < o->permits; i++) {
        uint64_t named = load_seq(&o->lost), permit = load_seq(&o->permit[i]), session = load_relaxed(&cell->session);
        if (owner(permit) != number(o, cell))
            continue;
        if (load_seq(&cell->word) != word)
            return any; /* somebody else did it, and the permit may be a successor's */
        if (held && o->kind == KIND_ONCE)
            (void)cas_seq(&o->lost, &named, session); /* unless a later worker has died since */
        any = give_back(o, i, permit, held ? LOST : permit & LOST) || any;
    }
    return any;
}

static void call_all(struct object *o) {
    call_owner(o, load_seq(&o->permit[0]));
    call_first(o);
}

static inline bool belongs(struct cell *cell, uint64_t word, uint64_t session) {
    return (STATE(word) == EVICTED || STATE(word) > CLAIMED) && load_relaxed(&cell->session) == session;
}

/* Its process may live, and be in the middle of anything: so the cell is marked first, and stays until that process has
 * seen it, or is dead. What it seizes between the two it gives back. */
enum answer admission_evict(struct object *o, uint64_t session) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    bool any = false;
    for (uint32_t i = 0; i < used; i++) {
        uint64_t word = load_seq(&cells[i].word), evicted;
        do
            evicted = STATE(word) == EVICTED ? word : WORD(GIVEN(word) + 1, LIFE(word), EVICTED);
        while (belongs(&cells[i], word, session) && !cas_seq(&cells[i].word, &word, evicted));
        if (!belongs(&cells[i], word, session))
            continue;
        bool freed = free_permits(o, &cells[i], evicted, STATE(word));
        any = any || freed || (STATE(word) != IDLE && STATE(word) != EVICTED);
        cell_wake(&cells[i]);
    }
    call_all(o);
    return any ? LEFT : GONE;
}

bool admission_sweep(struct object *o, struct lives *lives) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    bool any = false;
    for (uint32_t i = 0; i < used; i++) {
        uint64_t word = load_seq(&cells[i].word);
        if (STATE(word) == FREE)
            continue;
        bool over = life_over(lives, LIFE(word));
        if (over || STATE(word) == EVICTED) /* whoever evicted it may have died amid that */
            any = free_permits(o, &cells[i], word, STATE(word)) || any;
        if (over)
            any = cas_seq(&cells[i].word, &word, WORD(GIVEN(word), 0, FREE)) || any;
    }
    if (any)
        call_all(o);
    return any;
}

bool clear_the_way(struct object *o, struct lives *lives, struct patience *patience, int64_t now) {
    patience->watch = (struct watch){0};
    patience->watches = now >= patience->began + SOON_NS;
    if (patience->watches)
        cells_watch(o, lives, ~(1u << FREE), &patience->watch);
    patience->next = next_look(patience->began, patience->looked, LOOK_NS, &patience->watch);
    if (now < patience->next && !patience->watch.over)
        return false;
    patience->looked = now;
    patience->next = next_look(patience->began, now, LOOK_NS, &patience->watch);
    (void)or_seq(&o->row, ROW);
    return admission_sweep(o, lives);
}

bool nap(struct object *o, struct lives *lives, const struct patience *patience, const struct place *at, uint32_t seen,
         int64_t ns) {
    enum nap end = life_park(lives, &patience->watch, &at->cell->wake, seen, ns);
    if (end == ENDED && !admission_sweep(o, lives))
        call_first(o);
    return end != SIGNALLED;
}

/* Whoever retires an object takes every permit first, with a cell as others have it: so if it dies amid that, they go
 * back. Nobody comes in then; and once the first permit is CLOSED, nobody ever does. */
bool admission_retire(struct object *o, struct lives *lives, life mine) {
    struct place at;
    uint64_t first = 0;
    if (owner(load_seq(&o->permit[0])) == CLOSED)
        return true;
    bool idle = place_claim(o, lives, mine, 0, 0, &at);
    if (!idle || !place_turn(&at, IDLE, RETIRES))
        return false;
    for (uint32_t i = 0; idle && i < o->permits; i++) {
        uint64_t seen = load_seq(&o->permit[i]), taken = seen + GIVE + number(o, at.cell);
        idle = (seen & (OWNER | LOST)) == 0 && cas_seq(&o->permit[i], &seen, taken);
        first = i == 0 ? taken : first;
    }
    idle = idle && !anybody_reads(o) && !anybody_waits(o);
    if (idle)
        idle = cas_seq(&o->permit[0], &first, (first & ~OWNER) | CLOSED);
    else
        (void)free_permits(o, at.cell, at.base | RETIRES, RETIRES);
    call_first(o); /* who came meanwhile looks again */
    place_free(&at);
    return idle;
}
