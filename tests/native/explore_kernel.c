/* The kernel, as it promises to be: who sleeps, who is woken, what time it is, who is dead. */
#include "explore.h"

#include "park.h"

bool park(word32 *word, uint32_t seen, int64_t ns) {
    if (ns <= 0 || atomic_load(word) != seen)
        return true;
    parts[current].parked = word;
    parts[current].until = ns > FOREVER - clock_ns ? FOREVER : clock_ns + ns;
    parts[current].waited_long = first_for(current) >= MILLISECOND;
    leave_coroutine();
    return true;
}

void unpark(word32 *word, int most) {
    for (int i = 0; i < count && most; i++)
        if (parts[i].parked == word && !parts[i].dead) {
            parts[i].parked = NULL;
            most--;
        }
}

void life_watch(struct watch *watch, struct lives *lives, life one) {
    watch->over = watch->over || life_over(lives, one);
    if (one)
        watch->ones[watch->count++] = one;
}

enum nap life_park(struct lives *lives, const struct watch *watch, word32 *word, uint32_t seen, int64_t ns) {
    parts[current].watches = 0;
    for (uint32_t i = 0; i < watch->count; i++) {
        if (life_over(lives, watch->ones[i]))
            return ENDED;
        parts[current].watches |= 1u << watch->ones[i];
    }
    parts[current].ended = false;
    (void)park(word, seen, ns);
    return parts[current].ended ? ENDED : WOKEN;
}

/* Of those who sleep for its end, too, the kernel wakes one. */
void wake_one_for(life dead) {
    int first = at_random ? (int)draw((uint64_t)count) : 0;
    for (int i = 0; i < count; i++) {
        struct participant *one = &parts[(first + i) % count];
        if (one->parked && !one->dead && one->watches >> dead & 1) {
            one->parked = NULL;
            one->ended = true;
            return;
        }
    }
}

int64_t monotonic_ns(void) {
    parts[current].asked = clock_ns;
    if (parts[current].came < 0)
        parts[current].came = clock_ns;
    return clock_ns;
}

uint64_t wall_ms(void) {
    return 1;
}

bool life_over(struct lives *lives, life one) {
    (void)lives;
    return one && parts[one - 1].dead;
}
