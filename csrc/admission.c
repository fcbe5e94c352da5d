#include "admission.h"

#include "park.h"

#ifndef SPINS
#define SPINS 60 /* looks at a taken permit before standing in the row: a few microseconds */
#endif
#define DUE_NS 1000000         /* so long others may overtake the first of the row */
#define LOOK_NS 20000000       /* between two looks at whether those ahead still live */
#define CLOSED (OWNER - 1)     /* owns the permits of a retired object */
#define LARGEST_BLOCK 16u      /* a reader takes at most 2 to the power of this tokens at a time */

static inline uint64_t owner(uint64_t permit) {
    return permit & OWNER;
}

static inline uint64_t number(struct object *o, const struct cell *cell) {
    return (uint64_t)(cell - cells_of(o)) + 1;
}

static bool anybody_reads(struct object *o) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    for (uint32_t i = 0; i < used; i++)
        if (STATE(load_seq(&cells[i].word)) == READS)
            return true;
    return false;
}

static inline bool somebody_reads(struct object *o) {
    return o->kind == KIND_LOCK && load_seq(&o->readers) && anybody_reads(o);
}

static struct cell *first_of_row(struct object *o) {
    struct cell *cells = cells_of(o), *first = NULL;
    uint32_t used = load_seq(&o->used);
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < used; i++) {
        if (STATE(load_seq(&cells[i].word)) != WAITS)
            continue;
        uint64_t arrival = load_relaxed(&cells[i].arrival);
        if (arrival < least) {
            least = arrival;
            first = &cells[i];
        }
    }
    return first;
}

/* Somebody left the row, or a permit came free: the first of the row is to look. */
static void call_first(struct object *o) {
    struct cell *first = first_of_row(o);
    while (first == NULL) {
        if ((load_seq(&o->row) & (ROW | DUE)) == 0)
            return;
        (void)and_seq(&o->row, ~(ROW | DUE));
        first = first_of_row(o);
        if (first == NULL)
            return;
        (void)or_seq(&o->row, ROW);
    }
    cell_wake(first);
}

/* A writer that drains waits for the last reader. */
static void call_owner(struct object *o, uint64_t permit) {
    if (owner(permit) && owner(permit) <= o->cells)
        cell_wake(&cells_of(o)[owner(permit) - 1]);
}

static void set_mode(struct place *at, uint32_t flag, bool on) {
    uint32_t mode = load_relaxed(&at->cell->mode);
    store_relaxed(&at->cell->mode, on ? mode | flag : mode & ~flag);
}

/* What a new exclusive holder, or a permit's holder, writes down. Of a lock it is alone, and need not be atomic. */
static void note_grant(struct object *o, struct place *at, bool told) {
    uint64_t token;
    if (o->permits == 1) {
        token = load_relaxed(&o->counter) + 1;
        store_relaxed(&o->counter, token);
        store_relaxed(&o->exclusive, token); /* readers see it after the permit that is let go later */
    } else {
        token = add_seq(&o->counter, 1) + 1;
    }
    store_relaxed(&at->cell->token, token);
    store_relaxed(&at->cell->since, wall_ms());
    if (told)
        set_mode(at, TOLD, true);
}

/* A reader's tokens come in blocks, so that readers write no word of one another's. A block is good until a writer takes
 * a token; the next one is twice as large if this one was used up. */
static void note_reading(struct object *o, struct place *at, bool told) {
    struct cell *cell = at->cell;
    uint64_t token = load_relaxed(&cell->token) + 1, exclusive = load_seq(&o->exclusive);
    uint32_t mode = load_relaxed(&cell->mode), power = mode >> MODE_SHIFT;
    bool passed = token <= exclusive;
    if (passed || token > load_relaxed(&cell->block)) {
        power = passed ? 0 : power < LARGEST_BLOCK ? power + 1 : power;
        token = add_seq(&o->counter, UINT64_C(1) << power) + 1;
        store_relaxed(&cell->block, token + (UINT64_C(1) << power) - 1);
    }
    store_relaxed(&cell->token, token);
    store_relaxed(&cell->since, wall_ms());
    store_relaxed(&cell->mode, SHARED | (told ? TOLD : 0) | power << MODE_SHIFT);
}

