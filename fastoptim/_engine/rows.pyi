# Other rooms ask for it in C alone.
