/* The limit: what a lock or barrier in shared memory costs if it does nothing but its one task.
 *
 * Bare extension types over a buffer that processes share. None of them knows who holds it; only `Robust` survives the
 * death of its holder, and nobody is told about that, has an order among waiters or a time-out. Built when it is
 * measured, see limit.py.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPINS 100  /* looks at a taken lock before sleeping */
#define YIELDS 50  /* times that others are let run before sleeping at a barrier */
#define WRITER INT_MIN

typedef _Atomic int word;

struct shared {
    union {
        word state; /* mutex: 0 free, 1 taken, 2 taken and somebody sleeps; readers and writer: see there; else round */
        pthread_mutex_t robust;
    };
    _Alignas(64) word count; /* who sleeps, or has arrived */
};

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    struct shared *at;
    int parties;
    int yields;
} Limit;

static void sleep_while(word *at, int seen) {
    syscall(SYS_futex, at, FUTEX_WAIT, seen, NULL, NULL, 0);
}

static void wake(word *at, int count) {
    syscall(SYS_futex, at, FUTEX_WAKE, count, NULL, NULL, 0);
}

static PyObject *limit_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    (void)named;
    PyObject *buffer;
    int parties = 0, yields = YIELDS;
    if (!PyArg_ParseTuple(args, "O|ii", &buffer, &parties, &yields))
        return NULL;
    Limit *self = (Limit *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (PyObject_GetBuffer(buffer, &self->view, PyBUF_WRITABLE) < 0 || self->view.len < (Py_ssize_t)sizeof *self->at) {
        Py_DECREF(self);
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "too small a buffer");
    }
    self->at = self->view.buf;
    self->parties = parties;
    self->yields = yields;
    return (PyObject *)self;
}

