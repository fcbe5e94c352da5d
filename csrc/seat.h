/* Seats, grants and faces, as the parts of the extension share them.
 *
 * A seat is a session's own place at an object, kept from one acquire to the next. A face is the fast half of a lock or
 * a barrier: what is free is taken, and what is held given back, by one operation; what is not free is waited for here
 * for a short while. Whatever else there is to do (time-outs in words, reports, deadlocks, a second hold, another
 * thread's release) the Python class does that stands above the face, through its methods whose names begin with an
 * underscore.
 */
#ifndef INTERLOCK_SEAT_H
#define INTERLOCK_SEAT_H

#include "module.h"

typedef struct Grant {
    PyObject_HEAD
    unsigned long long token;
    double since;
    unsigned long long owner;
    unsigned long long serial;
    PyObject *lock;
    int depth;
    char recovered;
} Grant;

typedef struct {
    PyObject_HEAD
    RegionObject *region;
    PyTypeObject *granted; /* the type of its grants */
    struct place at;
    uint64_t session;
    uint64_t serial;
    Grant *grant; /* what it holds now */
    Grant *spare; /* a grant that nobody else remembers, to be used again */
    uint32_t forks;
    bool shared; /* it reads */
    bool busy; /* a thread waits with it */
    bool left; /* its session has given it up: whoever still has it takes another one */
    uint32_t joined, inside; /* at a barrier: parties that this session is, and those of them that are in it */
} Seat;

typedef struct {
    PyObject_HEAD
    Seat *seat;
    PyObject *ways[2]; /* a lock's in and out: bound __enter__ and __exit__, kept from a second `with` on */
    bool known;        /* it has been used in a first one */
} Face;

static inline bool mine(const Seat *seat) {
    return seat->at.cell && seat->forks == life_forks();
}

/* Claim a cell; false where Python takes a seat anew: in a process forked from the seat's own, or when it was left. */
bool sit(Seat *seat);

/* The grant for what the seat has just taken. */
PyObject *grant_of(Seat *seat, PyObject *lock);

/* The seat gives its grant up, and keeps the object for the next one if nobody else has it. */
void drop_grant(Seat *seat);

/* The one argument of acquire and wait, by place or by name; NULL with an exception if there is another one. */
PyObject *timeout_of(PyObject *const *args, Py_ssize_t count, PyObject *names);

/* Whether a timeout is None (then -1 seconds) or a positive number of seconds. */
bool plain(PyObject *timeout, double *seconds);

/* What every face has. */
extern PyGetSetDef face_members[];
int face_traverse(Face *self, visitproc visit, void *arg);
int face_clear(Face *self);
void face_dealloc(Face *self);

/* Keep a name for calls of methods; false with an exception if that fails. */
bool keep_name(PyObject **name, const char *text);

extern PyObject *name_timeout;

#endif
