"""The plan: what the steps of an optimizer have in common, and the order of a step.

It puts together the rooms above it: the memory that steps work on, the passes over it, and the
table of scalars. `Plan.step` then

1. asks for the scalars of this step, once for each group and step count (`Plan.ask_scalars`): the
   schedules among them are code of the user, who may do anything to any array meanwhile,
2. measures the gradients if that was asked for, and asks whether to take the step,
3. lets the passes update everything, once all arrays are checked,
4. counts the step, and changes what else is to change with it.

It knows groups only as what has scalars, and a rule only as its loops and its twin.
"""

from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident

cimport cython
cimport numpy as cnp

from fastoptim._engine.changes cimport change, swap
from fastoptim._engine.compiled cimport CompiledPasses
from fastoptim._engine.formats cimport Format
from fastoptim._engine.memory cimport Gradients, Memory
from fastoptim._engine.passes cimport Passes
from fastoptim._engine.scalars cimport ScalarTable
from fastoptim._engine.staging cimport EMA, STATE, Tensor
from fastoptim._engine.threads cimport forks
from fastoptim._engine.twins cimport NumPyPasses, check_settled, typed

import numpy as np

from fastoptim._stages import kept, own_clip_factor

cnp.import_array()

cdef extern from "Python.h":
    PyObject* PyList_GET_ITEM(list items, Py_ssize_t i)  # borrowed: items are only compared

most_state = STATE  # how many state arrays a rule may have


def measure(Gradients grads, loops):
    """Return the L2 norm of all gradients together, in whatever layout they are.

    Parameters
    ----------
    grads : Gradients
        The gradients.
    loops : RuleLoops
        As `Plan` takes them; only ``squares`` is used.

    Returns
    -------
    norm : float
        The norm.
    bad : str or None
        The label of the first gradient that holds a NaN or an infinity.
    """
    cdef CompiledPasses passes = CompiledPasses(grads, loops)
    return passes.norm(1.0, False)


def clip(Gradients grads, loops, double factor, double limit):
    """Multiply gradients by a factor, then clip each element: in place, and all of them or none.

    Parameters
    ----------
    grads : Gradients
        The gradients, checked for writing.
    loops : RuleLoops
        As `Plan` takes them; only ``clip`` is used.
    factor, limit : float
        The factor, and the largest magnitude of an element; a NaN stays. Both are rounded to the
        type of each array, as NumPy rounds a Python number.
    """
    cdef CompiledPasses passes = CompiledPasses(grads, loops)
    passes.clip(factor, limit)


