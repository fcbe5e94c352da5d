/* Seats, grants and the faces of objects: the part of a lock or barrier that is fast.
 *
 * A seat is a session's own place at an object, kept from one acquire to the next. What is free is taken, and what is
 * held given back, by one operation on its permit; what is not free is waited for here for a short while. Whatever else
 * there is to do (time-outs in words, reports, deadlocks, a second hold, another thread's release) the Python class does
 * that stands above the type here, through its methods whose names begin with an underscore.
 */
#include "module.h"

#include <stddef.h>
#include <structmember.h>

#include "park.h"

#define PATIENCE_NS 50000000 /* so long a wait stays here, without a word to people */
#define SEAT_SERIAL (UINT64_C(1) << 40) /* tickets of seats count from here; those of Python from 1 */

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
    uint32_t joined, inside; /* at a barrier: parties that this session is, and those of them that are in it */
} Seat;

typedef struct {
    PyObject_HEAD
    Seat *seat;
} Face;

static uint64_t serials = SEAT_SERIAL;
static PyTypeObject *seat_type;
static PyObject *name_slowly, *name_stand, *name_may_wait, *name_release, *name_timeout, *name_meet, *name_break_off;

static inline bool mine(const Seat *seat) {
    return seat->at.cell && seat->forks == life_forks();
}

/* Claim a cell; false in a process forked from the seat's own, where Python takes a seat anew. */
static bool sit(Seat *seat) {
    LivesObject *own = seat->region->lives;
    if (own->forks != life_forks())
        return false;
    life one = own->mine;
    seat->serial = ++serials;
    seat->forks = life_forks();
    struct object *o = seat->region->o;
    struct lives *lives = seat->region->lives->table;
    if (place_claim(o, lives, one, seat->session, seat->serial, &seat->at))
        return true;
    seat->at.cell = NULL;
    return false;
}

/* -- grants */

