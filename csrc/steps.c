/* Events, once and barriers, step by step, as the store in Python uses them. */
#include "regions.h"

/* -- events */

PyObject *region_set(RegionObject *self, PyObject *flag) {
    return PyBool_FromLong((flag == Py_True ? event_set : event_clear)(self->o));
}

PyObject *region_is_set(RegionObject *self, PyObject *unused) {
    (void)unused;
    return PyBool_FromLong(event_is_set(self->o));
}

/* -- once */

PyObject *region_settle(RegionObject *self, PyObject *args) {
    unsigned long long session, serial;
    int failed, keep;
    struct place at = {0};
    if (!PyArg_ParseTuple(args, "KKpp", &session, &serial, &failed, &keep))
        return NULL;
    if (!place_find(self->o, session, serial, &at))
        Py_RETURN_FALSE;
    admission_recall(self->o, &at);
    return PyBool_FromLong(once_settle(self->o, &at, !keep ? HANDED : failed ? KEPT_ERROR : KEPT_VALUE) == LEFT);
}

PyObject *region_forget(RegionObject *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(once_forget(self->o));
}

PyObject *region_remember(RegionObject *self, PyObject *args) {
    unsigned long long attempt;
    PyObject *result, *before = self->result;
    if (!PyArg_ParseTuple(args, "KO", &attempt, &result))
        return NULL;
    Py_INCREF(result);
    self->result = result;
    self->known = attempt;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

PyObject *region_recall(RegionObject *self, PyObject *attempt) {
    bool same = self->result && PyLong_AsUnsignedLongLong(attempt) == self->known && !PyErr_Occurred();
    PyObject *result = same ? self->result : Py_None;
    Py_INCREF(result);
    return PyErr_Occurred() ? (Py_DECREF(result), NULL) : result;
}

/* The attempt at which a ticket works; 0 if it does not. */
PyObject *region_works(RegionObject *self, PyObject *args) {
    unsigned long long session, serial, attempt = 0;
    struct place at = {0};
    if (!PyArg_ParseTuple(args, "KK", &session, &serial))
        return NULL;
    if (place_find(self->o, session, serial, &at)) {
        admission_recall(self->o, &at);
        attempt = at.held ? load_relaxed(&at.cell->token) : 0;
    }
    return PyLong_FromUnsignedLongLong(attempt);
}

/* Where attempts began to count, the last one, the last whose result was handed out, whether the last one's result is
 * kept, and the session of a worker that died since there was a result, or 0. */
PyObject *region_attempts(RegionObject *self, PyObject *unused) {
    (void)unused;
    uint64_t last, permit = load_seq(&self->o->permit[0]);
    bool kept = once_look(self->o, false, &last) == KEPT;
    unsigned long long floor = load_relaxed(&self->o->counter), handed = load_seq(&self->o->handed),
                       lost = permit & LOST ? load_seq(&self->o->lost) : 0;
    return Py_BuildValue("KKKOK", floor, (unsigned long long)last, handed, kept ? Py_True : Py_False, lost);
}

/* -- barriers */

PyObject *region_join(RegionObject *self, PyObject *args) {
    unsigned long long session, serial;
    struct place at;
    if (!PyArg_ParseTuple(args, "KK", &session, &serial))
        return NULL;
    life mine = lives_mine(self->lives);
    if (mine == 0)
        return NULL;
    (void)cells_sweep(self->o, self->lives->table);
    return PyBool_FromLong(barrier_join(self->o, self->lives->table, mine, session, serial, &at));
}

PyObject *region_engage(RegionObject *self, PyObject *args) {
    unsigned int parties;
    unsigned long long generations;
    if (!PyArg_ParseTuple(args, "IK", &parties, &generations))
        return NULL;
    return PyBool_FromLong(barrier_engage(self->o, self->lives->table, parties, generations));
}

PyObject *region_move(RegionObject *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(barrier_move(self->o));
}

PyObject *region_waiting(RegionObject *self, PyObject *unused) {
    (void)unused;
    uint32_t parties, arrived = barrier_waiting(self->o, &parties);
    return Py_BuildValue("II", arrived, parties);
}
