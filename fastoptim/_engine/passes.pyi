PASS_NAMES: tuple[str, ...]