static void grant_dealloc(Grant *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    Py_XDECREF(self->lock);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMemberDef grant_members[] = {
    {"token", T_ULONGLONG, offsetof(Grant, token), 0, NULL},
    {"recovered", T_BOOL, offsetof(Grant, recovered), 0, NULL},
    {"since", T_DOUBLE, offsetof(Grant, since), 0, NULL},
    {"_owner", T_ULONGLONG, offsetof(Grant, owner), 0, NULL},
    {"_serial", T_ULONGLONG, offsetof(Grant, serial), READONLY, NULL},
    {"_depth", T_INT, offsetof(Grant, depth), 0, NULL},
    {"_lock", T_OBJECT_EX, offsetof(Grant, lock), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot grant_slots[] = {
    {Py_tp_doc, "A hold in shared memory; see interlock.Grant."},
    {Py_tp_dealloc, grant_dealloc},
    {Py_tp_members, grant_members},
    {0, NULL},
};

static PyType_Spec grant_spec = {
    "interlock._native.Grant", sizeof(Grant), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, grant_slots,
};

/* The grant for what the seat has just taken. */
static PyObject *grant_of(Seat *seat, PyObject *lock) {
    Grant *grant = seat->spare;
    seat->spare = NULL;
    if (grant == NULL) {
        grant = (Grant *)PyType_GenericAlloc(seat->granted, 0);
        if (grant == NULL) {
            (void)admission_release(seat->region->o, &seat->at, false);
            return NULL;
        }
    }
    struct cell *cell = seat->at.cell;
    grant->token = load_relaxed(&cell->token);
    grant->since = (double)load_relaxed(&cell->since) / 1e3;
    grant->recovered = (load_relaxed(&cell->mode) & TOLD) != 0;
    grant->owner = PyThread_get_thread_ident();
    grant->serial = seat->serial;
    grant->depth = 1;
    Py_INCREF(lock);
    grant->lock = lock;
    seat->grant = grant; /* the seat's own reference */
    Py_INCREF((PyObject *)grant);
    return (PyObject *)grant;
}

/* The seat gives its grant up, and keeps the object for the next one if nobody else has it. */
static void drop_grant(Seat *seat) {
    Grant *grant = seat->grant;
    seat->grant = NULL;
    if (Py_REFCNT((PyObject *)grant) == 1 && seat->spare == NULL) {
        Py_CLEAR(grant->lock);
        seat->spare = grant;
    } else {
        Py_DECREF((PyObject *)grant);
    }
}

/* -- seats */

static PyObject *seat_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    (void)named;
    RegionObject *region;
    PyObject *granted;
    unsigned long long session;
    int shared;
    if (!PyArg_ParseTuple(args, "O!OKp", region_type, &region, &granted, &session, &shared))
        return NULL;
    Seat *self = (Seat *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    Py_INCREF((PyObject *)region);
    Py_INCREF(granted);
    self->region = region;
    self->granted = (PyTypeObject *)granted;
    self->session = session;
    self->shared = shared;
    return (PyObject *)self;
}

static void seat_dealloc(Seat *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    if (mine(self) && self->grant == NULL)
        place_free(&self->at);
    Py_XDECREF((PyObject *)self->grant);
    Py_XDECREF((PyObject *)self->spare);
    Py_DECREF((PyObject *)self->region);
    Py_DECREF((PyObject *)self->granted);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* Give the seat's hold back, from any thread: whether it was still held. */
static PyObject *seat_release(Seat *self, PyObject *untold) {
    if (self->grant == NULL || !mine(self))
        Py_RETURN_FALSE;
    enum answer answer = admission_release(self->region->o, &self->at, untold == Py_True);
    if (answer == GONE)
        self->at.cell = NULL;
    drop_grant(self);
    return PyBool_FromLong(answer == LEFT);
}

/* Hand the hold, and its ticket, over to whoever knows tickets. */
static PyObject *seat_detach(Seat *self, PyObject *unused) {
    (void)unused;
    if (self->grant)
        drop_grant(self);
    self->at.cell = NULL;
    Py_RETURN_NONE;
}

/* Give the cell back, unless something is held, waited for or met there; whether nothing was. */
static bool rise(Seat *seat) {
    if (seat->grant || seat->busy || seat->inside)
        return false;
    if (mine(seat))
        place_free(&seat->at);
    seat->at.cell = NULL;
    seat->joined = 0;
    return true;
}

static PyObject *seat_rise(Seat *self, PyObject *unused) {
    (void)unused;
    return PyBool_FromLong(rise(self));
}

/* Sit at the object that has the name now, unless one cannot rise. */
static PyObject *seat_move(Seat *self, PyObject *region) {
    if (!PyObject_TypeCheck(region, region_type)) {
        PyErr_SetString(PyExc_TypeError, "a seat is at a Region");
        return NULL;
    }
    if (rise(self)) {
        RegionObject *before = self->region;
        Py_INCREF(region);
        self->region = (RegionObject *)region;
        Py_DECREF((PyObject *)before);
    }
    Py_RETURN_NONE;
}

/* One more party of this session is in the barrier: (session's serial for its cell). Whether it has a cell there. */
static PyObject *seat_enter(Seat *self, PyObject *unused) {
    (void)unused;
    struct place at;
    life one = lives_mine(self->region->lives);
    if (one == 0)
        return NULL;
    if (self->forks != life_forks())
        self->joined = self->inside = 0;
    self->forks = life_forks();
    if (++self->inside > self->joined) {
        (void)cells_sweep(self->region->o, self->region->lives->table);
        if (barrier_join(self->region->o, self->region->lives->table, one, self->session, ++serials, &at))
            self->joined++;
    }
    Py_RETURN_NONE;
}

static PyObject *seat_leave(Seat *self, PyObject *unused) {
    (void)unused;
    self->inside -= self->inside > 0;
    Py_RETURN_NONE;
}

static PyMemberDef seat_members[] = {
    {"grant", T_OBJECT, offsetof(Seat, grant), READONLY, "What it holds now, or None."},
    {"region", T_OBJECT, offsetof(Seat, region), READONLY, "Where it is."},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef seat_methods[] = {
    {"release", (PyCFunction)seat_release, METH_O, "(untold): give back what it holds; whether that was still held."},
    {"enter", (PyCFunction)seat_enter, METH_NOARGS, "One more party of this session comes to the barrier."},
    {"leave", (PyCFunction)seat_leave, METH_NOARGS, "It goes."},
    {"rise", (PyCFunction)seat_rise, METH_NOARGS, "Give the cell back, unless it is in use; whether it was not."},
    {"move", (PyCFunction)seat_move, METH_O, "(region): sit at the object that has the name now."},
    {"detach", (PyCFunction)seat_detach, METH_NOARGS, "Leave its hold and its ticket to others."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot seat_slots[] = {
    {Py_tp_doc, "Seat(region, grant type, session, shared): a session's own place at an object."},
    {Py_tp_new, seat_new},
    {Py_tp_dealloc, seat_dealloc},
    {Py_tp_members, seat_members},
    {Py_tp_methods, seat_methods},
    {0, NULL},
};

static PyType_Spec seat_spec = {"interlock._native.Seat", sizeof(Seat), 0, Py_TPFLAGS_DEFAULT, seat_slots};

/* -- locks */

static bool plain(PyObject *timeout, double *seconds) {
    *seconds = -1;
    if (timeout == Py_None)
        return true;
    if (!PyFloat_CheckExact(timeout) && !PyLong_CheckExact(timeout))
        return false;
    *seconds = PyFloat_AsDouble(timeout);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    return *seconds > 0 && *seconds < 1e9;
}

/* Wait here for a while; a new reference if it was granted, NULL with or without an exception if not. What still stands
 * in the row afterwards is in `left`, with the seat's ticket. */
static PyObject *wait_here(Face *self, Seat *seat, double seconds, struct place *left) {
    struct object *o = seat->region->o;
    struct lives *lives = seat->region->lives->table;
    int64_t began = monotonic_ns(), until = began + PATIENCE_NS;
    if (seconds >= 0 && seconds * 1e9 < PATIENCE_NS)
        until = began + (int64_t)(seconds * 1e9);
    bool entered = false;
    PyObject *grant = NULL;
    left->cell = NULL;
    seat->busy = true;
    Py_INCREF((PyObject *)seat); /* another thread may give the lock a new one meanwhile */
    for (;;) {
        enum answer answer;
        Py_BEGIN_ALLOW_THREADS
        answer = entered ? WAITING : admission_enter(o, &seat->at, seat->shared, true);
        if (answer == WAITING)
            answer = admission_wait(o, lives, &seat->at, until);
        Py_END_ALLOW_THREADS
        entered = true;
        if (answer == INTERRUPTED && PyErr_CheckSignals() == 0)
            continue;
        if (answer == GRANTED) {
            grant = grant_of(seat, (PyObject *)self);
            break;
        }
        if (answer == INTERRUPTED)
            (void)admission_leave(o, &seat->at, true);
        if (answer == WAITING)
            *left = seat->at;
        seat->at.cell = NULL;
        break;
    }
    seat->busy = false;
    Py_DECREF((PyObject *)seat);
    return grant;
}

/* Python waits further with a ticket that stands in the row. If it raises before it has begun to, a signal's handler
 * perhaps, the ticket is left here: nobody else would take its turn, and the row would stand still. */
static PyObject *go_on(Face *self, RegionObject *region, struct place *left, PyObject *timeout) {
    PyObject *serial = PyLong_FromUnsignedLongLong(load_relaxed(&left->cell->serial)), *grant = NULL;
    Py_INCREF((PyObject *)region); /* it stays mapped meanwhile */
    if (serial)
        grant = PyObject_CallMethodObjArgs((PyObject *)self, name_stand, serial, timeout, NULL);
    Py_XDECREF(serial);
    if (grant == NULL) {
        enum state state = STATE(load_seq(&left->cell->word));
        admission_recall(region->o, left);
        if (state == WAITS || state == DRAINS)
            (void)admission_leave(region->o, left, true);
    }
    Py_DECREF((PyObject *)region);
    return grant;
}

static PyObject *acquire(Face *self, PyObject *timeout) {
    Seat *seat = self->seat;
    if (seat && seat->grant == NULL && !seat->busy && (mine(seat) || sit(seat))) {
        if (admission_take(seat->region->o, &seat->at, seat->shared))
            return grant_of(seat, (PyObject *)self);
        double seconds;
        struct place left;
        if (plain(timeout, &seconds)) {
            PyObject *may = PyObject_CallMethodObjArgs((PyObject *)self, name_may_wait, NULL);
            if (may == NULL)
                return NULL;
            bool waits = may == Py_True;
            Py_DECREF(may);
            if (waits && seat == self->seat && seat->grant == NULL && !seat->busy && mine(seat)) {
                PyObject *grant = wait_here(self, seat, seconds, &left);
                if (grant || PyErr_Occurred())
                    return grant;
                if (left.cell)
                    return go_on(self, seat->region, &left, timeout);
            }
        }
    }
    if (PyErr_Occurred())
        return NULL;
    return PyObject_CallMethodObjArgs((PyObject *)self, name_slowly, timeout, NULL);
}

/* The one argument of acquire and wait, by place or by name; NULL with an exception if there is another one. */
static PyObject *timeout_of(PyObject *const *args, Py_ssize_t count, PyObject *names) {
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    if (count + named == 0)
        return Py_None;
    if (count + named == 1 && (count == 1 || PyUnicode_Compare(PyTuple_GetItem(names, 0), name_timeout) == 0))
        return args[0];
    PyErr_SetString(PyExc_TypeError, "it takes one argument, timeout");
    return NULL;
}

static PyObject *face_acquire(Face *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *timeout = timeout_of(args, count, names);
    return timeout ? acquire(self, timeout) : NULL;
}

static PyObject *release(Face *self) {
    Seat *seat = self->seat;
    if (seat && seat->grant && seat->grant->depth == 1 && mine(seat) &&
        seat->grant->owner == PyThread_get_thread_ident() &&
        admission_release(seat->region->o, &seat->at, false) == LEFT) {
        drop_grant(seat);
        Py_RETURN_NONE;
    }
    return PyObject_CallMethodObjArgs((PyObject *)self, name_release, Py_None, NULL);
}

static PyObject *face_release(Face *self, PyObject *unused) {
    (void)unused;
    return release(self);
}

static PyObject *face_enter(Face *self, PyObject *unused) {
    (void)unused;
    Seat *seat = self->seat;
    if (seat && seat->grant == NULL && !seat->busy && mine(seat) &&
        admission_take(seat->region->o, &seat->at, seat->shared))
        return grant_of(seat, (PyObject *)self);
    PyObject *timeout = PyObject_GetAttr((PyObject *)self, name_timeout);
    if (timeout == NULL)
        return NULL;
    PyObject *grant = acquire(self, timeout);
    Py_DECREF(timeout);
    return grant;
}

static PyObject *face_exit(Face *self, PyObject *const *args, Py_ssize_t count) {
    (void)args, (void)count;
    return release(self);
}

static int face_set_seat(Face *self, PyObject *seat, void *unused) {
    (void)unused;
    if (seat == NULL || (seat != Py_None && !PyObject_TypeCheck(seat, seat_type))) {
        PyErr_SetString(PyExc_TypeError, "a seat is a Seat or None");
        return -1;
    }
    Seat *before = self->seat;
    self->seat = seat == Py_None ? NULL : (Seat *)seat;
    Py_XINCREF((PyObject *)self->seat);
    Py_XDECREF((PyObject *)before);
    return 0;
}

static PyObject *face_get_seat(Face *self, void *unused) {
    (void)unused;
    PyObject *seat = self->seat ? (PyObject *)self->seat : Py_None;
    Py_INCREF(seat);
    return seat;
}

static void face_dealloc(Face *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    Py_XDECREF((PyObject *)self->seat);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyGetSetDef face_members[] = {
    {"_seat", (getter)face_get_seat, (setter)face_set_seat, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef lock_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))face_acquire, METH_FASTCALL | METH_KEYWORDS, "See interlock.Lock.acquire."},
    {"release", (PyCFunction)face_release, METH_NOARGS, "See interlock.Lock.release."},
    {"__enter__", (PyCFunction)face_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))face_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lock_slots[] = {
    {Py_tp_doc, "The fast half of a lock."},
    {Py_tp_dealloc, face_dealloc},
    {Py_tp_getset, face_members},
    {Py_tp_methods, lock_methods},
    {0, NULL},
};

static PyType_Spec lock_spec = {
    "interlock._native.Lock", sizeof(Face), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, lock_slots,
};

/* -- barriers */

#define TALK_NS INT64_C(3000000000) /* who waits longer goes to the machine, which tells people about it */

static PyObject *arrival_type;

static PyObject *passed(const struct arrival *mine) {
    return PyObject_CallFunction(arrival_type, "IK", mine->index, (unsigned long long)mine->generation);
}

static PyObject *barrier_face_wait(Face *self, PyObject *const *args, Py_ssize_t given, PyObject *names) {
    PyObject *timeout = timeout_of(args, given, names);
    double seconds;
    struct arrival mine;
    Seat *seat = self->seat;
    if (timeout == NULL)
        return NULL;
    if (seat == NULL || seat->forks != life_forks() || seat->inside >= seat->joined || !plain(timeout, &seconds))
        return PyObject_CallMethodObjArgs((PyObject *)self, name_meet, timeout, NULL);
    struct object *o = seat->region->o;
    struct lives *lives = seat->region->lives->table;
    PyObject *parties = PyObject_GetAttrString((PyObject *)self, "parties");
    uint32_t count = parties ? (uint32_t)PyLong_AsUnsignedLong(parties) : 0;
    Py_XDECREF(parties);
    if (PyErr_Occurred())
        return NULL;
    Py_INCREF((PyObject *)seat);
    seat->inside++;
    enum meeting seen = barrier_arrive(o, lives, count, &mine);
    int64_t began = monotonic_ns();
    if (seen == LATE) {
        int64_t until = began + TALK_NS;
        if (seconds >= 0 && seconds * 1e9 < TALK_NS)
            until = began + (int64_t)(seconds * 1e9);
        do {
            Py_BEGIN_ALLOW_THREADS
            seen = barrier_wait(o, lives, &mine, until);
            Py_END_ALLOW_THREADS
        } while (seen == SIGNALLED && PyErr_CheckSignals() == 0);
    }
    /* The arrival is taken back before any Python runs, which may raise at once; unless the round has passed just now. */
    bool over = (seen == LATE || seen == SIGNALLED) && barrier_move(o) != mine.round;
    seat->inside -= seat->inside > 0;
    Py_DECREF((PyObject *)seat);
    if (seen == PASSED || (seen == LATE && over))
        return passed(&mine);
    if (seen == SIGNALLED && over)
        return NULL;
    if (seen == SIGNALLED) {
        PyObject *type, *error, *trace;
        PyErr_Fetch(&type, &error, &trace);
        PyObject *told = PyObject_CallMethodObjArgs((PyObject *)self, name_break_off, type, NULL);
        Py_XDECREF(told);
        PyErr_Restore(type, error, trace); /* what the signal's handler raised is what comes out */
        return NULL;
    }
    if (seconds < 0)
        return PyObject_CallMethodObjArgs((PyObject *)self, name_meet, timeout, NULL);
    double rest = seconds - (double)(monotonic_ns() - began) / 1e9;
    PyObject *left = PyFloat_FromDouble(rest > 0 ? rest : 0), *met = NULL;
    if (left)
        met = PyObject_CallMethodObjArgs((PyObject *)self, name_meet, left, rest > 0 ? Py_False : Py_True, NULL);
    Py_XDECREF(left);
    return met;
}

static PyMethodDef barrier_methods[] = {
    {"wait", (PyCFunction)(void (*)(void))barrier_face_wait, METH_FASTCALL | METH_KEYWORDS,
     "See interlock.Barrier.wait."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot barrier_slots[] = {
    {Py_tp_doc, "The fast half of a barrier."},
    {Py_tp_dealloc, face_dealloc},
    {Py_tp_getset, face_members},
    {Py_tp_methods, barrier_methods},
    {0, NULL},
};

static PyType_Spec barrier_spec = {
    "interlock._native.Barrier", sizeof(Face), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, barrier_slots,
};

static PyObject *use_arrivals(PyObject *module, PyObject *type) {
    (void)module;
    Py_INCREF(type);
    Py_XDECREF(arrival_type);
    arrival_type = type;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"use_arrivals", use_arrivals, METH_O, "(type): what a barrier returns, made of index and generation."},
    {NULL, NULL, 0, NULL},
};

static int add(PyObject *module, PyType_Spec *spec, PyTypeObject **kept) {
    PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(spec);
    if (type == NULL)
        return -1;
    if (kept)
        *kept = type;
    return PyModule_AddType(module, type);
}

int add_seats(PyObject *module) {
    name_slowly = PyUnicode_InternFromString("_acquire_slowly");
    name_stand = PyUnicode_InternFromString("_go_on");
    name_may_wait = PyUnicode_InternFromString("_may_wait");
    name_release = PyUnicode_InternFromString("_release");
    name_timeout = PyUnicode_InternFromString("timeout");
    name_meet = PyUnicode_InternFromString("_meet");
    name_break_off = PyUnicode_InternFromString("_break_off");
    if (!name_slowly || !name_stand || !name_may_wait || !name_release || !name_timeout || !name_meet || !name_break_off)
        return -1;
    return add(module, &grant_spec, NULL) < 0 || add(module, &seat_spec, &seat_type) < 0
           || add(module, &lock_spec, NULL) < 0 || add(module, &barrier_spec, NULL) < 0
               ? -1
               : PyModule_AddFunctions(module, functions);
}
