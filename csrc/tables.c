/* Tables of lives, and the wake-up words of other files, as the stores in Python use them. */
#include "module.h"

#include <errno.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "park.h"

PyTypeObject *lives_type;

void *map_file(int fd, size_t *size) {
    struct stat about;
    if (fstat(fd, &about) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    *size = (size_t)about.st_size;
    void *at = *size ? mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (at == MAP_FAILED) {
        if (*size == 0)
            errno = EINVAL;
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    return at;
}

static PyObject *blank_lives(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *content = PyBytes_FromStringAndSize(NULL, sizeof(struct lives));
    if (content)
        lives_blank((struct lives *)PyBytes_AsString(content));
    return content;
}

/* -- lives */

static PyObject *lives_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    (void)named;
    int fd;
    size_t size;
    if (!PyArg_ParseTuple(args, "i", &fd))
        return NULL;
    struct lives *table = map_file(fd, &size);
    if (table == NULL)
        return NULL;
    if (size < sizeof *table || !lives_sound(table, size)) {
        munmap(table, size);
        PyErr_SetString(PyExc_ValueError, "it is not a table of lives of this version of interlock");
        return NULL;
    }
    LivesObject *self = (LivesObject *)PyType_GenericAlloc(type, 0);
    if (self)
        self->table = table; /* mapped until the process ends: the kernel writes into it then */
    return (PyObject *)self;
}

static PyObject *lives_begin(LivesObject *self, PyObject *unused) {
    (void)unused;
    life mine;
    Py_BEGIN_ALLOW_THREADS
    mine = life_begin(self->table);
    Py_END_ALLOW_THREADS
    if (mine == 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    self->mine = mine;
    self->forks = life_forks();
    Py_RETURN_NONE;
}

life lives_mine(LivesObject *lives) {
    if (lives->mine && lives->forks == life_forks())
        return lives->mine;
    PyErr_SetString(PyExc_RuntimeError, "this process has not begun its life here");
    return 0;
}

static void plain_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMethodDef lives_methods[] = {
    {"begin", (PyCFunction)lives_begin, METH_NOARGS, "Begin the life of this process. Callers exclude one another."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lives_slots[] = {
    {Py_tp_doc, "Lives(fd): a mapped table of the lives of processes."},
    {Py_tp_new, lives_new},
    {Py_tp_dealloc, plain_dealloc},
    {Py_tp_methods, lives_methods},
    {0, NULL},
};

static PyType_Spec lives_spec = {
    "interlock._native.Lives", sizeof(LivesObject), 0, Py_TPFLAGS_DEFAULT, lives_slots,
};

/* -- words of other files */

/* The word of a writable buffer at an index; NULL with an exception if there is none. */
static word32 *word_of(Py_buffer *words, unsigned int index) {
    if ((size_t)words->len / sizeof(word32) <= index || (uintptr_t)words->buf % sizeof(word32)) {
        PyErr_SetString(PyExc_IndexError, "there is no such word");
        return NULL;
    }
    return (word32 *)words->buf + index;
}

static PyObject *park_word(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer words;
    unsigned int index, seen;
    double seconds;
    bool quiet = true;
    if (!PyArg_ParseTuple(args, "w*IId", &words, &index, &seen, &seconds))
        return NULL;
    word32 *word = word_of(&words, index);
    if (word) {
        Py_BEGIN_ALLOW_THREADS
        quiet = park(word, seen, seconds < 1e9 ? (int64_t)(seconds * 1e9) : INT64_MAX);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&words);
    if (word == NULL || (!quiet && PyErr_CheckSignals() != 0))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *unpark_word(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer words;
    unsigned int index;
    if (!PyArg_ParseTuple(args, "w*I", &words, &index))
        return NULL;
    word32 *word = word_of(&words, index);
    if (word) {
        (void)add_seq(word, 1);
        unpark(word, INT_MAX);
    }
    PyBuffer_Release(&words);
    if (word == NULL)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"park", park_word, METH_VARARGS, "(words, index, seen, seconds): sleep while a word of a buffer is as seen."},
    {"unpark", unpark_word, METH_VARARGS, "(words, index): change a word of a buffer, and wake who sleeps on it."},
    {"blank_lives", blank_lives, METH_NOARGS, "The content of a new table of lives."},
    {NULL, NULL, 0, NULL},
};

int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **kept) {
    PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(spec);
    if (type == NULL)
        return -1;
    if (kept)
        *kept = type;
    return PyModule_AddType(module, type);
}

int add_tables(PyObject *module) {
    return add_type(module, &lives_spec, &lives_type) < 0 ? -1 : PyModule_AddFunctions(module, functions);
}
