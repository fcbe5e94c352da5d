/* Once: the acts of crash.c that begin with its name.
 *
 * The survivor must get the result exactly if the words say that the attempt was settled; else the work, with the
 * session of the child exactly if that died at it. The child begins, and lets the survivor stand in the row, before
 * the steps at which it ends are counted.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crash.h"
#include "once.h"
#include "park.h"
#include "row.h"

#define SURVIVOR 1
#define CHILD 2
#define FLOOR 1000

enum { OUTSIDE, WORKS, MAY_WORK, DONE }; /* what the child knows of itself: `inside` */

static const char *act; /* and its step, for what fails */
static long at_step;

static void check(bool sound, const char *what) {
    if (!sound)
        fail(act, at_step, what);
}

static bool acts(const char *start) {
    return strncmp(act + strlen("once "), start, strlen(start)) == 0;
}

/* How the work ends in this act: of the child, or of the survivor for which it waits. 0: somebody gives it up. */
static uint64_t ending(void) {
    return strstr(act, "value")    ? KEPT_VALUE
           : strstr(act, "error")  ? KEPT_ERROR
           : strstr(act, "handed") ? HANDED
                                   : 0;
}

static struct place sit(life mine, uint64_t session) {
    static uint64_t serial;
    struct place at;
    check(place_claim(o, &all->table, mine, session, ++serial, &at), "no cell");
    return at;
}

static enum answer await(struct place *at, uint64_t *attempt) {
    int64_t until = monotonic_ns() + SECOND;
    enum answer answer = WAITING;
    while (answer == INTERRUPTED || (answer == WAITING && monotonic_ns() < until))
        answer = once_wait(o, &all->table, at, until, attempt);
    return answer;
}

static enum answer claim(struct place *at, bool retry, uint64_t *attempt) {
    enum answer answer = once_claim(o, at, retry, true, attempt);
    return answer == WAITING ? await(at, attempt) : answer;
}

/* The work of a place ends; its result is there before. */
static void end(struct place *at, uint64_t with, uint64_t attempt) {
    all->results[attempt % RESULTS] = attempt;
    check((with ? once_settle(o, at, with) : once_leave(o, at)) == LEFT, "the living lost their work");
}

/* Whose answer was KEPT or RETIRED may have its place no more. */
static void leave(struct place *at, enum answer told) {
    bool left = once_leave(o, at) == LEFT;
    check(left || told == KEPT || told == RETIRED, "the living lost their place");
    check(atomic_load(&at->cell->word) >> 4 != at->base >> 4, "who left has a cell");
}

static void expect_result(uint64_t attempt, uint64_t of) {
    check(attempt == of && all->results[attempt % RESULTS] == of, "the result of another attempt");
}

/* -- what the child does */

static void begin(life mine) {
    uint64_t attempt;
    all->place = sit(mine, CHILD);
    if (!acts("settle") && !acts("leave"))
        return;
    enum answer wanted = acts("leave row") ? WAITING : GRANTED;
    check(once_claim(o, &all->place, false, true, &attempt) == wanted, "the child could not begin");
    all->inside = wanted == GRANTED ? WORKS : OUTSIDE;
}

static void finish(life mine) {
    struct place *at = &all->place;
    uint64_t attempt = FLOOR + 1;
    if (acts("settle") || acts("leave")) {
        all->inside = MAY_WORK;
        end(at, ending(), attempt);
    } else if (acts("forget")) {
        check(once_forget(o) == attempt, "another result was forgotten");
    } else if (acts("retire")) {
        check(admission_retire(o, &all->table, mine), "not retired");
    } else {
        enum answer answer = claim(at, acts("retry"), &attempt);
        check(answer == (ending() == HANDED ? OWED : ending() ? KEPT : GRANTED), "another answer for the child");
        if (answer == GRANTED) {
            all->inside = WORKS;
            return;
        }
        expect_result(attempt, FLOOR + 1);
        leave(at, answer);
    }
    all->inside = DONE;
}

static pid_t start(bool stop) {
    fflush(stdout);
    pid_t child = fork();
    if (child)
        return child;
    life own = life_begin(&all->table);
    begin(own);
    raise(SIGSTOP);
    how = stop ? SIGSTOP : SIGKILL;
    countdown = at_step;
    finish(own);
    countdown = 0;
    _exit(0);
}

/* -- what the survivor must see */

static bool at_work(void) {
    return has(&all->place) && STATE(atomic_load(&all->place.cell->word)) == IDLE;
}

/* By the words alone: what a claim comes to, of one that `stood` in the row when the child worked. */
static enum answer expected(bool stood) {
    uint64_t permit = atomic_load(&o->permit[0]), error = acts("retry") ? KEPT_VALUE : KEPT_ERROR;
    if (owner(permit) == CLOSED)
        return RETIRED;
    if (owner(permit) == KEPT_VALUE || owner(permit) == error)
        return KEPT;
    return stood && (owner(permit) == HANDED || atomic_load(&o->handed)) ? OWED : GRANTED;
}

/* What the words say is what the child knew when it ended. */
static void expect_truth(enum answer answer) {
    bool result = answer == KEPT || answer == OWED;
    check(all->inside != WORKS || at_work(), "the words do not say that the child worked");
    check(!acts("settle") || result != at_work(), "work is neither lost nor settled");
    if (all->inside != DONE)
        return;
    check(!at_work(), "the child is done, and the words say that it works");
    check(!acts("forget") || answer == GRANTED, "forgotten, and not forgotten");
    check(!acts("retire") || answer == RETIRED, "closed, and not closed");
}

