/* The core under every schedule: participants are coroutines that switch at the core's atomic operations.
 *
 * The kernel is replaced by what it promises. Who sleeps runs again when woken; time passes only when nobody can run,
 * which without a death means that a wake-up was lost; who is dead takes no further step, and its life is over. So each
 * run is decided by its choices alone: at which steps another participant goes on, and at which one dies.
 *
 *     explore random SCENARIO SEED RUNS      choices drawn at random
 *     explore search SCENARIO BOUND          every run with up to BOUND preemptions and deaths
 *
 * Prints how many runs and steps it saw, or the first run that broke a rule, and fails.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "barrier.h"
#include "explore.h"
#include "park.h"

#define STACK (1 << 16)
#define MOST_STEPS 20000
#define MOST_LAPSES 60

static const struct scenario SCENARIOS[] = {
    {"lock2", KIND_LOCK, 1, false, false, {"LL", "LL"}},
    {"lock3", KIND_LOCK, 1, false, false, {"LL", "L", "L"}},
    {"lock4", KIND_LOCK, 1, false, false, {"L", "L", "L", "L"}},
    {"rwlock", KIND_LOCK, 1, false, false, {"LR", "RL", "RR"}},
    {"rwlock4", KIND_LOCK, 1, false, false, {"R", "R", "L", "L"}},
    {"downgrade", KIND_LOCK, 1, false, false, {"D", "R", "L"}},
    {"semaphore", KIND_SEMAPHORE, 2, false, false, {"L", "LL", "L", "L"}},
    {"try", KIND_LOCK, 1, false, false, {"TT", "L", "tR"}},
    {"late", KIND_LOCK, 1, false, true, {"WL", "W", "LR"}},
    {"due", KIND_LOCK, 1, false, true, {"LLLLLL", "L", "RL"}},
    {"due-again", KIND_LOCK, 1, false, true, {"LLLL", "L", "L", "R"}},
    {"barrier", KIND_BARRIER, 1, false, false, {"BBB", "BBB", "BBB"}},
    {"moved", KIND_BARRIER, 1, false, false, {"BB", "BB", "BB", "M"}},
    {"barrier-late", KIND_BARRIER, 1, false, true, {"BB", "GB", "BB"}},
    {"barrier-crash", KIND_BARRIER, 1, true, false, {"BB", "BB", "BB"}},
    {"crash", KIND_LOCK, 1, true, false, {"LL", "L", "L"}},
    {"crash-late", KIND_LOCK, 1, true, true, {"LL", "L", "L", "R"}},
    {"semaphore-crash-late", KIND_SEMAPHORE, 2, true, true, {"LL", "LL", "LL", "L"}},
    {"barrier-crash-late", KIND_BARRIER, 1, true, true, {"BB", "BB", "BB"}},
    {"once-crash-late", KIND_ONCE, 1, true, true, {"vh", "hv", "gh", "h"}},
    {"rwcrash", KIND_LOCK, 1, true, false, {"LR", "RD", "L"}},
    {"semaphore-crash", KIND_SEMAPHORE, 2, true, false, {"L", "L", "L", "L"}},
    {"sweepers", KIND_LOCK, 1, true, false, {"L", "SS", "SNL"}},
    {"news", KIND_LOCK, 1, true, false, {"L", "SRR", "SLL", "R"}},
    {"evict", KIND_LOCK, 1, false, false, {"LLR", "E", "EL"}},
    {"evict-semaphore", KIND_SEMAPHORE, 2, false, false, {"LL", "E", "L", "L"}},
    {"evict-crash", KIND_LOCK, 1, true, false, {"L", "E", "LL"}},
    {"retire", KIND_LOCK, 1, false, false, {"X", "L", "R"}},
    {"retire-semaphore", KIND_SEMAPHORE, 2, false, false, {"X", "L", "L"}},
    {"retire-crash", KIND_LOCK, 1, true, false, {"X", "L", "L"}},
    {"once", KIND_ONCE, 1, false, false, {"v", "v", "vv"}},
    {"once-handed", KIND_ONCE, 1, false, false, {"hh", "h", "hv"}},
    {"once-retry", KIND_ONCE, 1, false, false, {"ee", "r", "er"}},
    {"once-forget", KIND_ONCE, 1, false, false, {"hv", "fvf", "vh"}},
    {"once-late", KIND_ONCE, 1, false, true, {"gv", "wh", "wjv"}},
    {"once-owed", KIND_ONCE, 1, false, false, {"h", "o", "hh", "v"}},
    {"once-given-up", KIND_ONCE, 1, false, false, {"gv", "v", "gh"}},
    {"once-crash", KIND_ONCE, 1, true, false, {"hv", "gh", "vS"}},
    {"once-evict", KIND_ONCE, 1, false, false, {"hhv", "E", "Ehv"}},
    {"once-retire", KIND_ONCE, 1, true, false, {"hX", "hX", "Xh"}},
};

struct participant parts[MOST];
static const struct scenario *now_playing;
struct object *o;
struct lives *table;
int count, current;
static int writers, readers, evicting;
static uint32_t parties;
static long steps, all_steps, runs;
int64_t clock_ns;
static int64_t lapses;
bool closed, must_tell, may_tell, forced;
static bool stepping, somebody_died;
static uint64_t last_exclusive, tokens[256], rounds_arrived[64], row_grants;
static int given, passed_round[64], moved_round[64];
static jmp_buf scheduler;

/* The choices of this run: at random, or a list of the steps at which somebody else goes on. */
static uint64_t seed;
bool at_random;
static struct choice { long step; int target; } choices[4]; /* target `count` means that the current one dies */
static int made, trace_length;
static struct { int who, line; const char *function; } trace[MOST_STEPS];

