"""The sentences, as data that a radiologist can edit; their rendering, and the parsing of queries."""
