/* The methods of a region that are steps of events, of once and of barriers. */
#ifndef INTERLOCK_REGIONS_H
#define INTERLOCK_REGIONS_H

#include "module.h"

PyObject *region_set(RegionObject *self, PyObject *flag);
PyObject *region_is_set(RegionObject *self, PyObject *unused);
PyObject *region_settle(RegionObject *self, PyObject *args);
PyObject *region_forget(RegionObject *self, PyObject *unused);
PyObject *region_remember(RegionObject *self, PyObject *args);
PyObject *region_recall(RegionObject *self, PyObject *attempt);
PyObject *region_works(RegionObject *self, PyObject *args);
PyObject *region_attempts(RegionObject *self, PyObject *unused);
PyObject *region_join(RegionObject *self, PyObject *args);
PyObject *region_engage(RegionObject *self, PyObject *args);
PyObject *region_move(RegionObject *self, PyObject *unused);
PyObject *region_waiting(RegionObject *self, PyObject *unused);

#endif