uint64_t draw(uint64_t below) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed % below;
}

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("%s: ", now_playing->name);
    vprintf(format, arguments);
    printf(" (run %ld, step %ld; row %u, permit %llx)\n", runs, steps, atomic_load(&o->row),
           (unsigned long long)atomic_load(&o->permit[0]));
    for (int i = 0; i < count; i++)
        printf("  %d %s%s%s%s%s\n", i, now_playing->acts[i], parts[i].over ? " done" : "", parts[i].dead ? " dead" : "",
               parts[i].inside ? " inside" : "", parts[i].parked ? " asleep" : "");
    for (int i = 0; i < trace_length; i++)
        if (i == 0 || trace[i].who != trace[i - 1].who || i == trace_length - 1)
            printf("  step %d: %d goes on at %s:%d\n", i, trace[i].who, trace[i].function, trace[i].line);
    exit(1);
}

/* -- the kernel, as it promises to be */

void leave_coroutine(void) {
    if (_setjmp(parts[current].at) == 0)
        _longjmp(scheduler, 1);
}

static bool chosen(int *target) {
    if (at_random) {
        if (now_playing->dies && !somebody_died && draw(now_playing->ticks ? 300 : 40) == 0) {
            *target = count;
            return true;
        }
        *target = (int)draw((uint64_t)count);
        return draw(3) == 0;
    }
    if (made < 4 && choices[made].step == steps) {
        *target = choices[made++].target;
        return true;
    }
    return false;
}

static void die(void);
static int wanted = -1;

void interlock_step(const char *function, int line) {
    int target;
    if (!stepping)
        return;
    if (trace_length < MOST_STEPS) {
        trace[trace_length].who = current;
        trace[trace_length].function = function;
        trace[trace_length++].line = line;
    }
    if (++steps > MOST_STEPS)
        fail("no end");
    if (now_playing->ticks && at_random && draw(12) == 0)
        clock_ns += MILLISECOND / 2;
    if (!chosen(&target))
        return;
    if (target == count) {
        die();
    } else if (target == current || parts[target].over || parts[target].dead || parts[target].parked) {
        return;
    }
    wanted = target;
    leave_coroutine();
}

int explorer_yield(void) {
    interlock_step("sched_yield", 0);
    return 0;
}