cdef class Plan:
    """The steps of an optimizer.

    Parameters
    ----------
    entries : iterable of Entry
        What to step.
    labels : sequence of sequences of str
        What messages call each parameter, its gradient, each of its state arrays and, last, its
        average. It is asked only for a message.
    twins : sequence of Twin
        The rules, as entries number them.
    loops : RuleLoops or None
        What updates instead of the twins, as `CompiledPasses` takes it.
    zeroing : bool
        Whether a step leaves zeros in the gradients, each written as soon as it has been used.
    unstarted : sequence of bool
        For each parameter whether its average is to start at the next step, from what the parameter
        is then. Without this argument all averages go on from what they are.
    sums : Sums, optional
        What joins the sums of squares with those of other parts (see `fastoptim._engine.parts`).
    waves : Waves, optional
        What brings, one wave after the other, arrays that are elsewhere; then each entry has a
        range.
    watched : sequence of tuples
        ``(held, check)``: containers of the caller's, each with what it held, and a function that
        raises if an array in them was replaced. A step first compares quickly, and calls the
        function only where that does not show that all arrays are still there.

    Raises
    ------
    TypeError, ValueError
        If an array cannot be updated in place, or two arrays share memory.
    """

    cdef Memory memory
    cdef Passes passes
    cdef ScalarTable table
    cdef list twins
    cdef bint counts  # whether rules keep numbers of the steps that were taken
    cdef list upcoming  # these numbers, once the step under way is taken
    cdef bint rescales  # whether a parameter has scalars that depend on its own elements
    cdef tuple watched
    cdef dict settled  # scalars with which elements rest, by the numbers of parameters
    cdef Py_ssize_t unstarted_count
    cdef bint busy
    # ``agree(lines, grads)`` is told the scalars of a step, line by line, and the gradients as
    # arrays, once all has been checked that can be here, and before anything is shared with other
    # parts. It raises where there is to be no step.
    cdef public object agree
    cdef public bint retired  # whether another plan has taken over the arrays, for good
    cdef public str broken  # why the arrays are not to be stepped any more, or None
    cdef bint in_waves
    cdef unsigned long user  # the thread that has entered
    cdef int user_forks  # forks() when it entered, which tells a child from its parent
    cdef readonly str shows  # the call inside of which the parameters hold their averages, or None

    def __cinit__(
        self, entries, labels, twins=(), loops=None, bint zeroing=False, unstarted=(),
        watched=(), sums=None, waves=None,
    ):
        cdef Py_ssize_t i
        cdef Tensor* tensors
        self.memory, self.twins = Memory(entries, labels, zeroing, waves), list(twins)
        if loops is None:
            self.passes = NumPyPasses(self.memory, self.twins)
        else:
            if loops.rule is None or loops.count < len(self.twins):
                raise ValueError("loops: expected those of each rule, found fewer")
            self.passes = CompiledPasses(self.memory, loops)
        if sums is not None or waves is not None:
            self.passes.share(sums, waves)
        self.in_waves = waves is not None
        self.table, self.watched, self.counts = ScalarTable(), tuple(watched), False
        for i in range(self.memory.count):
            if not 0 <= self.memory.tensors[i].rule < len(self.twins):
                raise ValueError(f"rule: expected a number below {len(self.twins)}")
            self.rescales = self.rescales or self.memory.tensors[i].direction > 0
            self.counts = self.counts or len(self.memory.numbers[i]) > 0
        tensors = self.memory.tensors
        for i, new in enumerate(unstarted):
            tensors[i].unstarted = new and tensors[i].data[EMA] != NULL
            self.unstarted_count += tensors[i].unstarted

    @property
    def steps(self):
        """The number of steps that each parameter has taken."""
        return [self.memory.tensors[i].t for i in range(self.memory.count)]

    @steps.setter
    def steps(self, counts):
        cdef Py_ssize_t i, count = self.memory.count
        counts = [<Py_ssize_t> t for t in counts]
        if len(counts) != count:
            raise ValueError(f"steps: expected {count} counts, found {len(counts)}")
        self.enter()
        for i in range(count):
            self.memory.tensors[i].t = counts[i]
        self.leave()

    @property
    def numbers(self):
        """What else the rule of each parameter keeps of the steps that it has taken."""
        return list(self.memory.numbers)

    @numbers.setter
    def numbers(self, numbers):
        numbers = [<tuple?> of_one for of_one in numbers]
        if list(map(len, numbers)) != list(map(len, self.memory.numbers)):
            raise ValueError("numbers: expected as many as there are, found others")
        self.enter()
        self.memory.numbers = numbers
        self.leave()

    @property
    def unstarted(self):
        """Whether the average of each parameter is to start at the next step."""
        return [self.memory.tensors[i].unstarted for i in range(self.memory.count)]

    def step(
        self, grads, groups, double scale=1.0, changes=(), judge=None, bint flush=False,
        casting=None,
    ):
        """Take one step, and tell whether it was taken.

        Parameters
        ----------
        grads : sequence
            A gradient, or None, for each parameter.
        groups : sequence
            ``groups[k].scalars(t)``: the scalars of the t-th step of group k, three tuples: those
            of the stage before the rule, of the stage after it, and of the rule. For parameters
            with numbers it is ``groups[k].scalars(t, numbers)``, and what the numbers will be is a
            fourth tuple. ``groups[k].takes_rows(masked)`` tells whether it takes gradients that
            have but some rows, as `Hyper.takes_rows` does, else ``refuse_rows(label)`` raises.
        scale : float, optional
            What all gradients are multiplied by.
        changes : sequence, optional
            What to `change` together with the step.
        judge : function, optional
            ``judge(norm, bad)`` is told the L2 norm of the gradients, scaled, and the name of the
            first that is not finite. It returns what else to scale them by, or None to take no
            step, and what to `change` in the end.
        flush : bool, default False
            Take denormal numbers for zero in the loops, and only there.
        casting : bool, optional
            Round float64 gradients of float32 parameters, instead of refusing them. None refuses
            them, too, and a message then does not speak of a setting that its client lacks.

        Raises
        ------
        TypeError, ValueError
            If a gradient does not fit; then nothing has changed.
        RuntimeError
            If the plan is in use already, retired, or broken: an update that goes over waves may
            end in the middle, by whatever its client raises. Then some parameters have changed, and
            every further call raises.
        """
        cdef list unsettled = None  # parameters of which rows may be left out only where they rest
        self.enter()
        try:
            for held, check in self.watched:
                for given, things in <list> held:
                    if not holds(given, things):
                        check()
                        break
            self.memory.collect(grads, casting)
            if self.memory.by_rows:
                unsettled = self.check_rows(groups)
            self.ask_scalars(groups)
            if self.agree is not None:
                self.ask_others()
            if self.unstarted_count > 0:
                self.start_with_step()
            if judge is not None:
                norm, bad = self.passes.norm(scale, flush)
                factor, judged = judge(norm, bad)
                if factor is None:
                    change(judged)
                    return False
                scale *= <double> factor
                changes = [*changes, *judged]
            self.table.round(scale, flush)
            if unsettled or self.settled:
                self.settle(unsettled, flush)
            limited = self.table.limits_norms()
            if self.rescales or limited:
                self.separate_lines(scale, flush)
            if limited:
                self.limit_norms(scale, flush)
            if self.rescales:
                self.rescale_lines(scale, flush)
            if self.in_waves:
                self.update_in_waves(flush)
            else:
                self.passes.update(self.table, flush)
            self.count_step()
            if changes:
                change(changes)
            return True
        finally:
            self.memory.grads = None
            self.leave()

    def checked(self, grads, casting=None):
        """Return gradients as arrays, or None, once they have been checked as a step does."""
        self.enter()
        try:
            self.collect_alone(grads, casting)
            self.memory.bind(True)
            return list(self.memory.grads)
        finally:
            self.memory.grads = None
            self.leave()

    def measure(self, grads):
        """Return what the function `measure` returns; check the gradients as a step does."""
        self.enter()
        try:
            self.collect_alone(grads, False)
            return self.passes.norm(1.0, False)
        finally:
            self.memory.grads = None
            self.leave()

    cdef collect_alone(self, grads, casting):
        """Collect gradients for which no scalars are needed."""
        cdef Py_ssize_t i
        self.memory.collect(grads, casting)
        for i in range(self.memory.count):  # a line below 0 would tell `bind` to leave one out
            self.memory.tensors[i].line = 0 if self.memory.tensors[i].stepped else -1

    cdef list check_rows(self, groups):
        """Raise unless gradients that have but some rows come to groups that take them.

        Return the numbers of parameters whose other rows are yet to be looked at.
        """
        cdef Py_ssize_t i
        cdef list found = []
        for i in range(self.memory.count):
            if self.memory.tensors[i].in_rows:
                group = groups[self.memory.tensors[i].group]
                masked = self.memory.tensors[i].mask != NULL
                looked_at = group.takes_rows(masked)
                if looked_at is None:
                    group.refuse_rows(self.memory.gradient_label(i))
                if looked_at:
                    found.append(i)
        return found

    cdef settle(self, list unsettled, bint flush):
        """Raise unless the elements of some parameters rest where their gradient is zero.

        All of them are looked at once, and again after a step with other scalars, or with a
        gradient that has all rows.
        """
        cdef Memory memory = self.memory
        cdef Py_ssize_t i
        known, self.settled = self.settled or {}, {}
        for i in unsettled or ():
            real = (<Format> memory.formats[i]).real
            own = self.table.rounded(memory.tensors[i].line, real)[2]
            if known.get(i) != own:
                check_settled(memory, i, self.twins[memory.tensors[i].rule].update, own, flush)
            self.settled[i] = own

    cdef ask_scalars(self, groups):
        """Ask for the scalars of this step, once for each group, step count and numbers."""
        cdef Py_ssize_t i, line = -1, group = -1, t = -1
        cdef Tensor* tensors = self.memory.tensors
        cdef Tensor* tensor
        cdef bint counts = self.counts
        cdef list all_numbers = self.memory.numbers
        cdef tuple numbers = None
        cdef dict seen = None  # the lines by these three, once there is more than one
        self.table.clear()
        if counts:
            self.upcoming = list(all_numbers)
        for i in range(self.memory.count):
            tensor = &tensors[i]
            if not tensor.stepped and not tensor.data[EMA]:
                tensor.line = -1
            else:
                if tensor.group != group or tensor.t != t or (
                    counts and all_numbers[i] is not numbers
                ):
                    if seen is None and line >= 0:
                        seen = {key_of(group, t, numbers): line}
                    group, t, numbers = tensor.group, tensor.t, all_numbers[i]
                    line = self.line_of(seen, groups, tensor, numbers)
                tensor.line = line
                if counts and tensor.stepped and len(numbers) > 0:
                    self.upcoming[i] = self.table.lines[line][3]

    cdef Py_ssize_t line_of(
        self, dict seen, groups, const Tensor* tensor, tuple numbers
    ) except -1:
        """Return the number of the line of a parameter's group, step count and numbers."""
        cdef Py_ssize_t following = len(self.table.lines)
        cdef Py_ssize_t first = following
        if seen is not None:
            first = seen.setdefault(key_of(tensor.group, tensor.t, numbers), following)
        if first < following:
            return first
        line = scalars_of(groups[tensor.group], tensor.t + 1, numbers)
        twin = self.twins[tensor.rule]
        adopt = (<tuple> twin)[2]  # by its place: a step of small arrays feels a name
        if adopt is not None and not are_floats(line[2], twin.scalars):
            line = line[0], line[1], adopt(line[2]), *line[3:]
        return self.table.add(line)

    cdef ask_others(self):
        """Check all arrays, and ask whether the other parts take this step, too."""
        self.memory.bind(True)
        self.agree(list(self.table.lines), list(self.memory.grads))

    cdef update_in_waves(self, bint flush):
        """Update everything; if that ends in the middle, it was the last step."""
        try:
            self.passes.update(self.table, flush)
        except BaseException as error:
            if self.passes.torn:
                self.break_off(error)
            raise

    def break_off(self, error):
        """Let every further call raise, as some parameters have changed and others have not."""
        self.broken = (
            "this optimizer cannot go on: an error has ended an earlier call in the middle, after "
            f"some parameters had changed and before others did ({error}); make another one, and "
            "load a checkpoint"
        )
        self.shows = None

    cdef separate_lines(self, double scale, bint flush):
        """Give each parameter whose scalars depend on its own elements a line to itself."""
        cdef Py_ssize_t i
        cdef Tensor* tensor
        for i in range(self.memory.count):
            tensor = &self.memory.tensors[i]
            if tensor.stepped and (tensor.direction > 0 or self.table.limits_norm(tensor.line)):
                tensor.line = self.table.add(self.table.lines[tensor.line])
        self.table.round(scale, flush)

    cdef limit_norms(self, double scale, bint flush):
        """Scale each gradient whose norm has a limit so that it is no longer than that."""
        cdef Py_ssize_t i
        cdef Tensor* tensor
        cdef list norms = self.passes.norms(scale, flush)
        for i in range(self.memory.count):
            tensor = &self.memory.tensors[i]
            if tensor.stepped and self.table.limits_norm(tensor.line):
                before, *others = self.table.lines[tensor.line]
                factor = own_clip_factor(norms[i], before.max_norm)
                before = before._replace(scale=before.scale * factor)
                self.table.lines[tensor.line] = before, *others
        self.table.round(scale, flush)

    cdef rescale_lines(self, double scale, bint flush):
        """Let the rule of each parameter that asks for it depend on the direction of its step."""
        cdef const Tensor* tensor
        for i, p_squares, u_squares in self.passes.directions(self.table, flush):
            tensor = &self.memory.tensors[i]
            rescale = self.twins[tensor.rule].rescale
            before, after, own, *others = self.table.lines[tensor.line]
            own = rescale(own, p_squares, u_squares, tensor.whole)
            self.table.lines[tensor.line] = before, after, own, *others
        self.table.round(scale, flush)

    cdef start_with_step(self):
        """Start the averages that are to start with the step under way."""
        cdef Py_ssize_t i, start, stop, wave
        for wave in range(self.passes.wave_count("start")):
            for i, start, stop in self.passes.begin(wave, "start"):
                if self.memory.tensors[i].unstarted:
                    after = self.table.lines[self.memory.tensors[i].line][1]
                    self.start_average(i, start, stop, after)
            self.passes.end(wave, "start")

    def start_averages(self, groups):
        """Give averages that are to start at the next step what they would start from now.

        Who looks at the averages then sees what a step would go on from. The groups are those of
        `step`.
        """
        cdef Py_ssize_t i, start, stop, wave
        cdef Tensor* tensor
        for wave in range(self.passes.wave_count("start") if self.unstarted_count else 0):
            for i, start, stop in self.passes.begin(wave, "start"):
                tensor = &self.memory.tensors[i]
                if tensor.unstarted:
                    line = scalars_of(groups[tensor.group], tensor.t + 1, self.memory.numbers[i])
                    self.start_average(i, start, stop, line[1])
            self.passes.end(wave, "start")

    cdef start_average(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop, after):
        """Copy elements of a parameter into its average, within the bounds and the mask."""
        cdef Memory memory = self.memory
        cdef Format stored = memory.formats[i]
        memory.check_owned(i, False)
        p = stored.decoded_copy(memory.flat(i, 0, start, stop))
        low, high = typed((after.low, after.high), p.dtype)
        found = stored.encoded(kept(p, memory.flat_mask(i, start, stop), low, high))
        memory.check_owned(i, False)  # code of the user, such as a signal handler, may have run
        memory.flat(i, EMA, start, stop)[...] = found

    cdef count_step(self):
        """Note that a step was taken."""
        cdef Py_ssize_t i
        cdef Tensor* tensors = self.memory.tensors
        for i in range(self.memory.count):
            tensors[i].t += tensors[i].stepped
        if self.counts:
            self.memory.numbers = self.upcoming
        if self.unstarted_count > 0:
            for i in range(self.memory.count):
                tensors[i].unstarted = False
            self.unstarted_count = 0

    cdef int enter(self) except -1:
        """Keep everybody else out until `leave`; raise if the plan is in use or retired."""
        cdef unsigned long here = PyThread_get_thread_ident()
        with cython.critical_section(self):  # only one of two gets in, also without a GIL
            if self.retired or self.broken is not None:
                raise RuntimeError(
                    self.broken or
                    "this optimizer was given other groups, state or options as the call began: "
                    "call it again"
                )
            if self.is_in_use():
                raise RuntimeError("this optimizer is in use already, " + (
                    "in this thread: by a call that has called a schedule or a signal handler, "
                    "which must not use it" if self.user == here else "in another thread"
                ))
            self.busy = True
            self.user, self.user_forks = here, forks()
        return 0

    @property
    def in_use(self):
        """Whether a step or another call that `enter`s is under way."""
        return self.is_in_use()

    cdef bint is_in_use(self) noexcept:
        # In a child of fork() all threads of the parent are gone but for the one that forked.
        return self.busy and (
            self.user_forks == forks() or self.user == PyThread_get_thread_ident()
        )

    cdef void leave(self) noexcept:
        with cython.critical_section(self):
            self.busy = False

    def __enter__(self):
        self.enter()
        return self

    def __exit__(self, *_):
        self.leave()

    def retire(self, changes, values):
        """Take no step any more: with these changes, another plan takes over the arrays.

        If there are values, one for each parameter, the parameters become them.
        """
        cdef Py_ssize_t i
        changes = list(changes)  # what may raise, or be interrupted, comes first
        for i in range(self.memory.count if values else 0):
            self.memory.check_owned(i, True)
        self.retired = True  # another thread may have looked this plan up already
        for p, value in zip(self.memory.params, values):
            p[...] = value
        change(changes)

    cdef list values_of(self, function):
        """Return what a function makes of each parameter and its state, as they are stored."""
        cdef Py_ssize_t i, k, start, stop, wave
        cdef Memory memory = self.memory
        cdef Format stored
        cdef const Tensor* tensor
        values = [None] * memory.count
        for wave in range(self.passes.wave_count("values")):
            for i, start, stop in self.passes.begin(wave, "values"):
                memory.check_owned(i, True)
                stored, tensor = memory.formats[i], &memory.tensors[i]
                arrays = [memory.flat(i, k, start, stop) for k in range(1 + tensor.states)]
                arrays = [array if array is None else stored.decoded(array) for array in arrays]
                mask = memory.flat_mask(i, start, stop)
                x = function(tensor.group, mask, tensor.t, *arrays)
                if x is not None:
                    if values[i] is None:
                        values[i] = np.empty(tensor.size, stored.dtype)
                    values[i][start:stop] = stored.encoded(x)
            self.passes.end(wave, "values")
        return values

    cdef int swap_averages(self, list values, str shows) except -1:
        """Let parameters change places with these values, or (None) with their averages.

        What they were comes back even if somebody has made them read-only meanwhile.
        """
        cdef Py_ssize_t i
        cdef Tensor* tensor
        cdef char* other
        for i in range(self.memory.count):
            self.memory.check_owned(i, shows is not None)
        if values is None and self.in_waves:
            self.swap_in_waves()
        else:
            for i in range(self.memory.count):
                tensor = &self.memory.tensors[i]
                if values is None:
                    other = tensor.data[EMA]
                else:
                    other = NULL if values[i] is None else cnp.PyArray_BYTES(values[i])
                if other:
                    swap(tensor.data[0], other, tensor.size * tensor.stored.itemsize)
        self.shows = shows
        return 0

    cdef int swap_in_waves(self) except -1:
        """Let parameters change places with their averages, which the client brings."""
        cdef Py_ssize_t i, start, stop, wave, at, n
        cdef Tensor* tensor
        cdef bint torn = False
        try:
            for wave in range(self.passes.wave_count("swap")):
                for i, start, stop in self.passes.begin(wave, "swap"):
                    tensor = &self.memory.tensors[i]
                    self.memory.check_owned(i, False)
                    if tensor.data[EMA] != NULL:
                        torn = True
                        at, n = start * tensor.stored.itemsize, stop - start
                        swap(tensor.data[0] + at, tensor.data[EMA] + at, n * tensor.stored.itemsize)
                self.passes.end(wave, "swap")
        except BaseException as error:
            if torn or self.shows is not None:  # the parameters would hold their averages for good
                self.break_off(error)
            raise
        return 0


