#include "once.h"
#include "row.h"

static inline bool anybody(struct object *o, bool (*does)(enum state state)) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    for (uint32_t i = 0; i < used; i++)
        if (does(STATE(load_seq(&cells[i].word))))
            return true;
    return false;
}

bool anybody_reads(struct object *o) {
    return anybody(o, reads);
}

bool anybody_waits(struct object *o) {
    return anybody(o, waits);
}

/* Of a once, claims that noted this attempt or an earlier one have their result. */
static uint64_t settled(struct object *o) {
    uint64_t permit = load_seq(&o->permit[0]);
    return owner(permit) >= HANDED && owner(permit) != CLOSED ? attempt_of(o, permit) : load_seq(&o->handed);
}

struct cell *first_of_row(struct object *o) {
    struct cell *cells = cells_of(o), *first = NULL;
    uint32_t used = load_seq(&o->used);
    uint64_t least = UINT64_MAX, done = o->kind == KIND_ONCE ? settled(o) : 0;
    for (uint32_t i = 0; i < used; i++) {
        if (!waits(STATE(load_seq(&cells[i].word))) || (done && load_relaxed(&cells[i].token) <= done))
            continue;
        uint64_t arrival = load_relaxed(&cells[i].arrival);
        if (arrival < least) {
            least = arrival;
            first = &cells[i];
        }
    }
    return first;
}

void call_first(struct object *o) {
    struct cell *first = first_of_row(o);
    while (first == NULL) {
        if ((load_seq(&o->row) & (ROW | DUE)) == 0)
            return;
        (void)and_seq(&o->row, ~(ROW | DUE));
        first = first_of_row(o); /* pairs with stand: who has set ROW before is seen here */
        if (first == NULL)
            return;
        (void)or_seq(&o->row, ROW);
        first = first_of_row(o); /* who came free while the flag was clear has called nobody */
    }
    cell_wake(first);
}

void call_everybody(struct object *o) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    for (uint32_t i = 0; i < used; i++)
        if (waits(STATE(load_seq(&cells[i].word))))
            cell_wake(&cells[i]);
}

bool take_position(struct object *o, struct place *at) {
    uint64_t arrival = add_seq(&o->arrivals, 1) + 1;
    store_relaxed(&at->cell->arrival, arrival);
    store_relaxed(&at->cell->since, wall_ms());
    return place_turn(at, IDLE, WAITS);
}

void call_owner(struct object *o, uint64_t permit) {
    if (owner(permit) && owner(permit) <= o->cells)
        cell_wake(&cells_of(o)[owner(permit) - 1]);
}

bool give_back(struct object *o, uint32_t which, uint64_t seen, uint64_t lost) {
    bool news = lost && o->permits > 1;
    if (news)
        (void)or_seq(&o->row, NEWS);
    if (!cas_seq(&o->permit[which], &seen, (seen & ~(OWNER | LOST)) | lost))
        return false;
    if (news)
        (void)or_seq(&o->row, NEWS);
    return true;
}