/* -- the rules */

static uint64_t word_of(const struct participant *one) {
    return one->seated ? atomic_load(&one->place.cell->word) : 0;
}

/* Whether this one has a permit, as the words say. */
static bool owns(const struct participant *one) {
    for (uint32_t i = 0; one->seated && now_playing->kind != KIND_BARRIER && i < o->permits; i++)
        if ((atomic_load(&o->permit[i]) & OWNER) == (uint64_t)(one->place.cell - cells_of(o)) + 1)
            return true;
    return false;
}

static void die(void) {
    struct participant *one = &parts[current];
    enum state state = STATE(word_of(one));
    one->dead = somebody_died = true;
    must_tell = must_tell || (one->inside && !one->reading);
    may_tell = may_tell || one->evicted || must_tell || (owns(one) && (state == IDLE || state == READS));
    if (now_playing->kind == KIND_ONCE && (one->inside || (owns(one) && state == IDLE)))
        worker_died(current);
    if (one->inside)
        *(one->reading ? &readers : &writers) -= 1;
    one->inside = false;
    wake_one_for((life)current + 1);
}

static void note_token(uint64_t token, bool exclusive) {
    for (int i = 0; i < given; i++)
        if (tokens[i] == token)
            fail("token %llu was given twice", (unsigned long long)token);
    if (token <= last_exclusive)
        fail("token %llu after %llu", (unsigned long long)token, (unsigned long long)last_exclusive);
    for (int i = 0; exclusive && i < given; i++)
        if (token < tokens[i])
            fail("token %llu after %llu", (unsigned long long)token, (unsigned long long)tokens[i]);
    if (exclusive)
        last_exclusive = token;
    tokens[given++] = token;
}

static void come_in(struct participant *one, bool reading) {
    bool told = (atomic_load(&one->place.cell->mode) & TOLD) != 0, several = now_playing->kind == KIND_SEMAPHORE;
    if (closed)
        fail("%d came into a retired object", current);
    if (one->evicted)
        return; /* it could not know: what it does is fenced by its token */
    *(reading ? &readers : &writers) += 1;
    if (writers > (int)now_playing->permits || (!several && writers && readers))
        fail("%d writers and %d readers at once", writers, readers);
    note_token(atomic_load(&one->place.cell->token), !reading && !several);
    if (told && !may_tell)
        fail("%d was told of a death that was none", current);
    if (must_tell && !told && (!several || now_playing->permits == 1))
        fail("%d was not told of a death", current);
    if (told && !reading)
        must_tell = false, may_tell = forced; /* what an evicted one may still seize is marked, too */
    one->inside = true;
    one->reading = reading;
}

static void go_out(struct participant *one) {
    if (one->inside)
        *(one->reading ? &readers : &writers) -= 1;
    one->inside = false;
}

/* -- what participants do */

void sit(struct participant *one) {
    one->evicted = evicting > 0;
    one->seated = place_claim(o, table, (life)(one - parts) + 1, (uint64_t)(one - parts) + 1, 1, &one->place);
    if (!one->seated)
        fail("no cell for %d", current);
}

static bool in_row(const struct participant *one) {
    enum state state = STATE(word_of(one));
    return state == WAITS || state == LOOKS;
}

/* How long somebody who begins to sleep has known that it is the first of the row. */
int64_t first_for(int who) {
    struct participant *one = &parts[who];
    for (int i = 0; i < count; i++)
        if (!one->seated || !in_row(one) ||
            (in_row(&parts[i]) && atomic_load(&parts[i].place.cell->arrival) < atomic_load(&one->place.cell->arrival)))
            return one->first_since = -1, 0;
    if (one->first_since < 0)
        one->first_since = FOREVER;
    else if (one->first_since == FOREVER)
        one->first_since = one->asked;
    return one->first_since == FOREVER ? 0 : one->asked - one->first_since;
}

/* The first of the row if nobody may overtake it any more, as far as can be told: nobody else is in the middle of an
 * operation. If it sleeps, and had waited for long when it began to, that must be so. Else -1. */