cdef class ShownAverages:
    """Lets the parameters of a plan hold their averages inside of a ``with``.

    It enters and leaves without an instruction of Python, before which an interrupt might raise.

    Parameters
    ----------
    name : str
        The call that this is for.
    averaged : function
        It returns the plan to enter, or raises.
    function : function, optional
        ``function(group, mask, t, p, *state)``: the average of a parameter of the group of this
        number, after t steps, or None if there is none. Without the function the averages are those
        that the plan keeps.
    """

    cdef str name
    cdef object averaged, function
    cdef Plan plan
    cdef list values  # of the parameters, if the plan keeps none

    def __init__(self, str name, averaged, function=None):
        self.name, self.averaged, self.function = name, averaged, function

    def __enter__(self):
        cdef Plan plan = self.averaged()
        cdef list values = None
        plan.enter()
        try:
            if self.function is not None:
                values = plan.values_of(self.function)
            plan.swap_averages(values, self.name)
        except BaseException:
            plan.leave()
            raise
        self.plan, self.values = plan, values

    def __exit__(self, *_):
        if self.plan is not None:
            try:
                self.plan.swap_averages(self.values, None)
            finally:
                self.plan.leave()
                self.plan = self.values = None


cdef bint are_floats(own, Py_ssize_t count):
    """Tell whether the scalars of a rule are a tuple of so many plain floats."""
    if type(own) is not tuple or len(<tuple> own) != count:
        return False
    for number in <tuple> own:
        if type(number) is not float:
            return False
    return True


cdef tuple key_of(Py_ssize_t group, Py_ssize_t t, tuple numbers):
    """Return what parameters that share a line have in common.

    Numbers of other types may be equal, and round otherwise.
    """
    return (group, t, numbers, tuple(map(type, numbers))) if len(numbers) > 0 else (group, t)


cdef scalars_of(group, Py_ssize_t t, tuple numbers):
    """Ask a group for the scalars of the t-th step of parameters with these numbers."""
    return group.scalars(t, numbers) if len(numbers) > 0 else group.scalars(t)


cdef bint holds(given, list things):
    """Tell, quickly, whether a list or dict of the caller starts with these things.

    False may also mean that it is of another type, or has them in another order.
    """
    cdef Py_ssize_t i = 0, count = len(things)
    if type(given) is list:
        with cython.critical_section(given):
            if len(<list> given) < count:
                return False
            for i in range(count):
                if PyList_GET_ITEM(<list> given, i) != PyList_GET_ITEM(things, i):
                    return False
            return True
    if type(given) is dict:
        for value in (<dict> given).values():
            if i == count or value is not things[i]:
                break
            i += 1
        return i == count
    return False
