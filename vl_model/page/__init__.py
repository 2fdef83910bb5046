"""The web page of queries: a JSON API over one run, and the static files of ``query_page/``."""
