"""Rules of the user's own: a pure function, which is the reference, and the loop made of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from .._hyper import EMA
from .._kinds import Flag, Real, checked, items_of, number, shown
from .._rule import AFTER, BEFORE, Rule, hyperparameters
from .._settings import SETTINGS
from .._stages import Scalars
from ._compiler import EXTRA, CompiledLoop, llvm
from ._given import GivenLoop
from ._grammar import formula_of

# By what is neither state nor a hyperparameter in files and in groups, also those of `Mixed`
TAKEN = ("p", "g", "step", EMA, "params", "mask", "rule", "optimizer")
# By which a rule is seen to leave elements without a gradient as they are
SAMPLES = np.array([0.0, -0.0, 1.0, -1.0, 0.3, -2.7e-5, 1e-30, 123.4, -1e12])
SAMPLE_STEPS = 1, 2, 1000
PLAIN = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


class OwnRule(Rule):
    """A rule that `rule` has made; see there.

    Attributes
    ----------
    function : function
        The function that it was made of.
    """

    is_own = True
    without_loop = f"has no compiled loop without the extra `rules` ({EXTRA})"

    def __init__(
        self,
        function: Any,
        scalars: Callable[..., Scalars],
        state: Sequence[str],
        *,
        needs: Mapping[str, str],
        starts: Mapping[str, str],
        decoupled: bool | str,
        name: str | None,
        rests: bool,
        loops: Any,
    ) -> None:
        name = name or str(getattr(function, "__name__", "rule"))
        names = _arguments(function, name, state)
        _check_hyperparameters(name, scalars, state, needs, starts)
        super().__init__(
            _in_place(function, name, state, names),
            scalars,
            needs=needs,
            starts=starts,
            decoupled=decoupled,
            name=name,
            rests=self._is_seen_to_rest if rests else None,
            lazy=True,
        )
        # A loop would not notice other scalars in a later step, and read what is left of another.
        self.twin = self.twin._replace(adopt=self.adopted, scalars=len(names))
        self.initial.checked_scalars(1)
        self.function = function
        self.__module__: str = function.__module__
        self.__qualname__: str = function.__qualname__
        self._compiled: CompiledLoop | GivenLoop
        if loops is None:
            formula = formula_of(function, name, state, names, needs)
            self._compiled = CompiledLoop(self.saved_as, formula, len(state), len(names))
        else:
            self._compiled = GivenLoop(self.saved_as, loops)

    @property
    def loop(self) -> Any:
        """What has the addresses of the loop, None without what compiles it."""
        return self._compiled if isinstance(self._compiled, GivenLoop) or llvm() else None

    @property
    def saved_as(self) -> str:
        """What files call the rule: the name of its function, with that of the module."""
        return f"{self.__module__}.{self.__qualname__}"

    def _is_seen_to_rest(self, hyper: Any) -> bool:
        """Return True; raise if samples show that a step moves what it was said to leave."""
        for t in SAMPLE_STEPS:
            own = self.adopted(hyper.scalars(t)[2])
            for real in (np.float32, np.float64):
                self._check_rests(hyper, t, [real(x) for x in own], real)
        return True

    def _check_rests(self, hyper: Any, t: int, own: Sequence[Any], real: Any) -> None:
        """Raise if a step with these scalars moves a sample whose gradient is zero."""
        p, state = (a.reshape(-1).astype(real) for a in np.meshgrid(SAMPLES, np.abs(SAMPLES)))
        found: dict[str, Any] = {"p": p.copy()}
        found |= {s: state.copy() if s in hyper.state_names else None for s in self.state}
        with np.errstate(all="ignore"):
            new_p, *new_state = found.values()
            self.update(new_p, np.zeros(len(p), real), *new_state, *own)
        for name, new in found.items():
            old = p if name == "p" else state
            for a, b in zip(old, () if new is None else new, strict=new is not None):
                if a.tobytes() != b.tobytes():
                    raise ValueError(
                        f"{self.name}: expected a step that changes nothing where the gradient is "
                        f"zero, as rests=True says, found that step {t} makes {b} of {name} = {a}"
                    )

    def adopted(self, own: Any) -> Scalars:
        """Return the scalars of a step as floats, or raise if they are not just these."""
        names = self._scalar_names
        try:
            numbers = tuple([as_float(x) for x in items_of(own)])
        except (TypeError, ValueError, OverflowError):
            numbers = ()
        if len(numbers) != len(names) or not isinstance(own, tuple):
            raise TypeError(
                f"{self.name}: expected scalars that return a tuple of numbers "
                f"({', '.join(names)}), found {shown(own)}"
            )
        return numbers

    def __reduce__(self) -> str:
        return self.__qualname__  # by the name of the function, whose place it has taken


def _state_names(state: Any) -> tuple[str, ...]:
    """Return the names of state arrays, once they are checked."""
    try:
        names = items_of(state)
    except TypeError:
        raise TypeError(
            f"state: expected a sequence of names, as in ('m',), found {shown(state)}"
        ) from None
    for array in names:
        if not isinstance(array, str) or not array.isidentifier() or array in TAKEN:
            raise ValueError(
                f"state: expected names other than {', '.join(TAKEN)}, found {shown(array)}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"state: expected each name once, found {', '.join(names)}")
    return tuple(map(str, names))


def _arguments(function: Any, name: str, state: Sequence[str]) -> list[str]:
    """Return the names of the scalars among a function's arguments, once these are checked."""
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        raise TypeError(f"{name}: expected a plain function, found {shown(function)}")
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        if parameter.kind not in PLAIN or parameter.default is not parameter.empty:
            raise TypeError(f"{name}: expected plain arguments without defaults, found {parameter}")
    names = [parameter.name for parameter in parameters]
    expected = ["p", "g", *state]
    if names[: len(expected)] != expected:
        raise TypeError(
            f"{name}: expected the arguments {', '.join(expected)}, as state= has them, and then "
            f"the scalars, found {', '.join(names) or 'none'}"
        )
    return names[len(expected) :]


