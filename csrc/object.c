#include "object.h"

#include <string.h>

#include "park.h"

size_t object_size(uint32_t permits) {
    if (permits == 0 || permits > MOST_CELLS - ROOM)
        return 0;
    size_t start = (sizeof(struct object) + permits * sizeof(word64) + 63) & ~(size_t)63;
    uint32_t cells = permits > 1 ? permits + ROOM : ROOM;
    return start + cells * sizeof(struct cell);
}

void object_blank(struct object *o, enum kind kind, uint32_t permits, uint64_t floor, const char *name, size_t bytes) {
    o->magic = OBJECT_MAGIC;
    o->abi = OBJECT_ABI;
    o->kind = (uint32_t)kind;
    o->size = object_size(permits);
    o->permits = permits;
    o->cells = permits > 1 ? permits + ROOM : ROOM;
    o->name_bytes = (uint32_t)bytes;
    memcpy(o->name, name, bytes);
    atomic_init(&o->counter, floor);
}

const char *object_damage(const struct object *o, size_t size) {
    if (size < sizeof(struct object) || o->magic != OBJECT_MAGIC)
        return "it is not an object of interlock";
    if (o->abi != OBJECT_ABI)
        return "it was made by another version of interlock";
    if (o->size != size || o->size != object_size(o->permits) || o->name_bytes > NAME_BYTES ||
        o->cells != (o->permits > 1 ? o->permits + ROOM : ROOM) || load_seq(&o->used) > o->cells)
        return "its header is damaged";
    return NULL;
}

bool place_claim(struct object *o, struct lives *lives, life mine, uint64_t session, uint64_t serial,
                 struct place *at) {
    struct cell *cells = cells_of(o);
    for (uint32_t i = 0; i < o->cells; i++) {
        struct cell *cell = &cells[i];
        uint64_t word = load_seq(&cell->word);
        if (STATE(word) == CLAIMED && life_over(lives, LIFE(word)) &&
            cas_seq(&cell->word, &word, WORD(GIVEN(word), 0, FREE))) /* its claimer died before it signed */
            word = WORD(GIVEN(word), 0, FREE);
        if (STATE(word) != FREE || !cas_seq(&cell->word, &word, WORD(GIVEN(word) + 1, mine, CLAIMED)))
            continue;
        uint32_t used = load_seq(&o->used);
        while (used < i + 1 && !cas_seq(&o->used, &used, i + 1)) {
        }
        store_relaxed(&cell->session, session);
        store_relaxed(&cell->serial, serial);
        store_relaxed(&cell->token, 0);
        store_relaxed(&cell->block, 0);
        store_relaxed(&cell->mode, 0);
        store_relaxed(&cell->wake, 0);
        *at = (struct place){.cell = cell, .base = WORD(GIVEN(word) + 1, mine, 0)};
        return place_turn(at, CLAIMED, IDLE); /* signed: pairs with every reader of the word */
    }
    return false;
}

bool place_find(struct object *o, uint64_t session, uint64_t serial, struct place *at) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    for (uint32_t i = 0; i < used; i++) {
        uint64_t word = load_seq(&cells[i].word);
        if (STATE(word) <= CLAIMED || load_seq(&cells[i].session) != session ||
            load_seq(&cells[i].serial) != serial || load_seq(&cells[i].word) >> 4 != word >> 4)
            continue;
        *at = (struct place){.cell = &cells[i], .base = word & ~UINT64_C(15)};
        return true;
    }
    return false;
}

void place_free(const struct place *at) {
    uint64_t word = load_relaxed(&at->cell->word);
    while ((word & ~UINT64_C(15)) == at->base || word == at->base + WORD(1, 0, EVICTED))
        if (cas_seq(&at->cell->word, &word, WORD(GIVEN(word), 0, FREE)))
            return;
}

void cells_evict(struct object *o, uint64_t session) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    for (uint32_t i = 0; i < used; i++) {
        uint64_t word = load_seq(&cells[i].word);
        if (STATE(word) > CLAIMED && load_relaxed(&cells[i].session) == session)
            (void)cas_seq(&cells[i].word, &word, WORD(GIVEN(word), 0, FREE));
    }
}

bool cells_sweep(struct object *o, struct lives *lives) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    bool any = false;
    for (uint32_t i = 0; i < used; i++) {
        uint64_t word = load_seq(&cells[i].word);
        if (STATE(word) != FREE && life_over(lives, LIFE(word)))
            any = cas_seq(&cells[i].word, &word, WORD(GIVEN(word), 0, FREE)) || any;
    }
    return any;
}

void cells_watch(struct object *o, struct lives *lives, uint32_t states, struct watch *watch) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    for (uint32_t i = 0; i < used; i++) {
        uint64_t word = load_seq(&cells[i].word);
        if (states >> STATE(word) & 1)
            life_watch(watch, lives, LIFE(word));
    }
}

void cell_wake(struct cell *cell) {
    if (load_seq(&cell->wake) == 0 && swap_seq(&cell->wake, 1) == 0)
        unpark(&cell->wake, 1);
}