static int due(void) {
    int first = -1;
    bool flag = atomic_load(&o->row) & DUE;
    for (int i = 0; i < count; i++)
        if (in_row(&parts[i]) &&
            (first < 0 || atomic_load(&parts[i].place.cell->arrival) < atomic_load(&parts[first].place.cell->arrival)))
            first = i;
    for (int i = 0; i < count; i++)
        if (i != current && i != first && parts[i].acting && (!parts[i].parked || STATE(word_of(&parts[i])) == DRAINS))
            return -1;
    if (first >= 0 && !somebody_died && parts[first].parked && parts[first].waited_long && !flag)
        fail("%d has waited for long, and may be overtaken", first);
    return flag ? first : -1;
}

static enum answer acquire(struct participant *one, bool shared, bool wait, int64_t until) {
    bool jumps = now_playing->ticks && now_playing->dies; /* then a moment between two steps may be a long one */
    int ahead = jumps ? -1 : due();
    uint64_t turn = ahead < 0 ? 0 : parts[ahead].waits, settled = row_grants;
    uint64_t arrival = atomic_load(&one->place.cell->arrival);
    one->acting = true;
    one->waits++;
    one->came = one->first_since = -1;
    enum answer answer = GRANTED;
    if (!admission_take(o, &one->place, shared))
        answer = admission_enter(o, &one->place, shared, wait);
    while (answer == INTERRUPTED || (answer == WAITING && clock_ns < until))
        answer = admission_wait(o, table, &one->place, until);
    if (answer == WAITING) {
        (void)admission_leave(o, &one->place, true);
        sit(one);
    } else if (answer == GONE) {
        if (!one->evicted)
            fail("%d was evicted by nobody", current);
        sit(one);
    }
    one->acting = false;
    if (answer == GRANTED && ahead >= 0 && in_row(&parts[ahead]) && parts[ahead].waits == turn && settled == row_grants)
        fail("%d overtook %d", current, ahead);
    row_grants += answer == GRANTED && arrival != atomic_load(&one->place.cell->arrival);
    return answer;
}

static void release(struct participant *one) {
    go_out(one);
    one->acting = true;
    if (admission_release(o, &one->place, false) == GONE) {
        if (!one->evicted)
            fail("%d had lost its hold", current);
        sit(one);
    }
    one->acting = false;
}

/* Between operations others may do much, the more so if time passes. */
void linger(void) {
    bool jumps = now_playing->ticks && now_playing->dies && draw(2) == 0;
    if (jumps)
        clock_ns += 3 * MILLISECOND; /* and who waits has done so for long */
    for (int i = jumps ? 60 : now_playing->ticks ? 9 : 1; i; i--)
        interlock_step("harness", i);
}

static bool hold(struct participant *one, bool reading, bool wait, int64_t until, bool weaken) {
    enum answer answer = acquire(one, reading, wait, until);
    if (answer != GRANTED)
        return answer != RETIRED;
    come_in(one, reading);
    linger();
    if (weaken && one->inside) {
        writers--, readers++;
        one->reading = true;
        if (admission_downgrade(o, &one->place) != GRANTED)
            fail("%d could not downgrade", current);
        interlock_step("inside", 0);
    }
    release(one);
    return true;
}

static void evict(void) {
    evicting++;
    parts[0].evicted = may_tell = forced = true;
    if (now_playing->kind == KIND_ONCE && parts[0].inside)
        worker_died(0);
    go_out(&parts[0]);
    (void)admission_evict(o, 1);
    evicting--;
}

static bool retire(void) {
    bool done = admission_retire(o, table, (life)current + 1);
    closed = closed || done;
    if (done && (writers + readers || (now_playing->kind == KIND_ONCE && !once_unused())))
        fail("retired while in use");
    return !done;
}

