/* What the parts of the extension share: the mapped objects and the types around them. */
#ifndef INTERLOCK_MODULE_H
#define INTERLOCK_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "admission.h"
#include "barrier.h"
#include "event.h"
#include "once.h"

typedef struct {
    PyObject_HEAD
    struct lives *table;
    life mine;
    uint32_t forks; /* when `mine` was begun */
} LivesObject;

typedef struct {
    PyObject_HEAD
    struct object *o;
    size_t size;
    LivesObject *lives;
    uint64_t known;   /* of a once: the attempt whose */
    PyObject *result; /* outcome this process has read */
} RegionObject;

/* The life of this process; 0 with an exception if it was not begun here. */
life lives_mine(LivesObject *lives);

extern PyTypeObject *lives_type, *region_type;

/* Map a whole file; NULL with an exception. */
void *map_file(int fd, size_t *size);

/* Add a type to the module. */
int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **kept);

/* Add the types of each part to the module. */
int add_tables(PyObject *module);
int add_regions(PyObject *module);
int add_seats(PyObject *module);
int add_locks(PyObject *module);
int add_meetings(PyObject *module);
int add_looks(PyObject *module);

#endif
