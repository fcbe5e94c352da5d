#include "row.h"

#ifndef SPINS
#define SPINS 60 /* looks at a taken permit before standing in the row: a few microseconds */
#endif
#define DUE_NS 1000000   /* so long others may overtake the first of the row */
#define DOZE_NS 50000    /* so long nobody calls a first of the row that was called in vain */
#define LARGEST_BLOCK 16u /* a reader takes at most 2 to the power of this tokens at a time */
#define LEFT_SHIFT (MODE_SHIFT + 5) /* of a reader's mode: how many tokens of its block are left */

static void set_mode(struct place *at, uint32_t flag, bool on) {
    uint32_t mode = load_relaxed(&at->cell->mode);
    store_relaxed(&at->cell->mode, on ? mode | flag : mode & ~flag);
}

/* What the holder of a permit writes down: its token, and whether it is told of a death. */
static void note_grant(struct object *o, struct place *at) {
    uint64_t token = o->permits == 1 ? attempt_of(o, at->held) : add_seq(&o->counter, 1) + 1;
    store_relaxed(&at->cell->token, token);
    store_relaxed(&at->cell->since, wall_ms());
    set_mode(at, TOLD, (at->held & LOST) != 0);
}

/* A reader's tokens come in blocks, so that readers write no word of one another's. A block is good until a permit is
 * given again; the next one is twice as large if this one was used up. */
static void note_reading(struct object *o, struct place *at, uint64_t permit) {
    struct cell *cell = at->cell;
    uint64_t token = load_relaxed(&cell->token) + 1, given = permit / GIVE, seen = given;
    uint32_t mode = load_relaxed(&cell->mode), power = mode >> MODE_SHIFT & 31, left = mode >> LEFT_SHIFT;
    bool good = load_relaxed(&cell->block) == given;
    if (!good || left == 0) {
        power = !good ? 0 : power < LARGEST_BLOCK ? power + 1 : power;
        left = 1u << power;
        do { /* a sum of two that grow is unique if both are of one moment */
            given = seen;
            token = add_seq(&o->counter, left + 1) + 1 + given; /* one is left for a writer that came since */
            seen = load_seq(&o->permit[0]) / GIVE;
        } while (seen != given);
        store_relaxed(&cell->block, permit / GIVE);
    }
    store_relaxed(&cell->token, token);
    store_relaxed(&cell->since, wall_ms());
    mode = SHARED | (permit & LOST ? TOLD : 0) | power << MODE_SHIFT | (left - 1) << LEFT_SHIFT;
    store_relaxed(&cell->mode, mode);
}

/* Make a permit a place's own that is, as far as `mask` goes, like `wanted`: so free, LOST or not, or either. */
static bool seize(struct object *o, struct place *at, uint64_t mask, uint64_t wanted) {
    uint32_t start = o->permits > 1 ? load_relaxed(&at->cell->mode) >> MODE_SHIFT : 0;
    for (uint32_t i = 0; i < o->permits; i++) {
        uint32_t which = start + i < o->permits ? start + i : start + i - o->permits;
        uint64_t seen = load_relaxed(&o->permit[which]), taken = (seen & ~OWNER) + GIVE + number(o, at->cell);
        if ((seen & mask) != wanted || !cas_seq(&o->permit[which], &seen, taken))
            continue;
        at->held = taken;
        at->which = which;
        if (o->permits > 1)
            store_relaxed(&at->cell->mode, which << MODE_SHIFT);
        return true;
    }
    return false;
}

#define PLAIN OWNER | LOST, 0
#define NEWSWORTHY OWNER | LOST, LOST
#define ANY OWNER, 0

/* Any free permit, but of those that are LOST first. */
static bool seize_one(struct object *o, struct place *at) {
    if (load_seq(&o->row) & NEWS) {
        if (seize(o, at, NEWSWORTHY))
            return true;
        (void)and_seq(&o->row, ~NEWS);
    }
    return seize(o, at, ANY);
}

/* Let one's own permit go; `keep` the news that it is LOST. False if it was this place's no longer. */
static bool let_go(struct object *o, struct place *at, bool keep) {
    uint64_t held = at->held;
    at->held = 0;
    if (!give_back(o, at->which, held, keep ? held & LOST : 0))
        return false;
    if (load_seq(&o->row)) /* pairs with stand: the one sees the other */
        call_first(o);
    return true;
}