/* Make one permit a place's own, if it is free. */
static bool seize(struct object *o, struct place *at, uint32_t which, uint64_t seen, bool *told) {
    uint64_t taken = (seen & ~(OWNER | LOST)) + GIVE + number(o, at->cell);
    if (!cas_seq(&o->permit[which], &seen, taken))
        return false;
    at->held = taken;
    at->which = which;
    *told = (seen & LOST) != 0;
    return true;
}

/* Any free permit; of those that are LOST first if `news`, only plain ones unless `any`. */
static bool seize_one(struct object *o, struct place *at, bool news, bool any, bool *told) {
    uint32_t start = o->permits > 1 ? load_relaxed(&at->cell->mode) >> MODE_SHIFT : 0;
    for (uint32_t i = 0; i < o->permits; i++) {
        uint32_t which = start + i < o->permits ? start + i : start + i - o->permits;
        uint64_t seen = load_relaxed(&o->permit[which]);
        if (owner(seen) || (news && !(seen & LOST)) || (!any && (seen & LOST)))
            continue;
        if (seize(o, at, which, seen, told)) {
            if (o->permits > 1)
                store_relaxed(&at->cell->mode, which << MODE_SHIFT);
            return true;
        }
    }
    return false;
}

/* Let a permit go, marked LOST or not; false if it was this place's no longer. */
static bool let_go(struct object *o, struct place *at, uint64_t mark) {
    uint64_t held = at->held;
    at->held = 0;
    if (mark && o->permits > 1)
        (void)or_seq(&o->row, NEWS);
    if (!cas_seq(&o->permit[at->which], &held, (held & ~OWNER) | mark))
        return false;
    if (load_seq(&o->row)) /* pairs with stand: the one sees the other */
        call_first(o);
    return true;
}

/* Read, unless somebody writes. The place is idle or waits, and is that again if somebody does. */
static bool read_now(struct object *o, struct place *at, enum state from, bool any) {
    if (!place_turn(at, from, READS))
        return false;
    uint64_t permit = load_seq(&o->permit[0]); /* pairs with the writer's look at the readers */
    if (owner(permit) == 0 && (any || !(permit & LOST))) {
        note_reading(o, at, (permit & LOST) != 0);
        return true;
    }
    (void)place_turn(at, READS, from);
    call_owner(o, load_seq(&o->permit[0]));
    return false;
}

static void announce_readers(struct object *o) {
    if (load_relaxed(&o->readers) == 0)
        store_seq(&o->readers, 1);
}

bool admission_take(struct object *o, struct place *at, bool shared) {
    bool told;
    if (load_relaxed(&o->row))
        return false;
    if (shared) {
        announce_readers(o);
        uint64_t permit = load_relaxed(&o->permit[0]);
        return !(permit & (OWNER | LOST)) && read_now(o, at, IDLE, false);
    }
    if (!seize_one(o, at, false, false, &told))
        return false;
    if (load_relaxed(&at->cell->word) != (at->base | IDLE) || somebody_reads(o)) {
        (void)let_go(o, at, 0);
        return false;
    }
    note_grant(o, at, false);
    return true;
}

static void stand(struct object *o, struct place *at, bool shared) {
    store_relaxed(&at->cell->arrival, add_seq(&o->arrivals, 1) + 1);
    store_relaxed(&at->cell->since, wall_ms());
    set_mode(at, SHARED, shared);
    set_mode(at, TOLD, false);
    if (shared)
        announce_readers(o);
    (void)or_seq(&o->row, ROW);
    (void)place_turn(at, IDLE, WAITS);
    (void)or_seq(&o->row, ROW); /* pairs with call_first, which may have cleared it in between */
}

/* The place has left the row for its hold. */
static void settle(struct object *o) {
    (void)and_seq(&o->row, ~DUE);
    call_first(o);
}

/* What an exclusive owner in the row still waits for. */
static enum answer drain(struct object *o, struct place *at) {
    if (somebody_reads(o))
        return WAITING;
    note_grant(o, at, (load_relaxed(&at->cell->mode) & TOLD) != 0);
    if (!place_turn(at, DRAINS, IDLE))
        return GONE;
    settle(o);
    return GRANTED;
}

