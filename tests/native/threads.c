/* Threads that hammer the objects, for the sanitizers: what the core orders, they see ordered.
 *
 *     threads lock|rwlock|semaphore|barrier|once THREADS OPERATIONS
 *
 * The variables that the object guards are plain ones; so a missing order between two holders is a data race, which
 * ThreadSanitizer reports. Every thread is a participant with a cell of its own, under the life of the process.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "admission.h"
#include "barrier.h"
#include "once.h"
#include "park.h"

#define PERMITS 2
#define MOST 64

static struct object *o;
static struct lives *table;
static life mine;
static const char *what;
static int threads, operations;
static long guarded[2], slots[MOST], token; /* plain on purpose */
static uint64_t *results;                   /* of a once, by attempt: plain, too */
static _Atomic(int) inside, told[OWED + 1];

static void check(bool sound, const char *rule) {
    if (!sound) {
        printf("%s: %s\n", what, rule);
        fflush(stdout);
        _exit(1);
    }
}

static bool enter(struct place *at, bool shared, bool wait, int64_t until) {
    enum answer answer = admission_take(o, at, shared) ? GRANTED : admission_enter(o, at, shared, wait);
    while (answer == INTERRUPTED || (answer == WAITING && monotonic_ns() < until))
        answer = admission_wait(o, table, at, until);
    if (answer == WAITING) {
        (void)admission_leave(o, at, true);
        check(place_claim(o, table, mine, 1, 1, at), "no cell left");
    }
    check(answer == GRANTED || answer == WAITING || answer == REFUSED, "an answer that cannot be");
    return answer == GRANTED;
}

static void write_once(struct place *at) {
    long own = (long)load_relaxed(&at->cell->token);
    check(guarded[0] == guarded[1], "a writer saw another one's work half done");
    check(own > token, "tokens do not grow");
    token = own;
    guarded[0]++;
    guarded[1]++;
}

/* Every kind of acquire in turn: for ever, for a moment, and once. */
static void use_lock(struct place *at, unsigned i, bool mostly_reads) {
    bool reading = mostly_reads && i % 8;
    int64_t until = i % 5 == 1 ? monotonic_ns() + 50000 : INT64_MAX;
    if (!enter(at, reading, i % 7 != 2, until))
        return;
    if (reading)
        check(guarded[0] == guarded[1], "a reader saw a writer's work half done");
    else
        write_once(at);
    if (mostly_reads && !reading && i % 16 == 0) {
        check(admission_downgrade(o, at) == GRANTED, "no downgrade");
        check(guarded[0] == guarded[1], "a writer came in beside a downgraded one");
    }
    if (i % 11 == 3) {
        check(admission_leave(o, at, false) == LEFT, "the hold was lost");
        check(place_claim(o, table, mine, 1, 1, at), "no cell left");
    } else {
        check(admission_release(o, at, false) == LEFT, "the hold was lost");
    }
}

static void use_semaphore(struct place *at, unsigned i) {
    int64_t until = i % 5 == 1 ? monotonic_ns() + 50000 : INT64_MAX;
    if (!enter(at, true, i % 7 != 2, until))
        return;
    check(atomic_fetch_add(&inside, 1) < PERMITS, "more holders than permits");
    slots[at->which]++; /* whoever has a permit has its slot */
    atomic_fetch_sub(&inside, 1);
    check(admission_release(o, at, false) == LEFT, "the permit was lost");
}

static void meet(int number) {
    struct arrival own;
    for (int i = 0; i < operations; i++) {
        slots[number] = i;
        enum meeting seen = barrier_arrive(o, table, (uint32_t)threads, &own);
        while (seen == LATE || seen == STOPPED)
            seen = barrier_wait(o, table, &own, INT64_MAX);
        check(seen == PASSED && own.round == (uint64_t)i * 2, "a round went wrong");
        for (int other = 0; other < threads; other++)
            check(slots[other] == i, "a party passed before another one came");
        seen = barrier_arrive(o, table, (uint32_t)threads, &own);
        while (seen == LATE || seen == STOPPED)
            seen = barrier_wait(o, table, &own, INT64_MAX);
        check(seen == PASSED, "a round went wrong");
    }
}

