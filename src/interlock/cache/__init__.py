"""Cache: values on disk that many processes share, each computed once, never read half-written or damaged.

    cache = session.cache("null distributions", limit_bytes=10 * 2**30)
    null = cache.get_or_compute((n_positive, n_total, seed), lambda: simulate(n_positive, n_total, seed))

    @cache.memoize(version=2)
    def distances(path, metric="cosine"): ...

One file per entry, named by a digest of its key (`interlock.keys`), stored without pickle (`interlock.codecs`), and
whole or absent (`interlock.entries`).

1. Reads take no lock. What a process has read before costs one look at the file's state.
2. Of all processes and hosts in the session's scope one computes a missing value, and the others wait for it; if it
   dies, the next one computes. Whoever does not share the scope may compute too: then the last to finish wins.
3. An entry that is damaged, cut, or not an entry at all is a miss: it is removed, reported once, and computed again.
4. A cache makes nothing fail that would work without it: when the disk is full or may not be written, values are
   computed and returned, with a warning.

Layer: above `session`.
"""

from interlock.cache.cache import Cache, Stats

__all__ = ["Cache", "Stats"]