enum answer admission_turn(struct object *o, struct place *at) {
    uint64_t word = load_seq(&at->cell->word);
    if ((word & ~UINT64_C(15)) != at->base)
        return GONE;
    if (STATE(word) == DRAINS)
        return drain(o, at);
    if (STATE(word) != WAITS)
        return STATE(word) == READS || at->held ? GRANTED : GONE;
    if (first_of_row(o) != at->cell)
        return WAITING;
    if (load_relaxed(&at->cell->mode) & SHARED && o->kind == KIND_LOCK) {
        if (!read_now(o, at, WAITS, true))
            return WAITING;
        settle(o);
        return GRANTED;
    }
    bool told = false, news = (load_seq(&o->row) & NEWS) != 0;
    if (news && !seize_one(o, at, true, true, &told)) {
        (void)and_seq(&o->row, ~NEWS);
        news = false;
    }
    if (!news && !seize_one(o, at, false, true, &told))
        return WAITING;
    set_mode(at, TOLD, told);
    if (!place_turn(at, WAITS, DRAINS))
        return GONE;
    return drain(o, at);
}

/* Leave the row without a hold. */
static void step_back(struct object *o, struct place *at) {
    bool told = (load_relaxed(&at->cell->mode) & TOLD) != 0;
    if (!place_turn(at, WAITS, IDLE) && !place_turn(at, DRAINS, IDLE))
        return;
    if (at->held)
        (void)let_go(o, at, told ? LOST : 0);
    call_first(o);
}

/* Take a free permit past those who wait, while nobody there has waited long. Readers overtake nobody. */
static bool overtake(struct object *o, struct place *at) {
    bool told = false;
    if (load_seq(&o->row) & (DUE | NEWS) || somebody_reads(o) || !seize_one(o, at, false, true, &told))
        return false;
    if (load_relaxed(&at->cell->word) != (at->base | IDLE) || somebody_reads(o)) {
        (void)let_go(o, at, told ? LOST : 0);
        return false;
    }
    note_grant(o, at, told);
    return true;
}

enum answer admission_enter(struct object *o, struct place *at, bool shared, bool wait) {
    bool exclusive = !shared || o->kind == KIND_SEMAPHORE;
    set_mode(at, TOLD, false);
    if (owner(load_seq(&o->permit[0])) == CLOSED)
        return RETIRED;
    for (int spins = 0; exclusive && wait && spins < SPINS; spins++) {
        if (overtake(o, at))
            return GRANTED;
        relax();
    }
    if (!wait && load_seq(&o->row) & ROW && first_of_row(o) != NULL)
        return REFUSED;
    stand(o, at, shared && !exclusive);
    enum answer answer = admission_turn(o, at);
    if (answer != WAITING)
        return answer;
    bool closed = owner(load_seq(&o->permit[0])) == CLOSED;
    if (wait && !closed)
        return WAITING;
    step_back(o, at);
    return closed ? RETIRED : REFUSED;
}

/* Keep out of the way of whoever is ahead and alive; clear away who is dead. */
enum answer admission_wait(struct object *o, struct lives *lives, struct place *at, int64_t until) {
    int64_t began = monotonic_ns(), looked = began;
    bool due = false;
    for (;;) {
        store_seq(&at->cell->wake, 0);
        enum answer answer = admission_turn(o, at);
        if (answer != WAITING)
            return answer;
        int64_t now = monotonic_ns(), next = looked + LOOK_NS;
        if (now >= until)
            return WAITING;
        if (!due && now - began >= DUE_NS) {
            due = first_of_row(o) == at->cell;
            if (due) {
                (void)or_seq(&o->row, DUE);
                continue;
            }
        } else if (!due && began + DUE_NS < next) {
            next = began + DUE_NS;
        }
        if (now - looked >= LOOK_NS) {
            looked = now;
            (void)or_seq(&o->row, ROW);
            if (admission_sweep(o, lives))
                continue;
            next = now + LOOK_NS;
        }
        if (!park(&at->cell->wake, 0, (until < next ? until : next) - now))
            return INTERRUPTED;
    }
}

