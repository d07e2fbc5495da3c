tile_size: int
task_size: int
