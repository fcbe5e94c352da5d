"""shm://name: the objects of one host at the speed of its memory.

Locks, reader-writer locks, semaphores, barriers, events and once are words of shared memory, moved in C (``csrc``),
with the face, the errors and the meaning of the pure machines, which stay their specification; fences are records in
the same directory, kept by their machine.

- `interlock._native`: the core and its types; it may be missing
- `objects`: what a session in such a scope hands out; `lock`, `barrier`, `event` and `once` hold the classes
- `store`: the scope itself; `regions` its objects, `work` the steps of a once, `results` what came of it, `seen` what a
  machine would record
"""
