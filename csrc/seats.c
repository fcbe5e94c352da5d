/* Seats and grants, and what all faces have. */
#include "seat.h"

#include <stddef.h>
#include <structmember.h>

#define SEAT_SERIAL (UINT64_C(1) << 40) /* tickets of seats count from here; those of Python from 1 */

PyObject *name_timeout;
static uint64_t serials = SEAT_SERIAL;
static PyTypeObject *seat_type;

bool sit(Seat *seat) {
    LivesObject *own = seat->region->lives;
    if (own->forks != life_forks() || seat->left)
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

PyObject *grant_of(Seat *seat, PyObject *lock) {
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

void drop_grant(Seat *seat) {
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
    self->left = rise(self);
    return PyBool_FromLong(self->left);
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
    {"rise", (PyCFunction)seat_rise, METH_NOARGS, "Leave for good, unless it is in use; whether it was not."},
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

/* -- faces */

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

int face_traverse(Face *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->ways[0]);
    Py_VISIT(self->ways[1]);
    return 0;
}

int face_clear(Face *self) {
    Py_CLEAR(self->ways[0]);
    Py_CLEAR(self->ways[1]);
    return 0;
}

void face_dealloc(Face *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack((PyObject *)self);
    (void)face_clear(self);
    Py_XDECREF((PyObject *)self->seat);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

PyGetSetDef face_members[] = {
    {"_seat", (getter)face_get_seat, (setter)face_set_seat, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

bool plain(PyObject *timeout, double *seconds) {
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

PyObject *timeout_of(PyObject *const *args, Py_ssize_t count, PyObject *names) {
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    if (count + named == 0)
        return Py_None;
    if (count + named == 1 && (count == 1 || PyUnicode_Compare(PyTuple_GetItem(names, 0), name_timeout) == 0))
        return args[0];
    PyErr_SetString(PyExc_TypeError, "it takes one argument, timeout");
    return NULL;
}

bool keep_name(PyObject **name, const char *text) {
    *name = PyUnicode_InternFromString(text);
    return *name != NULL;
}

int add_seats(PyObject *module) {
    if (!keep_name(&name_timeout, "timeout") || add_type(module, &grant_spec, NULL) < 0)
        return -1;
    return add_type(module, &seat_spec, &seat_type);
}