def _check_hyperparameters(
    name: str,
    scalars: Any,
    state: Sequence[str],
    needs: Mapping[str, str],
    starts: Mapping[str, str],
) -> None:
    """Refuse scalars, and names of hyperparameters, with which there would be no rule."""
    for argument in inspect.signature(scalars).parameters.values():
        if argument.kind not in PLAIN:
            raise TypeError(f"{name}: scalars: expected plain arguments, found {argument}")
    _, kinds, defaults = hyperparameters(scalars)
    for hyper, default in defaults.items():
        if default is inspect.Parameter.empty:
            raise TypeError(f"{name}: scalars: {hyper}: expected a default, found none")
        is_option = hyper in (BEFORE | AFTER | SETTINGS).keys() - {"weight_decay"}
        if is_option or hyper in (*TAKEN, "backend", "state_path", *state):
            raise ValueError(
                f"{name}: scalars: expected names of hyperparameters that mean nothing else, "
                f"found {hyper}"
            )
    for label, given in (("needs", needs), ("starts", starts)):
        for array, hyper in given.items():
            if array not in state:
                known = ", ".join(state) or "none"
                raise ValueError(
                    f"{label}: expected names of state arrays ({known}), found {shown(array)}"
                )
            if hyper not in kinds:
                raise ValueError(
                    f"{label}[{array!r}]: expected the name of a hyperparameter "
                    f"({', '.join(kinds)}), found {shown(hyper)}"
                )
            if label == "starts" and not isinstance(kinds[hyper], Real):
                raise ValueError(
                    f"{label}[{array!r}]: expected a hyperparameter that is a number, found {hyper}"
                )


def as_float(x: Any) -> float:
    """Return a number as a float; that of a flag is 0 or 1."""
    return float(x) if isinstance(x, (bool, np.bool_)) else number(x)


def _in_place(
    function: Callable[..., Any], name: str, state: Sequence[str], scalars: Sequence[str]
) -> Callable[..., None]:
    """Return an update that writes what a pure function returns to the arrays."""
    arrays = ["p", "g", *state]

    def update(*arguments: Any) -> None:
        found = function(*arguments)
        targets = [arguments[0], *arguments[2 : len(arrays)]]
        results = found if isinstance(found, tuple) else (found,)
        if len(results) != len(targets):
            raise ValueError(
                f"{name}: expected {len(targets)} results, the new {', '.join(['p', *state])}, "
                f"found {len(results)}"
            )
        # All are copied before one is written: one of them may be another array as it was.
        copies = [np.array(result) for result in results]
        for target, copy in zip(targets, copies, strict=True):
            if target is not None:
                target[...] = copy

    make = inspect.Parameter
    update.__name__, update.__doc__ = name, function.__doc__
    update.__module__ = function.__module__
    update.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [make(a, make.POSITIONAL_ONLY) for a in arrays]
        + [make(s, make.POSITIONAL_OR_KEYWORD) for s in scalars]
    )
    return update


