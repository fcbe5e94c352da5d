/* What participants do with a once, and what must hold.
 *
 * v work and keep the value, e work and keep an error, h work and hand the value out, r the same as v, but an error that
 * is there is none, g give the work up, w wait for one millisecond at most, j only if nobody works, o stay where the
 * result is owed and never leave, f forget the result.
 */
#include "explore.h"

#include <string.h>

#include "once.h"

#define FLOOR 1000
#define ATTEMPTS 64

/* Of each attempt: what it is to become, and whether that was told to its worker. */
static uint64_t becomes[ATTEMPTS];
static bool told[ATTEMPTS], missed[ATTEMPTS];
static uint64_t owed[MOST]; /* the attempt at whose end somebody stood in the row, if that is to be handed out */
static int working, lost, forgets, forgetting;
static uint64_t last_attempt, last_handed, last_dropped, last_failed, kept_value;

void once_begin(void) {
    memset(becomes, 0, sizeof becomes);
    memset(told, 0, sizeof told);
    memset(missed, 0, sizeof missed);
    memset(owed, 0, sizeof owed);
    working = forgets = forgetting = 0;
    lost = -1;
    last_attempt = last_handed = last_dropped = last_failed = kept_value = 0;
}

static void end_work(struct participant *one) {
    working -= one->inside;
    one->inside = false;
}

void worker_died(int who) {
    lost = who;
    end_work(&parts[who]);
}

bool once_unused(void) {
    return working == 0 && kept_value == 0;
}

/* What was true when a claim began, which no result of it may be older than. */
struct claim {
    uint64_t handed, dropped, failed;
};

static void got(const struct claim *before, enum answer answer, uint64_t attempt, bool retry) {
    uint64_t which = attempt - FLOOR, kind;
    if (attempt <= FLOOR || which >= ATTEMPTS || (kind = becomes[which]) == 0)
        fail("%d got the result of attempt %llu, which has none", current, (unsigned long long)which);
    if ((answer == OWED) != (kind == HANDED))
        fail("%d got attempt %llu as if it were %s", current, (unsigned long long)which, answer == OWED ? "owed" : "kept");
    if (which <= before->dropped || (answer == OWED && which <= before->handed))
        fail("%d got attempt %llu, which was over before it came", current, (unsigned long long)which);
    if (retry && kind == KEPT_ERROR && which <= before->failed)
        fail("%d got the error of attempt %llu, which it did not want", current, (unsigned long long)which);
}

static void begin_work(struct participant *one, uint64_t attempt) {
    if (closed)
        fail("%d works in a retired object", current);
    if (one->evicted)
        return;
    if (working++)
        fail("%d works beside another one", current);
    if (kept_value)
        fail("%d works, though attempt %llu has a value", current, (unsigned long long)kept_value);
    if (attempt - FLOOR <= last_attempt)
        fail("attempt %llu came after %llu", (unsigned long long)(attempt - FLOOR), (unsigned long long)last_attempt);
    last_attempt = attempt - FLOOR;
    missed[owed[current]] = true;
    if (owed[current] && told[owed[current]])
        fail("%d works, though attempt %llu is owed to it", current, (unsigned long long)owed[current]);
    bool news = one->place.held & LOST;
    if (news && !may_tell)
        fail("%d was told of a death that was none", current);
    if (must_tell && !news)
        fail("%d was not told of a death", current);
    if (must_tell && atomic_load(&o->lost) != (uint64_t)lost + 1)
        fail("%d was told that %d had died, not %d", current, (int)atomic_load(&o->lost) - 1, lost);
    one->inside = true;
}

static void settle(struct participant *one, uint64_t attempt, uint64_t ending) {
    uint64_t which = attempt - FLOOR;
    bool news = one->place.held & LOST, was_inside = one->inside;
    int before = forgets - (forgetting > 0); /* what is forgotten amid this may be its own */
    end_work(one);
    becomes[which] = ending;
    for (int i = 0; i < count && ending == HANDED; i++)
        if (parts[i].seated && STATE(atomic_load(&parts[i].place.cell->word)) == WAITS)
            owed[i] = which;
    must_tell = must_tell && !news; /* it may die having told all */
    if (once_settle(o, &one->place, ending) == LEFT) {
        told[which] = true;
        if (news)
            may_tell = forced;
        if (ending == HANDED && missed[which])
            fail("attempt %llu was owed to somebody who works", (unsigned long long)which);
        if (ending == HANDED)
            last_handed = which > last_handed ? which : last_handed;
        if (ending == KEPT_ERROR)
            last_failed = which > last_failed ? which : last_failed;
        if (ending == KEPT_VALUE && forgets == before)
            kept_value = which;
    } else if (!one->evicted) {
        fail("%d had lost its work", current);
    } else if (was_inside) {
        becomes[which] = 0;
    }
}

