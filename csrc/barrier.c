#include "barrier.h"

#include <limits.h>
#include <sched.h>

#include "park.h"

#define YIELDS 50        /* other parties are let run so often before sleeping */
#define LOOK_NS 20000000 /* between two looks at whether the other parties still live */

#define ARRIVAL (UINT64_C(1) << 44)
#define ROUND(word) ((word) & (ARRIVAL - 1))
#define ARRIVED(word) ((uint32_t)(((word) & ~MACHINE) / ARRIVAL))

static word32 *round_of(struct object *o) {
    return low_half(&o->permit[0]);
}

/* Members, or -1 if one of them is dead. */
static int64_t living(struct object *o, struct lives *lives) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    int64_t count = 0;
    for (uint32_t i = 0; i < used; i++) {
        uint64_t word = load_seq(&cells[i].word);
        if (STATE(word) != MEMBER)
            continue;
        if (life_over(lives, LIFE(word)))
            return -1;
        count++;
    }
    return count;
}

bool barrier_join(struct object *o, struct lives *lives, life mine, uint64_t session, uint64_t serial, struct place *at) {
    return place_claim(o, lives, mine, session, serial, at) && place_turn(at, IDLE, MEMBER);
}

bool barrier_engage(struct object *o, struct lives *lives, uint32_t parties, uint64_t generations) {
    uint64_t word = load_seq(&o->permit[0]);
    if (!(word & MACHINE) || living(o, lives) != parties)
        return false;
    store_seq(&o->exclusive, generations); /* read by those who arrive here, and nobody does before the next line */
    return cas_seq(&o->permit[0], &word, ROUND(word));
}

uint64_t barrier_move(struct object *o) {
    uint64_t word = load_seq(&o->permit[0]);
    while (!(word & MACHINE))
        if (cas_seq(&o->permit[0], &word, ROUND(word) | MACHINE)) {
            unpark(round_of(o), INT_MAX); /* sleepers compare the round, which is the same: they look again */
            break;
        }
    return ROUND(word);
}

enum meeting barrier_arrive(struct object *o, struct lives *lives, uint32_t parties, struct arrival *mine) {
    uint64_t word = load_seq(&o->permit[0]);
    do {
        if (word & MACHINE || ARRIVED(word) >= parties)
            return MOVED;
    } while (!cas_seq(&o->permit[0], &word, word + ARRIVAL));
    *mine = (struct arrival){
        .round = ROUND(word), .generation = load_seq(&o->exclusive) + ROUND(word), .index = ARRIVED(word)};
    if (mine->index + 1 < parties)
        return LATE;
    word += ARRIVAL;
    if (living(o, lives) == parties && cas_seq(&o->permit[0], &word, mine->round + 1)) {
        unpark(round_of(o), INT_MAX);
        return PASSED;
    }
    (void)barrier_move(o);
    return MOVED;
}

static enum meeting standing(struct object *o, const struct arrival *mine) {
    uint64_t word = load_seq(&o->permit[0]);
    return ROUND(word) != mine->round ? PASSED : word & MACHINE ? MOVED : LATE;
}

enum meeting barrier_wait(struct object *o, struct lives *lives, const struct arrival *mine, int64_t until) {
    int64_t looked = 0;
    for (int yields = 0; yields < YIELDS; yields++) {
        enum meeting now = standing(o, mine);
        if (now != LATE)
            return now;
        sched_yield();
    }
    for (;;) {
        enum meeting seen = standing(o, mine);
        if (seen != LATE)
            return seen;
        int64_t now = monotonic_ns();
        if (now >= until)
            return LATE;
        if (looked && now - looked >= LOOK_NS) {
            if (living(o, lives) < 0) {
                (void)barrier_move(o);
                continue;
            }
            looked = now;
        }
        looked = looked ? looked : now;
        int64_t next = until < looked + LOOK_NS ? until : looked + LOOK_NS;
        if (!park(round_of(o), (uint32_t)mine->round, next - now))
            return SIGNALLED;
    }
}

uint32_t barrier_waiting(struct object *o) {
    uint64_t word = load_seq(&o->permit[0]);
    return word & MACHINE ? 0 : ARRIVED(word);
}
