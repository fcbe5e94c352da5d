/* Every atomic operation of the core, with its ordering in its name.
 *
 * Nothing else in the core touches shared words. A build for tests defines INTERLOCK_STEP, which is called before each
 * operation: so a test can stop, kill or switch a participant between any two of them.
 */
#ifndef INTERLOCK_ATOMIC_H
#define INTERLOCK_ATOMIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef INTERLOCK_STEP
void interlock_step(const char *function, int line);
#define STEP interlock_step(__func__, __LINE__)
#else
#define STEP ((void)0)
#endif

typedef _Atomic(uint32_t) word32;
typedef _Atomic(uint64_t) word64;

_Static_assert(sizeof(word32) == 4 && sizeof(word64) == 8, "atomic words have no lock beside them");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2, "processes share no locks of the compiler");

#define load_relaxed(at) (STEP, atomic_load_explicit(at, memory_order_relaxed))
#define load_seq(at) (STEP, atomic_load_explicit(at, memory_order_seq_cst))
#define store_relaxed(at, value) (STEP, atomic_store_explicit(at, value, memory_order_relaxed))
#define store_seq(at, value) (STEP, atomic_store_explicit(at, value, memory_order_seq_cst))
#define swap_seq(at, value) (STEP, atomic_exchange_explicit(at, value, memory_order_seq_cst))
#define add_seq(at, value) (STEP, atomic_fetch_add_explicit(at, value, memory_order_seq_cst))
#define sub_seq(at, value) (STEP, atomic_fetch_sub_explicit(at, value, memory_order_seq_cst))
#define or_seq(at, value) (STEP, atomic_fetch_or_explicit(at, value, memory_order_seq_cst))
#define and_seq(at, value) (STEP, atomic_fetch_and_explicit(at, value, memory_order_seq_cst))
#define cas_seq(at, seen, value) \
    (STEP, atomic_compare_exchange_strong_explicit(at, seen, value, memory_order_seq_cst, memory_order_seq_cst))

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
