"""Tuning: which level and how many threads run a pass, by the time of the steps that are taken.

All levels and all numbers of threads give the same bits, so any step may be run in any of these
*ways*. The engine times the steps that are taken anyway, those of a few microseconds excepted, and
for each *kind* of work keeps to the way that was fastest. What a machine, its neighbours or the
program itself do to a step is all in its time: what waking a worker costs, whether a BLAS holds the
other core, whether long vectors slow the clock.

A `Choice` is what the process knows of one kind: a pass of a rule over arrays of some types and
layouts, as many bytes in all as make up half an octave. Optimizers that are made later go on from
there.

A *trial* sets a rival beside the best way known: one level up or down, twice or half the threads.
The two take turns. The steps of the first 0.2 ms of a turn, one of them at least, do not count:
they find the caches as the other way has left them, and workers asleep that stay awake from then
on, if steps follow each other closely. The median of the next three is what counts. A pair of turns
is won by the rival if that is lower by two per cent, and the trial by a lead of three pairs. It is
lost with the first pair, or with the lead. So noise seldom changes a choice, and a rival that is
slower runs four steps in most cases, or those of some 0.3 ms.

Trials start with the first steps. What a lost trial has cost, in time above the best way's, decides
when that rival is tried again: when the steps taken since have taken `RARITY` times as long. So
trials cost 1 % of the time of steps, after the first ones. If steps take a quarter longer than they
used to, eight times in a row, something around them has changed, and all rivals are due.

This room knows ways by number, and neither arrays nor loops.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from fastoptim._engine.threads cimport UNLOCK, allowed_threads, threads_for, whose_workers

from contextlib import contextmanager

cdef extern from "clock.h":
    int64_t fo_now_ns()

cdef enum:
    WARM_UP = 200000  # nanoseconds of steps at the start of a turn that do not count
    WON = 4  # the score that wins a trial, which starts at 1 and is lost with 0
    MOST_PAIRS = 12  # of a trial; who has not won by then has lost
    RARITY = 400  # a hundred for each of the four rivals: 1 % for all of them together
    LONGEST = 4  # times the usual time that a step counts as cost, which a break of seconds is not
    SHIFTED = 8  # steps in a row, a quarter slower than usual, after which all rivals are due
    MORE_THREADS = 0  # the directions in which a rival lies; opposite ones differ by 2
    LOWER_LEVEL = 1
    FEWER_THREADS = 2
    HIGHER_LEVEL = 3
    RIVALS = 4

cdef bint on = True
cdef str fixed_level = None
cdef int fixed_threads = 0
cdef object fake_clock = None
cdef dict choices = {}  # by kind
cdef Way latest = Way(0, 0)  # the last that a pass was told to run in


cdef int64_t now():
    return fo_now_ns() if fake_clock is None else <int64_t> fake_clock()


cdef class Choice:
    """The way that one kind of work is run, and the trial under way.

    Parameters
    ----------
    name : str
        What people call the kind.
    levels : int
        How many levels there are.
    level, threads : int
        The way to begin with.
    allowed : int
        The most threads.
    least : int, optional
        The fewest bytes that the kind moves, for people to read.
    """

    def __init__(
        self, str name, int levels, int level, int threads, int allowed, Py_ssize_t least=0
    ):
        self.name, self.levels, self.allowed, self.least = name, levels, allowed, least
        self.best = self.rival = Way(level, min(threads, allowed))
        self.direction = -1

    @property
    def way(self):
        """The number of the level and that of threads that are used, outside of trials."""
        return self.best.level, self.best.threads

    @property
    def trying(self):
        """Whether a trial is under way."""
        return self.direction >= 0

    def upcoming(self):
        """Return the way that the next step is run."""
        cdef Way way = self.next()
        return way.level, way.threads

    def took(self, way, int64_t ns):
        """Learn how many nanoseconds a step took."""
        self.learn(Way(way[0], way[1]), ns)

    cdef Way next(self) noexcept:
        with cython.critical_section(self):
            if self.direction < 0:
                self.begin()
            return self.rival if self.direction >= 0 and self.turn % 2 else self.best

    cdef void learn(self, Way way, int64_t ns) noexcept:
        with cython.critical_section(self):  # plans of several threads share a choice
            self.note(way, ns)

    cdef void note(self, Way way, int64_t ns) noexcept:
        cdef Way expected = self.next()
        self.total += ns
        # Another thread, or a step under another limit, may have run in another way.
        if way.level != expected.level or way.threads != expected.threads:
            return
        if self.direction < 0:
            self.watch(ns)
            return
        if self.turn % 2 or (self.turn > 0 and self.warm == 0):
            self.cost += max(min(ns, LONGEST * self.usual) - self.usual, <int64_t> 0)
        if self.warm < WARM_UP:
            self.warm += ns
            return
        self.samples[self.taken] = ns
        self.taken += 1
        if self.taken < SAMPLES:
            return
        self.taken = self.warm = 0
        if self.turn % 2 == 0:
            self.with_best = median(self.samples)
            if self.turn == 0:
                self.usual = self.with_best
            self.turn += 1
        else:
            self.compare(median(self.samples))

    cdef void watch(self, int64_t ns) noexcept:
        """Make all rivals due if steps have become slower, but not again and again."""
        self.slower = self.slower + 1 if 4 * ns > 5 * self.usual else 0
        if self.slower >= SHIFTED and self.total >= self.shift_due:
            self.slower = 0
            self.shift_due = self.total + RARITY * ns
            self.due = [0, 0, 0, 0]

    cdef void begin(self) noexcept:
        """Begin a trial of the first rival that is due, if one is."""
        cdef int direction
        for direction in range(RIVALS):
            if self.total >= self.due[direction] and self.neighbour(direction):
                self.direction, self.turn, self.taken, self.score = direction, 0, 0, 1
                self.cost = self.warm = 0
                self.trials += 1
                return

    cdef bint neighbour(self, int direction) noexcept:
        """Make the way that lies in a direction the rival, if there is one."""
        cdef Way way = self.best
        if direction == MORE_THREADS:
            way.threads = min(2 * way.threads, self.allowed)
        elif direction == FEWER_THREADS:
            way.threads = (way.threads + 1) // 2
        elif direction == LOWER_LEVEL:
            way.level = max(way.level - 1, 0)
        else:
            way.level = min(way.level + 1, self.levels - 1)
        self.rival = way
        return way.level != self.best.level or way.threads != self.best.threads

    cdef void compare(self, int64_t with_rival) noexcept:
        """Decide who has won a pair of turns, and whether that decides the trial."""
        self.score += 1 if 50 * with_rival < 49 * self.with_best else -1
        self.turn += 1
        if self.score == WON:
            self.usual = with_rival
        if self.score == WON or self.score == 0 or self.turn == 2 * MOST_PAIRS:
            self.end(self.score == WON)

    cdef void end(self, bint won) noexcept:
        """End a trial, and say when rivals are due."""
        cdef int opposite = self.direction ^ 2
        cdef int tried = opposite if won else self.direction
        self.spent += self.cost
        if won:
            self.best = self.rival
            self.changes += 1
            self.due = [0, 0, 0, 0]  # what lost beside another way may win beside this one
        self.due[tried] = self.total + RARITY * max(self.cost, self.usual)
        self.direction = -1
        self.slower = 0


cdef int64_t median(int64_t* x) noexcept:
    """Return the median of three numbers."""
    return max(min(x[0], x[1]), min(max(x[0], x[1]), x[2]))


cdef class Tuned:
    """A pass of one plan, which runs in the way chosen for its kind.

    Parameters
    ----------
    name : str
        Pass and rule, as people call them.
    levels : tuple of str
        The levels whose loops there are, lowest first.
    """

    def __cinit__(self, str name, tuple levels):
        self.name, self.levels = name, levels

    cdef Way begin(self, Py_ssize_t traffic, int kind, bint fresh):
        """Return how to run the pass, and start the clock.

        The kind is made of bits. The time of a fresh step, which touches memory for the first time,
        does not count.
        """
        global latest
        latest = self.choose(traffic, kind, fresh)
        return latest

    cdef Way choose(self, Py_ssize_t traffic, int kind, bint fresh):
        cdef int top = len(self.levels) - 1, size, whose
        cdef Way way
        self.timed = False
        if not on or traffic < UNLOCK or fixed_level is not None or fixed_threads:
            way.level = top if fixed_level is None else self.levels.index(fixed_level)
            way.threads = fixed_threads or threads_for(traffic)
            if fixed_threads > 1:
                way.threads = min(fixed_threads, allowed_threads())
            return way
        size, whose = size_class(traffic), whose_workers()
        if self.choice is None or kind != self.kind or size != self.size or whose != self.whose:
            self.kind, self.size, self.whose = kind, size, whose
            self.find(allowed_threads())
        way = self.choice.next()
        if way.threads > 1 or self.choice.allowed == 1:
            if allowed_threads() != self.choice.allowed:
                self.find(allowed_threads())
                way = self.choice.next()
        self.way, self.timed = way, not fresh
        if self.timed:
            self.start = now()
        return way

    cdef void end(self, bint as_asked) noexcept:
        """Stop the clock, and learn from the time, unless the workers were busy elsewhere."""
        if self.timed and as_asked:
            self.choice.learn(self.way, now() - self.start)

    cdef find(self, int allowed):
        """Find what the process knows of the kind."""
        cdef tuple key = (self.name, self.levels, self.kind, self.size, self.whose, allowed)
        cdef Py_ssize_t least
        self.choice = choices.get(key)
        if self.choice is None:
            least = least_of(self.size)
            self.choice = choices.setdefault(key, Choice(
                f"{self.name} {kind_name(self.kind)}", len(self.levels), len(self.levels) - 1,
                threads_for(least), allowed, least,
            ))


cdef int size_class(Py_ssize_t traffic) noexcept:
    """Return the number of the half octave in which a number of bytes lies."""
    cdef int bit = 0
    cdef uint64_t rest = <uint64_t> traffic
    while rest > 3:
        rest >>= 1
        bit += 1
    return 2 * bit + <int> (rest == 3)


cdef Py_ssize_t least_of(int size) noexcept:
    """Return the fewest bytes of a half octave."""
    return (<Py_ssize_t> 2 + size % 2) << (size // 2)


cdef str kind_name(int kind):
    """Return what people call a kind."""
    words = {
        SINGLE: "float32", DOUBLE: "float64", GATHERED: "gathered", STAGED: "staged",
        SMALL: "small arrays", SOME_ROWS: "rows",
    }
    return ", ".join(word for bit, word in words.items() if kind & bit)


def set_tuning(bint wanted):
    """Say whether steps are timed; return what was said before."""
    global on
    old, on = on, wanted
    return old


def is_tuning():
    """Tell whether steps are timed."""
    return on


def running():
    """Return the way in which the latest pass of the process runs, or has run."""
    return latest.level, latest.threads


def set_clock(clock):
    """Take the time from a function that returns nanoseconds; None is the system's clock."""
    global fake_clock
    fake_clock = clock


def forget():
    """Forget all choices; plans that have one keep it until they next look it up."""
    choices.clear()


def chosen():
    """Return the choices of the process, the most time-consuming first."""
    return sorted(choices.values(), key=lambda choice: -choice.total)


@contextmanager
def fixed(level=None, threads=None):
    """Run all passes at a level, on so many threads as are allowed, or both, inside of a ``with``.

    All threads of the process do.
    """
    global fixed_level, fixed_threads
    old = fixed_level, fixed_threads
    fixed_level, fixed_threads = level, threads or 0
    try:
        yield
    finally:
        fixed_level, fixed_threads = old
