/* The fast half of a lock, of either side of a reader-writer lock, and of a semaphore. */
#include "seat.h"

#include "park.h"

#define PATIENCE_NS 50000000 /* so long a wait stays here, without a word to people */

static PyObject *name_slowly, *name_stand, *name_may_wait, *name_release;

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
        if (plain(timeout, &seconds)) { /* a try, which waits for nothing, overtakes nobody either */
            if (admission_overtake(seat->region->o, &seat->at, seat->shared))
                return grant_of(seat, (PyObject *)self);
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

/* In and out. A `with` looks __enter__ and __exit__ up and binds them, at the cost of the lock itself. A face that is
 * used again keeps what is bound; one that is used once does not, and goes when its last name goes. */
static PyMethodDef ways[] = {
    {"__enter__", (PyCFunction)face_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))face_exit, METH_FASTCALL, NULL},
};

typedef struct {
    PyObject_HEAD
    int which;
} Way;

static PyObject *way_get(Way *self, PyObject *of, PyObject *type) {
    (void)type;
    Face *face = (Face *)of;
    PyObject *bound = of ? face->ways[self->which] : (PyObject *)self;
    if (bound) {
        Py_INCREF(bound);
        return bound;
    }
    bound = PyCFunction_New(&ways[self->which], of);
    if (bound && face->known) {
        Py_INCREF(bound);
        face->ways[self->which] = bound;
    }
    face->known = face->known || self->which;
    return bound;
}

static void way_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyType_Slot way_slots[] = {
    {Py_tp_doc, "How a lock binds __enter__ or __exit__."},
    {Py_tp_descr_get, way_get},
    {Py_tp_dealloc, way_dealloc},
    {0, NULL},
};

static PyType_Spec way_spec = {
    "interlock._native.Way", sizeof(Way), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, way_slots,
};

/* Give the type of locks its ways. */
static int add_ways(PyObject *module) {
    PyObject *type = PyType_FromSpec(&way_spec), *lock = PyObject_GetAttrString(module, "Lock");
    int failed = type == NULL || lock == NULL;
    for (int which = 0; which < 2 && !failed; which++) {
        Way *way = (Way *)PyType_GenericAlloc((PyTypeObject *)type, 0);
        if (way)
            way->which = which;
        failed = way == NULL || PyObject_SetAttrString(lock, ways[which].ml_name, (PyObject *)way) < 0;
        Py_XDECREF((PyObject *)way);
    }
    Py_XDECREF(type);
    Py_XDECREF(lock);
    return failed ? -1 : 0;
}

static PyMethodDef lock_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))face_acquire, METH_FASTCALL | METH_KEYWORDS, "See interlock.Lock."},
    {"release", (PyCFunction)face_release, METH_NOARGS, "See interlock.Lock.release."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lock_slots[] = {
    {Py_tp_doc, "The fast half of a lock."},
    {Py_tp_dealloc, face_dealloc},
    {Py_tp_traverse, face_traverse},
    {Py_tp_clear, face_clear},
    {Py_tp_getset, face_members},
    {Py_tp_methods, lock_methods},
    {0, NULL},
};

static PyType_Spec lock_spec = {
    "interlock._native.Lock", sizeof(Face), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    lock_slots,
};

int add_locks(PyObject *module) {
    if (!keep_name(&name_slowly, "_acquire_slowly") || !keep_name(&name_stand, "_go_on") ||
        !keep_name(&name_may_wait, "_may_wait") || !keep_name(&name_release, "_release"))
        return -1;
    return add_type(module, &lock_spec, NULL) < 0 ? -1 : add_ways(module);
}
