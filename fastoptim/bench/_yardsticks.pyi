from typing import Any

def levels() -> list[str]: ...
def touched(n: int, dtype: str, offset: int = 0) -> Any: ...

class Stream:
    def __init__(self, g: Any, changed: list[Any], level: str, threads: int) -> None: ...
    def step(self) -> None: ...

class RowStream:
    def __init__(
        self, values: Any, numbers: Any, changed: list[Any], level: str, threads: int
    ) -> None: ...
    def step(self) -> None: ...

class Read:
    def __init__(self, g: Any, level: str, threads: int) -> None: ...
    def step(self) -> int: ...

class Adam:
    def __init__(
        self,
        params: list[Any],
        grads: list[Any],
        level: str,
        threads: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None: ...
    def step(self) -> None: ...

class Momentum:
    def __init__(
        self,
        params: list[Any],
        grads: list[Any],
        level: str,
        threads: int,
        lr: float,
        momentum: float,
    ) -> None: ...
    def step(self) -> None: ...
