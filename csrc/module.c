/* The extension module: see README.md. */
#include "module.h"

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Objects in shared memory; see interlock.shm.", -1, NULL, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && (add_regions(module) < 0 || add_seats(module) < 0)) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