static bool meet(int64_t until) {
    struct arrival mine = {.round = UINT64_MAX};
    uint64_t round = atomic_load(&o->permit[0]) >> 1 & 63;
    rounds_arrived[round] += 1; /* it may be the next one by the time of the arrival, which is checked below */
    enum meeting seen = barrier_arrive(o, table, parties, &mine);
    if (mine.round == UINT64_MAX) {
        rounds_arrived[round]--;
        return false;
    }
    if (mine.round != round)
        rounds_arrived[round]--, rounds_arrived[mine.round]++;
    while (seen == STOPPED || (seen == LATE && clock_ns < until))
        seen = barrier_wait(o, table, &mine, until);
    if (seen == LATE)
        seen = barrier_move(o) > mine.round ? PASSED : MOVED;
    if (mine.generation != 7 + mine.round)
        fail("generation %llu in round %llu", (unsigned long long)mine.generation, (unsigned long long)mine.round);
    (seen == PASSED ? passed_round : moved_round)[mine.round]++;
    if (passed_round[mine.round] && (moved_round[mine.round] || rounds_arrived[mine.round] != parties))
        fail("round %llu: %d passed, %d were sent away, %d of %u had come", (unsigned long long)mine.round,
             passed_round[mine.round], moved_round[mine.round], (int)rounds_arrived[mine.round], parties);
    return seen == PASSED;
}

static bool act(struct participant *one, char what) {
    switch (what) {
    case 'L': return hold(one, false, true, FOREVER, false);
    case 'R': return hold(one, true, true, FOREVER, false);
    case 'D': return hold(one, false, true, FOREVER, true);
    case 'W': return hold(one, false, true, clock_ns + MILLISECOND, false);
    case 'T': return hold(one, false, false, 0, false);
    case 't': return hold(one, true, false, 0, false);
    case 'N': place_free(&one->place); sit(one); return true;
    case 'E': evict(); return true;
    case 'S': (void)admission_sweep(o, table); return true;
    case 'X': return retire();
    case 'B': return meet(FOREVER);
    case 'G': return meet(clock_ns + MILLISECOND);
    case 'M': (void)barrier_move(o); return true;
    default: return once_act(one, what);
    }
}

static void live(void) {
    struct participant *one = &parts[current];
    for (const char *what = one->acts; *what && act(one, *what); what++)
        linger();
    one->over = true;
    leave_coroutine();
}

/* -- one run, and many */

static void set_up(void) {
    stepping = closed = somebody_died = must_tell = may_tell = forced = false;
    steps = lapses = clock_ns = 0;
    writers = readers = given = made = trace_length = evicting = 0;
    last_exclusive = row_grants = 0;
    memset(rounds_arrived, 0, sizeof rounds_arrived);
    memset(passed_round, 0, sizeof passed_round);
    memset(moved_round, 0, sizeof moved_round);
    memset(o, 0, sizeof *o + 64 + 16 * sizeof(struct cell));
    object_blank(o, now_playing->kind, now_playing->permits, 1000, "explored", 8);
    for (int i = 0; i < count; i++) {
        char *stack = parts[i].stack;
        parts[i] = (struct participant){.stack = stack, .acts = now_playing->acts[i]};
        current = i;
        if (now_playing->kind == KIND_ONCE)
            continue;
        if (now_playing->kind != KIND_BARRIER)
            sit(&parts[i]);
        else if (strpbrk(parts[i].acts, "BG"))
            (void)barrier_join(o, table, (life)i + 1, (uint64_t)i + 1, 1, &parts[i].place);
    }
    current = 0;
    once_begin();
    if (now_playing->kind == KIND_BARRIER && !barrier_engage(o, table, parties, 7))
        fail("not engaged");
    stepping = true;
}

static void resume(int who) {
    current = who;
    if (_setjmp(scheduler))
        return;
    if (parts[who].begun)
        _longjmp(parts[who].at, 1);
    parts[who].begun = true;
    getcontext(&parts[who].start);
    parts[who].start.uc_stack.ss_sp = parts[who].stack;
    parts[who].start.uc_stack.ss_size = STACK;
    makecontext(&parts[who].start, live, 0);
    setcontext(&parts[who].start);
}

