"""Float islands: each operation is imported through TVM, and compared with torch before it is used.

operation    what one call of a graph computes, and the plain program that compiles to that
spellings    operators that TVM gets wrong, or does not know, in terms of those that it gets right
samples      what an operation is tried on
proof        the island's code beside torch, by `trial` and `worker` in a process of its own
kept         islands that were proven before
"""