static bool leave(struct participant *one) {
    enum answer answer = once_leave(o, &one->place);
    one->seated = false;
    return answer != GONE;
}

static void work(struct participant *one, uint64_t attempt, uint64_t ending) {
    begin_work(one, attempt);
    linger();
    if (ending) {
        settle(one, attempt, ending);
    } else {
        end_work(one);
        (void)leave(one);
    }
}

/* Come to a result or to the work; false when the object is closed. */
static bool take_part(struct participant *one, uint64_t ending, bool retry, bool wait, int64_t until, bool stays) {
    struct claim before = {last_handed, last_dropped, last_failed};
    uint64_t attempt = 0;
    owed[current] = 0;
    sit(one);
    enum answer answer = once_claim(o, &one->place, retry, wait, &attempt);
    while (answer == INTERRUPTED || (answer == WAITING && clock_ns < until))
        answer = once_wait(o, table, &one->place, until, &attempt);
    if (answer == GONE && !one->evicted)
        fail("%d was evicted by nobody", current);
    if (answer == GRANTED) {
        work(one, attempt, ending);
        if (ending == HANDED) /* it is owed what it has handed out, or a later result */
            answer = once_turn(o, &one->place, &attempt);
        if (answer == WAITING)
            fail("%d is not owed what it has handed out", current);
    }
    if (answer == KEPT || answer == OWED)
        got(&before, answer, attempt, retry);
    if (stays && answer == OWED)
        return true;
    if ((answer == WAITING || answer == OWED) && !leave(one) && !one->evicted)
        fail("%d stood nowhere", current);
    if (answer == KEPT || answer == RETIRED)
        (void)leave(one);
    one->seated = false;
    return answer != RETIRED;
}

static void forget(void) {
    kept_value = 0;
    forgets++, forgetting++;
    uint64_t attempt = once_forget(o), which = attempt > FLOOR ? attempt - FLOOR : 0;
    forgetting--;
    if (which > last_dropped && which < ATTEMPTS && becomes[which] != HANDED)
        last_dropped = which;
    if (once_look(o, false, &attempt) == KEPT && attempt - FLOOR <= last_dropped)
        fail("attempt %llu was forgotten, and is there", (unsigned long long)(attempt - FLOOR));
}

bool once_act(struct participant *one, char what) {
    switch (what) {
    case 'v': return take_part(one, KEPT_VALUE, false, true, FOREVER, false);
    case 'e': return take_part(one, KEPT_ERROR, false, true, FOREVER, false);
    case 'h': return take_part(one, HANDED, false, true, FOREVER, false);
    case 'r': return take_part(one, KEPT_VALUE, true, true, FOREVER, false);
    case 'g': return take_part(one, 0, false, true, FOREVER, false);
    case 'w': return take_part(one, KEPT_VALUE, false, true, clock_ns + MILLISECOND, false);
    case 'j': return take_part(one, KEPT_VALUE, false, false, 0, false);
    case 'o': return take_part(one, HANDED, false, true, FOREVER, true);
    default: forget(); return true;
    }
}

/* In the end nobody works, and no death is forgotten, unless there is a result since. */
void once_look_back(void) {
    uint64_t permit = atomic_load(&o->permit[0]), by = permit & OWNER;
    if (by && by < HANDED)
        fail("the work belongs to nobody alive");
    if (permit & LOST ? !may_tell : must_tell)
        fail(permit & LOST ? "a death is to be told that was none" : "a death is forgotten");
    if (kept_value && (by != KEPT_VALUE || permit / GIVE != kept_value))
        fail("the value of attempt %llu is not there", (unsigned long long)kept_value);
}
