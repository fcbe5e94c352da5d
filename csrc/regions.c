/* Regions: objects of shared memory, as the store in Python uses them. Every method is one step of an algorithm of the
 * core, on behalf of a ticket; `park` is the only one that sleeps, without the interpreter's lock. */
#include "regions.h"

#include <sys/mman.h>

#include "park.h"

PyTypeObject *region_type;

static PyObject *blank_object(PyObject *module, PyObject *args) {
    (void)module;
    int kind;
    unsigned int permits;
    unsigned long long floor;
    const char *name;
    Py_ssize_t bytes;
    if (!PyArg_ParseTuple(args, "iIKy#", &kind, &permits, &floor, &name, &bytes))
        return NULL;
    size_t size = object_size(permits);
    if (size == 0 || bytes > NAME_BYTES)
        return PyErr_Format(PyExc_ValueError, "an object has at most %u permits and %d bytes of name",
                            MOST_CELLS - ROOM, NAME_BYTES);
    void *made = PyMem_Calloc(1, size);
    if (made == NULL)
        return PyErr_NoMemory();
    object_blank(made, (enum kind)kind, permits, floor, name, (size_t)bytes);
    PyObject *content = PyBytes_FromStringAndSize(made, (Py_ssize_t)size);
    PyMem_Free(made);
    return content;
}

/* -- regions */

static PyObject *region_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    (void)named;
    int fd;
    size_t size;
    LivesObject *lives;
    if (!PyArg_ParseTuple(args, "iO!", &fd, lives_type, &lives))
        return NULL;
    struct object *o = map_file(fd, &size);
    if (o == NULL)
        return NULL;
    const char *damage = object_damage(o, size);
    RegionObject *self = damage ? NULL : (RegionObject *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        munmap(o, size);
        if (damage)
            PyErr_SetString(PyExc_ValueError, damage);
        return NULL;
    }
    Py_INCREF((PyObject *)lives);
    self->o = o;
    self->size = size;
    self->lives = lives;
    return (PyObject *)self;
}

