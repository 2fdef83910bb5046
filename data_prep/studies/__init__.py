"""Tables and folders -> studies of series, each with a view, a window and sorted slices."""
