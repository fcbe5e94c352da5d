#include "once.h"
#include "row.h"

bool anybody_reads(struct object *o) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    for (uint32_t i = 0; i < used; i++)
        if (reads(STATE(load_seq(&cells[i].word))))
            return true;
    return false;
}

bool anybody_waits(struct object *o) {
    struct cell *cells = cells_of(o);
    uint32_t used = load_seq(&o->used);
    for (uint32_t i = 0; i < used; i++)
        if (waits(STATE(load_seq(&cells[i].word))))
            return true;
    return false;
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

struct watch in_the_way(struct object *o, struct lives *lives, const struct place *at) {
    struct watch watch = {0};
    if (at->held) {
        cells_watch(o, lives, 1u << READS | 1u << LOOKS, &watch);
        return watch;
    }
    for (uint32_t i = 0; i < o->permits && !watch.some; i++) {
        uint64_t by = owner(load_seq(&o->permit[i]));
        if (by && by <= o->cells)
            life_watch(&watch, lives, LIFE(load_seq(&cells_of(o)[by - 1].word)));
    }
    struct cell *first = first_of_row(o);
    if (first && first != at->cell)
        life_watch(&watch, lives, LIFE(load_seq(&first->word)));
    return watch;
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