/* The cell was taken from this place by force: it gives the cell back, and what it may have got since. */
static enum answer gone(struct object *o, struct place *at) {
    if (at->held)
        (void)let_go(o, at, true);
    place_free(at);
    return GONE;
}

/* Read, unless somebody writes. Who comes from the row stays in it until that is settled. */
static bool read_now(struct object *o, struct place *at, enum state from, uint64_t mask) {
    enum state meanwhile = from == WAITS ? LOOKS : READS;
    if ((load_seq(&o->permit[0]) & mask) || !place_turn(at, from, meanwhile))
        return false;
    uint64_t permit = load_seq(&o->permit[0]); /* pairs with the writer's look at the readers */
    if ((permit & mask) == 0) {
        note_reading(o, at, permit);
        return meanwhile == READS || place_turn(at, LOOKS, READS);
    }
    (void)place_turn(at, meanwhile, from);
    call_owner(o, load_seq(&o->permit[0]));
    return false;
}

static void announce_readers(struct object *o) {
    if (load_seq(&o->readers) == 0)
        store_seq(&o->readers, 1);
}

/* Whether one's cell is still one's own, and nobody reads. A permit that was seized otherwise goes back. */
static bool confirm(struct object *o, struct place *at) {
    if (load_seq(&at->cell->word) != (at->base | IDLE) || somebody_reads(o)) {
        (void)let_go(o, at, true);
        return false;
    }
    note_grant(o, at);
    return true;
}

bool admission_take(struct object *o, struct place *at, bool shared) {
    if (load_relaxed(&o->row))
        return false;
    if (shared && o->kind == KIND_LOCK) {
        announce_readers(o);
        return read_now(o, at, IDLE, OWNER | LOST);
    }
    return seize(o, at, PLAIN) && confirm(o, at);
}

/* Stand in the row: first there, then announced. So call_first, which clears the announcement, sees the one or is seen
 * by the other. */
static void stand(struct object *o, struct place *at, bool shared) {
    set_mode(at, SHARED, shared);
    if (shared)
        announce_readers(o);
    (void)take_position(o, at);
    (void)or_seq(&o->row, ROW);
}

/* A reader has left the row for its hold, and others may follow. */
static void settle(struct object *o) {
    (void)and_seq(&o->row, ~DUE);
    call_first(o);
}

/* What an exclusive owner in the row still waits for. */
static enum answer drain(struct object *o, struct place *at) {
    if (somebody_reads(o))
        return WAITING;
    note_grant(o, at);
    if (!place_turn(at, DRAINS, IDLE))
        return gone(o, at);
    if (o->permits > 1) /* there may be one for the next one too */
        call_first(o);
    return GRANTED;
}

/* Leave the row without a hold. The permit goes first: who dies in between held nothing yet. */
static void step_back(struct object *o, struct place *at) {
    if (at->held)
        (void)let_go(o, at, true);
    if (place_turn(at, WAITS, IDLE) || place_turn(at, DRAINS, IDLE))
        call_first(o);
}

enum answer admission_turn(struct object *o, struct place *at) {
    uint64_t word = load_seq(&at->cell->word);
    if ((word & ~UINT64_C(15)) != at->base)
        return gone(o, at);
    if (STATE(word) == DRAINS)
        return drain(o, at);
    if (STATE(word) != WAITS)
        return STATE(word) == READS || at->held ? GRANTED : GONE;
    if (owner(load_seq(&o->permit[0])) == CLOSED) {
        step_back(o, at);
        return RETIRED;
    }
    if (first_of_row(o) != at->cell)
        return WAITING;
    if (load_relaxed(&at->cell->mode) & SHARED && o->kind == KIND_LOCK) {
        if (!read_now(o, at, WAITS, OWNER))
            return WAITING;
        settle(o);
        return GRANTED;
    }
    if (!seize_one(o, at))
        return WAITING;
    (void)and_seq(&o->row, ~DUE); /* while it is the first itself: what the next one sets stays */
    return place_turn(at, WAITS, DRAINS) ? drain(o, at) : gone(o, at);
}

/* Take what is free, whoever waits. */
static bool take_free(struct object *o, struct place *at, bool shared) {
    if (shared)
        return read_now(o, at, IDLE, OWNER);
    return !somebody_reads(o) && seize_one(o, at) && confirm(o, at);
}