/* The child is only stopped: it keeps the work, and its place in the row; and nobody waits for it who need not. */
static void expect_kept(struct place *stands, life mine) {
    uint64_t attempt, before = atomic_load(&o->permit[0]);
    check(!admission_sweep(o, &all->table) && before == atomic_load(&o->permit[0]), "the living lost something");
    bool works = owner(before) && owner(before) <= o->cells;
    bool first = STATE(atomic_load(&all->place.cell->word)) == WAITS && expected(true) == GRANTED;
    enum answer wanted = works || first ? WAITING : expected(stands), answer;
    if (stands && wanted != KEPT) {
        answer = once_turn(o, stands, &attempt);
    } else {
        struct place late = sit(mine, SURVIVOR);
        answer = once_claim(o, &late, acts("retry"), true, &attempt);
        leave(&late, answer);
    }
    check(answer == wanted, "a process that is stopped has not what it should have");
}

/* It works, and is told of the child's death or of none. */
static void expect_work(enum answer answer, bool lost) {
    check(answer == GRANTED, "the survivor does not get the work");
    check(((atomic_load(&o->permit[0]) & LOST) != 0) == lost,
          lost ? "the survivor is not told of the death" : "the survivor is told of no death");
    check(atomic_load(&o->lost) == (lost ? CHILD : 0), "another one's death is told");
}

/* A death is news until there is a result, which is everybody's until it is forgotten. */
static void expect_new(bool lost, life mine) {
    uint64_t attempt, looked, later;
    struct place at = sit(mine, SURVIVOR);
    expect_work(claim(&at, false, &attempt), lost);
    end(&at, KEPT_VALUE, attempt);
    check(once_look(o, false, &looked) == KEPT, "settled, and not kept");
    expect_result(looked, attempt);
    check(once_forget(o) == attempt && once_look(o, false, &looked) == WAITING, "forgotten, and not forgotten");
    at = sit(mine, SURVIVOR);
    check(claim(&at, false, &later) == GRANTED && later == attempt + 1, "the second time it is not like new");
    check((atomic_load(&o->permit[0]) & LOST) == 0, "a death is told after there was a result");
    end(&at, 0, later);
    (void)admission_sweep(o, &all->table); /* the child may stand in the row; nobody had to wait for it */
    check(admission_retire(o, &all->table, mine), "it cannot be retired");
    at = sit(mine, SURVIVOR);
    check(claim(&at, false, &later) == RETIRED, "retired, and not retired");
}

/* The child has ended; `stands` is the survivor's place in the row, if it stood there. */
static void expect_all(struct place *stands, life mine) {
    uint64_t attempt;
    bool lost = at_work();
    enum answer wanted = expected(stands);
    expect_truth(wanted);
    struct place at = stands ? *stands : sit(mine, SURVIVOR);
    enum answer answer = stands ? await(&at, &attempt) : claim(&at, acts("retry"), &attempt);
    if (wanted == GRANTED)
        expect_work(answer, lost);
    check(answer == wanted, "the survivor gets something else than the words say");
    if (wanted == RETIRED)
        return;
    if (wanted != GRANTED)
        expect_result(attempt, FLOOR + 1);
    if (wanted != OWED)
        leave(&at, wanted);
    if (wanted == KEPT)
        check(once_forget(o) == attempt, "another result was forgotten");
    struct place late = sit(mine, SURVIVOR);
    check(claim(&late, false, &attempt) == GRANTED, "a result is left for who came after it was handed out");
    leave(&late, GRANTED);
    if (wanted == OWED)
        leave(&at, OWED);
    expect_new(lost, mine);
}

/* What was before the child: a result that is kept, or work of the survivor's own, which then is held. */
static struct place prepare(life mine) {
    uint64_t attempt;
    struct place first = {0};
    memset(all->object, 0, sizeof all->object);
    object_blank(o, KIND_ONCE, 1, FLOOR, "killed", 6);
    all->place = first;
    all->inside = OUTSIDE;
    bool before = acts("retry") || acts("forget");
    if (before || acts("wait") || acts("leave row")) {
        first = sit(mine, SURVIVOR);
        check(once_claim(o, &first, false, true, &attempt) == GRANTED, "not new at first");
    }
    if (before)
        end(&first, acts("retry") ? KEPT_ERROR : KEPT_VALUE, attempt);
    return first;
}

bool try_once(const char *name, long step, bool stop, life mine) {
    struct place behind, *stands = NULL;
    uint64_t attempt;
    int status;
    act = name, at_step = step;
    struct place first = prepare(mine);
    pid_t child = start(stop);
    waitpid(child, &status, WUNTRACED);
    check(WIFSTOPPED(status), "the child could not begin");
    if (acts("settle") || acts("leave")) {
        stands = &behind;
        behind = sit(mine, SURVIVOR);
        check(once_claim(o, &behind, false, true, &attempt) == WAITING, "somebody came in beside the worker");
    }
    kill(child, SIGCONT);
    pid_t ended = acts("wait") ? until_asleep(child, &status) : waitpid(child, &status, WUNTRACED);
    if (first.held)
        end(&first, ending(), FLOOR + 1);
    if (acts("wait handed")) {
        check(once_turn(o, &first, &attempt) == OWED, "the worker is owed nothing");
        leave(&first, OWED);
    }
    if (ended == 0)
        waitpid(child, &status, WUNTRACED);
    if (WIFSTOPPED(status)) {
        expect_kept(stands, mine);
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
    }
    check(!WIFEXITED(status) || WEXITSTATUS(status) == 0, "the child saw what cannot be");
    expect_all(stands, mine);
    return WIFEXITED(status);
}