enum answer admission_release(struct object *o, struct place *at, bool untold) {
    if (at->held)
        return let_go(o, at, untold ? LOST : 0) ? LEFT : GONE;
    if (!place_turn(at, READS, IDLE))
        return GONE;
    uint64_t permit = load_seq(&o->permit[0]);
    call_owner(o, permit); /* pairs with the writer that looks for readers, then sleeps */
    if (load_seq(&o->row))
        call_first(o);
    return LEFT;
}

enum answer admission_leave(struct object *o, struct place *at, bool untold) {
    enum state state = STATE(load_seq(&at->cell->word));
    enum answer answer = LEFT;
    if (state == WAITS || state == DRAINS)
        step_back(o, at);
    else if (state == READS || at->held)
        answer = admission_release(o, at, untold && load_relaxed(&at->cell->mode) & TOLD);
    else
        answer = GONE;
    place_free(at);
    return answer;
}

enum answer admission_downgrade(struct object *o, struct place *at) {
    if (!at->held)
        return STATE(load_seq(&at->cell->word)) == READS ? GRANTED : GONE;
    announce_readers(o);
    set_mode(at, SHARED, true);
    if (!place_turn(at, IDLE, READS))
        return GONE;
    store_relaxed(&at->cell->block, load_relaxed(&at->cell->token));
    return let_go(o, at, 0) ? GRANTED : GONE;
}

void admission_recall(struct object *o, struct place *at) {
    at->held = 0;
    for (uint32_t i = 0; i < o->permits && at->held == 0; i++) {
        uint64_t permit = load_seq(&o->permit[i]);
        if (owner(permit) == number(o, at->cell) && (load_seq(&at->cell->word) & ~UINT64_C(15)) == at->base) {
            at->held = permit;
            at->which = i;
        }
    }
}

/* Clear a cell, seen with this word, whose owner is over: first what it has, then the cell itself. Others may be at the
 * same; each step happens once. */
static void clear_away(struct object *o, struct cell *cell, uint64_t word) {
    bool drained = STATE(word) == DRAINS && !(load_relaxed(&cell->mode) & TOLD);
    for (uint32_t i = 0; i < o->permits; i++) {
        uint64_t permit = load_seq(&o->permit[i]);
        if (owner(permit) != number(o, cell))
            continue;
        if (load_seq(&cell->word) != word)
            return; /* somebody else did it, and the permit may be a successor's */
        if (o->permits > 1)
            (void)or_seq(&o->row, NEWS);
        (void)cas_seq(&o->permit[i], &permit, (permit & ~OWNER) | (drained ? permit & LOST : LOST));
    }
    (void)cas_seq(&cell->word, &word, WORD(GIVEN(word), 0, FREE));
}

enum answer admission_evict(struct object *o, uint64_t session) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    bool any = false;
    for (uint32_t i = 0; i < used; i++) {
        uint64_t word = load_seq(&cells[i].word);
        if (STATE(word) <= CLAIMED || load_relaxed(&cells[i].session) != session)
            continue;
        struct place at = {.cell = &cells[i], .base = word & ~UINT64_C(15)};
        admission_recall(o, &at);
        any = any || at.held || STATE(word) != IDLE;
        clear_away(o, &cells[i], word);
    }
    call_owner(o, load_seq(&o->permit[0]));
    call_first(o);
    return any ? LEFT : GONE;
}

bool admission_sweep(struct object *o, struct lives *lives) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    bool any = false;
    for (uint32_t i = 0; i < used; i++) {
        uint64_t word = load_seq(&cells[i].word);
        if (STATE(word) == FREE || !life_over(lives, LIFE(word)))
            continue;
        clear_away(o, &cells[i], word);
        any = true;
    }
    if (any) {
        call_owner(o, load_seq(&o->permit[0]));
        call_first(o);
    }
    return any;
}

bool admission_retire(struct object *o) {
    for (uint32_t i = 0; i < o->permits; i++) {
        uint64_t seen = load_seq(&o->permit[i]);
        if ((seen & (OWNER | LOST)) == 0 && cas_seq(&o->permit[i], &seen, seen | CLOSED)) {
            if (i + 1 < o->permits || (!anybody_reads(o) && first_of_row(o) == NULL))
                continue;
            i++;
        }
        while (i-- > 0)
            (void)and_seq(&o->permit[i], ~OWNER);
        call_first(o);
        return false;
    }
    return true;
}
