/* The fast halves of an event and of a once: where the flag is set, or the result known, a look at one word is all. */
#include "seat.h"

typedef struct {
    PyObject_HEAD
    RegionObject *region;
} Look;

static PyObject *name_is_set, *name_wait, *name_run, *name_read;

static int look_set_region(Look *self, PyObject *region, void *unused) {
    (void)unused;
    if (region == NULL || !PyObject_TypeCheck(region, region_type)) {
        PyErr_SetString(PyExc_TypeError, "a region is a Region");
        return -1;
    }
    RegionObject *before = self->region;
    Py_INCREF(region);
    self->region = (RegionObject *)region;
    Py_XDECREF((PyObject *)before);
    return 0;
}

static void look_dealloc(Look *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    Py_XDECREF((PyObject *)self->region);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *look_get_region(Look *self, void *unused) {
    (void)unused;
    PyObject *region = self->region ? (PyObject *)self->region : Py_None;
    Py_INCREF(region);
    return region;
}

static PyGetSetDef look_members[] = {
    {"_region", (getter)look_get_region, (setter)look_set_region, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* -- event */

static PyObject *event_face_is_set(Look *self, PyObject *unused) {
    (void)unused;
    if (self->region && event_is_set(self->region->o))
        Py_RETURN_TRUE;
    return PyObject_CallMethodObjArgs((PyObject *)self, name_is_set, NULL);
}

static PyObject *event_face_wait(Look *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *timeout = timeout_of(args, count, names);
    if (timeout && self->region && event_is_set(self->region->o))
        Py_RETURN_TRUE;
    return timeout ? PyObject_CallMethodObjArgs((PyObject *)self, name_wait, timeout, NULL) : NULL;
}

static PyMethodDef event_methods[] = {
    {"is_set", (PyCFunction)event_face_is_set, METH_NOARGS, "See interlock.Event.is_set."},
    {"wait", (PyCFunction)(void (*)(void))event_face_wait, METH_FASTCALL | METH_KEYWORDS, "See interlock.Event.wait."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot event_slots[] = {
    {Py_tp_doc, "The fast half of an event."},
    {Py_tp_dealloc, look_dealloc},
    {Py_tp_getset, look_members},
    {Py_tp_methods, event_methods},
    {0, NULL},
};

/* -- once */

static PyObject *once_face_run(Look *self, PyObject *fn) {
    RegionObject *region = self->region;
    uint64_t attempt;
    if (region == NULL || once_look(region->o, false, &attempt) != KEPT || attempt != region->known)
        return PyObject_CallMethodObjArgs((PyObject *)self, name_run, fn, NULL);
    PyObject *result = region->result;
    Py_INCREF(result);
    PyObject *read = PyObject_CallMethodObjArgs((PyObject *)self, name_read, result, fn, NULL);
    Py_DECREF(result);
    return read;
}

static PyMethodDef once_methods[] = {
    {"run", (PyCFunction)once_face_run, METH_O, "See interlock.Once.run."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot once_slots[] = {
    {Py_tp_doc, "The fast half of a once."},
    {Py_tp_dealloc, look_dealloc},
    {Py_tp_getset, look_members},
    {Py_tp_methods, once_methods},
    {0, NULL},
};

static PyType_Spec event_spec = {
    "interlock._native.Event", sizeof(Look), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, event_slots,
};

static PyType_Spec once_spec = {
    "interlock._native.Once", sizeof(Look), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, once_slots,
};

int add_looks(PyObject *module) {
    if (!keep_name(&name_is_set, "_is_set") || !keep_name(&name_wait, "_wait_slowly") ||
        !keep_name(&name_run, "_run_slowly") || !keep_name(&name_read, "_read"))
        return -1;
    return add_type(module, &event_spec, NULL) < 0 ? -1 : add_type(module, &once_spec, NULL);
}