/* The work of an attempt: it is alone, and its result is there before it says so. Some of it is given up. */
static enum answer work_once(struct place *at, unsigned i, uint64_t attempt) {
    static const uint64_t endings[] = {KEPT_VALUE, HANDED, KEPT_ERROR, HANDED};
    write_once(at);
    if (i % 2)
        sched_yield(); /* so that others come meanwhile */
    if (i % 5 == 2)
        return once_leave(o, at);
    results[attempt] = attempt;
    enum answer answer = once_settle(o, at, endings[i % 4]);
    if (answer != LEFT || endings[i % 4] != HANDED)
        return answer;
    answer = once_turn(o, at, &attempt);
    check(answer == OWED || answer == KEPT, "a worker is not owed its own result");
    check(results[attempt] == attempt, "a result was not there");
    return once_leave(o, at);
}

/* Some look, some wait for ever, for a moment or not at all, some try again after an error, and some forget. */
static void use_once(struct place *at, unsigned i) {
    uint64_t attempt;
    int64_t until = i % 5 == 1 ? monotonic_ns() + 50000 : INT64_MAX;
    if (i % 3 == 1)
        (void)once_forget(o);
    if (once_look(o, i % 4 == 2, &attempt) == KEPT)
        check(results[attempt] == attempt, "a result was kept that was not there");
    enum answer answer = once_claim(o, at, i % 4 == 2, i % 7 != 2, &attempt);
    while (answer == INTERRUPTED || (answer == WAITING && monotonic_ns() < until))
        answer = once_wait(o, table, at, until, &attempt);
    check(answer <= REFUSED || answer == KEPT || answer == OWED, "an answer that cannot be");
    (void)atomic_fetch_add_explicit(&told[answer], 1, memory_order_relaxed); /* orders nothing */
    if (answer == KEPT || answer == OWED)
        check(results[attempt] == attempt, "a result was told that was not there");
    if (answer == GRANTED)
        check(work_once(at, i, attempt) == LEFT, "the work was lost");
    else
        (void)once_leave(o, at);
    check(place_claim(o, table, mine, 1, 1, at), "no cell left");
}

static void *work(void *number) {
    struct place at;
    if (strcmp(what, "barrier") == 0) {
        meet((int)(intptr_t)number);
        return NULL;
    }
    check(place_claim(o, table, mine, 1, 1, &at), "no cell left");
    for (unsigned i = 0; i < (unsigned)operations; i++)
        if (strcmp(what, "semaphore") == 0)
            use_semaphore(&at, i);
        else if (strcmp(what, "once") == 0)
            use_once(&at, i + (unsigned)(intptr_t)number);
        else
            use_lock(&at, i + (unsigned)(intptr_t)number, strcmp(what, "rwlock") == 0);
    place_free(&at);
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t started[MOST];
    struct place at;
    if (argc < 4 || atoi(argv[2]) > MOST)
        return 2;
    what = argv[1];
    threads = atoi(argv[2]);
    operations = atoi(argv[3]);
    bool semaphore = strcmp(what, "semaphore") == 0, barrier = strcmp(what, "barrier") == 0;
    bool once = strcmp(what, "once") == 0;
    enum kind kind = semaphore ? KIND_SEMAPHORE : barrier ? KIND_BARRIER : once ? KIND_ONCE : KIND_LOCK;
    uint32_t permits = semaphore ? PERMITS : 1;
    size_t room = (sizeof *table + 63) & ~(size_t)63, size = object_size(permits);
    table = aligned_alloc(64, room);
    lives_blank(table);
    mine = life_begin(table);
    o = aligned_alloc(64, (size + 63) & ~(size_t)63);
    memset((void *)o, 0, size);
    object_blank(o, kind, permits, 1, "hammered", 8);
    results = calloc((size_t)threads * (size_t)operations + 2, sizeof *results);
    for (int i = 0; barrier && i < threads; i++)
        check(barrier_join(o, table, mine, 1, 1, &at), "no cell left");
    check(!barrier || barrier_engage(o, table, (uint32_t)threads, 0), "not engaged");
    for (intptr_t i = 0; i < threads; i++)
        check(pthread_create(&started[i], NULL, work, (void *)i) == 0, "no thread");
    for (int i = 0; i < threads; i++)
        pthread_join(started[i], NULL);
    check(!once || (once_forget(o) && told[GRANTED] && told[KEPT] && told[OWED]), "some answer never came");
    check(barrier || (o->permits == PERMITS || (load_relaxed(&o->permit[0]) & OWNER) == 0), "not free in the end");
    printf("%s: %d threads, %d operations each\n", what, threads, operations);
    fflush(stdout);
    _exit(0); /* the keeper of the life never ends */
}