bool admission_overtake(struct object *o, struct place *at, bool shared) {
    return !(load_seq(&o->row) & DUE) && take_free(o, at, shared && o->kind == KIND_LOCK);
}

/* Without a place in the row, which others would take for somebody who waits. */
static enum answer try_once(struct object *o, struct place *at, bool shared) {
    if (load_seq(&o->row) & ROW && first_of_row(o) != NULL)
        return REFUSED;
    if (shared)
        announce_readers(o);
    if (take_free(o, at, shared))
        return GRANTED;
    if (load_seq(&at->cell->word) != (at->base | IDLE))
        return gone(o, at);
    return owner(load_seq(&o->permit[0])) == CLOSED ? RETIRED : REFUSED;
}

enum answer admission_enter(struct object *o, struct place *at, bool shared, bool wait) {
    bool reads = shared && o->kind == KIND_LOCK;
    if (!wait)
        return try_once(o, at, reads);
    if (reads)
        announce_readers(o);
    for (int spins = 0; spins < SPINS; spins++) {
        if (admission_overtake(o, at, shared))
            return GRANTED;
        relax();
    }
    stand(o, at, reads);
    return admission_turn(o, at);
}

/* Look so often whether it has its turn. */
static enum answer look(struct object *o, struct place *at, int times) {
    enum answer answer = admission_turn(o, at);
    while (answer == WAITING && --times > 0) {
        relax();
        answer = admission_turn(o, at);
    }
    return answer;
}

/* Keep out of the way of whoever is ahead and alive; clear away who is dead. A first of the row that is called, and
 * finds the permit taken again, dozes: for a while nobody calls it, which would cost those who overtake it more than
 * their turns. It lets them for DUE_NS from when it saw that it is the first. */
enum answer admission_wait(struct object *o, struct lives *lives, struct place *at, int64_t until) {
    struct patience patience = begin_waiting();
    int64_t due = INT64_MAX;
    bool called = at->held != 0; /* the readers that it waits for are soon done */
    for (;;) {
        store_seq(&at->cell->wake, 0); /* pairs with cell_wake */
        enum answer answer = look(o, at, called ? SPINS / 3 : 1);
        if (answer != WAITING)
            return answer;
        int64_t now = monotonic_ns();
        if (now >= until)
            return WAITING;
        if (clear_the_way(o, lives, &patience, now))
            continue;
        if (due == INT64_MAX && first_of_row(o) == at->cell)
            due = now + DUE_NS;
        if (now >= due && !(or_seq(&o->row, DUE) & DUE))
            continue; /* whoever was first before may have cleared it after this one had set it */
        int64_t next = patience.next;
        bool dozes = called && !at->held && now < due;
        if (dozes) {
            store_seq(&at->cell->wake, 1);
            next = now + DOZE_NS;
        }
        if (now < due && due < next)
            next = due;
        next = until < next ? until : next;
        if (!nap(o, lives, &patience, at, dozes, next - now))
            return INTERRUPTED;
        called = !dozes && load_seq(&at->cell->wake);
    }
}

enum answer admission_release(struct object *o, struct place *at, bool untold) {
    if (at->held)
        return let_go(o, at, untold) ? LEFT : gone(o, at);
    if (!place_turn(at, READS, IDLE))
        return gone(o, at);
    call_owner(o, load_seq(&o->permit[0])); /* pairs with the writer that looks for readers, then sleeps */
    if (load_seq(&o->row))
        call_first(o);
    return LEFT;
}

enum answer admission_leave(struct object *o, struct place *at, bool untold) {
    enum state state = STATE(load_seq(&at->cell->word));
    enum answer answer = LEFT;
    if (state == WAITS || state == DRAINS)
        step_back(o, at);
    else
        answer = admission_release(o, at, untold);
    place_free(at);
    return answer;
}

enum answer admission_downgrade(struct object *o, struct place *at) {
    uint64_t word = load_seq(&at->cell->word);
    if (!at->held || word != (at->base | IDLE))
        return word == (at->base | READS) ? GRANTED : GONE;
    announce_readers(o);
    set_mode(at, SHARED, true);
    if (!place_turn(at, IDLE, READS))
        return gone(o, at);
    return let_go(o, at, false) ? GRANTED : gone(o, at);
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
