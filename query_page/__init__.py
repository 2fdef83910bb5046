"""The static files of the page: no build step, no network."""
