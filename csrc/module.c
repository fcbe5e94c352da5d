/* The extension module: see README.md. */
#include "module.h"

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Objects in shared memory; see interlock.shm.", -1, NULL, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&definition);
    int (*const parts[])(PyObject *) = {add_tables, add_regions, add_seats, add_locks, add_meetings,
                                             add_looks};
    for (size_t i = 0; module && i < sizeof parts / sizeof parts[0]; i++)
        if (parts[i](module) < 0)
            Py_CLEAR(module);
    return module;
}
