/* What every object in shared memory begins with, and the cells in which its participants stand.
 *
 * An object is a file of its own, made whole before it has its name, and never reset. A cell belongs to one request of
 * one session. Its word says in one piece whose it is and what it does there, so that whoever finds its process dead
 * clears exactly what that process left, and nothing of a successor:
 *
 *     bits 0-3 state | 4-31 life | 32-63 times the cell was given away
 */
#ifndef INTERLOCK_OBJECT_H
#define INTERLOCK_OBJECT_H

#include "life.h"

enum kind { KIND_LOCK = 1, KIND_SEMAPHORE = 2, KIND_BARRIER = 3, KIND_EVENT = 4, KIND_ONCE = 5 };

enum state {
    FREE = 0,
    EVICTED, /* taken by force from a session whose process may live, until that process has seen it, or is dead */
    RETIRES, /* has permits in order to close the object */
    CLAIMED, /* given to somebody, who has not signed it yet */
    IDLE,    /* signed; in no row. An exclusive holder's cell is idle: the permit names it */
    WAITS,   /* in the row */
    LOOKS,   /* in the row, and reads if nobody writes */
    DRAINS,  /* has the permit, and waits for readers to go */
    READS,   /* holds, with others */
    MEMBER,  /* of a barrier's last generation */
};

struct cell {
    _Alignas(64) word64 word;
    word64 session;
    word64 serial;
    word64 arrival; /* place in the row */
    word64 token;   /* of its hold, or the last one it had */
    word64 block;   /* a reader's: how often the permit had been given when it took its block of tokens */
    word64 since;   /* wall clock, ms */
    word32 wake;    /* slept on while 0; 1 while nobody need call */
    word32 mode;
};

#define SHARED 1u
#define TOLD 2u      /* its grant said that an earlier holder died */
#define MODE_SHIFT 2 /* above: the permit to try first; of a reader, 5 bits for its block's size, and what is left */

#define NAME_BYTES 4000
#define OBJECT_MAGIC UINT64_C(0x6b636f6c7265746e)
#define OBJECT_ABI 2u
#define ROOM 510u /* cells beside those that holders of permits need */
#define MOST_CELLS 65533u

struct object {
    uint64_t magic;
    uint32_t abi;
    uint32_t kind;
    uint64_t size;
    uint32_t permits;
    uint32_t cells;
    uint32_t name_bytes;
    unsigned char name[NAME_BYTES];
    _Alignas(64) word64 counter; /* tokens given out; see admission.h. Of a barrier: its parties */
    word64 generations;          /* of a barrier: those of the machine; see barrier.h */
    word64 arrivals;
    word64 handed; /* of a once, with `lost`, the session of the worker that died last: see once.h */
    word64 lost;
    word32 row;     /* flags: see admission.h and barrier.h */
    word32 readers; /* whether anybody ever read: else nobody looks for readers */
    word32 used;    /* cells below this have been given away at least once */
    word32 unused;
    word64 permit[]; /* see admission.h; a barrier has one, its round */
};

#define STATE(word) ((enum state)((word) & 15))
#define LIFE(word) ((life)((word) >> 4 & 0xfffffff))
#define GIVEN(word) ((word) >> 32)
#define WORD(given, one, state) ((uint64_t)(given) << 32 | (uint64_t)(one) << 4 | (uint64_t)(state))

static inline struct cell *cells_of(struct object *o) {
    size_t start = (sizeof(struct object) + o->permits * sizeof(word64) + 63) & ~(size_t)63;
    return (struct cell *)((char *)o + start);
}

/* The half of a word that changes with its value's lowest bits: what a futex can wait for. */
static inline word32 *low_half(word64 *word) {
    return (word32 *)word + (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0 : 1);
}

/* The bytes of an object, 0 if it cannot have so many permits. */
size_t object_size(uint32_t permits);

/* Write a new object into zeroed memory of that size. */
void object_blank(struct object *o, enum kind kind, uint32_t permits, uint64_t floor, const char *name, size_t bytes);

/* Why mapped memory of `size` bytes is no object of this build; NULL if it is one. */
const char *object_damage(const struct object *o, size_t size);

/* A request's place: its cell, and the cell's word as it is while it is this request's, without the state. Whoever was
 * cleared away by others, rightly or by force, finds the word changed and touches nothing. */
struct place {
    struct cell *cell;
    uint64_t base;
    uint64_t held; /* the permit's word while it is this request's; 0 if it has none */
    uint32_t which;
};

/* A cell for a request; false if none is left. */
bool place_claim(struct object *o, struct lives *lives, life mine, uint64_t session, uint64_t serial,
                 struct place *at);

/* The place of a request that has one. */
bool place_find(struct object *o, uint64_t session, uint64_t serial, struct place *at);

/* Change the state of one's own cell; false if it is not one's own any more. */
static inline bool place_turn(const struct place *at, enum state from, enum state to) {
    uint64_t seen = at->base | (uint64_t)from;
    return cas_seq(&at->cell->word, &seen, at->base | (uint64_t)to);
}

/* Give a cell back that is in no row and holds nothing, be it EVICTED. */
void place_free(const struct place *at);

/* Give back the cells that a session has, or that proved dead processes have, where nothing else is theirs. */
void cells_evict(struct object *o, uint64_t session);
bool cells_sweep(struct object *o, struct lives *lives);

/* Watch the lives of the cells in one of some states, a bit for each. */
void cells_watch(struct object *o, struct lives *lives, uint32_t states, struct watch *watch);

/* Wake whoever sleeps on a cell, unless it is awake. */
void cell_wake(struct cell *cell);

#endif
