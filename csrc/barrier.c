#include "barrier.h"

#include <limits.h>
#include <sched.h>

#include "park.h"

#ifndef YIELDS
#define YIELDS 50 /* other parties are let run so often before sleeping */
#endif
#define LOOK_NS 100000000 /* between two looks at whether the other parties still live, if the kernel does not tell */

#define ARRIVAL (UINT64_C(1) << 45)
#define ROUND(word) (((word) & (ARRIVAL - 1)) >> 1)
#define ARRIVED(word) ((uint32_t)((word) / ARRIVAL))
#define AT(round) ((uint64_t)(round) << 1 & (ARRIVAL - 1)) /* nobody has come yet, and the machine decides */

static word32 *round_of(struct object *o) {
    return low_half(&o->permit[0]);
}

/* The round in which somebody sleeps, or will, is noted in `row` by number: so one in which nobody does costs no system
 * call. A later one that is noted there means that those of this round may still be asleep. */
static void note_sleeper(struct object *o, uint64_t round) {
    uint32_t noted = load_seq(&o->row), mine = (uint32_t)round + 1;
    while ((int32_t)(mine - noted) > 0 && !cas_seq(&o->row, &noted, mine)) { /* pairs with anybody_sleeps */
    }
}

static bool anybody_sleeps(struct object *o, uint64_t round) {
    return (int32_t)(load_seq(&o->row) - ((uint32_t)round + 1)) >= 0;
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

bool barrier_join(struct object *o, struct lives *lives, life mine, uint64_t session, uint64_t serial,
                  struct place *at) {
    return place_claim(o, lives, mine, session, serial, at) && place_turn(at, IDLE, MEMBER);
}

bool barrier_engage(struct object *o, struct lives *lives, uint32_t parties, uint64_t generations) {
    uint64_t word = load_seq(&o->permit[0]);
    if (word & HERE || living(o, lives) != parties)
        return false;
    store_seq(&o->counter, parties);
    store_seq(&o->generations, generations); /* both are read by who arrives, and nobody does before the next line */
    return cas_seq(&o->permit[0], &word, AT(ROUND(word)) | HERE);
}

uint64_t barrier_move(struct object *o) {
    uint64_t word = load_seq(&o->permit[0]);
    while (word & HERE)
        if (cas_seq(&o->permit[0], &word, AT(ROUND(word)))) {
            unpark(round_of(o), INT_MAX);
            break;
        }
    return ROUND(word);
}

enum meeting barrier_arrive(struct object *o, struct lives *lives, uint32_t parties, struct arrival *mine) {
    uint64_t word = load_seq(&o->permit[0]);
    do {
        if (!(word & HERE) || ARRIVED(word) >= parties || load_seq(&o->counter) != parties)
            return MOVED;
    } while (!cas_seq(&o->permit[0], &word, word + ARRIVAL));
    *mine = (struct arrival){
        .round = ROUND(word), .generation = load_seq(&o->generations) + ROUND(word), .index = ARRIVED(word)};
    if (mine->index + 1 < parties)
        return LATE;
    word += ARRIVAL;
    if (living(o, lives) == parties && cas_seq(&o->permit[0], &word, AT(mine->round + 1) | HERE)) {
        if (anybody_sleeps(o, mine->round))
            unpark(round_of(o), INT_MAX);
        return PASSED;
    }
    (void)barrier_move(o);
    return MOVED;
}

enum meeting barrier_standing(struct object *o, const struct arrival *mine) {
    uint64_t word = load_seq(&o->permit[0]);
    return ROUND(word) != mine->round ? PASSED : word & HERE ? LATE : MOVED;
}

enum meeting barrier_wait(struct object *o, struct lives *lives, const struct arrival *mine, int64_t until) {
    for (int yields = 0; yields < YIELDS; yields++) {
        enum meeting now = barrier_standing(o, mine);
        if (now != LATE)
            return now;
        sched_yield();
    }
    int64_t now = monotonic_ns(), began = now;
    for (;; now = monotonic_ns()) {
        enum meeting seen = barrier_standing(o, mine);
        if (seen != LATE)
            return seen;
        struct watch watch = {0};
        if (now >= until || now >= began + SOON_NS)
            cells_watch(o, lives, 1u << MEMBER, &watch);
        if (watch.over) {
            (void)barrier_move(o);
            continue;
        }
        if (now >= until)
            return LATE;
        int64_t next = next_look(began, now, LOOK_NS, &watch);
        note_sleeper(o, mine->round);
        if (barrier_standing(o, mine) != LATE)
            continue;
        next = until < next ? until : next;
        enum nap end = life_park(lives, &watch, round_of(o), (uint32_t)(AT(mine->round) | HERE), next - now);
        if (end == ENDED)
            unpark(round_of(o), INT_MAX); /* whoever died may have had to */
        if (end == SIGNALLED)
            return STOPPED;
    }
}

uint32_t barrier_waiting(struct object *o, uint32_t *parties) {
    uint64_t word = load_seq(&o->permit[0]);
    *parties = (uint32_t)load_seq(&o->counter);
    return word & HERE ? ARRIVED(word) : 0;
}
