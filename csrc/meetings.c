/* The fast half of a barrier. */
#include "seat.h"

#include <unistd.h>

#include "park.h"

#define TALK_NS INT64_C(3000000000) /* who waits longer goes to the machine, which tells people about it */

#define SPINS 40 /* looks at a round before letting others run, where each party has a processor */

static PyObject *arrival_type, *name_meet, *name_break_off, *name_parties;
static uint32_t processors;

/* The named tuple, made as a tuple is. */
static PyObject *passed(const struct arrival *mine) {
    newfunc make = (newfunc)PyType_GetSlot(&PyTuple_Type, Py_tp_new);
    PyObject *made = NULL, *members = Py_BuildValue("((IK))", mine->index, (unsigned long long)mine->generation);
    if (members)
        made = make((PyTypeObject *)arrival_type, members, NULL);
    Py_XDECREF(members);
    return made;
}

/* A round is often a matter of a microsecond, which is less than to let the interpreter go and get it back. */
static enum meeting spin(struct object *o, const struct arrival *mine, uint32_t parties) {
    enum meeting seen = LATE;
    for (int spins = 0; parties <= processors && seen == LATE && spins < SPINS; spins++) {
        relax();
        seen = barrier_standing(o, mine);
    }
    return seen;
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
    PyObject *parties = PyObject_GetAttr((PyObject *)self, name_parties);
    uint32_t count = parties ? (uint32_t)PyLong_AsUnsignedLong(parties) : 0;
    Py_XDECREF(parties);
    if (PyErr_Occurred())
        return NULL;
    Py_INCREF((PyObject *)seat);
    seat->inside++;
    enum meeting seen = barrier_arrive(o, lives, count, &mine);
    if (seen == LATE)
        seen = spin(o, &mine, count);
    int64_t began = seen == PASSED ? 0 : monotonic_ns();
    if (seen == LATE) {
        int64_t until = began + TALK_NS;
        if (seconds >= 0 && seconds * 1e9 < TALK_NS)
            until = began + (int64_t)(seconds * 1e9);
        do {
            Py_BEGIN_ALLOW_THREADS
            seen = barrier_wait(o, lives, &mine, until);
            Py_END_ALLOW_THREADS
        } while (seen == STOPPED && PyErr_CheckSignals() == 0);
    }
    /* The arrival is taken back before any Python runs, which may raise at once; unless the round has passed. */
    bool over = (seen == LATE || seen == STOPPED) && barrier_move(o) != mine.round;
    seat->inside -= seat->inside > 0;
    Py_DECREF((PyObject *)seat);
    if (seen == PASSED || (seen == LATE && over))
        return passed(&mine);
    if (seen == STOPPED && over)
        return NULL;
    if (seen == STOPPED) {
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
    {Py_tp_traverse, face_traverse},
    {Py_tp_clear, face_clear},
    {Py_tp_getset, face_members},
    {Py_tp_methods, barrier_methods},
    {0, NULL},
};

static PyType_Spec barrier_spec = {
    "interlock._native.Barrier", sizeof(Face), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    barrier_slots,
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

int add_meetings(PyObject *module) {
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    processors = online > 0 ? (uint32_t)online : 1;
    if (!keep_name(&name_meet, "_meet") || !keep_name(&name_break_off, "_break_off") ||
        !keep_name(&name_parties, "parties") || add_type(module, &barrier_spec, NULL) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
