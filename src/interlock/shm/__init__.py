"""shm://name: the objects of one host at the speed of its memory.

Locks, reader-writer locks, semaphores, barriers and events are words of shared memory, moved in C (``csrc``), with the
face, the errors and the meaning of the pure machines, which stay their specification; once and fences are records in
the same directory, kept by the machines themselves.

- `interlock._native`: the core and its types; it may be missing
- `objects`: what a session in such a scope hands out; `lock` and `barrier` hold the classes
- `store`: the scope itself
"""
