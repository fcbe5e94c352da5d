/* Real processes that end or stop at every step of every operation, and a survivor that must not mind.
 *
 *     crash kill|stop ACT
 *
 * A child does ACT on an object mapped by both, and is killed before its first atomic operation; another one before its
 * second; and so on until one comes to the end. After each death the survivor must get the object, and be told of the
 * death exactly if the child had it. With `stop` the child is stopped first: then it has to keep what it has. The acts
 * of a once are in crash_once.c.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "barrier.h"
#include "crash.h"
#include "park.h"

struct shared *all;
struct object *o;
long countdown;
int how;

void interlock_step(const char *function, int line) {
    (void)function, (void)line;
    if (countdown && --countdown == 0)
        kill(getpid(), how);
}

void fail(const char *act, long step, const char *what) {
    printf("%s, step %ld: %s (row %u, permit %llx, cell %llx)\n", act, step, what, atomic_load(&o->row),
           (unsigned long long)atomic_load(&o->permit[0]),
           all->place.cell ? (unsigned long long)atomic_load(&all->place.cell->word) : 0);
    fflush(stdout);
    _exit(1);
}

static enum answer acquire(struct place *at, bool shared, int64_t ns) {
    int64_t until = monotonic_ns() + ns;
    enum answer answer = admission_take(o, at, shared) ? GRANTED : admission_enter(o, at, shared, true);
    while (answer == INTERRUPTED || (answer == WAITING && monotonic_ns() < until))
        answer = admission_wait(o, &all->table, at, until);
    return answer;
}

bool has(const struct place *at) {
    for (uint32_t i = 0; i < o->permits; i++)
        if ((atomic_load(&o->permit[i]) & OWNER) == (uint64_t)(at->cell - cells_of(o)) + 1)
            return true;
    return false;
}

/* -- what the child does: first what comes before, then what may end at any step */

static void begin(const char *act, life mine) {
    struct place *at = &all->place;
    if (strcmp(act, "claim") == 0)
        return;
    if (!place_claim(o, &all->table, mine, 2, 1, at))
        _exit(2);
    if (strcmp(act, "release") == 0 || strcmp(act, "leave") == 0 || strcmp(act, "downgrade") == 0)
        all->inside = acquire(at, false, SECOND) == GRANTED;
    if (strcmp(act, "unread") == 0 && acquire(at, true, SECOND) == GRANTED)
        all->inside = 2;
}

static void finish(const char *act, life mine) {
    struct place *at = &all->place;
    if (strcmp(act, "claim") == 0) {
        (void)place_claim(o, &all->table, mine, 2, 1, at);
    } else if (strcmp(act, "acquire") == 0 || strcmp(act, "wait") == 0 || strcmp(act, "life") == 0) {
        all->inside = acquire(at, false, SECOND) == GRANTED;
    } else if (strcmp(act, "read") == 0 || strcmp(act, "wait to read") == 0) {
        all->inside = acquire(at, true, SECOND) == GRANTED ? 2 : 0;
    } else if (strcmp(act, "give up") == 0) {
        if (acquire(at, false, 2000000) == WAITING)
            (void)admission_leave(o, at, true);
    } else if (strcmp(act, "downgrade") == 0) {
        if (admission_downgrade(o, at) == GRANTED)
            all->inside = 2;
    } else if (strcmp(act, "retire") == 0) {
        (void)admission_retire(o, &all->table, mine);
    } else {
        all->inside = 0;
        (void)(strcmp(act, "leave") == 0 ? admission_leave(o, at, false) : admission_release(o, at, false));
    }
}

/* Whether the child died with the object, as the words say. */
static bool died_with_it(void) {
    uint64_t word = all->place.cell ? atomic_load(&all->place.cell->word) : 0;
    return all->place.cell && has(&all->place) && (STATE(word) == IDLE || STATE(word) == READS);
}

static void expect_kept(const char *act, long step) {
    struct place at;
    uint64_t before = atomic_load(&o->permit[0]);
    if (admission_sweep(o, &all->table) || atomic_load(&o->permit[0]) != before)
        fail(act, step, "something was taken from a process that is only stopped");
    if (all->inside == 0)
        return;
    if (!place_claim(o, &all->table, life_begin(&all->table), 3, 1, &at) || acquire(&at, false, 0) == GRANTED)
        fail(act, step, "somebody came in beside a process that is only stopped");
    (void)admission_leave(o, &at, true);
}

pid_t until_asleep(pid_t child, int *status) {
    pid_t ended;
    int asleep = 0;
    while ((ended = waitpid(child, status, WUNTRACED | WNOHANG)) == 0 && asleep < 8) {
        struct cell *cell = all->place.cell;
        bool stands = cell && STATE(atomic_load(&cell->word)) == WAITS;
        asleep = stands && atomic_load(&cell->wake) == 0 ? asleep + 1 : 0;
        usleep(50);
    }
    return ended;
}