static void limit_dealloc(Limit *self) {
    PyBuffer_Release(&self->view);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* -- a mutex on a futex */

static inline bool take(word *state) {
    int seen = 0;
    return atomic_compare_exchange_strong(state, &seen, 1);
}

static void take_slowly(word *state) {
    for (int spins = 0; spins < SPINS; spins++) {
        if (atomic_load_explicit(state, memory_order_relaxed) == 0 && take(state))
            return;
        __builtin_ia32_pause();
    }
    while (atomic_exchange(state, 2) != 0)
        sleep_while(state, 2);
}

static PyObject *futex_acquire(Limit *self, PyObject *unused) {
    (void)unused;
    if (!take(&self->at->state)) {
        Py_BEGIN_ALLOW_THREADS
        take_slowly(&self->at->state);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

static PyObject *futex_release(Limit *self, PyObject *unused) {
    (void)unused;
    if (atomic_exchange(&self->at->state, 0) == 2)
        wake(&self->at->state, 1);
    Py_RETURN_NONE;
}

static PyObject *futex_exit(Limit *self, PyObject *const *args, Py_ssize_t count) {
    (void)args, (void)count;
    return futex_release(self, NULL);
}

/* -- a robust mutex: the kernel frees it when its holder dies */

static PyObject *robust_prepare(Limit *self, PyObject *unused) {
    (void)unused;
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&self->at->robust, &kind);
    pthread_mutexattr_destroy(&kind);
    Py_RETURN_NONE;
}

static PyObject *robust_acquire(Limit *self, PyObject *unused) {
    (void)unused;
    int failed = pthread_mutex_trylock(&self->at->robust);
    if (failed == EBUSY) {
        Py_BEGIN_ALLOW_THREADS
        failed = pthread_mutex_lock(&self->at->robust);
        Py_END_ALLOW_THREADS
    }
    if (failed == EOWNERDEAD)
        pthread_mutex_consistent(&self->at->robust);
    Py_RETURN_NONE;
}

static PyObject *robust_release(Limit *self, PyObject *unused) {
    (void)unused;
    pthread_mutex_unlock(&self->at->robust);
    Py_RETURN_NONE;
}

static PyObject *robust_exit(Limit *self, PyObject *const *args, Py_ssize_t count) {
    (void)args, (void)count;
    return robust_release(self, NULL);
}

/* -- readers and a writer in one word: how many read, or WRITER; nothing keeps a writer from starving */

static void enter_readers(struct shared *at, bool write) {
    for (int spins = 0;; spins++) {
        int seen = atomic_load_explicit(&at->state, memory_order_relaxed);
        if (write ? seen == 0 : seen >= 0) {
            if (atomic_compare_exchange_strong(&at->state, &seen, write ? WRITER : seen + 1))
                return;
        } else if (spins < SPINS) {
            __builtin_ia32_pause();
        } else {
            atomic_fetch_add(&at->count, 1);
            sleep_while(&at->state, seen);
            atomic_fetch_sub(&at->count, 1);
        }
    }
}

static PyObject *side_enter(Limit *self, PyObject *unused) {
    (void)unused;
    bool write = self->parties;
    int seen = 0;
    if (write ? !atomic_compare_exchange_strong(&self->at->state, &seen, WRITER)
              : ((seen = atomic_load(&self->at->state)) < 0 ||
                 !atomic_compare_exchange_strong(&self->at->state, &seen, seen + 1))) {
        Py_BEGIN_ALLOW_THREADS
        enter_readers(self->at, write);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

static PyObject *side_leave(Limit *self, PyObject *unused) {
    (void)unused;
    int left = self->parties ? (atomic_store(&self->at->state, 0), 0) : atomic_fetch_sub(&self->at->state, 1) - 1;
    if (left == 0 && atomic_load(&self->at->count))
        wake(&self->at->state, INT_MAX);
    Py_RETURN_NONE;
}

static PyObject *side_exit(Limit *self, PyObject *const *args, Py_ssize_t count) {
    (void)args, (void)count;
    return side_leave(self, NULL);
}

/* -- a barrier: the last one to arrive counts the round on; the others yield for a while, then sleep */

static PyObject *barrier_wait(Limit *self, PyObject *unused) {
    (void)unused;
    struct shared *at = self->at;
    int round = atomic_load(&at->state);
    if (atomic_fetch_add(&at->count, 1) + 1 == self->parties) {
        atomic_store(&at->count, 0);
        atomic_fetch_add(&at->state, 1);
        wake(&at->state, INT_MAX);
        Py_RETURN_NONE;
    }
    Py_BEGIN_ALLOW_THREADS
    for (int yields = 0; yields < self->yields && atomic_load(&at->state) == round; yields++)
        sched_yield();
    while (atomic_load(&at->state) == round)
        sleep_while(&at->state, round);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

#define METHODS(kind, enter, leave)                                              \
    static PyMethodDef kind##_methods[] = {                                      \
        {"acquire", (PyCFunction)enter, METH_NOARGS, NULL},                      \
        {"release", (PyCFunction)leave, METH_NOARGS, NULL},                      \
        {"__enter__", (PyCFunction)enter, METH_NOARGS, NULL},                    \
        {"__exit__", (PyCFunction)(void (*)(void))kind##_exit, METH_FASTCALL, NULL}, \
        {"prepare", (PyCFunction)robust_prepare, METH_NOARGS, NULL},             \
        {NULL, NULL, 0, NULL},                                                   \
    }

METHODS(futex, futex_acquire, futex_release);
METHODS(robust, robust_acquire, robust_release);
METHODS(side, side_enter, side_leave);

static PyMethodDef barrier_methods[] = {
    {"wait", (PyCFunction)barrier_wait, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int add(PyObject *module, const char *name, PyMethodDef *methods) {
    PyType_Slot slots[] = {
        {Py_tp_new, limit_new}, {Py_tp_dealloc, limit_dealloc}, {Py_tp_methods, methods}, {0, NULL},
    };
    PyType_Spec spec = {name, sizeof(Limit), 0, Py_TPFLAGS_DEFAULT, slots};
    return PyModule_AddType(module, (PyTypeObject *)PyType_FromSpec(&spec));
}

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "limit", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_limit(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && (add(module, "limit.Futex", futex_methods) < 0 || add(module, "limit.Robust", robust_methods) < 0 ||
                   add(module, "limit.Side", side_methods) < 0 || add(module, "limit.Barrier", barrier_methods) < 0))
        Py_CLEAR(module);
    return module;
}
