"""Read tables and folders as studies of series, each with a view, a window and sorted slices."""
