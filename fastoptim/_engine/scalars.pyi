most_scalars: int