static bool runnable(int who) {
    return !parts[who].over && !parts[who].dead && !parts[who].parked;
}

/* Time passes: at once, if somebody sleeps until then, or because nobody can do anything. False if nobody is left. */
static bool let_time_pass(void) {
    int64_t least = FOREVER;
    for (int i = 0; i < count; i++)
        if (parts[i].parked && !parts[i].dead && parts[i].until < least)
            least = parts[i].until;
    if (least == FOREVER)
        return false;
    bool dozes = false; /* who does ends that by itself */
    for (int i = 0; i < count; i++)
        dozes |= parts[i].parked && !parts[i].dead && parts[i].until == least && atomic_load(parts[i].parked) == 1;
    if (!somebody_died && !now_playing->ticks && !dozes)
        fail("a wake-up was lost");
    if (least > clock_ns + SOON_NS)
        fail("they sleep for long");
    if (++lapses > MOST_LAPSES)
        fail("they wait for ever");
    clock_ns = least > clock_ns ? least : clock_ns;
    return true;
}

static int next_one(void) {
    int who = wanted >= 0 ? wanted : at_random ? (int)draw((uint64_t)count) : current;
    wanted = -1;
    do {
        for (int i = 0; i < count; i++)
            if (parts[i].parked && parts[i].until <= clock_ns)
                parts[i].parked = NULL;
        for (int i = 0; i < count; i++)
            if (runnable((who + i) % count))
                return (who + i) % count;
    } while (let_time_pass());
    return -1;
}

/* When all is over nobody has anything, and the news of a death is kept for the next one. */
static void look_back(void) {
    bool lost = false;
    stepping = false;
    if (now_playing->kind == KIND_BARRIER || (atomic_load(&o->permit[0]) & OWNER) == OWNER - 1)
        return;
    (void)admission_sweep(o, table);
    if (now_playing->kind == KIND_ONCE) {
        once_look_back();
        return;
    }
    for (uint32_t i = 0; i < o->permits; i++) {
        lost = lost || atomic_load(&o->permit[i]) & LOST;
        if (atomic_load(&o->permit[i]) & OWNER)
            fail("permit %u belongs to nobody alive", i);
    }
    if (lost ? !may_tell : must_tell)
        fail(lost ? "a death is to be told that was none" : "a death is forgotten");
}

static void run(void) {
    int who;
    set_up();
    while ((who = next_one()) >= 0)
        resume(who);
    look_back();
    runs++;
    all_steps += steps;
}

static void search(int depth, int bound, long from) {
    for (long step = from;; step++) {
        for (int target = 0; target < count + now_playing->dies; target++) {
            choices[depth] = (struct choice){step, target};
            for (int i = depth + 1; i < 4; i++)
                choices[i].step = -1;
            run();
            if (steps < step)
                return;
            if (made > depth && depth + 1 < bound)
                search(depth + 1, bound, step + 1);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    for (size_t i = 0; i < sizeof SCENARIOS / sizeof *SCENARIOS; i++)
        if (strcmp(SCENARIOS[i].name, argv[2]) == 0)
            now_playing = &SCENARIOS[i];
    if (now_playing == NULL)
        return 2;
    o = aligned_alloc(64, (object_size(now_playing->permits) + 63) & ~(size_t)63);
    table = NULL;
    while (count < MOST && now_playing->acts[count]) {
        parts[count].stack = malloc(STACK);
        parties += strpbrk(now_playing->acts[count], "BG") != NULL;
        count++;
    }
    at_random = strcmp(argv[1], "random") == 0;
    if (at_random) {
        seed = strtoull(argv[3], NULL, 10) * 2654435769u + 1;
        for (long i = strtol(argv[4], NULL, 10); i > 0; i--)
            run();
    } else {
        search(0, atoi(argv[3]), 1);
    }
    printf("%s: %ld runs, %ld steps\n", now_playing->name, runs, all_steps);
    return 0;
}