static void region_dealloc(RegionObject *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    munmap(self->o, self->size);
    Py_XDECREF(self->result);
    Py_DECREF(self->lives);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static const char *const ANSWERS[] = {
    "granted", "waiting", "refused", "limit", "gone", "left", "retired", "waiting", "kept", "owed",
};

static PyObject *answered_of(enum answer answer, const struct place *at, uint64_t attempt) {
    unsigned long long token = attempt, since = 0;
    bool told = false;
    if (answer == GRANTED) {
        token = load_relaxed(&at->cell->token);
        since = load_relaxed(&at->cell->since);
        told = load_relaxed(&at->cell->mode) & TOLD;
    }
    return Py_BuildValue("sKOK", ANSWERS[answer], token, told ? Py_True : Py_False, since);
}

static PyObject *answered(enum answer answer, const struct place *at) {
    return answered_of(answer, at, 0);
}

static enum answer enter(struct object *o, struct place *at, bool shared, bool wait, uint64_t *attempt) {
    if (o->kind == KIND_EVENT)
        return event_enter(o, at, wait);
    return o->kind == KIND_ONCE ? once_claim(o, at, shared, wait, attempt) : admission_enter(o, at, shared, wait);
}

static enum answer turn(struct object *o, struct place *at, uint64_t *attempt) {
    if (o->kind == KIND_EVENT)
        return event_turn(o, at);
    return o->kind == KIND_ONCE ? once_turn(o, at, attempt) : admission_turn(o, at);
}

/* With such an answer a request is over. */
static void end(struct object *o, struct place *at, enum answer answer) {
    bool over = answer == REFUSED || answer == RETIRED || answer == KEPT;
    if (o->kind == KIND_ONCE && over)
        (void)once_leave(o, at);
    else if (over || (o->kind == KIND_EVENT && answer == GRANTED))
        place_free(at);
}

static PyObject *region_acquire(RegionObject *self, PyObject *args) {
    unsigned long long session, serial;
    int shared, wait;
    struct place at;
    enum answer answer;
    if (!PyArg_ParseTuple(args, "KKpp", &session, &serial, &shared, &wait))
        return NULL;
    uint64_t attempt = 0;
    if (place_find(self->o, session, serial, &at)) {
        admission_recall(self->o, &at);
        answer = turn(self->o, &at, &attempt);
        if (self->o->kind == KIND_ONCE)
            end(self->o, &at, answer);
        return answered_of(answer, &at, attempt);
    }
    if (self->o->kind == KIND_ONCE && once_look(self->o, shared, &attempt) == KEPT)
        return answered_of(KEPT, &at, attempt);
    life mine = lives_mine(self->lives);
    if (mine == 0)
        return NULL;
    if (!place_claim(self->o, self->lives->table, mine, session, serial, &at)) {
        (void)(self->o->kind == KIND_EVENT ? cells_sweep : admission_sweep)(self->o, self->lives->table);
        if (!place_claim(self->o, self->lives->table, mine, session, serial, &at))
            return answered(FULL, &at);
    }
    answer = enter(self->o, &at, shared, wait, &attempt);
    end(self->o, &at, answer);
    return answered_of(answer, &at, attempt);
}

static PyObject *region_leave(RegionObject *self, PyObject *args) {
    unsigned long long session, serial;
    int untold;
    struct place at = {0};
    if (!PyArg_ParseTuple(args, "KKp", &session, &serial, &untold))
        return NULL;
    enum answer answer = GONE;
    if (place_find(self->o, session, serial, &at)) {
        admission_recall(self->o, &at);
        answer = self->o->kind == KIND_EVENT  ? event_leave(self->o, &at)
                 : self->o->kind == KIND_ONCE ? once_leave(self->o, &at)
                                              : admission_leave(self->o, &at, untold);
    }
    return answered(answer, &at);
}

static PyObject *region_downgrade(RegionObject *self, PyObject *args) {
    unsigned long long session, serial;
    struct place at = {0};
    if (!PyArg_ParseTuple(args, "KK", &session, &serial))
        return NULL;
    enum answer answer = GONE;
    if (place_find(self->o, session, serial, &at)) {
        admission_recall(self->o, &at);
        answer = admission_downgrade(self->o, &at);
    }
    return answered(answer, &at);
}

static PyObject *region_evict(RegionObject *self, PyObject *args) {
    unsigned long long session;
    struct place at = {0};
    if (!PyArg_ParseTuple(args, "K", &session))
        return NULL;
    if (self->o->kind != KIND_BARRIER && self->o->kind != KIND_EVENT)
        return answered(admission_evict(self->o, session), &at);
    cells_evict(self->o, session);
    return answered(LEFT, &at);
}

static PyObject *region_park(RegionObject *self, PyObject *args) {
    unsigned long long session, serial;
    double seconds;
    struct place at;
    if (!PyArg_ParseTuple(args, "KKd", &session, &serial, &seconds))
        return NULL;
    if (place_find(self->o, session, serial, &at)) {
        admission_recall(self->o, &at);
        int64_t until = monotonic_ns() + (int64_t)(seconds * 1e9);
        Py_BEGIN_ALLOW_THREADS
        uint64_t attempt;
        if (self->o->kind == KIND_EVENT)
            (void)event_wait(self->o, &at, until);
        else if (self->o->kind == KIND_ONCE)
            (void)once_wait(self->o, self->lives->table, &at, until, &attempt);
        else
            (void)admission_wait(self->o, self->lives->table, &at, until);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

static bool has_permit(struct object *o, struct cell *cell) {
    struct place at = {.cell = cell, .base = load_seq(&cell->word) & ~UINT64_C(15)};
    admission_recall(o, &at);
    return at.held != 0;
}

/* Whether a death is still to be told with this permit: nobody has it, or somebody who waits for readers to go. */
static bool untold(struct object *o, uint64_t permit) {
    uint64_t owner = permit & OWNER;
    if (!(permit & LOST) || owner > o->cells)
        return false;
    enum state state = owner ? STATE(load_seq(&cells_of(o)[owner - 1].word)) : WAITS;
    return state == WAITS || state == DRAINS;
}

/* Counter, whether a death is untold, and for each cell in use: its part (r reads, x has a permit, d drains, w waits,
 * i idle, m member), arrival, session, serial, token, since, whether shared, whether told. */
static PyObject *region_snapshot(RegionObject *self, PyObject *unused) {
    (void)unused;
    struct object *o = self->o;
    PyObject *rows = PyList_New(0);
    bool lost = false;
    if (rows == NULL)
        return NULL;
    for (uint32_t i = 0; o->kind <= KIND_SEMAPHORE && i < o->permits; i++)
        lost = lost || untold(o, load_seq(&o->permit[i]));
    uint32_t used = load_seq(&o->used);
    for (uint32_t i = 0; i < used; i++) {
        struct cell *cell = &cells_of(o)[i];
        enum state state = STATE(load_seq(&cell->word));
        if (state <= CLAIMED)
            continue;
        char part[2] = {"ffffiwwdrm"[state], 0};
        bool owned = o->kind <= KIND_SEMAPHORE || o->kind == KIND_ONCE;
        if ((state == IDLE || state == WAITS) && owned && has_permit(o, cell))
            part[0] = 'x';
        uint32_t mode = load_relaxed(&cell->mode);
        PyObject *row = Py_BuildValue("sKKKKKOO", part, (unsigned long long)load_relaxed(&cell->arrival),
                                      (unsigned long long)load_relaxed(&cell->session),
                                      (unsigned long long)load_relaxed(&cell->serial),
                                      (unsigned long long)load_relaxed(&cell->token),
                                      (unsigned long long)load_relaxed(&cell->since),
                                      mode & SHARED ? Py_True : Py_False,
                                      mode & TOLD ? Py_True : Py_False);
        if (row == NULL || PyList_Append(rows, row) < 0) {
            Py_XDECREF(row);
            Py_DECREF(rows);
            return NULL;
        }
        Py_DECREF(row);
    }
    return Py_BuildValue("KON", (unsigned long long)admission_token(o), lost ? Py_True : Py_False, rows);
}

static PyObject *region_retire(RegionObject *self, PyObject *unused) {
    (void)unused;
    if (self->o->kind == KIND_BARRIER)
        Py_RETURN_TRUE;
    if (self->o->kind == KIND_EVENT)
        return PyBool_FromLong(event_retire(self->o));
    life mine = lives_mine(self->lives);
    return mine ? PyBool_FromLong(admission_retire(self->o, self->lives->table, mine)) : NULL;
}

static PyObject *region_get(RegionObject *self, void *which) {
    struct object *o = self->o;
    if (which)
        return PyBytes_FromStringAndSize((const char *)o->name, (Py_ssize_t)o->name_bytes);
    return Py_BuildValue("(II)", o->kind, o->permits);
}

static PyGetSetDef region_members[] = {
    {"shape", (getter)region_get, NULL, "Kind and number of permits.", NULL},
    {"name", (getter)region_get, NULL, "The name, as bytes.", ""},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef region_methods[] = {
    {"acquire", (PyCFunction)region_acquire, METH_VARARGS, "(session, serial, shared, wait): enter, or look again."},
    {"leave", (PyCFunction)region_leave, METH_VARARGS, "(session, serial, untold): give back or give up."},
    {"downgrade", (PyCFunction)region_downgrade, METH_VARARGS, "(session, serial): from writer to reader."},
    {"evict", (PyCFunction)region_evict, METH_VARARGS, "(session): clear away what it has here."},
    {"park", (PyCFunction)region_park, METH_VARARGS, "(session, serial, seconds): sleep until its turn."},
    {"snapshot", (PyCFunction)region_snapshot, METH_NOARGS, "Who stands here."},
    {"retire", (PyCFunction)region_retire, METH_NOARGS, "Close for ever, if nobody uses it."},
    {"set", (PyCFunction)region_set, METH_O, "(flag): set or clear an event; False if it is closed."},
    {"is_set", (PyCFunction)region_is_set, METH_NOARGS, "Whether an event is set."},
    {"settle", (PyCFunction)region_settle, METH_VARARGS, "(session, serial, failed, keep): the work is done."},
    {"works", (PyCFunction)region_works, METH_VARARGS, "(session, serial): the attempt at which it works, or 0."},
    {"remember", (PyCFunction)region_remember, METH_VARARGS, "(attempt, outcome): what this process has read."},
    {"recall", (PyCFunction)region_recall, METH_O, "(attempt): the outcome that was remembered, or None."},
    {"forget", (PyCFunction)region_forget, METH_NOARGS, "Drop the result; returns the last attempt without one."},
    {"attempts", (PyCFunction)region_attempts, METH_NOARGS, "Floor, last, last handed out, whether kept, who died."},
    {"join", (PyCFunction)region_join, METH_VARARGS, "(session, serial): become a party."},
    {"engage", (PyCFunction)region_engage, METH_VARARGS, "(parties, generations): meet here from now on."},
    {"move", (PyCFunction)region_move, METH_NOARGS, "Have the machine decide; returns the rounds that passed."},
    {"waiting", (PyCFunction)region_waiting, METH_NOARGS, "How many parties wait here, of how many."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot region_slots[] = {
    {Py_tp_doc, "Region(fd, lives): a mapped object."},
    {Py_tp_new, region_new},
    {Py_tp_dealloc, region_dealloc},
    {Py_tp_methods, region_methods},
    {Py_tp_getset, region_members},
    {0, NULL},
};

static PyType_Spec region_spec = {
    "interlock._native.Region", sizeof(RegionObject), 0, Py_TPFLAGS_DEFAULT, region_slots,
};

static PyMethodDef functions[] = {
    {"blank_object", blank_object, METH_VARARGS, "(kind, permits, floor, name): the content of a new object."},
    {NULL, NULL, 0, NULL},
};

int add_regions(PyObject *module) {
    return add_type(module, &region_spec, &region_type) < 0 ? -1 : PyModule_AddFunctions(module, functions);
}
