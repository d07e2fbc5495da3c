can_flush: bool
compiler: str

def cpu_supports(level: str) -> bool: ...