/* One child; whether it came to its end. */
static bool try_step(const char *act, long step, bool stop, life mine) {
    struct place at, behind = {0};
    bool contended = strncmp(act, "wait", 4) == 0 || strcmp(act, "give up") == 0;
    int status;
    memset(all->object, 0, sizeof all->object);
    object_blank(o, KIND_LOCK, 1, 1000, "killed", 6);
    all->place = (struct place){0};
    all->inside = 0;
    if (!place_claim(o, &all->table, mine, 1, 1, &at))
        fail(act, step, "no cell");
    if (contended && acquire(&at, false, SECOND) != GRANTED)
        fail(act, step, "not free at first");
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        how = stop ? SIGSTOP : SIGKILL;
        countdown = strcmp(act, "life") == 0 ? step : 0;
        life own = life_begin(&all->table);
        begin(act, own);
        countdown = countdown ? countdown : step;
        finish(act, own);
        countdown = 0;
        _exit(0);
    }
    pid_t ended = 0;
    if (strncmp(act, "wait", 4) == 0)
        ended = until_asleep(child, &status);
    else if (contended)
        ended = waitpid(child, &status, WUNTRACED);
    if (contended && admission_release(o, &at, false) != LEFT)
        fail(act, step, "the survivor lost its hold");
    if (ended == 0)
        waitpid(child, &status, WUNTRACED);
    if (WIFSTOPPED(status)) {
        expect_kept(act, step);
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status))
        fail(act, step, "the child could not begin");
    bool must = died_with_it();
    if (all->inside == 1 && WIFSIGNALED(status) && !must && strcmp(act, "downgrade") != 0)
        fail(act, step, "the words do not say that the child had it");
    if (strcmp(act, "retire") == 0 && (atomic_load(&o->permit[0]) & OWNER) == OWNER - 1) {
        if (!admission_retire(o, &all->table, mine) || admission_enter(o, &at, false, true) != RETIRED)
            fail(act, step, "closed, and not closed");
        return WIFEXITED(status);
    }
    if (acquire(&at, false, SECOND) != GRANTED)
        fail(act, step, "the survivor does not get it");
    if (((atomic_load(&at.cell->mode) & TOLD) != 0) != must)
        fail(act, step, must ? "the survivor is not told of the death" : "the survivor is told of no death");
    if (admission_release(o, &at, false) != LEFT || acquire(&at, false, SECOND) != GRANTED ||
        atomic_load(&at.cell->mode) & TOLD)
        fail(act, step, "the second time it is not like new");
    if (place_claim(o, &all->table, mine, 1, 2, &behind) && acquire(&behind, false, 0) != WAITING)
        fail(act, step, "two holders");
    return WIFEXITED(status);
}

/* -- barrier: two parties, of whom the child is one; it dies in one of two rounds, or after them */

static bool try_barrier(long step, bool stop, life mine) {
    struct place at;
    struct arrival own;
    int status;
    memset(all->object, 0, sizeof all->object);
    object_blank(o, KIND_BARRIER, 1, 0, "killed", 6);
    all->inside = 0;
    int ready[2];
    char byte;
    if (pipe(ready) != 0 || !barrier_join(o, &all->table, mine, 1, 1, &at))
        fail("barrier", step, "cannot begin");
    pid_t child = fork();
    if (child == 0) {
        life its = life_begin(&all->table);
        if (!barrier_join(o, &all->table, its, 2, 1, &at) || write(ready[1], "x", 1) != 1)
            _exit(2);
        while (!(atomic_load(&o->permit[0]) & HERE))
            usleep(10);
        how = stop ? SIGSTOP : SIGKILL;
        countdown = step;
        for (int round = 0; round < 2; round++) {
            enum meeting seen = barrier_arrive(o, &all->table, 2, &own);
            if (seen == LATE)
                seen = barrier_wait(o, &all->table, &own, monotonic_ns() + SECOND);
            if (seen != PASSED)
                break;
        }
        countdown = 0;
        all->inside = 3;
        kill(getpid(), SIGKILL);
    }
    if (read(ready[0], &byte, 1) != 1 || !barrier_engage(o, &all->table, 2, 5))
        fail("barrier", step, "not engaged");
    close(ready[0]), close(ready[1]);
    enum meeting seen = PASSED;
    for (int round = 0; round < 3 && seen == PASSED; round++) {
        seen = barrier_arrive(o, &all->table, 2, &own);
        int64_t until = monotonic_ns() + SECOND, nap = stop ? 30000000 : SECOND;
        while (seen == LATE && monotonic_ns() < until) {
            seen = barrier_wait(o, &all->table, &own, monotonic_ns() + nap);
            if (seen == LATE)
                kill(child, SIGKILL); /* it was stopped, and so waited for */
        }
    }
    if (seen != MOVED)
        fail("barrier", step, "the survivor is not told to ask the machine");
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return all->inside == 3;
}

int main(int argc, char **argv) {
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (argc < 3 || all == MAP_FAILED || object_size(1) > sizeof all->object)
        return 2;
    o = (struct object *)all->object;
    lives_blank(&all->table);
    life mine = life_begin(&all->table);
    const char *act = argv[2];
    bool stop = strcmp(argv[1], "stop") == 0, barrier = strcmp(act, "barrier") == 0;
    bool once = strncmp(act, "once ", 5) == 0;
    long step = 1;
    while (!(barrier ? try_barrier(step, stop, mine) : (once ? try_once : try_step)(act, step, stop, mine)))
        step++;
    printf("%s: %ld steps\n", act, step - 1);
    return 0;
}
