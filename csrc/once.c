#include "once.h"

#include "row.h"

#define RETRY 1u /* of a cell's mode: an error that came before its claim is no result for it */

/* Bring to its end what a worker began, who may have died since. The attempt is noted before anybody can work again: so
 * whoever sees that nobody works also sees whose result was handed out. */
static void hand_out(struct object *o, uint64_t permit) {
    uint64_t attempt = attempt_of(o, permit), noted = load_seq(&o->handed);
    while (noted < attempt && !cas_seq(&o->handed, &noted, attempt)) {
    }
    (void)cas_seq(&o->permit[0], &permit, permit & ~OWNER);
    call_everybody(o); /* whoever was faster may be dead */
}

/* The permit while nothing is being handed out. */
static uint64_t settled_permit(struct object *o) {
    uint64_t permit;
    while (owner(permit = load_seq(&o->permit[0])) == HANDED)
        hand_out(o, permit);
    return permit;
}

static bool kept(uint64_t permit, bool but_errors) {
    return owner(permit) == KEPT_VALUE || (owner(permit) == KEPT_ERROR && !but_errors);
}

enum answer once_look(struct object *o, bool retry, uint64_t *attempt) {
    uint64_t permit = load_seq(&o->permit[0]);
    *attempt = attempt_of(o, permit);
    return kept(permit, retry) ? KEPT : WAITING;
}

/* The work was taken from this place by force, or settled. */
static enum answer gone(struct object *o, struct place *at) {
    if (at->held && give_back(o, 0, at->held, at->held & LOST))
        call_first(o);
    at->held = 0;
    place_free(at);
    return GONE;
}

enum answer once_claim(struct object *o, struct place *at, bool retry, bool wait, uint64_t *attempt) {
    uint64_t permit = settled_permit(o);
    bool works = owner(permit) && owner(permit) <= o->cells;
    *attempt = attempt_of(o, permit);
    if (kept(permit, retry))
        return KEPT;
    store_relaxed(&at->cell->token, *attempt + !works);
    store_relaxed(&at->cell->mode, retry ? RETRY : 0);
    if (!take_position(o, at))
        return gone(o, at);
    enum answer answer = once_turn(o, at, attempt);
    if (answer != WAITING || wait)
        return answer;
    answer = once_leave(o, at);
    return answer == LEFT ? REFUSED : answer;
}

/* What a claim has come to, by the permit that is seen. */
static enum answer standing(struct object *o, const struct cell *cell, uint64_t permit, uint64_t *attempt) {
    uint64_t own = load_relaxed(&cell->token), handed;
    *attempt = attempt_of(o, permit);
    if (owner(permit) == CLOSED)
        return RETIRED;
    if (kept(permit, load_relaxed(&cell->mode) & RETRY && own > *attempt))
        return KEPT;
    if ((handed = load_seq(&o->handed)) < own)
        return WAITING;
    *attempt = handed;
    return OWED;
}

enum answer once_turn(struct object *o, struct place *at, uint64_t *attempt) {
    uint64_t word = load_seq(&at->cell->word);
    if ((word & ~UINT64_C(15)) != at->base)
        return gone(o, at);
    if (STATE(word) != WAITS) {
        *attempt = load_relaxed(&at->cell->token);
        return at->held ? GRANTED : GONE;
    }
    for (;;) {
        uint64_t permit = settled_permit(o);
        enum answer answer = standing(o, at->cell, permit, attempt);
        if (answer != WAITING)
            return answer;
        if ((owner(permit) && owner(permit) != KEPT_ERROR) || first_of_row(o) != at->cell)
            return WAITING;
        uint64_t taken = (permit & ~OWNER) + GIVE + number(o, at->cell);
        if (!cas_seq(&o->permit[0], &permit, taken))
            continue;
        at->held = taken;
        at->which = 0;
        *attempt = attempt_of(o, taken);
        store_relaxed(&at->cell->token, *attempt);
        return place_turn(at, WAITS, IDLE) ? GRANTED : gone(o, at);
    }
}

enum answer once_wait(struct object *o, struct lives *lives, struct place *at, int64_t until, uint64_t *attempt) {
    struct patience patience = begin_waiting();
    for (;;) {
        store_seq(&at->cell->wake, 0); /* pairs with cell_wake */
        enum answer answer = once_turn(o, at, attempt);
        int64_t now = monotonic_ns();
        if ((answer == KEPT || answer == OWED) && patience.watches)
            call_everybody(o); /* who settled it may have died amid that */
        if (answer != WAITING || now >= until)
            return answer;
        if (clear_the_way(o, lives, &patience, now))
            continue;
        int64_t next = until < patience.next ? until : patience.next;
        if (!nap(o, lives, &patience, at, 0, next - now))
            return INTERRUPTED;
    }
}

enum answer once_settle(struct object *o, struct place *at, uint64_t ending) {
    uint64_t held = at->held, ended = (held & ~(OWNER | LOST)) | ending;
    if (held == 0 || !cas_seq(&o->permit[0], &held, ended))
        return gone(o, at);
    at->held = 0;
    if (ending == HANDED) {
        (void)place_turn(at, IDLE, WAITS); /* it is owed its own result, too */
        hand_out(o, ended);
    } else {
        call_everybody(o);
        place_free(at);
    }
    return LEFT;
}

enum answer once_leave(struct object *o, struct place *at) {
    uint64_t word = load_seq(&at->cell->word), held = at->held;
    at->held = 0;
    bool stood = place_turn(at, WAITS, IDLE), worked = held && give_back(o, 0, held, held & LOST);
    if (stood || worked)
        call_first(o); /* with a cell still: if it dies amid this, others are told */
    place_free(at);
    return (word & ~UINT64_C(15)) == at->base && (stood || worked) ? LEFT : GONE;
}

uint64_t once_forget(struct object *o) {
    for (;;) {
        uint64_t permit = settled_permit(o), attempt = attempt_of(o, permit);
        if (!kept(permit, false))
            return load_seq(&o->handed);
        if (cas_seq(&o->permit[0], &permit, permit & ~OWNER))
            return attempt;
    }
}