def rule(
    *,
    scalars: Callable[..., Scalars],
    state: Sequence[str] = (),
    needs: Mapping[str, str] | None = None,
    starts: Mapping[str, str] | None = None,
    decoupled: bool | str = False,
    name: str | None = None,
    rests: bool = False,
    loops: Any = None,
) -> Callable[[Callable[..., Any]], OwnRule]:
    r"""Make an update rule of one's own of the decorated function.

    The function is the update in NumPy, ``function(p, g, *state, *scalars)``: from the parameters,
    the gradient, the state arrays and the scalars of a step it returns the new parameters and the
    new state, ``(p, *state)``, and changes nothing. Compiled to one pass over memory, it gives the
    same bits. `optimizer` makes a class of the rule.

    It may say ``+ - * /`` and comparisons, `where`, `sqrt` and `abs`, whole numbers, names of its
    own, tuples, and ``if`` where the condition is the same for all elements: a comparison of
    scalars, or ``is None`` of a state array that need not exist. All else, such as a number with a
    fraction or a name from outside, is refused when the rule is made, with the line and with what
    to write instead: it belongs into the scalars, which are Python.

    Parameters
    ----------
    scalars : function
        ``scalars(step, **hyperparameters)`` returns the scalars of a step, in the order of the
        function's arguments, as Python floats. The number of the step counts from 1; without that
        argument all steps have the same scalars. Names and defaults of hyperparameters are those of
        its signature, and so are their kinds, as in
        ``lr: fastoptim.typing.NonNegative = 1e-3``; without an annotation, a number, a pair of
        numbers or a flag may have any value. Where two of them do not go together, it raises
        ValueError.
    state : sequence of str, default ()
        The names of the state arrays, at most 4. They start as zeros.
    needs : mapping, optional
        Name of a state array to the name of the hyperparameter without which, that is, with 0,
        False or None, the array does not exist. The function is given None for it then, and
        returns None.
    starts : mapping, optional
        Name of a state array to the name of the hyperparameter that it is filled with at the start.
    decoupled : bool or str, default False
        For scalars that take ``weight_decay`` as a hyperparameter: True, or the name of the flag by
        which it is so. Otherwise ``weight_decay`` is an L2 penalty, which the gradient has already.
    name : str, optional
        What messages call the rule; by default the name of the function.
    rests : bool, default False
        Whether a step changes neither p nor state where the gradient is zero, to the last bit, so
        that a gradient that is `fastoptim.Rows` may leave such rows out. It is checked on samples,
        before the first such step, that the function does as it is said to.
    loops : mapping, optional
        Loops that are compiled already, by ``"float32"`` and ``"float64"``: each a capsule, the
        address of a function, a ``cfunc`` of numba's, or a pointer to a function of cffi's or
        ctypes', with the signature in ``fastoptim.h`` (see `fastoptim.get_include`). The function
        is the reference all the same; as nothing is compiled of it, it may say anything.

    Returns
    -------
    OwnRule
        The rule, with the function as its ``function``. Called with arrays and hyperparameters it
        takes a step with NumPy, in place, as the rules of `fastoptim.reference` do.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, if the function says what it must not, or if its
        arguments or its results are not those of the rule.

    Notes
    -----
    Rules are compiled when an optimizer is first made of them, by LLVM (the extra ``rules``), and
    kept on disk: see ``docs/own_rules.md``. Without the extra an optimizer warns once and steps
    with NumPy, with the same bits.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> def fading(step, lr=0.1, decay=0.5):
    ...     return lr / step, decay
    >>> @fo.rule(scalars=fading, state=("m",), name="Drift")
    ... def drift(p, g, m, lr, decay):
    ...     m = decay * m + g
    ...     return p - lr * m, m
    >>> p, m = np.ones(2), np.zeros(2)
    >>> drift(p, np.array([1.0, 0.0]), m, step=1)
    >>> p, m
    (array([0.9, 1. ]), array([1., 0.]))
    """
    names = _state_names(state)
    for label, given in (("needs", needs), ("starts", starts)):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"{label}: expected a mapping, or None, found {shown(given)}")
    if not isinstance(decoupled, str):
        decoupled = checked("decoupled", Flag(), decoupled)
    rests = checked("rests", Flag(), rests)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name: expected a name, or None, found {shown(name)}")
    if name is not None and not name.strip():
        raise ValueError(f"name: expected a name, or None, found {name!r}")
    if not callable(scalars):
        raise TypeError(f"scalars: expected a function, found {shown(scalars)}")
    return lambda function: OwnRule(
        function,
        scalars,
        names,
        needs=needs or {},
        starts=starts or {},
        decoupled=decoupled,
        name=name,
        rests=rests,
        loops=loops,
    )
